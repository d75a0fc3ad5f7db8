//! Parts of files in any order, and whole conversations about bundles that are measured and not kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;

use graft_bundle::{BundleWriter, SecretKey};
use graft_link::connection::unexpected;
use graft_link::messages::{Request, Response};
use graft_link::transport::pair;
use graft_link::{Client, LinkError, Transport};
use proptest::prelude::*;

use super::*;
use crate::agent::tests::{RED, bundle, config, flash};
use crate::agent::{Agent, Start};
use crate::ports::attend;
use crate::tiny;

fn file(bundle: &Bundle) -> Vec<u8> {
    let chunks = (0..bundle.manifest().chunks.len()).flat_map(|i| bundle.stored_chunk(i).to_vec());
    bundle.head().bytes().iter().copied().chain(chunks).collect()
}

/// A host's question with its answer, or the kind and the words of its refusal.
fn ask<T: Transport>(host: &mut Client<T>, request: Request) -> Result<Response, (RefusalCode, String)> {
    match host.request(&request, |_| ()) {
        Ok(response) => Ok(response),
        Err(LinkError::Refused { code, message }) => Err((code, message)),
        Err(other) => panic!("{other}"),
    }
}

/// Sends a file in parts and has it measured.
fn measured<T: Transport>(host: &mut Client<T>, file: &[u8]) -> Result<Measurement, (RefusalCode, String)> {
    for (i, part) in file.chunks(1000).enumerate() {
        let (offset, total) = (i as u64 * 1000, file.len() as u64);
        assert_eq!(ask(host, Request::Spool { offset, total, bytes: part.to_vec() })?, Response::Done);
    }
    match ask(host, Request::Measure)? {
        Response::Measured(found) => Ok(found),
        other => panic!("{}", unexpected("Measure", &other)),
    }
}

fn connect<T: Transport>(line: T, nonce: u64) -> Client<T> {
    Client::connect(line, "test", nonce, Duration::from_secs(10), None).unwrap().0
}

/// Every file below a folder.
fn written(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(written(&path))
        } else {
            drop(files.insert(path.clone(), fs::read(path).unwrap()))
        }
    }
    files
}

/// Lets two hosts talk to a device on which a bundle runs, and returns what its folder held before and after.
fn with_device(
    hosts: impl FnOnce(&mut dyn FnMut() -> Client<graft_link::transport::Pair>),
) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    assert!(matches!(flash(&mut agent, &bundle("runs", RED, Some(1))), Response::Finished { .. }));
    let root = dir.path().join("root");
    let before = written(&root);
    let (agent, stop) = (Mutex::new(agent), AtomicBool::new(false));
    thread::scope(|scope| {
        let mut count = 0;
        let mut host = || {
            let (host, device) = pair();
            scope.spawn(|| attend(device, &agent, &stop));
            count += 1;
            connect(host, count)
        };
        hosts(&mut host);
        stop.store(true, Ordering::Relaxed);
    });
    [before, written(&root)]
}

#[test]
fn a_bundle_is_measured_and_forgotten_while_another_runs() {
    let [before, after] = with_device(|host| {
        let mut host = host();
        let slots = ask(&mut host, Request::Slots).unwrap();
        let log = ask(&mut host, Request::Log { count: 99 }).unwrap();
        let found = measured(&mut host, &file(&bundle("fast", RED, Some(1)))).unwrap();
        assert_eq!((found.samples, found.max_abs_diff), (1, 0.0));
        assert!(found.network_ms > 0.0 && found.network_ms <= found.latency_ms && found.load_ms > 0.0, "{found:?}");
        assert!(found.engine.contains("graft-runtime"), "{found:?}");
        // There is nothing left to measure, and what runs is what ran.
        assert_eq!(ask(&mut host, Request::Measure).unwrap_err().0, RefusalCode::State);
        assert_eq!(
            (ask(&mut host, Request::Slots).unwrap(), ask(&mut host, Request::Log { count: 99 }).unwrap()),
            (slots, log)
        );
        let Response::Info(info) = ask(&mut host, Request::Info).unwrap() else { panic!() };
        assert_eq!((info.bundle_name.as_deref(), info.slot.as_deref()), (Some("runs"), Some("A")));
    });
    assert!(before == after, "the device has written something");
}

