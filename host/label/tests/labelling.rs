//! Labelling as people do it: over HTTP, several at once, with the power going off; and as an attacker would try it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use graft_label::{Answer, Click, Desk, Folder, Hints, LabelError, Server, Verdict};
use serde_json::{Value, json};

/// Makes a folder of pictures, `0000.png` and so on.
fn folder(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..count {
        picture(&dir.path().join(format!("{i:04}.png")), 8);
    }
    dir
}

fn picture(path: &Path, side: u32) {
    image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, y as u8, 7])).save(path).unwrap();
}

fn desk(dir: &Path) -> Desk {
    let classes = ["rust", "phoma"].map(str::to_owned);
    Desk::open(Folder::open(dir).unwrap(), &classes, Hints::default()).unwrap()
}

/// A server in a thread of its own, stopped when dropped.
struct Running {
    address: SocketAddr,
    token: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let decode = |bytes: &[u8]| image::load_from_memory(bytes).map(|p| p.to_rgb8()).map_err(|e| e.to_string());
        let server = Server::bind(desk(dir), Box::new(decode), 0).unwrap();
        let (address, token) = parts(&server.url());
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(move || flag.load(Ordering::Relaxed)).unwrap());
        Self { address, token, stop, thread: Some(thread) }
    }

    fn own(&self) -> Vec<(String, String)> {
        vec![("Host".into(), self.address.to_string()), ("X-Graft-Token".into(), self.token.clone())]
    }

    fn get(&self, target: &str) -> Answered {
        request(self.address, "GET", target, &self.own(), b"").unwrap()
    }

    fn post(&self, target: &str, body: &Value) -> Answered {
        post(self.address, &self.token, target, body).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || joined.is_some_and(|j| j.is_ok()));
    }
}

fn parts(url: &str) -> (SocketAddr, String) {
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    (address.parse().unwrap(), token.to_owned())
}

#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }
}

fn post(address: SocketAddr, token: &str, target: &str, body: &Value) -> std::io::Result<Answered> {
    let headers = [("Host", &*address.to_string()), ("X-Graft-Token", token), ("Content-Type", "application/json")];
    let headers: Vec<(String, String)> = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    request(address, "POST", target, &headers, body.to_string().as_bytes())
}

/// Sends exactly this: no client library tidies a path that is meant to be untidy.
fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<Answered> {
    let mut stream = TcpStream::connect(address)?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    // A body that is too long may be refused before it is through.
    let _ = stream.write_all(body);
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Answered { status, head, body: all[end + 4..].to_vec() })
}

fn click(who: &str, nonce: &str, picture: usize, seen: i64) -> Click {
    Click { who: who.into(), nonce: nonce.into(), picture: Some(picture), seen }
}

fn label(text: &str) -> Verdict {
    Verdict::Label(text.to_owned())
}

fn manifest(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("labels.csv")).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn two_people_at_once_lose_no_click_and_never_get_the_same_picture() {
    let dir = folder(200);
    let server = Running::start(dir.path());
    let labels = |who: &str, class: &str| -> Vec<u64> {
        let mut done = vec![];
        while let [first, ..] = &server.get(&format!("/api/next?who={who}")).json().as_array().unwrap()[..] {
            let picture = first["picture"].as_u64().unwrap();
            let body = json!({ "who": who, "nonce": format!("{who}-{picture}"), "picture": picture, "label": class });
            assert_eq!(server.post("/api/label", &body).status, 200);
            done.push(picture);
        }
        done
    };
    let (ann, ben) = std::thread::scope(|scope| {
        let ann = scope.spawn(|| labels("ann", "rust"));
        let ben = labels("ben", "phoma");
        (ann.join().unwrap(), ben)
    });
    let all: BTreeSet<u64> = ann.iter().chain(&ben).copied().collect();
    assert_eq!((ann.len() + ben.len(), all.len()), (200, 200), "a picture was handed out twice");
    assert!(!ann.is_empty() && !ben.is_empty());
    let state = server.get("/api/state?who=ann").json()["state"].clone();
    assert_eq!((state["settled"].as_u64(), state["conflicts"].as_array().unwrap().len()), (Some(200), 0));
    drop(server);
    let rows = manifest(dir.path());
    assert_eq!(rows.len(), 201);
    for (who, class) in [(&ann, "rust"), (&ben, "phoma")] {
        assert!(who.iter().all(|i| rows.contains(&format!("{i:04}.png,{class},"))));
    }
}

