//! Measuring: how fast a bundle is here, for a host that wants to know before it ships one.
//!
//! The bundle lies in memory alone, passes the checks of a flash, is timed and forgotten. Knows nothing of slots: nothing is
//! written, and what runs goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use graft_bundle::{Bundle, Head, MODEL_FILE, Manifest, Needs};
use graft_link::Host;
use graft_link::messages::{Measurement, Progress, RefusalCode};
use graft_runtime::{Bench, Model, Raw, bench};

use crate::agent::{telling, tried};
use crate::board;
use crate::health::Health;
use crate::installer::{Refusal, Rules, refusal};

/// The device's one place for a bundle in memory, whichever line it comes by.
#[derive(Debug, Default)]
pub struct Place(AtomicBool);

/// What has come of a bundle's file. Dropping it gives the place back.
#[derive(Debug)]
pub struct Spool {
    bytes: Vec<u8>,
    total: usize,
    place: Arc<Place>,
}

impl Spool {
    /// Takes a part of a file; the first one forgets what `held` has, and may tell of `most` bytes in all.
    ///
    /// # Errors
    ///
    /// Why not. What is held stays, except where a file was begun anew.
    pub fn take(
        held: &mut Option<Self>,
        place: &Arc<Place>,
        (offset, total): (u64, u64),
        part: &[u8],
        most: impl FnOnce() -> u64,
    ) -> Result<(), Refusal> {
        if offset == 0 {
            *held = None;
            *held = Some(Self::begin(place, total, most())?);
        }
        let Some(spool) = held else {
            return Err((RefusalCode::State, "expected the beginning of a bundle, found a later part".into()));
        };
        spool.append(offset, total, part)
    }

    fn begin(place: &Arc<Place>, total: u64, most: u64) -> Result<Self, Refusal> {
        let total = usize::try_from(total).ok().filter(|_| total <= most).ok_or_else(|| {
            let why =
                format!("expected a bundle of at most {most} bytes to be measured, which is what this device spares");
            (RefusalCode::Space, format!("{why}, found {total}; pack a smaller model"))
        })?;
        if place.0.swap(true, Ordering::Relaxed) {
            let message = "another host has a bundle measured on this device; try again".into();
            return Err((RefusalCode::Busy, message));
        }
        Ok(Self { bytes: vec![], total, place: Arc::clone(place) })
    }

