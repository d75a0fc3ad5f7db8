//! The agent: what the device does with bundles and pictures, whoever asks.
//!
//! One agent serves every line; callers lock it. Knows nothing of ports.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use graft_bundle::{BundleError, Head, MODEL_FILE, TrustPolicy};
use graft_link::messages::{
    ChunkRanges, Classified, DeviceInfo, Prediction, Progress, RefusalCode, Request, Response, SlotInfo, SlotState,
};
use graft_runtime::{Cache, ENGINE, Loaded, Miss, Model, picture};

use crate::config::{Commit, Config, Pictures, Unsigned};
use crate::disk::Folder;
use crate::display::{Display, Spec};
use crate::screen::{Content, Link};
use crate::selftest::{Sample, SelfTest, self_test};
use crate::slots::{Installed, Slot, SlotError, Slots, Status};
use crate::store::{Record, Store};

/// Whether opening the agent is a start of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is: a trial uses one up.
    Counts,
    /// It only looks.
    Looks,
}

/// The bundle that runs.
struct Running {
    slot: Slot,
    name: String,
    model: Arc<Model>,
}

/// A device.
pub struct Agent {
    config: Config,
    policy: TrustPolicy,
    slots: Slots<Folder>,
    store: Store,
    display: Display,
    content: Content,
    running: Option<Running>,
    /// Chunks the present transfer had to send, and those that have come.
    received: (u32, u32),
    hosts: u32,
    predictions: u64,
    start: Instant,
}

/// An answer or a refusal.
type Answer = Result<Response, (RefusalCode, String)>;

/// Labels told besides the best one.
const TOP: usize = 5;

impl Agent {
    /// Opens the device's folder and loads what is to run.
    ///
    /// # Errors
    ///
    /// If the configuration cannot be met. A bundle that no longer runs is left, not an error.
    pub fn open(config: Config, start: Start) -> Result<Self> {
        let keys =
            config.trusted_keys.iter().map(|k| k.parse().context("reading trusted_keys")).collect::<Result<_>>()?;
        let unsigned = match config.unsigned {
            Unsigned::Refuse => graft_bundle::Unsigned::Refuse,
            Unsigned::Allow => graft_bundle::Unsigned::Allow,
        };
        let root = &config.root;
        let doing = || format!("opening the device's folder {}", root.display());
        let slots =
            Slots::open(Folder::open(root).with_context(doing)?, config.max_bundle_bytes).with_context(doing)?;
        let store = Store::open(&root.join("store"), config.max_store_bytes).with_context(doing)?;
        let spec: Spec = config.display.parse().context("reading display")?;
        let display = Display::open(&spec, root).context("opening the display")?;
        let mut agent = Self {
            policy: TrustPolicy { keys, unsigned },
            slots,
            store,
            display,
            content: Content::default(),
            running: None,
            received: (0, 0),
            hosts: 0,
            predictions: 0,
            start: Instant::now(),
            config,
        };
        agent.start_bundle(start)?;
        agent.show();
        Ok(agent)
    }

    /// Loads the current bundle; one that fails is left for the other.
    fn start_bundle(&mut self, start: Start) -> Result<()> {
        if start == Start::Counts
            && let Some(reason) = self.slots.boot().context("counting the start")?
        {
            log(&format!("went back: {reason}"));
        }
        for _ in Slot::ALL {
            let Some(slot) = self.slots.current() else { return Ok(()) };
            let reason = match self.load(slot, &mut |_| ()) {
                Ok((running, test)) if test.passed() => {
                    self.running = Some(running);
                    return Ok(());
                }
                Ok((_, test)) => test.reason(),
                Err(e) => format!("{e:#}"),
            };
            log(&format!("slot {slot} cannot run: {reason}"));
            if start == Start::Looks {
                return Ok(());
            }
            self.slots.leave(slot, &reason).context("leaving a slot")?;
        }
        Ok(())
    }

