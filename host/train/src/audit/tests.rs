//! Whole sets, with copies that Pillow made, and sets that are drawn with faults on purpose.

use std::fs;

use graft_leaves::{LeafClass, leaf_picture};

use super::*;
use crate::dataset::Columns;
use crate::pretrained::Input;

fn open(path: &Path) -> Vec<Part> {
    let open = |name: &String| Part { name: name.clone(), data: Dataset::open(path, Some(name)).unwrap() };
    Dataset::parts(path).unwrap().iter().map(open).collect()
}

fn look(parts: &[Part], pretrained: Option<&Pretrained>) -> Findings {
    let cache = tempfile::tempdir().unwrap();
    let lens = pretrained.map(|pretrained| Lens { pretrained, cache: cache.path() });
    audit(parts, lens, &AtomicBool::new(false), &|_, _, _| ()).unwrap()
}

fn stem(named: &Named) -> String {
    named.file.file_stem().unwrap().to_string_lossy().into_owned()
}

/// `tests/archives/alike.py` made them: 12 leaves in train, three copies of each in test.
#[test]
fn copies_that_pillow_made_are_found_and_no_other() {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/alike.zip");
    let parts = open(&archive);
    let embedded = Pretrained::embedded(Input::default()).unwrap();
    let cropped = |c: &Copies| c.pictures.iter().any(|p| stem(p).ends_with("cropped"));
    for (pretrained, wanted) in [(Some(&embedded), 35), (None, 32)] {
        let found = look(&parts, pretrained);
        assert_eq!((found.n, found.usable, found.copies.len()), (48, 48, 12), "{:#?}", found.copies);
        let mut copied = 0;
        for copies in &found.copies {
            assert!(copies.is_leak && !copies.is_exact && !copies.is_contradictory, "{copies:#?}");
            let numbers: BTreeSet<String> = copies.pictures.iter().map(|p| stem(p)[..2].to_owned()).collect();
            assert_eq!(numbers.len(), 1, "{copies:#?}");
            copied += copies.pictures.len() - 1;
        }
        // What lies off the hash's reach is found by its neighbours.
        assert!(copied >= wanted, "{copied} of 36: {:#?}", found.copies);
        let crops = found.copies.iter().filter(|c| cropped(c)).count();
        assert_eq!(crops, if pretrained.is_some() { copied - 32 } else { 0 });
        assert!(found.faults().contains(&"12 pictures that lie in several parts".to_owned()));
    }
}

/// Leaves of different seeds in the folders `train` and `test`.
fn leaves(folder: &Path, each: u64) {
    for (part, first) in [("train", 0), ("test", 1000)] {
        for class in LeafClass::ALL {
            let to = folder.join(part).join(class.name());
            fs::create_dir_all(&to).unwrap();
            (first..first + each).for_each(|s| leaf_picture(class, s, 96).save(to.join(format!("{s}.png"))).unwrap());
        }
    }
}

#[test]
fn what_is_wrong_with_a_set_is_found_and_nothing_with_a_sound_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    leaves(at, 6);
    let sound = look(&open(at), None);
    assert!(sound.copies.is_empty() && sound.divided.is_empty(), "{:#?}", sound.copies);
    assert!(sound.faults().is_empty());
    assert_eq!((sound.parts[1].imbalance, sound.parts[1].name.as_str()), (Some(1.0), "train"));

    let file = |part: &str, class: LeafClass, name: &str| at.join(part).join(class.name()).join(name);
    let [healthy, rust] = [LeafClass::Healthy, LeafClass::Rust];
    fs::copy(file("train", healthy, "0.png"), file("train", rust, "twin.png")).unwrap();
    fs::copy(file("train", rust, "1.png"), file("test", rust, "leak.png")).unwrap();
    fs::write(file("test", rust, "broken.png"), "no picture").unwrap();
    let dark = image::RgbImage::from_fn(96, 96, |x, y| image::Rgb([((x / 7 + y / 5) % 2) as u8 * 40; 3]));
    dark.save(file("test", rust, "dark.png")).unwrap();
    let found = look(&open(at), None);
    assert_eq!((found.copies.len(), found.unusable.len(), found.usable), (2, 1, found.n - 1));
    let [leak, twin] = [&found.copies[0], &found.copies[1]];
    assert!(leak.is_leak && leak.is_exact && !leak.is_contradictory, "{leak:?}");
    assert!(twin.is_contradictory && !twin.is_leak, "{twin:?}");
    assert!(found.flawed.iter().any(|f| f.flaws == [Flaw::Dark] && f.picture.file.ends_with("dark.png")));
    let faults = found.faults();
    for fault in
        ["1 pictures that cannot be used", "1 pictures that lie in several parts", "1 pictures with several labels"]
    {
        assert!(faults.iter().any(|f| f == fault), "{fault}: {faults:?}");
    }
}

