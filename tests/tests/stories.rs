//! Whole stories through the programs, as a user lives them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use graft_tests::{graft, graft_json, programs, shared};

/// A graftd on a pseudo-terminal.
struct Device(Child);

impl Device {
    fn start(folder: &Path, key: &str) -> Self {
        let config = folder.join("graftd.toml");
        let text = format!(
            "name = \"bench\"\nroot = \"disk\"\nlisten = [\"pty:port\", \"unix:socket\"]\ntrusted_keys = [\"{key}\"]\ndisplay = \"png:screen.png\"\n"
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(programs().join("graftd"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let since = Instant::now();
        while !["port", "socket"].iter().all(|line| folder.join(line).exists()) {
            assert!(since.elapsed() < Duration::from_secs(30), "graftd made no port");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn from_pictures_to_a_device_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let demo = ["demo", "--out", "demo", "--per-class", "6", "--test-per-class", "6", "--epochs", "1", "--json"];
    let summary = graft_json(at, &demo);
    let (first, second) = (&summary["flash"], &summary["second_flash"]);
    assert_eq!(first["chunks_sent"], first["chunks_total"]);
    assert!(second["chunks_sent"].as_u64().unwrap() * 4 < second["chunks_total"].as_u64().unwrap(), "{second}");
    let leaves = "demo/leaves/train";
    let checked = graft(at, &["data", "check", leaves]);
    assert!(checked.status.success());
    let mut preview = vec!["data", "preview", leaves, "--augment", "field", "--rows", "3", "--columns", "4"];
    preview.extend(["--input", "64", "--json", "--out", "sheet.png"]);
    assert_eq!(graft_json(at, &preview)["rows"].as_array().unwrap().len(), 3);
    let sheet = fs::read(at.join("sheet.png")).unwrap();
    graft_json(at, &preview);
    assert!(sheet.starts_with(b"\x89PNG") && sheet == fs::read(at.join("sheet.png")).unwrap());
    let run = ["train", leaves, "--model", "graft-tiny", "--recipe", "head", "--out", "run", "--json"];
    assert_eq!(graft_json(at, &run)["n"], 36);
    assert_eq!(graft_json(at, &run)["features_cached"], 36, "a second run finds its features");
    let tuned =
        ["train", leaves, "--model", "graft-tiny", "--unfreeze", "1", "--epochs", "2", "--out", "tuned", "--json"];
    assert_eq!(graft_json(at, &tuned)["fine_tuned"]["tuning"]["unfrozen"], 1);
    let chosen = ["train", leaves, "--model", "graft-tiny", "--time", "20s", "--out", "chosen", "--json"];
    let chosen = graft_json(at, &chosen);
    assert_eq!(chosen["recipe"], "head", "6 pictures of a class are few: {chosen}");
    assert!(chosen["why"].as_str().is_some_and(|w| w.contains("6 pictures")), "{chosen}");
    assert!(graft(at, &["export", "run", "--out", "a.onnx"]).status.success());
    let int8 = ["quantize", "run", "--data", leaves, "--numbers", "int8", "--out", "a8.onnx", "--json"];
    let int8 = graft_json(at, &int8);
    assert_eq!((&int8["verdict"]["ship"], &int8["evaluation"]["n"]), (&"int8".into(), &18.into()), "{int8}");
    let told = graft_json(at, &["quantize", "explain", "a8.onnx", "--json"]);
    assert_eq!(told["layers"], int8["layers"]);
    looks_at_sets_and_models(at, leaves);
    learns_from_the_field(at);
    assert!(graft(at, &["key", "new", "--out", "k"]).status.success());
    assert_eq!(graft(at, &["key", "new", "--out", "k"]).status.code(), Some(1), "a key is never overwritten");
    assert!(graft(at, &["key", "new", "--out", "foreign"]).status.success());
    for (model, key, out) in
        [("a.onnx", "k", "a.graft"), ("a8.onnx", "k", "a8.graft"), ("a.onnx", "foreign", "f.graft")]
    {
        let pack = ["pack", model, "--key", key, "--golden", leaves, "--out", out];
        let output = graft(at, &pack);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let first = graft_json(at, &["evaluate", "a.onnx", "--data", leaves, "--json"]);
    let bundled = graft_json(at, &["evaluate", "a.graft", "--data", leaves, "--json"]);
    assert_eq!((&first["n"], &first["top1"]), (&bundled["n"], &bundled["top1"]));
    assert!(graft_json(at, &["verify", "a8.graft", "--trust", "k.pub", "--json"])["golden"].as_u64().unwrap() > 0);
    assert_eq!(graft(at, &["verify", "f.graft", "--trust", "k.pub"]).status.code(), Some(4));

    let public = fs::read_to_string(at.join("k.pub")).unwrap();
    let device = Device::start(at, public.trim());
    let port = at.join("port");
    let port = port.to_str().unwrap();
    let report = graft_json(at, &["flash", "a8.graft", "--device", port, "--json"]);
    assert_eq!((&report["slot"], &report["chunks_sent"]), (&"A".into(), &report["chunks_total"]));
    let slots = || graft_json(at, &["slot", "list", "--device", port, "--json"]);
    let before = slots();
    assert_eq!((&before[0]["state"], &before[0]["current"]), (&"committed".into(), &true.into()));

    // A key that the device does not trust; a flipped bit; a byte cut off: refused by name, the slot untouched.
    assert_eq!(graft(at, &["flash", "f.graft", "--device", port]).status.code(), Some(4));
    let good = fs::read(at.join("a.graft")).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for (name, bytes, word) in [("x.graft", &flipped[..], "digest"), ("y.graft", &good[..good.len() - 1], "cut off")] {
        fs::write(at.join(name), bytes).unwrap();
        let output = graft(at, &["flash", name, "--device", port]);
        assert_eq!(output.status.code(), Some(4), "{name}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(word), "{name}: {message}");
    }
    refuses_what_it_cannot_meet(at, port);
    measures_what_it_does_not_keep(at, port);
    assert_eq!(slots(), before);

    // What it has it may be asked for.
    let met = ["--needs-agent", "0.1", "--needs-memory", "1", "--needs-free", "1", "--out", "a.graft", "--json"];
    graft_json(at, &[&["pack", "a.onnx", "--key", "k", "--golden", leaves], &met[..]].concat());
    let report = graft_json(at, &["flash", "a.graft", "--device", port, "--json"]);
    assert_eq!(report["slot"], "B");
    assert!(graft(at, &["slot", "rollback", "--device", port]).status.success());
    assert_eq!(slots()[0]["current"], true);
    let seen = graft(at, &["monitor", "--device", port, "--once", "--screen", "seen.png"]);
    assert!(seen.status.success() && at.join("seen.png").exists());
    let info = graft_json(at, &["device", "info", "--device", port, "--json"]);
    assert!(graft(at, &["device", "rename", "field 7", "--device", port]).status.success());
    let stranger = fs::read_to_string(at.join("k.pub")).unwrap();
    let expect = |key: &str| graft(at, &["slot", "list", "--device", port, "--expect", key]).status.code();
    assert_eq!((expect(info["key"].as_str().unwrap()), expect(stranger.trim())), (Some(0), Some(4)));
    assert!(graft_json(at, &["slot", "log", "--device", port, "--json"])[0]["text"].as_str().unwrap().contains("slot"));
    drop(device);
    // What is in the folder of the device that is off is told by its own code.
    let card = graft_json(at, &["device", "info", "--device", "file:.", "--json"]);
    assert_eq!((&card["name"], &card["key"]), (&"field 7".into(), &info["key"]));

    let picture = fs::read_dir(at.join(leaves).join("rust")).unwrap().next().unwrap().unwrap().path();
    let once = Command::new(programs().join("graftd"))
        .arg("once")
        .arg(&picture)
        .args(["--json", "--config"])
        .arg(at.join("graftd.toml"))
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&once.stdout).unwrap();
    let host = graft_json(at, &["predict", "a8.onnx", picture.to_str().unwrap(), "--json"]);
    assert_eq!(answer["label"], host[0]["label"], "device and host agree");
    assert_eq!(graft(at, &["slot", "list", "--device", port, "--timeout", "0.5"]).status.code(), Some(3));

    // The device tells the same of a bundle as the host of its model.
    let bench = Command::new(programs().join("graftd"))
        .arg("bench")
        .arg(at.join("a8.graft"))
        .args(["--seconds", "0.01", "--explain", "--json"])
        .output()
        .unwrap();
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    let device: serde_json::Value = serde_json::from_slice(&bench.stdout).unwrap();
    let host = graft_json(at, &["bench", "a8.onnx", "--seconds", "0.01", "--explain", "--json"]);
    let fields = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((fields(&device), &device["engine"]), (fields(&host), &host["engine"]));
    let steps = |v: &serde_json::Value| v["steps"].as_array().unwrap().iter().map(|s| s["kernel"].clone()).collect();
    let (device, host): (Vec<_>, Vec<_>) = (steps(&device), steps(&host));
    assert_eq!(device, host);
}

/// A picture that is in both sets is a leak by name and by exit code; the report has the figures of the evaluation.
fn looks_at_sets_and_models(at: &Path, leaves: &str) {
    let sets = ["data", "check", leaves, "demo/leaves/test"];
    let sound = graft_json(at, &[&sets[..], &["--strict", "--json"]].concat());
    assert_eq!((&sound["n"], sound["copies"].as_array().unwrap().len()), (&72.into(), 0), "{sound}");
    let picture = fs::read_dir(at.join(leaves).join("rust")).unwrap().next().unwrap().unwrap().path();
    let copy = at.join("demo/leaves/test/rust/copy.jpg");
    fs::copy(&picture, &copy).unwrap();
    let leak = graft_json(at, &[&sets[..], &["--json", "--sheet", "copies.png"]].concat());
    assert!(leak["copies"][0]["is_leak"] == true && leak["copies"][0]["is_exact"] == true, "{leak}");
    assert!(fs::read(at.join("copies.png")).unwrap().starts_with(b"\x89PNG"));
    let strict = graft(at, &[&sets[..], &["--strict"]].concat());
    let message = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert!(strict.status.code() == Some(1) && message.contains("lie in several parts"), "{message}");
    fs::remove_file(copy).unwrap();

    let report = ["report", "a8.onnx", "--data", "demo/leaves/test", "--worst", "2", "--json", "--out", "report.html"];
    let (report, page) = (graft_json(at, &report), fs::read_to_string(at.join("report.html")).unwrap());
    let evaluated = graft_json(at, &["evaluate", "a8.onnx", "--data", "demo/leaves/test", "--json"]);
    let classes = &report["told"]["classes"];
    assert_eq!((&classes["top1"]["share"], &classes["confusion"]), (&evaluated["top1"], &evaluated["confusion"]));
    assert_eq!(report["quantization"]["shipped"], "int8");
    assert!(page.contains(&format!("<data value=\"{}\" data-key=\"top1\">", classes["top1"]["share"])));
}

/// A head that learns from more pictures is a run like any other; those that it was not shown are its test and calibration.
fn learns_from_the_field(at: &Path) {
    let retrain = ["retrain", "run", "--add", "demo/leaves/test", "--out", "later", "--json"];
    let told = graft_json(at, &retrain);
    let n = |key: &str| told[key].as_u64().unwrap_or(0);
    let held_out = told["held_out"]["pictures"].as_u64().unwrap();
    assert_eq!((n("old"), n("field") + held_out), (36, 36), "{told}");
    assert!(n("cached") >= 36, "old features are in the cache: {told}");
    assert!(held_out >= 6 && told["held_out"]["doubts"][0].as_str().unwrap().contains("--test"), "{told}");
    let evaluated = graft_json(at, &["evaluate", "later", "--data", "later/held-out.csv", "--json"]);
    assert_eq!((&evaluated["n"], &evaluated["top1"]), (&held_out.into(), &told["compared"]["new"]["score"]));
    // A further one brings along what was learnt, and has nothing new to hold out.
    let again = graft(at, &["retrain", "later", "--add", "demo/leaves/test", "--held-out", "0", "--out", "last"]);
    assert!(again.status.success() && String::from_utf8_lossy(&again.stderr).contains("held out"));
    let gone = graft(at, &["retrain", "run", "--data", "nowhere", "--add", "demo/leaves/test", "--out", "never"]);
    let message = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(gone.status.code() == Some(1) && message.contains("--data") && !at.join("never").exists(), "{message}");
}

/// Packs bundles that ask for more than any device has, and flashes them: refused by name, before a byte is written.
fn refuses_what_it_cannot_meet(at: &Path, port: &str) {
    let cases = [
        ("--needs-agent", "99.0", "expected graftd 99.0 or newer"),
        ("--needs-board", "Unheard", "expected a board named Unheard"),
        ("--needs-memory", "100000000", "expected 100000000 MB of memory"),
        ("--needs-free", "100000000", "expected 100000000000000 bytes to be left"),
    ];
    let pack = |needs: &[&str]| {
        let pack = ["pack", "a.onnx", "--key", "k", "--golden", "demo/leaves/train", "--out", "n.graft"];
        let output = graft(at, &[&pack, needs].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let before = written(&at.join("disk"));
    for (option, value, word) in cases {
        assert_eq!(pack(&[option, value]).0, Some(0), "{option}");
        let output = graft(at, &["flash", "n.graft", "--device", port]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{option}: {message}");
        assert!(message.contains(word), "{option}: {message}");
        assert!(written(&at.join("disk")) == before, "{option}: the device has written something");
    }
    let (code, message) = pack(&["--needs-agent", "soon"]);
    assert!(code == Some(4) && message.contains("expected a version such as"), "{message}");
}

/// Quantizes by the milliseconds of the device, over both of its lines; nothing is written there.
fn measures_what_it_does_not_keep(at: &Path, port: &str) {
    let before = written(&at.join("disk"));
    let socket = format!("unix:{}", at.join("socket").display());
    let quantize = ["quantize", "run", "--data", "demo/leaves/train", "--numbers", "int8", "--out", "d8.onnx"];
    for line in [port, &socket] {
        let found = graft_json(at, &[&quantize[..], &["--device", line, "--key", "k", "--json"]].concat());
        assert_eq!(found["device"], "bench");
        let e = &found["evaluation"];
        for measured in [&e["float"], &e["candidates"][0]["measured"]] {
            let device = &measured["device"];
            let ms = |key: &str| device[key].as_f64().unwrap();
            assert!(ms("ms") > 0.0 && ms("ms") <= ms("latency_ms") && ms("load_ms") > 0.0, "{device}");
            // It is the same machine, so it has the same engine and the same answers.
            assert_eq!((&device["memory"], &device["max_abs_diff"]), (&measured["memory"], &0.0.into()), "{measured}");
            assert!(device["engine"].as_str().unwrap().contains("kernels"), "{device}");
        }
        assert!(found["verdict"]["why"].as_str().unwrap().contains("of float's time on the board"), "{found}");
        assert!(written(&at.join("disk")) == before, "the device has written something");
    }
    let told = graft(at, &["quantize", "explain", "d8.onnx"]);
    assert!(
        String::from_utf8_lossy(&told.stdout).lines().any(|l| l.starts_with("board ") && l.contains(", float ")),
        "{told:?}"
    );
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--device", &socket, "--key", "foreign"], 4, "trusted_keys"),
        (&["--device", "unix:nowhere", "--key", "k"], 3, "cannot reach a device"),
        (&["--device", "file:.", "--key", "k"], 1, "a device that runs"),
        (&["--device", &socket], 2, "--key"),
        (&["--host-key", "k"], 1, "expected --device"),
    ];
    for (more, code, word) in cases {
        let output = graft(at, &[&quantize[..], more].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && message.contains(word), "{more:?}: {message}");
    }
    assert!(written(&at.join("disk")) == before, "the device has written something");
}

/// Returns the files of a device's folder but its screen, which it paints at any time, and the socket that tells its status.
fn written(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            files.extend(written(&path));
        } else if entry.file_type().unwrap().is_file() && !entry.file_name().to_string_lossy().starts_with("screen.png")
        {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn mistakes_are_named_with_their_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    fs::write(at.join("x.onnx"), b"no model").unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["train"], 2, "required"),
        (&["train", "nowhere", "--model", "graft-tiny", "--out", "r"], 1, "nowhere"),
        (&["train", ".", "--model", "vgg", "--out", "r"], 1, "vgg"),
        (
            &["train", ".", "--model", "graft-tiny", "--device", "cuda", "--unfreeze", "1", "--out", "r"],
            1,
            "--device cpu",
        ),
        (&["evaluate", "x.onnx", "--data", "."], 1, "ONNX"),
        (&["verify", "x.onnx"], 4, "GRAFTBND"),
        (&["flash", "x.onnx", "--device", "nonsense"], 2, "tcp://host:port"),
        (&["slot", "list", "--device", "/dev/graft-none"], 3, "/dev/graft-none"),
    ];
    for (arguments, code, word) in cases {
        let output = graft(at, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
}

/// scikit-learn on PyTorch features of the same weights and the same middle of each picture reaches 77.7 %: at most one point (three pictures) below it.
#[test]
fn real_leaves_are_classified_as_well_as_by_the_reference() {
    let Some(shared) = shared("real_leaves_are_classified_as_well_as_by_the_reference") else { return };
    let (data, weights) = (shared.join("data/plantvillage15"), shared.join("weights/mobilenet_v2_1.0_224.safetensors"));
    if !data.is_dir() || !weights.is_file() {
        return eprintln!("real leaves: skipped, {} or {} is not there", data.display(), weights.display());
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let (train, test) = (data.join("train"), data.join("test"));
    let weights = weights.to_str().unwrap();
    graft_json(
        at,
        &[
            "train",
            train.to_str().unwrap(),
            "--recipe",
            "head",
            "--model",
            "mobilenet_v2",
            "--weights",
            weights,
            "--crop",
            "0.875",
            "--out",
            "run",
            "--json",
        ],
    );
    let found = graft_json(at, &["evaluate", "run", "--data", test.to_str().unwrap(), "--json"]);
    assert_eq!(found["n"], 300);
    assert!(found["top1"].as_f64().unwrap() >= 0.766, "{}", found["top1"]);
}
