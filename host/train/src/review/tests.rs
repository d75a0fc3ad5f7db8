//! Statistics against outside ones, and a whole review of a trained head.

use graft_runtime::Model;

use super::*;
use crate::evaluate::answers;

/// The answers of `tests/golden/review.py`: probability and whether it is right.
fn drawn(n: u64) -> Vec<(f64, bool)> {
    let one = |i: u64| (((i * i * 37 + i * 11) % 199 + 1) as f64 / 200.0, (i * 7 + i * i * 3) % 10 < 6);
    (0..n).map(one).collect()
}

#[test]
fn curves_are_those_of_numpy_and_scikit_learn() {
    let answers = drawn(150);
    let found = coverage(&answers);
    let near = |a: f64, b: f64| (a - b).abs() < 2e-9;
    assert!(near(found.area, AREA), "{}", found.area);
    let at = |coverage: f64| found.points.iter().find(|p| p.coverage >= coverage - 1e-12).unwrap();
    for (share, risk) in RISKS {
        assert!(near(at(share).risk, risk), "{share}: {} {risk}", at(share).risk);
    }
    assert!(near(found.points.last().unwrap().coverage, 1.0));
    let bins = bins(&answers);
    assert_eq!(bins.iter().map(|b| b.right.n).sum::<usize>(), 150);
    for (bin, (probability, right)) in bins.iter().zip(BINNED) {
        assert!(near(bin.probability, probability) && near(bin.right.share, right), "{bin:?} {probability} {right}");
    }
    let error: f64 = bins.iter().map(|b| b.right.n as f64 / 150.0 * (b.probability - b.right.share).abs()).sum();
    assert!(near(error, calibration_error(&answers)), "the diagram and the error are of the same bins");
}

#[test]
fn a_curve_of_many_answers_is_thinned_and_keeps_its_ends() {
    let answers: Vec<(f64, bool)> = (0..5000).map(|i| (f64::from(i) / 5000.0, i % 3 > 0)).collect();
    let found = coverage(&answers);
    assert!(found.points.len() <= MOST_POINTS + 1);
    assert!((found.points.last().unwrap().coverage - 1.0).abs() < 1e-12);
    let tied = coverage(&[(0.5, true), (0.5, false), (0.5, false)]);
    assert_eq!((tied.points.len(), tied.points[0].risk), (1, 2.0 / 3.0), "equal probabilities are answered together");
    assert!((tied.area - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn a_review_tells_what_an_evaluation_tells() {
    use crate::dataset::Dataset;
    use crate::features::{Varied, features};
    use crate::pretrained::{Input, Pretrained};
    use std::sync::atomic::AtomicBool;

    let dir = tempfile::tempdir().unwrap();
    graft_leaves::write_leaf_set(dir.path(), 8, 11, 96, |_, _| ()).unwrap();
    let mut data = Dataset::open(dir.path(), None).unwrap();
    data.samples.iter_mut().enumerate().for_each(|(i, s)| s.group = Some(format!("field {}", i % 3)));
    let pretrained = Pretrained::embedded(Input::default()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let found =
        features(&pretrained, &data.samples, &Varied::plain(), cache.path(), OnBad::Fail, &stop, |_, _| ()).unwrap();
    // A head that knows the mean of each class's features, of every other picture alone: it is right of some.
    let (width, count) = (found.width, data.labels.len());
    let mut means = vec![0.0f32; count * width];
    for (row, sample) in data.samples.iter().enumerate().step_by(4) {
        let vector = &found.data[row * width..][..width];
        means[sample.class * width..][..width].iter_mut().zip(vector).for_each(|(m, v)| *m += v);
    }
    means.chunks_exact_mut(width).for_each(|m| {
        let length = m.iter().map(|v| v * v).sum::<f32>().sqrt();
        m.iter_mut().for_each(|v| *v *= 4.0 / length);
    });
    let weight = graft_zoo::Tensor { shape: vec![count, width], data: means };
    let head = graft_onnx::Head { weight, bias: vec![0.0; count] };
    let model = Model::from_onnx(&pretrained.graph(Some(&head), &data.labels).unwrap()).unwrap();

    let plan = Plan { worst: 3, marks: true, on_bad: OnBad::Fail };
    let mut stages = vec![];
    let reviewed = review(&model, data.clone(), &plan, |stage, done, of| {
        assert!(done <= of);
        stages.push(stage);
    })
    .unwrap();
    stages.dedup();
    assert_eq!(stages, [Stage::Answering, Stage::Marking]);
    let Told::Classes(c) = reviewed.told else { panic!("classes were told") };
    let (answers, _) = answers(&model, &data.samples, OnBad::Fail, |_, _| ()).unwrap();
    let m = Metrics::of(&data.labels, answers.iter().map(|a| (data.samples[a.sample].class, argmax(&a.logits))));
    assert_eq!((c.top1.share, c.macro_f1, &c.confusion), (m.top1, m.macro_f1, &m.confusion));
    assert!(m.top1 < 1.0, "this test needs a mistake");
    assert_eq!(c.groups.iter().map(|g| g.right.n).sum::<usize>(), data.samples.len());
    assert_eq!(c.groups.iter().map(|g| g.right.hits).sum::<usize>(), c.top1.hits);
    assert!(!c.mistakes.is_empty() && c.mistakes.len() <= 3);
    assert!(c.mistakes.is_sorted_by(|a, b| a.probability >= b.probability));
    for mistake in &c.mistakes {
        assert_ne!(mistake.truth, mistake.answer);
        for Picture(bytes) in [&mistake.seen, mistake.marked.as_ref().unwrap()] {
            assert_eq!(image::load_from_memory(bytes).unwrap().width(), model.preprocessing().crop);
        }
    }
    assert_eq!((c.calibration.ece_after, c.coverage.sure), (None, None), "nobody calibrated it");
    assert!(quantization(&model).unwrap().is_none());
}

// tests/golden/review.py
const AREA: f64 = 0.543_890_137_895_917_7;
const RISKS: [(f64, f64); 5] =
    [(0.1, 0.375), (0.3, 0.543_478_260_869_565_2), (0.5, 0.6), (0.8, 0.616_666_666_666_666_7), (1.0, 0.6)];
const BINNED: [(f64, f64); 15] = [
    (0.036333333, 0.533333333),
    (0.110625, 0.25),
    (0.167, 0.466666667),
    (0.237692308, 0.307692308),
    (0.296875, 0.375),
    (0.373181818, 0.454545455),
    (0.433333333, 0.166666667),
    (0.492272727, 0.363636364),
    (0.576428571, 0.428571429),
    (0.645555556, 0.222222222),
    (0.698636364, 0.363636364),
    (0.775714286, 0.142857143),
    (0.834444444, 0.444444444),
    (0.8975, 0.666666667),
    (0.966428571, 0.571428571),
];
