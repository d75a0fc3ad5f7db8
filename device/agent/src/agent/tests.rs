//! Whole stories of a device with the smallest model.

use std::path::Path;

use graft_bundle::{Bundle, BundleWriter, MODEL_FILE, SecretKey};
use graft_link::messages::SlotState;
use graft_runtime::{Loaded, Miss};

use super::*;
use crate::tiny;

pub(crate) const RED: [f32; 3] = [9.0, 1.0, 2.0];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

pub(crate) fn config(root: &Path, more: &str) -> Config {
    let text = format!("name = \"bench\"\nroot = \"root\"\ntrusted_keys = [\"{}\"]\n{more}", key(1).public());
    Config::parse(&text, &root.join("graftd.toml")).unwrap()
}

pub(crate) fn bundle(name: &str, logits: [f32; 3], signed_by: Option<u8>) -> Bundle {
    let labels = ["red", "green", "blue"];
    let mut w = BundleWriter::new(name, "test");
    w.labels(&labels.map(str::to_owned));
    w.add_file(MODEL_FILE, &tiny::mean_colour(labels), &[]).unwrap();
    w.add_file("golden/00.png", &tiny::png([9, 1, 2]), &[]).unwrap();
    // A chunk of its own, so that no bundle is whole before it is sent.
    w.add_file("name.txt", name.as_bytes(), &[]).unwrap();
    w.golden("golden/00.png", "red", &logits).tolerance(0.01);
    Bundle::from_bytes(&w.to_bytes(signed_by.map(key).as_ref()).unwrap()).unwrap()
}

pub(crate) fn flash(agent: &mut Agent, bundle: &Bundle) -> Response {
    send(agent, bundle).unwrap_or_else(|| agent.answer(Request::Finish, &mut |_| Host::Waits))
}

/// Sends what the device lacks of a bundle, and returns the answer that refuses it, if one does.
fn send(agent: &mut Agent, bundle: &Bundle) -> Option<Response> {
    let head = bundle.head().bytes().to_vec();
    let missing = match agent.answer(Request::Begin { head }, &mut |_| Host::Waits) {
        Response::Begun { missing, .. } => missing,
        other => return Some(other),
    };
    for index in missing.below(u32::MAX) {
        let stored = bundle.stored_chunk(index as usize).to_vec();
        assert_eq!(
            agent.answer(Request::Chunk { index, stored }, &mut |_| Host::Waits),
            Response::ChunkStored { index }
        );
    }
    None
}

fn best(agent: &mut Agent, rgb: [u8; 3]) -> String {
    agent.classify("x.png", &tiny::png(rgb)).unwrap().classified.label
}

fn code(response: &Response) -> RefusalCode {
    match response {
        Response::Refused { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_is_flashed_tested_run_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), "display = \"png:screen.png\""), Start::Counts).unwrap();
    assert_eq!(agent.classify("x", &tiny::png([1, 2, 3])).unwrap_err().0, RefusalCode::NoModel);
    match flash(&mut agent, &bundle("first", RED, Some(1))) {
        Response::Finished { slot, self_test } => assert_eq!((slot.as_str(), self_test.samples), ("A", 1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(best(&mut agent, [0, 200, 3]), "green");
    assert!(dir.path().join("root/screen.png").exists());
    drop(agent);
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    assert_eq!(best(&mut agent, [0, 0, 200]), "blue");
    let Response::Recent(seen) = agent.answer(Request::Recent { count: 9 }, &mut |_| Host::Waits) else { panic!() };
    let labels: Vec<&str> = seen.iter().map(|p| p.label.as_str()).collect();
    assert_eq!(labels, ["blue", "green"]);
}

#[test]
fn what_is_refused_leaves_the_running_slot_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("good", RED, Some(1)));
    let before = agent.installer.slot_info(Slot::A);
    assert_eq!((before.state, before.current), (SlotState::Committed, true));
    assert_eq!(code(&flash(&mut agent, &bundle("foreign", RED, Some(2)))), RefusalCode::Signature);
    assert_eq!(code(&flash(&mut agent, &bundle("unsigned", RED, None))), RefusalCode::Signature);
    let wrong = flash(&mut agent, &bundle("wrong", [9.0, 1.0, 3.0], Some(1)));
    assert_eq!(code(&wrong), RefusalCode::Gate);
    let mut altered = bundle("altered", RED, Some(1)).head().bytes().to_vec();
    altered[40] ^= 1;
    assert_eq!(code(&agent.answer(Request::Begin { head: altered }, &mut |_| Host::Waits)), RefusalCode::Signature);
    let head = bundle("cut", RED, Some(1)).head().bytes().to_vec();
    agent.answer(Request::Begin { head }, &mut |_| Host::Waits);
    assert_eq!(code(&agent.answer(Request::Finish, &mut |_| Host::Waits)), RefusalCode::State);
    assert_eq!(agent.installer.slot_info(Slot::A), before);
    assert_eq!(best(&mut agent, [200, 0, 3]), "red");
    let other = agent.installer.slot_info(Slot::B);
    assert!(!other.current && other.state == SlotState::Failed);
}

