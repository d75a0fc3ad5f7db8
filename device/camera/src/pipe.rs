//! Files from something that is read as a stream, such as a program's output.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::splitter::Splitter;

/// A stream of JPEG files.
pub(crate) struct Pipe<F> {
    file: F,
    splitter: Splitter,
    part: Vec<u8>,
}

/// What came of it.
pub(crate) enum Came {
    Jpeg(Vec<u8>),
    Nothing,
    End,
}

impl<F: AsFd> Pipe<F> {
    pub(crate) fn new(file: F) -> Self {
        Self { file, splitter: Splitter::default(), part: vec![0; PART] }
    }

    pub(crate) fn next(&mut self, patience: Duration) -> io::Result<Came> {
        let end = Instant::now() + patience;
        loop {
            if let Some(jpeg) = self.splitter.take() {
                return Ok(Came::Jpeg(jpeg));
            }
            if !is_ready(&self.file, end.saturating_duration_since(Instant::now()))? {
                return Ok(Came::Nothing);
            }
            match rustix::io::read(&self.file, &mut self.part[..]) {
                Ok(0) => return Ok(Came::End),
                Ok(n) => self.splitter.push(&self.part[..n]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Waits until something can be read, or is at its end.
pub(crate) fn is_ready(file: &impl AsFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&patience)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Bytes read at once.
const PART: usize = 64 << 10;
