//! Two ends of a channel over a line that loses, damages, repeats and reorders frames, and on which others speak.
//!
//! As long as nobody forges frames and the session lasts, what is sent arrives whole, in order, once; whatever happens, an
//! end holds no more than it promises and never has endlessly much to say.

#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::Arbitrary;
use graft_link::channel::{BACKLOG_MAX, Channel, ChannelConfig, Event, MAX_WINDOW, MEMORY_MAX};
use graft_link::frame::{Frame, Kind, MAGIC, MAX_PAYLOAD, Role};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Talk {
    windows: [u8; 2],
    fragments: [u16; 2],
    nonce: u16,
    acts: Vec<Act>,
}

#[derive(Debug, Arbitrary)]
enum Act {
    /// Time passes: so many squared milliseconds.
    Wait(u8),
    Send {
        from: bool,
        len: u32,
        fill: u8,
    },
    /// A frame of one end reaches the other.
    Pass {
        from: bool,
        fault: Fault,
    },
    /// All frames of both ends do.
    PassAll,
    /// All that one end has to say is lost.
    LoseAll(bool),
    /// What was held back comes now.
    Release,
    Noise {
        to: bool,
        bytes: Vec<u8>,
    },
    /// A third one speaks on the line.
    Forge {
        to: bool,
        kind: u8,
        seq: u16,
        ack: u16,
        is_stranger: bool,
        payload: Vec<u8>,
    },
    Read(bool),
    Renew(bool),
    Close(bool),
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Fault {
    None,
    Lost,
    Flipped(u16),
    Doubled,
    Held,
}

struct Line {
    now: Duration,
    /// The initiator and the responder.
    ends: [Channel; 2],
    /// What each sent and the other has not read.
    sent: [VecDeque<Vec<u8>>; 2],
    held: Vec<(usize, Vec<u8>)>,
    /// Whether all that was sent has to arrive.
    is_sound: bool,
    is_opened: [bool; 2],
    /// Whether a long message takes few enough frames to wait for.
    is_fast: bool,
}

fuzz_target!(init: graft_fuzz::begin(Vec::new), |talk: Talk| {
    let config = |side: usize, config: ChannelConfig| ChannelConfig {
        window: u16::from(talk.windows[side]) % MAX_WINDOW + 1,
        fragment: talk.fragments[side],
        ..config
    };
    let now = Duration::from_secs(1);
    let configs = [config(0, ChannelConfig::INITIATOR), config(1, ChannelConfig::RESPONDER)];
    let initiator = Channel::initiator(configs[0], talk.nonce.into(), now);
    let responder = Channel::responder(configs[1], now);
    let mut line = Line {
        now,
        ends: [initiator, responder],
        sent: Default::default(),
        held: Vec::new(),
        is_sound: true,
        is_opened: [false; 2],
        is_fast: configs.iter().all(|c| c.window >= 8 && c.fragment >= 512),
    };
    // Sessions that never begin have nothing to show.
    line.pass_all();
    for act in talk.acts.iter().take(400) {
        line.act(act, talk.nonce);
    }
    line.settle();
});

impl Line {
    fn act(&mut self, act: &Act, session: u16) {
        match act {
            Act::Wait(ms) => self.now += Duration::from_millis(u64::from(*ms) * u64::from(*ms)),
            Act::Send { from, len, fill } => {
                let side = usize::from(*from);
                if self.ends[side].backlog() < BACKLOG_MAX {
                    // Most are short; some are longer than a message may be.
                    let len = if self.is_fast && fill % 16 == 0 { len % (1 << 21) } else { len % 5000 };
                    let message = vec![*fill; len as usize];
                    if self.ends[side].send(message.clone()).is_ok() {
                        self.sent[side].push_back(message);
                    }
                }
            }
            Act::Pass { from, fault } => drop(self.pass(usize::from(*from), *fault)),
            Act::PassAll => self.pass_all(),
            Act::LoseAll(from) => {
                let mut said = 0;
                while self.pass(usize::from(*from), Fault::Lost) {
                    said += 1;
                    assert!(said < 4 * u32::from(MAX_WINDOW), "an end that hears nothing has endlessly much to say");
                }
            }
            Act::Release => {
                for (to, bytes) in std::mem::take(&mut self.held) {
                    self.hear(to, &bytes);
                }
            }
            Act::Noise { to, bytes } => {
                self.is_sound &= !MAGIC.iter().all(|byte| bytes.contains(byte));
                self.hear(usize::from(*to), bytes);
            }
            Act::Forge { to, kind, seq, ack, is_stranger, payload } => {
                self.is_sound = false;
                let kinds = [Kind::Open, Kind::Opened, Kind::Part, Kind::End, Kind::Ack, Kind::Ping, Kind::Reset];
                let frame = Frame {
                    kind: kinds[usize::from(*kind) % kinds.len()],
                    from: if *to { Role::Initiator } else { Role::Responder },
                    session: if *is_stranger { !session } else { session },
                    seq: *seq,
                    ack: *ack,
                    payload: payload.iter().take(MAX_PAYLOAD).copied().collect(),
                };
                self.hear(usize::from(*to), &frame.encode().expect("a payload within the limit"));
            }
            Act::Read(side) => self.read(usize::from(*side)),
            Act::Renew(side) => self.ends[usize::from(*side)].renew(),
            Act::Close(side) => {
                self.is_sound = false;
                self.ends[usize::from(*side)].close();
            }
        }
    }

