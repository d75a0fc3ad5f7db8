use super::*;
use crate::net::{Device, Norm, random};
use graft_zoo::{Architecture, Padding, Preprocessing};

/// Two classes: noise that is rather red or rather blue.
struct Hues {
    classes: Vec<usize>,
    targets: Targets,
}

fn hues(classes: Vec<usize>) -> Hues {
    Hues { targets: Targets::Classes { of: classes.clone(), count: 2 }, classes }
}

impl Source for Hues {
    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
        let mut own = Rng::new(index as u64);
        let rng = rng.unwrap_or(&mut own);
        let bright = 2 * self.classes[index];
        let value = |i: usize, rng: &mut Rng| rng.below(160) + if i % 3 == bright { 90 } else { 0 };
        Ok((0..32 * 32 * 3).map(|i| value(i, rng) as u8).collect())
    }
}

fn net(norm: Norm) -> Net {
    let network = Architecture::MobileNetV2 { width: 0.35 }.backbone(Padding::Symmetric, 1e-3);
    let (backbone, head) = random(&network, 2, 3);
    let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
    Net::new(&network, &backbone, &head, &p, network.stages, norm, &Device::Cpu).unwrap()
}

const PLAIN: Loss = Loss::CrossEntropy { smoothing: 0.0, weights: vec![] };

fn schedule() -> Schedule {
    Schedule { epochs: 3, batch: 8, rate: 2e-3, loss: PLAIN, seed: 4, ..Schedule::default() }
}

#[test]
fn a_net_from_scratch_learns_two_hues() {
    let (train, test) = (hues((0..48).map(|i| i % 2).collect()), hues(vec![0, 1, 0, 1]));
    // With their own statistics, 16 pictures of one pixel at the last stage would say little.
    let mut net = net(Norm::Frozen);
    let schedule = Schedule { epochs: 8, ..schedule() };
    let found = fit(&mut net, Data::new(&train, None), &schedule, None, &AtomicBool::new(false), |_, _| ()).unwrap();
    assert!(found.epochs[7].loss.unwrap() < 0.5 * found.epochs[0].loss.unwrap(), "{found:?}");
    assert_eq!(measure(&mut net, &train, 8).unwrap().score, 1.0);
    assert_eq!(measure(&mut net, &test, 3).unwrap().score, 1.0);
}

#[test]
fn a_stopped_fit_goes_on_exactly() {
    let train = hues((0..20).map(|i| i % 2).collect());
    let whole = {
        let mut net = net(Norm::Batch);
        fit(&mut net, Data::new(&train, Some(&train)), &schedule(), None, &AtomicBool::new(false), |_, _| ()).unwrap();
        net.finish().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    // Stopped in the middle of the first and of the second epoch, and once on the border.
    for (resume, at) in [(Resume::No, 8), (Resume::Yes, 20), (Resume::Yes, 28)] {
        let stop = AtomicBool::new(false);
        let checkpoint = Checkpoint { path: &path, resume };
        let raise = |done: usize, _| stop.store(done >= at, Ordering::Relaxed);
        let error =
            fit(&mut net(Norm::Batch), Data::new(&train, Some(&train)), &schedule(), Some(checkpoint), &stop, raise)
                .unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
    }
    let mut last = net(Norm::Batch);
    let checkpoint = Some(Checkpoint { path: &path, resume: Resume::Yes });
    let found =
        fit(&mut last, Data::new(&train, Some(&train)), &schedule(), checkpoint, &AtomicBool::new(false), |_, _| ())
            .unwrap();
    assert!(found.resumed && found.epochs.len() == 4);
    assert_eq!(last.finish().unwrap(), whole);
    let other = Schedule { rate: 1e-3, ..schedule() };
    let error =
        fit(&mut net(Norm::Batch), Data::new(&train, None), &other, checkpoint, &AtomicBool::new(false), |_, _| ())
            .unwrap_err();
    assert!(error.to_string().contains("of this very command"), "{error}");
}

#[test]
fn no_better_epoch_ends_the_fit_early_with_the_best_weights() {
    let train = hues((0..16).map(|i| i % 2).collect());
    // The validation says the opposite, so learning makes it worse from the start.
    struct Opposite(Hues, Targets);
    impl Source for Opposite {
        fn targets(&self) -> &Targets {
            &self.1
        }
        fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
            self.0.pixels(index, rng)
        }
    }
    let inner = hues(vec![0, 1]);
    let opposite = Opposite(inner, Targets::Classes { of: vec![1, 0], count: 2 });
    let mut net = net(Norm::Batch);
    let schedule = Schedule { epochs: 30, patience: 2, ..schedule() };
    let found =
        fit(&mut net, Data::new(&train, Some(&opposite)), &schedule, None, &AtomicBool::new(false), |_, _| ()).unwrap();
    let loss = |epoch: &Epoch| epoch.validation_loss.unwrap();
    let least = found.epochs.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap().epoch;
    assert_eq!(found.epochs.len(), least + 3);
    assert!(least <= found.best, "a later one may be as good: {found:?}");
    let loss = measure(&mut net, &opposite, 2).unwrap().loss();
    assert!((loss - found.epochs[found.best].validation_loss.unwrap()).abs() < 1e-5);
}
