//! Conversations: requests and responses over a transport, and the loop that serves them.

use std::io;
use std::time::Duration;

use crate::channel::{Channel, CloseReason};
use crate::messages::{MessageError, OLDEST_PROTOCOL, PROTOCOL_VERSION, RefusalCode, Response};
use crate::transport::Transport;

mod client;
mod rates;
mod server;

pub use client::Client;
pub use rates::RATES;
pub use server::{Host, Service, serve};

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Nobody answered.
    #[error("expected a device to answer within {waited:?}, found silence{}; check cable, power, port and that graftd runs", describe(*.skipped_bytes))]
    NoAnswer {
        /// How long.
        waited: Duration,
        /// Bytes that came and were no frames: another speed or another program.
        skipped_bytes: u64,
    },
    /// The port failed.
    #[error("the line failed; check cable and power, then repeat the command")]
    Line(#[from] io::Error),
    /// The session ended.
    #[error(transparent)]
    Closed(#[from] CloseReason),
    /// The device will not.
    #[error("the device refused: {message}")]
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// In words.
        message: String,
    },
    /// A message cannot be made or understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer speaks another version of the frames.
    #[error("expected a device of this link version, found version {found}; update the older side")]
    Version {
        /// The device's.
        found: u8,
    },
    /// The peer speaks other messages.
    #[error(
        "expected a device of protocol {OLDEST_PROTOCOL} to {PROTOCOL_VERSION}, found {found}; update the older side"
    )]
    Protocol {
        /// What the device answered.
        found: u16,
    },
    /// The device is older than the request.
    #[error("{asked} needs a device of protocol {needs}, found {found}; install a newer graftd")]
    TooOld {
        /// What was asked.
        asked: &'static str,
        /// The protocol that has it.
        needs: u16,
        /// The protocol of this session.
        found: u16,
    },
    /// The device is there, and does not answer.
    #[error(
        "expected an answer to {asked}, or a sign of work on it, within {waited:?}, found neither; restart graftd on the device"
    )]
    Overdue {
        /// What was asked.
        asked: &'static str,
        /// For how long nothing moved.
        waited: Duration,
    },
    /// The answer does not go with the question.
    #[error("expected an answer to {asked}, found {found}; update the older side")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came.
        found: String,
    },
    /// The caller raised its flag.
    #[error("stopped; repeat the command to go on from here")]
    Stopped,
}

fn describe(skipped: u64) -> String {
    if skipped == 0 { String::new() } else { format!(" and {skipped} bytes that are no frames (another baud rate?)") }
}

/// What a device says of itself at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its name.
    pub device: String,
    /// Version of its daemon.
    pub version: String,
}

/// Returns the error for an answer that does not go with its question.
pub fn unexpected(asked: &'static str, found: &Response) -> LinkError {
    let mut found = format!("{found:?}");
    found.truncate(found.char_indices().nth(120).map_or(found.len(), |(at, _)| at));
    LinkError::Unexpected { asked, found }
}

/// A channel on a transport.
struct Line<T> {
    transport: T,
    channel: Channel,
    /// The rate at which every session begins, and to which both ends return when they do not hear each other.
    base: Option<u32>,
    /// After this silence at another rate.
    silence: Duration,
    /// Since when the line has been listened to without a pause: silence counts from there.
    listening: Duration,
    pumped: Duration,
    sent: u64,
    received: u64,
}

/// Frames written before the other direction is looked at.
const BURST: usize = 8;
/// Longest wait in one read, so that a raised flag is noticed.
const TICK: Duration = Duration::from_millis(50);
/// A caller that does something else for longer is not listening.
const PAUSE: Duration = Duration::from_millis(200);

impl<T: Transport> Line<T> {
    fn new(transport: T, silence: Duration, channel: impl FnOnce(Duration) -> Channel) -> Self {
        let (now, base) = (transport.now(), transport.rate());
        Self { transport, channel: channel(now), base, silence, listening: now, pumped: now, sent: 0, received: 0 }
    }

    fn now(&self) -> Duration {
        self.transport.now()
    }

    /// Writes what is due and reads what has come.
    fn pump(&mut self, patience: Duration) -> io::Result<()> {
        let start = self.now();
        if start.saturating_sub(self.pumped) > PAUSE {
            self.listening = start;
        }
        let (mut written, mut is_more) = (0, true);
        // A write that waits for the line is no reason to look at the answers later: they would seem late.
        while is_more && written < BURST && self.now().saturating_sub(start) < TICK {
            match self.channel.poll_transmit(self.now()) {
                Some(frame) => {
                    self.transport.write_all(&frame)?;
                    self.sent += frame.len() as u64;
                    written += 1;
                }
                None => is_more = false,
            }
        }
        let until = self.channel.next_deadline().map_or(patience, |at| at.saturating_sub(self.now()));
        let wait = if is_more { Duration::ZERO } else { patience.min(until) };
        let mut buffer = [0; 4096];
        let n = self.transport.read(&mut buffer, wait)?;
        self.received += n as u64;
        self.channel.receive(buffer.get(..n).unwrap_or_default(), self.now());
        self.pumped = self.now();
        self.fall_back()
    }

    /// Sends what is queued, for at most `patience`.
    fn flush(&mut self, patience: Duration) -> io::Result<()> {
        let until = self.now() + patience;
        while self.channel.is_open() && !self.channel.is_flushed() && self.now() < until {
            self.pump(TICK)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
