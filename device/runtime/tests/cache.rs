//! Packed networks: the same answers as from the model, and whatever is wrong with a file, a network made anew.

use std::fs;
use std::path::{Path, PathBuf};

use graft_runtime::{Cache, EngineChoice, Isa, Loaded, Miss, Network, Picture};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx")
}

fn onnx(name: &str) -> PathBuf {
    folder().join(name).with_extension("onnx")
}

/// Returns the bits of every number of the answer, on one thread and on two.
fn answer(mut network: Network) -> Vec<u32> {
    let len: usize = network.input().iter().product();
    let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
    let numbers: Vec<f32> = bytes.iter().map(|b| (f32::from(*b) - 120.0) / 61.0).collect();
    let mut bits = Vec::new();
    for threads in [1, 2] {
        network.set_threads(threads);
        let picture = if network.takes_bytes() { Picture::Bytes(&bytes) } else { Picture::Floats(&numbers) };
        bits.extend(network.run(picture).unwrap().into_iter().flatten().map(f32::to_bits));
    }
    bits
}

/// What a network that is not there, or not right, is made anew for, and then kept.
fn rebuilt(because: Miss) -> Loaded {
    Loaded::Rebuilt { because, not_kept: None }
}

/// A network and its packed form.
struct Kept {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Kept {
    fn new(name: &str) -> Self {
        let kept = Self { dir: tempfile::tempdir().unwrap(), model: onnx(name) };
        assert_eq!(*kept.open().loaded(), rebuilt(Miss::Absent));
        assert_eq!(*kept.open().loaded(), Loaded::Cache);
        kept
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("packed")
    }

    fn open(&self) -> Network {
        Network::open_cached(&self.model, EngineChoice::Best, &Cache::file(self.path())).unwrap()
    }

    /// Opens beside a file that is not replaced.
    fn look(&self) -> Network {
        Network::open_cached(&self.model, EngineChoice::Best, &Cache::file(self.path()).at_most(0)).unwrap()
    }
}

#[test]
fn a_network_from_the_cache_answers_as_from_its_model_to_the_last_bit() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::folder(dir.path());
    let mut count = 0;
    for isa in Isa::available() {
        let choice = EngineChoice::Kernels(isa);
        for entry in fs::read_dir(folder()).unwrap() {
            let path = entry.unwrap().path();
            let what = format!("{} on {}", path.display(), isa.name());
            // The one in parts is not kept.
            if path.extension().is_none_or(|e| e != "onnx") || path.ends_with("external_data.onnx") {
                continue;
            }
            let Ok(network) = Network::open(&path, choice) else { continue };
            if network.unrecognised().is_some() {
                continue;
            }
            assert_eq!(*network.loaded(), Loaded::Model);
            let first = Network::open_cached(&path, choice, &cache).unwrap();
            assert_eq!(*first.loaded(), rebuilt(Miss::Absent), "{what}");
            let second = Network::open_cached(&path, choice, &cache).unwrap();
            assert_eq!(*second.loaded(), Loaded::Cache, "{what}");
            assert_eq!((second.outputs(), second.input()), (network.outputs(), network.input()), "{what}");
            let expected = answer(network);
            assert!(answer(first) == expected && answer(second) == expected, "{what}");
            count += 1;
        }
    }
    assert!(count >= 60, "{count} networks");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count, "a file for each, and nothing else");
}