    /// Loads a slot's model and tests it; `tick` is called now and then meanwhile.
    fn load(&self, slot: Slot, tick: &mut dyn FnMut(Progress)) -> Result<(Running, SelfTest)> {
        let head = self.slots.head(slot)?;
        let manifest = head.manifest();
        let digest = manifest.file(MODEL_FILE)?.digest;
        let cache = Cache::file(self.config.root.join(slot.packed())).at_most(self.config.max_bundle_bytes);
        let (slots, cache) = (&self.slots, &cache);
        let model = thread::scope(|scope| {
            let read = move || -> Result<Vec<u8>> { Ok(slots.file(slot, MODEL_FILE)?) };
            let loading = scope.spawn(move || Model::cached(digest.0, cache, read));
            while !loading.is_finished() {
                tick(Progress { text: "loading the model".into(), done: 0, total: 0 });
                thread::sleep(Duration::from_millis(50));
            }
            loading.join()
        });
        let model = model.map_err(|_| anyhow::anyhow!("the engine gave up on the model"))??;
        match model.network().loaded() {
            Loaded::Rebuilt { not_kept: Some(reason), .. } => {
                log(&format!("slot {slot}: the packed model is not kept: {reason}"));
            }
            Loaded::Rebuilt { because, .. } if *because != Miss::Absent => {
                log(&format!("slot {slot}: the model is packed anew: of the packed one, {because}"));
            }
            _ => {}
        }
        anyhow::ensure!(
            model.labels() == manifest.labels,
            "expected the labels of the manifest in the model, found {} instead of {}",
            model.labels().len(),
            manifest.labels.len()
        );
        let mut samples = Vec::new();
        for golden in &manifest.golden {
            let image = self.slots.file(slot, &golden.file)?;
            samples.push(Sample { name: golden.file.clone(), image, logits: golden.logits.clone() });
        }
        let test = self_test(&model, &samples, manifest.tolerance, &mut |done, of| {
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            tick(Progress { text: "self-test".into(), done: number(done), total: number(of) });
        });
        Ok((Running { slot, name: manifest.name.clone(), model: Arc::new(model) }, test))
    }

    /// Notes that a host has come or gone.
    pub fn host(&mut self, is_connected: bool) {
        self.hosts = if is_connected { self.hosts + 1 } else { self.hosts.saturating_sub(1) };
        self.show();
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns what runs, in a line.
    pub fn summary(&self) -> String {
        match &self.running {
            Some(r) => format!("slot {}: {}", r.slot, r.name),
            None => "no bundle runs; flash one".into(),
        }
    }

    /// Answers a request of the link.
    pub fn answer(&mut self, request: Request, progress: &mut dyn FnMut(Progress)) -> Response {
        let answer = match request {
            Request::Info => Ok(Response::Info(self.info())),
            Request::Slots => Ok(Response::Slots(Slot::ALL.map(|s| self.slot_info(s)).to_vec())),
            Request::Begin { head } => self.begin(&head),
            Request::Missing => self.begun(),
            Request::Chunk { index, stored } => self.chunk(index, &stored),
            Request::Finish => self.finish(progress),
            Request::Commit => self.slots.commit().map(|_| Response::Done).map_err(refusal),
            Request::Rollback => self.rollback(),
            Request::Classify { name, image } => self.classify(&name, &image).map(Response::Classified),
            Request::Screen => Ok(Response::Screen { png: self.display.png() }),
            Request::Recent { count } => Ok(Response::Recent(self.recent(count))),
            _ => Err((RefusalCode::Malformed, "this device does not know the request; update it".into())),
        };
        self.show();
        answer.unwrap_or_else(|(code, message)| Response::Refused { code, message })
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            arch: std::env::consts::ARCH.into(),
            engine: ENGINE.into(),
            uptime_ms: u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            slot: self.running.as_ref().map(|r| r.slot.to_string()),
            bundle_name: self.running.as_ref().map(|r| r.name.clone()),
            predictions: self.predictions,
            free_bytes: self.slots.free_bytes().unwrap_or(self.config.max_bundle_bytes),
        }
    }

