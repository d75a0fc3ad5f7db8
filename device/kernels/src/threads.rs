//! A small team of threads that stays, and splits each kernel's work into equal parts.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

use crate::Buffer;
use crate::exchange::Shared;

/// Threads that wait for work; the caller is one of them.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<State>,
    helpers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    /// Working memory, one a thread.
    scratch: Vec<Buffer<u8>>,
}

/// The work of one call: an erased closure, borrowed for as long as `left` is above zero.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync + 'static));

// SAFETY: the closure is `Sync`, and `run` does not return before every thread is done with it.
unsafe impl Send for Job {}

struct State {
    job: Mutex<Option<Job>>,
    /// Raised by one for each call.
    round: AtomicUsize,
    /// Helpers that are not yet done.
    left: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("round", &self.round).finish_non_exhaustive()
    }
}

impl Threads {
    /// Starts `count - 1` helpers. Where the system gives fewer, fewer work.
    pub fn new(count: usize) -> Self {
        let shared = Arc::new(State {
            job: Mutex::new(None),
            round: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let helpers: Vec<_> = (1..count.clamp(1, MAX))
            .map_while(|index| {
                let state = Arc::clone(&shared);
                thread::Builder::new().name(format!("kernel-{index}")).spawn(move || help(&state, index)).ok()
            })
            .collect();
        let handles = helpers.iter().map(|h| h.thread().clone()).collect();
        let scratch = vec![Buffer::default(); helpers.len() + 1];
        Self { shared, helpers, handles, scratch }
    }

    /// Gives every thread at least `bytes` of working memory, so that no later [`Threads::split`] of as many allocates.
    pub fn reserve(&mut self, bytes: usize) {
        for buffer in self.scratch.iter_mut().filter(|b| b.len() < bytes) {
            *buffer = Buffer::zeros(bytes);
        }
    }

    /// Returns the number of threads, the caller's included.
    pub fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Cuts `0..len` into one range a thread, each a multiple of `grain` but for the last, and does them all.
    ///
    /// `work` also gets at least `scratch` bytes of working memory, its own and of any content.
    ///
    /// # Panics
    ///
    /// If `work` panics.
    pub fn split(
        &mut self,
        len: usize,
        grain: usize,
        scratch: usize,
        work: &(dyn Fn(Range<usize>, &mut Buffer<u8>) + Sync),
    ) {
        self.reserve(scratch);
        let (grain, count) = (grain.max(1), self.count());
        let grains = len.div_ceil(grain);
        if count == 1 || grains <= 1 {
            return work(0..len, &mut self.scratch[0]);
        }
        let each = Shared::new(&mut self.scratch);
        let work = |index: usize| {
            let at = |i: usize| (i * grains / count * grain).min(len);
            let range = at(index)..at(index + 1);
            if !range.is_empty() {
                // SAFETY: one buffer a thread, and `index` is another on each.
                work(range, unsafe { &mut *each.at(index) });
            }
        };
        run(&self.shared, &self.handles, &work);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.round.fetch_add(1, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches what its work throws, so joining gives no error worth telling.
            let _ = helper.join();
        }
    }
}

/// Has the caller and every helper do `work`, each with its own index.
fn run(state: &State, helpers: &[Thread], work: &(dyn Fn(usize) + Sync)) {
    // SAFETY: only the lifetime changes; `wait` holds until no helper uses the closure, even when `work` panics here.
    let job = Job(unsafe {
        std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(work)
    });
    *state.job.lock().unwrap_or_else(|e| e.into_inner()) = Some(job);
    state.left.store(helpers.len(), Ordering::Relaxed);
    state.round.fetch_add(1, Ordering::Release);
    helpers.iter().for_each(Thread::unpark);
    let wait = Wait(state);
    work(0);
    drop(wait);
    assert!(!state.panicked.swap(false, Ordering::Relaxed), "a kernel panicked on another thread");
}

/// Waits on drop until every helper is done.
struct Wait<'a>(&'a State);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut spins = 0_u32;
        while self.0.left.load(Ordering::Acquire) > 0 {
            pause(&mut spins);
        }
    }
}

fn help(state: &State, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while state.round.load(Ordering::Acquire) == seen {
            if spins < SPINS {
                pause(&mut spins);
            } else {
                // A wake-up between the check and here is kept as a token: no call is missed.
                thread::park();
            }
        }
        seen += 1;
        if state.stop.load(Ordering::Relaxed) {
            return;
        }
        let job = *state.job.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(Job(work)) = job {
            // SAFETY: `run` keeps the closure alive until `left` is zero, which this thread has yet to lower.
            let work = unsafe { &*work };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(index))).is_err() {
                state.panicked.store(true, Ordering::Relaxed);
            }
        }
        state.left.fetch_sub(1, Ordering::Release);
    }
}

fn pause(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(1024) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// Rounds of waiting before a helper sleeps: a few hundred microseconds, longer than the gap between two kernels.
const SPINS: u32 = 20_000;
const MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for count in [1, 2, 5] {
            let mut threads = Threads::new(count);
            for (len, grain) in [(0, 1), (1, 4), (7, 2), (100, 3), (4, 100)] {
                let hits: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                threads.split(len, grain, 100, &|range, scratch| {
                    assert!(scratch.len() >= 100);
                    assert!(range.start.is_multiple_of(grain));
                    range.for_each(|i| {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{count} {len} {grain}");
            }
        }
    }

    #[test]
    fn a_panic_in_a_helper_reaches_the_caller_and_the_team_goes_on() {
        let mut threads = Threads::new(2);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            threads.split(2, 1, 0, &|range, _| assert!(range.start == 0, "on purpose"));
        }));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        threads.split(10, 1, 0, &|range, _| {
            sum.fetch_add(range.sum(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
