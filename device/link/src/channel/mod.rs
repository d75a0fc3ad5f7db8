//! A channel: whole messages, in order, once each, over a byte stream that loses, damages and repeats bytes.
//!
//! Does no I/O and has no clock: the caller passes in bytes and the time since any fixed moment, and takes
//! out bytes and events. Spec: `docs/formats/link.md`.

use crate::frame::{Decoder, Frame, FrameError, Kind, MAX_FRAME, MAX_PAYLOAD, Role};
use crate::messages::MAX_MESSAGE;
use std::collections::VecDeque;
use std::time::Duration;
use thiserror::Error;

mod receiver;
mod sender;

use receiver::Receiver;
use sender::Sender;

/// Most pieces on their way at once.
pub const MAX_WINDOW: u16 = 128;
/// A sender that pauses this long within a frame has lost the rest of it.
const STALL: Duration = Duration::from_millis(250);
/// Time between two attempts to open a session.
const OPEN_EVERY: Duration = Duration::from_millis(300);
/// Events kept for a caller that does not take them; older ones go.
const EVENTS_MAX: usize = 8;
/// Most bytes that one side of a session holds, as long as its caller sends only while less than [`BACKLOG_MAX`] waits
/// to arrive: what came and was not read, a message being joined (its buffer doubles as it grows), pieces that came
/// early, an answer over the backlog with a copy of what is on its way, and what the decoder looks at.
pub const MEMORY_MAX: usize = receiver::MEMORY_MAX + sender::MEMORY_MAX + 4 * MAX_FRAME;
/// Bytes on their way at which nothing more should be sent.
pub const BACKLOG_MAX: usize = 128 << 10;

/// What a channel may use; the smaller of both sides' window and fragment counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelConfig {
    /// Pieces on their way at once, 1 to [`MAX_WINDOW`].
    pub window: u16,
    /// Most bytes in one piece, 16 to [`MAX_PAYLOAD`]; fewer where the line loses pieces.
    pub fragment: u16,
    /// After this silence the initiator asks whether the peer is there.
    pub ping_after: Duration,
    /// After this silence the peer counts as gone.
    pub gone_after: Duration,
}

impl ChannelConfig {
    /// What the host uses: notices a lost device within ten seconds.
    pub const INITIATOR: Self =
        Self { window: 128, fragment: 2048, ping_after: Duration::from_secs(2), gone_after: Duration::from_secs(10) };
    /// What a device uses: more patient, since a host may be busy between two requests.
    pub const RESPONDER: Self = Self { gone_after: Duration::from_secs(30), ..Self::INITIATOR };

    fn clamped(self) -> Self {
        Self { window: clamp_window(self.window), fragment: clamp_fragment(self.fragment), ..self }
    }
}

/// What happened on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session is open; what was sent or received before belongs to another one.
    Opened,
    /// The session is over.
    Closed(CloseReason),
}

/// Why a session is over.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Nothing came for `gone_after`.
    #[error("the other side has been silent for {0:?}; check cable and power, then connect again")]
    Silent(Duration),
    /// The peer does not know the session: it restarted, or serves someone else now.
    #[error("the other side does not know this session, so it restarted or serves another host; connect again")]
    Reset,
    /// The host opened a new session over this one.
    #[error("the host opened a new session")]
    Replaced,
    /// The peer sent a message over [`MAX_MESSAGE`].
    #[error("the other side sent a message over {MAX_MESSAGE} bytes; update the older side")]
    TooLarge,
}

/// Why a message cannot be sent.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no session.
    #[error("no session is open; connect first")]
    NotOpen,
    /// The message is over the limit.
    #[error("message is {found} bytes, at most {limit} are allowed; split it")]
    TooLarge {
        /// Its length.
        found: usize,
        /// [`MAX_MESSAGE`].
        limit: usize,
    },
}

/// What went over the line besides good frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineQuality {
    /// Bytes that belonged to no good frame.
    pub skipped_bytes: u64,
    /// Frames that were damaged.
    pub bad_frames: u64,
    /// Pieces sent more than once.
    pub resent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Opening { next: Duration },
    Open,
}

