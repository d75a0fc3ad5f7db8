//! The rate of a serial line: from one that always works up to the fastest that does.
//!
//! Every session begins at the base rate. The host asks for another one (`Rate`), both ends change once the answer is
//! there, and a pattern that goes both ways (`Echo`) shows whether the line carries it. No order of losses leaves the
//! two apart: an end that hears nothing good at another rate returns to the base rate by itself, the device sooner
//! than the host, and from there only an agreement leads away. Messages need not know: pieces that are garbled
//! meanwhile are sent again.

use std::io;
use std::time::Duration;

use super::{Client, Line, LinkError, TICK};
use crate::channel::ChannelConfig;
use crate::messages::{Request, Response};
use crate::transport::Transport;

/// Rates that are tried, in this order.
pub const RATES: [u32; 7] = [115_200, 230_400, 460_800, 921_600, 1_500_000, 2_000_000, 3_000_000];
/// A slower rate than this is not agreed on.
pub(super) const SLOWEST: u32 = 9600;
/// A device that hears nothing good for so long returns to the base rate.
pub(super) const DEVICE_SILENCE: Duration = Duration::from_millis(1500);
/// A host does so later: a device at work may be silent for a second.
pub(super) const HOST_SILENCE: Duration = Duration::from_secs(3);
/// How often the host asks, so that a device that is well does not return.
const PING_AFTER: Duration = Duration::from_millis(400);
/// For how long a device waits for the host to have its answer.
const AGREE: Duration = Duration::from_millis(250);
/// An agreement that took longer is none: the device may have returned already.
const AGREEMENT: Duration = Duration::from_millis(800);
/// The device has changed by then.
const CHANGE: Duration = Duration::from_millis(50);
/// Pieces of the pattern.
const PATTERNS: u8 = 8;
/// Pieces of the pattern that may have to be sent again.
const DAMAGED: u64 = 1;
/// Above this share of lost pieces a slower rate carries more.
const LOSS_MAX: f32 = 0.2;

impl<T: Transport> Line<T> {
    /// Returns to the base rate if the other side has not been heard for too long at another one.
    pub(super) fn fall_back(&mut self) -> io::Result<()> {
        let heard = self.channel.alive_at().max(self.listening);
        if self.is_at_base() || self.now().saturating_sub(heard) <= self.silence {
            return Ok(());
        }
        self.return_to_base()
    }

    fn is_at_base(&self) -> bool {
        self.transport.rate() == self.base
    }

