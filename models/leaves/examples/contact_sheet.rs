//! Writes a sheet of pictures to look at, one row a class, and says how long one takes.
//!
//! `cargo run --release -p graft-leaves --example contact_sheet -- leaves|pretrain OUT.png [SIZE] [COLUMNS] [SEED]`

use std::{env, error::Error, time::Instant};

use graft_leaves::{LeafClass, PRETRAIN_CLASSES, leaf_picture, pretrain_picture};
use image::{RgbImage, imageops};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [kind, out, rest @ ..] = args.as_slice() else {
        return Err("expected: leaves|pretrain OUT.png [SIZE] [COLUMNS] [SEED]".into());
    };
    let number = |i: usize, default: u32| rest.get(i).map_or(Ok(default), |text| text.parse::<u32>());
    let (size, columns, seed) = (number(0, 128)?, number(1, 10)?, number(2, 0)?);
    let rows = if kind == "leaves" { LeafClass::ALL.len() } else { PRETRAIN_CLASSES.len() };
    let mut sheet = RgbImage::new(columns * (size + 2), u32::try_from(rows)? * (size + 2));
    let start = Instant::now();
    for row in 0..rows {
        for column in 0..columns {
            let seed = u64::from(seed + column);
            let picture = match kind.as_str() {
                "leaves" => leaf_picture(LeafClass::ALL[row], seed, size),
                _ => pretrain_picture(row, seed, size),
            };
            let (x, y) = (column * (size + 2), u32::try_from(row)? * (size + 2));
            imageops::replace(&mut sheet, &picture, x.into(), y.into());
        }
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / (rows as f64 * f64::from(columns));
    println!("{each:.2} ms a picture of {size} px");
    sheet.save(out)?;
    Ok(())
}