    fn slot_info(&self, slot: Slot) -> SlotInfo {
        let receiving = self.slots.receiving().filter(|r| r.0 == slot);
        let installed = self.slots.installed(slot);
        let state = match installed.map(|i| &i.status) {
            None if receiving.is_some() => SlotState::Partial,
            None => SlotState::Empty,
            Some(Status::Staged) => SlotState::Ready,
            Some(Status::Trial { .. }) => SlotState::Trial,
            Some(Status::Committed) => SlotState::Committed,
            Some(Status::Failed { .. }) => SlotState::Failed,
        };
        SlotInfo {
            name: slot.to_string(),
            state,
            bundle_name: installed.map_or_else(|| receiving.map_or("", |r| r.1).to_owned(), |i| i.name.clone()),
            bundle_digest: installed.map_or([0; 32], |i: &Installed| i.digest.0),
            current: self.slots.current() == Some(slot),
        }
    }

    fn begin(&mut self, head: &[u8]) -> Answer {
        let head = Head::parse(head).map_err(|e| refusal(e.into()))?;
        head.trust(&self.policy).map_err(|e| refusal(e.into()))?;
        self.slots.begin(head).map_err(refusal)?;
        let answer = self.begun()?;
        if let Response::Begun { missing, .. } = &answer {
            self.received = (0, u32::try_from(missing.below(u32::MAX).count()).unwrap_or(u32::MAX));
        }
        Ok(answer)
    }

    fn begun(&self) -> Answer {
        let missing = self.slots.missing().map_err(refusal)?;
        let slot = self.slots.receiving().map_or(String::new(), |r| r.0.to_string());
        let missing: ChunkRanges = missing.into_iter().filter_map(|i| u32::try_from(i).ok()).collect();
        Ok(Response::Begun { missing, slot })
    }

    fn chunk(&mut self, index: u32, stored: &[u8]) -> Answer {
        self.slots.put_chunk(usize::try_from(index).unwrap_or(usize::MAX), stored).map_err(refusal)?;
        self.received.0 += 1;
        Ok(Response::ChunkStored { index })
    }

    /// Puts the bundle together, tests it, and only then runs it.
    fn finish(&mut self, progress: &mut dyn FnMut(Progress)) -> Answer {
        let slot = self.slots.finish().map_err(refusal)?;
        self.received = (0, 0);
        let (running, test) = match self.load(slot, progress) {
            Ok(loaded) => loaded,
            Err(e) => {
                let reason = format!("{e:#}");
                self.slots.condemn(slot, &reason).map_err(refusal)?;
                return Err((
                    RefusalCode::Unsupported,
                    format!("slot {slot} cannot run: {reason}; the old bundle still runs"),
                ));
            }
        };
        if !test.passed() {
            let reason = test.reason();
            self.slots.condemn(slot, &reason).map_err(refusal)?;
            return Err((RefusalCode::Gate, format!("the self-test failed: {reason}; the old bundle still runs")));
        }
        self.slots.activate(slot).map_err(refusal)?;
        self.running = Some(running);
        self.content = Content::default();
        if self.config.commit == Commit::Auto {
            self.slots.commit().map_err(refusal)?;
        }
        log(&format!("slot {slot} runs after {} golden samples", test.samples));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let self_test = graft_link::messages::SelfTest {
            passed: true,
            samples: number(test.samples),
            failed: 0,
            max_abs_diff: test.max_abs_diff,
            latency_ms: test.latency_ms,
        };
        Ok(Response::Finished { slot: slot.to_string(), self_test })
    }

    fn rollback(&mut self) -> Answer {
        let slot = self.slots.rollback("rolled back by a host").map_err(refusal)?;
        let (running, test) = self.load(slot, &mut |_| ()).map_err(|e| (RefusalCode::Internal, format!("{e:#}")))?;
        if !test.passed() {
            log(&format!("slot {slot} runs although its self-test failed: {}", test.reason()));
        }
        self.running = Some(running);
        self.content = Content::default();
        Ok(Response::Done)
    }

