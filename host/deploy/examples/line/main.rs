//! What the link makes of a serial line at 115200 baud: of a noisy one in simulated time, and of a clean one, a pair of
//! pseudo-terminals with a pacer between them, beside ZMODEM and mcumgr's SMP on the same.
//!
//! `cargo run --release -p graft-deploy --example line -- noise [FLASHES]`
//! `cargo run --release -p graft-deploy --example line -- pace [BYTES [TURNS [PYTHON]]]`; PYTHON is that of an environment with
//! `scripts/peers/requirements-smp.txt`, and `cargo xtask peers --line` makes one.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use graft_bundle::{Bundle, BundleWriter, Head, MODEL_FILE, decode_chunk};
use graft_deploy::{FlashReport, Session};
use graft_link::messages::{Progress, RefusalCode, Request, Response, SelfTest};
use graft_link::simulated::{Quality, line};
use graft_link::{Greeting, Host, Service, Transport, serve};

mod pace;
mod paced;
mod rivals;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const BAUD: u32 = 115_200;
const BYTES_PER_SECOND: f64 = 11_520.0;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((mode, rest)) if mode == "noise" && rest.len() <= 1 => number(rest, 0, 100).and_then(noise),
        Some((mode, rest)) if mode == "pace" && rest.len() <= 3 => number(rest, 0, 200_000)
            .and_then(|bytes| pace::run(bytes, number(rest, 1, 3)?.max(1), rest.get(2).map(PathBuf::from))),
        _ => Err("expected noise [FLASHES] or pace [BYTES [TURNS [PYTHON]]]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn number(arguments: &[String], at: usize, default: u32) -> Outcome<u32> {
    arguments.get(at).map_or(Ok(default), |text| text.parse().map_err(|e| format!("{text}: {e}").into()))
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

    fn handle(&mut self, request: Request, _progress: &mut dyn FnMut(Progress) -> Host) -> Response {
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
