//! The agent: what the device does with bundles and pictures, whoever asks.
//!
//! One agent serves every line; callers lock it. Knows nothing of ports; what becomes of bundles is [`crate::installer`]'s.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use graft_bundle::{Bundle, Offer, TrustPolicy};
use graft_camera::Picture;
use graft_link::Host;
use graft_link::messages::{
    About, Classified, DeviceInfo, Judged, MAX_TEXT, MAX_TOLD, Prediction, Progress, RefusalCode, Request, Response,
    SlotState,
};
use graft_runtime::decision::doubt;
use graft_runtime::{ENGINE, Prediction as Answer, Standing};

use crate::board;
use crate::clock;
use crate::config::{Config, Pictures, Unsigned};
use crate::disk::Folder;
use crate::display::{Display, Spec};
use crate::feed::{Camera, Feed};
use crate::guard::Guard;
use crate::health::Health;
use crate::installer::{Installer, Rules};
use crate::measuring::{self, Place, Spool};
use crate::screen::{Content, Link, Notice};
use crate::selftest::SelfTest;
use crate::slots::{Slot, Status};
use crate::status::{self, Last, Status as Report, StoreStatus};
use crate::store::{Record, Store, When};
use crate::turns::Turns;
use crate::vote::Vote;

pub use crate::installer::Start;
pub use look::{Job, Seen, look};
pub(crate) use shipped::{telling, tried};

mod look;
mod shipped;

use look::{bytes_of, top, value};
use shipped::Shipped;

/// A device.
pub struct Agent {
    config: Config,
    guard: Arc<Guard>,
    installer: Installer<Folder, Shipped>,
    rules: Rules,
    /// For a bundle that is to be measured.
    place: Arc<Place>,
    store: Store,
    display: Display,
    content: Content,
    hosts: u32,
    /// Chunks of a bundle that came, of how many, and when the last one did.
    received: ((u32, u32), Option<Duration>),
    predictions: u64,
    start: Instant,
    vote: Vote,
    turns: Arc<Turns>,
    feed: Option<Arc<Feed>>,
    camera: Camera,
    /// Of the last answer.
    origin: Origin,
    /// Why a picture got none.
    error: Option<String>,
    /// Why the disk takes nothing.
    disk_ails: Option<String>,
    health: Health,
    /// When it was read, on [`clock::running`].
    health_at: Option<Duration>,
}

