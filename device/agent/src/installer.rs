//! The installer: takes bundles from hosts, has the engine test them, and decides at a start what runs.
//!
//! Everything that could leave a device without a model is in here and in [`crate::slots`], and nothing else: engine and
//! disk are traits, so that `graft torture` runs this very code on a disk that fails.

use std::time::{Duration, Instant};

use graft_bundle::{Bundle, BundleError, Head, Manifest, Needs, Offer, TrustPolicy};
use graft_link::Host;
use graft_link::messages::{ChunkRanges, LogEntry, Progress, RefusalCode, Request, Response, SlotInfo, SlotState};

use crate::disk::FileSystem;
use crate::selftest::SelfTest;
use crate::slots::{Assembled, Clock, Confirm, Event, Installed, Slot, SlotError, Slots, Status};

/// What turns the bundle in a slot into something that runs.
pub trait Engine<F> {
    /// A loaded model.
    type Model;

    /// Loads a slot's model and tests it; `tick` is called now and then meanwhile.
    ///
    /// # Errors
    ///
    /// Why it cannot run, in a line.
    fn load(
        &self,
        slots: &Slots<F>,
        slot: Slot,
        tick: &mut dyn FnMut(Progress),
    ) -> Result<(Self::Model, SelfTest), String>;
}

/// Whether opening the installer is a start of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is: a trial uses one up.
    Counts,
    /// It only looks, and changes nothing.
    Looks,
}

/// What a device takes and when that becomes permanent.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Whose bundles are taken.
    pub policy: TrustPolicy,
    /// What bundles may ask for.
    pub offer: Offer,
    /// When a trial ends well.
    pub confirm: Confirm,
    /// Most bytes of a bundle on disk.
    pub max_bundle_bytes: u64,
    /// What the log's times are from.
    pub clock: Clock,
}

/// The bundle that runs.
#[derive(Debug)]
pub struct Running<M> {
    /// Where it is.
    pub slot: Slot,
    /// Its name.
    pub name: String,
    /// Its model.
    pub model: M,
}

/// A refusal for the host.
pub type Refusal = (RefusalCode, String);

/// Slots with what runs from them.
#[derive(Debug)]
pub struct Installer<F, E: Engine<F>> {
    slots: Slots<F>,
    engine: E,
    rules: Rules,
    start: Start,
    running: Option<Running<E::Model>>,
    /// Chunks the present transfer had to send, and those that have come.
    received: (u32, u32),
    notes: Vec<String>,
}

impl<F: FileSystem, E: Engine<F>> Installer<F, E> {
    /// Opens the slots and loads what is to run; `notes` tell what went wrong meanwhile.
    ///
    /// # Errors
    ///
    /// [`SlotError::Format`]. That nothing runs is none.
    pub fn open(files: F, engine: E, rules: Rules, start: Start) -> Result<Self, SlotError> {
        let slots = Slots::open(files, rules.max_bundle_bytes, rules.clock)?;
        let notes = slots.damage().map(|d| format!("no copy of the state was whole: {d}")).into_iter().collect();
        let mut this = Self { slots, engine, rules, start, running: None, received: (0, 0), notes };
        this.begin_running();
        Ok(this)
    }

    /// Loads the first bundle that passes its self-test.
    fn begin_running(&mut self) {
        if self.start == Start::Counts
            && let Some(reason) = self.slots.boot()
        {
            self.notes.push(format!("went back: {reason}"));
        }
        let mut failures = Vec::new();
        for slot in self.slots.candidates() {
            let mut tried = self.try_slot(slot, &mut |_| ());
            if let Err((RefusalCode::Unsupported, _)) = tried {
                // A disk that stumbles once must not cost a bundle its place.
                tried = self.try_slot(slot, &mut |_| ());
            }
            match tried {
                Ok((running, _)) => {
                    self.running = Some(running);
                    break;
                }
                Err((_, reason)) => {
                    self.notes.push(format!("slot {slot} cannot run: {reason}"));
                    failures.push((slot, reason));
                }
            }
        }
        let runs = self.running.as_ref().map(|r| r.slot);
        if self.start == Start::Counts
            && let Err(e) = self.slots.settle(runs, &failures)
        {
            self.notes.push(format!("{:#}", anyhow::Error::new(e)));
        }
    }

    /// Loads and tests a slot; a failed test is a refusal.
    fn try_slot(&self, slot: Slot, tick: &mut dyn FnMut(Progress)) -> Result<(Running<E::Model>, SelfTest), Refusal> {
        let name = self.slots.installed(slot).map_or_else(String::new, |i| i.name);
        match self.engine.load(&self.slots, slot, tick) {
            Ok((model, test)) if test.passed() => Ok((Running { slot, name, model }, test)),
            Ok((_, test)) => Err((RefusalCode::Gate, test.reason())),
            Err(reason) => Err((RefusalCode::Unsupported, reason)),
        }
    }

