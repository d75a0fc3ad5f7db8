//! Runs a network on one made-up picture in graft's kernels or in tract, for counters of instructions.
//!
//! ```text
//! infer FILE graft|tract RUNS
//! ```
//!
//! Prints the engine, then the numbers of the outputs, each on a line of its own. The picture and so the answer are the same
//! however often it runs: subtract the instructions of one run from those of several to be rid of what loads, what only a first
//! run does and what prints. `graft bench` times.

use std::path::Path;
use std::process::ExitCode;

use graft_runtime::{EngineChoice, Network, Raw, RuntimeError};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match &arguments[..] {
        [file, engine, runs] => {
            choice(engine).zip(runs.parse().ok()).map(|(choice, runs)| (Path::new(file), choice, runs))
        }
        _ => None,
    };
    let Some((file, choice, runs)) = parsed else {
        eprintln!("expected FILE, graft or tract, and a number of runs; found {arguments:?}");
        return ExitCode::from(2);
    };
    match infer(file, choice, runs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn choice(engine: &str) -> Option<EngineChoice> {
    match engine {
        "graft" => Some(EngineChoice::Best),
        "tract" => Some(EngineChoice::Tract),
        _ => None,
    }
}

fn infer(file: &Path, choice: EngineChoice, runs: usize) -> Result<(), RuntimeError> {
    let mut network = Network::open(file, choice)?;
    // Counters of instructions are of one thread.
    network.set_threads(1);
    let picture = picture(&network);
    let mut outputs = Vec::new();
    for _ in 0..runs {
        outputs = network.run(picture.view())?;
    }
    println!("{}", network.engine());
    outputs.iter().flatten().for_each(|number| println!("{number}"));
    Ok(())
}

/// Returns a picture of every value, the same on every machine.
fn picture(network: &Network) -> Raw {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let bytes = (0..network.input().iter().product::<usize>()).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    });
    match network.takes_bytes() {
        true => Raw::Bytes(bytes.collect()),
        false => Raw::Floats(bytes.map(|q| f32::from(q) / 127.5 - 1.0).collect()),
    }
}
