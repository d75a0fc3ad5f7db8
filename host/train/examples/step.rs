//! Times training steps on random pictures and prints one line of JSON; `cargo xtask peers --training` runs it.
//!
//! ```text
//! step NETWORK SIDE BATCH THREADS SECONDS [batch | frozen | int8] [cpu | bf16 | tf32 | f32]
//! ```
//!
//! All layers are trained, cross-entropy over 15 classes, AdamW. Batch normalisation is by the batch's own statistics, by
//! frozen ones, or by the latter with every weight and activation rounded and all steps trained. On the CPU, or on a GPU in a
//! precision.

use std::time::Instant;

use anyhow::{Context, Result};
use graft_onnx::{Affine, values};
use graft_train::fit::{Data, Schedule, Source, fit};
use graft_train::gpu::Gpu;
use graft_train::net::{Device, Net, Norm, Steps, random};
use graft_train::objective::{Loss, Targets};
use graft_train::rng::Rng;
use graft_zoo::{Architecture, Padding, Preprocessing};

/// Random pictures that stay in memory.
struct Noise {
    targets: Targets,
    pictures: Vec<Vec<u8>>,
}

impl Source for Noise {
    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn pixels(&self, index: usize, _: Option<&mut Rng>) -> Result<Vec<u8>> {
        Ok(self.pictures[index % self.pictures.len()].clone())
    }
}

const CLASSES: usize = 15;
/// Batches of an epoch.
const BATCHES: usize = 16;
const WARM_UP_STEPS: usize = 2;
const LEAST_STEPS: usize = 3;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = arguments.len();
    arguments.extend(["batch", "cpu"].iter().skip(given.saturating_sub(5)).map(|a| (*a).to_owned()));
    let [network, side, batch, threads, seconds, way, place] = &arguments[..] else {
        anyhow::bail!("expected NETWORK SIDE BATCH THREADS SECONDS, found {arguments:?}");
    };
    let norm = if way == "batch" { Norm::Batch } else { Norm::Frozen };
    let (side, batch): (u32, usize) = (side.parse().context("SIDE")?, batch.parse().context("BATCH")?);
    let (threads, seconds): (usize, f64) = (threads.parse().context("THREADS")?, seconds.parse().context("SECONDS")?);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("starting threads")?;
    let device = match place.as_str() {
        "cpu" => Device::Cpu,
        precision => Device::Gpu(Gpu::open(precision.parse()?)?),
    };
    let network = network.parse::<Architecture>()?.backbone(Padding::Symmetric, 1e-5);
    let (backbone, head) = random(&network, CLASSES, 0);
    let p = Preprocessing::centre_crop(side, Preprocessing::UNIT);
    let mut net = Net::new(&network, &backbone, &head, &p, network.stages, norm, &device)?;
    if way == "int8" {
        let activations = values(&network).into_iter().map(|v| (v.name, Affine::from_range(-4.0, 4.0))).collect();
        net.quantize(&activations, Steps::Trained { pace: 1.0 })?;
    }
    let mut rng = Rng::new(1);
    let pictures = (0..batch).map(|_| (0..side * side * 3).map(|_| rng.next_u64() as u8).collect()).collect();
    let noise = Noise {
        targets: Targets::Classes { of: (0..batch * BATCHES).map(|i| i % CLASSES).collect(), count: CLASSES },
        pictures,
    };
    // As many epochs as ever fit; the clock stops them.
    let loss = Loss::CrossEntropy { smoothing: 0.0, weights: vec![] };
    let schedule = Schedule { epochs: 100_000, batch, loss, ..Schedule::default() };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut times, mut last, mut end) = (vec![], None, None);
    let outcome = fit(&mut net, Data::new(&noise, None), &schedule, None, &stop, |_, _| {
        let now = Instant::now();
        if let Some(before) = last.replace(now) {
            times.push((now - before).as_secs_f64() * 1e3);
        }
        if times.len() == WARM_UP_STEPS {
            end = Some(now);
        }
        let enough = end.is_some_and(|e| e.elapsed().as_secs_f64() > seconds);
        if enough && times.len() >= WARM_UP_STEPS + LEAST_STEPS {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    anyhow::ensure!(outcome.is_err(), "expected to be stopped by the clock, found all epochs done");
    let mut times = times.split_off(WARM_UP_STEPS);
    times.sort_by(f64::total_cmp);
    let peak = peak_mb();
    println!(
        "{}",
        serde_json::json!({
            "version": concat!("graft ", env!("CARGO_PKG_VERSION")), "min_ms": times[0], "median_ms": times[times.len() / 2],
            "steps": times.len(), "peak_rss_mb": peak,
        })
    );
    Ok(())
}

/// The most memory that this process has had, where the system tells.
fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}
