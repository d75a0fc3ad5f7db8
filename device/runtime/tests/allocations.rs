//! What a run allocates: its outputs and the list of them, nothing in the kernels.
//!
//! In a program of its own, as an allocator is of a whole program.

#![expect(unsafe_code, reason = "an allocator is unsafe by its definition")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use graft_runtime::{EngineChoice, Isa, Network, Picture};

/// The system's allocator, counting.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(old, layout, len) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test here: another's allocations would be counted too.
#[test]
fn a_run_allocates_its_outputs_and_their_list() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let mut kinds = [0; 2];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "onnx") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for isa in Isa::available() {
            let Ok(mut network) = Network::from_onnx(&bytes, EngineChoice::Kernels(isa)) else { continue };
            if network.unrecognised().is_some() {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap();
            kinds[usize::from(name.starts_with("q_"))] += 1;
            let len = network.input().iter().product();
            let (pixels, numbers) = (vec![100; len], vec![0.5; len]);
            let picture = if network.takes_bytes() { Picture::Bytes(&pixels) } else { Picture::Floats(&numbers) };
            for threads in [1, 2] {
                network.set_threads(threads);
                network.run(picture).unwrap();
                let before = COUNT.load(Ordering::Relaxed);
                let outputs = network.run(picture).unwrap();
                let count = COUNT.load(Ordering::Relaxed) - before;
                assert!(count <= outputs.len() + 1, "{name} on {} and {threads} threads: {count}", isa.name());
            }
        }
    }
    assert!(kinds.iter().all(|n| *n > 30), "networks of floats and of integers: {kinds:?}");
}
