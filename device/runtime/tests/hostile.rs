//! Damaged files: whatever is wrong, an error comes back or an answer, and no panic, abort or flood of memory.
//!
//! In a program of its own, for its allocator and its silent panics (those of the engine are caught and become errors).

#![expect(unsafe_code, reason = "an allocator is unsafe by its definition")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Once;

use graft_runtime::{Cache, EngineChoice, Isa, Loaded, Network, Picture};
use prost::Message;
use tract_onnx::pb::ModelProto;

/// The system's allocator, which has no more than [`MOST`] for one asker: who asks for more ends this program.
struct Bounded;

/// The largest activation of the kernels, and some more.
const MOST: usize = (1 << 30) + (1 << 20);

// SAFETY: every call goes to the system's allocator as it came, or gets the null that says there is no memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// Numbers that look random, the same for a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }
}

/// Returns every file of the conformance suite with its name, in order.
fn files() -> Vec<(String, Vec<u8>)> {
    static SILENCE: Once = Once::new();
    // What the engine throws is caught and becomes an error.
    SILENCE.call_once(|| {
        let own = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_some_and(|l| l.file().ends_with("hostile.rs")) {
                own(info);
            }
        }));
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Loads and runs, and returns the answer if there is one, and whether the kernels gave it.
fn answer(bytes: &[u8], choice: EngineChoice) -> Option<(Vec<Vec<f32>>, bool)> {
    let network = Network::from_onnx(bytes, choice).ok()?;
    let len: usize = network.input().iter().product();
    let pixels: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
    let numbers: Vec<f32> = pixels.iter().map(|b| (f32::from(*b) - 120.0) / 61.0).collect();
    let picture = if network.takes_bytes() { Picture::Bytes(&pixels) } else { Picture::Floats(&numbers) };
    Some((network.run(picture).ok()?, network.unrecognised().is_none()))
}

#[test]
fn files_cut_off_and_with_flipped_bits_give_an_error_or_an_answer() {
    let mut chance = Chance(7);
    let mut answered = 0;
    for (_, whole) in files() {
        for _ in 0..CUTS {
            answer(&whole[..chance.below(whole.len())], EngineChoice::Best);
        }
        for _ in 0..FLIPS {
            let mut bytes = whole.clone();
            let at = chance.below(bytes.len());
            bytes[at] ^= 1 << chance.below(8);
            answered += usize::from(answer(&bytes, EngineChoice::Best).is_some());
        }
    }
    assert!(answered > 0, "most bits are those of weights");
}

/// A wrong part often makes another sound graph: what the compiler makes of it has to be what tract makes of it.
#[test]
fn graphs_with_one_other_part_give_an_error_or_the_answer_of_tract() {
    let mut chance = Chance(9);
    let (mut compared, mut refused) = (0, 0);
    for (name, whole) in files() {
        for _ in 0..OTHERS {
            let mut model = ModelProto::decode(&whole[..]).unwrap();
            spoil(&mut model, &mut chance);
            let bytes = model.encode_to_vec();
            match answer(&bytes, EngineChoice::Best) {
                Some((found, true)) => {
                    if let Some((expected, _)) = answer(&bytes, EngineChoice::Tract) {
                        compare(&name, &found, &expected);
                        compared += 1;
                    }
                }
                Some(_) => {}
                None => refused += 1,
            }
        }
    }
    assert!(compared > 1000 && refused > 1000, "{compared} compared, {refused} refused");
}

fn compare(name: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len(), "{name}");
        // Tract rounds ties as it likes.
        if name.starts_with("q_") {
            continue;
        }
        let largest = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        let near = |(f, e): (&f32, &f32)| f.to_bits() == e.to_bits() || (f - e).abs() <= 1e-4 * largest;
        assert!(found.iter().zip(expected).all(near), "{name}: {found:?} and not {expected:?}");
    }
}

