//! Timing a model on the machine it is on.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Network, Picture, RuntimeError};

/// Latencies of single runs of the network, without preprocessing, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bench {
    /// The fastest.
    pub min_ms: f64,
    /// Half are faster.
    pub median_ms: f64,
    /// 95 of 100 are faster.
    pub p95_ms: f64,
    /// The very first run.
    pub first_ms: f64,
    /// Runs timed.
    pub runs: usize,
    /// Pictures in the network at the same time.
    pub pictures: usize,
    /// Pictures done in a second by all together.
    pub pictures_per_second: f64,
}

/// Runs one picture over and over for `seconds`, `pictures` of them at the same time, after a first run.
///
/// `pictures` above one shows throughput, and what neighbours cost; how many threads share the work of each is
/// [`Network::set_threads`].
///
/// # Errors
///
/// Those of [`Network::run`].
pub fn bench(network: &Network, picture: Picture<'_>, pictures: usize, seconds: f32) -> Result<Bench, RuntimeError> {
    let begin = Instant::now();
    network.run(picture)?;
    let first_ms = begin.elapsed().as_secs_f64() * 1e3;
    let pictures = pictures.clamp(1, MAX_PICTURES);
    let length = Duration::try_from_secs_f32(seconds).unwrap_or(MAX_LENGTH).min(MAX_LENGTH);
    let all = Mutex::new(Vec::new());
    let failure = Mutex::new(None);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..pictures {
            scope.spawn(|| {
                let mut own = Vec::new();
                while own.len() < MIN_RUNS || start.elapsed() < length {
                    let begin = Instant::now();
                    if let Err(error) = network.run(picture) {
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                        return;
                    }
                    own.push(begin.elapsed().as_secs_f64() * 1e3);
                }
                all.lock().unwrap_or_else(|e| e.into_inner()).extend(own);
            });
        }
    });
    let wall = start.elapsed().as_secs_f64();
    if let Some(error) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(error);
    }
    let mut all: Vec<f64> = all.into_inner().unwrap_or_else(|e| e.into_inner());
    all.sort_by(f64::total_cmp);
    let runs = all.len();
    let at = |percent: usize| all[(runs * percent / 100).min(runs - 1)];
    Ok(Bench {
        min_ms: all[0],
        median_ms: at(50),
        p95_ms: at(95),
        first_ms,
        runs,
        pictures,
        pictures_per_second: runs as f64 / wall,
    })
}

/// Returns the largest resident size this process has had, in units of a million bytes; none where the system
/// does not tell.
///
/// # Source
///
/// `VmHWM` in proc_pid_status(5).
pub fn peak_rss_mb() -> Option<f64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Fewest runs each, so that a slow board gives a median at all.
const MIN_RUNS: usize = 3;
const MAX_PICTURES: usize = 256;
const MAX_LENGTH: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_millions_of_bytes() {
        assert_eq!(peak_of("VmPeak:\t 9 kB\nVmHWM:\t   2000 kB\nVmRSS:\t1 kB\n"), Some(2.048));
        assert_eq!(peak_of("VmHWM: lots"), None);
        assert_eq!(peak_of(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_rss_mb().is_some_and(|mb| mb > 0.1));
    }
}
