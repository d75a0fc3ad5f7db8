//! The walk on a GPU against candle's own operations, and steps against those of the CPU.
//!
//! Where there is no GPU they are skipped, and run on the stand-in of `host/gpu/stand-in` instead, which the last test compiles.

use std::path::Path;
use std::process::Command;

use graft_gpu::Precision;
use graft_zoo::Padding;

use super::super::tests::{assert_answers_equal, assert_equal, assert_near, by_candle, learn, net};
use super::super::{Net, Norm, Walk};
use super::*;

/// Returns a GPU, or none where the test is to be skipped.
fn gpu(precision: Precision) -> Option<Gpu> {
    Gpu::open(precision).inspect_err(|e| eprintln!("skipped: {e:#}")).ok()
}

fn on_gpu(gpu: &Gpu, net: &Net, network: &Network, unfrozen: usize) -> Net {
    let first = network.stages - unfrozen;
    let walk = super::Walk::new(gpu, network, &net.preprocessing, first, net.norm, &net.weights).unwrap();
    let weights = net.weights.clone();
    Net { preprocessing: net.preprocessing.clone(), weights, walk: Walk::Gpu(Box::new(walk)), ..*net }
}

/// Returns a net's numbers, gradients among them.
fn fetch(net: &Net) -> Weights {
    let Walk::Gpu(walk) = &net.walk else { unreachable!() };
    let mut weights = net.weights.clone();
    walk.fetch(&mut weights).unwrap();
    walk.fetch_gradients(&mut weights).unwrap();
    weights
}

/// Asserts that the gradients of all parameters together are near to others, by the length of the difference.
fn assert_nearly_parallel(what: &str, found: &Weights, expected: &Weights, tolerance: f64) {
    let (mut apart, mut length) = (0.0, 0.0);
    for (name, p) in &found.parameters {
        for (a, b) in p.gradient.iter().zip(expected.parameters[name].gradient.iter()) {
            apart += f64::from(a - b).powi(2);
            length += f64::from(*b).powi(2);
        }
    }
    assert!((apart / length).sqrt() < tolerance, "{what}: {} of {}", apart.sqrt(), length.sqrt());
}

#[test]
fn logits_gradients_and_statistics_equal_those_of_candles_own_operations() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    let cases = [
        ("mobilenet_v2:0.35", 65, Padding::Symmetric, 9, Norm::Batch),
        ("resnet18", 65, Padding::Symmetric, 5, Norm::Batch),
        ("mobilenet_v3_small", 64, Padding::TfSame, 7, Norm::Batch),
        ("efficientnet_b0", 64, Padding::Symmetric, 2, Norm::Frozen),
    ];
    for (id, side, padding, unfrozen, norm) in cases {
        let what = format!("{id} {side} {padding:?} {unfrozen} {norm:?}");
        let (net, network, pictures) = net(id, side, padding, unfrozen, norm);
        let mut candle = by_candle(&net, &network, unfrozen);
        let mut net = on_gpu(&gpu, &net, &network, unfrozen);
        assert_equal(&what, [&mut net, &mut candle], &pictures, 1e-4, fetch);
        assert_nearly_parallel(&what, &fetch(&net), &candle.weights, 3e-4);
    }
}

/// Of 8 bits of mantissa there is no more to be expected after 18 convolutions: this finds what is not there at all.
#[test]
fn halves_come_near_to_them() {
    let Some(gpu) = gpu(Precision::Bf16) else { return };
    let (net, network, pictures) = net("mobilenet_v2:0.35", 65, Padding::Symmetric, 2, Norm::Frozen);
    let mut candle = by_candle(&net, &network, 2);
    let mut net = on_gpu(&gpu, &net, &network, 2);
    assert_answers_equal("halves", [&mut net, &mut candle], &pictures, 3e-2);
    let found = fetch(&net);
    assert_nearly_parallel("halves", &found, &candle.weights, 9e-2);
    for (name, tensor) in &found.fixed {
        assert_near(name, &tensor.data, &candle.weights.fixed[name].data, 0.0, 3e-2);
    }
}

#[test]
fn steps_equal_those_of_the_cpu() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    let (cpu, network, pictures) = net("mobilenet_v2:0.35", 64, Padding::Symmetric, 1, Norm::Frozen);
    for (optimiser, clip, average) in
        [(Optimiser::Adamw, Some(0.5), Some(0.9)), (Optimiser::Adamw, None, None), (Optimiser::Sgd, None, Some(0.5))]
    {
        let mut own = on_gpu(&gpu, &cpu, &network, 1);
        let mut cpu = Net::new(
            &network,
            &cpu.finish().unwrap().0,
            &cpu.finish().unwrap().1,
            &cpu.preprocessing,
            1,
            Norm::Frozen,
            &super::super::Device::Cpu,
        )
        .unwrap();
        let before: Vec<f32> = cpu.state().unwrap().into_values().flat_map(|t| t.data).collect();
        for done in 0..3 {
            let step = Step { optimiser, rate: 0.01, stage_decay: 0.5, decay: 0.1, done, scale: 0.5, clip, average };
            for net in [&mut own, &mut cpu] {
                learn(net, &pictures);
                net.step(&step).unwrap();
            }
            // What a checkpoint keeps goes back and forth without a change.
            let (state, remembered) = (own.state().unwrap(), own.remembered().unwrap());
            own.restore(&state).unwrap();
            own.restore_remembered(&remembered).unwrap();
            assert_eq!(own.state().unwrap(), state);
            assert_eq!(own.remembered().unwrap(), remembered);
        }
        own.swap_averages().unwrap();
        cpu.swap_averages().unwrap();
        // AdamW makes a whole step of the smallest gradient, and so of its rounding: all parameters together tell.
        let [own, cpu] =
            [&own, &cpu].map(|net| net.state().unwrap().into_values().flat_map(|t| t.data).collect::<Vec<f32>>());
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let (apart, moved) = (apart(&own, &cpu), apart(&cpu, &before));
        assert!(apart < 0.02 * moved, "{optimiser:?}: {apart} of {moved}");
    }
}

/// The tests above in a process that finds the stand-in in place of CUDA.
#[test]
fn the_kernels_as_plain_cpp_pass_as_well() {
    if std::env::var_os("GRAFT_STAND_IN").is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu/stand-in/make.sh");
    match Command::new("sh").arg(make).arg(folder.path()).output() {
        Ok(o) if o.status.success() => {}
        Ok(o) => {
            let text = String::from_utf8_lossy(&o.stderr);
            assert!(text.contains("not found"), "the stand-in does not compile: {text}");
            eprintln!("skipped: no C++ compiler: {text}");
            return;
        }
        Err(e) => {
            eprintln!("skipped: no shell: {e}");
            return;
        }
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["net::gpu::tests", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("GRAFT_STAND_IN", "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("skipped"), "{text}");
}
