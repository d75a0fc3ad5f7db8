//! Timing a model on the machine it is on, and what `graft bench` and `graftd bench` say of it.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Explained, Loaded, Network, Picture, RuntimeError};

/// How a network is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Threads that share the work of a picture.
    pub threads: usize,
    /// Pictures in the network at the same time.
    pub pictures: usize,
    /// For how long.
    pub seconds: f32,
    /// What is told.
    pub detail: Detail,
}

/// How much a [`Report`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The whole network's times.
    Whole,
    /// What each step costs, too.
    Steps,
}

/// A network's times on this machine: serialises to the JSON, and displays as the lines, of both programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Of the whole network.
    #[serde(flatten)]
    pub bench: Bench,
    /// Reading the file and preparing the network, in milliseconds.
    pub load_ms: f64,
    /// Whether it was read and prepared, or taken from a cache.
    pub loaded: Loaded,
    /// The process's largest resident size, as [`peak_rss_mb`].
    pub peak_rss_mb: Option<f64>,
    /// Threads that shared the work of a picture.
    pub threads: usize,
    /// [`Network::engine`].
    pub engine: String,
    /// [`Network::unrecognised`].
    pub unrecognised: Option<String>,
    /// What each step costs, where that was asked for and graft's own kernels run.
    pub steps: Option<Vec<Explained>>,
}

/// A picture's numbers, as a network takes them.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// `u8`.
    Bytes(Vec<u8>),
    /// `f32`.
    Floats(Vec<f32>),
}

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

impl Settings {
    /// Returns them if they can be used.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Settings`].
    pub fn checked(self) -> Result<Self, RuntimeError> {
        let refused = |expected: String, found: String| Err(RuntimeError::Settings { expected, found });
        for (what, n) in [("threads", self.threads), ("pictures", self.pictures)] {
            if !(1..=MOST).contains(&n) {
                return refused(format!("1 to {MOST} {what}"), n.to_string());
            }
        }
        let longest = MAX_LENGTH.as_secs();
        if !(self.seconds > 0.0 && self.seconds <= MAX_LENGTH.as_secs_f32()) {
            return refused(format!("up to {longest} seconds"), self.seconds.to_string());
        }
        Ok(self)
    }
}

impl Report {
    /// Times a network that took `load` to load.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Settings`] and those of [`Network::run`].
    pub fn of(
        network: &mut Network,
        load: Duration,
        picture: Picture<'_>,
        settings: Settings,
    ) -> Result<Self, RuntimeError> {
        let settings = settings.checked()?;
        network.set_threads(settings.threads);
        let bench = bench(network, picture, settings.pictures, settings.seconds)?;
        let peak_rss_mb = peak_rss_mb();
        let steps = match settings.detail {
            Detail::Steps => network.explain(picture, EXPLAIN_RUNS)?,
            Detail::Whole => None,
        };
        Ok(Self {
            bench,
            load_ms: load.as_secs_f64() * 1e3,
            loaded: network.loaded().clone(),
            peak_rss_mb,
            threads: settings.threads,
            engine: network.engine(),
            unrecognised: network.unrecognised().map(str::to_owned),
            steps,
        })
    }

