//! A fit whose process is killed at random moments ends with the very weights of one that is left alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Result;
use graft_train::fit::{Checkpoint, Data, Resume, Schedule, Source, fit};
use graft_train::net::{Device, Net, Norm, random};
use graft_train::objective::Targets;
use graft_train::rng::Rng;
use graft_zoo::weights::{Precision, write_safetensors};
use graft_zoo::{Architecture, Padding, Preprocessing};

/// Pictures of noise, another view of each in every epoch.
struct Noise(Targets);

impl Source for Noise {
    fn targets(&self) -> &Targets {
        &self.0
    }

    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
        let mut own = Rng::new(index as u64);
        let rng = rng.unwrap_or(&mut own);
        Ok((0..SIDE * SIDE * 3).map(|_| rng.next_u64() as u8).collect())
    }
}

const SIDE: u32 = 32;
const KILLS: usize = 20;
/// Tells this program, started anew, in which folder to fit.
const FOLDER: &str = "GRAFT_TEST_FIT_IN";

/// Does nothing but in a process of its own, which the other test starts.
#[test]
fn fit_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let network = Architecture::MobileNetV2 { width: 0.35 }.backbone(Padding::Symmetric, 1e-3);
    let (backbone, head) = random(&network, 3, 3);
    let p = Preprocessing::centre_crop(SIDE, Preprocessing::UNIT);
    let mut net = Net::new(&network, &backbone, &head, &p, network.stages, Norm::Batch, &Device::Cpu).unwrap();
    let noise = Noise(Targets::Classes { of: (0..18).map(|i| i % 3).collect(), count: 3 });
    let schedule = Schedule {
        epochs: 12,
        batch: 4,
        accumulate: 2,
        rate: 2e-3,
        average: Some(0.9),
        seed: 5,
        ..Schedule::default()
    };
    let path = folder.join("checkpoint.safetensors");
    let checkpoint = Some(Checkpoint { path: &path, resume: Resume::Yes });
    let data = Data::new(&noise, Some(&noise));
    fit(&mut net, data, &schedule, checkpoint, &AtomicBool::new(false), |_, _| ()).unwrap();
    let (mut tensors, head) = net.finish().unwrap();
    tensors.insert("head.weight".into(), head.weight);
    let bytes = write_safetensors(&tensors, &Default::default(), Precision::F32);
    graft_train::run::write_atomic(&folder.join("done"), &bytes).unwrap();
}

fn start(folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "fit_in_a_process_of_its_own", "--quiet"]).env(FOLDER, folder);
    command.spawn().unwrap()
}

#[test]
fn a_fit_that_is_killed_again_and_again_ends_with_the_same_weights() {
    let (alone, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = Instant::now();
    assert!(start(alone.path()).wait().unwrap().success());
    let whole = clock.elapsed();
    let mut rng = Rng::new(11);
    let mut kills = 0;
    while kills < KILLS && !killed.path().join("done").exists() {
        let mut child = start(killed.path());
        // Long enough that most get an epoch further.
        std::thread::sleep(whole.mul_f32(rng.range(0.02, 0.4)).max(Duration::from_millis(20)));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 3, "expected a fit that outlives some kills, found {kills}");
    assert!(start(killed.path()).wait().unwrap().success());
    let [alone, killed] = [alone, killed].map(|folder| std::fs::read(folder.path().join("done")).unwrap());
    assert!(alone == killed, "after {kills} kills other weights");
}