/// One side of a channel.
#[derive(Debug)]
pub struct Channel {
    role: Role,
    config: ChannelConfig,
    decoder: Decoder,
    state: State,
    nonce: u64,
    sender: Sender,
    receiver: Receiver,
    events: VecDeque<Event>,
    /// A frame outside the window: the answer to `Open`, or a `Reset`. The latest replaces an older one.
    control: Option<Frame>,
    /// When any bytes came.
    heard_at: Duration,
    /// When a good frame of the session came: noise is no sign of life.
    alive_at: Duration,
    pinged_at: Duration,
    bad_frames: u64,
    foreign_version: Option<u8>,
}

impl Channel {
    /// Returns the side that opens sessions, opening one. `nonce` should differ on every call.
    pub fn initiator(config: ChannelConfig, nonce: u64, now: Duration) -> Self {
        Self { state: State::Opening { next: now }, nonce, ..Self::new(Role::Initiator, config, now) }
    }

    /// Returns the side that waits for a session.
    pub fn responder(config: ChannelConfig, now: Duration) -> Self {
        Self::new(Role::Responder, config, now)
    }

    fn new(role: Role, config: ChannelConfig, now: Duration) -> Self {
        let config = config.clamped();
        Self {
            role,
            config,
            decoder: Decoder::new(),
            state: State::Idle,
            nonce: 0,
            sender: Sender::new(usize::from(config.window), usize::from(config.fragment)),
            receiver: Receiver::new(usize::from(config.window)),
            events: VecDeque::new(),
            control: None,
            heard_at: now,
            alive_at: now,
            pinged_at: now,
            bad_frames: 0,
            foreign_version: None,
        }
    }

    /// Takes in bytes from the line.
    pub fn receive(&mut self, mut bytes: &[u8], now: Duration) {
        if bytes.is_empty() {
            return;
        }
        if now.saturating_sub(self.heard_at) >= STALL {
            self.decoder.abandon();
        }
        self.heard_at = now;
        while !bytes.is_empty() {
            let taken = self.decoder.push(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            self.take_frames(now);
        }
    }

    /// Returns the next bytes to put on the line, one frame at a time.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.check_time(now);
        let frame = self.next_frame(now)?;
        // Payloads are cut to the fragment size, so this cannot be over the limit.
        frame.encode().ok()
    }

