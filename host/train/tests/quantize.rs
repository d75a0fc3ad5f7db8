//! Quantization of whole networks on generated leaves: what is repaired, pinned and told.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use graft_leaves::write_leaf_set;
use graft_onnx::quantize::RangeMethod;
use graft_runtime::Model;
use graft_train::dataset::Dataset;
use graft_train::fit::Resume;
use graft_train::pictures::OnBad;
use graft_train::pretrained::{Input, Pretrained};
use graft_train::quantize::{
    Asked, CALIBRATION, Explanation, Kind, Measure, OnDevice, Outcome, Pins, Plan, Repair, Report, quantize,
};
use graft_train::recipe::{Recipe, Wish};
use graft_train::run::Run;
use graft_train::transfer::{self, Device, transfer};

/// A head on the embedded backbone, and the pictures that it is to be judged by.
fn run(folder: &Path, seed: u64) -> (Run, Dataset, Dataset) {
    let [train, test] = [("train", 16, 5), ("test", 16, 6)].map(|(name, count, seed)| {
        let folder = folder.join(name);
        if !folder.exists() {
            write_leaf_set(&folder, count, seed, 96, |_, _| ()).unwrap();
        }
        Dataset::open(&folder, None).unwrap()
    });
    let plan = transfer::Plan {
        data: "leaves".into(),
        split: None,
        dataset: &train,
        pretrained: &Pretrained::embedded(Input::default()).unwrap(),
        cache: &folder.join("cache"),
        on_bad: OnBad::Fail,
        wish: Wish { recipe: Some(Recipe::Head), seed, ..Wish::default() },
        device: Device::Cpu,
        folder: None,
        resume: Resume::No,
    };
    let run = transfer(&plan, &AtomicBool::new(false), |_| ()).unwrap().run;
    (run, train, test)
}

fn plan<'a>(run: &'a Run, train: &'a Dataset, test: &'a Dataset) -> Plan<'a> {
    Plan {
        run,
        calibration: &train.samples,
        test,
        ranges: None,
        repairs: &Repair::ALL,
        kind: Some(Kind::Int8),
        budget: 0.005,
        budget_ms: None,
        on_device: None,
        pins: None,
        tuning: None,
        on_bad: OnBad::Fail,
    }
}

fn done(plan: &Plan<'_>) -> Outcome {
    quantize(plan, |_, _, _| ()).unwrap()
}

/// Scales the channels that run from sum to sum by up to a hundred, and the weights that read them by as little: the function
/// stays. Between expansion and projection no channel can be scaled, for ReLU6 caps it.
fn made_hard(mut run: Run) -> Run {
    for stream in [1..2, 2..4, 4..7, 7..11, 11..14, 14..17, 17..18] {
        let factor = |c: usize| [1.0, 100.0, 0.1, 10.0][c % 4];
        let mut change = |name: String, by: &dyn Fn(usize) -> f32| {
            let tensor = run.backbone.get_mut(&name).unwrap_or_else(|| panic!("no {name}"));
            tensor.data.iter_mut().enumerate().for_each(|(i, v)| *v *= by(i));
            tensor.shape.clone()
        };
        for block in stream {
            let norm = format!("features.{block}.conv.{}", if block == 1 { 2 } else { 3 });
            let channels = change(format!("{norm}.weight"), &factor)[0];
            change(format!("{norm}.bias"), &factor);
            let reader = if block == 17 { "features.18.0".into() } else { format!("features.{}.conv.0.0", block + 1) };
            change(format!("{reader}.weight"), &|i| 1.0 / factor(i % channels));
        }
    }
    run
}

#[test]
fn a_network_made_hard_collapses_by_its_extremes_and_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (run, train, test) = run(dir.path(), 0);
    let easy = done(&plan(&run, &train, &test)).report;
    let hard = made_hard(run);
    let bare = Plan { ranges: Some(RangeMethod::MinMax), repairs: &[], ..plan(&hard, &train, &test) };
    let bare = done(&bare).report;
    assert!(
        (bare.evaluation.float.score - easy.evaluation.float.score).abs() < 1e-9,
        "the function is the same: {bare:?}"
    );
    let found = done(&plan(&hard, &train, &test)).report;
    let first = |r: &Report| r.calibration.tried[0].what.clone();
    assert_eq!([first(&bare), first(&easy)], ["min-max", "min-max, bias"], "ranges are compared with biases corrected");
    assert!(found.calibration.repairs.contains(&Repair::Equalize), "{:?}", found.calibration);
    // So few pictures tell little of shares; the noise that rounding adds to the answers tells more.
    let noise = |r: &Report| r.calibration.tried.iter().filter(|t| t.kept).map(|t| t.noise).fold(1e9, f64::min);
    assert!(noise(&bare) > 10.0 * noise(&found), "{:?} {:?}", bare.calibration.tried, found.calibration.tried);
    assert!(noise(&found) < 4.0 * noise(&easy), "{:?} {:?}", easy.calibration.tried, found.calibration.tried);
    assert!(bare.evaluation.candidates[0].drop > found.evaluation.candidates[0].drop, "{:?}", bare.evaluation);
}

