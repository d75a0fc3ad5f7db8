//! What the figures were measured on, and who else was using it meanwhile.

use std::time::{Duration, Instant};

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    /// Those of the instruction sets below that this processor has: they decide which kernels an engine may choose.
    pub(super) features: Vec<&'static str>,
    pub(super) cores: usize,
    pub(super) os: &'static str,
    pub(super) architecture: &'static str,
    pub(super) memory_mb: Option<u64>,
}

const FEATURES: [&str; 9] =
    ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm"];

impl Machine {
    pub(super) fn probe() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let (cpu, features) = parse_cpu(&read("/proc/cpuinfo"));
        Self {
            cpu,
            features,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            memory_mb: value(&read("/proc/meminfo"), &["MemTotal"])
                .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok())
                .map(|kb| kb / 1024),
        }
    }
}

/// Watches how much of the processors goes to programs that are not ours.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    others: Option<f64>,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), others: others_seconds() }
    }

    /// Returns how many cores others have kept busy since the start, on average; none where Linux does not tell.
    pub(super) fn others(&self) -> Option<f64> {
        Some(((others_seconds()? - self.others?) / self.start.elapsed().as_secs_f64()).max(0.0))
    }
}

/// So few cores kept busy by others do not show in a timing.
pub(super) const QUIET_CORES: f64 = 0.2;

/// Waits until others leave the machine alone, and at most for `patience`.
pub(super) fn wait_for_quiet(patience: Duration) {
    const GLANCE: Duration = Duration::from_millis(500);
    let start = Instant::now();
    while start.elapsed() < patience {
        let watch = Watch::start();
        std::thread::sleep(GLANCE);
        if watch.others().is_none_or(|cores| cores <= QUIET_CORES) {
            return;
        }
    }
}

/// Returns the processor time that went to neither us nor the programs that we waited for, since the machine started.
fn others_seconds() -> Option<f64> {
    let read = |file| std::fs::read_to_string(file).ok();
    let ticks = busy_ticks(&read("/proc/stat")?)?.checked_sub(our_ticks(&read("/proc/self/stat")?)?)?;
    // Linux reports in hundredths, whatever its own clock.
    Some(ticks as f64 / 100.0)
}

/// Returns the ticks of /proc/stat in which a processor was not idle; those that the host took from us are among them.
fn busy_ticks(stat: &str) -> Option<u64> {
    let all: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = all[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

/// Returns the ticks of /proc/self/stat that this process and its ended children took.
fn our_ticks(stat: &str) -> Option<u64> {
    // The program's name stands in parentheses and may hold anything; utime, the 14th field, is the 12th after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> = fields.split_whitespace().skip(11).take(4).map_while(|n| n.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

fn parse_cpu(text: &str) -> (String, Vec<&'static str>) {
    let name = value(text, &["model name", "Model"]).unwrap_or("unknown processor").to_owned();
    let flags: Vec<&str> = value(text, &["flags", "Features"]).unwrap_or_default().split_whitespace().collect();
    (name, FEATURES.into_iter().filter(|feature| flags.contains(feature)).collect())
}

/// Returns the first value of any of `keys` in lines of `key : value`.
fn value<'a>(text: &'a str, keys: &[&str]) -> Option<&'a str> {
    let pairs = || text.lines().filter_map(|line| line.split_once(':'));
    keys.iter().find_map(|key| pairs().find(|(k, _)| k.trim() == *key)).map(|(_, v)| v.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_cpu_reads_both_families() {
        let x86 = "processor\t: 0\nmodel name\t: AMD EPYC\nmodel\t\t: 2\nflags\t\t: fpu avx2 avx512_vnni\n";
        assert_eq!(parse_cpu(x86), ("AMD EPYC".into(), vec!["avx2", "avx512_vnni"]));
        let arm = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nModel\t\t: Raspberry Pi 5\n";
        assert_eq!(parse_cpu(arm), ("Raspberry Pi 5".into(), vec!["asimddp"]));
        assert_eq!(parse_cpu(""), ("unknown processor".into(), vec![]));
    }

    #[test]
    fn ticks_leave_out_idle_time_and_mind_odd_names() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(100 + 20 + 30 + 6 + 7 + 8));
        assert_eq!(busy_ticks("cpu 1 2"), None);
        let own = "12 (a) b) R 1 1 1 0 -1 4 10 20 30 40 5 6 7 8 20 0 1 0 99";
        assert_eq!(our_ticks(own), Some(5 + 6 + 7 + 8));
        assert_eq!(our_ticks("12 (a) R 1"), None);
    }
}
