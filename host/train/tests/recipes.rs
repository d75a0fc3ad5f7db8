//! Whole recipes on generated leaves: what is settled, kept, stopped and gone on with.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use graft_leaves::write_leaf_set;
use graft_train::dataset::{Columns, Dataset, Task};
use graft_train::fit::Resume;
use graft_train::pictures::OnBad;
use graft_train::pretrained::{Input, Pretrained};
use graft_train::recipe::{Recipe, Wish};
use graft_train::transfer::{Device, Event, Plan, Stage, Trained, clean_up, transfer};

fn leaves(folder: &Path) -> Dataset {
    write_leaf_set(folder, 12, 5, 96, |_, _| ()).unwrap();
    Dataset::open(folder, None).unwrap()
}

/// Trains into `folder`; stops at the first event for which `until` holds.
fn train(
    dataset: &Dataset,
    folder: &Path,
    wish: &Wish,
    resume: Resume,
    until: impl Fn(&Event<'_>) -> bool,
) -> Result<Trained> {
    let pretrained = Pretrained::embedded(Input::default())?;
    let plan = Plan {
        data: "leaves".into(),
        split: None,
        dataset,
        pretrained: &pretrained,
        cache: &folder.join("cache"),
        on_bad: OnBad::Fail,
        wish: wish.clone(),
        device: Device::Cpu,
        folder: Some(folder),
        resume,
    };
    let stop = AtomicBool::new(false);
    transfer(&plan, &stop, |event| stop.store(stop.load(Ordering::Relaxed) || until(&event), Ordering::Relaxed))
}

fn at(wanted: Stage, least: usize) -> impl Fn(&Event<'_>) -> bool {
    move |event| matches!(event, Event::Progress { stage, done, .. } if *stage == wanted && *done >= least)
}

#[test]
fn blocks_go_on_from_kept_activations_to_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let set = leaves(&dir.path().join("leaves"));
    let wish = Wish { recipe: Some(Recipe::Blocks), unfrozen: Some(2), epochs: Some(3), ..Wish::default() };
    let [whole, stopped] = ["whole", "stopped"].map(|name| dir.path().join(name));
    [&whole, &stopped].iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let alone = train(&set, &whole, &wish, Resume::No, |_| false).unwrap().run;
    let tuned = alone.record.fine_tuned.as_ref().unwrap();
    assert_eq!((tuned.tuning.views, tuned.epochs.len()), (3, 4));
    assert!(whole.join("activations.bin").exists());
    for (resume, until) in [
        (Resume::No, at(Stage::Views, 30)),
        (Resume::Yes, at(Stage::FineTuning, 20)),
        (Resume::Yes, at(Stage::FineTuning, 60)),
    ] {
        let error = format!("{:#}", train(&set, &stopped, &wish, resume, until).unwrap_err());
        assert!(error.contains("--resume"), "{error}");
    }
    let other = Wish { epochs: Some(4), ..wish.clone() };
    let error = train(&set, &stopped, &other, Resume::Yes, |_| false).unwrap_err();
    assert!(format!("{error:#}").contains("very command"), "{error:#}");
    let again = train(&set, &stopped, &wish, Resume::Yes, |_| false).unwrap().run;
    assert_eq!((again.backbone, again.head), (alone.backbone, alone.head));
    clean_up(&stopped);
    let left: Vec<_> = std::fs::read_dir(&stopped).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["cache"]);
}

#[test]
fn a_regression_and_tags_are_learnt_from_columns() {
    let dir = tempfile::tempdir().unwrap();
    let set = leaves(&dir.path().join("leaves"));
    // Of few pictures little is learnt, but outputs in another unit than the values would be worse than their mean.
    let rows = set.samples.iter().map(|s| {
        let (class, path) = (s.class, dir.path().join("leaves").join(&s.key));
        format!("{},{},{},{}\n", path.display(), 100 + 20 * class, u8::from(class == 0), u8::from(class != 1))
    });
    let csv = dir.path().join("set.csv");
    std::fs::write(&csv, format!("file,yield,a,b\n{}", rows.collect::<String>())).unwrap();
    let names = |of: &[&str]| of.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    for (columns, task) in
        [(Columns::Values(names(&["yield"])), Task::Values), (Columns::Tags(names(&["a", "b"])), Task::Tags)]
    {
        let data = Dataset::open_as(&csv, None, &columns).unwrap();
        for recipe in [Recipe::Head, Recipe::Full] {
            let folder = tempfile::tempdir().unwrap();
            let wish = Wish { recipe: Some(recipe), epochs: Some(2), validation: Some(0.0), ..Wish::default() };
            let run = train(&data, folder.path(), &wish, Resume::No, |_| false).unwrap().run;
            let model = graft_runtime::Model::from_onnx(&run.float().unwrap()).unwrap();
            assert_eq!(Task::of(model.metadata()).unwrap(), task);
            let found =
                graft_train::evaluate::evaluate(&model, data.clone(), &[], OnBad::Fail, |_, _| ()).unwrap().found;
            match found {
                graft_train::evaluate::Found::Values { values, .. } => {
                    assert!(values[0].r2 > 0.1 && values[0].mae < 30.0, "{recipe} {values:?}");
                }
                graft_train::evaluate::Found::Tags { macro_f1, .. } => assert!(macro_f1 > 0.45, "{recipe} {macro_f1}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn from_scratch_begins_with_random_weights_of_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let set = leaves(&dir.path().join("leaves"));
    let random = |seed| {
        Pretrained::random("mobilenet_v2:0.35".parse().unwrap(), Input { side: Some(32), share: None }, seed).unwrap()
    };
    assert_eq!(random(3).backbone, random(3).backbone);
    assert_ne!(random(3).backbone, random(4).backbone);
    let pretrained = random(3);
    let wish = Wish { recipe: None, ..Wish::default() };
    let plan = Plan {
        data: "leaves".into(),
        split: None,
        dataset: &set,
        pretrained: &pretrained,
        cache: dir.path(),
        on_bad: OnBad::Fail,
        wish,
        device: Device::Cpu,
        folder: None,
        resume: Resume::No,
    };
    let error = transfer(&plan, &AtomicBool::new(false), |_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("--recipe scratch"), "{error:#}");
    let wish = Wish { recipe: Some(Recipe::Scratch), epochs: Some(1), ..Wish::default() };
    let run = transfer(&Plan { wish, ..plan }, &AtomicBool::new(false), |_| ()).unwrap().run;
    assert_eq!(run.record.weights.random_seed, Some(3));
}
