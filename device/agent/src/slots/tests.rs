//! Slots in memory, with the power cut at every moment.

use graft_bundle::{Bundle, BundleWriter, MODEL_FILE};

use super::*;
use crate::disk::memory::Memory;

const LIMIT: u64 = 1 << 20;

/// A bundle whose model is a backbone that all share and a head of its own.
fn bundle(head: u8) -> Bundle {
    let model = [vec![7; 3000], vec![head; 500]].concat();
    let mut w = BundleWriter::new(&format!("model {head}"), "test");
    w.add_file(MODEL_FILE, &model, &[1000, 3000]).unwrap();
    Bundle::from_bytes(&w.to_bytes(None).unwrap()).unwrap()
}

fn open(disk: Memory) -> Slots<Memory> {
    Slots::open(disk, LIMIT).unwrap()
}

/// Sends what is missing; returns how many chunks that were.
fn send(slots: &mut Slots<Memory>, bundle: &Bundle) -> Result<usize, SlotError> {
    slots.begin(bundle.head().clone())?;
    let missing = slots.missing()?;
    for &index in &missing {
        slots.put_chunk(index, bundle.stored_chunk(index))?;
    }
    Ok(missing.len())
}

fn install(slots: &mut Slots<Memory>, bundle: &Bundle) -> Result<Slot, SlotError> {
    send(slots, bundle)?;
    let slot = slots.finish()?;
    slots.activate(slot)?;
    slots.commit()
}

/// Returns the head byte of the model that runs, read and verified from the disk.
fn running(slots: &Slots<Memory>) -> Option<u8> {
    slots.current().map(|slot| *slots.file(slot, MODEL_FILE).unwrap().last().unwrap())
}

#[test]
fn bundles_take_turns_and_share_chunks() {
    let mut slots = open(Memory::default());
    assert_eq!(install(&mut slots, &bundle(1)).unwrap(), Slot::A);
    assert_eq!(send(&mut slots, &bundle(2)).unwrap(), 1, "only the head is new");
    assert_eq!(slots.receiving(), Some((Slot::B, "model 2")));
    assert_eq!(slots.finish().unwrap(), Slot::B);
    assert_eq!(running(&slots), Some(1), "what was received does not run yet");
    slots.activate(Slot::B).unwrap();
    assert_eq!(running(&slots), Some(2));
    assert!(matches!(slots.begin(bundle(3).head().clone()), Err(SlotError::OnTrial(Slot::B))));
    assert_eq!(slots.rollback("the farmer does not like it").unwrap(), Slot::A);
    assert_eq!(running(&slots), Some(1));
    assert!(matches!(slots.installed(Slot::B).unwrap().status, Status::Failed { .. }));
    assert!(matches!(slots.rollback("again"), Err(SlotError::NoWayBack)));
    assert_eq!(install(&mut slots, &bundle(3)).unwrap(), Slot::B);
    assert!(slots.disk.files.keys().all(|p| !p.starts_with(STAGING) && !p.starts_with(NEW)));
}

#[test]
fn a_trial_that_is_not_committed_ends_by_itself() {
    let mut slots = open(Memory::default());
    install(&mut slots, &bundle(1)).unwrap();
    send(&mut slots, &bundle(2)).unwrap();
    let slot = slots.finish().unwrap();
    slots.activate(slot).unwrap();
    let mut disk = slots.disk;
    for start in 0..TRIAL_BOOTS {
        let mut slots = open(disk);
        assert_eq!(slots.boot().unwrap(), None);
        assert_eq!(running(&slots), Some(2), "start {start}");
        disk = slots.disk;
    }
    let mut slots = open(disk);
    assert!(slots.boot().unwrap().unwrap().contains("not committed"));
    assert_eq!(running(&slots), Some(1));
    assert_eq!(slots.boot().unwrap(), None);
}

#[test]
fn a_first_bundle_that_fails_leaves_nothing_running() {
    let mut slots = open(Memory::default());
    send(&mut slots, &bundle(1)).unwrap();
    let slot = slots.finish().unwrap();
    slots.condemn(slot, "self-test").unwrap();
    assert_eq!(slots.current(), None);
    assert!(matches!(slots.activate(slot), Err(SlotError::NoTrial)));
    assert!(matches!(slots.commit(), Err(SlotError::NoTrial)));
}

#[test]
fn wrong_chunks_unknown_chunks_and_large_bundles_are_refused() {
    let mut slots = open(Memory::default());
    let b = bundle(1);
    assert!(matches!(slots.put_chunk(0, b.stored_chunk(0)), Err(SlotError::NotBegun)));
    slots.begin(b.head().clone()).unwrap();
    assert!(matches!(slots.put_chunk(9, b.stored_chunk(0)), Err(SlotError::NoChunk { count: 3, found: 9 })));
    assert!(matches!(slots.put_chunk(0, b.stored_chunk(2)), Err(SlotError::Bundle(_))));
    let all = b.manifest().chunks.len();
    assert!(matches!(slots.finish(), Err(SlotError::Incomplete(n)) if n == all));
    let mut small = Slots::open(Memory::default(), 100).unwrap();
    assert!(matches!(small.begin(b.head().clone()), Err(SlotError::Space { limit: 100, .. })));
}

#[test]
fn a_transfer_goes_on_after_a_restart() {
    let mut slots = open(Memory::default());
    let b = bundle(1);
    slots.begin(b.head().clone()).unwrap();
    slots.put_chunk(1, b.stored_chunk(1)).unwrap();
    let mut slots = open(slots.disk);
    assert_eq!(slots.receiving(), Some((Slot::A, "model 1")));
    assert_eq!(send(&mut slots, &b).unwrap(), b.manifest().chunks.len() - 1);
    slots.finish().unwrap();
}

#[test]
fn a_state_that_is_none_is_named_and_not_overwritten() {
    let mut disk = Memory::default();
    disk.write(STATE, b"{").unwrap();
    assert!(matches!(Slots::open(disk.clone(), LIMIT), Err(SlotError::State(_))));
    disk.write(STATE, br#"{"format":9,"current":null,"a":null,"b":null}"#).unwrap();
    assert!(Slots::open(disk, LIMIT).unwrap_err().to_string().contains("format 9"));
}

#[test]
fn the_power_may_go_at_any_moment() {
    let mut start = open(Memory::default());
    install(&mut start, &bundle(1)).unwrap();
    install(&mut start, &bundle(2)).unwrap();
    let mut moments = 0;
    for n in 0.. {
        let disk = start.disk.clone();
        disk.left.set(Some(n));
        let mut slots = Slots::open(disk, LIMIT).unwrap();
        let outcome = install(&mut slots, &bundle(3));
        let disk = slots.disk;
        disk.left.set(None);
        let mut slots = open(disk);
        slots.boot().unwrap();
        let found = running(&slots).unwrap_or_else(|| panic!("nothing runs after a cut at {n}"));
        assert!([2, 3].contains(&found), "cut at {n}: model {found} runs");
        // Whatever happened, the same flash again succeeds.
        if outcome.is_err() {
            let trial = matches!(slots.installed(slots.current().unwrap()).unwrap().status, Status::Trial { .. });
            if trial {
                slots.commit().unwrap();
            } else {
                install(&mut slots, &bundle(3)).unwrap();
            }
            assert_eq!(running(&slots), Some(3), "cut at {n}");
            moments += 1;
        } else {
            break;
        }
    }
    assert!(moments > 10, "{moments}");
}