#[test]
fn a_group_in_two_parts_is_a_leak_and_columns_of_numbers_have_no_doubtful_labels() {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join("set.csv");
    let mut text = String::from("file,split,group,label,yield\n");
    for (i, (split, group)) in [("train", "a"), ("train", "b"), ("test", "b"), ("test", "c")].iter().enumerate() {
        leaf_picture(LeafClass::ALL[i % 3], i as u64, 96).save(dir.path().join(format!("{i}.png"))).unwrap();
        text += &format!("{i}.png,{split},{group},x,{i}.5\n");
    }
    fs::write(&csv, text).unwrap();
    let found = look(&open(&csv), None);
    assert_eq!(found.divided.len(), 1);
    assert_eq!((found.divided[0].group.as_str(), found.divided[0].parts.len()), ("b", 2));
    assert!(found.faults().contains(&"1 groups in several parts".to_owned()));
    let values = Columns::Values(vec!["yield".into()]);
    let part = Part { name: "all".into(), data: Dataset::open_as(&csv, None, &values).unwrap() };
    let embedded = Pretrained::embedded(Input::default()).unwrap();
    let found = look(&[part], Some(&embedded));
    assert!(found.left_out.iter().any(|l| l.contains("columns of numbers")), "{:?}", found.left_out);
    assert_eq!((found.doubtful.len(), found.parts[0].imbalance), (0, None));
}

#[test]
fn labels_that_were_exchanged_are_contradicted_by_their_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    // Two subjects that any features tell apart.
    for (label, class) in [("stripes", 0), ("discs", 1)] {
        fs::create_dir_all(at.join(label)).unwrap();
        for i in 0..25u32 {
            let picture = image::RgbImage::from_fn(96, 96, |x, y| {
                let is_on = if class == 0 {
                    (x + i) / 8 % 2 == 0
                } else {
                    (x as i32 - 48).pow(2) + (y as i32 - 48).pow(2) < 400 + 40 * i as i32
                };
                let light = 2 * i as u8;
                image::Rgb(match (class, is_on) {
                    (0, true) => [200, 180, light],
                    (0, false) => [30, 60, light],
                    (_, true) => [160, light, 20],
                    (_, false) => [250, 250, 200 + light],
                })
            });
            picture.save(at.join(label).join(format!("{i}.png"))).unwrap();
        }
    }
    fs::rename(at.join("stripes/7.png"), at.join("discs/was-stripes.png")).unwrap();
    let part = Part { name: "all".into(), data: Dataset::open(at, None).unwrap() };
    let embedded = Pretrained::embedded(Input::default()).unwrap();
    let found = look(&[part], Some(&embedded));
    let files: Vec<String> = found.doubtful.iter().map(|d| stem(&d.picture)).collect();
    assert_eq!(files, ["was-stripes"], "{:#?}", found.doubtful);
    assert_eq!((found.doubtful[0].neighbours.as_str(), found.doubtful[0].of), ("stripes", ASKED));
}

#[test]
fn a_raised_flag_ends_the_work() {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/alike.zip");
    let error = audit(&open(&archive), None, &AtomicBool::new(true), &|_, _, _| ()).unwrap_err();
    assert!(error.to_string().contains("stopped"));
}