/// Makes one part of a graph another.
fn spoil(model: &mut ModelProto, chance: &mut Chance) {
    let graph = model.graph.as_mut().unwrap();
    let number = NUMBERS[chance.below(NUMBERS.len())];
    let at = chance.below(graph.node.len());
    let nodes = graph.node.len();
    match chance.below(9) {
        0 => {
            let attributes = &mut graph.node[at].attribute;
            if !attributes.is_empty() {
                let at = chance.below(attributes.len());
                let attribute = &mut attributes[at];
                attribute.i = number;
                if let Some(value) = attribute.ints.first_mut() {
                    *value = number;
                }
                attribute.f = number as f32;
            }
        }
        1 => graph.node[at].attribute.iter_mut().for_each(|a| a.ints.truncate(1)),
        2 => {
            let at = chance.below(graph.initializer.len().max(1));
            if let Some(value) = graph.initializer.get_mut(at).and_then(|t| t.dims.first_mut()) {
                *value = number;
            }
        }
        3 => {
            let at = chance.below(graph.initializer.len().max(1));
            if let Some(tensor) = graph.initializer.get_mut(at) {
                tensor.data_type = chance.below(20) as i32;
            }
        }
        4 => {
            let at = chance.below(graph.initializer.len().max(1));
            if let Some(tensor) = graph.initializer.get_mut(at) {
                tensor.dims.push(1);
                tensor.dims.rotate_right(1);
            }
        }
        5 => {
            graph.node[at].input.pop();
        }
        // A value of another shape or kind.
        6 => {
            let other = chance.below(at + 1);
            let name = graph.node[other].input.first().cloned();
            if let (Some(name), Some(input)) = (name, graph.node[at].input.first_mut()) {
                *input = name;
            }
        }
        7 => {
            let operator = graph.node[chance.below(nodes)].op_type.clone();
            graph.node[at].op_type = operator;
        }
        _ => graph.node[at].input.reverse(),
    }
}

/// Where arithmetic goes wrong. No border of thousands of pixels: tract would do what it says.
const NUMBERS: &[i64] = &[-1, 0, 2, 3, 5, 255, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
/// Of each file.
const CUTS: usize = 20;
const FLIPS: usize = 60;
const OTHERS: usize = 40;

thread_local! {
    /// How many panics this thread has had, those that were caught included. The other tests have some on purpose.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn a_packed_model_that_lies_is_refused_or_runs() {
    const FILES: [&str; 8] = [
        "bytes_rescaled",
        "squeeze_and_excite",
        "residual_sums",
        "two_outputs",
        "q_stem",
        "q_depthwise_3",
        "q_hard_swish_of_sums",
        "q_squeeze_and_excite",
    ];
    // Every number that a file may hold is a shape, a place or a kind somewhere; its checksum is put right.
    let own = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.set(PANICS.get() + 1);
        own(info);
    }));
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed");
    let cache = Cache::file(&packed);
    let (mut taken, mut refused) = (0, 0);
    for isa in [Isa::Scalar, Isa::best()] {
        let choice = EngineChoice::Kernels(isa);
        for name in FILES {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx").join(name).with_extension("onnx");
            Network::open_cached(&path, choice, &cache).unwrap();
            let whole = fs::read(&packed).unwrap();
            let len = usize::try_from(u64::from_le_bytes(*whole[24..].first_chunk().unwrap())).unwrap();
            let mut chance = Chance(0x2545_f491_4f6c_dd1d);
            for turn in 0..400 {
                let mut bytes = whole.clone();
                for _ in 0..=turn % 3 {
                    let at = 96 + chance.below(len);
                    bytes[at] = match chance.below(4) {
                        0 => bytes[at] ^ 1 << chance.below(8),
                        1 => bytes[at].wrapping_add(1),
                        2 => bytes[at].wrapping_sub(1),
                        _ => [0, 1, 2, 16, 127, 128, 255][chance.below(7)],
                    };
                }
                let sum = crc32fast::hash(&bytes[16..]);
                bytes[12..16].copy_from_slice(&sum.to_le_bytes());
                fs::write(&packed, bytes).unwrap();
                let network = Network::open_cached(&path, choice, &cache.clone().at_most(0)).unwrap();
                match network.loaded() {
                    Loaded::Cache => taken += 1,
                    _ => refused += 1,
                }
                let len: usize = network.input().iter().product();
                let (bytes, floats) = (vec![9; len], vec![0.3; len]);
                let picture = if network.takes_bytes() { Picture::Bytes(&bytes) } else { Picture::Floats(&floats) };
                network.run(picture).unwrap_or_else(|e| panic!("{name}, turn {turn}: {e}"));
            }
            fs::remove_file(&packed).unwrap();
        }
    }
    assert_eq!(PANICS.get(), 0, "what was caught is a panic too");
    assert!(taken > 500 && refused > 500, "{taken} taken, {refused} refused");
}
