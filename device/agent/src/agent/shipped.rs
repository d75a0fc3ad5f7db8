//! The engine that ships: loads a slot's model and tries it on the bundle's golden pictures.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use graft_bundle::{MODEL_FILE, Manifest};
use graft_link::messages::Progress;
use graft_runtime::{Cache, Loaded, Miss, Model};

use super::log;
use crate::disk::Folder;
use crate::installer::Engine;
use crate::selftest::{Sample, SelfTest, self_test};
use crate::slots::{Slot, Slots};

/// The engine that ships: graft's kernels, or tract.
pub(super) struct Shipped {
    pub(super) root: PathBuf,
    /// Most bytes of a packed model.
    pub(super) max_packed_bytes: u64,
}

impl Engine<Folder> for Shipped {
    type Model = Arc<Model>;

    fn load(
        &self,
        slots: &Slots<Folder>,
        slot: Slot,
        tick: &mut dyn FnMut(Progress),
    ) -> Result<(Arc<Model>, SelfTest), String> {
        self.try_load(slots, slot, tick).map_err(|e| format!("{e:#}"))
    }
}

impl Shipped {
    fn try_load(
        &self,
        slots: &Slots<Folder>,
        slot: Slot,
        tick: &mut dyn FnMut(Progress),
    ) -> Result<(Arc<Model>, SelfTest)> {
        let head = slots.head(slot)?;
        let manifest = head.manifest();
        let digest = manifest.file(MODEL_FILE)?.digest;
        let cache = Cache::file(self.root.join(slot.packed())).at_most(self.max_packed_bytes);
        let cache = &cache;
        let read = move || -> Result<Vec<u8>> { Ok(slots.file(slot, MODEL_FILE)?) };
        let model = telling("loading the model", STEP, tick, move || Model::cached(digest.0, cache, read));
        let model = model.map_err(anyhow::Error::msg)??;
        match model.network().loaded() {
            Loaded::Rebuilt { not_kept: Some(reason), .. } => {
                log(&format!("slot {slot}: the packed model is not kept: {reason}"));
            }
            Loaded::Rebuilt { because, .. } if *because != Miss::Absent => {
                log(&format!("slot {slot}: the model is packed anew: of the packed one, {because}"));
            }
            _ => {}
        }
        let test = tried(&model, manifest, |file| Ok(slots.file(slot, file)?), tick)?;
        Ok((Arc::new(model), test))
    }
}

/// Tries a model on the golden pictures of its bundle, which `file` reads.
///
/// # Errors
///
/// If it is not the model that the manifest tells of, or a picture cannot be read.
pub(crate) fn tried(
    model: &Model,
    manifest: &Manifest,
    file: impl Fn(&str) -> Result<Vec<u8>>,
    tick: &mut dyn FnMut(Progress),
) -> Result<SelfTest> {
    anyhow::ensure!(
        model.labels() == manifest.labels,
        "expected the labels of the manifest in the model, found {} instead of {}",
        model.labels().len(),
        manifest.labels.len()
    );
    let mut samples = Vec::new();
    for golden in &manifest.golden {
        let image = file(&golden.file)?;
        samples.push(Sample { name: golden.file.clone(), image, logits: golden.logits.clone() });
    }
    Ok(self_test(model, &samples, manifest.tolerance, &mut |done, of| {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        tick(Progress { text: "self-test".into(), done: number(done), total: number(of) });
    }))
}

/// Has the engine work while `tick` is called each `every`.
///
/// # Errors
///
/// If the engine panics.
pub(crate) fn telling<T: Send>(
    text: &str,
    every: Duration,
    tick: &mut dyn FnMut(Progress),
    work: impl FnOnce() -> T + Send,
) -> Result<T, String> {
    thread::scope(|scope| {
        let working = scope.spawn(work);
        let mut told = None::<Instant>;
        while !working.is_finished() {
            if told.is_none_or(|at| at.elapsed() >= every) {
                tick(Progress { text: text.into(), done: 0, total: 0 });
                told = Some(Instant::now());
            }
            thread::sleep(STEP);
        }
        working.join().map_err(|_| "the engine gave up on the model".into())
    })
}

/// How often it is looked whether the engine is done.
const STEP: Duration = Duration::from_millis(50);
