//! Slots on a simulated disk. Power cuts and other trouble are in `torture.rs` and `property.rs`.

use graft_bundle::{Bundle, BundleWriter, MODEL_FILE};

use super::*;
use crate::torture::{Random, Simulated};

const LIMIT: u64 = 1 << 20;

/// A bundle whose model is a backbone that all share and a head of its own.
fn bundle(head: u8) -> Bundle {
    let model = [vec![7; 3000], vec![head; 500]].concat();
    let mut w = BundleWriter::new(&format!("model {head}"), "test");
    w.add_file(MODEL_FILE, &model, &[1000, 3000]).unwrap();
    Bundle::from_bytes(&w.to_bytes(None).unwrap()).unwrap()
}

fn clock() -> u64 {
    5
}

fn open(disk: &Simulated) -> Slots<Simulated> {
    Slots::open(disk.clone(), LIMIT, clock).unwrap()
}

fn begin(slots: &mut Slots<Simulated>, bundle: &Bundle) -> Result<Slot, SlotError> {
    slots.begin(bundle.head().clone(), Confirm::ByHand, &mut || ())
}

/// Sends what is missing; returns how many chunks that were.
fn send(slots: &mut Slots<Simulated>, bundle: &Bundle) -> Result<usize, SlotError> {
    begin(slots, bundle)?;
    let missing = slots.missing()?;
    for &index in &missing {
        slots.put_chunk(index, bundle.stored_chunk(index))?;
    }
    Ok(missing.len())
}

fn finish(slots: &mut Slots<Simulated>) -> Result<Slot, SlotError> {
    match slots.assemble(&mut || ())? {
        Assembled::Runs(slot) => Ok(slot),
        Assembled::New(head) => slots.install(&head),
    }
}

/// Installs a bundle up to its trial.
fn try_out(slots: &mut Slots<Simulated>, bundle: &Bundle) -> Result<Slot, SlotError> {
    send(slots, bundle)?;
    let slot = finish(slots)?;
    slots.activate(slot, Confirm::ByHand)?;
    Ok(slot)
}

fn install(slots: &mut Slots<Simulated>, bundle: &Bundle) -> Result<Slot, SlotError> {
    try_out(slots, bundle)?;
    slots.commit()
}

/// Returns the head byte of the model that runs, read and verified from the disk.
fn running(slots: &Slots<Simulated>) -> Option<u8> {
    slots.current().map(|slot| *slots.file(slot, MODEL_FILE).unwrap().last().unwrap())
}

fn status(slots: &Slots<Simulated>, slot: Slot) -> Status {
    slots.installed(slot).unwrap().status
}

#[test]
fn bundles_take_turns_and_share_chunks() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    assert_eq!(install(&mut slots, &bundle(1)).unwrap(), Slot::A);
    assert_eq!(send(&mut slots, &bundle(2)).unwrap(), 1, "only the head is new");
    assert_eq!(slots.receiving(), Some((Slot::B, "model 2")));
    assert_eq!(finish(&mut slots).unwrap(), Slot::B);
    assert_eq!(running(&slots), Some(1), "what was received does not run yet");
    slots.activate(Slot::B, Confirm::ByHand).unwrap();
    assert_eq!(running(&slots), Some(2));
    assert!(matches!(begin(&mut slots, &bundle(3)), Err(SlotError::OnTrial(Slot::B))));
    assert_eq!(slots.rollback("the farmer does not like it").unwrap(), Slot::A);
    assert_eq!(running(&slots), Some(1));
    assert!(matches!(status(&slots, Slot::B), Status::Failed { ran: true, .. }));
    assert!(matches!(slots.rollback("again"), Err(SlotError::NoWayBack)));
    assert_eq!(install(&mut slots, &bundle(3)).unwrap(), Slot::B);
    let litter = |p: &String| p.starts_with("staging") || p.starts_with("slots/new") || p.ends_with(".new");
    assert!(!disk.files().iter().any(litter), "{:?}", disk.files());
    let told: Vec<&str> = slots.log().iter().map(|e| e.what.as_str()).collect();
    assert!(told.contains(&"failed: the farmer does not like it"), "{told:?}");
    assert!(slots.log().windows(2).all(|pair| pair[0].number < pair[1].number));
}

