//! The life of a device: flashes, starts, requests of any bytes, a disk that fails, and files that say anything.

#![no_main]

use std::sync::OnceLock;

use arbitrary::Arbitrary;
use graft_agent::disk::FileSystem;
use graft_agent::installer::{Engine, Installer, Rules, Start};
use graft_agent::selftest::SelfTest;
use graft_agent::slots::{Confirm, EVENTS, Event, Installed, Slot, SlotError, Slots, Status};
use graft_agent::torture::{Fault, Simulated};
use graft_bundle::{Bundle, BundleWriter, Digest, MODEL_FILE, Offer, TrustPolicy, Unsigned};
use graft_link::Host;
use graft_link::messages::{Progress, Request, Response, decode_body};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;

#[derive(Debug, Arbitrary)]
struct Life {
    confirm: Option<u8>,
    acts: Vec<Act>,
}

#[derive(Debug, Arbitrary)]
enum Act {
    Flash(u8),
    Part(u8, u8),
    Picture,
    Commit,
    Rollback,
    Restart,
    /// A start during which the disk fails.
    RestartFailing(u8, u8),
    Factory(u8),
    /// A message of a host.
    Request(Vec<u8>),
    /// The disk fails at this call.
    Fail(u8, u8),
    /// A file becomes something else.
    Write(u8, Vec<u8>),
    /// One of the copies of the state does, with its digest right.
    State(bool, State),
}

/// As the device writes it.
#[derive(Debug, Arbitrary)]
struct State {
    number: u64,
    current: Option<u8>,
    slots: [Option<(u8, Condition)>; 2],
    events: u8,
    event_number: u64,
}

#[derive(Debug, Arbitrary)]
enum Condition {
    Staged,
    Trial(u32, u32),
    Committed,
    Failed(bool),
}

/// Its model is one byte, which says whether it passes its self-test.
#[derive(Debug)]
struct Reader;

impl Engine<Simulated> for Reader {
    type Model = u8;

    fn load(
        &self,
        slots: &Slots<Simulated>,
        slot: Slot,
        _tick: &mut dyn FnMut(Progress),
    ) -> Result<(u8, SelfTest), String> {
        slots.verify(slot).map_err(|e| e.to_string())?;
        let bytes = slots.file(slot, MODEL_FILE).map_err(|e| e.to_string())?;
        let model = *bytes.first().ok_or("it is empty")?;
        let failures = if model == BAD { vec!["it is made to fail".to_owned()] } else { vec![] };
        Ok((model, SelfTest { samples: 1, failures, ..SelfTest::default() }))
    }
}

type Device = Installer<Simulated, Reader>;

/// Of the bundle that fails its self-test.
const BAD: u8 = 3;

/// Four bundles of which three chunks are the same.
fn bundles() -> &'static [Bundle] {
    static BUNDLES: OnceLock<Vec<Bundle>> = OnceLock::new();
    BUNDLES.get_or_init(|| {
        let bundle = |model: u8| {
            let mut w = BundleWriter::new(&format!("model {model}"), "fuzz");
            let bytes = [&[model][..], &[7; 40], &[8; 40], &[9; 40]].concat();
            w.add_file(MODEL_FILE, &bytes, &[1, 41, 81]).expect("a file");
            Bundle::from_bytes(&w.to_bytes(None).expect("a bundle")).expect("a bundle")
        };
        (0..=BAD).map(bundle).collect()
    })
}

fn one(which: u8) -> &'static Bundle {
    &bundles()[usize::from(which % (BAD + 1))]
}

fn start(disk: &Simulated, confirm: Confirm) -> Result<Device, SlotError> {
    let policy = TrustPolicy { keys: vec![], unsigned: Unsigned::Allow };
    let offer = Offer::default();
    let rules = Rules { policy, offer, confirm, max_bundle_bytes: 1 << 20, clock: || 1_800_000_000_000 };
    Installer::open(disk.clone(), Reader, rules, Start::Counts)
}

fn ask(device: &mut Device, request: Request) -> Option<Response> {
    device.answer(request, &mut |_| Host::Waits).ok()?.ok()
}

/// Flashes a bundle, or so many chunks of it; what is refused is.
fn flash(device: &mut Device, bundle: &Bundle, chunks: Option<u8>) {
    let head = bundle.head().bytes().to_vec();
    let Some(Response::Begun { missing, .. }) = ask(device, Request::Begin { head }) else { return };
    let count = bundle.manifest().chunks.len() as u32;
    for index in missing.below(count).take(chunks.map_or(usize::MAX, usize::from)) {
        ask(device, Request::Chunk { index, stored: bundle.stored_chunk(index as usize).to_vec() });
    }
    if chunks.is_none() {
        ask(device, Request::Finish);
    }
}