    /// Returns the slots.
    pub fn slots(&self) -> &Slots<F> {
        &self.slots
    }

    /// Returns what runs.
    pub fn running(&self) -> Option<&Running<E::Model>> {
        self.running.as_ref()
    }

    /// Returns the chunks of the present transfer that have come, and those that were to come.
    pub fn received(&self) -> (u32, u32) {
        self.received
    }

    /// Takes the notes for the device's journal.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Answers a host's request that concerns bundles; others are handed back.
    ///
    /// # Errors
    ///
    /// The request itself.
    pub fn answer(
        &mut self,
        request: Request,
        progress: &mut dyn FnMut(Progress) -> Host,
    ) -> Result<Result<Response, Refusal>, Request> {
        Ok(match request {
            Request::Slots => Ok(Response::Slots(self.slots.all().map(|s| self.slot_info(s)).collect())),
            Request::Begin { head } => self.begin(&head, progress),
            Request::Missing => self.begun(),
            Request::Chunk { index, stored } => self.chunk(index, &stored),
            Request::Finish => self.finish(progress),
            Request::Commit => self.slots.commit().map(|_| Response::Done).map_err(refusal),
            Request::Rollback => self.go_back("rolled back by a host", progress).map(|()| Response::Done),
            Request::Log { count } => Ok(Response::Log(self.log(usize::try_from(count).unwrap_or(usize::MAX)))),
            other => return Err(other),
        })
    }

    /// Returns what a host is told of a slot.
    pub fn slot_info(&self, slot: Slot) -> SlotInfo {
        let receiving = self.slots.receiving().filter(|r| r.0 == slot);
        let installed = self.slots.installed(slot);
        let state = match installed.as_ref().map(|i| &i.status) {
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
            bundle_name: installed.as_ref().map_or_else(|| receiving.map_or("", |r| r.1).into(), |i| i.name.clone()),
            bundle_digest: installed.map_or([0; 32], |i: Installed| i.digest.0),
            current: self.slots.current() == Some(slot),
        }
    }

    /// Returns what happened to slots, the newest first.
    fn log(&self, count: usize) -> Vec<LogEntry> {
        let told = |e: &Event| {
            let name = if e.name.is_empty() { String::new() } else { format!(" ({})", e.name) };
            LogEntry { unix_ms: e.unix_ms, text: format!("slot {}{name} {}", e.slot, e.what) }
        };
        self.slots.log().iter().rev().take(count).map(told).collect()
    }

    fn begin(&mut self, head: &[u8], progress: &mut dyn FnMut(Progress) -> Host) -> Result<Response, Refusal> {
        let head = Head::parse(head).map_err(|e| refusal(e.into()))?;
        head.trust(&self.rules.policy).map_err(|e| refusal(e.into()))?;
        self.meet(head.manifest())?;
        let mut tick = paced(progress, "looking at what is here");
        self.slots.begin(head, self.rules.confirm, &mut tick).map_err(refusal)?;
        let answer = self.begun()?;
        if let Response::Begun { missing, .. } = &answer {
            self.received = (0, number(missing.below(u32::MAX).count()));
        }
        Ok(answer)
    }

    /// Refuses a bundle that asks for what this device has not.
    fn meet(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let needs = Needs::of(manifest).map_err(|e| refusal(e.into()))?;
        needs.unmet(&self.rules.offer).map_or(Ok(()), |lacks| Err((RefusalCode::Unsupported, lacks.to_string())))
    }

    fn begun(&self) -> Result<Response, Refusal> {
        let missing = self.slots.missing().map_err(refusal)?;
        let slot = self.slots.receiving().map(|r| r.0).or(self.slots.current());
        let missing: ChunkRanges = missing.into_iter().filter_map(|i| u32::try_from(i).ok()).collect();
        Ok(Response::Begun { missing, slot: slot.map_or_else(String::new, |s| s.to_string()) })
    }

    fn chunk(&mut self, index: u32, stored: &[u8]) -> Result<Response, Refusal> {
        self.slots.put_chunk(usize::try_from(index).unwrap_or(usize::MAX), stored).map_err(refusal)?;
        self.received.0 += 1;
        Ok(Response::ChunkStored { index })
    }

