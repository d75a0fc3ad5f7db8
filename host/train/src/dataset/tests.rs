//! Every layout, whole and damaged.

use std::fs;

use super::*;

/// Writes files of one byte each.
pub(super) fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for f in files {
        let path = dir.path().join(f);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    dir
}

fn keys(set: &Dataset) -> Vec<&str> {
    set.samples.iter().map(|s| s.key.as_str()).collect()
}

fn error(path: &Path, split: Option<&str>) -> String {
    format!("{:#}", Dataset::open(path, split).unwrap_err())
}

#[test]
fn a_folder_gives_sorted_labels_and_counts_what_it_passes_over() {
    let dir = tree(&["rust/b.JPG", "rust/deep/a.png", "healthy/1.jpeg", "healthy/x.gif", "notes.txt", ".git/x.jpg"]);
    fs::create_dir(dir.path().join("empty")).unwrap();
    let set = Dataset::open(dir.path(), None).unwrap();
    assert_eq!(set.labels, ["healthy", "rust"]);
    assert_eq!(keys(&set), ["healthy/1.jpeg", "rust/b.JPG", "rust/deep/a.png"]);
    assert_eq!(set.ignored.len(), 3);
    assert!(set.ignored.iter().any(|i| i.reason.contains("convert it")));
    assert!(set.ignored.iter().any(|i| i.path.ends_with("empty") && i.reason == "holds no picture"));
}

#[test]
fn split_folders_are_asked_for_and_empty_folders_are_named() {
    let dir = tree(&["train/a/1.jpg", "test/a/1.jpg", "test/b/2.jpg"]);
    assert!(error(dir.path(), None).contains("found the splits test, train"));
    let set = Dataset::open(dir.path(), Some("test")).unwrap();
    assert_eq!(keys(&set), ["a/1.jpg", "b/2.jpg"]);
    assert_eq!(set.samples[0].location.path(), dir.path().join("test/a/1.jpg"));
    assert!(error(dir.path(), Some("val")).contains("expected a folder val"));
    assert!(error(&dir.path().join("train"), Some("train")).contains("expected a folder train"));
    let empty = tree(&["a/readme.md"]);
    assert!(error(empty.path(), None).contains("found none"));
    assert!(Dataset::open(&empty.path().join("nowhere"), None).is_err());
}

#[test]
fn a_manifest_is_read_by_column_name_and_split() {
    let dir = tree(&["x/1.jpg", "x/2.jpg", "x/3.jpg"]);
    let csv = dir.path().join("set.csv");
    fs::write(&csv, "group,file,class,split\nf1,x/1.jpg,rust,train\nf1,x/2.jpg,healthy,train\nf2,x/3.jpg,rust,test\n")
        .unwrap();
    let set = Dataset::open(&csv, Some("train")).unwrap();
    assert_eq!(set.samples.len(), 2);
    assert_eq!(set.samples[0].group.as_deref(), Some("f1"));
    assert_eq!(set.labels, ["healthy", "rust"]);
    fs::write(&csv, "file,kind\na,b\n").unwrap();
    assert!(error(&csv, None).contains("label or class"));
    fs::write(&csv, "file,label\na,b\na,c\n").unwrap();
    assert!(error(&csv, None).contains("found a again"));
}

fn archives() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives")
}

/// Says whether the bytes are those of `make.py`'s picture of this number.
fn is_picture_of(bytes: &[u8], number: u8) -> bool {
    let rgb = graft_runtime::picture::decode(bytes).unwrap();
    rgb.dimensions() == (9, 8) && rgb.enumerate_pixels().all(|(x, y, p)| p.0 == [number, x as u8 * 20, y as u8 * 30])
}

