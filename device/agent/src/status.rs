//! How the device is, for programs: JSON on a socket of its folder (`graftd status`), and metrics in a file.
//!
//! The socket costs no writes to the disk; who may write to the folder may ask.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::agent::{Agent, log};
use crate::disk::{Disk, Folder};
use crate::feed::{Camera, Counts};
use crate::health::Health;
use crate::pictures::Tally;

/// How the device is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The device's name.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// Since the daemon's start.
    pub uptime_seconds: u64,
    /// The slot that runs.
    pub slot: Option<String>,
    /// Its bundle.
    pub bundle: Option<String>,
    /// Pictures answered since the start, for hosts too.
    pub predictions: u64,
    /// Hosts that are connected.
    pub hosts: u32,
    /// Where pictures come from.
    pub source: Option<String>,
    /// What that is doing.
    pub camera: Camera,
    /// What became of its pictures.
    pub frames: Counts,
    /// What is kept.
    pub store: StoreStatus,
    /// The newest answer.
    pub last: Option<Last>,
    /// How the board is.
    pub health: Health,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// Of predictions and pictures.
    pub bytes: u64,
    /// That they may take.
    pub limit_bytes: u64,
    /// What became of pictures.
    pub pictures: Tally,
    /// Why nothing can be stored.
    pub ails: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Last {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// The picture.
    pub source: String,
    /// The best label.
    pub label: String,
    /// Its probability.
    pub probability: f32,
    /// Why it is not to be relied on.
    pub doubt: Option<String>,
    /// Pictures that it is the mean of.
    pub frames: u32,
    /// Time for preprocessing and network.
    pub latency_ms: f32,
}

/// The socket's name in the device's folder.
pub const SOCKET: &str = "status.sock";
const PATIENCE: Duration = Duration::from_secs(5);
const TURN: Duration = Duration::from_millis(50);
/// No status is longer.
const MOST: u64 = 1 << 20;

/// Tells each that connects, until `stop` is raised.
pub fn tell(root: &Path, agent: &Mutex<Agent>, stop: &AtomicBool) {
    let path = root.join(SOCKET);
    // One daemon has the folder; what is left of another's goes.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).and_then(|l| l.set_nonblocking(true).map(|()| l));
    let listener = match listener {
        Ok(listener) => listener,
        Err(e) => return log(&format!("graftd status will not work: cannot open {}: {e}", path.display())),
    };
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let report = agent.lock().unwrap_or_else(PoisonError::into_inner).report();
                // Who asks and leaves is no concern of ours.
                let _ = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                let _ = serde_json::to_vec(&report).map(|json| stream.write_all(&json));
            }
            Err(_) => thread::sleep(TURN),
        }
    }
    let _ = fs::remove_file(&path);
}

/// Asks the daemon that has a folder; none: no daemon does.
///
/// # Errors
///
/// The system's.
pub fn ask(root: &Path) -> io::Result<Option<serde_json::Value>> {
    let stream = match UnixStream::connect(root.join(SOCKET)) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        other => other?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut json = vec![];
    stream.take(MOST).read_to_end(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

/// Writes metrics for the node_exporter's textfile collector, whole or not at all.
///
/// # Errors
///
/// The system's.
pub fn write_metrics(path: &Path, status: &Status) -> io::Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).ok_or(ErrorKind::InvalidInput)?;
    Disk::new(Folder::open(path.parent().unwrap_or(Path::new(".")))?).write(name, metrics(status).as_bytes())
}