#[test]
fn a_trial_that_the_device_confirms_is_given_up_for_a_newer_bundle() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    install(&mut slots, &bundle(1)).unwrap();
    try_out(&mut slots, &bundle(2)).unwrap();
    slots.begin(bundle(3).head().clone(), Confirm::After(3), &mut || ()).unwrap();
    for index in slots.missing().unwrap() {
        slots.put_chunk(index, bundle(3).stored_chunk(index)).unwrap();
    }
    let Assembled::New(head) = slots.assemble(&mut || ()).unwrap() else { panic!() };
    assert!(slots.gives_up_trial());
    assert!(matches!(slots.install(&head), Err(SlotError::OnTrial(Slot::B))));
    assert_eq!(slots.rollback("given up").unwrap(), Slot::A);
    assert_eq!(slots.install(&head).unwrap(), Slot::B);
    slots.verify(Slot::A).unwrap();
    slots.activate(Slot::B, Confirm::After(3)).unwrap();
    assert_eq!(running(&slots), Some(3));
}

#[test]
fn a_trial_that_is_not_confirmed_ends_by_itself() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    install(&mut slots, &bundle(1)).unwrap();
    try_out(&mut slots, &bundle(2)).unwrap();
    for start in 0..TRIAL_BOOTS {
        let mut slots = open(&disk);
        assert_eq!(slots.boot(), None);
        assert_eq!(running(&slots), Some(2), "start {start}");
    }
    let mut slots = open(&disk);
    assert!(slots.boot().unwrap().contains("not confirmed"));
    assert_eq!(running(&slots), Some(1));
    assert_eq!(slots.boot(), None);
}

#[test]
fn a_trial_ends_well_after_so_many_pictures_in_any_number_of_starts() {
    let disk = Simulated::default();
    install(&mut open(&disk), &bundle(1)).unwrap();
    try_out(&mut open(&disk), &bundle(2)).unwrap();
    for picture in 0..4 {
        let mut slots = open(&disk);
        assert_eq!(slots.boot(), None);
        assert!(!slots.classified(Confirm::ByHand).unwrap());
        assert_eq!(slots.classified(Confirm::After(4)).unwrap(), picture == 3);
    }
    assert_eq!(status(&open(&disk), Slot::B), Status::Committed);
}

#[test]
fn a_bundle_with_nothing_to_go_back_to_is_committed_at_once_or_keeps_its_starts() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    send(&mut slots, &bundle(1)).unwrap();
    finish(&mut slots).unwrap();
    slots.activate(Slot::A, Confirm::After(3)).unwrap();
    assert_eq!(status(&slots, Slot::A), Status::Committed);

    let disk = Simulated::default();
    try_out(&mut open(&disk), &bundle(1)).unwrap();
    for _ in 0..3 * TRIAL_BOOTS {
        let mut slots = open(&disk);
        assert_eq!(slots.boot(), None);
        assert_eq!(running(&slots), Some(1));
        assert!(matches!(slots.rollback("no"), Err(SlotError::NoWayBack)));
    }
    open(&disk).commit().unwrap();
}

#[test]
fn a_start_tries_what_may_run_and_then_what_once_ran() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    install(&mut slots, &bundle(1)).unwrap();
    install(&mut slots, &bundle(2)).unwrap();
    assert_eq!(slots.candidates(), [Slot::B, Slot::A]);
    slots.settle(Some(Slot::A), &[(Slot::B, "no memory".into())]).unwrap();
    let mut slots = open(&disk);
    assert_eq!((slots.current(), slots.candidates()), (Some(Slot::A), vec![Slot::A, Slot::B]));
    slots.settle(None, &[(Slot::A, "no memory".into()), (Slot::B, "no memory".into())]).unwrap();
    let mut slots = open(&disk);
    assert_eq!((slots.current(), slots.candidates()), (None, vec![Slot::A, Slot::B]));
    slots.settle(Some(Slot::B), &[]).unwrap();
    assert_eq!(status(&open(&disk), Slot::B), Status::Committed);
    assert_eq!(running(&open(&disk)), Some(2));
}

