//! A serial line in simulated time: paced, noisy, and garbled where its two ends run at different rates.
//!
//! Time passes only when both ends wait, so that minutes at 115200 baud take a test milliseconds, the same each time
//! and on however busy a machine. Each end may live in a thread of its own; what a thread computes takes no time.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Random, Transport};

/// What a line does to bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Where the damage begins to be dealt out.
    pub seed: u64,
    /// How likely a bit is flipped.
    pub bit_errors: f64,
    /// How likely all of one write, which is one frame, is lost.
    pub lost_writes: f64,
    /// Above this many bits a second everything is garbled.
    pub fastest: u32,
    /// Writes that are lost by their place, from 0: from the first, before the second.
    pub lost_places: (u64, u64),
}

impl Quality {
    /// A line without faults, as fast as one likes.
    pub const CLEAN: Self = Self { seed: 0, bit_errors: 0.0, lost_writes: 0.0, fastest: u32::MAX, lost_places: (0, 0) };
}

/// One end of a simulated line.
#[derive(Debug)]
pub struct End {
    world: Arc<World>,
    side: usize,
}

#[derive(Debug, Default)]
struct World {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    sides: [Side; 2],
}

#[derive(Debug, Default)]
struct Side {
    rate: u32,
    /// Until when the end has nothing to do; `None` while its thread computes.
    waits_until: Option<Duration>,
    is_gone: bool,
    /// When the last bit of what was written leaves.
    busy_until: Duration,
    /// Bytes on their way to this end.
    incoming: VecDeque<Byte>,
    noise: Noise,
}

#[derive(Debug, Clone, Copy)]
struct Byte {
    at: Duration,
    rate: u32,
    value: u8,
}

/// What an operating system takes before a write waits.
const BUFFER: u32 = 4096;
/// For how long an adapter gathers bytes before it hands them over.
const GATHER: Duration = Duration::from_millis(8);
/// Bits on the line for a byte: start, eight, stop.
const BITS: u32 = 10;

/// Returns the two ends of a line, both at `rate` bits a second; each direction has the faults of its own quality.
///
/// Dropping an end is an end of file for the other.
pub fn line(rate: u32, there: Quality, back: Quality) -> (End, End) {
    let side = |quality| Side { rate: rate.max(1), noise: Noise::new(quality), ..Side::default() };
    let state = State { now: Duration::ZERO, sides: [side(there), side(back)] };
    let world = Arc::new(World { state: Mutex::new(state), changed: Condvar::new() });
    (End { world: Arc::clone(&world), side: 0 }, End { world, side: 1 })
}

fn time_of(bytes: u32, rate: u32) -> Duration {
    Duration::from_secs(1) * bytes * BITS / rate
}

