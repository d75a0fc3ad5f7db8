//! The device under torture: the installer that ships, with an engine that only reads, and stories of what happens to it.

use graft_bundle::{Bundle, BundleError, BundleWriter, Digest, MODEL_FILE, Offer, TrustPolicy, Unsigned};
use graft_link::messages::{Progress, RefusalCode, Request, Response};
use graft_link::{Host, Random};

use super::simulated::Simulated;
use crate::disk::FileSystem;
use crate::installer::{Engine, Installer, Refusal, Rules, Start};
use crate::selftest::SelfTest;
use crate::slots::{Clock, Confirm, Slot, SlotError, Slots};

/// A device on a simulated disk.
pub type Device = Installer<Simulated, Reader>;

/// Reads every file of a bundle; its model is the bundle's digest. The bundle itself says whether it passes its self-test.
#[derive(Debug, Clone, Copy)]
pub struct Reader;

impl<F: FileSystem> Engine<F> for Reader {
    type Model = Digest;

    fn load(&self, slots: &Slots<F>, slot: Slot, tick: &mut dyn FnMut(Progress)) -> Result<(Digest, SelfTest), String> {
        tick(Progress { text: "reading".into(), done: 0, total: 0 });
        let head = slots.head(slot).map_err(|e| e.to_string())?;
        slots.verify(slot).map_err(|e| e.to_string())?;
        let model = slots.file(slot, MODEL_FILE).map_err(|e| e.to_string())?;
        let failures = if model.starts_with(BAD) { vec!["it is made to fail".to_owned()] } else { vec![] };
        Ok((head.digest(), SelfTest { samples: 1, failures, ..SelfTest::default() }))
    }
}

const BAD: &[u8] = b"bad ";
/// Pictures until a trial is over.
pub const CONFIRM_AFTER: u32 = 2;
const LIMIT: u64 = 1 << 20;

/// Opens the device as a start does.
///
/// # Errors
///
/// As [`Installer::open`].
pub fn start(disk: &Simulated, clock: Clock, confirm: Confirm) -> Result<Device, SlotError> {
    let policy = TrustPolicy { keys: vec![], unsigned: Unsigned::Allow };
    let rules = Rules { policy, offer: Offer::default(), confirm, max_bundle_bytes: LIMIT, clock };
    Installer::open(disk.clone(), Reader, rules, Start::Counts)
}

/// What is flashed: two bundles that share all but their heads, one of another backbone, and one that fails its self-test.
#[derive(Debug, Clone)]
pub struct Bundles([Bundle; 4]);

/// One of [`Bundles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What the device has at first.
    First,
    /// Another head on the same backbone.
    Head,
    /// Another backbone.
    Other,
    /// One that fails its self-test.
    Bad,
}

impl Bundles {
    /// Makes them; a backbone has so many chunks.
    ///
    /// # Errors
    ///
    /// [`BundleError`], if the formats of this version do not fit together.
    pub fn new(seed: u64, chunks: usize) -> Result<Self, BundleError> {
        let make = |name, front: &[u8], backbone, head| {
            bundle(name, front, [(seed ^ backbone, chunks), (seed ^ head, HEAD_CHUNKS)])
        };
        Ok(Self([
            make("first", b"good", 1, 2)?,
            make("head", b"good", 1, 3)?,
            make("other", b"good", 4, 5)?,
            make("bad", BAD, 1, 6)?,
        ]))
    }

    /// Returns one of them.
    pub fn of(&self, which: Which) -> &Bundle {
        match which {
            Which::First => &self.0[0],
            Which::Head => &self.0[1],
            Which::Other => &self.0[2],
            Which::Bad => &self.0[3],
        }
    }

    /// Returns the digest of one of them.
    pub fn digest(&self, which: Which) -> Digest {
        self.of(which).head().digest()
    }
}

fn bundle(name: &str, front: &[u8], parts: [(u64, usize); 2]) -> Result<Bundle, BundleError> {
    let mut model = front.to_vec();
    let mut borders = vec![front.len()];
    for (place, (seed, chunks)) in parts.into_iter().enumerate() {
        let mut random = Random::new(seed, place as u64);
        for _ in 0..chunks {
            model.extend((0..CHUNK / 8).flat_map(|_| random.number().to_le_bytes()));
            borders.push(model.len());
        }
    }
    let mut w = BundleWriter::new(name, "torture");
    w.add_file(MODEL_FILE, &model, &borders)?;
    w.add_file("golden/00.png", b"a picture", &[])?;
    w.add_file("name.txt", name.as_bytes(), &[])?;
    Bundle::from_bytes(&w.to_bytes(None)?)
}

const CHUNK: usize = 64;
const HEAD_CHUNKS: usize = 2;

/// Something that happens to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A host flashes a bundle.
    Flash(Which),
    /// A host flashes a bundle and leaves after so many chunks.
    Part(Which, usize),
    /// A picture is classified.
    Picture,
    /// A host commits.
    Commit,
    /// A host rolls back.
    Rollback,
    /// The device is started anew.
    Restart,
    /// The factory slot is filled.
    Factory(Which),
}

