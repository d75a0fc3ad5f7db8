//! Writes reports with made-up numbers into a folder, each as a page and as JSON: what the tests in the browser look at.
//!
//! `cargo run -p graft-report --example pages -- DIR`

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use graft_leaves::{LeafClass, leaf_picture};
use graft_report::{
    Bin, Calibration, ClassRow, Classes, Coverage, Estimate, GroupRow, Latency, Layer, Mistake, OnDevice, Picture,
    Point, Quantization, Report, Share, Tag, Told, Value, page,
};
use image::codecs::jpeg::JpegEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).ok_or("expected a folder")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    let hostile: Vec<String> = vec![
        "</title></style></svg><script>document.title='taken'</script>".into(),
        "\"><img src=\"https://example.org/x.png\" onerror=\"document.title='taken'\">".into(),
        "عفن أبيض \u{202e}gpj.exe".into(),
        "ordinary".into(),
    ];
    let many: Vec<String> = (1..=45).map(|i| format!("cultivar {i}, stressed by drought")).collect();
    let long: Vec<String> = LONG.map(str::to_owned).into();
    let pages = [
        ("classes", report("leaves.int8.onnx", Told::Classes(Box::new(classes(&long, 20, 12)?)))),
        ("two", report("rust.onnx", Told::Classes(Box::new(classes(&["healthy".into(), "rust".into()], 40, 2)?)))),
        ("many", report("cultivars.onnx", Told::Classes(Box::new(classes(&many, 9, 6)?)))),
        ("hostile", report(&hostile[0], Told::Classes(Box::new(classes(&hostile, 12, 4)?)))),
        ("tags", report("tags.onnx", tags())),
        ("values", report("yield.onnx", values())),
    ];
    for (name, report) in pages {
        fs::write(dir.join(format!("{name}.html")), page(&report))?;
        fs::write(dir.join(format!("{name}.json")), serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

const LONG: [&str; 15] = [
    "Pepper__bell___Bacterial_spot",
    "Pepper__bell___healthy",
    "Potato___Early_blight",
    "Potato___Late_blight",
    "Potato___healthy",
    "Tomato_Bacterial_spot",
    "Tomato_Early_blight",
    "Tomato_Late_blight",
    "Tomato_Leaf_Mold",
    "Tomato_Septoria_leaf_spot",
    "Tomato_Spider_mites_Two_spotted_spider_mite",
    "Tomato__Target_Spot",
    "Tomato__Tomato_YellowLeaf__Curl_Virus",
    "Tomato__Tomato_mosaic_virus",
    "Tomato_healthy",
];

/// Numbers that look random and are always the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / f64::from(1 << 24)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() * n as f64) as usize
    }
}

fn share(hits: usize, n: usize) -> Share {
    let p = hits as f64 / n.max(1) as f64;
    let half = 1.96 * (p * (1.0 - p) / n.max(1) as f64).sqrt() + 0.02;
    Share { hits, n, share: p, interval: [(p - half).max(0.0), (p + half).min(1.0)] }
}