#[test]
fn a_bundle_that_never_passed_never_runs() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    send(&mut slots, &bundle(1)).unwrap();
    let slot = finish(&mut slots).unwrap();
    slots.condemn(slot, "self-test").unwrap();
    assert_eq!((slots.current(), slots.candidates()), (None, vec![]));
    assert!(matches!(slots.activate(slot, Confirm::ByHand), Err(SlotError::NoTrial)));
    assert!(matches!(slots.commit(), Err(SlotError::NoTrial)));
    // It is in nobody's way.
    assert_eq!(install(&mut slots, &bundle(2)).unwrap(), Slot::B);
}

#[test]
fn the_factory_slot_is_filled_once_and_runs_when_nothing_else_may() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    slots.fill_factory(&bundle(9)).unwrap();
    assert!(matches!(slots.fill_factory(&bundle(8)), Err(SlotError::FactoryFilled(name)) if name == "model 9"));
    for call in 0..4 {
        disk.fail(crate::torture::Fault::Error(call));
        assert_eq!(open(&disk).candidates(), [Slot::Factory], "call {call} fails");
    }
    disk.fail(crate::torture::Fault::None);
    let mut slots = open(&disk);
    slots.settle(Some(Slot::Factory), &[]).unwrap();
    assert!(matches!(slots.rollback("no"), Err(SlotError::NoWayBack)));
    assert_eq!(send(&mut slots, &bundle(1)).unwrap(), 1, "its chunks are used");
    finish(&mut slots).unwrap();
    slots.activate(Slot::A, Confirm::After(1)).unwrap();
    assert!(matches!(status(&slots, Slot::A), Status::Trial { .. }), "there is something to go back to");
    assert_eq!(slots.rollback("no").unwrap(), Slot::Factory);
    assert_eq!(running(&open(&disk)), Some(9));
    install(&mut slots, &bundle(2)).unwrap();
    install(&mut slots, &bundle(3)).unwrap();
    slots.verify(Slot::Factory).unwrap();
}

#[test]
fn the_bundle_that_runs_is_not_installed_again_unless_it_is_damaged() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    install(&mut slots, &bundle(1)).unwrap();
    try_out(&mut slots, &bundle(2)).unwrap();
    for _ in 0..2 {
        // Also on trial: the host that did not hear the end asks again.
        assert_eq!(send(&mut slots, &bundle(2)).unwrap(), 0);
        assert_eq!(finish(&mut slots).unwrap(), Slot::B);
        slots.commit().unwrap();
    }
    assert_eq!(running(&slots), Some(2));
    slots.verify(Slot::A).unwrap();
    disk.flip("slots/b/files", &mut Random::new(1, 1)).unwrap();
    let sent = send(&mut slots, &bundle(2)).unwrap();
    assert!(sent <= 1, "what is whole is used again: {sent}");
    assert_eq!(finish(&mut slots).unwrap(), Slot::A);
    slots.activate(Slot::A, Confirm::After(0)).unwrap();
    assert_eq!(running(&slots), Some(2));
}

#[test]
fn chunks_that_rot_before_they_are_used_are_sent_again() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    let b = bundle(1);
    let all = send(&mut slots, &b).unwrap();
    disk.flip("staging/chunks", &mut Random::new(1, 1)).unwrap();
    assert!(matches!(finish(&mut slots), Err(SlotError::Bundle(BundleError::Digest { .. }))));
    assert_eq!(send(&mut slots, &b).unwrap(), 1, "of {all}");
    finish(&mut slots).unwrap();
}

#[test]
fn wrong_chunks_unknown_chunks_and_large_bundles_are_refused() {
    let mut slots = open(&Simulated::default());
    let b = bundle(1);
    assert!(matches!(slots.put_chunk(0, b.stored_chunk(0)), Err(SlotError::NotBegun)));
    begin(&mut slots, &b).unwrap();
    assert!(matches!(slots.put_chunk(9, b.stored_chunk(0)), Err(SlotError::NoChunk { count: 3, found: 9 })));
    assert!(matches!(slots.put_chunk(0, b.stored_chunk(2)), Err(SlotError::Bundle(_))));
    let all = b.manifest().chunks.len();
    assert!(matches!(finish(&mut slots), Err(SlotError::Incomplete(n)) if n == all));
    let mut small = Slots::open(Simulated::default(), 100, clock).unwrap();
    assert!(matches!(begin(&mut small, &b), Err(SlotError::Space { limit: 100, .. })));
}