#[test]
fn unsigned_bundles_are_taken_where_the_owner_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), "allow_unsigned = true"), Start::Counts).unwrap();
    assert!(matches!(flash(&mut agent, &bundle("bench", RED, None)), Response::Finished { .. }));
}

#[test]
fn a_trial_is_committed_or_left_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let manual = || config(dir.path(), "commit = \"manual\"");
    let mut agent = Agent::open(manual(), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    assert_eq!(agent.installer.slot_info(Slot::A).state, SlotState::Trial);
    assert_eq!(agent.answer(Request::Commit, &mut |_| Host::Waits), Response::Done);
    flash(&mut agent, &bundle("two", RED, Some(1)));
    assert_eq!(agent.answer(Request::Rollback, &mut |_| Host::Waits), Response::Done);
    assert_eq!(agent.summary(), "slot A: one");
    assert_eq!(code(&agent.answer(Request::Rollback, &mut |_| Host::Waits)), RefusalCode::State);
    flash(&mut agent, &bundle("three", RED, Some(1)));
    drop(agent);
    for _ in 0..2 {
        assert_eq!(Agent::open(manual(), Start::Counts).unwrap().summary(), "slot B: three");
        assert_eq!(Agent::open(manual(), Start::Looks).unwrap().summary(), "slot B: three");
    }
    assert_eq!(Agent::open(manual(), Start::Counts).unwrap().summary(), "slot A: one");
}

#[test]
fn a_trial_ends_after_three_pictures_and_the_log_tells_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    assert_eq!(agent.installer.slot_info(Slot::A).state, SlotState::Committed, "there is nothing to go back to");
    flash(&mut agent, &bundle("two", RED, Some(1)));
    for _ in 0..3 {
        assert_eq!(agent.installer.slot_info(Slot::B).state, SlotState::Trial);
        assert!(agent.classify("x", b"no picture").is_err());
        best(&mut agent, [1, 2, 3]);
    }
    assert_eq!(agent.installer.slot_info(Slot::B).state, SlotState::Committed);
    let Response::Log(log) = agent.answer(Request::Log { count: 2 }, &mut |_| Host::Waits) else { panic!() };
    assert_eq!(log[0].text, "slot B (two) is committed after 3 pictures");
    assert!(log.len() == 2 && log[0].unix_ms > 0);
}

#[test]
fn a_rollback_to_what_does_not_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    flash(&mut agent, &bundle("two", RED, Some(1)));
    std::fs::remove_dir_all(dir.path().join("root/slots/a/files")).unwrap();
    std::fs::remove_file(dir.path().join("root/slots/a/packed")).unwrap();
    let answer = agent.answer(Request::Rollback, &mut |_| Host::Waits);
    assert_eq!(code(&answer), RefusalCode::Unsupported);
    assert_eq!(agent.summary(), "slot B: two");
    assert_eq!(Agent::open(config(dir.path(), ""), Start::Looks).unwrap().summary(), "slot B: two");
}