#[test]
fn a_new_head_leaves_the_pinned_backbone_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (first, train, test) = run(dir.path(), 0);
    let pins = || Some(Pins::kept(&dir.path().join("pins")));
    let one = done(&Plan { pins: pins(), ..plan(&first, &train, &test) });
    assert!(one.report.calibration.pinned_cost.is_none());
    // Another head, from other pictures, which would calibrate otherwise.
    let mut other = first.clone();
    other.head.weight.data.iter_mut().for_each(|w| *w = -*w);
    let few = test.part(0..8);
    let two = done(&Plan { pins: pins(), calibration: &few.samples, ..plan(&other, &train, &test) });
    assert!(two.report.calibration.pinned_cost.is_some());
    let halves =
        Plan { kind: Some(Kind::Half), pins: pins(), calibration: &few.samples, ..plan(&other, &train, &test) };
    assert!(done(&halves).report.calibration.pinned_cost.is_none(), "halves go by nothing that is pinned");
    let (one, two) = (one.onnx.unwrap(), two.onnx.unwrap());
    let large = |onnx: &[u8]| -> Vec<Vec<u8>> {
        let borders = graft_onnx::tensor_borders(onnx).unwrap();
        let mut tensors: Vec<Vec<u8>> = borders.windows(2).map(|b| onnx[b[0]..b[1]].to_vec()).collect();
        // The head comes last.
        tensors.pop();
        tensors
    };
    assert!(large(&one).len() > 20);
    assert_eq!(large(&one), large(&two));
    let afresh = Plan {
        pins: Some(Pins::afresh(&dir.path().join("pins"))),
        calibration: &few.samples,
        ..plan(&other, &train, &test)
    };
    assert_ne!(large(&done(&afresh).onnx.unwrap()), large(&one));
}

#[test]
fn a_file_tells_of_itself_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let (run, train, test) = run(dir.path(), 0);
    let outcome = done(&Plan { kind: None, budget: 1.0, ..plan(&run, &train, &test) });
    let report = &outcome.report;
    let Some(onnx) = &outcome.onnx else {
        // So small a network may be no faster on bytes, on a busy machine; then its weights alone are.
        panic!("{:?}", report.verdict);
    };
    let model = Model::from_onnx(onnx).unwrap();
    let told = Explanation::of(model.metadata()).unwrap().unwrap();
    assert_eq!((&told.layers, &told.verdict), (&report.layers, &report.verdict));
    assert_eq!(told.layers.len(), run.layers().unwrap().iter().count());
    assert!((told.layers.iter().map(|l| l.share).sum::<f64>() - 1.0).abs() < 1e-6);
    // What changes is what both files say of each picture.
    let last = report.evaluation.candidates.last().unwrap();
    let float = Model::from_onnx(&run.float().unwrap()).unwrap();
    let data = test.clone().relabel(&run.record.labels).unwrap();
    let best = |m: &Model| -> Vec<usize> {
        let answers = graft_train::evaluate::answers(m, &data.samples, OnBad::Fail, |_, _| ()).unwrap().0;
        answers.iter().map(|a| graft_train::metrics::argmax(&a.logits)).collect()
    };
    let (float, quantized) = (best(&float), best(&model));
    let changed: Vec<String> =
        (0..float.len()).filter(|&i| float[i] != quantized[i]).map(|i| data.samples[i].location.to_string()).collect();
    assert_eq!(last.changed.iter().map(|c| c.file.clone()).collect::<Vec<_>>(), changed);
}

#[test]
fn a_budget_of_time_is_kept_and_memory_told() {
    let dir = tempfile::tempdir().unwrap();
    let (run, train, test) = run(dir.path(), 0);
    let within = |ms| done(&Plan { kind: None, budget: 1.0, budget_ms: Some(ms), ..plan(&run, &train, &test) });
    let none = within(1e-6);
    assert!(none.onnx.is_none() && none.report.verdict.ship == Kind::Float);
    assert!(none.report.verdict.why.contains("a smaller network is needed"), "{}", none.report.verdict.why);
    let any = within(1e6);
    assert_eq!(any.report.verdict.ship, Kind::Int8);
    let memory = |m: &graft_train::quantize::Measured| m.memory.expect("kernels run it");
    let (float, bytes) = (&any.report.evaluation.float, &any.report.evaluation.candidates[0].measured);
    // The weights of the file at least, and a fraction of them where they are bytes.
    assert!(memory(float) > float.bytes * 9 / 10, "{float:?}");
    assert!((memory(float) / 5..memory(float) * 2 / 3).contains(&memory(bytes)), "{float:?} {bytes:?}");
}

