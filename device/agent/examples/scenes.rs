//! How often the vote over several pictures tells whether they are of one plant: `scenes FOLDER...` takes photographs, of which
//! no two are of the same, and moves each a little, as a camera that is held does.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use graft_agent::vote::{SAME, Scene};
use graft_link::Random;
use image::RgbImage;
use image::imageops::{crop_imm, thumbnail};

/// Photographs of a folder that are looked at.
const MOST: usize = 400;

fn main() -> Result<()> {
    let mut pictures = vec![];
    for folder in env::args_os().skip(1) {
        let mut files = vec![];
        list(Path::new(&folder), &mut files)?;
        files.sort();
        let step = files.len().div_ceil(MOST).max(1);
        for file in files.iter().step_by(step) {
            let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            pictures.push(graft_runtime::picture::decode(&bytes)?);
        }
    }
    ensure!(pictures.len() > 1, "expected folders with photographs, found {} of them", pictures.len());
    let mut random = Random::new(1, 1);
    let scenes: Vec<Scene> = pictures.iter().map(Scene::of).collect();
    let pairs = scenes.windows(2).map(|w| w[0].likeness(&w[1]));
    let apart = pairs.filter(|&l| l < SAME).count();
    println!("{} photographs; the next one counts as another plant: {apart} of {}", scenes.len(), scenes.len() - 1);
    for percent in [2, 5, 10, 20] {
        let moved = pictures.iter().map(|p| Scene::of(&moved(p, percent, &mut random)));
        let same = moved.zip(&scenes).filter(|(m, s)| m.likeness(s) >= SAME).count();
        println!("moved by up to {percent} % and of another brightness: the same plant: {same} of {}", scenes.len());
    }
    Ok(())
}

/// Returns a picture as a camera sees it that has moved, with other light and noise.
fn moved(picture: &RgbImage, percent: u32, random: &mut Random) -> RgbImage {
    let (width, height) = picture.dimensions();
    let mut below = |n: u32| u32::try_from(random.below(u64::from(n.max(1)))).unwrap_or(0);
    let (dx, dy) = (below(width * percent / 100 + 1), below(height * percent / 100 + 1));
    let gain = 70 + below(60);
    let mut small = thumbnail(&*crop_imm(picture, dx, dy, width - dx, height - dy), 104, 104);
    for p in small.pixels_mut() {
        for v in &mut p.0 {
            let noisy = u32::from(*v) * gain / 100 + below(20);
            *v = u8::try_from(noisy).unwrap_or(u8::MAX);
        }
    }
    small
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "jpg" || e == "png") {
            files.push(path);
        }
    }
    Ok(())
}
