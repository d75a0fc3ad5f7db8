//! What the figures were measured on.

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

/// Returns the load of the last minute.
pub(super) fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
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
}