#[test]
fn an_archive_is_read_as_the_folder_that_it_holds() {
    let long = "long-".repeat(24);
    for name in ["leaves.zip", "leaves-pax.tar", "leaves-gnu.tar"] {
        let set = Dataset::open(&archives().join(name), None).unwrap();
        assert_eq!(set.labels, ["healthy", "rust"], "{name}");
        assert_eq!(
            keys(&set),
            ["healthy/1.png", "healthy/2.png", "rust/blätter/4.png", &format!("rust/{long}/3.png")],
            "{name}"
        );
        for (sample, number) in set.samples.iter().zip([1, 2, 4, 3]) {
            assert!(is_picture_of(&sample.location.read(1000).unwrap(), number), "{name} {}", sample.key);
            assert!(sample.location.read(20).unwrap_err().to_string().contains("at most 20"));
        }
        let reasons: Vec<&str> = set.ignored.iter().map(|i| i.reason.as_str()).collect();
        let links = if name.ends_with("zip") { 0 } else { 1 };
        assert_eq!(reasons.iter().filter(|r| r.contains("link")).count(), links, "{name}: {reasons:?}");
        assert_eq!(reasons.len(), links + 3, "{name}: {:?}", set.ignored);
    }
}

#[test]
fn an_archive_with_a_manifest_follows_it() {
    let path = archives().join("manifest.zip");
    let set = Dataset::open(&path, Some("train")).unwrap();
    assert_eq!((keys(&set), &set.labels[..]), (vec!["healthy/1.png", "healthy/2.png"], &["a".into(), "b".into()][..]));
    assert!(is_picture_of(&set.samples[1].location.read(1000).unwrap(), 2));
    assert_eq!(Dataset::open(&path, None).unwrap().samples.len(), 3);
    assert_eq!(set.samples[1].location.path(), path.join("photos/healthy/2.png"));
}

/// Rows as `parquet.py` wrote them.
#[test]
fn a_parquet_manifest_is_read_as_one_of_csv() {
    for name in ["snappy", "zstd", "plain"] {
        let path = archives().join(format!("{name}.parquet"));
        let set = Dataset::open(&path, None).unwrap();
        assert_eq!(set.labels, ["healthy", "rust"], "{name}");
        assert_eq!(keys(&set), ["x/1.jpg", "x/2.jpg", "y/3.jpg", "y/blätter.jpg"]);
        let groups: Vec<Option<&str>> = set.samples.iter().map(|s| s.group.as_deref()).collect();
        assert_eq!(groups, [Some("f1"), None, Some("f2"), Some("f2")]);
        assert_eq!(set.samples.iter().map(|s| s.class).collect::<Vec<_>>(), [1, 0, 1, 0]);
        assert_eq!(set.samples[2].location.path(), archives().join("y/3.jpg"));
        assert_eq!(keys(&Dataset::open(&path, Some("test")).unwrap()), ["y/3.jpg"]);
        let values = Columns::Values(vec!["yield".into(), "severity".into()]);
        let values = Dataset::open_as(&path, Some("train"), &values).unwrap();
        assert_eq!(values.samples[1].values, [1e-3, 4.0], "{name}");
        let tags = Dataset::open_as(&path, None, &Columns::Tags(vec!["miner".into()])).unwrap();
        assert_eq!(tags.samples.iter().flat_map(|s| s.values.clone()).collect::<Vec<_>>(), [1.0, 0.0, 0.0, 1.0]);
        let none = Dataset::open_as(&path, None, &Columns::Values(vec!["boxes".into()])).unwrap_err();
        assert!(none.to_string().contains("expected a column boxes"), "{none:#}");
    }
    let gzip = error(&archives().join("gzip.parquet"), None);
    assert!(gzip.contains("gzip.parquet") && gzip.to_lowercase().contains("gzip"), "{gzip}");
    let inside = error(&archives().join("inside.parquet"), None);
    assert!(inside.contains("column image, found pictures inside of it"), "{inside}");
}

#[test]
fn an_archive_may_have_a_parquet_manifest() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    let mut archive = ::zip::ZipWriter::new(fs::File::create(&path).unwrap());
    let rows = fs::read(archives().join("snappy.parquet")).unwrap();
    let pictures = ["x/1.jpg", "x/2.jpg", "y/3.jpg", "y/blätter.jpg"].map(|n| (n, &b"x"[..]));
    for (name, bytes) in [("labels.parquet", &rows[..])].into_iter().chain(pictures) {
        archive
            .start_file(
                name,
                ::zip::write::SimpleFileOptions::default().compression_method(::zip::CompressionMethod::Stored),
            )
            .unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    let set = Dataset::open(&path, Some("test")).unwrap();
    assert_eq!((keys(&set), set.samples[0].location.read(9).unwrap()), (vec!["y/3.jpg"], b"x".to_vec()));
}