    /// Returns when [`Channel::poll_transmit`] should be called although nothing arrived.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.control.is_some() {
            return Some(Duration::ZERO);
        }
        match self.state {
            State::Idle => None,
            State::Opening { next } => Some(next),
            State::Open => {
                let stall = self.decoder.has_partial().then(|| self.heard_at + STALL);
                let ping = (self.role == Role::Initiator).then(|| self.next_ping());
                let gone = Some(self.alive_at + self.config.gone_after);
                [self.sender.deadline(), self.receiver.ack_deadline(), stall, ping, gone].into_iter().flatten().min()
            }
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    ///
    /// [`SendError::NotOpen`] without a session, [`SendError::TooLarge`] over [`MAX_MESSAGE`].
    pub fn send(&mut self, message: Vec<u8>) -> Result<(), SendError> {
        if self.state != State::Open {
            return Err(SendError::NotOpen);
        }
        if message.len() > MAX_MESSAGE {
            return Err(SendError::TooLarge { found: message.len(), limit: MAX_MESSAGE });
        }
        self.sender.push(message);
        Ok(())
    }

    /// Returns the next whole message.
    pub fn take_message(&mut self) -> Option<Vec<u8>> {
        self.receiver.take_message()
    }

    /// Returns the next event. Take events before messages: `Opened` separates two sessions.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether a session is open.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Returns the number with which the host opened the present session.
    pub fn session_nonce(&self) -> Option<u64> {
        self.is_open().then_some(self.nonce)
    }

    /// Whether everything sent is known to have arrived.
    pub fn is_flushed(&self) -> bool {
        self.sender.is_idle()
    }

    /// Bytes of messages not yet known to have arrived.
    pub fn backlog(&self) -> usize {
        self.sender.backlog()
    }

    /// The link version of a peer that does not speak ours, if such frames came.
    pub fn foreign_version(&self) -> Option<u8> {
        self.foreign_version
    }

    /// Returns what went wrong on the line so far.
    pub fn line_quality(&self) -> LineQuality {
        LineQuality {
            skipped_bytes: self.decoder.skipped_bytes(),
            bad_frames: self.bad_frames,
            resent: self.sender.resent(),
        }
    }

    /// Returns when the peer last gave a sign of life in this session.
    pub fn alive_at(&self) -> Duration {
        self.alive_at
    }

    /// Changes after how much silence the initiator asks whether the peer is there.
    pub fn set_ping_after(&mut self, silence: Duration) {
        self.config.ping_after = silence;
    }

    /// Has the next transmit say what has arrived.
    pub fn acknowledge(&mut self, now: Duration) {
        self.receiver.demand_ack(now);
    }

    /// Returns how much of what was sent lately was lost, 0 to 1.
    pub fn recent_loss(&self) -> f32 {
        self.sender.recent_loss()
    }

    /// Forgets what the line has lost, and sends again what may be: it is another line now.
    pub fn renew(&mut self) {
        self.sender.renew();
    }

    /// Returns the bytes held now; at most [`MEMORY_MAX`].
    pub fn memory(&self) -> usize {
        self.receiver.memory() + self.sender.memory() + self.decoder.memory()
    }

    /// Leaves the session; the next transmit tells the peer.
    pub fn close(&mut self) {
        if self.state == State::Open {
            self.control = Some(self.frame(Kind::Reset, 0, Vec::new()));
        }
        self.state = State::Idle;
    }

    fn take_frames(&mut self, now: Duration) {
        while let Some(outcome) = self.decoder.next() {
            match outcome {
                Ok(frame) if frame.from != self.role => self.take_frame(frame, now),
                Ok(_echo) => {}
                Err(error) => {
                    self.bad_frames += 1;
                    if let FrameError::Version { found, .. } = error {
                        self.foreign_version = Some(found);
                        // A host that knows only another version learns from any frame of ours which one we speak.
                        if self.role == Role::Responder && self.state != State::Open {
                            self.control = Some(self.frame(Kind::Reset, 0, Vec::new()));
                        }
                    }
                }
            }
        }
    }

    fn take_frame(&mut self, frame: Frame, now: Duration) {
        match (frame.kind, self.role) {
            (Kind::Open, Role::Responder) => return self.answer_open(&frame, now),
            (Kind::Opened, Role::Initiator) => return self.take_opened(&frame, now),
            (Kind::Open | Kind::Opened, _) => return,
            _ => {}
        }
        let is_ours = self.state == State::Open && frame.session == self.session();
        if is_ours {
            self.alive_at = now;
        }
        match frame.kind {
            Kind::Reset if is_ours => self.end(CloseReason::Reset),
            Kind::Reset => {}
            _ if !is_ours => {
                // The host talks in a session that we have forgotten: tell it.
                if self.role == Role::Responder {
                    self.control = Some(Frame { session: frame.session, ..self.frame(Kind::Reset, 0, Vec::new()) });
                }
            }
            Kind::Ack => self.sender.acknowledge(frame.ack, &frame.payload, now),
            Kind::Ping => self.receiver.demand_ack(now),
            kind => {
                self.sender.acknowledge(frame.ack, &[], now);
                if self.receiver.accept(frame.seq, frame.payload, kind == Kind::End, now).is_err() {
                    self.end(CloseReason::TooLarge);
                    self.control = Some(self.frame(Kind::Reset, 0, Vec::new()));
                }
            }
        }
    }

    fn answer_open(&mut self, frame: &Frame, now: Duration) {
        let Some(offer) = Offer::parse(&frame.payload) else { return };
        let is_repeat = self.state == State::Open && offer.nonce == self.nonce;
        if !is_repeat {
            if self.state == State::Open {
                self.end(CloseReason::Replaced);
            }
            self.begin(offer, now);
        }
        let offer = Offer { nonce: offer.nonce, window: self.config.window, fragment: self.config.fragment };
        self.control = Some(self.frame(Kind::Opened, 0, offer.bytes()));
    }

    fn take_opened(&mut self, frame: &Frame, now: Duration) {
        if let State::Opening { .. } = self.state
            && let Some(offer) = Offer::parse(&frame.payload)
            && offer.nonce == self.nonce
        {
            self.begin(offer, now);
        }
    }

    fn begin(&mut self, offer: Offer, now: Duration) {
        let window = usize::from(self.config.window.min(offer.window));
        let fragment = usize::from(self.config.fragment.min(offer.fragment));
        self.nonce = offer.nonce;
        self.sender = Sender::new(window, fragment);
        self.receiver = Receiver::new(window);
        self.control = None;
        self.state = State::Open;
        (self.heard_at, self.alive_at, self.pinged_at) = (now, now, now);
        self.tell(Event::Opened);
    }

    fn end(&mut self, reason: CloseReason) {
        self.state = State::Idle;
        self.tell(Event::Closed(reason));
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn check_time(&mut self, now: Duration) {
        if self.decoder.has_partial() && now.saturating_sub(self.heard_at) >= STALL {
            self.decoder.abandon();
            self.take_frames(now);
        }
        if self.state == State::Open && now.saturating_sub(self.alive_at) >= self.config.gone_after {
            self.end(CloseReason::Silent(self.config.gone_after));
        }
    }

    fn next_frame(&mut self, now: Duration) -> Option<Frame> {
        if let Some(frame) = self.control.take() {
            return Some(frame);
        }
        match self.state {
            State::Idle => None,
            State::Opening { next } if now < next => None,
            State::Opening { .. } => {
                self.state = State::Opening { next: now + OPEN_EVERY };
                let offer = Offer { nonce: self.nonce, window: self.config.window, fragment: self.config.fragment };
                Some(self.frame(Kind::Open, 0, offer.bytes()))
            }
            State::Open => self.next_open_frame(now),
        }
    }

    fn next_open_frame(&mut self, now: Duration) -> Option<Frame> {
        if self.receiver.ack_deadline().is_some_and(|at| at <= now) {
            self.receiver.note_acknowledged();
            return Some(self.frame(Kind::Ack, 0, self.receiver.bitmap()));
        }
        if let Some(piece) = self.sender.poll(now) {
            self.receiver.note_carried();
            let kind = if piece.last { Kind::End } else { Kind::Part };
            return Some(self.frame(kind, piece.seq, piece.payload));
        }
        if self.role == Role::Initiator && self.next_ping() <= now {
            self.pinged_at = now;
            return Some(self.frame(Kind::Ping, 0, Vec::new()));
        }
        None
    }

    fn next_ping(&self) -> Duration {
        self.alive_at.max(self.pinged_at) + self.config.ping_after
    }

    fn session(&self) -> u16 {
        let [low, high, ..] = self.nonce.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    fn frame(&self, kind: Kind, seq: u16, payload: Vec<u8>) -> Frame {
        let (from, session, ack) = (self.role, self.session(), self.receiver.expected());
        Frame { kind, from, session, seq, ack, payload }
    }
}

/// The payload of `Open` and `Opened`.
#[derive(Debug, Clone, Copy)]
struct Offer {
    nonce: u64,
    window: u16,
    fragment: u16,
}

impl Offer {
    fn bytes(self) -> Vec<u8> {
        [&self.nonce.to_le_bytes()[..], &self.window.to_le_bytes(), &self.fragment.to_le_bytes()].concat()
    }

    /// Longer payloads are read too: a later minor version may append.
    fn parse(payload: &[u8]) -> Option<Self> {
        let (nonce, rest) = payload.split_first_chunk()?;
        let (window, rest) = rest.split_first_chunk()?;
        let (fragment, _) = rest.split_first_chunk()?;
        Some(Self {
            nonce: u64::from_le_bytes(*nonce),
            window: clamp_window(u16::from_le_bytes(*window)),
            fragment: clamp_fragment(u16::from_le_bytes(*fragment)),
        })
    }
}

fn clamp_window(window: u16) -> u16 {
    window.clamp(1, MAX_WINDOW)
}

fn clamp_fragment(fragment: u16) -> u16 {
    fragment.clamp(16, u16::try_from(MAX_PAYLOAD).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests;