#[test]
fn a_transfer_goes_on_after_a_restart() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    let b = bundle(1);
    begin(&mut slots, &b).unwrap();
    slots.put_chunk(1, b.stored_chunk(1)).unwrap();
    let mut slots = open(&disk);
    assert_eq!(slots.receiving(), Some((Slot::A, "model 1")));
    assert!(matches!(slots.missing(), Err(SlotError::NotBegun)), "what came before is looked at first");
    assert_eq!(send(&mut slots, &b).unwrap(), b.manifest().chunks.len() - 1);
    finish(&mut slots).unwrap();
}

/// As graft 0.1 wrote it.
const FIRST_FORMAT: &str = include_str!("../../fixtures/state-1.json");

#[test]
fn the_state_of_format_1_is_read_and_written_anew() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    install(&mut slots, &bundle(1)).unwrap();
    install(&mut slots, &bundle(2)).unwrap();
    let [a, b] = Slot::ALL.map(|s| slots.installed(s).unwrap().digest.to_string());
    let mut files = Disk::new(disk.clone());
    for copy in state::COPIES {
        files.remove(copy).unwrap();
    }
    files.write("state.json", FIRST_FORMAT.replace("DIGEST-A", &a).replace("DIGEST-B", &b).as_bytes()).unwrap();
    let mut slots = open(&disk);
    assert_eq!((running(&slots), slots.boot()), (Some(2), None));
    assert_eq!(status(&slots, Slot::B), Status::Trial { boots_left: 0, good: 0 });
    assert!(slots.boot().is_some());
    assert_eq!(running(&open(&disk)), Some(1));
    assert!(String::from_utf8(files.read("state.json").unwrap()).unwrap().contains("\"format\": 2"));
}

#[test]
fn a_later_format_is_named_and_not_overwritten() {
    let disk = Simulated::default();
    Disk::new(disk.clone()).write("state.json", br#"{"format":9}"#).unwrap();
    let error = Slots::open(disk.clone(), LIMIT, clock).unwrap_err().to_string();
    assert!(error.contains("format 9") && error.contains("state.json"), "{error}");
}

#[test]
fn a_damaged_copy_is_replaced_by_the_other_and_two_by_what_is_there() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    install(&mut slots, &bundle(1)).unwrap();
    install(&mut slots, &bundle(2)).unwrap();
    let mut files = Disk::new(disk.clone());
    // Any bit of one copy: nothing changes.
    let whole = files.read("state.json").unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        files.write("state.json", &bytes).unwrap();
        let slots = open(&disk);
        assert_eq!((slots.current(), slots.damage()), (Some(Slot::B), None), "byte {at}");
    }
    for (copy, text) in state::COPIES.into_iter().zip(["{", ""]) {
        files.write(copy, text.as_bytes()).unwrap();
    }
    let mut slots = open(&disk);
    assert!(slots.damage().unwrap().contains("state.copy.json"));
    assert_eq!(slots.candidates(), [Slot::A, Slot::B]);
    slots.settle(Some(Slot::A), &[]).unwrap();
    let slots = open(&disk);
    assert_eq!((slots.damage(), slots.current()), (None, Some(Slot::A)));
    assert!(slots.log().iter().any(|e| e.what.contains("state was lost")));
}

#[test]
fn a_trial_on_a_disk_that_cannot_count_is_left() {
    use crate::torture::Fault;
    let disk = Simulated::default();
    install(&mut open(&disk), &bundle(1)).unwrap();
    try_out(&mut open(&disk), &bundle(2)).unwrap();
    disk.fail(Fault::ReadOnly(0));
    let mut slots = open(&disk);
    assert!(slots.boot().unwrap().contains("cannot be counted"));
    assert_eq!(running(&slots), Some(1));
    // The disk does not know of it, and once it can be written the trial goes on.
    disk.fail(Fault::None);
    let mut slots = open(&disk);
    assert_eq!((slots.boot(), running(&slots)), (None, Some(2)));
}

#[test]
fn the_log_stays_short() {
    let disk = Simulated::default();
    let mut slots = open(&disk);
    for head in 0..20 {
        install(&mut slots, &bundle(head)).unwrap();
    }
    assert_eq!(slots.log().len(), EVENTS);
    assert!(Disk::new(disk).read("state.json").unwrap().len() < 16 << 10);
}
