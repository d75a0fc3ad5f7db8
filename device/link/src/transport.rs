//! Transports: whatever carries bytes both ways. The in-memory pair and the faulty one are for tests everywhere; a
//! line with a pace and a rate is in [`crate::simulated`].

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A byte stream with patience.
pub trait Transport: Send {
    /// Reads what is there, waiting at most `patience` for the first byte; 0 when nothing came.
    ///
    /// # Errors
    ///
    /// The other side is gone for good, or the port failed.
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Writes all of it.
    ///
    /// # Errors
    ///
    /// As [`Transport::read`].
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns the time since any fixed moment. A simulated line has a time of its own.
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    /// Returns the bits a second, where the line has such a thing.
    fn rate(&self) -> Option<u32> {
        None
    }

    /// Lets what was written leave, drops what has come and was not read, and goes on at another rate.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where a line has no rate, or not this one; else as [`Transport::read`].
    fn set_rate(&mut self, _bits_per_second: u32) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

/// What leads to a transport is one.
macro_rules! passed_on {
    ($($pointer:ty),+) => {$(
        impl<T: Transport + ?Sized> Transport for $pointer {
            fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
                (**self).read(buffer, patience)
            }

            fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
                (**self).write_all(bytes)
            }

            fn now(&self) -> Duration {
                (**self).now()
            }

            fn rate(&self) -> Option<u32> {
                (**self).rate()
            }

            fn set_rate(&mut self, bits_per_second: u32) -> io::Result<()> {
                (**self).set_rate(bits_per_second)
            }
        }
    )+};
}

passed_on!(Box<T>, &mut T);

/// Shortest wait that every system takes as one.
const LEAST: Duration = Duration::from_millis(1);

/// Reads from a stream whose own timeout has been set: a timeout is nothing, an end is an error.
///
/// # Errors
///
/// The stream's, and [`ErrorKind::UnexpectedEof`] at its end.
pub fn read_patiently(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer) {
        Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the other side closed the line")),
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

/// Longest wait for a peer that takes nothing.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

impl Transport for TcpStream {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(patience.max(LEAST)))?;
        read_patiently(self, buffer)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.set_write_timeout(Some(WRITE_PATIENCE))?;
        Write::write_all(self, bytes)
    }
}

#[cfg(unix)]
impl Transport for UnixStream {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(patience.max(LEAST)))?;
        read_patiently(self, buffer)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.set_write_timeout(Some(WRITE_PATIENCE))?;
        Write::write_all(self, bytes)
    }
}

#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<PipeState>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// One end of a line in memory.
#[derive(Debug)]
pub struct Pair {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

/// Returns the two ends of a line in memory. Dropping one is an end of file for the other.
pub fn pair() -> (Pair, Pair) {
    let (a, b) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    (Pair { incoming: Arc::clone(&a), outgoing: Arc::clone(&b) }, Pair { incoming: b, outgoing: a })
}

impl Transport for Pair {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        let until = Instant::now() + patience;
        let mut state = self.incoming.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.bytes.is_empty() {
            if state.closed {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other side closed the line"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(0);
            }
            state = self.incoming.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let n = state.bytes.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(state.bytes.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.outgoing.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the other side closed the line"));
        }
        state.bytes.extend(bytes);
        self.outgoing.ready.notify_all();
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for pipe in [&self.incoming, &self.outgoing] {
            pipe.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
            pipe.ready.notify_all();
        }
    }
}

/// A transport that damages what is written, the same for the same seed.
#[derive(Debug)]
pub struct Faulty<T> {
    inner: T,
    faults: Faults,
    state: u64,
    written: u64,
}

/// What goes wrong on a [`Faulty`] line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Where the damage begins to be dealt out.
    pub seed: u64,
    /// Of a million bytes, how many are dropped.
    pub drop_ppm: u32,
    /// Of a million bytes, how many have a bit flipped.
    pub flip_ppm: u32,
    /// Of a million bytes, how many come twice.
    pub double_ppm: u32,
    /// After this many bytes the line is dead.
    pub cut_after: Option<u64>,
}

impl<T> Faulty<T> {
    /// Wraps a transport.
    pub fn new(inner: T, faults: Faults) -> Self {
        Self { inner, faults, state: faults.seed, written: 0 }
    }

    /// Takes the inner transport out.
    pub fn into_inner(self) -> T {
        self.inner
    }

    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.state >> 40).unwrap_or(0)
    }

    fn hits(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.next() % 1_000_000 < ppm
    }
}

impl<T: Transport> Transport for Faulty<T> {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.inner.read(buffer, patience)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.written += 1;
            if self.faults.cut_after.is_some_and(|n| self.written > n) {
                self.inner.write_all(&out)?;
                return Err(io::Error::new(ErrorKind::BrokenPipe, "the line was cut"));
            }
            if self.hits(self.faults.drop_ppm) {
                continue;
            }
            let flip = if self.hits(self.faults.flip_ppm) { 1 << (self.next() % 8) } else { 0 };
            out.push(byte ^ flip);
            if self.hits(self.faults.double_ppm) {
                out.push(byte);
            }
        }
        self.inner.write_all(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_carries_bytes_waits_and_ends() {
        let (mut a, mut b) = pair();
        a.write_all(b"abc").unwrap();
        let mut buffer = [0; 2];
        assert_eq!(b.read(&mut buffer, Duration::ZERO).unwrap(), 2);
        assert_eq!(b.read(&mut buffer, Duration::ZERO).unwrap(), 1);
        assert_eq!(b.read(&mut buffer, Duration::from_millis(5)).unwrap(), 0);
        drop(a);
        assert!(b.read(&mut buffer, Duration::ZERO).is_err());
        assert!(b.write_all(b"x").is_err());
    }

    #[test]
    fn a_faulty_line_repeats_its_faults() {
        let sent = |seed| {
            let (a, mut b) = pair();
            let faults = Faults { seed, drop_ppm: 100_000, flip_ppm: 100_000, double_ppm: 100_000, cut_after: None };
            Faulty::new(a, faults).write_all(&[7; 200]).unwrap();
            let mut buffer = [0; 400];
            let n = b.read(&mut buffer, Duration::ZERO).unwrap();
            buffer[..n].to_vec()
        };
        assert_eq!(sent(1), sent(1));
        assert_ne!(sent(1), sent(2));
        assert_ne!(sent(1), [7; 200]);
    }
}
