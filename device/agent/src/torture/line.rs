//! A flash over a simulated line, with the host and the device that ship at its ends and one fault on one frame.

use std::io::{self, ErrorKind};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use graft_bundle::Bundle;
use graft_link::connection::unexpected;
use graft_link::messages::{Progress, RefusalCode, Request, Response};
use graft_link::simulated::{End, Quality, line};
use graft_link::{Client, Greeting, Host, LinkError, Service, Transport, serve};

use super::bench::Device;

/// What happens to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    /// It and all after it, both ways, are lost: the cable is out.
    Cut,
    /// It is lost.
    Drop,
    /// One bit of it is flipped; the number chooses which.
    Flip(u64),
    /// It comes twice.
    Repeat,
}

/// Which frame: of those that one end writes, the one of this number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Who writes it.
    pub from: Writer,
    /// Its number.
    pub number: u64,
}

/// Who writes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The host.
    Host,
    /// The device.
    Device,
}

/// What a flash came to.
#[derive(Debug)]
pub struct Flashed {
    /// What the host saw.
    pub outcome: Result<(), LinkError>,
    /// Frames that the host and the device wrote.
    pub frames: [u64; 2],
}

/// Bits a second: what it takes is simulated time.
const RATE: u32 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Flashes over a line with a fault. The device goes on afterwards, whatever became of the line.
pub fn flash(device: &mut Device, bundle: &Bundle, nonce: u64, fault: Option<(Frame, LineFault)>) -> Flashed {
    let (host, far) = line(RATE, Quality::CLEAN, Quality::CLEAN);
    let at = |from| fault.filter(|(frame, _)| frame.from == from).map(|(frame, fault)| (frame.number, fault));
    let (mut host_frames, mut device_frames) = (0, 0);
    let host = Disturbed { inner: host, fault: at(Writer::Host), frames: &mut host_frames };
    let far = Disturbed { inner: far, fault: at(Writer::Device), frames: &mut device_frames };
    let outcome = thread::scope(|scope| {
        let host = scope.spawn(move || converse(host, bundle, nonce));
        // It ends when the host leaves.
        let _ = serve(far, &mut Attendant(device), &AtomicBool::new(false));
        host.join().unwrap_or(Err(LinkError::Stopped))
    });
    Flashed { outcome, frames: [host_frames, device_frames] }
}

fn converse(line: Disturbed<'_>, bundle: &Bundle, nonce: u64) -> Result<(), LinkError> {
    let (mut client, _) = Client::connect(line, "torture", nonce, PATIENCE, None)?;
    let head = bundle.head().bytes().to_vec();
    let missing = match client.request(&Request::Begin { head }, |_| ())? {
        Response::Begun { missing, .. } => missing,
        other => return Err(unexpected("Begin", &other)),
    };
    let count = u32::try_from(bundle.manifest().chunks.len()).unwrap_or(u32::MAX);
    let chunk = |index| Request::Chunk { index, stored: bundle.stored_chunk(index as usize).to_vec() };
    client.pipeline(missing.below(count).map(chunk), |_| ())?;
    match client.request(&Request::Finish, |_| ())? {
        Response::Finished { .. } => Ok(()),
        other => Err(unexpected("Finish", &other)),
    }
}

/// A device at the end of a line.
struct Attendant<'a>(&'a mut Device);

impl Service for Attendant<'_> {
    fn greeting(&self) -> Greeting {
        Greeting { device: "tortured".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        match self.0.answer(request, progress) {
            Ok(Ok(response)) => response,
            Ok(Err((code, message))) => Response::Refused { code, message },
            Err(_) => Response::Refused { code: RefusalCode::Malformed, message: "not of bundles".into() },
        }
    }
}

/// An end of which one frame goes wrong.
struct Disturbed<'a> {
    inner: End,
    fault: Option<(u64, LineFault)>,
    frames: &'a mut u64,
}

impl Transport for Disturbed<'_> {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.inner.read(buffer, patience)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = *self.frames;
        *self.frames += 1;
        match self.fault {
            // Its writer notices first; what it does then tells the other.
            Some((at, LineFault::Cut)) if number >= at => Err(ErrorKind::BrokenPipe.into()),
            Some((at, LineFault::Drop)) if number == at => Ok(()),
            Some((at, LineFault::Flip(which))) if number == at => {
                let mut bytes = bytes.to_vec();
                let bit = which.checked_rem(8 * bytes.len() as u64).unwrap_or(0);
                if let Some(byte) = bytes.get_mut(bit as usize / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                self.inner.write_all(&bytes)
            }
            Some((at, LineFault::Repeat)) if number == at => {
                self.inner.write_all(bytes)?;
                self.inner.write_all(bytes)
            }
            _ => self.inner.write_all(bytes),
        }
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }
}
