//! The device's log of predictions out of any bytes: opened, added to, opened again.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use graft_agent::store::{Record, Store};
use libfuzzer_sys::fuzz_target;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    // Left behind at the end, which is by exit.
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder").keep());
    let (old, new) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    fs::write(folder.join("predictions.old.jsonl"), old).expect("a file in a folder of its own");
    fs::write(folder.join("predictions.jsonl"), new).expect("a file in a folder of its own");
    let mut store = Store::open(folder, 1 << 20);
    assert!(store.ails().is_none());
    let before = store.recent(usize::MAX);
    let id = store.add(record(0), None).expect("a disk with room");
    assert_eq!(store.recent(1)[0].id, id);
    let again = Store::open(folder, 1 << 20);
    assert_eq!(again.recent(1), [Record { id, ..record(0) }], "a torn line hides none after it");
    assert!(before.len() <= again.recent(usize::MAX).len());
});

fn record(id: u64) -> Record {
    Record {
        id,
        unix_ms: 1_800_000_000_000,
        source: "leaf.jpg".to_owned(),
        label: "rust".to_owned(),
        probability: 0.75,
        latency_ms: 12.5,
        ..Record::default()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let line = |id| serde_json::to_string(&record(id)).expect("a record") + "\n";
    vec![line(1).into(), (line(1) + &line(2) + "{\"id\":3,\"unix").into(), format!("{}\0{}", line(4), line(5)).into()]
}