    /// Puts the bundle together, tests it, and only then runs it: if the host that asked is still there.
    fn finish(&mut self, progress: &mut dyn FnMut(Progress) -> Host) -> Result<Response, Refusal> {
        let assembled = self.slots.assemble(&mut paced(progress, "putting the bundle together")).map_err(refusal)?;
        self.received = (0, 0);
        let (slot, is_running) = match assembled {
            Assembled::Runs(slot) => (slot, true),
            Assembled::New(head) => {
                if is_gone(progress, "making room") {
                    return Err(left("nothing was changed"));
                }
                if self.slots.gives_up_trial() {
                    self.go_back("given up for a newer bundle", progress)?;
                }
                (self.slots.install(&head).map_err(refusal)?, false)
            }
        };
        let (running, test) = match self.try_slot(slot, &mut |p| _ = progress(p)) {
            Ok(passed) => passed,
            Err((code, reason)) => {
                if !is_running {
                    self.slots.condemn(slot, &reason).map_err(refusal)?;
                }
                return Err((code, format!("slot {slot} is not started, the old bundle still runs: {reason}")));
            }
        };
        if !is_running {
            if is_gone(progress, "starting the bundle") {
                let left = left(&format!("slot {slot} is not started"));
                self.notes.push(left.1.clone());
                return Err(left);
            }
            self.slots.activate(slot, self.rules.confirm).map_err(refusal)?;
            self.notes.push(format!("slot {slot} runs after {} golden samples", test.samples));
        }
        self.running = Some(running);
        let self_test = graft_link::messages::SelfTest {
            passed: true,
            samples: number(test.samples),
            failed: 0,
            max_abs_diff: test.max_abs_diff,
            latency_ms: test.latency_ms,
        };
        Ok(Response::Finished { slot: slot.to_string(), self_test })
    }

    /// Goes back only to what passes its self-test now.
    fn go_back(&mut self, why: &str, progress: &mut dyn FnMut(Progress) -> Host) -> Result<(), Refusal> {
        let to = self.slots.back().map_err(refusal)?;
        let (running, _) = self
            .try_slot(to, &mut |p| _ = progress(p))
            .map_err(|(code, reason)| (code, format!("slot {to} cannot run, all is as it was: {reason}")))?;
        self.slots.rollback(why).map_err(refusal)?;
        self.running = Some(running);
        Ok(())
    }

    /// Counts a picture that was classified well.
    pub fn classified(&mut self) {
        if self.start == Start::Looks {
            return;
        }
        match self.slots.classified(self.rules.confirm) {
            Ok(true) => self.notes.push("the trial is over: the bundle is committed".into()),
            Ok(false) => {}
            // The answer is worth more than the count.
            Err(e) => self.notes.push(format!("{:#}", anyhow::Error::new(e))),
        }
    }

    /// Fills the empty factory slot with a bundle that passes its self-test here.
    ///
    /// # Errors
    ///
    /// Why not; the slot is empty then.
    pub fn fill_factory(&mut self, bundle: &Bundle) -> Result<SelfTest, Refusal> {
        bundle.head().trust(&self.rules.policy).map_err(|e| refusal(e.into()))?;
        self.meet(bundle.manifest())?;
        self.slots.fill_factory(bundle).map_err(refusal)?;
        match self.try_slot(Slot::Factory, &mut |_| ()) {
            Ok((_, test)) => Ok(test),
            Err(reason) => {
                self.slots.clear_factory().map_err(refusal)?;
                Err(reason)
            }
        }
    }
}

/// Returns what may be called often: the host is told now and then, since each word takes the line some time.
fn paced<'a>(progress: &'a mut dyn FnMut(Progress) -> Host, text: &'a str) -> impl FnMut() + 'a {
    let mut last = Instant::now();
    move || {
        if last.elapsed() >= EVERY {
            last = Instant::now();
            progress(Progress { text: text.into(), done: 0, total: 0 });
        }
    }
}

/// Tells the host what is next, and whether there is none any more.
fn is_gone(progress: &mut dyn FnMut(Progress) -> Host, next: &str) -> bool {
    progress(Progress { text: next.into(), done: 0, total: 0 }) == Host::Gone
}

/// Returns the answer to a host that left; the next one that flashes the bundle has nothing to send.
fn left(what: &str) -> Refusal {
    (RefusalCode::State, format!("{what}, what ran goes on: the host left before the end of the flash"))
}

/// A host that hears nothing for some seconds takes the device for gone.
const EVERY: Duration = Duration::from_millis(500);

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(crate) fn refusal(error: SlotError) -> Refusal {
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
        SlotError::Space { .. } | SlotError::Left { .. } => RefusalCode::Space,
        SlotError::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => RefusalCode::Space,
        SlotError::Disk { .. } | SlotError::Format { .. } => RefusalCode::Internal,
        _ => RefusalCode::State,
    };
    // The chain holds what the system said.
    (code, format!("{:#}", anyhow::Error::new(error)))
}
