//! Whole conversations over good, bad and broken lines.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::channel::{ChannelConfig, LineQuality};
use crate::messages::{ChunkRanges, DeviceInfo, Progress, Request, decode_body, decode_id, encode};
use crate::simulated::{End, Quality, line};
use crate::transport::{Faults, Faulty, pair};

mod lines;
mod versions;

/// Keeps chunks, and answers the rest in the simplest way.
#[derive(Default)]
struct Shelf {
    chunks: Vec<(u32, Vec<u8>)>,
    hosts: usize,
}

impl Service for Shelf {
    fn greeting(&self) -> Greeting {
        Greeting { device: "shelf".into(), version: "1".into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        match request {
            Request::Chunk { index, stored } => {
                self.chunks.push((index, stored));
                Response::ChunkStored { index }
            }
            Request::Finish => {
                for done in 0..3 {
                    progress(Progress { text: "testing".into(), done, total: 3 });
                }
                Response::Done
            }
            Request::Missing => Response::Begun { missing: ChunkRanges::default(), slot: "B".into() },
            Request::Info => Response::Info(DeviceInfo { name: "shelf".into(), ..DeviceInfo::default() }),
            Request::Screen => Response::Screen { png: vec![1; 2 << 20] },
            _ => Response::Refused { code: RefusalCode::NoModel, message: "nothing runs".into() },
        }
    }

    fn connected(&mut self, is_connected: bool) {
        self.hosts += usize::from(is_connected);
    }
}

fn chunk(index: u32) -> Request {
    Request::Chunk { index, stored: (0..5000u32).map(|i| (i * 7 + index * 13) as u8).collect() }
}

fn expected(count: u32) -> Vec<(u32, Vec<u8>)> {
    let stored =
        |request| if let Request::Chunk { index, stored } = request { (index, stored) } else { unreachable!() };
    (0..count).map(|i| stored(chunk(i))).collect()
}

/// Runs `host` against a shelf on the other end of a line, and returns the shelf.
fn with_shelf<D: Transport + 'static>(device: D, host: impl FnOnce()) -> Shelf {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let server = thread::spawn(move || {
        let mut shelf = Shelf::default();
        let _ = serve(device, &mut shelf, &flag);
        shelf
    });
    host();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap()
}

fn connect<T: Transport>(transport: T, nonce: u64) -> Result<Client<T>, LinkError> {
    Client::connect(transport, "test", nonce, Duration::from_secs(10), None).map(|(client, _)| client)
}

#[test]
fn requests_are_answered_refused_and_followed() {
    let (host, device) = pair();
    let shelf = with_shelf(device, || {
        let (mut client, greeting) = Client::connect(host, "test", 1, Duration::from_secs(5), None).unwrap();
        assert_eq!(greeting.device, "shelf");
        let mut steps = vec![];
        assert_eq!(client.request(&Request::Finish, |p| steps.push(p.done)).unwrap(), Response::Done);
        assert_eq!(steps, [0, 1, 2]);
        match client.request(&Request::Commit, |_| ()) {
            Err(LinkError::Refused { code: RefusalCode::NoModel, message }) => assert_eq!(message, "nothing runs"),
            other => panic!("{other:?}"),
        }
        // An answer over the limit is an error of its own, not the end of the session.
        assert!(matches!(
            client.request(&Request::Screen, |_| ()),
            Err(LinkError::Refused { code: RefusalCode::Internal, .. })
        ));
        assert!(matches!(client.request(&Request::Info, |_| ()), Ok(Response::Info(_))));
    });
    assert_eq!(shelf.hosts, 1);
}

#[test]
fn chunks_arrive_whole_and_in_order_over_a_bad_line() {
    for seed in 0..4 {
        let (host, device) = pair();
        let faults = Faults { seed, drop_ppm: 20, flip_ppm: 20, double_ppm: 20, cut_after: None };
        let host = Faulty::new(host, faults);
        let device = Faulty::new(device, Faults { seed: seed + 100, ..faults });
        let shelf = with_shelf(device, || {
            let mut client = connect(host, seed).unwrap();
            let mut stored = 0;
            client.pipeline((0..40).map(chunk), |_| stored += 1).unwrap();
            assert_eq!(stored, 40);
            assert!(client.line_quality().resent > 0, "the line was not bad enough to test anything");
        });
        assert!(shelf.chunks == expected(40), "seed {seed}");
    }
}

#[test]
fn on_a_good_line_the_overhead_is_below_three_per_cent() {
    let (host, device) = pair();
    with_shelf(device, || {
        let mut client = connect(host, 3).unwrap();
        client.pipeline((0..100).map(chunk), |_| ()).unwrap();
        let (sent, _) = client.wire_bytes();
        assert!((500_000..515_000).contains(&sent), "{sent}");
        assert_eq!(client.line_quality(), LineQuality::default());
    });
}

#[test]
fn a_cut_line_is_an_error_and_the_next_host_is_served() {
    for cut in [10, 40, 100, 3000, 20_000] {
        let (host, device) = pair();
        let shelf = with_shelf(device, || {
            // The first host's line dies; it does not even say goodbye. The second one has the same port.
            let mut faulty = Faulty::new(host, Faults { cut_after: Some(cut), ..Faults::default() });
            let outcome = Client::connect(&mut faulty, "test", cut, Duration::from_secs(2), None)
                .and_then(|(mut client, _)| client.pipeline((0..40).map(chunk), |_| ()));
            assert!(matches!(outcome, Err(LinkError::Line(_))), "{cut}: {outcome:?}");
            let mut client = connect(faulty.into_inner(), cut + 1).unwrap();
            client.pipeline((0..5).map(chunk), |_| ()).unwrap();
        });
        assert!(shelf.chunks.ends_with(&expected(5)), "{cut}");
    }
}

#[test]
fn a_silent_line_and_noise_are_told_apart() {
    let (host, _device) = pair();
    match Client::connect(host, "test", 1, Duration::from_millis(200), None).map(drop) {
        Err(LinkError::NoAnswer { skipped_bytes: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
    let (host, mut noisy) = pair();
    noisy.write_all(&[0x55; 500]).unwrap();
    match Client::connect(host, "test", 1, Duration::from_millis(200), None).map(drop) {
        Err(e @ LinkError::NoAnswer { .. }) => assert!(e.to_string().contains("baud"), "{e}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_raised_flag_ends_the_wait() {
    let (host, _device) = pair();
    let stop = Arc::new(AtomicBool::new(true));
    let outcome = Client::connect(host, "test", 1, Duration::from_secs(60), Some(stop)).map(drop);
    assert!(matches!(outcome, Err(LinkError::Stopped)));
}

#[test]
fn the_same_goes_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let device = listener.accept().unwrap().0;
    let shelf = with_shelf(device, || {
        let mut client = connect(host, 7).unwrap();
        client.pipeline((0..40).map(chunk), |_| ()).unwrap();
    });
    assert!(shelf.chunks == expected(40));
}