#[test]
fn a_cut_or_altered_parquet_manifest_is_an_error_or_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    for (name, step) in [("snappy", 1), ("zstd", 5), ("plain", 5)] {
        let whole = fs::read(archives().join(format!("{name}.parquet"))).unwrap();
        for len in (0..whole.len()).step_by(7 * step) {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(Dataset::open(&path, None).is_err(), "{name} cut at {len}");
        }
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            fs::write(&path, &bytes).unwrap();
            // What it says is not signed: other letters are other rows.
            let _ = Dataset::open(&path, None);
        }
    }
}

#[test]
fn an_archive_that_cannot_be_read_in_place_is_refused_with_a_remedy() {
    let dir = tree(&["a.tar.gz", "b.TGZ", "c.7z"]);
    for name in ["a.tar.gz", "b.TGZ", "c.7z"] {
        assert!(error(&dir.path().join(name), None).contains("unpack it"), "{name}");
    }
}

#[test]
fn a_cut_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["leaves.zip", "leaves-pax.tar", "leaves-gnu.tar"] {
        let whole = fs::read(archives().join(name)).unwrap();
        let used = whole.len() - whole.iter().rev().take_while(|&&b| b == 0).count();
        // A tar may lose all but one block of the zeros behind its last member.
        let least = if name.ends_with("zip") { whole.len() } else { used.next_multiple_of(512) + 512 };
        let path = dir.path().join(name);
        for len in (0..least).step_by(if least > 5000 { 61 } else { 1 }).chain([least - 1]) {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(Dataset::open(&path, None).is_err(), "{name} cut at {len} of {least}");
        }
        fs::write(&path, &whole[..least]).unwrap();
        assert!(Dataset::open(&path, None).is_ok(), "{name}");
    }
}

#[test]
fn an_altered_archive_gives_an_error_or_the_bytes_that_were_packed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("altered.zip");
    let whole = fs::read(archives().join("leaves.zip")).unwrap();
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let Ok(set) = Dataset::open(&path, None) else {
            refused += 1;
            continue;
        };
        for sample in &set.samples {
            match sample.location.read(1000) {
                // Under a name that was altered, what was hidden may be seen.
                Ok(found) => assert!((1..=6).any(|n| is_picture_of(&found, n)), "byte {at}, {}", sample.key),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > whole.len() / 3, "{refused} of {}", whole.len());
}