#[test]
fn what_a_flash_would_refuse_is_not_measured() {
    let good = file(&bundle("good", RED, Some(1)));
    let mut flipped = good.clone();
    let middle = good.len() - 100;
    flipped[middle] ^= 4;
    let more = [&good[..], &[0]].concat();
    let needs = |key: &str, value: &str| {
        let mut w = BundleWriter::new("needs", "test");
        w.labels(&["red", "green", "blue"].map(str::to_owned));
        w.metadata(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        w.add_file(MODEL_FILE, &tiny::mean_colour(["red", "green", "blue"]), &[]).unwrap();
        w.to_bytes(Some(&SecretKey::from_seed(&[1; 32]))).unwrap()
    };
    let other_labels = {
        let mut w = BundleWriter::new("labels", "test");
        w.labels(&["red".to_owned()]);
        w.add_file(MODEL_FILE, &tiny::mean_colour(["red", "green", "blue"]), &[]).unwrap();
        w.to_bytes(Some(&SecretKey::from_seed(&[1; 32]))).unwrap()
    };
    let cases = [
        (file(&bundle("foreign", RED, Some(2))), RefusalCode::Signature, "trusted_keys"),
        (file(&bundle("unsigned", RED, None)), RefusalCode::Signature, "signed bundle"),
        (good[..good.len() - 1].to_vec(), RefusalCode::Digest, "cut off"),
        (good[..100].to_vec(), RefusalCode::Digest, "cut off"),
        (more, RefusalCode::Digest, "found"),
        (flipped, RefusalCode::Digest, "digest"),
        (b"no bundle, whatever it is".to_vec(), RefusalCode::Malformed, "graft"),
        (file(&bundle("wrong", [9.0, 1.0, 3.0], Some(1))), RefusalCode::Gate, "a difference of 1"),
        (needs("graft.needs.agent", "99.0"), RefusalCode::Unsupported, "graftd 99.0 or newer"),
        (needs("graft.needs.free_mb", "1"), RefusalCode::Gate, "--golden"),
        (other_labels, RefusalCode::Unsupported, "labels of the manifest"),
    ];
    let [before, after] = with_device(|host| {
        let mut host = host();
        for (bytes, code, words) in cases {
            let (found, message) = measured(&mut host, &bytes).unwrap_err();
            assert!(found == code && message.contains(words), "{words}: {found:?} {message}");
        }
        assert!(measured(&mut host, &good).is_ok(), "the place is free again");
    });
    assert!(before == after, "the device has written something");
}

#[test]
fn a_file_is_one_hosts_and_of_its_session_and_a_flash_forgets_it() {
    let good = file(&bundle("good", RED, Some(1)));
    let all = || Request::Spool { offset: 0, total: good.len() as u64, bytes: good.clone() };
    let head = bundle("good", RED, Some(1)).head().bytes().to_vec();
    with_device(|host| {
        let (mut first, mut second) = (host(), host());
        ask(&mut first, all()).unwrap();
        let (code, message) = ask(&mut second, all()).unwrap_err();
        assert!(code == RefusalCode::Busy && message.contains("another host"), "{message}");
        assert_eq!(ask(&mut second, Request::Measure).unwrap_err().0, RefusalCode::State);
        ask(&mut first, Request::Begin { head }).unwrap();
        assert_eq!(ask(&mut first, Request::Measure).unwrap_err().0, RefusalCode::State);
        ask(&mut second, all()).unwrap();
        drop(second);
        let since = Instant::now();
        while let Err((code, message)) = ask(&mut first, all()) {
            assert!(code == RefusalCode::Busy && since.elapsed() < Duration::from_secs(10), "{message}");
        }
    });
}

/// A serial line goes on when a session ends.
#[test]
fn a_session_on_the_same_line_finds_nothing_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Mutex::new(Agent::open(config(dir.path(), ""), Start::Counts).unwrap());
    let good = file(&bundle("good", RED, Some(1)));
    let stop = AtomicBool::new(false);
    let (mut end, device) = pair();
    thread::scope(|scope| {
        scope.spawn(|| attend(device, &agent, &stop));
        let mut first = connect(&mut end, 1);
        let all = Request::Spool { offset: 0, total: good.len() as u64, bytes: good };
        assert_eq!(ask(&mut first, all), Ok(Response::Done));
        drop(first);
        let mut second = connect(&mut end, 2);
        let answer = ask(&mut second, Request::Measure);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(answer.unwrap_err().0, RefusalCode::State);
    });
}

