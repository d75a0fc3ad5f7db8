//! Screens, some of them as pictures that were looked at: `tests/screens`, made anew with `GRAFT_SCREENS=write`.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::canvas::Canvas;
use embedded_graphics::draw_target::DrawTargetExt;

fn content() -> Content {
    Content {
        label: Some("leaf_spot".into()),
        probability: 0.75,
        thumbnail: Some(RgbImage::from_pixel(40, 30, image::Rgb([200, 10, 20]))),
        slot: "slot A committed".into(),
        model: "leaves".into(),
        link: Link::Connected,
        latency_ms: 23.4,
        ..Content::default()
    }
}

fn colour(content: &Content) -> RgbImage {
    colour_of(320, content)
}

fn colour_of(width: u32, content: &Content) -> RgbImage {
    let mut canvas = Canvas::new(width, 240);
    let Ok(()) = draw_colour(content, &mut canvas);
    canvas.picture().clone()
}

fn mono(content: &Content) -> RgbImage {
    let mut canvas = Canvas::new(128, 64);
    let Ok(()) = draw_mono(content, &mut canvas.color_converted());
    canvas.picture().clone()
}

#[test]
fn the_bar_is_as_long_as_the_probability() {
    for share in [0.0, 0.25, 0.5, 1.0] {
        let shown = colour(&Content { probability: share, ..content() });
        let filled = (10..310).filter(|&x| shown.get_pixel(x, 151).0 == [110, 210, 120]).count();
        assert_eq!(filled, (300.0 * share) as usize, "{share}");
        let shown = mono(&Content { probability: share, ..content() });
        let filled = (2..92).filter(|&x| shown.get_pixel(x, 24).0 == [255; 3]).count();
        assert_eq!(filled, (90.0 * share).round() as usize, "{share}");
    }
}

#[test]
fn the_thumbnail_shows_the_picture() {
    let shown = colour(&content());
    assert_eq!(shown.get_pixel(8, 32).0, [200, 10, 20]);
    assert_eq!(shown.get_pixel(111, 135).0, [200, 10, 20]);
    assert_ne!(shown.get_pixel(113, 80).0, [200, 10, 20]);
}

#[test]
fn doubt_is_shown() {
    let unsure = Content { doubt: Some("unsure: rust or phoma".into()), ..content() };
    assert_ne!(colour(&unsure), colour(&content()));
    assert_ne!(mono(&unsure), mono(&content()));
}

#[test]
fn no_content_breaks_the_layout() {
    let long = "a very_long label that nobody would write ".repeat(5);
    for label in ["", "x", "ä", "日本語", "Supercalifragilistic", &long] {
        for (thumbnail, notice) in [(None, None), (content().thumbnail, Some(Notice::Error(label.to_owned())))] {
            for probability in [f32::NAN, -1.0, 2.0] {
                let c = Content {
                    label: Some(label.into()),
                    probability,
                    thumbnail: thumbnail.clone(),
                    notice: notice.clone(),
                    warning: notice.as_ref().map(|_| label.to_owned()),
                    ..content()
                };
                colour(&c);
                mono(&c);
            }
        }
    }
    let tiny = Content { thumbnail: Some(RgbImage::new(1, 1)), ..content() };
    let Ok(()) = draw_colour(&tiny, &mut Canvas::new(5, 5));
}

#[test]
fn long_texts_are_wrapped_and_cut() {
    assert_eq!(wrap("Corn_(maize)___Northern Leaf Blight", 11, 3), ["Corn", "(maize)", "Northern .."]);
    assert_eq!(wrap("late_blight", 11, 3), ["late blight"]);
    assert_eq!(fit("abcdef", 4), "ab..");
    assert_eq!(ascii("Früh äpfel €"), "Fruh apfel ?");
}

/// Returns the screens that there are, with their names.
fn screens() -> Vec<(&'static str, Content)> {
    let leaf = RgbImage::from_fn(104, 104, |x, y| {
        let (x, y) = (x as i32 - 52, y as i32 - 52);
        let is_leaf = x * x + 2 * y * y < 2000;
        let is_spot = (x - 15) * (x - 15) + y * y < 80;
        image::Rgb(if is_spot {
            [120, 70, 30]
        } else if is_leaf {
            [50, 140, 60]
        } else {
            [200, 200, 190]
        })
    });
    let result = Content { thumbnail: Some(leaf), ..content() };
    let doubt = |text: &str| Content { doubt: Some(text.into()), probability: 0.41, ..result.clone() };
    let notice = |notice| Content { notice: Some(notice), ..result.clone() };
    let camera = "expected \"rpicam-vid -t 0 --codec mjpeg -o -\" to give pictures, found that it ended with exit status: 255: \
                  ERROR: *** no cameras available ***";
    vec![
        ("result", result.clone()),
        ("result-of-5", Content { frames: 5, link: Link::Waiting, ..result.clone() }),
        ("unsure", doubt("unsure: rust or phoma")),
        ("unfamiliar", doubt("unfamiliar")),
        ("ready", Content { slot: "no bundle".into(), model: "bed 3".into(), ..Content::default() }),
        ("no-camera", notice(Notice::NoCamera(camera.into()))),
        (
            "updating",
            Content {
                link: Link::Receiving { done: 43, total: 100 },
                ..notice(Notice::Updating { done: 43, total: 100 })
            },
        ),
        ("error", notice(Notice::Error("the engine gave up: expected finite logits, found NaN for class 3".into()))),
        ("storage-full", Content { warning: Some("storage full".into()), ..result.clone() }),
    ]
}

#[test]
fn screens_are_those_that_were_looked_at() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/screens"));
    for (name, content) in screens() {
        for (size, shown) in
            [("320x240", colour(&content)), ("240x240", colour_of(240, &content)), ("128x64", mono(&content))]
        {
            let path = folder.join(format!("{name}-{size}.png"));
            if std::env::var_os("GRAFT_SCREENS").is_some_and(|v| v == "write") {
                fs::create_dir_all(&folder).unwrap();
                shown.save(&path).unwrap();
            }
            let expected = image::open(&path).unwrap().to_rgb8();
            assert!(shown == expected, "{}: another picture; GRAFT_SCREENS=write makes it anew", path.display());
        }
    }
}
