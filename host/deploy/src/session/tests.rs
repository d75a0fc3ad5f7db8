//! Flashes to a device that only keeps chunks: over a pair, a pseudo-terminal, and a line that is cut.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use graft_bundle::{BundleWriter, MODEL_FILE};
use graft_link::messages::{Measurement, Progress, RefusalCode};
use graft_link::transport::{Faults, Faulty, pair};
use graft_link::{Host, Service, serve};
use serialport::{SerialPort, TTYPort};

use std::time::Instant;

use super::*;

/// Keeps chunks by index, across sessions.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<BTreeMap<u32, Vec<u8>>>>, Option<Hold>);

/// Has a device that keeps so many chunks take no more: it waits until the host has been stopped, and lets it notice.
#[derive(Clone)]
struct Hold {
    chunks: usize,
    stop: Arc<AtomicBool>,
}

const NOTICED: Duration = Duration::from_millis(500);

const PATIENCE: Duration = Duration::from_secs(5);

impl Service for Keeper {
    fn greeting(&self) -> Greeting {
        Greeting { device: "keeper".into(), version: "1".into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        let mut kept = self.0.lock().unwrap();
        match request {
            Request::Begin { head } => {
                let count = graft_bundle::Head::parse(&head).unwrap().manifest().chunks.len() as u32;
                let missing = (0..count).filter(|i| !kept.contains_key(i)).collect();
                Response::Begun { missing, slot: "A".into() }
            }
            Request::Chunk { index, stored } => {
                if let Some(hold) = self.1.as_ref().filter(|h| kept.len() >= h.chunks) {
                    let start = Instant::now();
                    while !hold.stop.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                        thread::sleep(Duration::from_millis(1));
                    }
                    thread::sleep(NOTICED);
                    return Response::Refused { code: RefusalCode::Busy, message: "held".into() };
                }
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

/// A device with a key and a board, which counts what it is asked to write.
struct Board {
    key: SecretKey,
    begun: Arc<AtomicU32>,
}

impl Service for Board {
    fn greeting(&self) -> Greeting {
        Greeting { device: "board".into(), version: "0.9.12".into() }
    }

    fn handle(&mut self, request: Request, _progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        match request {
            Request::About => {
                Response::About(About { board: "Raspberry Pi 4".into(), max_bundle_bytes: 400_000, ..About::default() })
            }
            Request::Prove { nonce } => {
                let challenge = [7; 32];
                let signature = self.key.prove(Prover::Device, &nonce, &challenge).to_vec();
                // It claims the key of seed 1, whichever it has.
                Response::Proof { key: SecretKey::from_seed(&[1; 32]).public().to_bytes(), signature, challenge }
            }
            Request::Identify { key, signature } => {
                let device = SecretKey::from_seed(&[1; 32]).public().to_bytes();
                assert!(PublicKey::from_bytes(key).proves(Prover::Host, &[7; 32], &device, &signature));
                Response::Done
            }
            _ => {
                self.begun.fetch_add(1, Ordering::Relaxed);
                Response::Refused { code: RefusalCode::Space, message: "no".into() }
            }
        }
    }
}

fn with_board(seed: u8, host: impl FnOnce(Session)) -> u32 {
    let (end, device) = pair();
    let begun = Arc::new(AtomicU32::new(0));
    let mut board = Board { key: SecretKey::from_seed(&[seed; 32]), begun: Arc::clone(&begun) };
    let server = thread::spawn(move || drop(serve(device, &mut board, &AtomicBool::new(false))));
    host(Session::over(Box::new(end), "pair".into(), PATIENCE, None).unwrap());
    server.join().unwrap();
    begun.load(Ordering::Relaxed)
}

#[test]
fn a_bundle_for_another_device_is_refused_before_anything_is_written() {
    let needs = |entries: &[(&str, &str)], len: usize| {
        let mut w = BundleWriter::new("m", "test");
        w.metadata(entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        w.add_file(MODEL_FILE, &vec![1; len], &[]).unwrap();
        Bundle::from_bytes(&w.to_bytes(None).unwrap()).unwrap()
    };
    let cases = [
        (needs(&[("graft.needs.agent", "0.10.0")], 10), "graftd 0.10.0 or newer, found 0.9.12"),
        (needs(&[("graft.needs.board", "Jetson")], 10), "a board named Jetson, found Raspberry Pi 4"),
        (needs(&[], 400_001), "room for 400001 bytes"),
    ];
    for (bundle, text) in cases {
        let begun = with_board(1, |mut session| {
            let error = session.flash(&bundle, |_| ()).unwrap_err();
            assert!(error.is_refusal() && error.to_string().contains(text), "{error}");
        });
        assert_eq!(begun, 0, "{text}");
    }
    let fits = needs(&[("graft.needs.agent", "0.9.2"), ("graft.needs.board", "Raspberry Pi")], 10);
    assert_eq!(with_board(1, |mut session| drop(session.flash(&fits, |_| ()))), 1);
}

#[test]
fn a_device_that_cannot_prove_its_key_or_has_another_is_refused() {
    let (device, host) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    with_board(1, |mut session| {
        assert_eq!(session.authenticate(Some(device.public()), Some(&host)).unwrap(), device.public());
        let error = session.authenticate(Some(host.public()), None).unwrap_err();
        assert!(matches!(error, DeployError::Impostor { .. }) && error.is_refusal(), "{error}");
    });
    with_board(9, |mut session| {
        let error = session.authenticate(None, None).unwrap_err().to_string();
        assert!(error.contains("a proof that does not hold"), "{error}");
    });
}

#[test]
fn a_flash_that_was_stopped_goes_on_where_it_was() {
    let (kept, bundle) = (Keeper::default().0, bundle());
    for chunks in [Some(10), Some(20), None] {
        let (host, device) = pair();
        let stop = Arc::new(AtomicBool::new(false));
        let before = kept.lock().unwrap().len();
        let hold = chunks.map(|chunks| Hold { chunks, stop: Arc::clone(&stop) });
        serving(device, &Keeper(Arc::clone(&kept), hold), || {
            let mut session = Session::over(Box::new(host), "pair".into(), PATIENCE, Some(Arc::clone(&stop))).unwrap();
            let outcome = session.flash(&bundle, |p| {
                // Ten of 10,000 bytes have been stored.
                if matches!(p, FlashProgress::Sending { done: 95_000.., .. }) && chunks.is_some() {
                    stop.store(true, Ordering::Relaxed);
                }
            });
            match (outcome, chunks) {
                (Err(e), Some(_)) => assert!(matches!(e, DeployError::Link { source: LinkError::Stopped, .. }), "{e}"),
                (Ok(report), None) => {
                    assert_eq!(report.chunks_sent, report.chunks_total - before);
                    assert_eq!(before, 20);
                }
                other => panic!("{other:?}"),
            }
        });
    }
}

/// A device whose self-test lasts until the host has left, or for too long; it tells which.
struct Tester(Arc<AtomicU32>);

impl Service for Tester {
    fn greeting(&self) -> Greeting {
        Greeting { device: "tester".into(), version: "1".into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        match request {
            Request::Begin { .. } => Response::Begun { missing: (0..0).collect(), slot: "B".into() },
            Request::Finish => {
                let start = Instant::now();
                while start.elapsed() < PATIENCE {
                    if progress(Progress { text: "self-test".into(), done: 0, total: 1 }) == Host::Gone {
                        self.0.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Response::Refused { code: RefusalCode::State, message: "the host left".into() }
            }
            _ => Response::Refused { code: RefusalCode::NoModel, message: "nothing runs".into() },
        }
    }
}

#[test]
fn a_device_learns_while_it_tests_that_the_host_was_stopped() {
    let (end, device) = pair();
    let (stop, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut tester = Tester(Arc::clone(&left));
    let server = thread::spawn(move || drop(serve(device, &mut tester, &AtomicBool::new(false))));
    let mut session = Session::over(Box::new(end), "pair".into(), PATIENCE, Some(Arc::clone(&stop))).unwrap();
    let outcome = session.flash(&bundle(), |p| {
        if matches!(p, FlashProgress::Device { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(outcome, Err(DeployError::StoppedAtTest)), "{outcome:?}");
    assert_eq!(left.load(Ordering::Relaxed), 0);
    drop(session);
    server.join().unwrap();
    assert_eq!(left.load(Ordering::Relaxed), 1);
}

/// Keeps the file that comes to be measured.
#[derive(Clone, Default)]
struct Bench(Arc<Mutex<Vec<u8>>>);

impl Service for Bench {
    fn greeting(&self) -> Greeting {
        Greeting { device: "bench".into(), version: "1".into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        let mut file = self.0.lock().unwrap();
        match request {
            Request::Spool { offset, total, bytes } => {
                file.truncate(offset as usize);
                file.extend(bytes);
                assert!(file.len() as u64 <= total);
                Response::Done
            }
            Request::Measure => {
                progress(Progress { text: "self-test".into(), done: 1, total: 1 });
                match Bundle::from_bytes(&file) {
                    Ok(_) => Response::Measured(Measurement { network_ms: 2.5, ..Measurement::default() }),
                    Err(e) => Response::Refused { code: RefusalCode::Digest, message: e.to_string() },
                }
            }
            _ => Response::Refused { code: RefusalCode::NoModel, message: "nothing runs".into() },
        }
    }
}

#[test]
fn a_bundle_that_is_measured_arrives_whole_whatever_was_there() {
    let (host, device) = pair();
    let (bench, bundle) = (Bench::default(), bundle());
    bench.0.lock().unwrap().extend([7; 99]);
    let mut service = bench.clone();
    let server = thread::spawn(move || drop(serve(device, &mut service, &AtomicBool::new(false))));
    let mut session = Session::over(Box::new(host), "pair".into(), PATIENCE, None).unwrap();
    let mut steps = vec![];
    for _ in 0..2 {
        assert_eq!(session.measure(&bundle, |p| steps.push(p)).unwrap().network_ms, 2.5);
    }
    let total = bench.0.lock().unwrap().len() as u64;
    assert!(steps.contains(&FlashProgress::Sending { done: total, total }), "{steps:?}");
    assert!(matches!(steps.last(), Some(FlashProgress::Device { done: 1, .. })));
    drop(session);
    server.join().unwrap();
}