impl End {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.world.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass until `until`, or until `wake` gives an earlier moment and that has come.
    fn wait(&self, until: Duration, wake: impl Fn(&Side) -> Option<Duration>) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        loop {
            let mine = state.sides[self.side].pick(until, &wake);
            if mine <= state.now {
                state.sides[self.side].waits_until = None;
                return state;
            }
            state.sides[self.side].waits_until = Some(mine);
            let other = &state.sides[1 - self.side];
            match other.waits_until {
                _ if other.is_gone => state.now = mine,
                Some(theirs) => {
                    state.now = mine.min(theirs).max(state.now);
                    if theirs <= state.now {
                        state.sides[1 - self.side].waits_until = None;
                        self.world.changed.notify_all();
                    }
                }
                None => state = self.world.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Side {
    fn pick(&self, until: Duration, wake: &impl Fn(&Self) -> Option<Duration>) -> Duration {
        wake(self).map_or(until, |at| at.min(until))
    }
}

impl Transport for End {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        let until = self.now() + patience;
        let mut state = self.wait(until, |side| side.incoming.front().map(|byte| byte.at + GATHER));
        let now = state.now;
        let side = &mut state.sides[self.side];
        let mut count = 0;
        for place in buffer.iter_mut() {
            let Some(byte) = side.incoming.front().copied().filter(|byte| byte.at <= now) else { break };
            side.incoming.pop_front();
            *place = if byte.rate == side.rate { byte.value } else { side.noise.byte() };
            count += 1;
        }
        if count == 0 && state.sides[1 - self.side].is_gone {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other side has left the line"));
        }
        Ok(count)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let until = {
            let mut state = self.lock();
            let now = state.now;
            let Some(there) = state.sides.get_mut(1 - self.side).filter(|there| !there.is_gone) else {
                return Err(io::Error::new(ErrorKind::BrokenPipe, "the other side has left the line"));
            };
            let mut incoming = std::mem::take(&mut there.incoming);
            let side = &mut state.sides[self.side];
            let mut at = side.busy_until.max(now);
            let is_lost = side.noise.loses();
            let step = time_of(1, side.rate);
            for &value in bytes {
                at += step;
                if !is_lost {
                    incoming.push_back(Byte { at, rate: side.rate, value: side.noise.damage(value, side.rate) });
                }
            }
            side.busy_until = at;
            let buffered = time_of(BUFFER, side.rate);
            let there = &mut state.sides[1 - self.side];
            // It may wait for something later.
            if let (Some(until), Some(first)) = (&mut there.waits_until, incoming.front()) {
                *until = (*until).min(first.at + GATHER);
            }
            there.incoming = incoming;
            at.saturating_sub(buffered)
        };
        drop(self.wait(until, |_| None));
        Ok(())
    }

    fn now(&self) -> Duration {
        self.lock().now
    }

    fn rate(&self) -> Option<u32> {
        Some(self.lock().sides[self.side].rate)
    }

    fn set_rate(&mut self, rate: u32) -> io::Result<()> {
        let until = self.lock().sides[self.side].busy_until;
        let mut state = self.wait(until, |_| None);
        let now = state.now;
        let side = &mut state.sides[self.side];
        side.rate = rate.max(1);
        side.incoming.retain(|byte| byte.at > now);
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.lock();
        state.sides[self.side].is_gone = true;
        drop(state);
        self.world.changed.notify_all();
    }
}

/// The faults of one direction.
#[derive(Debug)]
struct Noise {
    quality: Quality,
    random: Random,
    /// Good bits before the next flipped one.
    good_bits: f64,
    writes: u64,
}

impl Default for Noise {
    fn default() -> Self {
        Self::new(Quality::CLEAN)
    }
}

impl Noise {
    fn new(quality: Quality) -> Self {
        let mut this = Self { quality, random: Random::new(quality.seed, 0), good_bits: 0.0, writes: 0 };
        this.good_bits = this.gap();
        this
    }

    /// From 0 to 1, without 0.
    fn unit(&mut self) -> f64 {
        ((self.random.number() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    fn byte(&mut self) -> u8 {
        self.random.number().to_le_bytes()[0]
    }

    fn gap(&mut self) -> f64 {
        if self.quality.bit_errors <= 0.0 { f64::INFINITY } else { -self.unit().ln() / self.quality.bit_errors }
    }

    fn loses(&mut self) -> bool {
        let (from, before) = self.quality.lost_places;
        let place = self.writes;
        self.writes += 1;
        (from..before).contains(&place) || (self.quality.lost_writes > 0.0 && self.unit() <= self.quality.lost_writes)
    }

    fn damage(&mut self, value: u8, rate: u32) -> u8 {
        if rate > self.quality.fastest {
            return self.byte();
        }
        let mut value = value;
        while self.good_bits < 8.0 {
            value ^= 1 << (self.good_bits as u32 % 8);
            self.good_bits += 1.0 + self.gap();
        }
        self.good_bits -= 8.0;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn read_for(end: &mut End, time: Duration) -> Vec<u8> {
        let until = end.now() + time;
        let mut all = Vec::new();
        loop {
            let left = until.saturating_sub(end.now());
            let mut buffer = [0; 4096];
            let Ok(n) = end.read(&mut buffer, left) else { break };
            if left.is_zero() {
                break;
            }
            all.extend_from_slice(&buffer[..n]);
        }
        all
    }

    #[test]
    fn a_second_carries_what_the_rate_allows() {
        let (mut a, mut b) = line(115_200, Quality::CLEAN, Quality::CLEAN);
        let reader = thread::spawn(move || {
            let count = read_for(&mut b, Duration::from_secs(1)).len();
            read_for(&mut b, Duration::from_secs(9));
            count
        });
        for _ in 0..20 {
            a.write_all(&[7; 1000]).unwrap();
        }
        // What is written beyond the buffer waits for the line.
        assert!(a.now() > Duration::from_millis(1370) && a.now() < Duration::from_millis(1390), "{:?}", a.now());
        drop(a);
        assert!((11_400..=11_520).contains(&reader.join().unwrap()));
    }

    #[test]
    fn bits_are_flipped_and_writes_lost_as_often_as_asked() {
        let quality = Quality { bit_errors: 1e-3, lost_writes: 0.25, ..Quality::CLEAN };
        let (mut a, mut b) = line(1_000_000, quality, Quality::CLEAN);
        let reader = thread::spawn(move || read_for(&mut b, Duration::from_secs(20)));
        for _ in 0..1000 {
            a.write_all(&[0; 100]).unwrap();
        }
        drop(a);
        let bytes = reader.join().unwrap();
        let flipped: u32 = bytes.iter().map(|b| b.count_ones()).sum();
        assert!((70_000..80_000).contains(&bytes.len()), "{}", bytes.len());
        assert!((400..800).contains(&flipped), "{flipped}");
    }

    #[test]
    fn rates_that_differ_or_are_too_fast_garble() {
        for (rate, other, fastest, is_good) in
            [(9600, 9600, 9600, true), (9600, 19_200, 99_999, false), (19_200, 19_200, 9600, false)]
        {
            let (mut a, mut b) = line(rate, Quality { fastest, ..Quality::CLEAN }, Quality::CLEAN);
            b.set_rate(other).unwrap();
            let reader = thread::spawn(move || read_for(&mut b, Duration::from_secs(1)));
            a.write_all(b"some words that all can read").unwrap();
            drop(a);
            assert_eq!(reader.join().unwrap() == b"some words that all can read", is_good, "{rate} {other}");
        }
    }
}
