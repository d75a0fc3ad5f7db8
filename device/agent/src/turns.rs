//! Who goes first where a host and the camera want the agent at the same time: a lock alone lets the busier one starve the other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Hosts that wait for the agent.
#[derive(Debug, Default)]
pub struct Turns(AtomicUsize);

/// A host that waits, until this is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Turns);

impl Turns {
    /// Says that a host waits.
    pub fn wait(&self) -> Waiting<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Lets the hosts that wait go first, for a time at most.
    pub fn let_others(&self, most: Duration) {
        let end = Instant::now() + most;
        while self.0.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            thread::sleep(STEP);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const STEP: Duration = Duration::from_millis(2);
