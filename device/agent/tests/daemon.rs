//! The daemon as a process: pictures through it from a folder, a program, a stream and a compressed day, its status, its metrics.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use graft_bundle::{BundleWriter, MODEL_FILE};
use serde_json::Value;

#[path = "../src/tiny.rs"]
mod tiny;

const GRAFTD: &str = env!("CARGO_BIN_EXE_graftd");
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration and a bundle in the factory slot.
fn device(more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("name = \"bed 3\"\nroot = \"root\"\nallow_unsigned = true\n{more}\n");
    fs::write(dir.path().join("graftd.toml"), text).unwrap();
    let labels = ["red", "green", "blue"];
    let mut w = BundleWriter::new("leaves", "test");
    w.labels(&labels.map(str::to_owned));
    w.add_file(MODEL_FILE, &tiny::mean_colour(labels), &[]).unwrap();
    w.add_file("golden/00.png", &tiny::png([9, 1, 2]), &[]).unwrap();
    w.golden("golden/00.png", "red", &[9.0, 1.0, 2.0]).tolerance(0.01);
    fs::write(dir.path().join("leaves.graft"), w.to_bytes(None).unwrap()).unwrap();
    let output = graftd(dir.path(), &["factory", "leaves.graft"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
}

fn graftd(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(GRAFTD);
    command.args(arguments).args(["--config", "graftd.toml"]).current_dir(dir).env_remove("NOTIFY_SOCKET");
    command
}

struct Daemon(Child);

impl Daemon {
    fn start(dir: &Path, input: Stdio) -> Self {
        Self(graftd(dir, &["run"]).stdin(input).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Has it end as systemd does.
    fn stop(mut self) {
        let kill = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(kill.success() && self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks `graftd status` until it tells what is waited for.
fn status(dir: &Path, is_it: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let output = graftd(dir, &["status", "--json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        if output.status.success() && is_it(&found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{found:#}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn classified(count: u64) -> impl Fn(&Value) -> bool {
    move |status| status["frames"]["classified"] == count
}

fn predictions(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("root/store/predictions.jsonl")).unwrap_or_default();
    let source = |line: &str| serde_json::from_str::<Value>(line).unwrap()["source"].as_str().unwrap().to_owned();
    text.lines().map(source).collect()
}

/// Returns a JPEG of one colour.
fn jpeg(rgb: [u8; 3]) -> Vec<u8> {
    let mut bytes = vec![];
    let picture = image::RgbImage::from_pixel(64, 48, image::Rgb(rgb));
    image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
    bytes
}

/// Takes the Huffman tables out of a JPEG, as cameras leave out those of ITU-T T.81 annex K, which are the encoder's here too.
fn bare(mut jpeg: Vec<u8>) -> Vec<u8> {
    while let Some(at) = jpeg.windows(2).position(|w| w == [0xff, 0xc4]) {
        let len = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        jpeg.drain(at..at + 2 + len);
    }
    jpeg
}

#[test]
fn a_watched_folder_s_files_are_classified_once_over_restarts() {
    let dir = device("source = \"watch:in\"");
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join("in").join(name), bytes).unwrap();
    let daemon = Daemon::start(dir.path(), Stdio::null());
    // The folder is made later: the daemon says so and goes on.
    status(dir.path(), |s| s.pointer("/camera/gone").is_some());
    fs::create_dir(dir.path().join("in")).unwrap();
    put("a.jpg", &jpeg([200, 0, 0]));
    status(dir.path(), classified(1));
    let whole = jpeg([0, 200, 0]);
    put("b.jpg", &whole[..whole.len() / 2]);
    put("c.png", &tiny::png([0, 0, 200]));
    let found = status(dir.path(), classified(2));
    assert_eq!((found["last"]["source"].as_str(), found["last"]["label"].as_str()), (Some("c.png"), Some("blue")));
    put("b.jpg", &whole);
    let found = status(dir.path(), classified(3));
    assert_eq!((found["camera"].as_str(), found["last"]["label"].as_str()), (Some("works"), Some("green")));
    daemon.stop();
    assert_eq!(predictions(dir.path()), ["a.jpg", "c.png", "b.jpg"]);
    let daemon = Daemon::start(dir.path(), Stdio::null());
    put("d.jpg", &jpeg([200, 0, 0]));
    let found = status(dir.path(), classified(1));
    assert_eq!((found["frames"]["seen"].as_u64(), found["last"]["source"].as_str()), (Some(1), Some("d.jpg")));
    daemon.stop();
    assert_eq!(predictions(dir.path()), ["a.jpg", "c.png", "b.jpg", "d.jpg"]);
    let output = graftd(dir.path(), &["status", "--json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), found["daemon"].is_null()), (Some(3), true));
    assert!(found["health"]["memory_total_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_program_that_ends_is_started_again() {
    let dir = device("source = \"exec:sleep 0.1; cat stream.mjpeg; echo unplugged >&2; exit 1\"\nwarm_up = 1");
    fs::write(dir.path().join("stream.mjpeg"), [jpeg([9, 0, 0]), jpeg([0, 200, 0])].concat()).unwrap();
    let daemon = Daemon::start(dir.path(), Stdio::null());
    let found = status(dir.path(), |s| s["frames"]["classified"].as_u64() >= Some(2));
    let frames = &found["frames"];
    assert!(frames["source_opened"].as_u64() >= Some(2) && frames["skipped"].as_u64() >= Some(2), "{frames}");
    assert_eq!((found["last"]["label"].as_str(), found["last"]["source"].as_str()), (Some("green"), Some("sleep 2")));
    let found = status(dir.path(), |s| s.pointer("/camera/gone").is_some());
    assert!(found["camera"]["gone"].as_str().unwrap().contains("exit status: 1: unplugged"), "{found}");
    daemon.stop();
}

#[test]
fn a_stream_on_standard_input_is_taken_to_its_end() {
    let dir = device("source = \"stdin\"\nwarm_up = 0\nmetrics = \"graft.prom\"\npictures = \"keep\"");
    let stream = dir.path().join("stream.mjpeg");
    fs::write(&stream, [&jpeg([200, 0, 0])[..], b"\0\0\0", &bare(jpeg([0, 0, 200])), b"\xff\xd8\xff"].concat())
        .unwrap();
    let daemon = Daemon::start(dir.path(), File::open(&stream).unwrap().into());
    let found = status(dir.path(), |s| s["camera"] == "ended" && s["frames"]["waiting"] == 0);
    assert_eq!((found["frames"]["seen"].as_u64(), found["last"]["label"].as_str()), (Some(2), Some("blue")));
    assert_eq!(found["store"]["pictures"]["here"], 2);
    let text = graftd(dir.path(), &["status"]).output().unwrap().stdout;
    assert!(String::from_utf8(text).unwrap().contains("2 classified"));
    let metrics = fs::read_to_string(dir.path().join("graft.prom")).unwrap();
    assert!(
        metrics.contains("graft_info{name=\"bed 3\",") && metrics.contains("# TYPE graft_frames_seen_total counter")
    );
    daemon.stop();
}

/// The short one of `cargo xtask day`.
#[test]
fn a_compressed_hour_accounts_for_every_picture() {
    let dir = device(
        "source = \"replay:in?frames=1500&hours=1\"\npictures = \"unsure\"\nunsure_below = 1\npictures_per_hour = 40\nvote = 2",
    );
    fs::create_dir(dir.path().join("in")).unwrap();
    for (i, rgb) in [[200, 0, 0], [0, 200, 0], [90, 91, 0]].into_iter().enumerate() {
        fs::write(dir.path().join("in").join(format!("{i}.png")), tiny::png(rgb)).unwrap();
    }
    fs::write(dir.path().join("in/9.jpg"), b"no picture").unwrap();
    let daemon = Daemon::start(dir.path(), Stdio::null());
    let found = status(dir.path(), |s| s["camera"] == "ended" && s["frames"]["waiting"] == 0);
    let count = |name: &str| found["frames"][name].as_u64().unwrap();
    assert_eq!((count("seen"), count("skipped"), count("waiting")), (1500, 0, 0), "{found:#}");
    assert_eq!(count("classified") + count("dropped") + count("refused"), 1500, "{found:#}");
    assert!(count("refused") >= 370 && count("dropped") <= 20, "{found:#}");
    let pictures = &found["store"]["pictures"];
    // Forty an hour, and an hour takes as long as it does besides.
    let (kept, here) = (pictures["kept"].as_u64().unwrap(), pictures["here"].as_u64());
    assert!((40..=45).contains(&kept) && here == Some(kept), "{kept} {here:?}");
    daemon.stop();
    assert_eq!(predictions(dir.path()).len() as u64, count("classified"));
}
