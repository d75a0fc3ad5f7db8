//! What the link makes of a serial line at 115200 baud: of a noisy one in simulated time, and of a clean one, a pair of
//! pseudo-terminals with a pacer between them, beside ZMODEM on the same.
//!
//! `cargo run --release -p graft-deploy --example line -- noise [FLASHES]`
//! `cargo run --release -p graft-deploy --example line -- pace [BYTES]`

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use graft_bundle::{Bundle, BundleWriter, Head, MODEL_FILE, decode_chunk};
use graft_deploy::{FlashReport, Session};
use graft_link::messages::{Progress, RefusalCode, Request, Response, SelfTest};
use graft_link::simulated::{Quality, line};
use graft_link::{Greeting, Service, Transport, serve};
use serialport::{SerialPort, TTYPort};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const BAUD: u32 = 115_200;
const BYTES_PER_SECOND: f64 = 11_520.0;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = arguments.get(1).map(|n| n.parse::<u32>());
    let outcome = match (arguments.first().map(String::as_str), number) {
        (Some("noise"), None) => noise(100),
        (Some("noise"), Some(Ok(flashes))) => noise(flashes),
        (Some("pace"), None) => pace(200_000),
        (Some("pace"), Some(Ok(bytes))) => pace(bytes),
        _ => Err("expected noise [FLASHES] or pace [BYTES]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A device that unpacks every chunk, checks its digest, and finishes only when all are there.
#[derive(Default)]
struct Twin {
    head: Option<Head>,
    chunks: BTreeMap<u32, Vec<u8>>,
}

impl Service for Twin {
    fn greeting(&self) -> Greeting {
        Greeting { device: "twin".into(), version: "9".into() }
    }

    fn handle(&mut self, request: Request, _progress: &mut dyn FnMut(Progress)) -> Response {
        let refuse = |code, message: &str| Response::Refused { code, message: message.into() };
        match (request, &self.head) {
            (Request::Begin { head }, _) => {
                let Ok(head) = Head::parse(&head) else { return refuse(RefusalCode::Digest, "no head") };
                let count = u32::try_from(head.manifest().chunks.len()).unwrap_or(u32::MAX);
                self.head = Some(head);
                Response::Begun { missing: (0..count).collect(), slot: "A".into() }
            }
            (Request::Chunk { index, stored }, Some(head)) => {
                let entry = head.manifest().chunks.get(index as usize);
                match entry.map(|entry| decode_chunk(index as usize, entry, &stored)) {
                    Some(Ok(bytes)) => {
                        self.chunks.insert(index, bytes);
                        Response::ChunkStored { index }
                    }
                    _ => refuse(RefusalCode::Digest, "a chunk is wrong"),
                }
            }
            (Request::Finish, Some(head)) if head.manifest().chunks.len() == self.chunks.len() => {
                Response::Finished { slot: "A".into(), self_test: SelfTest { passed: true, ..SelfTest::default() } }
            }
            _ => refuse(RefusalCode::State, "not now"),
        }
    }
}

/// A bundle that cannot be compressed, as weights hardly can.
fn bundle(len: u32) -> Outcome<Bundle> {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let model: Vec<u8> = (0..len).map(|_| noise()).collect();
    let mut writer = BundleWriter::new("line", "example");
    writer.add_file(MODEL_FILE, &model, &(0..len as usize / 20_000).map(|i| i * 20_000).collect::<Vec<_>>())?;
    Ok(Bundle::from_bytes(&writer.to_bytes(None)?)?)
}

/// Flashes over a line whose other end a twin serves, at the base rate alone.
fn flash<D: Transport + 'static>(host: Box<dyn Transport>, device: D, bundle: &Bundle) -> Outcome<FlashReport> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let server = thread::spawn(move || drop(serve(device, &mut Twin::default(), &flag)));
    let outcome = Session::over(host, "line".into(), PATIENCE, None).and_then(|mut session| {
        session.set_fastest(BAUD);
        session.flash(bundle, |_| ())
    });
    stop.store(true, Ordering::Relaxed);
    server.join().map_err(|_| "the device's side gave up")?;
    Ok(outcome?)
}

fn noise(flashes: u32) -> Outcome<()> {
    let bundle = bundle(100_000)?;
    let payload = bundle.head().bytes().len() as u64 + bundle.manifest().stored_len();
    println!("| line, both ways | flashes verified | share of 11520 bytes/s | pieces sent again |\n|---|---|---|---|");
    let cases = [
        ("clean", Quality::CLEAN),
        ("bit errors 1e-5", Quality { bit_errors: 1e-5, ..Quality::CLEAN }),
        ("bit errors 1e-4", Quality { bit_errors: 1e-4, ..Quality::CLEAN }),
        ("5 % of frames lost", Quality { lost_writes: 0.05, ..Quality::CLEAN }),
        ("both", Quality { bit_errors: 1e-4, lost_writes: 0.05, ..Quality::CLEAN }),
    ];
    let mut failed = 0;
    for (name, quality) in cases {
        let (mut verified, mut seconds, mut resent) = (0, 0.0, 0);
        for seed in 0..u64::from(flashes) {
            let (host, device) =
                line(BAUD, Quality { seed: 2 * seed, ..quality }, Quality { seed: 2 * seed + 1, ..quality });
            match flash(Box::new(host), device, &bundle) {
                Ok(report) => {
                    verified += 1;
                    seconds += report.transfer_seconds;
                    resent += report.resent;
                }
                Err(e) => eprintln!("{name}, seed {seed}: {e}"),
            }
        }
        failed += flashes - verified;
        let share = f64::from(verified) * payload as f64 / seconds / BYTES_PER_SECOND;
        println!(
            "| {name} | {verified} of {flashes} | {share:.3} | {:.0} a flash |",
            resent as f64 / f64::from(flashes)
        );
    }
    if failed > 0 { Err(format!("{failed} flashes failed").into()) } else { Ok(()) }
}

fn pace(bytes: u32) -> Outcome<()> {
    println!("| protocol | bytes | seconds | share of 11520 bytes/s |\n|---|---|---|---|");
    let tell = |name: &str, bytes: u64, seconds: f64| {
        let share = bytes as f64 / seconds / BYTES_PER_SECOND;
        println!("| {name} | {bytes} | {seconds:.2} | {share:.3} |");
        share
    };
    let bundle = bundle(bytes)?;
    let paced = Paced::new()?;
    let report = flash(Box::new(Port(open(&paced.host)?)), Port(open(&paced.device)?), &bundle)?;
    drop(paced);
    let ours = tell("graft", report.payload_bytes, report.transfer_seconds);
    let folder = std::env::temp_dir().join(format!("graft-line-{}", std::process::id()));
    fs::create_dir_all(folder.join("in"))?;
    let file = folder.join("file");
    let content: Vec<u8> = (0..bundle.manifest().chunks.len()).flat_map(|i| bundle.stored_chunk(i).to_vec()).collect();
    fs::write(&file, &content)?;
    for (name, option) in [("ZMODEM (sz)", "--"), ("ZMODEM, blocks of 8 KB (sz -8)", "--try-8k")] {
        match best_of_three(|| zmodem(&file, &folder.join("in"), option)) {
            Ok(seconds) => {
                if fs::read(folder.join("in/file"))? != content {
                    return Err("ZMODEM brought other bytes".into());
                }
                fs::remove_file(folder.join("in/file"))?;
                let theirs = tell(name, content.len() as u64, seconds);
                println!("| graft / {name} | | | {:.3} |", ours / theirs);
            }
            Err(e) => println!("| {name} | left out: {e} | | |"),
        }
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A greeting that one program throws away costs ZMODEM 30 s: the luckiest of three turns counts.
fn best_of_three(turn: impl Fn() -> Outcome<f64>) -> Outcome<f64> {
    let mut best = turn()?;
    for _ in 0..2 {
        best = best.min(turn()?);
    }
    Ok(best)
}

/// Sends a file with `sz` to `rz` over a line of its own and returns the seconds.
fn zmodem(file: &Path, into: &Path, option: &str) -> Outcome<f64> {
    let paced = Paced::new()?;
    let ends = |path: &str| -> Outcome<(Stdio, Stdio)> {
        let open = || File::options().read(true).write(true).open(path);
        Ok((open()?.into(), open()?.into()))
    };
    let program = |name: &str, options: &[&str], end: &str| -> Outcome<Command> {
        let (input, output) = ends(end)?;
        let mut command = Command::new(name);
        command.args(options).stdin(input).stdout(output).stderr(Stdio::null());
        Ok(command)
    };
    let not_there = |e| format!("it did not start ({e}); install lrzsz");
    let mut sender = program("sz", &["-q", "-b", option], &paced.host)?;
    let mut sender = sender.arg(file).spawn().map_err(not_there)?;
    // A sender that starts later would throw the receiver's greeting away.
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let mut receiver = program("rz", &["-q", "-y", "-b"], &paced.device)?;
    let mut receiver = receiver.current_dir(into).spawn().map_err(not_there)?;
    let received = receiver.wait()?;
    let (sent, seconds) = (sender.wait()?, start.elapsed().as_secs_f64());
    if sent.success() && received.success() { Ok(seconds) } else { Err(format!("{sent}, {received}").into()) }
}

/// Two pseudo-terminals between which bytes go at 11,520 a second each way.
struct Paced {
    host: String,
    device: String,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    // Kept open, and raw, while programs come and go.
    _ends: [TTYPort; 2],
}

impl Paced {
    fn new() -> Outcome<Self> {
        let ((near, host), (far, device)) = (TTYPort::pair()?, TTYPort::pair()?);
        let name = |port: &TTYPort| port.name().ok_or("a pseudo-terminal without a name");
        let (host_name, device_name) = (name(&host)?, name(&device)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (mut from, mut to) in
            [(near.try_clone_native()?, far.try_clone_native()?), (far.try_clone_native()?, near.try_clone_native()?)]
        {
            let flag = Arc::clone(&stop);
            threads.push(thread::spawn(move || drop(forward(&mut from, &mut to, &flag))));
        }
        Ok(Self { host: host_name, device: device_name, stop, threads, _ends: [host, device] })
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// How late the pacer may be and still make up for it.
const LATE: Duration = Duration::from_millis(200);

/// A byte leaves when those before it have left: an idle line saves nothing up.
fn forward(from: &mut TTYPort, to: &mut TTYPort, stop: &AtomicBool) -> Outcome<()> {
    let mut free_at = Instant::now();
    let (mut buffer, mut is_busy) = ([0; 64], false);
    while !stop.load(Ordering::Relaxed) {
        // What waited already leaves when the line is free, however late a busy machine wakes this thread.
        let earliest = if is_busy { Instant::now() - LATE } else { Instant::now() };
        is_busy = false;
        from.set_timeout(Duration::from_millis(20))?;
        let n = graft_link::transport::read_patiently(from, &mut buffer)?;
        if n == 0 {
            continue;
        }
        free_at = free_at.max(earliest) + Duration::from_secs_f64(n as f64 / BYTES_PER_SECOND);
        thread::sleep(free_at.saturating_duration_since(Instant::now()));
        to.set_timeout(Duration::from_secs(10))?;
        to.write_all(buffer.get(..n).unwrap_or_default())?;
        is_busy = from.bytes_to_read()? > 0;
    }
    Ok(())
}

fn open(path: &str) -> Outcome<TTYPort> {
    Ok(serialport::new(path, BAUD).open_native()?)
}

struct Port(TTYPort);

impl Transport for Port {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> std::io::Result<usize> {
        self.0.set_timeout(patience)?;
        graft_link::transport::read_patiently(&mut self.0, buffer)
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.set_timeout(PATIENCE)?;
        Write::write_all(&mut self.0, bytes)
    }
}