    fn hear(&mut self, to: usize, bytes: &[u8]) {
        self.ends[to].receive(bytes, self.now);
        self.look(to);
    }

    /// Has one end say a frame; returns whether it had any.
    fn pass(&mut self, from: usize, fault: Fault) -> bool {
        let frame = self.ends[from].poll_transmit(self.now);
        self.look(from);
        let Some(mut frame) = frame else { return false };
        let to = 1 - from;
        match fault {
            Fault::None => self.hear(to, &frame),
            Fault::Lost => {}
            Fault::Flipped(bit) => {
                let bit = usize::from(bit) % (8 * frame.len());
                frame[bit / 8] ^= 1 << (bit % 8);
                self.hear(to, &frame);
            }
            Fault::Doubled => {
                self.hear(to, &frame);
                self.hear(to, &frame);
            }
            Fault::Held => self.held.push((to, frame)),
        }
        true
    }

    fn pass_all(&mut self) {
        let mut said = 0;
        while [0, 1].into_iter().fold(false, |any, from| self.pass(from, Fault::None) || any) {
            said += 1;
            assert!(said < 1_000_000, "two ends have endlessly much to say at one moment");
        }
    }

    /// Looks at what an end holds and says of itself.
    fn look(&mut self, side: usize) {
        let held = self.ends[side].memory();
        assert!(held <= MEMORY_MAX, "{held} bytes are held, {MEMORY_MAX} promised");
        while let Some(event) = self.ends[side].take_event() {
            match event {
                // A second session has nothing of the first.
                Event::Opened => self.is_sound &= !std::mem::replace(&mut self.is_opened[side], true),
                _ => self.is_sound = false,
            }
        }
    }

    fn read(&mut self, side: usize) {
        while let Some(message) = self.ends[side].take_message() {
            let expected = self.sent[1 - side].pop_front();
            if self.is_sound {
                assert!(Some(&message) == expected.as_ref(), "{} bytes came that were not sent", message.len());
            }
        }
    }

    /// Lets a line without faults bring what is still under way.
    fn settle(&mut self) {
        self.held.clear();
        let (mut least, mut idle) = (usize::MAX, 0);
        while self.is_sound {
            self.pass_all();
            self.read(0);
            self.read(1);
            let left = self.ends.iter().map(Channel::backlog).sum::<usize>() + self.sent.iter().flatten().count();
            if left == 0 && self.ends.iter().all(|e| e.is_open() && e.is_flushed()) {
                return;
            }
            idle = if left < least { 0 } else { idle + 1 };
            least = least.min(left);
            assert!(idle < 1000, "{left} bytes and messages do not arrive over a good line");
            let next = self.ends.iter().filter_map(Channel::next_deadline).min();
            self.now = next.unwrap_or(self.now).max(self.now + Duration::from_millis(1));
        }
    }
}