#[test]
fn a_factory_bundle_runs_when_the_slots_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    assert_eq!(open().fill_factory(&bundle("foreign", RED, Some(2))).unwrap_err().0, RefusalCode::Signature);
    assert_eq!(open().fill_factory(&bundle("wrong", [9.0, 1.0, 3.0], Some(1))).unwrap_err().0, RefusalCode::Gate);
    assert_eq!(open().fill_factory(&bundle("factory", RED, Some(1))).unwrap().samples, 1);
    let mut agent = open();
    assert_eq!(agent.summary(), "slot factory: factory");
    flash(&mut agent, &bundle("one", RED, Some(1)));
    assert_eq!(open().summary(), "slot A: one");
    std::fs::remove_dir_all(dir.path().join("root/slots/a")).unwrap();
    let mut agent = open();
    assert_eq!(agent.summary(), "slot factory: factory");
    let Response::Slots(slots) = agent.answer(Request::Slots, &mut |_| Host::Waits) else { panic!() };
    let told: Vec<(&str, SlotState, bool)> = slots.iter().map(|s| (s.name.as_str(), s.state, s.current)).collect();
    let factory = ("factory", SlotState::Committed, true);
    assert_eq!(told, [("A", SlotState::Failed, false), ("B", SlotState::Empty, false), factory]);
}

#[test]
fn a_damaged_slot_is_left_for_the_other_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    flash(&mut agent, &bundle("two", RED, Some(1)));
    assert_eq!(agent.summary(), "slot B: two");
    drop(agent);
    flip(&dir.path().join("root/slots/b/files/model.onnx"));
    // What runs is the packed model, whose checksum and answers are right.
    assert_eq!(Agent::open(config(dir.path(), ""), Start::Counts).unwrap().summary(), "slot B: two");
    flip(&dir.path().join("root/slots/b/packed"));
    assert_eq!(Agent::open(config(dir.path(), ""), Start::Counts).unwrap().summary(), "slot A: one");
}

/// Changes a bit of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_start_runs_the_packed_model_of_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    let loaded = |agent: &Agent| agent.installer.running().unwrap().model.network().loaded().clone();
    let rebuilt = |because| Loaded::Rebuilt { because, not_kept: None };
    let mut agent = open();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    assert_eq!(loaded(&agent), rebuilt(Miss::Absent));
    let mut agent = open();
    assert_eq!(loaded(&agent), Loaded::Cache);
    assert_eq!(best(&mut agent, [0, 200, 3]), "green");
    flip(&dir.path().join("root/slots/a/packed"));
    assert_eq!(loaded(&open()), rebuilt(Miss::Damaged));
    assert_eq!(loaded(&open()), Loaded::Cache);
    let packed = |slot: &str| dir.path().join("root/slots").join(slot).join("packed");
    flash(&mut agent, &bundle("two", RED, Some(1)));
    assert!(packed("a").exists() && packed("b").exists());
    agent.answer(Request::Commit, &mut |_| Host::Waits);
    // A transfer takes it away from the slot that it fills.
    let head = bundle("three", RED, Some(1)).head().bytes().to_vec();
    agent.answer(Request::Begin { head }, &mut |_| Host::Waits);
    assert!(!packed("a").exists() && packed("b").exists());
}

#[test]
fn pictures_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    let (code, message) = agent.classify("notes.txt", b"hello").unwrap_err();
    assert_eq!(code, RefusalCode::Image);
    assert!(message.contains("notes.txt"), "{message}");
}

#[test]
fn a_bundle_whose_host_left_during_the_test_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("old", RED, Some(1)));
    let new = bundle("new", RED, Some(1));
    for told in 1..=2 {
        assert_eq!(send(&mut agent, &new), None);
        // The first time it leaves before anything is changed, the second time while the golden sample runs.
        let left = agent.answer(Request::Finish, &mut |p: Progress| {
            if told == 1 || p.text == "starting the bundle" { Host::Gone } else { Host::Waits }
        });
        assert_eq!(code(&left), RefusalCode::State, "{left:?}");
        assert_eq!(agent.summary(), "slot A: old");
        let state = agent.installer.slot_info(Slot::B).state;
        assert_eq!(state, if told == 1 { SlotState::Empty } else { SlotState::Ready });
    }
    assert!(matches!(flash(&mut agent, &new), Response::Finished { slot, .. } if slot == "B"));
}