    pub(super) fn return_to_base(&mut self) -> io::Result<()> {
        match self.base {
            Some(base) if !self.is_at_base() => {
                self.transport.set_rate(base)?;
                self.channel.renew();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Changes to the rate that was agreed on, once the host has the answer.
    pub(super) fn follow(&mut self, rate: u32) -> io::Result<()> {
        self.flush(AGREE)?;
        // A port that cannot leaves the host to find out; it returns.
        let _ = self.transport.set_rate(rate);
        Ok(())
    }
}

impl<T: Transport> Client<T> {
    /// Goes up to the fastest of [`RATES`] that is at most `fastest` and carries a pattern both ways, and returns the
    /// rate of the line, where it has one.
    ///
    /// # Errors
    ///
    /// If the device is lost on the way.
    pub fn speed_up(&mut self, fastest: u32) -> Result<Option<u32>, LinkError> {
        let Some(base) = self.line.base.filter(|_| self.protocol() >= 2) else { return Ok(self.rate()) };
        let mut good = base;
        for rate in RATES.into_iter().filter(|&rate| rate > base && rate <= fastest) {
            if !self.change_rate(rate)? {
                if good != base {
                    self.change_rate(good)?;
                }
                break;
            }
            good = rate;
        }
        Ok(self.rate())
    }

    /// Returns the bits a second at which the line runs now, where it has such a thing.
    pub fn rate(&self) -> Option<u32> {
        self.line.transport.rate()
    }

    /// Whether a slower rate would carry more.
    pub(super) fn is_too_fast(&self) -> bool {
        !self.line.is_at_base() && self.line.channel.recent_loss() > LOSS_MAX
    }

    /// Goes down by one rate.
    pub(super) fn slow_down(&mut self) -> Result<(), LinkError> {
        let (Some(base), Some(rate)) = (self.line.base, self.rate()) else { return Ok(()) };
        let slower = RATES.into_iter().rev().find(|&r| r < rate).unwrap_or(base).max(base);
        self.change_rate(slower)?;
        self.line.channel.renew();
        Ok(())
    }

    /// Agrees on a rate and tries it; `false` if the line runs at the base rate again because that did not work.
    fn change_rate(&mut self, rate: u32) -> Result<bool, LinkError> {
        let asked = self.line.now();
        let before = self.deadline();
        self.set_deadline(HOST_SILENCE);
        let outcome = self.request(&Request::Rate { bits_per_second: rate }, |_| ());
        self.set_deadline(before);
        match outcome {
            Ok(_) => {}
            Err(LinkError::Refused { .. }) => return Ok(false),
            Err(LinkError::Overdue { .. }) => return self.recover(),
            Err(error) => return Err(error),
        }
        if self.line.now().saturating_sub(asked) > AGREEMENT {
            return self.recover();
        }
        self.line.channel.acknowledge(asked);
        self.line.pump(Duration::ZERO)?;
        if self.line.transport.set_rate(rate).is_err() {
            return self.recover();
        }
        self.line.channel.set_ping_after(PING_AFTER);
        self.discard(CHANGE)?;
        if self.carries_pattern(rate)? {
            self.line.channel.renew();
            return Ok(true);
        }
        self.recover()
    }

    fn discard(&mut self, time: Duration) -> Result<(), LinkError> {
        let until = self.line.now() + time;
        let mut buffer = [0; 256];
        while self.line.now() < until {
            let left = until.saturating_sub(self.line.now());
            self.line.transport.read(&mut buffer, left)?;
        }
        Ok(())
    }

    fn carries_pattern(&mut self, rate: u32) -> Result<bool, LinkError> {
        let before = self.line_quality();
        let patterns: Vec<Vec<u8>> = (0..PATTERNS).map(pattern).collect();
        let len: usize = patterns.iter().map(Vec::len).sum();
        // Both ways, ten bits a byte, and as much again for what is not the line's.
        let time = Duration::from_secs(1) * 4 * 10 * u32::try_from(len).unwrap_or(u32::MAX) / rate + DEVICE_SILENCE / 2;
        let until = self.line.now() + time;
        let mut waiting = Vec::new();
        for bytes in patterns {
            let id = self.send(&Request::Echo { bytes: bytes.clone() })?;
            waiting.push((id, bytes));
        }
        while !waiting.is_empty() {
            let before = self.deadline();
            self.set_deadline(until.saturating_sub(self.line.now()));
            let outcome = self.receive("Echo");
            self.set_deadline(before);
            match outcome {
                Ok((found, Response::Echo { bytes })) => waiting.retain(|(id, sent)| *id != found || *sent != bytes),
                Ok(_) => {}
                Err(LinkError::Overdue { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.line.now() > until {
                return Ok(waiting.is_empty());
            }
        }
        let after = self.line_quality();
        Ok(after.resent - before.resent <= DAMAGED && after.bad_frames - before.bad_frames <= DAMAGED)
    }

    /// Returns to the base rate and waits for the device to do the same.
    fn recover(&mut self) -> Result<bool, LinkError> {
        self.line.return_to_base()?;
        self.line.channel.set_ping_after(PING_AFTER);
        let start = self.line.now();
        while self.line.channel.alive_at() <= start {
            self.check_stop()?;
            self.line.pump(TICK)?;
            if !self.line.channel.is_open() {
                return Err(self.close_reason().into());
            }
        }
        // What is still on its way would keep the next agreement waiting.
        self.line.flush(HOST_SILENCE)?;
        self.line.channel.set_ping_after(ChannelConfig::INITIATOR.ping_after);
        Ok(false)
    }
}

/// Runs of the bits that are hardest for a receiver to keep in step with, and noise.
fn pattern(number: u8) -> Vec<u8> {
    let mut state = u32::from(number) + 1;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let runs = [0x00, 0xFF, 0x55, 0xAA].into_iter().flat_map(|byte| [byte; 32]);
    runs.chain(noise).take(512).collect()
}
