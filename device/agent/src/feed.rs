//! From a source to the agent: what gives pictures and what answers them run side by side, with a short queue between them.
//!
//! Every picture that was seen is accounted for: left out because of a rate or a camera's warm-up, dropped because the engine was
//! slower than the camera, refused, or classified. Files of a folder are never dropped: they wait. A source that fails is opened
//! again, at first soon and then ever later.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use graft_camera::{Frame, Next, Pace, Picture, Source, SourceError};
use graft_link::messages::RefusalCode;
use serde::Serialize;

use crate::agent::{Agent, Job, Origin, log, look};
use crate::clock;

/// What becomes of pictures on their way.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// With the number of the source that gave them, since each opening of it counts from one again.
    waiting: VecDeque<(u64, Frame)>,
    /// Since when a picture is being worked at.
    work: Option<Instant>,
    /// When the source was last asked.
    asked: Option<Instant>,
    counts: Counts,
    camera: Camera,
    /// Pictures that need not be given again, for the source to hear.
    settled: Vec<(u64, u64)>,
    /// Nothing more comes.
    is_over: bool,
    /// Nothing more is worked at.
    is_done: bool,
}

/// Pictures since the daemon's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// That came, which is the sum of all below.
    pub seen: u64,
    /// Left out: a camera warms up, or they came faster than was asked for.
    pub skipped: u64,
    /// Left out: the engine was still at work, or no bundle runs.
    pub dropped: u64,
    /// That cannot be read.
    pub refused: u64,
    /// That were answered.
    pub classified: u64,
    /// On their way.
    pub waiting: u64,
    /// Times that the source was opened; not one of the above.
    #[serde(rename = "source_opened")]
    pub opened: u64,
}

/// What the source is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Camera {
    /// There is none in the configuration.
    #[default]
    None,
    /// It gives pictures, or will.
    Works,
    /// It does not, and why.
    Gone(String),
    /// It has come to its end.
    Ended,
}

/// How pictures are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// Most pictures of a camera in a minute; none: all.
    pub per_minute: Option<u32>,
    /// Pictures of a camera that are left out after it was opened.
    pub warm_up: u32,
    /// A source that is silent for so long is opened again.
    pub silence: Option<Duration>,
    /// Whether rate and warm-up mean this source.
    pub is_live: bool,
}

/// Pictures that wait for the engine.
const QUEUE: usize = 4;
/// How long the source is waited for at once.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long after a failure the source is opened again, the first time and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// So many pictures are remembered as done at once, or after so long.
const SETTLE: (usize, Duration) = (128, Duration::from_secs(30));
/// How long hosts that wait are let go first.
const COURTESY: Duration = Duration::from_secs(1);
/// How long the last pictures may take when the daemon ends.
const LAST: Duration = Duration::from_secs(10);

/// What became of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dropped,
    Refused,
    Classified,
}

/// How it ended with a source.
enum Ending {
    Stopped,
    Ended,
    Failed(String),
}