fn classes(labels: &[String], each: usize, worst: usize) -> Result<Classes, Box<dyn Error>> {
    let (n, mut numbers) = (labels.len(), Numbers(7));
    let mut confusion = vec![vec![0usize; n]; n];
    let mut answers = vec![];
    for (truth, row) in confusion.iter_mut().enumerate() {
        for _ in 0..each {
            let probability = 0.3 + 0.7 * numbers.next().sqrt();
            let is_right = numbers.next() < 0.25 + 0.7 * probability;
            // Mistakes fall among a class's neighbours.
            let answer = if is_right { truth } else { (truth + 1 + numbers.below(2.min(n - 1))) % n };
            row[answer] += 1;
            answers.push((probability, truth == answer));
        }
    }
    let right = answers.iter().filter(|a| a.1).count();
    let row = |(i, label): (usize, &String)| {
        let (hits, said) = (confusion[i][i], confusion.iter().map(|r| r[i]).sum::<usize>().max(1));
        let f1 = 2.0 * hits as f64 / (each + said) as f64;
        ClassRow { label: label.clone(), recall: share(hits, each), precision: hits as f64 / said as f64, f1 }
    };
    let bins = |shift: f64| -> Vec<Bin> {
        (4..15u32)
            .map(|i| {
                let probability = (f64::from(i) + 0.5) / 15.0;
                let n = 6 + 3 * i as usize;
                Bin {
                    probability,
                    right: share(((probability + shift).clamp(0.0, 1.0) * n as f64).round() as usize, n),
                }
            })
            .collect()
    };
    answers.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut wrong, mut points) = (0u32, vec![]);
    for (i, (probability, is_right)) in answers.iter().enumerate() {
        wrong += u32::from(!is_right);
        let (given, all) = ((i + 1) as f64, answers.len() as f64);
        points.push(Point { at_least: *probability, coverage: given / all, risk: f64::from(wrong) / given });
    }
    let area = points.iter().map(|p| p.risk).sum::<f64>() / points.len() as f64;
    let groups = (0..6).map(|i| GroupRow {
        group: format!("north-{i}/2026-11-2{i}"),
        right: share(9 + 2 * i, 22),
        mean_recall: 0.4 + 0.08 * i as f64,
    });
    let mistake = |i: usize| -> Result<Mistake, Box<dyn Error>> {
        let class = LeafClass::ALL[i % LeafClass::ALL.len()];
        let seen = leaf_picture(class, i as u64, 160);
        let mut marked = seen.clone();
        marked.enumerate_pixels_mut().for_each(|(x, y, p)| {
            if (x as i32 - 90).pow(2) + (y as i32 - 70).pow(2) > 1600 {
                p.0 = p.0.map(|v| v / 3)
            }
        });
        let jpeg = |picture: &image::RgbImage| -> Result<Picture, Box<dyn Error>> {
            let mut bytes = vec![];
            picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 85))?;
            Ok(Picture(bytes))
        };
        Ok(Mistake {
            file: format!("{}/IMG_{:04}_of_a_camera_with_long_names.jpg", labels[i % n], 100 + i),
            truth: labels[i % n].clone(),
            answer: labels[(i + 1) % n].clone(),
            probability: 0.99 - 0.02 * i as f64,
            seen: jpeg(&seen)?,
            marked: Some(jpeg(&marked)?),
        })
    };
    Ok(Classes {
        top1: share(right, answers.len()),
        macro_f1: 0.731,
        classes: labels.iter().enumerate().map(row).collect(),
        groups: groups.collect(),
        calibration: Calibration {
            before: bins(-0.13),
            ece_before: 0.1312,
            after: Some(bins(0.01)),
            ece_after: Some(0.0243),
            temperature: Some(1.83),
        },
        coverage: Coverage { area, sure: points.get(points.len() / 2).copied(), points },
        confusion,
        mistakes: (0..worst).map(mistake).collect::<Result<_, _>>()?,
    })
}

fn tags() -> Told {
    let tag = |(i, label): (usize, &str)| Tag {
        label: label.into(),
        recall: share(30 + i, 40),
        precision: share(28 + i, 44),
        f1: 0.71 + 0.03 * i as f64,
    };
    Told::Tags {
        n: 120,
        macro_f1: 0.755,
        tags: ["rust", "miner", "phoma", "cercospora"].into_iter().enumerate().map(tag).collect(),
    }
}

fn values() -> Told {
    let mut numbers = Numbers(3);
    let points = (0..150).map(|_| {
        let truth = 20.0 + 60.0 * numbers.next();
        (truth, 0.8 * truth + 8.0 + 14.0 * (numbers.next() - 0.5))
    });
    let value = Value {
        label: "yield, quintals a hectare".into(),
        mae: Estimate { value: 3.412, interval: [3.01, 3.85] },
        rmse: 4.22,
        r2: Estimate { value: 0.874, interval: [0.84, 0.9] },
        points: points.collect(),
    };
    Told::Values { n: 150, values: vec![value] }
}

fn report(model: &str, told: Told) -> Report {
    let layer = |i: usize| Layer {
        name: format!("blocks.{i}.project"),
        is_float: i == 0,
        snr_db: Some(18.0 + i as f64),
        share: 0.3 / (1 + i) as f64,
    };
    let facts = [
        ("model", "runs/leaves.int8.onnx"),
        ("pictures", "photos/test: 300"),
        ("preprocessing", "shorter side 256 pixels, 224 in the middle"),
        ("written", "2026-11-27 12:00 UTC"),
    ];
    Report {
        model: model.into(),
        data: "photos/test".into(),
        facts: facts.map(|(what, told)| (what.to_owned(), told.to_owned())).into(),
        told,
        quantization: Some(Quantization {
            shipped: "int8 with layers in f32".into(),
            why: "int8 with blocks.0.project in float loses 0.3 points, takes 0.43 of float's time on the board and 0.27 of its bytes".into(),
            method: "mse; repairs: equalize, bias".into(),
            layers: (0..14).map(layer).collect(),
            device: Some(OnDevice {
                ms: 31.4,
                float_ms: 73.1,
                memory: Some(4_400_000),
                engine: "graft-runtime 0.1.0 (kernels for NEON)".into(),
            }),
        }),
        latency: Latency {
            median_ms: 2.84,
            min_ms: 2.71,
            p95_ms: 3.3,
            runs: 350,
            threads: 1,
            engine: "graft 0.1.0, int8 kernels".into(),
            machine: "A processor (x86_64), 2 cores".into(),
        },
        skipped: vec![("rust/broken.jpg".into(), "expected a JPEG or PNG picture, found another file".into())],
    }
}
