//! The device's clock. Boards without a battery begin in 1970; a host may set it, and a replay runs ahead of it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// What is added to the system's clock, in milliseconds, where the daemon may not set that.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

/// What a replay has added to all clocks, in nanoseconds.
static REPLAYED: AtomicU64 = AtomicU64::new(0);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let ahead = AHEAD_MS.load(Ordering::Relaxed).saturating_add(i64::try_from(replayed().as_millis()).unwrap_or(0));
    u64::try_from(system_ms().saturating_add(ahead)).unwrap_or(0)
}

/// Returns the time since the daemon's start, which nobody sets.
pub fn running() -> Duration {
    START.elapsed().saturating_add(replayed())
}

/// Puts all clocks ahead, as a replay of pictures of other hours does.
pub fn put_ahead(time: Duration) {
    REPLAYED.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(0), Ordering::Relaxed);
}

fn replayed() -> Duration {
    Duration::from_nanos(REPLAYED.load(Ordering::Relaxed))
}

fn system_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Sets the clock; `false` where the system's cannot be set, so that only the daemon's is, until it ends.
pub fn set(unix_ms: u64) -> bool {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    let is_system = clock_settime(ClockId::Realtime, time).is_ok();
    set_ahead(if is_system { 0 } else { ms.saturating_sub(system_ms()) });
    is_system
}

fn set_ahead(ms: i64) {
    AHEAD_MS.store(ms, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_clock_goes_ahead_of_the_systems() {
        let before = unix_ms();
        set_ahead(5_000_000);
        let ahead = unix_ms();
        set_ahead(0);
        assert!(ahead >= before + 5_000_000 && unix_ms() < ahead);
    }
}