/// What led to a moment, what happens then, and what a host flashes after a fault.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// Its name.
    pub name: &'static str,
    /// Goes well.
    pub before: &'static [Step],
    /// Is disturbed.
    pub during: &'static [Step],
    /// Is flashed afterwards, and must succeed unless it is the bad one.
    pub again: Which,
}

/// The stories.
pub const STORIES: [Story; 12] = {
    use Step::{Commit, Factory, Flash, Part, Picture, Restart, Rollback};
    use Which::{Bad, First, Head, Other};
    [
        Story { name: "first flash", before: &[], during: &[Flash(First)], again: First },
        Story { name: "full flash", before: &[Flash(First)], during: &[Flash(Other)], again: Other },
        Story {
            name: "delta flash",
            before: &[Flash(First)],
            during: &[Flash(Head), Picture, Picture, Picture],
            again: Head,
        },
        Story {
            name: "third flash",
            before: &[Flash(First), Flash(Head), Commit],
            during: &[Flash(Other), Commit],
            again: Other,
        },
        Story {
            name: "flash taken up again",
            before: &[Flash(First), Part(Other, 3)],
            during: &[Restart, Flash(Other)],
            again: Other,
        },
        Story {
            name: "flash given up for another",
            before: &[Flash(First), Part(Other, 3)],
            during: &[Flash(Head)],
            again: Head,
        },
        Story {
            name: "same flash again",
            before: &[Flash(First), Flash(Other)],
            during: &[Flash(Other), Restart, Flash(Other)],
            again: Other,
        },
        Story {
            name: "flash over a trial",
            before: &[Flash(First), Flash(Other)],
            during: &[Flash(Head), Restart, Flash(Other)],
            again: Other,
        },
        Story { name: "refused flash", before: &[Flash(First)], during: &[Flash(Bad)], again: Bad },
        Story {
            name: "trial that is not confirmed",
            before: &[Flash(First), Flash(Other)],
            during: &[Restart, Restart, Restart, Restart],
            again: Head,
        },
        Story {
            name: "rollback",
            before: &[Flash(First), Flash(Other), Picture, Picture],
            during: &[Rollback, Restart, Flash(Head)],
            again: Head,
        },
        Story {
            name: "factory slot",
            before: &[Factory(First)],
            during: &[Flash(Other), Rollback, Flash(Head), Restart, Picture, Picture],
            again: Other,
        },
    ]
};

/// Does a step; a device that is started anew is opened on the same disk.
///
/// # Errors
///
/// Why the device refused, or that it does not start.
pub fn step(device: &mut Device, step: Step, scene: &Scene<'_>) -> Result<(), Refusal> {
    match step {
        Step::Flash(which) => flash(device, scene.bundles.of(which), usize::MAX),
        Step::Part(which, chunks) => flash(device, scene.bundles.of(which), chunks),
        Step::Picture => {
            device.classified();
            Ok(())
        }
        Step::Commit => ask(device, Request::Commit).map(drop),
        Step::Rollback => ask(device, Request::Rollback).map(drop),
        Step::Factory(which) => device.fill_factory(scene.bundles.of(which)).map(drop),
        Step::Restart => {
            *device = scene.start().map_err(|e| (RefusalCode::Internal, e.to_string()))?;
            Ok(())
        }
    }
}

/// A disk and what goes with it.
#[derive(Debug, Clone)]
pub struct Scene<'a> {
    /// The disk.
    pub disk: Simulated,
    /// The bundles.
    pub bundles: &'a Bundles,
    /// The device's clock.
    pub clock: Clock,
    /// When trials end well.
    pub confirm: Confirm,
}

impl Scene<'_> {
    /// Opens the device as a start does.
    ///
    /// # Errors
    ///
    /// As [`Installer::open`].
    pub fn start(&self) -> Result<Device, SlotError> {
        start(&self.disk, self.clock, self.confirm)
    }
}

/// Flashes a bundle, or the first so many chunks of it.
///
/// # Errors
///
/// The device's refusal.
pub fn flash(device: &mut Device, bundle: &Bundle, chunks: usize) -> Result<(), Refusal> {
    let head = bundle.head().bytes().to_vec();
    let Response::Begun { missing, .. } = ask(device, Request::Begin { head })? else { return Err(strange()) };
    let count = u32::try_from(bundle.manifest().chunks.len()).unwrap_or(u32::MAX);
    for index in missing.below(count).take(chunks) {
        ask(device, Request::Chunk { index, stored: bundle.stored_chunk(index as usize).to_vec() })?;
    }
    if chunks == usize::MAX {
        ask(device, Request::Finish)?;
    }
    Ok(())
}

fn ask(device: &mut Device, request: Request) -> Result<Response, Refusal> {
    device.answer(request, &mut |_| Host::Waits).unwrap_or_else(|_| Err(strange()))
}

fn strange() -> Refusal {
    (RefusalCode::Internal, "the installer does not know its own requests".into())
}