/// Returns metrics in the text format of Prometheus.
///
/// # Source
///
/// prometheus.io, "Exposition formats", text-based, version 0.0.4.
pub fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let Status { frames, store, health, .. } = status;
    let pictures = &store.pictures;
    let flag = |b: bool| if b { 1.0 } else { 0.0 };
    let number = |n: u64| n as f64;
    let escaped = |t: &str| t.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let info = format!(
        "{{name=\"{}\",version=\"{}\",bundle=\"{}\"}}",
        escaped(&status.name),
        escaped(&status.version),
        escaped(status.bundle.as_deref().unwrap_or_default())
    );
    let mut add = |name: &str, kind: &str, help: &str, rows: &[(&str, Option<f64>)]| {
        let rows: Vec<_> = rows.iter().filter_map(|(labels, value)| Some((labels, (*value)?))).collect();
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(text, "# HELP graft_{name} {help}\n# TYPE graft_{name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(text, "graft_{name}{labels} {value}");
        }
    };
    let one = |value: Option<f64>| [("", value)];
    add("info", "gauge", "What runs.", &[(&info, Some(1.0))]);
    add("uptime_seconds", "gauge", "Since the daemon's start.", &one(Some(number(status.uptime_seconds))));
    add("predictions_total", "counter", "Pictures answered.", &one(Some(number(status.predictions))));
    add("frames_seen_total", "counter", "Pictures that the source gave.", &one(Some(number(frames.seen))));
    let fates = [
        ("{fate=\"classified\"}", Some(number(frames.classified))),
        ("{fate=\"dropped\"}", Some(number(frames.dropped))),
        ("{fate=\"refused\"}", Some(number(frames.refused))),
        ("{fate=\"skipped\"}", Some(number(frames.skipped))),
    ];
    add("frames_total", "counter", "What became of the source's pictures.", &fates);
    add("source_opened_total", "counter", "Times that the source was opened.", &one(Some(number(frames.opened))));
    let works = match status.camera {
        Camera::None => None,
        Camera::Works => Some(1.0),
        Camera::Gone(_) | Camera::Ended => Some(0.0),
    };
    add("source_up", "gauge", "Whether the source gives pictures.", &one(works));
    add("store_bytes", "gauge", "Bytes of predictions and pictures.", &one(Some(number(store.bytes))));
    add("store_limit_bytes", "gauge", "Bytes that they may take.", &one(Some(number(store.limit_bytes))));
    add("store_pictures", "gauge", "Pictures kept.", &one(Some(number(pictures.here))));
    add("pictures_kept_total", "counter", "Pictures kept since the start.", &one(Some(number(pictures.kept))));
    add("pictures_evicted_total", "counter", "Kept pictures that gave way.", &one(Some(number(pictures.evicted))));
    add("store_failing", "gauge", "Whether nothing can be stored.", &one(Some(flag(store.ails.is_some()))));
    let latency = status.last.as_ref().map(|l| f64::from(l.latency_ms) / 1000.0);
    add("latency_seconds", "gauge", "Of the newest answer.", &one(latency));
    let last = status.last.as_ref().map(|l| l.unix_ms as f64 / 1000.0);
    add("last_prediction_timestamp_seconds", "gauge", "Of the newest answer.", &one(last));
    let temperature = health.temperature_celsius.map(f64::from);
    add("temperature_celsius", "gauge", "Of the hottest zone.", &one(temperature));
    add("undervoltage", "gauge", "Whether the supply is too weak.", &one(health.is_undervoltage.map(flag)));
    add("throttled", "gauge", "Whether the processor is slowed down.", &one(health.is_throttled.map(flag)));
    add("daemon_resident_bytes", "gauge", "Memory of the daemon.", &one(health.daemon_bytes.map(number)));
    let available = health.memory_available_bytes.map(number);
    add("memory_available_bytes", "gauge", "Memory that is left.", &one(available));
    add("disk_free_bytes", "gauge", "Room on the disk of slots and store.", &one(health.disk_free_bytes.map(number)));
    text
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        serde_json::to_value(self).map_err(|_| std::fmt::Error).and_then(|v| f.write_str(&told(&v)))
    }
}

/// Returns a status for a person.
pub fn told(status: &serde_json::Value) -> String {
    let at = |path: &str| status.pointer(path).filter(|v| !v.is_null());
    let word = |path: &str| at(path).map_or("-".to_owned(), |v| v.as_str().map_or(v.to_string(), str::to_owned));
    let megabytes = |path: &str| {
        at(path).and_then(serde_json::Value::as_f64).map_or("-".to_owned(), |b| format!("{:.1} MB", b / 1e6))
    };
    let mut rows = vec![
        ("device", format!("{}, graftd {}, up {} s", word("/name"), word("/version"), word("/uptime_seconds"))),
        ("bundle", format!("{} in slot {}", word("/bundle"), word("/slot"))),
    ];
    if at("/source").is_some() {
        let gone = at("/camera/gone").map(|_| word("/camera/gone"));
        rows.push(("source", format!("{}: {}", word("/source"), gone.unwrap_or_else(|| word("/camera")))));
        let counts = ["seen", "classified", "skipped", "dropped", "refused", "waiting"];
        let counts = counts.map(|name| format!("{} {name}", word(&format!("/frames/{name}"))));
        rows.push(("pictures", counts.join(", ")));
    }
    if at("/last").is_some() {
        let answer = if at("/last/doubt").is_some() { word("/last/doubt") } else { word("/last/label") };
        let frames = word("/last/frames");
        let of = if frames == "1" { String::new() } else { format!(" of {frames} pictures") };
        rows.push(("last", format!("{answer}, {}{of}, {}", word("/last/probability"), word("/last/source"))));
    }
    let ails = at("/store/ails").map_or(String::new(), |_| format!("; {}", word("/store/ails")));
    let kept = format!("{} pictures, {} gave way", word("/store/pictures/here"), word("/store/pictures/evicted"));
    rows.push(("store", format!("{} of {}, {kept}{ails}", megabytes("/store/bytes"), megabytes("/store/limit_bytes"))));
    let yes = |path: &str, what: &str| at(path).filter(|v| v.as_bool() == Some(true)).map(|_| format!(", {what}"));
    let alarms = yes("/health/is_undervoltage", "supply too weak").unwrap_or_default()
        + &yes("/health/is_throttled", "slowed down").unwrap_or_default();
    let temperature = at("/health/temperature_celsius").map_or(String::new(), |t| format!("{t} C, "));
    rows.push((
        "board",
        format!(
            "{temperature}{} of memory left, daemon {}, {} of disk left{alarms}",
            megabytes("/health/memory_available_bytes"),
            megabytes("/health/daemon_bytes"),
            megabytes("/health/disk_free_bytes")
        ),
    ));
    rows.into_iter().map(|(name, text)| format!("{name:<9}{text}\n")).collect()
}