    /// Returns what should be told besides: that the network runs in the slower engine, and why.
    pub fn note(&self) -> Option<String> {
        let operator = self.unrecognised.as_ref()?;
        Some(format!("tract runs the whole network, which is slower: graft's kernels do not know its {operator}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.bench;
        writeln!(
            f,
            "min {:.2} ms, median {:.2} ms, 95 % under {:.2} ms ({} runs)",
            b.min_ms, b.median_ms, b.p95_ms, b.runs
        )?;
        if b.pictures > 1 {
            writeln!(f, "{:.1} pictures a second, {} at a time", b.pictures_per_second, b.pictures)?;
        }
        let rss = self.peak_rss_mb.map_or("unknown".into(), |mb| format!("{mb:.0} MB"));
        let (load, first, engine) = (self.load_ms, b.first_ms, &self.engine);
        write!(f, "load {load:.0} ms{}, first run {first:.2} ms, peak memory {rss}, {engine}", self.loaded)?;
        self.steps.iter().flatten().try_for_each(|step| write!(f, "\n{step}"))
    }
}

impl Raw {
    /// Returns a grey picture.
    pub fn grey(network: &Network) -> Self {
        let len = network.input().iter().product();
        if network.takes_bytes() { Self::Bytes(vec![127; len]) } else { Self::Floats(vec![0.1; len]) }
    }

    /// Returns it as [`Network::run`] takes it.
    pub fn view(&self) -> Picture<'_> {
        match self {
            Self::Bytes(b) => Picture::Bytes(b),
            Self::Floats(f) => Picture::Floats(f),
        }
    }
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
    let pictures = pictures.clamp(1, MOST);
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
/// Most threads, and most pictures at the same time.
const MOST: usize = 256;
/// Runs of which each step's fastest counts.
const EXPLAIN_RUNS: usize = 50;
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

    #[test]
    fn settings_out_of_range_are_refused_with_the_range() {
        let sound = Settings { threads: 1, pictures: 256, seconds: 0.1, detail: Detail::Whole };
        assert_eq!(sound.checked().unwrap(), sound);
        for (settings, text) in [
            (Settings { threads: 0, ..sound }, "expected 1 to 256 threads, found 0"),
            (Settings { pictures: 257, ..sound }, "expected 1 to 256 pictures, found 257"),
            (Settings { seconds: 0.0, ..sound }, "expected up to 3600 seconds, found 0"),
            (Settings { seconds: f32::NAN, ..sound }, "expected up to 3600 seconds, found NaN"),
            (Settings { seconds: 3601.0, ..sound }, "expected up to 3600 seconds, found 3601"),
        ] {
            assert_eq!(settings.checked().unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_report_reads_as_lines_and_serialises_flat() {
        let mut report = Report {
            bench: Bench {
                min_ms: 1.0,
                median_ms: 1.25,
                p95_ms: 2.0,
                first_ms: 3.0,
                runs: 7,
                pictures: 1,
                pictures_per_second: 800.0,
            },
            load_ms: 12.0,
            loaded: Loaded::Model,
            peak_rss_mb: None,
            threads: 1,
            engine: "an engine".to_owned(),
            unrecognised: None,
            steps: None,
        };
        let lines = "min 1.00 ms, median 1.25 ms, 95 % under 2.00 ms (7 runs)\n\
            load 12 ms, first run 3.00 ms, peak memory unknown, an engine";
        assert_eq!((report.to_string().as_str(), report.note()), (lines, None));
        report.bench.pictures = 2;
        report.unrecognised = Some("LSTM".to_owned());
        report.steps = Some(vec![Explained {
            node: "conv1".to_owned(),
            kernel: "conv".to_owned(),
            shape: [56, 56, 64],
            ms: 0.5,
            share: 0.25,
            gflops: 100.0,
        }]);
        let text = report.to_string();
        assert!(text.contains("\n800.0 pictures a second, 2 at a time\n"), "{text}");
        assert!(
            text.ends_with(
                "\nconv1                    conv                     56x56x64         0.500 ms  25.0 %  100.0 GFLOP/s"
            ),
            "{text}"
        );
        assert!(report.note().unwrap().contains("LSTM"));
        let json = serde_json::to_value(&report).unwrap();
        for (key, value) in [("min_ms", 1.0), ("load_ms", 12.0), ("pictures", 2.0), ("runs", 7.0), ("threads", 1.0)] {
            assert_eq!(json[key].as_f64(), Some(value), "{key}");
        }
        assert_eq!(json["steps"][0]["kernel"], "conv");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_rss_mb().is_some_and(|mb| mb > 0.1));
    }
}