#[test]
fn a_bundle_that_asks_for_more_than_the_device_has_is_refused_at_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::open(config(dir.path(), ""), Start::Counts).unwrap();
    flash(&mut agent, &bundle("old", RED, Some(1)));
    let before = agent.installer.slot_info(Slot::B);
    for (asked, value, expected) in [
        ("graft.needs.agent", "99", RefusalCode::Unsupported),
        ("graft.needs.board", "Babbage Engine", RefusalCode::Unsupported),
        ("graft.needs.memory_mb", "999999999", RefusalCode::Unsupported),
        ("graft.needs.free_mb", "999999999999", RefusalCode::Space),
    ] {
        let mut w = BundleWriter::new("asks", "test");
        w.metadata([(asked.to_owned(), value.to_owned())].into());
        w.add_file(MODEL_FILE, b"a model", &[]).unwrap();
        let head = Bundle::from_bytes(&w.to_bytes(Some(&key(1))).unwrap()).unwrap().head().bytes().to_vec();
        assert_eq!(code(&agent.answer(Request::Begin { head }, &mut |_| Host::Waits)), expected, "{asked}");
        assert_eq!(agent.installer.slot_info(Slot::B), before);
        assert!(!dir.path().join("root/staging/head").exists(), "{asked}");
    }
}

#[test]
fn doubtful_pictures_are_kept_told_of_brought_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent =
        Agent::open(config(dir.path(), "pictures = \"unsure\"\nunsure_below = 0.9"), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    let mut ask = |request| agent.answer(request, &mut |_| Host::Waits);
    let image = tiny::png([10, 9, 0]);
    for rgb in [[200, 0, 0], [10, 9, 0]] {
        let request = Request::Judge { name: "leaf.png".into(), image: tiny::png(rgb) };
        let Response::Judged(found) = ask(request) else { panic!() };
        let is_unsure = rgb[0] == 10;
        assert_eq!((found.is_kept, found.doubt.as_deref()), (is_unsure, is_unsure.then_some("unsure: red?")));
    }
    let Response::Kept { store, total: 1, pictures } = ask(Request::Kept { skip: 0, count: 9 }) else { panic!() };
    let (told, digest) = (&pictures[0].told, pictures[0].digest);
    assert_eq!((told.id, told.model.as_str(), told.doubt.as_deref()), (2, "one", Some("unsure: red?")));
    let (label, p) = told.second.clone().unwrap();
    assert!(label == "green" && (told.value - (1.0 - told.probability + p)).abs() < 1e-6, "{told:?}");
    let all = |after| Request::Predictions { after, count: 9 };
    let Response::Predictions { store: same, predictions } = ask(all(0)) else { panic!() };
    assert_eq!((same, predictions.len(), &predictions[1]), (store, 2, told));
    let Response::Picture { bytes } = ask(Request::Picture { id: 2, offset: 0, count: u32::MAX }) else { panic!() };
    assert_eq!(bytes, image);
    assert_eq!(code(&ask(Request::Picture { id: 1, offset: 0, count: 1 })), RefusalCode::State);
    assert_eq!(ask(Request::Forget { pictures: vec![(2, [0; 32])] }), Response::Forgotten { count: 0 });
    assert_eq!(ask(Request::Forget { pictures: vec![(2, digest)] }), Response::Forgotten { count: 1 });
    assert_eq!(code(&ask(Request::Forget { pictures: vec![(2, digest); 101] })), RefusalCode::Malformed);
    assert_eq!(ask(Request::Kept { skip: 0, count: 9 }), Response::Kept { store, total: 0, pictures: vec![] });
}
