//! Flashes to a device that only keeps chunks: over a pair, a pseudo-terminal, and a line that is cut.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread;

use graft_bundle::{BundleWriter, MODEL_FILE};
use graft_link::messages::{Progress, RefusalCode};
use graft_link::transport::{Faults, Faulty, pair};
use graft_link::{Service, serve};
use serialport::{SerialPort, TTYPort};

use super::*;

/// Keeps chunks by index, across sessions.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<BTreeMap<u32, Vec<u8>>>>);

const PATIENCE: Duration = Duration::from_secs(5);

impl Service for Keeper {
    fn greeting(&self) -> Greeting {
        Greeting { device: "keeper".into(), version: "1".into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress)) -> Response {
        let mut kept = self.0.lock().unwrap();
        match request {
            Request::Begin { head } => {
                let count = graft_bundle::Head::parse(&head).unwrap().manifest().chunks.len() as u32;
                let missing = (0..count).filter(|i| !kept.contains_key(i)).collect();
                Response::Begun { missing, slot: "A".into() }
            }
            Request::Chunk { index, stored } => {
                kept.insert(index, stored);
                Response::ChunkStored { index }
            }
            Request::Finish => {
                progress(Progress { text: "self-test".into(), done: 1, total: 1 });
                Response::Finished {
                    slot: "A".into(),
                    self_test: SelfTest { passed: true, samples: 1, ..SelfTest::default() },
                }
            }
            _ => Response::Refused { code: RefusalCode::NoModel, message: "nothing runs".into() },
        }
    }
}

fn bundle() -> Bundle {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let model: Vec<u8> = (0..300_000).map(|_| noise()).collect();
    let mut w = BundleWriter::new("m", "test");
    w.add_file(MODEL_FILE, &model, &(0..30).map(|i| i * 10_000).collect::<Vec<_>>()).unwrap();
    Bundle::from_bytes(&w.to_bytes(None).unwrap()).unwrap()
}

fn serving<D: Transport + 'static>(line: D, keeper: &Keeper, host: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, mut keeper) = (Arc::clone(&stop), keeper.clone());
    let server = thread::spawn(move || drop(serve(line, &mut keeper, &flag)));
    host();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
}

fn check(report: &FlashReport, keeper: &Keeper, bundle: &Bundle) {
    assert_eq!(report.payload_bytes, bundle.head().bytes().len() as u64 + bundle.manifest().stored_len());
    let kept = keeper.0.lock().unwrap();
    for (&index, stored) in kept.iter() {
        assert_eq!(stored, bundle.stored_chunk(index as usize));
    }
    assert_eq!(kept.len(), bundle.manifest().chunks.len());
}

#[test]
fn a_flash_sends_everything_once_and_a_second_one_almost_nothing() {
    let (host, device) = pair();
    let (keeper, bundle) = (Keeper::default(), bundle());
    serving(device, &keeper, || {
        let mut session = Session::over(Box::new(host), "pair".into(), PATIENCE, None).unwrap();
        assert_eq!(session.greeting().device, "keeper");
        let mut steps = vec![];
        let report = session.flash(&bundle, |p| steps.push(p)).unwrap();
        check(&report, &keeper, &bundle);
        assert_eq!(report.chunks_sent, report.chunks_total);
        assert!(
            report.wire_bytes > report.payload_bytes && report.wire_bytes < report.payload_bytes * 104 / 100,
            "{report:?}"
        );
        assert!(matches!(steps.last(), Some(FlashProgress::Device { done: 1, .. })));
        assert!(steps.iter().any(|s| matches!(s, FlashProgress::Sending { done, total } if done == total)));
        let again = session.flash(&bundle, |_| ()).unwrap();
        assert_eq!(again.chunks_sent, 0);
        assert!(again.wire_bytes < 8000, "{again:?}");
        let error = session.commit().unwrap_err();
        assert!(error.is_refusal() && !error.is_unreachable());
    });
}

#[test]
fn a_flash_goes_over_a_pseudo_terminal() {
    struct Port(TTYPort);
    impl Transport for Port {
        fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
            self.0.set_timeout(patience)?;
            graft_link::transport::read_patiently(&mut self.0, buffer)
        }
        fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.set_timeout(Duration::from_secs(5))?;
            io::Write::write_all(&mut self.0, bytes)
        }
    }
    let (master, far) = TTYPort::pair().unwrap();
    let address: Address = far.name().unwrap().parse().unwrap();
    let (keeper, bundle) = (Keeper::default(), bundle());
    serving(Port(master), &keeper, || {
        for _ in 0..2 {
            let mut session = Session::connect(&address, PATIENCE, None).unwrap();
            let report = session.flash(&bundle, |_| ()).unwrap();
            check(&report, &keeper, &bundle);
        }
    });
}

#[test]
fn after_a_cut_only_the_rest_is_sent() {
    let (keeper, bundle) = (Keeper::default(), bundle());
    let (host, device) = pair();
    serving(device, &keeper, || {
        let line = Faulty::new(host, Faults { cut_after: Some(150_000), ..Faults::default() });
        let mut session = Session::over(Box::new(line), "pair".into(), PATIENCE, None).unwrap();
        let error = session.flash(&bundle, |_| ()).unwrap_err();
        assert!(error.is_unreachable(), "{error:?}");
        // The line in memory ends with our session; on a busy machine the device has not yet taken what had crossed.
        let until = Instant::now() + PATIENCE;
        while keeper.0.lock().unwrap().len() <= 5 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let kept = keeper.0.lock().unwrap().len();
    assert!(kept > 5 && kept < 20, "{kept}");
    let (host, device) = pair();
    serving(device, &keeper, || {
        let mut session = Session::over(Box::new(host), "pair".into(), PATIENCE, None).unwrap();
        let report = session.flash(&bundle, |_| ()).unwrap();
        assert_eq!(report.chunks_sent, report.chunks_total - kept);
        check(&report, &keeper, &bundle);
    });
}

#[test]
fn nobody_there_is_unreachable() {
    for text in ["/dev/graft-no-such-port", "tcp://127.0.0.1:1"] {
        let error = Session::connect(&text.parse().unwrap(), Duration::from_millis(300), None).err().unwrap();
        assert!(error.is_unreachable() && error.to_string().contains(text), "{error}");
    }
}