#[test]
fn more_than_the_device_spares_is_refused_before_it_comes() {
    let (mut held, place) = (None, Arc::default());
    let mut take = |offset, total, part: &[u8], most| Spool::take(&mut held, &place, (offset, total), part, || most);
    for total in [101, u64::MAX] {
        let (code, message) = take(0, total, &[1], 100).unwrap_err();
        assert!(code == RefusalCode::Space && message.contains("at most 100 bytes"), "{message}");
    }
    assert_eq!(take(1, 2, &[1], 100).unwrap_err().0, RefusalCode::State);
    take(0, 1 << 40, &[1, 2], 1 << 40).unwrap();
    for (offset, total, len) in [(1, 1 << 40, 1), (3, 1 << 40, 1), (2, 5, 1)] {
        let (code, message) = take(offset, total, &vec![0; len], 0).unwrap_err();
        assert!(code == RefusalCode::State && message.contains("from byte 2 on"), "{message}");
    }
    take(2, 1 << 40, &[3], 0).unwrap();
    take(0, 2, &[7], 2).unwrap();
    assert_eq!(take(1, 2, &[8, 9], 0).unwrap_err().0, RefusalCode::State, "longer than it said");
    let (code, message) = Spool::whole(&mut held).unwrap_err();
    assert!(code == RefusalCode::State && message.contains("1 of its 2 bytes"), "{message}");
    assert!(most(5) == 5 && most(u64::MAX) <= 128 << 20);
    let manifest = bundle("x", RED, None).manifest().clone();
    let len = manifest.payload_len();
    assert!(has_room(&manifest, len, Some(4 * len)).is_ok());
    for (max, free) in [(len - 1, None), (len, Some(4 * len - 1))] {
        assert_eq!(has_room(&manifest, max, free).unwrap_err().0, RefusalCode::Space);
    }
}

proptest! {
    /// A host that claims much and sends little costs little, and what arrives whole is what was sent.
    #[test]
    fn memory_is_taken_as_parts_come(parts in prop::collection::vec((any::<bool>(), 0usize..3000), 1..40), total in 1usize..60_000) {
        let (mut held, place) = (None, Arc::new(Place::default()));
        let mut sent: Vec<u8> = vec![];
        for (is_anew, len) in parts {
            let here = if is_anew { 0 } else { sent.len() };
            let part: Vec<u8> = (here..here + len).map(|i| (i * 7) as u8).collect();
            let taken = Spool::take(&mut held, &place, (here as u64, total as u64), &part, || 60_000);
            let is_anew = here == 0;
            if is_anew { sent.clear(); }
            prop_assert_eq!(taken.is_ok(), here + len <= total);
            if taken.is_ok() { sent.extend(part); }
            let spool = held.as_ref().unwrap();
            prop_assert_eq!(&spool.bytes, &sent);
            prop_assert!(spool.bytes.capacity() <= (2 * sent.len()).min(total));
        }
        prop_assert!(place.0.load(Ordering::Relaxed));
        let is_whole = sent.len() == total;
        let whole = Spool::whole(&mut held);
        prop_assert_eq!(whole.is_ok(), is_whole);
        drop(whole);
        prop_assert!(!place.0.load(Ordering::Relaxed));
    }
}