#[test]
fn an_altered_tar_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("altered.tar");
    let whole = fs::read(archives().join("leaves-gnu.tar")).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        match Dataset::open(&path, None) {
            Ok(set) => set.samples.iter().for_each(|s| assert!(s.location.read(1 << 20).is_ok())),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_name_that_leads_out_of_the_archive_is_refused() {
    let mut tree = Tree::default();
    let location = || Some(Location::File("x".into()));
    for name in ["../a/1.png", "a/../../1.png", "/etc/1.png", "a\\..\\..\\1.png", &"a/".repeat(40), &"a".repeat(5000)] {
        assert!(tree.add_member(name, location()).is_err(), "{name}");
    }
    tree.add_member("./a//1.png", location()).unwrap();
    assert_eq!(tree.files.keys().collect::<Vec<_>>(), ["a/1.png"]);
}

#[test]
fn a_single_class_is_no_wrapping_and_a_split_stays() {
    let open = |names: &[&str]| {
        let mut tree = Tree::default();
        for name in names {
            tree.add_member(name, Some(Location::File("x".into()))).unwrap();
        }
        tree.unwrapped().files.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(open(&["rust/1.png", "rust/2.png"]), ["rust/1.png", "rust/2.png"]);
    assert_eq!(open(&["train/rust/1.png"]), ["train/rust/1.png"]);
    assert_eq!(open(&["a/b/rust/1.png", "a/b/healthy/2.png"]), ["healthy/2.png", "rust/1.png"]);
    assert_eq!(open(&["a/set.csv", "a/1.png"]), ["1.png", "set.csv"]);
}

#[test]
fn a_coco_file_classifies_pictures_by_their_annotations() {
    let dir = tree(&["images/1.jpg", "images/2.jpg", "images/3.jpg"]);
    let path = dir.path().join("set.json");
    let write = |annotations: &str| {
        let images = r#"[{"id": 7, "file_name": "1.jpg", "width": 9}, {"id": 8, "file_name": "2.jpg"}, {"id": 9, "file_name": "3.jpg"}]"#;
        let categories = r#"[{"id": 1, "name": "rust", "supercategory": "leaf"}, {"id": 2, "name": "healthy"}]"#;
        let text = format!(
            r#"{{"info": {{}}, "images": {images}, "annotations": [{annotations}], "categories": {categories}}}"#
        );
        fs::write(&path, text).unwrap();
    };
    let on = |image: u32, category: u32| {
        format!(
            r#"{{"id": 1, "image_id": {image}, "category_id": {category}, "bbox": [1, 2, 3.5, 4], "segmentation": [[1, 2]]}}"#
        )
    };
    write(&[on(7, 1), on(7, 1), on(9, 2)].join(","));
    let set = Dataset::open(&path, None).unwrap();
    assert_eq!((keys(&set), &set.labels[..]), (vec!["1.jpg", "3.jpg"], &["healthy".into(), "rust".into()][..]));
    assert_eq!(set.samples[0].location, Location::File(dir.path().join("images/1.jpg")));
    assert_eq!((set.samples[0].class, set.ignored.len()), (1, 1));
    assert!(error(&path, Some("train")).contains("--split"));
    write(&[on(7, 1), on(7, 2)].join(","));
    assert!(error(&path, None).contains("found rust and healthy on 1.jpg"));
    write(&on(7, 3));
    assert!(error(&path, None).contains("category of id 3"));
    write(&on(5, 1));
    assert!(error(&path, None).contains("picture 5"));
    fs::write(&path, "{}").unwrap();
    assert!(error(&path, None).contains("reading the COCO file"));
}

#[test]
fn columns_of_tags_and_values_are_read_and_strangers_refused() {
    let dir = tree(&["1.jpg", "2.jpg"]);
    let csv = dir.path().join("set.csv");
    let open = |text: &str, columns: Columns| {
        fs::write(&csv, text).unwrap();
        Dataset::open_as(&csv, None, &columns)
    };
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let text = "file,rust,miner,yield\n1.jpg,0,1,2.5\n2.jpg,1,1,-3\n";
    let set = open(text, Columns::Tags(names(&["miner", "rust"]))).unwrap();
    assert_eq!((set.task, set.labels.clone()), (Task::Tags, names(&["miner", "rust"])));
    assert_eq!(set.targets(&[1, 0]), Targets::Tags { of: vec![1.0, 1.0, 1.0, 0.0], width: 2 });
    let set = open(text, Columns::Values(names(&["yield"]))).unwrap();
    assert_eq!(set.targets(&[0, 1]), Targets::Values { of: vec![2.5, -3.0], width: 1 });
    for (text, columns, word) in [
        (text, Columns::Tags(names(&["yield"])), "0 or 1"),
        (text, Columns::Values(names(&["height"])), "column height"),
        ("file,yield\n1.jpg,much\n", Columns::Values(names(&["yield"])), "row 2"),
        ("file,yield\n1.jpg,inf\n", Columns::Values(names(&["yield"])), "finite"),
    ] {
        let error = format!("{:#}", open(text, columns).unwrap_err());
        assert!(error.contains(word), "{error}");
    }
    let folder = Dataset::open_as(dir.path(), None, &Columns::Values(names(&["yield"]))).unwrap_err();
    assert!(format!("{folder:#}").contains(".csv, .parquet"), "{folder:#}");
}