    /// Classifies a picture, shows and stores the answer.
    ///
    /// # Errors
    ///
    /// The kind of refusal and its reason.
    pub fn classify(&mut self, name: &str, image: &[u8]) -> Result<Classified, (RefusalCode, String)> {
        let running = self.running.as_ref();
        let model = running.map(|r| Arc::clone(&r.model)).ok_or_else(|| (RefusalCode::NoModel, self.summary()))?;
        let picture = picture::decode(image).map_err(|e| (RefusalCode::Image, format!("{name}: {e}")))?;
        let found = model.classify(&picture).map_err(|e| (RefusalCode::Internal, e.to_string()))?;
        let latency_ms = found.latency.as_secs_f32() * 1e3;
        let label_of = |i: usize| model.labels().get(i).cloned().unwrap_or_else(|| format!("class {i}"));
        let mut order: Vec<usize> = (0..found.probabilities.len()).collect();
        order.sort_by(|&a, &b| found.probabilities[b].total_cmp(&found.probabilities[a]));
        let top = order.into_iter().take(TOP).map(|i| (label_of(i), found.probabilities[i])).collect();
        self.predictions += 1;
        let record = Record {
            id: 0,
            unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0)),
            source: name.chars().take(200).collect(),
            label: found.label.clone(),
            probability: found.probability,
            latency_ms,
        };
        let kept = (self.config.pictures == Pictures::Keep).then_some(image);
        if let Err(e) = self.store.add(record, kept) {
            // The answer is worth more than its record: a full disk must not stop the device.
            log(&format!("cannot store a prediction: {e}"));
        }
        self.content = Content {
            label: Some(found.label.clone()),
            probability: found.probability,
            unsure: found.probability < self.config.unsure_below,
            thumbnail: Some(image::imageops::thumbnail(
                &picture,
                THUMBNAIL.min(picture.width()),
                THUMBNAIL.min(picture.height()),
            )),
            latency_ms,
            ..Content::default()
        };
        self.show();
        Ok(Classified { label: found.label, probability: found.probability, latency_ms, top })
    }

    fn recent(&self, count: u32) -> Vec<Prediction> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let told = |r: Record| Prediction {
            id: r.id,
            unix_ms: r.unix_ms,
            source: r.source,
            label: r.label,
            probability: r.probability,
            latency_ms: r.latency_ms,
        };
        self.store.recent(count).into_iter().map(told).collect()
    }

    fn show(&mut self) {
        let state = self.running.as_ref().and_then(|r| self.slots.installed(r.slot)).map(|i| match i.status {
            Status::Trial { .. } => "on trial",
            Status::Committed => "committed",
            _ => "",
        });
        self.content.slot = match (&self.running, state) {
            (Some(r), state) => format!("slot {} {}", r.slot, state.unwrap_or_default()),
            (None, _) => "no bundle".into(),
        };
        self.content.model = self.running.as_ref().map_or_else(|| self.config.name.clone(), |r| r.name.clone());
        self.content.link = match (self.received, self.hosts) {
            ((done, total), _) if total > 0 && done < total => Link::Receiving { done, total },
            (_, 0) => Link::Waiting,
            _ => Link::Connected,
        };
        if let Err(e) = self.display.show(&self.content) {
            log(&format!("cannot show: {e}"));
        }
    }
}

/// Side of the picture on the screen.
const THUMBNAIL: u32 = 104;

/// Writes a line for the journal.
pub(crate) fn log(text: &str) {
    eprintln!("graftd: {text}");
}

fn refusal(error: SlotError) -> (RefusalCode, String) {
    let code = match &error {
        SlotError::Bundle(e) => match e {
            BundleError::Signature { .. }
            | BundleError::SignatureKind(_)
            | BundleError::Untrusted { .. }
            | BundleError::Unsigned => RefusalCode::Signature,
            BundleError::Version { .. } => RefusalCode::Version,
            BundleError::Limit { .. } => RefusalCode::Space,
            BundleError::Magic | BundleError::Manifest(_) => RefusalCode::Malformed,
            _ => RefusalCode::Digest,
        },
        SlotError::Space { .. } => RefusalCode::Space,
        SlotError::Disk { .. } | SlotError::State(_) => RefusalCode::Internal,
        _ => RefusalCode::State,
    };
    // The chain holds what the system said.
    (code, format!("{:#}", anyhow::Error::new(error)))
}

#[cfg(test)]
mod tests;