fuzz_target!(init: graft_fuzz::begin(Vec::new), |life: Life| {
    let confirm = life.confirm.map_or(Confirm::ByHand, |n| Confirm::After(u32::from(n % 4)));
    let disk = Simulated::default();
    let mut device = start(&disk, confirm).expect("an empty disk");
    // Whether nobody but the device has written on the disk, and whether it has run on a disk without faults.
    let (mut is_own, mut runs) = (true, false);
    for act in life.acts.iter().take(60) {
        match act {
            Act::Restart | Act::RestartFailing(..) => {
                disk.fail(if let Act::RestartFailing(kind, at) = act { fault(*kind, *at) } else { Fault::None });
                match start(&disk, confirm) {
                    Ok(next) => device = next,
                    // A state of a later version.
                    Err(error) => {
                        assert!(!is_own, "{error}");
                        return;
                    }
                }
                let is_owed = runs && is_own && matches!(act, Act::Restart);
                assert!(device.running().is_some() || !is_owed, "a device that ran does not any more");
            }
            Act::Flash(which) => flash(&mut device, one(*which), None),
            Act::Part(which, n) => flash(&mut device, one(*which), Some(*n)),
            Act::Picture => device.classified(),
            Act::Commit => drop(ask(&mut device, Request::Commit)),
            Act::Rollback => drop(ask(&mut device, Request::Rollback)),
            Act::Factory(which) => drop(device.fill_factory(one(*which))),
            Act::Request(bytes) => {
                if let Ok(request) = decode_body::<Request>(bytes) {
                    let _ = device.answer(request, &mut |_| Host::Waits);
                }
            }
            Act::Fail(kind, at) => disk.fail(fault(*kind, *at)),
            Act::Write(file, bytes) => {
                let files = disk.files();
                let names = files.iter().map(String::as_str).chain(["state.json", "state.copy.json", "staging/head"]);
                let names: Vec<&str> = names.collect();
                write(&disk, names[usize::from(*file) % names.len()], bytes);
                is_own = false;
            }
            Act::State(is_copy, state) => {
                let path = if *is_copy { "state.copy.json" } else { "state.json" };
                write(&disk, path, &state.encoded());
                is_own = false;
            }
        }
        look(&mut device);
        runs |= device.running().is_some();
    }
});

fn fault(kind: u8, at: u8) -> Fault {
    [Fault::Full(at.into()), Fault::ReadOnly(at.into()), Fault::Error(at.into())][usize::from(kind % 3)]
}

fn write(disk: &Simulated, path: &str, bytes: &[u8]) {
    let mut disk = disk.clone();
    disk.fail(Fault::None);
    // The folder may not be there.
    let _ = disk.write(path, bytes).and_then(|()| disk.sync_file(path));
}

fn look(device: &mut Device) {
    let infos = match device.answer(Request::Slots, &mut |_| Host::Waits) {
        Ok(Ok(Response::Slots(infos))) => infos,
        other => panic!("expected slots, found {other:?}"),
    };
    assert!(infos.iter().filter(|info| info.current).count() <= 1, "{infos:?}");
    let _ = device.answer(Request::Log { count: u32::MAX }, &mut |_| Host::Waits);
    device.take_notes();
}

impl State {
    fn encoded(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Whole {
            current: Option<Slot>,
            a: Option<Installed>,
            b: Option<Installed>,
            log: Vec<Event>,
        }
        #[derive(Serialize)]
        struct Copy {
            format: u32,
            number: u64,
            digest: Digest,
            state: Whole,
        }
        let slots = [Slot::A, Slot::B, Slot::Factory];
        let installed = |slot: usize| {
            let (which, condition) = self.slots[slot].as_ref()?;
            let status = match condition {
                Condition::Staged => Status::Staged,
                Condition::Trial(boots_left, good) => Status::Trial { boots_left: *boots_left, good: *good },
                Condition::Committed => Status::Committed,
                Condition::Failed(ran) => Status::Failed { reason: "fuzzed".to_owned(), ran: *ran },
            };
            Some(Installed { name: "fuzzed".to_owned(), digest: one(*which).head().digest(), status })
        };
        let event = |i: u8| Event {
            number: self.event_number.wrapping_add(i.into()),
            unix_ms: u64::from(i),
            slot: slots[usize::from(i) % 3],
            name: String::new(),
            what: "something".to_owned(),
        };
        let state = Whole {
            current: self.current.map(|slot| slots[usize::from(slot) % 3]),
            a: installed(0),
            b: installed(1),
            log: (0..self.events % (2 * EVENTS as u8)).map(event).collect(),
        };
        let digest = Digest::of(&serde_json::to_vec(&(self.number, &state)).expect("a state"));
        serde_json::to_vec(&Copy { format: 2, number: self.number, digest, state }).expect("a state")
    }
}