/// A device on which bytes take `ratio` of float's 100 ms.
fn device(onnx: &[u8], ratio: f64) -> anyhow::Result<Asked> {
    let is_bytes = Model::from_onnx(onnx)?.metadata().contains_key(CALIBRATION);
    Ok(Asked::Runs(OnDevice {
        ms: if is_bytes { 100.0 * ratio } else { 100.0 },
        latency_ms: 101.0,
        load_ms: 5.0,
        memory: Some(7),
        max_abs_diff: 0.0,
        engine: "another".into(),
        warning: None,
    }))
}

#[test]
fn a_board_decides_by_its_own_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let (run, train, test) = run(dir.path(), 0);
    let on = |ratio, budget_ms| {
        let measure = |onnx: &[u8]| device(onnx, ratio);
        done(&Plan { kind: None, budget: 1.0, budget_ms, on_device: Some(&measure), ..plan(&run, &train, &test) })
    };
    let fast = on(0.41, None);
    let (verdict, e) = (&fast.report.verdict, &fast.report.evaluation);
    assert_eq!(verdict.ship, Kind::Int8);
    assert!(verdict.why.contains("takes 0.41 of float's time on the board"), "{}", verdict.why);
    let ms = |m: &graft_train::quantize::Measured| m.device.as_ref().map(|d| d.ms);
    assert_eq!((ms(&e.float), ms(&e.candidates[0].measured)), (Some(100.0), Some(41.0)));
    let told = Explanation::of(Model::from_onnx(&fast.onnx.unwrap()).unwrap().metadata()).unwrap().unwrap();
    let told = told.on_device.unwrap();
    assert_eq!((told.float.ms, told.written.ms, told.written.memory), (100.0, 41.0, Some(7)));
    // Bytes that are slower there are not shipped, however fast they are here.
    let slow = on(1.5, None);
    assert_eq!(slow.report.verdict.ship, Kind::Weights);
    assert!(slow.report.verdict.why.contains("takes 1.50 of float's time on the board"), "{:?}", slow.report.verdict);
    let late = on(0.41, Some(40.0)).report.verdict;
    assert!(late.ship == Kind::Float && late.why.contains("float takes 100.00 ms on the board"), "{late:?}");
    assert_eq!(on(0.41, Some(42.0)).report.verdict.ship, Kind::Int8);
}

#[test]
fn what_a_board_refuses_is_told_before_the_long_work() {
    let dir = tempfile::tempdir().unwrap();
    let (run, train, test) = run(dir.path(), 0);
    let gone = |_: &[u8]| anyhow::bail!("the board says no");
    let refuses = |_: &[u8]| Ok(Asked::Refused(anyhow::anyhow!("the board says no")));
    for measure in [&gone as &Measure<'_>, &refuses] {
        let plan = Plan { on_device: Some(measure), ..plan(&run, &train, &test) };
        let mut steps = 0;
        let error = quantize(&plan, |_, _, _| steps += 1).err().expect("a refusal");
        assert_eq!((error.to_string().as_str(), steps), ("the board says no", 0));
    }
    // What runs on bytes has other answers there: weights that are computed with in f32 do.
    let bytes_fail = |onnx: &[u8]| match Model::from_onnx(onnx)?.metadata().contains_key(CALIBRATION) {
        true => Ok(Asked::Refused(anyhow::anyhow!("a difference of 9"))),
        false => device(onnx, 1.0),
    };
    let plan = Plan { kind: None, budget: 1.0, on_device: Some(&bytes_fail), ..plan(&run, &train, &test) };
    let report = done(&plan).report;
    assert_eq!(report.verdict.ship, Kind::Weights);
    assert!(report.verdict.why.contains("the board does not run it: a difference of 9"), "{:?}", report.verdict);
    assert_eq!(report.evaluation.candidates[0].measured.refused.as_deref(), Some("a difference of 9"));
}

#[test]
fn every_kind_of_numbers_runs_on_the_kernels_and_answers_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (run, train, test) = run(dir.path(), 0);
    let float = run.float().unwrap().len() as f64;
    for (kind, size) in [(Kind::Half, 0.53), (Kind::Weights, 0.32), (Kind::Int8, 0.36)] {
        let outcome = done(&Plan { kind: Some(kind), ..plan(&run, &train, &test) });
        let onnx = outcome.onnx.unwrap();
        let model = Model::from_onnx(&onnx).unwrap();
        assert!(model.engine().contains("kernels"), "{kind:?} {}", model.engine());
        assert!((onnx.len() as f64) < size * float, "{kind:?} {} of {float}", onnx.len());
        let candidate = &outcome.report.evaluation.candidates[0];
        assert!(candidate.drop.abs() < 0.03 && candidate.kind == kind, "{candidate:?}");
    }
}
