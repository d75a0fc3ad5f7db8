//! Trains the embedded backbone from scratch on generated pictures; `cargo xtask pretrain` runs it.
//!
//! Writes `models/weights/mobilenet_v2_0.35_96.safetensors` (f16, without the classifier). The same options give the
//! same bytes on the same machine; another processor may round differently.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use graft_leaves::{PRETRAIN_CLASSES, pretrain_picture};
use graft_train::fit::{Checkpoint, Data, Resume, Schedule, Source, fit, measure};
use graft_train::net::{Device, Net, Norm, random};
use graft_train::objective::Targets;
use graft_train::pretrained::Conventions;
use graft_train::rng::Rng;
use graft_train::run::write_atomic;
use graft_zoo::weights::{Precision, write_safetensors};
use graft_zoo::{Architecture, Padding, Preprocessing};

#[derive(Debug, Parser)]
struct Args {
    /// Passes; every pass sees new pictures.
    #[arg(long, default_value_t = 16)]
    epochs: usize,
    /// Pictures of each class in a pass.
    #[arg(long, default_value_t = 120)]
    per_class: usize,
    /// Pictures a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Peak rate.
    #[arg(long, default_value_t = 4e-3)]
    rate: f64,
    /// Seed of weights and pictures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file to write.
    #[arg(long, default_value = "models/weights/mobilenet_v2_0.35_96.safetensors")]
    out: PathBuf,
    /// Where the state is kept between epochs.
    #[arg(long, default_value = "target/pretrain.safetensors")]
    checkpoint: PathBuf,
}

/// Generated pictures: new ones in every epoch, and a fixed set to validate on.
struct Generated {
    targets: Targets,
    fixed_seed: u64,
}

const SIDE: u32 = 96;
const BN_EPS: f32 = 1e-3;
/// f16, so that the repository stays small.
const MAX_LEN: usize = 1_500_000;

impl Generated {
    fn new(per_class: usize, fixed_seed: u64) -> Self {
        Self {
            targets: Targets::Classes {
                of: (0..per_class * PRETRAIN_CLASSES.len()).map(|i| i % PRETRAIN_CLASSES.len()).collect(),
                count: PRETRAIN_CLASSES.len(),
            },
            fixed_seed,
        }
    }
}

impl Source for Generated {
    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
        let seed = rng.map_or(self.fixed_seed ^ (index as u64).rotate_left(20), Rng::next_u64);
        Ok(pretrain_picture(index % PRETRAIN_CLASSES.len(), seed, SIDE).into_raw())
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let architecture = Architecture::MobileNetV2 { width: 0.35 };
    let network = architecture.backbone(Padding::Symmetric, BN_EPS);
    let (backbone, head) = random(&network, PRETRAIN_CLASSES.len(), args.seed);
    let preprocessing = Preprocessing::centre_crop(SIDE, Preprocessing::UNIT);
    let mut net = Net::new(&network, &backbone, &head, &preprocessing, network.stages, Norm::Batch, &Device::Cpu)?;
    let schedule = Schedule {
        epochs: args.epochs,
        batch: args.batch,
        rate: args.rate,
        decay: 0.02,
        seed: args.seed,
        ..Schedule::default()
    };
    let train = Generated::new(args.per_class, 0);
    let test = Generated::new(20, 0x7e57 ^ args.seed);
    let start = Instant::now();
    let mut last = 0;
    let progress = |done: usize, of: usize| {
        let epoch = done / train.targets.len();
        if epoch != last {
            last = epoch;
            eprintln!("{done} of {of} pictures, {:.0} s", start.elapsed().as_secs_f64());
        }
    };
    let checkpoint = Checkpoint { path: &args.checkpoint, resume: Resume::Yes };
    let found = fit(&mut net, Data::new(&train, None), &schedule, Some(checkpoint), &AtomicBool::new(false), progress)?;
    for e in &found.epochs {
        eprintln!("epoch {:3}  loss {:.4}", e.epoch, e.loss.unwrap_or(f64::NAN));
    }
    let found = measure(&mut net, &test, args.batch)?;
    println!(
        "top-1 {:.1} % of {} classes on {} new pictures, loss {:.3}",
        100.0 * found.score,
        PRETRAIN_CLASSES.len(),
        test.targets.len(),
        found.loss()
    );
    let (backbone, _) = net.finish()?;
    let (mean, std) = Preprocessing::UNIT;
    let share = preprocessing.share();
    let conventions = Conventions { padding: Padding::Symmetric, bn_eps: BN_EPS, mean, std, input: SIDE, share };
    let metadata = BTreeMap::from([(Conventions::KEY.to_owned(), serde_json::to_string(&conventions)?)]);
    let bytes = write_safetensors(&backbone, &metadata, Precision::F16);
    ensure!(bytes.len() <= MAX_LEN, "expected at most {MAX_LEN} bytes, found {}", bytes.len());
    write_atomic(&args.out, &bytes).context("writing the backbone")?;
    println!("{} ({} bytes)", args.out.display(), bytes.len());
    Ok(())
}
