//! Tests of the command.

use clap::Parser;
use image::{DynamicImage, Rgb};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn parsed(arguments: &[&str]) -> Result<Arguments, clap::Error> {
    Line::try_parse_from(std::iter::once("map").chain(arguments.iter().copied())).map(|l| l.arguments)
}

/// Notes what is told, and ends all after some pictures.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    notes: Vec<String>,
    ended: usize,
    most: Option<usize>,
}

impl Teller for Notes {
    fn progress(&mut self, _: &str, _: usize, _: usize) -> ControlFlow<()> {
        if self.most.is_some_and(|m| self.ended >= m) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(&mut self) {
        self.ended += 1;
    }

    fn line(&mut self, text: &str) {
        self.lines.push(text.to_owned());
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

fn subject<'a>(labels: &'a [String], look: &'a (dyn Fn(&RgbImage) -> Result<Answer, String> + Sync)) -> Subject<'a> {
    Subject { labels, side: 40, sure: Some(0.6), is_one_of_all: true, look }
}

fn red(tile: &RgbImage) -> Result<Answer, String> {
    let red = f32::from(tile.get_pixel(20, 20).0[0]) / 255.0;
    Ok(Answer { probabilities: vec![red, 1.0 - red], is_unfamiliar: false })
}

#[test]
fn pictures_that_cannot_be_read_and_a_stop_leave_the_others_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let picture = RgbImage::from_fn(200, 120, |x, _| Rgb([if x < 80 { 255 } else { 0 }, 9, 9]));
    DynamicImage::from(picture).save(at("field.png")).unwrap();
    std::fs::write(at("notes.txt"), "no picture").unwrap();
    let labels = ["rust", "healthy"].map(str::to_owned);
    let out = at("maps");
    let arguments = parsed(&[&at("notes.txt"), &at("field.png"), "--out", &out, "--class", "rust"]).unwrap();
    let mut notes = Notes::default();
    let outcome = map(&arguments, &subject(&labels, &red), &mut notes).unwrap();
    assert_eq!((outcome.done, outcome.bad, outcome.is_stopped), (1, 1, false));
    assert!(outcome.failure(&arguments).unwrap().contains("found 1 that cannot"));
    assert!(notes.notes[0].contains("notes.txt: expected a JPEG, PNG or TIFF file"), "{:?}", notes.notes);
    assert!(notes.lines[1].contains("1 hot spot: 1 rust"), "{:?}", notes.lines);
    assert_eq!(outcome.summary["above"], 0.6, "the bundle is sure from there on");

    let arguments = parsed(&[&at("field.png"), &at("field.png"), "--out", &out]).unwrap();
    let mut notes = Notes { most: Some(1), ..Notes::default() };
    let outcome = map(&arguments, &subject(&labels, &red), &mut notes).unwrap();
    assert_eq!((outcome.done, outcome.is_stopped), (1, true));
    assert!(outcome.failure(&arguments).unwrap().contains("has the 1 of 2"));
    assert!(notes.notes[0].contains("looking for every class"), "{:?}", notes.notes);
    let list = std::fs::read_to_string(Path::new(&out).join("summary.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["pictures"].as_array().unwrap().len(), 1);
}

#[test]
fn numbers_are_checked_where_they_are_read() {
    let refused = [
        &["a.jpg"][..],
        &["--out", "o"],
        &["a.jpg", "--out", "o", "--gsd", "0"],
        &["a.jpg", "--out", "o", "--gsd", "nan"],
        &["a.jpg", "--out", "o", "--heading", "north"],
        &["a.jpg", "--out", "o", "--tile", "-3"],
    ];
    for arguments in refused {
        assert!(parsed(arguments).is_err(), "{arguments:?}");
    }
    let taken = parsed(&["a.jpg", "--out", "o", "--heading", "-30.5", "--gsd", "0.02"]).unwrap();
    assert_eq!((taken.heading, taken.gsd, taken.overlap), (Some(-30.5), Some(0.02), 0.25));
}
