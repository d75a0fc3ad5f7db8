//! Damaged files: whatever is wrong, an error comes back or an answer, and no panic, abort or flood of memory.
//!
//! In a program of its own, for its allocator and its silent panics (those of the engine are caught and become errors).

#![expect(unsafe_code, reason = "an allocator is unsafe by its definition")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::Once;

use graft_runtime::{EngineChoice, Network, Picture};
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
    // What is caught inside is reported by an error; what is not fails the test all the same.
    SILENCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Loads and runs; whether it has an answer.
fn answers(bytes: &[u8]) -> bool {
    let Ok(network) = Network::from_onnx(bytes, EngineChoice::Best) else { return false };
    let len = network.input().iter().product();
    let (pixels, numbers) = (vec![100; len], vec![0.5; len]);
    network.run(if network.takes_bytes() { Picture::Bytes(&pixels) } else { Picture::Floats(&numbers) }).is_ok()
}

#[test]
fn files_cut_off_and_with_flipped_bits_give_an_error_or_an_answer() {
    let mut chance = Chance(7);
    let mut answered = 0;
    for (_, whole) in files() {
        for _ in 0..CUTS {
            answers(&whole[..chance.below(whole.len())]);
        }
        for _ in 0..FLIPS {
            let mut bytes = whole.clone();
            let at = chance.below(bytes.len());
            bytes[at] ^= 1 << chance.below(8);
            answered += usize::from(answers(&bytes));
        }
    }
    assert!(answered > 0, "most bits are those of weights");
}

#[test]
fn graphs_with_one_wrong_part_give_an_error_or_an_answer() {
    let mut chance = Chance(9);
    let (mut answered, mut refused) = (0, 0);
    for (_, whole) in files() {
        for _ in 0..WRONGS {
            let mut model = ModelProto::decode(&whole[..]).unwrap();
            spoil(&mut model, &mut chance);
            if answers(&model.encode_to_vec()) {
                answered += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} answers, {refused} errors");
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
const WRONGS: usize = 40;