#[test]
fn a_wrong_header_is_told_and_replaced() {
    let kept = Kept::new("q_stem");
    let whole = fs::read(kept.path()).unwrap();
    let mut name = Isa::best().name().to_owned().into_bytes();
    name[0] ^= 2;
    let other = Miss::Isa(String::from_utf8(name).unwrap());
    let cases = [
        (0, Miss::Damaged),
        (8, Miss::Format(3)),
        (12, Miss::Damaged),
        (16, Miss::Damaged),
        (24, Miss::Damaged),
        (32, Miss::Build),
        (39, Miss::Build),
        (40, other),
        (64, Miss::Model),
        (95, Miss::Model),
        (96, Miss::Damaged),
        (whole.len() - 1, Miss::Damaged),
    ];
    for (at, because) in cases {
        let mut bytes = whole.clone();
        bytes[at] ^= 2;
        fs::write(kept.path(), bytes).unwrap();
        assert_eq!(*kept.open().loaded(), rebuilt(because), "byte {at}");
        assert!(fs::read(kept.path()).unwrap() == whole, "byte {at} is right again");
        assert_eq!(*kept.open().loaded(), Loaded::Cache);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_seen() {
    let kept = Kept::new("hard_swish");
    let whole = fs::read(kept.path()).unwrap();
    for at in (0..160).chain((160..whole.len()).step_by(41)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(kept.path(), bytes).unwrap();
        assert!(matches!(kept.look().loaded(), Loaded::Rebuilt { .. }), "byte {at}");
    }
}

#[test]
fn a_file_cut_anywhere_is_seen() {
    let kept = Kept::new("hard_swish");
    let whole = fs::read(kept.path()).unwrap();
    for len in (0..200).chain((200..whole.len()).step_by(61)).chain([whole.len() - 1]) {
        fs::write(kept.path(), &whole[..len]).unwrap();
        let network = kept.look();
        assert!(matches!(network.loaded(), Loaded::Rebuilt { because: Miss::Damaged, .. }), "{len} bytes");
    }
    fs::write(kept.path(), [&whole[..], &[0; 64]].concat()).unwrap();
    assert_eq!(*kept.open().loaded(), rebuilt(Miss::Damaged), "a longer one");
}

#[test]
fn a_changed_model_is_packed_anew() {
    let mut kept = Kept::new("hard_swish");
    let before = answer(kept.open());
    let path = kept.dir.path().join("model.onnx");
    fs::copy(&kept.model, &path).unwrap();
    kept.model = path;
    assert_eq!(*kept.open().loaded(), Loaded::Cache, "a copy is the same model");
    fs::copy(onnx("silu"), &kept.model).unwrap();
    assert_eq!(*kept.open().loaded(), rebuilt(Miss::Model));
    assert_ne!(answer(kept.open()), before);
}

#[test]
fn a_mapped_network_outlives_its_file() {
    let kept = Kept::new("hard_swish");
    let network = kept.open();
    let expected = answer(kept.open());
    fs::remove_file(kept.path()).unwrap();
    assert_eq!(*kept.open().loaded(), rebuilt(Miss::Absent));
    assert_eq!(answer(network), expected);
}

#[test]
fn what_cannot_be_kept_still_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let reason = |network: &Network| match network.loaded() {
        Loaded::Rebuilt { not_kept: Some(reason), .. } => reason.clone(),
        other => panic!("{other:?}"),
    };
    let network = Network::open_cached(&onnx("silu"), EngineChoice::Best, &Cache::file(file.join("packed"))).unwrap();
    assert!(!reason(&network).is_empty());
    answer(network);
    let small = Cache::folder(dir.path()).at_most(1000);
    let network = Network::open_cached(&onnx("silu"), EngineChoice::Best, &small).unwrap();
    assert!(reason(&network).contains("1000 are allowed"), "{}", reason(&network));
    answer(network);
    let network = Network::open_cached(&onnx("lstm"), EngineChoice::Best, &Cache::folder(dir.path())).unwrap();
    assert!(reason(&network).contains("tract"));
    let network = Network::open_cached(&onnx("external_data"), EngineChoice::Best, &Cache::folder(dir.path())).unwrap();
    assert!(reason(&network).contains("other files"), "{}", reason(&network));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was left behind");
}

#[test]
fn a_cache_does_not_concern_tract() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::folder(dir.path());
    let network = Network::open_cached(&onnx("silu"), EngineChoice::Tract, &cache).unwrap();
    assert_eq!(*network.loaded(), Loaded::Model);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
