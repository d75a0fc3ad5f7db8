//! A small team of threads that stays, and splits each kernel's work into equal parts.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    /// Working memory, one a part.
    scratch: Vec<Buffer<u8>>,
}

/// The work of one call: an erased closure, borrowed for as long as a part of it is not done.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync + 'static));

// SAFETY: the closure is `Sync`, and `run` does not return before every part is done.
unsafe impl Send for Job {}

/// What the threads of a team share. A call has as many parts as there are threads, and whoever comes takes the next: where
/// another program has a core, the caller does what its helper would have.
struct State {
    job: Mutex<Option<Job>>,
    /// Which call it is, times [`CALL`], and how many of its parts are taken.
    ticket: AtomicU64,
    /// Parts of the call that are done; before the first, helpers that have started.
    done: AtomicUsize,
    /// Parts of every call.
    parts: usize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

impl State {
    fn new(parts: usize) -> Self {
        Self {
            job: Mutex::new(None),
            ticket: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            parts,
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// Returns the call that goes on, or was the last.
    fn call(&self) -> u64 {
        self.ticket.load(Ordering::Acquire) / CALL
    }

    /// Takes a part of a call; none where all are taken, or the call is over.
    fn take(&self, call: u64) -> Option<usize> {
        let part = |ticket: u64| usize::try_from(ticket % CALL).ok().filter(|p| *p < self.parts);
        let next = |ticket: u64| (ticket / CALL == call && part(ticket).is_some()).then(|| ticket + 1);
        self.ticket.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok().and_then(part)
    }
}

/// Tickets of a call.
const CALL: u64 = 1 << 16;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl Threads {
    /// Starts `count - 1` helpers. Where the system gives fewer, they do the work of all.
    pub fn new(count: usize) -> Self {
        let count = count.clamp(1, MAX);
        let shared = Arc::new(State::new(count));
        let helpers: Vec<_> = (1..count)
            .map_while(|index| {
                let state = Arc::clone(&shared);
                thread::Builder::new().name(format!("kernel-{index}")).spawn(move || help(&state)).ok()
            })
            .collect();
        // What a thread allocates as it starts is then allocated, and the first call finds all of them.
        let mut spins = 0;
        while shared.done.load(Ordering::Acquire) < helpers.len() {
            pause(&mut spins);
        }
        let handles = helpers.iter().map(|h| h.thread().clone()).collect();
        let scratch = vec![Buffer::default(); count];
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
        self.shared.parts
    }

    /// Cuts `0..len` into one range for each thread, each a multiple of `grain` but for the last, and does them all; a
    /// thread that has none left takes that of one that has not come.
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
                // SAFETY: one buffer a part, and a part is one thread's alone.
                work(range, unsafe { &mut *each.at(index) });
            }
        };
        run(&self.shared, &self.handles, &work);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A call of which every part is taken.
        self.shared.ticket.store((self.shared.call() + 1) * CALL + CALL - 1, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches what its work throws, so joining gives no error worth telling.
            let _ = helper.join();
        }
    }
}

/// Does every part of `work`, each once, by the caller and those helpers that come.
fn run(state: &State, helpers: &[Thread], work: &(dyn Fn(usize) + Sync)) {
    // SAFETY: only the lifetime changes; `wait` holds until no helper uses the closure, even when `work` panics here.
    let job = Job(unsafe {
        std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(work)
    });
    *state.job.lock().unwrap_or_else(|e| e.into_inner()) = Some(job);
    state.done.store(0, Ordering::Relaxed);
    state.panicked.store(false, Ordering::Relaxed);
    let call = state.call() + 1;
    state.ticket.store(call * CALL, Ordering::Release);
    helpers.iter().for_each(Thread::unpark);
    let wait = Wait { state, call };
    while let Some(part) = state.take(call) {
        let _done = Done(state);
        work(part);
    }
    drop(wait);
    assert!(!state.panicked.swap(false, Ordering::Relaxed), "a kernel panicked on another thread");
}

/// Counts a part as done on drop, even where its work panics.
struct Done<'a>(&'a State);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Release);
    }
}

/// Waits on drop until every part is done; where the caller has panicked, none is begun any more.
struct Wait<'a> {
    state: &'a State,
    call: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        while self.state.take(self.call).is_some() {
            drop(Done(self.state));
        }
        let mut spins = 0_u32;
        while self.state.done.load(Ordering::Acquire) < self.state.parts {
            pause(&mut spins);
        }
    }
}

fn help(state: &State) {
    let mut seen = state.call();
    state.done.fetch_add(1, Ordering::Release);
    loop {
        let mut spins = 0;
        while state.call() == seen {
            if spins < SPINS {
                pause(&mut spins);
            } else {
                // A wake-up between the check and here is kept as a token: no call is missed.
                thread::park();
            }
        }
        seen = state.call();
        if state.stop.load(Ordering::Relaxed) {
            return;
        }
        while let Some(part) = state.take(seen) {
            let _done = Done(state);
            // The caller sets the next job only once this part is done.
            let job = *state.job.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(Job(work)) = job {
                // SAFETY: `run` keeps the closure alive until every part is done, and this one is not yet.
                let work = unsafe { &*work };
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(part))).is_err() {
                    state.panicked.store(true, Ordering::Relaxed);
                }
            }
        }
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

/// Rounds of waiting before a helper sleeps: a few hundred microseconds, longer than the gap between two kernels. Where Miri
/// interprets each round, few.
const SPINS: u32 = if cfg!(miri) { 20 } else { 20_000 };
const MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::most;

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
    fn the_caller_does_what_no_helper_comes_for() {
        let state = State::new(3);
        for call in 1..4 {
            let hits: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
            run(&state, &[], &|part| {
                hits[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "call {call}");
        }
        assert_eq!(state.take(2), None, "a call that is over has no parts");
    }

    #[test]
    fn a_panic_of_the_caller_waits_for_the_helpers() {
        let mut threads = Threads::new(3);
        for _ in 0..most(100, 10) {
            let alive = AtomicBool::new(true);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                threads.split(3, 1, 0, &|range, _| {
                    assert!(range.start != 0, "on purpose");
                    std::thread::yield_now();
                    assert!(alive.load(Ordering::Relaxed));
                });
            }));
            alive.store(false, Ordering::Relaxed);
            assert!(outcome.is_err());
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