/// Where a picture comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A host asks about it, and about it alone.
    Host,
    /// The device's camera, of which several pictures in a row may show the same.
    Source,
}

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
        let hosts =
            config.trusted_hosts.iter().map(|k| k.parse().context("reading trusted_hosts")).collect::<Result<_>>()?;
        let mut config = config;
        if let Some(name) = board::given_name(&config.root) {
            config.name = name;
        }
        let root = &config.root;
        let doing = || format!("opening the device's folder {}", root.display());
        let folder = Folder::open(root).with_context(doing)?;
        let engine = Shipped { root: root.clone(), max_packed_bytes: config.max_bundle_bytes };
        let rules = Rules {
            policy: TrustPolicy { keys, unsigned },
            offer: Offer {
                agent: Some(env!("CARGO_PKG_VERSION").into()),
                // That of a card in another machine is not to be seen there.
                board: (start == Start::Counts).then(board::name),
                memory_bytes: (start == Start::Counts).then(board::memory_bytes).flatten(),
            },
            confirm: config.confirm,
            max_bundle_bytes: config.max_bundle_bytes,
            clock: clock::unix_ms,
        };
        let mut installer = Installer::open(folder, engine, rules.clone(), start).with_context(doing)?;
        installer.take_notes().iter().for_each(|note| log(note));
        let store = Store::open(&root.join("store"), config.max_store_bytes).at_most_hourly(config.pictures_per_hour);
        if let Some(reason) = store.ails() {
            log(&format!("predictions are kept in memory alone: {reason}"));
        }
        let spec: Spec = config.display.parse().context("reading display")?;
        let display = Display::open(&spec, root).context("opening the display")?;
        let guard = Arc::new(Guard::open(root, hosts).context("making the device's key")?);
        let received = installer.received();
        let mut agent = Self {
            guard,
            installer,
            rules,
            place: Arc::default(),
            store,
            display,
            content: Content::default(),
            hosts: 0,
            received: (received, None),
            predictions: 0,
            start: Instant::now(),
            vote: Vote::new(config.vote as usize, config.vote_gap),
            turns: Arc::default(),
            feed: None,
            camera: Camera::None,
            origin: Origin::Source,
            error: None,
            disk_ails: None,
            health: Health::default(),
            health_at: None,
            config,
        };
        agent.show();
        Ok(agent)
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

    /// Returns who the device is, and whom it trusts.
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Returns who goes first where several want the agent.
    pub fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    /// Returns the device's place for a bundle that is to be measured.
    pub fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }

    /// Returns the largest bundle that is taken, in bytes on disk.
    pub fn max_bundle_bytes(&self) -> u64 {
        self.config.max_bundle_bytes
    }

    /// Takes what brings pictures from the source, to tell of it.
    pub fn attach(&mut self, feed: Arc<Feed>) {
        self.feed = Some(feed);
    }

    /// Shows what has become of the source.
    pub fn show_camera(&mut self, camera: Camera) {
        (self.camera, self.origin) = (camera, Origin::Source);
        self.show();
    }

    /// Shows why a picture got no answer, until another one gets one.
    pub fn show_error(&mut self, error: String) {
        self.error = Some(error);
        self.show();
    }

    /// Returns what runs, in a line.
    pub fn summary(&self) -> String {
        match self.installer.running() {
            Some(r) => format!("slot {}: {}", r.slot, r.name),
            None => "no bundle runs; flash one".into(),
        }
    }

    /// Answers a request of the link.
    pub fn answer(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        let is_change = matches!(request, Request::Finish | Request::Rollback);
        let answer = match self.installer.answer(request, progress) {
            Ok(answer) => {
                if is_change && answer.is_ok() {
                    self.content = Content::default();
                }
                answer
            }
            Err(Request::Info) => Ok(Response::Info(self.info())),
            Err(Request::Classify { name, image }) => {
                self.classify(&name, &image).map(|judged| Response::Classified(judged.classified))
            }
            Err(Request::Judge { name, image }) => self.classify(&name, &image).map(Response::Judged),
            Err(
                request @ (Request::Kept { .. }
                | Request::Picture { .. }
                | Request::Forget { .. }
                | Request::Predictions { .. }),
            ) => self.bring(request),
            Err(Request::About) => Ok(Response::About(self.about())),
            Err(Request::Rename { name }) => self.rename(name),
            Err(Request::Clock { set_unix_ms }) => {
                let is_system = set_unix_ms.is_none_or(clock::set);
                Ok(Response::Clock { unix_ms: clock::unix_ms(), is_system })
            }
            Err(Request::Screen) => Ok(Response::Screen { png: self.display.png() }),
            Err(Request::Recent { count }) => Ok(Response::Recent(self.recent(count))),
            Err(_) => Err((RefusalCode::Malformed, "this device does not know the request; update it".into())),
        };
        self.installer.take_notes().iter().for_each(|note| log(note));
        self.show();
        answer.unwrap_or_else(|(code, message)| Response::Refused { code, message })
    }

    /// Tests and times a bundle that a host has brought, and forgets it.
    pub fn measure(&mut self, spool: Spool, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        match measuring::measure(spool, &self.rules, &self.config.root, progress) {
            Ok(found) => {
                log(&format!("measured a bundle for a host: {:.2} ms", found.network_ms));
                Response::Measured(found)
            }
            Err((code, message)) => Response::Refused { code, message },
        }
    }

    fn about(&self) -> About {
        About {
            board: board::name(),
            system: board::system(),
            key: self.guard.key().to_bytes(),
            max_bundle_bytes: self.config.max_bundle_bytes,
            // Whether this host is: that is for its line to say.
            is_guarded: false,
        }
    }

    fn rename(&mut self, name: String) -> Result<Response, (RefusalCode, String)> {
        if !board::is_name(&name) {
            return Err((
                RefusalCode::State,
                format!("expected 1 to 64 printable characters as a name, found {name:?}"),
            ));
        }
        board::give_name(&self.config.root, &name)
            .map_err(|e| (RefusalCode::Internal, format!("cannot keep the name on the device's disk: {e}")))?;
        log(&format!("renamed from {} to {name}", self.config.name));
        self.config.name = name;
        Ok(Response::Done)
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            arch: std::env::consts::ARCH.into(),
            engine: ENGINE.into(),
            uptime_ms: u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            slot: self.installer.running().map(|r| r.slot.to_string()),
            bundle_name: self.installer.running().map(|r| r.name.clone()),
            predictions: self.predictions,
            free_bytes: self.installer.slots().free_bytes().unwrap_or(self.config.max_bundle_bytes),
        }
    }

    /// Fills the empty factory slot with a bundle that passes its self-test here.
    ///
    /// # Errors
    ///
    /// The kind of refusal and its reason; the slot is empty then.
    pub fn fill_factory(&mut self, bundle: &Bundle) -> Result<SelfTest, (RefusalCode, String)> {
        self.installer.fill_factory(bundle)
    }

    /// Classifies a picture, shows and stores the answer.
    ///
    /// # Errors
    ///
    /// The kind of refusal and its reason.
    pub fn classify(&mut self, name: &str, image: &[u8]) -> Result<Judged, (RefusalCode, String)> {
        let picture = Picture::File(image.to_vec());
        let seen = look(&self.job()?, name, &picture)?;
        Ok(self.conclude(seen, &picture, Origin::Host))
    }

    /// Returns what pictures are answered with.
    ///
    /// # Errors
    ///
    /// [`RefusalCode::NoModel`].
    pub fn job(&self) -> Result<Job, (RefusalCode, String)> {
        let job = self.installer.running().map(|r| Job { model: Arc::clone(&r.model), bundle: text(&r.name) });
        job.ok_or_else(|| (RefusalCode::NoModel, self.summary()))
    }

    /// Shows and stores the answer on a picture.
    pub fn conclude(&mut self, seen: Seen, image: &Picture, origin: Origin) -> Judged {
        let Seen { job: Job { model, bundle }, name, found: alone, scene, thumbnail } = seen;
        let is_finite = alone.probability.is_finite();
        let value = value(&alone);
        let (found, frames) = match origin {
            Origin::Host => (alone, 1),
            Origin::Source => self.vote.add(&model, clock::running(), scene, alone),
        };
        let top = top(&model, &found);
        let doubt = self.doubt(&found);
        let latency_ms = found.latency.as_secs_f32() * 1e3;
        self.predictions += 1;
        let record = Record {
            id: 0,
            unix_ms: clock::unix_ms(),
            source: text(&name),
            model: bundle,
            label: text(&found.label),
            probability: found.probability,
            value,
            second: top.get(1).map(|(label, p)| (text(label), *p)),
            doubt: doubt.as_deref().map(text),
            latency_ms,
            frames: u32::try_from(frames).unwrap_or(u32::MAX),
        };
        let is_wanted = match self.config.pictures {
            Pictures::Drop => false,
            Pictures::Unsure => doubt.is_some(),
            Pictures::Keep => true,
        };
        let is_kept = self.keep(record, is_wanted.then(|| bytes_of(image)).flatten(), origin);
        (self.origin, self.error) = (origin, None);
        self.content = Content {
            label: Some(found.label.clone()),
            probability: found.probability,
            doubt: doubt.clone(),
            thumbnail: Some(thumbnail),
            latency_ms,
            frames,
            ..Content::default()
        };
        // Of a bundle that was replaced meanwhile this says nothing about its successor.
        let is_running = self.installer.running().is_some_and(|r| Arc::ptr_eq(&r.model, &model));
        if is_finite && is_running {
            self.installer.classified();
        }
        self.installer.take_notes().iter().for_each(|note| log(note));
        self.show();
        let classified = Classified { label: found.label, probability: found.probability, latency_ms, top };
        Judged { classified, set: found.set, doubt, is_kept }
    }

    /// Stores a prediction; returns whether its picture is kept.
    fn keep(&mut self, record: Record, image: Option<Cow<'_, [u8]>>, origin: Origin) -> bool {
        let when = if origin == Origin::Host { When::Now } else { When::Soon };
        let stored = self.store.add_when(record, image.as_deref(), when);
        let id = stored.as_ref().ok().copied();
        self.note_disk(stored.map(drop));
        id.is_some_and(|id| self.store.keeps(id))
    }

    /// Says once what the disk ails. An answer is worth more than its record: a full disk must not stop the device.
    fn note_disk(&mut self, outcome: std::io::Result<()>) {
        let ails = outcome.err().map(|e| e.to_string());
        if ails.is_some() && ails != self.disk_ails {
            log(&format!("cannot store predictions: {}", ails.as_deref().unwrap_or_default()));
        }
        self.disk_ails = ails;
    }

    /// Has all predictions on the disk.
    pub fn flush(&mut self) {
        let outcome = self.store.flush();
        self.note_disk(outcome);
    }

    /// Does what is due now and then.
    pub fn tick(&mut self) {
        if let Err(e) = self.store.flush_in_time() {
            self.note_disk(Err(e));
        }
        let now = clock::running();
        if self.health_at.is_some_and(|at| now.saturating_sub(at) < HEALTH) {
            return;
        }
        self.health_at = Some(now);
        self.health = Health::read(&self.config.root);
        if let Some(path) = self.config.metrics.clone()
            && let Err(e) = status::write_metrics(&path, &self.report())
        {
            log(&format!("cannot write metrics to {}: {e}", path.display()));
        }
        self.show();
    }

    /// Returns how the device is.
    pub fn report(&self) -> Report {
        let info = self.info();
        let (pictures, bytes) = self.store.tally();
        let last = self.store.recent(1).pop().map(|r| Last {
            unix_ms: r.unix_ms,
            source: r.source,
            label: r.label,
            probability: r.probability,
            doubt: r.doubt,
            frames: r.frames.max(1),
            latency_ms: r.latency_ms,
        });
        Report {
            name: info.name,
            version: info.version,
            uptime_seconds: info.uptime_ms / 1000,
            slot: info.slot,
            bundle: info.bundle_name,
            predictions: info.predictions,
            hosts: self.hosts,
            source: self.config.source.as_ref().map(ToString::to_string),
            camera: self.camera.clone(),
            frames: self.feed.as_ref().map(|f| f.counts()).unwrap_or_default(),
            store: StoreStatus { bytes, limit_bytes: self.store.limit(), pictures, ails: self.disk_ails.clone() },
            last,
            health: self.health.clone(),
        }
    }

    /// Says why an answer is not to be relied on: as the bundle was calibrated, or as the owner has set.
    fn doubt(&self, found: &Answer) -> Option<String> {
        let below = match (found.standing, self.config.unsure_below) {
            (Standing::Unfamiliar, _) => return found.doubt.clone(),
            (_, Some(below)) => below,
            (Standing::Unknown, None) => UNSURE_BELOW,
            (_, None) => return found.doubt.clone(),
        };
        let standing = if found.probability < below { Standing::Unsure } else { Standing::Sure };
        doubt(standing, &found.label, &found.set)
    }

    /// Answers what brings predictions and pictures to a host.
    fn bring(&mut self, request: Request) -> Result<Response, (RefusalCode, String)> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let count_of = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        if matches!(request, Request::Predictions { .. }) {
            self.flush();
        }
        let store = &mut self.store;
        let answer = match request {
            Request::Kept { skip, count } => store.number().and_then(|number_of| {
                let (total, pictures) = store.kept(count_of(skip), count_of(count))?;
                Ok(Response::Kept { store: number_of, total: number(total), pictures })
            }),
            Request::Picture { id, offset, count } => {
                store.part(id, offset, count_of(count)).map(|bytes| Response::Picture { bytes })
            }
            Request::Forget { pictures } if pictures.len() > MAX_TOLD => {
                let found = pictures.len();
                return Err((RefusalCode::Malformed, format!("expected at most {MAX_TOLD} pictures, found {found}")));
            }
            Request::Forget { pictures } => {
                store.forget(&pictures).map(|count| Response::Forgotten { count: number(count) })
            }
            Request::Predictions { after, count } => store.number().and_then(|number_of| {
                Ok(Response::Predictions { store: number_of, predictions: store.after(after, count_of(count))? })
            }),
            _ => return Err((RefusalCode::Malformed, "not of the store".into())),
        };
        answer.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                (RefusalCode::State, "this picture is kept no longer; more valuable ones took its room".into())
            }
            _ => (RefusalCode::Internal, format!("reading or writing the store on the device's disk: {e}")),
        })
    }

    /// Returns what the whole screen is to say.
    fn notice(&self) -> Option<Notice> {
        // A host that has gone away in the middle must not hide answers for ever.
        let is_moving = self.received.1.is_some_and(|at| clock::running().saturating_sub(at) < STALLED);
        if let (Link::Receiving { done, total }, true) = (self.content.link, is_moving) {
            return Some(Notice::Updating { done, total });
        }
        if let Some(error) = &self.error {
            return Some(Notice::Error(error.clone()));
        }
        let has_failed = |slot| self.installer.slot_info(slot).state == SlotState::Failed;
        if self.installer.running().is_none() && [Slot::A, Slot::B].into_iter().any(has_failed) {
            return Some(Notice::Error("no bundle that is here may run; flash one".into()));
        }
        match &self.camera {
            // A host that asks about a picture sees its answer.
            Camera::Gone(reason) if self.origin == Origin::Source => Some(Notice::NoCamera(reason.clone())),
            _ => None,
        }
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
        let state =
            self.installer.running().and_then(|r| self.installer.slots().installed(r.slot)).map(|i| match i.status {
                Status::Trial { .. } => "on trial",
                Status::Committed => "committed",
                _ => "",
            });
        self.content.slot = match (self.installer.running(), state) {
            (Some(r), state) => format!("slot {} {}", r.slot, state.unwrap_or_default()),
            (None, _) => "no bundle".into(),
        };
        self.content.model = self.installer.running().map_or_else(|| self.config.name.clone(), |r| r.name.clone());
        self.content.link = match (self.installer.received(), self.hosts) {
            ((done, total), _) if total > 0 && done < total => Link::Receiving { done, total },
            (_, 0) => Link::Waiting,
            _ => Link::Connected,
        };
        if self.received.0 != self.installer.received() {
            self.received = (self.installer.received(), Some(clock::running()));
        }
        self.content.notice = self.notice();
        self.content.warning = match &self.disk_ails {
            Some(_) if self.health.is_disk_full() => Some("storage full".into()),
            Some(_) => Some("cannot store".into()),
            None => self.health.warning(),
        };
        if let Err(e) = self.display.show(&self.content) {
            log(&format!("cannot show: {e}"));
        }
    }
}

/// Cuts a text to what a message takes.
fn text(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Answers of an uncalibrated bundle below this probability are unsure.
const UNSURE_BELOW: f32 = 0.5;

/// A transfer that stands still for so long is none.
const STALLED: Duration = Duration::from_secs(30);
/// How often the board's health is looked at.
const HEALTH: Duration = Duration::from_secs(60);

/// Writes a line for the journal.
pub(crate) fn log(text: &str) {
    eprintln!("graftd: {text}");
}

#[cfg(test)]
pub(crate) mod tests;