    fn append(&mut self, offset: u64, total: u64, part: &[u8]) -> Result<(), Refusal> {
        let (here, whole) = (self.bytes.len(), self.total);
        if offset != here as u64 || total != whole as u64 || part.len() > whole - here {
            let expected = format!("expected a part from byte {here} on, of a bundle of {whole}");
            let found = format!("found {} bytes from {offset} on, of {total}", part.len());
            return Err((RefusalCode::State, format!("{expected}, {found}; repeat the command")));
        }
        // Not what the host claims that will come, but some of it for what has.
        if self.bytes.capacity() - here < part.len() {
            let more = part.len().max(here).min(whole - here);
            self.bytes.try_reserve_exact(more).map_err(|e| (RefusalCode::Space, format!("no memory is left: {e}")))?;
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// Returns the file, and the place with it: it is taken until that is dropped.
    ///
    /// # Errors
    ///
    /// [`RefusalCode::State`] where there is none, or a part of one.
    pub fn whole(held: &mut Option<Self>) -> Result<Self, Refusal> {
        let missing =
            |found: String| (RefusalCode::State, format!("expected a bundle to measure, {found}; repeat the command"));
        let spool = held.take().ok_or_else(|| missing("found none".into()))?;
        match (spool.bytes.len(), spool.total) {
            (here, total) if here == total => Ok(spool),
            (here, total) => Err(missing(format!("found {here} of its {total} bytes"))),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.place.0.store(false, Ordering::Relaxed);
    }
}

/// Returns the most bytes of a file that the device takes now.
pub fn most(max_bundle_bytes: u64) -> u64 {
    spared(board::available_bytes(), MOST.min(max_bundle_bytes))
}

/// Returns the bytes that may be taken of what is free, `most` at most.
fn spared(available: Option<u64>, most: u64) -> u64 {
    available.map_or(most, |free| most.min(free / SHARE))
}

/// Most bytes of a file, however much memory there is: of a ResNet-50 in f32, and some.
const MOST: u64 = 128 << 20;
/// One part in so many of the memory that is free may go to the file, and as much to what is unpacked of it: at most three such
/// parts are taken at the same time.
const SHARE: u64 = 4;

/// Tests and times a bundle as one would be that is flashed here; `folder` is the device's.
///
/// # Errors
///
/// Why it would not be taken, or that the host has gone.
pub fn measure(
    mut spool: Spool,
    rules: &Rules,
    folder: &Path,
    progress: &mut dyn FnMut(Progress) -> Host,
) -> Result<Measurement, Refusal> {
    let bundle = checked(std::mem::take(&mut spool.bytes), rules)?;
    let file = |path: &str| bundle.file(path).map_err(|e| refusal(e.into()));
    let onnx = file(MODEL_FILE)?;
    let golden = bundle.manifest().golden.iter().map(|g| Ok((g.file.clone(), file(&g.file)?)));
    let golden: BTreeMap<String, Vec<u8>> = golden.collect::<Result<_, Refusal>>()?;
    // The model takes as much again, and more once it is packed: what is read already must not lie beside it.
    let manifest = bundle.manifest().clone();
    drop(bundle);
    let unsupported = |reason: String| (RefusalCode::Unsupported, reason);
    let loaded = telling("loading the model", STEP, &mut |p| _ = progress(p), move || {
        let start = Instant::now();
        Model::from_onnx(&onnx).map(|model| (model, start.elapsed().as_secs_f64() * 1e3))
    });
    let (model, load_ms) = loaded.map_err(unsupported)?.map_err(|e| unsupported(e.to_string()))?;
    let read = |path: &str| golden.get(path).cloned().context("expected a golden picture in the bundle, found none");
    let test = tried(&model, &manifest, read, &mut |p| _ = progress(p));
    let test = test.map_err(|e| unsupported(format!("{e:#}")))?;
    if !test.passed() {
        return Err((RefusalCode::Gate, test.reason()));
    }
    let found = timed(&model, progress)?;
    Ok(Measurement {
        samples: u32::try_from(test.samples).unwrap_or(u32::MAX),
        max_abs_diff: test.max_abs_diff,
        network_ms: found.min_ms,
        latency_ms: test.latency_ms.into(),
        load_ms,
        memory: model.network().memory().map(|bytes| bytes as u64),
        engine: model.engine(),
        warning: Health::read(folder).slowness(),
    })
}

/// Checks a file as a flash would, before anything of it is unpacked.
fn checked(file: Vec<u8>, rules: &Rules) -> Result<Bundle, Refusal> {
    let head = Head::read(&mut file.as_slice()).map_err(|e| refusal(e.into()))?;
    head.trust(&rules.policy).map_err(|e| refusal(e.into()))?;
    let needs = Needs::of(head.manifest()).map_err(|e| refusal(e.into()))?;
    if let Some(lacks) = needs.unmet(&rules.offer) {
        return Err((RefusalCode::Unsupported, lacks.to_string()));
    }
    has_room(head.manifest(), rules.max_bundle_bytes, board::available_bytes())?;
    Bundle::from_bytes(&file).map_err(|e| refusal(e.into()))
}

/// Refuses what would be too large unpacked.
fn has_room(manifest: &Manifest, max_bundle_bytes: u64, available: Option<u64>) -> Result<(), Refusal> {
    let (found, most) = (manifest.payload_len(), spared(available, max_bundle_bytes));
    if found > most {
        let message =
            format!("expected a bundle of at most {most} bytes unpacked, found {found}; pack a smaller model");
        return Err((RefusalCode::Space, message));
    }
    Ok(())
}

/// Times the network alone.
fn timed(model: &Model, progress: &mut dyn FnMut(Progress) -> Host) -> Result<Bench, Refusal> {
    let text = "timing the network";
    if progress(Progress { text: text.into(), done: 0, total: 0 }) == Host::Gone {
        return Err((RefusalCode::State, "the host left before the end of the measurement".into()));
    }
    let picture = Raw::grey(model.network());
    // Seldom told, for that takes time from what is timed.
    let found = telling(text, SELDOM, &mut |p| _ = progress(p), || bench(model.network(), picture.view(), 1, SECONDS));
    let internal = |reason: String| (RefusalCode::Internal, reason);
    found.map_err(internal)?.map_err(|e| internal(e.to_string()))
}

/// For how long a network is timed.
const SECONDS: f32 = 1.0;
/// How often a host hears of work.
const STEP: Duration = Duration::from_millis(50);
/// The same while time is measured.
const SELDOM: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
