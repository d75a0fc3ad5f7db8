//! Times reading, decoding and varying a picture, for each augmentation, on one thread.
//!
//! ```text
//! views PICTURE [SIDE]
//! ```

use std::time::Instant;

use anyhow::{Context, Result};
use graft_runtime::picture::{decode, preprocess};
use graft_train::augment::{Augmentation, Preset};
use graft_train::rng::Rng;
use graft_zoo::Preprocessing;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("expected PICTURE [SIDE], found nothing")?;
    let side: u32 = arguments.next().map_or(Ok(224), |s| s.parse()).context("SIDE")?;
    let bytes = std::fs::read(&path).with_context(|| format!("reading {path}"))?;
    let p = Preprocessing::centre_crop(side, Preprocessing::UNIT);
    let picture = decode(&bytes)?;
    println!("{path}, {}x{} to {side}: decode {:.2} ms", picture.width(), picture.height(), median(|_| decode(&bytes)));
    println!("{:8} {:.2} ms", "centre", median(|_| preprocess(&picture, &p)));
    for preset in Preset::ALL {
        let augmentation = Augmentation::from(preset);
        let ms = median(|i| augmentation.view(&picture, &p, &mut Rng::new(i)));
        println!("{:8} {ms:.2} ms", preset.name());
    }
    Ok(())
}

/// Returns the median of many calls in milliseconds.
fn median<T>(call: impl Fn(u64) -> T) -> f64 {
    let time = |i| {
        let start = Instant::now();
        std::hint::black_box(call(i));
        start.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..CALLS).map(time).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

const CALLS: u64 = 201;
