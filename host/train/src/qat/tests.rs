//! A network whose ranges are cut badly, on generated leaves.

use graft_leaves::write_leaf_set;
use graft_onnx::quantize::RangeMethod;
use graft_onnx::{Format, Outputs, Quantization};
use graft_runtime::Model;

use super::*;
use crate::augment::Preset;
use crate::dataset::Dataset;
use crate::evaluate::evaluate;
use crate::fit::Resume;
use crate::photos::Photos;
use crate::pictures::OnBad;
use crate::pretrained::{Input, Pretrained};
use crate::recipe::{PRESET, Recipe, Wish};
use crate::transfer;

#[test]
fn what_bad_ranges_cost_is_learnt_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("leaves");
    write_leaf_set(&folder, 12, 5, 96, |_, _| ()).unwrap();
    let dataset = Dataset::open(&folder, None).unwrap();
    let pretrained = Pretrained::embedded(Input { side: Some(96), share: None }).unwrap();
    let stop = AtomicBool::new(false);
    let wanted = transfer::Plan {
        data: "leaves".into(),
        split: None,
        dataset: &dataset,
        pretrained: &pretrained,
        cache: &dir.path().join("cache"),
        on_bad: OnBad::Fail,
        wish: Wish { recipe: Some(Recipe::Head), ..Wish::default() },
        device: Device::Cpu,
        folder: None,
        resume: Resume::No,
    };
    let run = transfer::transfer(&wanted, &stop, |_| ()).unwrap().run;
    let mut activations = crate::quantize::ranges(&run, &dataset.samples, RangeMethod::MinMax).unwrap();
    activations.values_mut().for_each(|a| a.scale *= 0.4);
    let photos = |preset| Photos::all(&dataset, &run.record.preprocessing, preset);
    let (train, still) = (photos(PRESET), photos(Preset::None));
    let mut plan = Plan::default();
    plan.schedule = Schedule { epochs: 3, batch: 8, rate: 1e-3, ..plan.schedule };
    let tune = || fine_tune(&run, &activations, Data::new(&train, Some(&still)), &plan, &stop, |_, _| ()).unwrap();
    let tuned = tune();
    let epochs = &tuned.fit.epochs;
    let (first, best) = (epochs[0].validation_loss.unwrap(), epochs[tuned.fit.best].validation_loss.unwrap());
    assert!(best < first - 0.1, "{epochs:?}");
    let score = |run: &Run, activations: &Activations| {
        let layers = run.layers().unwrap();
        let quantization = Quantization::nearest(&layers, activations.clone()).unwrap();
        let graph = run.export(&layers).write(Format::Bytes(&quantization), Outputs::Last, &run.metadata()).unwrap();
        let model = Model::from_onnx(&graph).unwrap();
        evaluate(&model, dataset.clone(), &[], OnBad::Fail, |_, _| ()).unwrap().found.classes().unwrap().top1
    };
    let (before, after) = (score(&run, &activations), score(&tuned.run, &tuned.activations));
    assert!(after > before + 0.05, "{before} {after}");
    // What was measured is what the device answers, but for pictures on the edge.
    let measured = epochs[tuned.fit.best].score.unwrap();
    assert!((measured - after).abs() < 0.05, "{measured} {after}");
    assert_ne!(tuned.activations, activations);
    let again = tune();
    assert_eq!((again.run.backbone, again.activations), (tuned.run.backbone, tuned.activations));
}