/// A child of the test below; on its own it does nothing.
#[test]
fn serves_until_it_is_killed() {
    let Some(dir) = std::env::var_os("GRAFT_LABEL_DIR") else { return };
    let server = Server::bind(desk(Path::new(&dir)), Box::new(|_| Err("no decoder".into())), 0).unwrap();
    println!("\nurl {}", server.url());
    server.run(|| false).unwrap();
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_afterwards() {
    let dir = folder(60);
    let mut acknowledged = BTreeSet::new();
    for round in 0..6usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serves_until_it_is_killed", "--nocapture"])
            .env("GRAFT_LABEL_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.map_while(Result::ok).find_map(|l| l.strip_prefix("url ").map(str::to_owned)).unwrap();
        let (address, token) = parts(&url);
        // Clicks go on while the process is killed, so that some die on the way.
        let (acknowledge, acknowledgements) = std::sync::mpsc::channel();
        let clicks = std::thread::spawn(move || {
            for picture in round * 10..round * 10 + 10 {
                let body = json!({ "who": "ann", "nonce": format!("n{picture}"), "picture": picture, "label": "rust" });
                match post(address, &token, "/api/label", &body) {
                    Ok(answer) if answer.status == 200 => acknowledge.send(picture).unwrap(),
                    _ => break,
                }
            }
        });
        acknowledged.extend(acknowledgements.iter().take(1 + round));
        std::thread::sleep(std::time::Duration::from_millis(4 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        clicks.join().unwrap();
        acknowledged.extend(acknowledgements.try_iter());
        let desk = desk(dir.path());
        let rows = manifest(dir.path());
        for picture in &acknowledged {
            assert_eq!(desk.card(*picture, "ann").unwrap().standing, "settled", "{picture} was lost");
            assert!(rows.contains(&format!("{picture:04}.png,rust,")));
        }
    }
    assert!((21..60).contains(&acknowledged.len()), "nothing was under way at a kill: {acknowledged:?}");
    // The page sends again what was not acknowledged; what got through without its answer is not taken twice.
    let mut desk = desk(dir.path());
    for picture in 0..60 {
        desk.label(&click("ann", &format!("n{picture}"), picture, 0), label("rust"), 1).unwrap();
    }
    let overview = desk.overview("ann");
    assert_eq!((overview.settled, overview.people[0].clicks), (60, 60));
}

#[test]
fn nothing_outside_the_folder_is_reached() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.png"), "the secret").unwrap();
    let dir = folder(2);
    let up = format!("../{}/secret.png", outside.path().file_name().unwrap().to_string_lossy());
    let head = "file,device,unix_ms,source,model,answer,probability\n";
    fs::write(dir.path().join("field.csv"), format!("{head}{up},d,1,s,m,rust,0.5\n/etc/passwd,d,1,s,m,rust,0.5\n"))
        .unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path().join("secret.png"), dir.path().join("link.png")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path(), dir.path().join("linked")).unwrap();
    let listed = Folder::open(dir.path()).unwrap();
    let files: Vec<&str> = listed.pictures.iter().map(|p| p.file.as_str()).collect();
    assert_eq!(files, ["0000.png", "0001.png"]);
    assert!(listed.passed_over.iter().any(|p| p.file == up), "{:?}", listed.passed_over);

    let server = Running::start(dir.path());
    assert_eq!(server.get("/picture/0").status, 200);
    for target in [
        format!("/picture/{up}"),
        "/picture/../labels.sqlite".into(),
        "/picture/..%2flabels.sqlite".into(),
        "/picture/%2e%2e/labels.sqlite".into(),
        "/picture/..%5c..%5clabels.sqlite".into(),
        "/picture/0000.png".into(),
        "/picture/0%00".into(),
        "/picture/-1".into(),
        "/picture/2".into(),
        "/picture/18446744073709551616".into(),
        "/picture//etc/passwd".into(),
        "/small/../../../../../../etc/passwd".into(),
        "/labels.sqlite".into(),
        "/labels.csv".into(),
        "//etc/passwd".into(),
        "/..".into(),
        "/api/card/../../labels.csv?who=ann".into(),
    ] {
        let answer = server.get(&target);
        assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
        let body = String::from_utf8_lossy(&answer.body);
        assert!(!body.contains("secret") && !body.contains("SQLite") && !body.contains("root:"), "{target}");
    }
    // A picture that is swapped for a link after it was listed.
    #[cfg(unix)]
    {
        fs::remove_file(dir.path().join("0001.png")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.png"), dir.path().join("0001.png")).unwrap();
        for target in ["/picture/1", "/small/1"] {
            let answer = server.get(target);
            assert_eq!(answer.status, 422);
            assert!(!String::from_utf8_lossy(&answer.body).contains("the secret"));
        }
    }
}

#[test]
fn other_sites_and_other_hosts_are_turned_away() {
    let dir = folder(2);
    let server = Running::start(dir.path());
    let host = server.address.to_string();
    let page =
        request(server.address, "GET", &format!("/?token={}", server.token), &[("Host".into(), host.clone())], b"")
            .unwrap();
    assert_eq!(page.status, 200);
    let cookie = page.head.lines().find_map(|l| l.strip_prefix("set-cookie: ")).unwrap().to_owned();
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    for word in ["default-src 'self'", "frame-ancestors 'none'", "nosniff", "no-referrer", "same-origin"] {
        assert!(page.head.contains(word), "{word} in {}", page.head);
    }
    assert!(!String::from_utf8_lossy(&page.body).contains("<script>"), "inline scripts do not run under this policy");

    let body = json!({ "who": "ann", "nonce": "n", "picture": 0, "label": "rust" }).to_string();
    let origin = format!("http://{host}");
    let kind = "application/json";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);
    let cases: [Case<'_>; 8] = [
        (
            "a foreign origin",
            &[("Host", &host), ("Cookie", &cookie), ("Origin", "http://evil.example"), ("Content-Type", kind)],
            403,
        ),
        ("no origin", &[("Host", &host), ("Cookie", &cookie), ("Content-Type", kind)], 403),
        (
            "another name of this address",
            &[("Host", "evil.example"), ("Cookie", &cookie), ("Origin", &origin), ("Content-Type", kind)],
            421,
        ),
        ("no token", &[("Host", &host), ("Origin", &origin), ("Content-Type", kind)], 401),
        ("a wrong token", &[("Host", &host), ("Origin", &origin), ("X-Graft-Token", "0"), ("Content-Type", kind)], 401),
        ("a form", &[("Host", &host), ("Cookie", &cookie), ("Origin", &origin), ("Content-Type", "text/plain")], 415),
        ("a preflight", &[("Host", &host), ("Origin", "http://evil.example")], 401),
        ("the page", &[("Host", &host), ("Cookie", &cookie), ("Origin", &origin), ("Content-Type", kind)], 200),
    ];
    for (name, headers, status) in cases {
        let headers: Vec<(String, String)> = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let method = if name == "a preflight" { "OPTIONS" } else { "POST" };
        let answer = request(server.address, method, "/api/label", &headers, body.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{name}: {}", String::from_utf8_lossy(&answer.body));
        assert!(!answer.head.contains("access-control-allow"), "{name}");
        let settled = server.get("/api/state?who=ann").json()["state"]["settled"].as_u64();
        assert_eq!(settled, Some(u64::from(status == 200)), "{name}");
    }
    let long = json!({ "who": "ann", "nonce": "m", "picture": 1, "label": "x".repeat(100_000) });
    assert_eq!(server.post("/api/label", &long).status, 413);
    let refused = [
        ("/api/label", json!({ "who": "ann", "nonce": "m", "picture": 9, "label": "rust" }), 404, "found 9"),
        ("/api/label", json!({ "who": "ann", "nonce": "m", "picture": 1, "label": "rot" }), 422, "add it as a class"),
        ("/api/label", json!({ "who": "a\nb", "nonce": "m", "picture": 1, "label": "rust" }), 422, "a name"),
        ("/api/class", json!({ "who": "ann", "name": " " }), 422, "a class"),
        ("/api/undo", json!({ "who": "nobody", "nonce": "k" }), 422, "found none"),
    ];
    for (path, body, status, words) in refused {
        let answer = server.post(path, &body);
        let text = answer.json()["error"].to_string();
        assert_eq!(answer.status, status, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_difference_is_shown_and_settled_by_who_has_seen_it() {
    let dir = folder(3);
    let mut desk = desk(dir.path());
    desk.label(&click("ann", "1", 0, 0), label("rust"), 1).unwrap();
    assert_eq!(manifest(dir.path()), ["file,label,group", "0000.png,rust,"]);
    desk.label(&click("ben", "2", 0, 0), label("phoma"), 2).unwrap();
    assert_eq!(desk.overview("ann").conflicts, [0]);
    assert_eq!(manifest(dir.path()), ["file,label,group"], "what is not settled is not trained on");
    let card = desk.card(0, "cy").unwrap();
    assert_eq!((card.standing, card.votes.len()), ("conflict", 2));
    desk.label(&click("cy", "3", 0, card.seen), label("phoma"), 3).unwrap();
    assert_eq!(manifest(dir.path())[1..], ["0000.png,phoma,"]);
    // Taken back, it is a conflict again, and so on to the beginning: each takes back their own clicks alone.
    let undo = |desk: &mut Desk, who: &str, nonce: &str| {
        desk.undo(&Click { who: who.into(), nonce: nonce.into(), picture: None, seen: 0 }, 4)
    };
    undo(&mut desk, "cy", "4").unwrap();
    assert_eq!(desk.overview("ann").conflicts, [0]);
    undo(&mut desk, "ann", "5").unwrap();
    assert_eq!(manifest(dir.path())[1..], ["0000.png,phoma,"]);
    assert!(matches!(undo(&mut desk, "ann", "6"), Err(LabelError::NothingToUndo(_))));
    undo(&mut desk, "ben", "7").unwrap();
    undo(&mut desk, "ben", "7").unwrap();
    assert_eq!(manifest(dir.path()).len(), 1);
    desk.label(&click("ann", "8", 1, 0), Verdict::Unusable, 5).unwrap();
    let overview = desk.overview("ann");
    assert_eq!((overview.unusable, overview.settled, manifest(dir.path()).len()), (1, 0, 1));
}

#[test]
fn pictures_are_held_for_one_person_and_skipped_ones_come_last() {
    let dir = folder(4);
    let mut desk = desk(dir.path());
    let next = |desk: &mut Desk, who: &str, count, now| -> Vec<usize> {
        desk.next(who, count, now).unwrap().iter().map(|c| c.picture).collect()
    };
    assert_eq!(next(&mut desk, "ann", 3, 0), [0, 1, 2]);
    assert_eq!(next(&mut desk, "ann", 3, 10), [0, 1, 2], "the same ones after a reload");
    assert_eq!(next(&mut desk, "ben", 3, 20), [3]);
    desk.skip(&click("ann", "1", 0, 0), 30).unwrap();
    assert_eq!(next(&mut desk, "ann", 4, 40), [1, 2, 0]);
    desk.label(&click("ann", "2", 1, 0), label("rust"), 50).unwrap();
    desk.label(&click("ann", "3", 2, 0), label("rust"), 60).unwrap();
    assert_eq!(next(&mut desk, "ann", 4, 70), [0]);
    assert_eq!(next(&mut desk, "ben", 4, 80), [3]);
    assert_eq!(next(&mut desk, "ann", 4, 1_000_000), [3, 0], "who has gone holds nothing for ever");
    drop(desk);
    let mut desk = self::desk(dir.path());
    assert_eq!(next(&mut desk, "ann", 4, 0), [3, 0], "a new start goes on");
    assert_eq!(desk.overview("ann").trail, [0, 1, 2]);
}

#[test]
fn neighbours_are_the_labelled_ones_first_and_the_order_is_by_gain() {
    let dir = folder(12);
    let angle = |i: usize| vec![(i as f32 * 0.1).cos(), (i as f32 * 0.1).sin()];
    let answer = |i: usize| Answer { label: "rust".into(), probability: i as f32 / 12.0, second: None, reason: None };
    let hints = Hints {
        answers: (0..12).map(|i| Some(answer(i))).collect(),
        gains: (0..12).map(|i| if i == 7 { 1.0 } else { 0.1 }).collect(),
        vectors: (0..12).map(|i| Some(angle(i))).collect(),
    };
    let mut desk = Desk::open(Folder::open(dir.path()).unwrap(), &["phoma".to_owned()], hints).unwrap();
    assert_eq!(desk.classes(), ["phoma", "rust"], "classes of the answers come after those given");
    assert_eq!(desk.next("ann", 1, 0).unwrap()[0].picture, 7);
    desk.label(&click("ann", "1", 11, 0), label("phoma"), 1).unwrap();
    let card = desk.card(0, "ann").unwrap();
    let found: Vec<usize> = card.neighbours.iter().map(|n| n.picture).collect();
    assert_eq!(found, [11, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(card.neighbours[0].verdict, Some(label("phoma")));
    assert!((card.neighbours[1].similarity - 0.1f32.cos()).abs() < 1e-6);
}

#[test]
fn rows_are_grouped_by_place_and_day() {
    let dir = folder(3);
    let head = "file,device,unix_ms,source,model,answer,probability,site\n";
    let rows = "0000.png,bed-3,1795745180000,s,m,rust,0.5,north\n0001.png,bed-3,951782400000,s,m,rust,0.5,\n";
    fs::write(dir.path().join("field.csv"), format!("{head}{rows}")).unwrap();
    let mut desk = desk(dir.path());
    for i in 0..3 {
        desk.label(&click("ann", &i.to_string(), i, 0), label("rust"), 1).unwrap();
    }
    let expected = ["0000.png,rust,north/2026-11-27", "0001.png,rust,bed-3/2000-02-29", "0002.png,rust,"];
    assert_eq!(manifest(dir.path())[1..], expected);
}

#[test]
fn large_pictures_are_sent_smaller_and_broken_ones_say_why() {
    let dir = folder(1);
    picture(&dir.path().join("large.png"), 3000);
    fs::write(dir.path().join("zbroken.png"), b"\x89PNG\r\n\x1a\nnot much of a picture").unwrap();
    let server = Running::start(dir.path());
    let sides = |target: &str| {
        let answer = server.get(target);
        assert_eq!(answer.status, 200, "{target}");
        image::load_from_memory(&answer.body).unwrap().width()
    };
    assert_eq!((sides("/picture/0"), sides("/picture/1"), sides("/small/1")), (8, 2048, 192));
    let as_is = server.get("/picture/0");
    assert_eq!(as_is.body, fs::read(dir.path().join("0000.png")).unwrap());
    assert!(as_is.head.contains("content-type: image/png"));
    let broken = server.get("/picture/2");
    assert_eq!(broken.status, 422);
    assert!(broken.json()["error"].as_str().unwrap().starts_with("cannot show zbroken.png"));
}

#[test]
fn two_programs_do_not_label_one_folder() {
    let dir = folder(1);
    let first = desk(dir.path());
    let second = Desk::open(Folder::open(dir.path()).unwrap(), &[], Hints::default());
    assert!(matches!(second, Err(LabelError::InUse(_))));
    drop(first);
    desk(dir.path());
}

#[test]
fn a_manifest_that_cannot_be_written_does_not_lose_the_click() {
    let dir = folder(2);
    let mut desk = desk(dir.path());
    fs::remove_file(dir.path().join("labels.csv")).unwrap();
    fs::create_dir_all(dir.path().join("labels.csv/in-the-way")).unwrap();
    desk.label(&click("ann", "1", 0, 0), label("rust"), 1).unwrap();
    let warning = desk.overview("ann").warning.unwrap();
    assert!(warning.contains("labels.csv") && warning.contains("safe in labels.sqlite"), "{warning}");
    fs::remove_dir_all(dir.path().join("labels.csv")).unwrap();
    desk.label(&click("ann", "2", 1, 0), label("rust"), 2).unwrap();
    assert_eq!((desk.overview("ann").warning, manifest(dir.path()).len()), (None, 3));
}