impl Feed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what became of all pictures so far.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        let waiting = state.waiting.len() as u64 + u64::from(state.work.is_some());
        Counts { waiting, ..state.counts }
    }

    /// Returns what the source is doing.
    pub fn camera(&self) -> Camera {
        self.state().camera.clone()
    }

    /// Whether a picture, or the source, has taken longer than is ever right.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        let state = self.state();
        let is_long = |since: Option<Instant>| since.is_some_and(|at| at.elapsed() > limit);
        is_long(state.work) || !state.is_over && is_long(state.asked)
    }

    /// Opens the source again and again and puts its pictures in line, until `stop` is raised or it is at its end.
    pub fn read(
        &self,
        open: &mut dyn FnMut() -> Result<Box<dyn Source>, SourceError>,
        choice: Choice,
        stop: &AtomicBool,
    ) {
        let (mut told, mut back_off) = (String::new(), BACK_OFF.0);
        while !stop.load(Ordering::Relaxed) {
            self.ask();
            let before = self.counts().seen;
            let ending = match open() {
                Ok(mut source) => {
                    let opened = {
                        let mut state = self.state();
                        state.counts.opened += 1;
                        state.counts.opened
                    };
                    self.pump(source.as_mut(), opened, choice, stop)
                }
                Err(e) => Ending::Failed(e.to_string()),
            };
            let Ending::Failed(reason) = ending else { break };
            // A cable that is out for a night should not fill the journal.
            if reason != told {
                log(&format!("{reason}; trying again"));
            }
            self.set_camera(Camera::Gone(reason.clone()));
            back_off = if self.counts().seen > before { BACK_OFF.0 } else { (2 * back_off).min(BACK_OFF.1) };
            told = reason;
            let end = Instant::now() + back_off;
            while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                self.ask();
                thread::sleep(PATIENCE.min(back_off));
            }
        }
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// Notes that the source's thread is alive.
    fn ask(&self) {
        self.state().asked = Some(Instant::now());
    }

    fn set_camera(&self, camera: Camera) {
        self.state().camera = camera;
        self.changed.notify_all();
    }

    fn pump(&self, source: &mut dyn Source, opened: u64, choice: Choice, stop: &AtomicBool) -> Ending {
        let (mut warm_up, mut due, mut heard) = (choice.warm_up, Instant::now(), Instant::now());
        let gap = choice.per_minute.map_or(Duration::ZERO, |n| Duration::from_secs(60) / n.max(1));
        loop {
            self.ask();
            self.settle(source, opened);
            if stop.load(Ordering::Relaxed) {
                self.finish(source, opened, stop);
                return Ending::Stopped;
            }
            match source.next(PATIENCE) {
                Ok(Next::Frame(frame)) => {
                    let now = Instant::now();
                    heard = now;
                    clock::put_ahead(frame.ahead);
                    let is_left_out = choice.is_live && (warm_up > 0 || now < due);
                    {
                        let mut state = self.state();
                        state.camera = Camera::Works;
                        state.counts.seen += 1;
                        state.counts.skipped += u64::from(is_left_out);
                    }
                    if is_left_out {
                        warm_up = warm_up.saturating_sub(1);
                        continue;
                    }
                    // A camera of 29 pictures a second gives 10 a second if asked for 10, and not 9.7.
                    due = if due + gap > now { due + gap } else { now + gap };
                    self.offer(opened, frame, stop);
                }
                Ok(Next::Nothing) => {
                    if let Some(silence) = choice.silence.filter(|&s| heard.elapsed() >= s) {
                        return Ending::Failed(format!("the source has given no picture for {silence:?}"));
                    }
                    if choice.silence.is_none() && heard.elapsed() >= PATIENCE && self.camera() != Camera::Works {
                        self.set_camera(Camera::Works);
                    }
                }
                Ok(Next::End) => {
                    {
                        let mut state = self.state();
                        (state.camera, state.is_over) = (Camera::Ended, true);
                    }
                    self.changed.notify_all();
                    self.finish(source, opened, stop);
                    return Ending::Ended;
                }
                Err(e) => return Ending::Failed(e.to_string()),
            }
        }
    }

    /// Tells the source which pictures need not be given again.
    fn settle(&self, source: &mut dyn Source, opened: u64) {
        let settled = std::mem::take(&mut self.state().settled);
        let numbers: Vec<u64> = settled.into_iter().filter(|(by, _)| *by == opened).map(|(_, n)| n).collect();
        if !numbers.is_empty()
            && let Err(e) = source.settle(&numbers)
        {
            log(&format!("cannot remember which pictures are done: {e}; after a restart they come again"));
        }
    }

    /// Waits until all pictures in line are done, and settles them.
    fn finish(&self, source: &mut dyn Source, opened: u64, stop: &AtomicBool) {
        let mut stopped = None;
        while !self.state().is_done {
            if stop.load(Ordering::Relaxed) && stopped.get_or_insert_with(Instant::now).elapsed() > LAST {
                break;
            }
            self.settle(source, opened);
            let state = self.state();
            drop(self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner));
        }
        self.settle(source, opened);
    }

    /// Puts a picture in line.
    fn offer(&self, opened: u64, frame: Frame, stop: &AtomicBool) {
        let mut state = self.state();
        if frame.pace == Pace::Waits {
            while state.waiting.len() >= QUEUE && !stop.load(Ordering::Relaxed) {
                state.asked = Some(Instant::now());
                state = self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            }
        } else if state.waiting.len() >= QUEUE {
            state.counts.dropped += 1;
            // The newest says what is there now.
            match state.waiting.iter().position(|(_, f)| f.pace == Pace::Passes) {
                Some(oldest) => drop(state.waiting.remove(oldest)),
                None => return,
            }
        }
        state.waiting.push_back((opened, frame));
        self.changed.notify_all();
    }

    /// Waits for the next picture for a moment.
    fn take(&self) -> Option<(u64, Frame)> {
        let mut state = self.state();
        if state.waiting.is_empty() && !state.is_over {
            state = self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        let frame = state.waiting.pop_front();
        state.work = frame.is_some().then(Instant::now);
        self.changed.notify_all();
        frame
    }

    fn done(&self, fate: Fate) {
        let mut state = self.state();
        state.work = None;
        match fate {
            Fate::Dropped => state.counts.dropped += 1,
            Fate::Refused => state.counts.refused += 1,
            Fate::Classified => state.counts.classified += 1,
        }
    }

    /// Has the agent answer the pictures in line, until `stop` is raised or no more come.
    pub fn work(&self, agent: &Mutex<Agent>, stop: &AtomicBool) {
        let turns = lock(agent).turns();
        let in_turn = || {
            turns.let_others(COURTESY);
            lock(agent)
        };
        let (mut numbers, mut since, mut shown) = (vec![], Instant::now(), Camera::None);
        while !stop.load(Ordering::Relaxed) {
            let frame = self.take();
            let camera = self.camera();
            if camera != shown {
                in_turn().show_camera(camera.clone());
                shown = camera;
            }
            let is_over = frame.is_none() && {
                let state = self.state();
                state.is_over && state.waiting.is_empty()
            };
            if let Some((opened, frame)) = frame {
                let number = (opened, frame.number);
                let fate = self.classify(frame, &in_turn, stop);
                self.done(fate);
                if fate != Fate::Dropped {
                    numbers.push(number);
                }
            }
            if is_over || numbers.len() >= SETTLE.0 || !numbers.is_empty() && since.elapsed() >= SETTLE.1 {
                self.settled(&mut numbers, &in_turn);
                since = Instant::now();
            }
            if is_over {
                break;
            }
        }
        self.settled(&mut numbers, &in_turn);
        {
            let mut state = self.state();
            // What a stop leaves in line was seen and not answered; a folder's files come again.
            state.counts.dropped += state.waiting.len() as u64;
            state.waiting.clear();
            state.is_done = true;
        }
        self.changed.notify_all();
    }

    /// Has predictions on the disk, and then their pictures settled: in this order, none is lost by a power cut.
    fn settled<'a>(&self, numbers: &mut Vec<(u64, u64)>, in_turn: &dyn Fn() -> MutexGuard<'a, Agent>) {
        in_turn().flush();
        self.state().settled.append(numbers);
    }

    /// Answers a picture. The agent is free for others while the network runs.
    fn classify<'a>(&self, frame: Frame, in_turn: &dyn Fn() -> MutexGuard<'a, Agent>, stop: &AtomicBool) -> Fate {
        let job: Job = loop {
            let job = in_turn().job();
            match job {
                Ok(job) => break job,
                // A file waits for a bundle.
                Err(_) if frame.pace == Pace::Waits && !stop.load(Ordering::Relaxed) => {
                    self.state().work = Some(Instant::now());
                    thread::sleep(PATIENCE);
                }
                Err(_) => return Fate::Dropped,
            }
        };
        let seen = match &frame.picture {
            Picture::Unreadable(reason) => Err((RefusalCode::Image, format!("{}: {reason}", frame.name))),
            picture => look(&job, &frame.name, picture),
        };
        match seen {
            Ok(seen) => {
                in_turn().conclude(seen, &frame.picture, Origin::Source);
                Fate::Classified
            }
            Err((code, reason)) => {
                log(&reason);
                if code == RefusalCode::Internal {
                    in_turn().show_error(reason);
                }
                Fate::Refused
            }
        }
    }
}

fn lock(agent: &Mutex<Agent>) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
