//! Serves the page with generated leaves, for the tests of `tests/web` and to look at: no model and no camera is needed.
//!
//! `cargo run -p graft-label --example leaves -- DIR` fills DIR where it is empty, and prints a line of JSON with the url.
//! The answers are made up: right in two of three pictures, surer where they are right.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use graft_label::{Answer, Desk, Folder, Hints, Server, gains};
use graft_leaves::{LeafClass, leaf_picture};
use image::RgbImage;
use image::imageops::thumbnail;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("expected a folder as the only argument, found none")?.into();
    if !dir.join("field.csv").exists() {
        fill(&dir)?;
    }
    let folder = Folder::open(&dir)?;
    let answers: Vec<Option<Answer>> = folder.pictures.iter().map(|p| p.seen.as_ref().map(Answer::of_device)).collect();
    let values: Vec<Option<f32>> = folder.pictures.iter().map(|p| p.seen.as_ref().and_then(|s| s.value)).collect();
    let vector = |i: usize| {
        let bytes = folder.path(i).and_then(|path| fs::read(path).ok())?;
        let small = thumbnail(&decode(&bytes).ok()?, 8, 8);
        Some(small.into_raw().iter().map(|&v| f32::from(v) - 128.0).collect())
    };
    let vectors = (0..folder.pictures.len()).map(vector).collect();
    let hints = Hints { gains: gains(&values, &answers), answers, vectors };
    let classes = ["healthy", "rust", "blight", "mildew", "leaf_spot"].map(str::to_owned);
    let desk = Desk::open(folder, &classes, hints)?;
    let server = Server::bind(desk, Box::new(decode), 0)?;
    println!("{}", serde_json::json!({ "url": server.url() }));
    server.run(|| false)?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    image::load_from_memory(bytes).map(|p| p.to_rgb8()).map_err(|e| e.to_string())
}

/// Draws leaves and makes up what a device said of them.
fn fill(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(dir.join("north"))?;
    let mut table =
        "file,device,unix_ms,source,model,answer,probability,second,second_probability,reason,site\n".to_owned();
    let names: Vec<&str> = LeafClass::ALL.iter().map(|c| c.name()).filter(|n| *n != "mosaic").collect();
    for n in 0..PICTURES {
        let class = n % names.len();
        let file = format!("north/IMG_{:04}.jpg", 4100 + 7 * n);
        leaf_picture(LeafClass::ALL[class], n as u64, SIDE).save(dir.join(&file))?;
        let is_right = n % 3 != 0;
        let answer = names[(class + usize::from(!is_right)) % names.len()];
        let second = names[(class + usize::from(is_right)) % names.len()];
        let probability = if is_right { 0.62 + 0.01 * n as f64 } else { 0.38 + 0.004 * n as f64 };
        let rest = f64::min(0.8 * (1.0 - probability), probability - 0.04);
        let reason = if probability < 0.5 { format!("unsure: {answer} or {second}") } else { String::new() };
        let time = 1_795_745_180_000 + 240_000 * n as u64;
        writeln!(
            table,
            "{file},bed-3,{time},camera,leaves-2,{answer},{probability:.3},{second},{rest:.3},{reason},north"
        )?;
    }
    Ok(fs::write(dir.join("field.csv"), table)?)
}

const PICTURES: usize = 30;
/// Side of a picture in pixels.
const SIDE: u32 = 640;
