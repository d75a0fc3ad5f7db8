//! The lines on which hosts connect: serial ports, TCP, sockets of the board, and pseudo-terminals.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use graft_link::messages::{About, Progress, RefusalCode, Request, Response, Restart};
use graft_link::transport::read_patiently;
use graft_link::{Greeting, Host, Service, Transport, serve};
use serialport::{ClearBuffer, SerialPort, TTYPort};

use crate::agent::{Agent, log};
use crate::config::Listen;
use crate::guard::{Guard, Visit};
use crate::installer::Refusal;
use crate::measuring::{self, Place, Spool};
use crate::turns::Turns;

/// Serves hosts on one line until `stop` is raised; a line that fails is opened again.
pub fn listen(at: &Listen, agent: &Mutex<Agent>, stop: &AtomicBool) {
    let mut told = String::new();
    while !stop.load(Ordering::Relaxed) {
        let outcome = match at {
            Listen::Serial { path, baud } => serial(path, *baud, agent, stop),
            Listen::Tcp(address) => tcp(address, agent, stop),
            Listen::Pty(path) => pty(path, agent, stop),
            Listen::Unix(path) => unix(path, agent, stop),
        };
        if let Err(e) = outcome {
            // A cable that is out for a night should not fill the journal.
            let text = format!("{at}: {e}; trying again");
            if text != told {
                log(&text);
                told = text;
            }
            thread::sleep(RETRY);
        }
    }
}

const RETRY: Duration = Duration::from_secs(1);

/// An agent that many lines share.
struct Shared<'a> {
    agent: &'a Mutex<Agent>,
    guard: Arc<Guard>,
    turns: Arc<Turns>,
    /// What the host of the present session has proved.
    visit: Visit,
    place: Arc<Place>,
    /// What it has brought of a bundle that is to be measured.
    spool: Option<Spool>,
    max_bundle_bytes: u64,
    stop: &'a AtomicBool,
    connected: bool,
}

impl Service for Shared<'_> {
    fn greeting(&self) -> Greeting {
        let _waiting = self.turns.wait();
        let agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        Greeting { device: agent.name().to_owned(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        let request = match self.guard.answer(request, &mut self.visit) {
            Ok(response) => return response,
            Err(Request::Restart { what }) => return self.restart(what),
            Err(Request::Spool { offset, total, bytes }) => {
                let most = || measuring::most(self.max_bundle_bytes);
                let taken = Spool::take(&mut self.spool, &self.place, (offset, total), &bytes, most);
                return taken.map_or_else(refused, |()| Response::Done);
            }
            Err(Request::Measure) => {
                let spool = Spool::whole(&mut self.spool);
                return spool.map_or_else(refused, |s| self.in_turn(progress, |agent, p| agent.measure(s, p)));
            }
            Err(request) => request,
        };
        if matches!(request, Request::Begin { .. }) {
            self.spool = None;
        }
        match self.in_turn(progress, |agent, progress| agent.answer(request, progress)) {
            Response::About(about) => Response::About(About { is_guarded: self.guard.restricts(&self.visit), ..about }),
            other => other,
        }
    }

    fn connected(&mut self, is_connected: bool) {
        (self.visit, self.spool) = (Visit::default(), None);
        if self.connected != is_connected {
            self.connected = is_connected;
            let _waiting = self.turns.wait();
            self.agent.lock().unwrap_or_else(PoisonError::into_inner).host(is_connected);
        }
    }
}

impl Shared<'_> {
    /// Has the agent answer once it has done what another host asked.
    fn in_turn(
        &mut self,
        progress: &mut dyn FnMut(Progress) -> Host,
        answer: impl FnOnce(&mut Agent, &mut dyn FnMut(Progress) -> Host) -> Response,
    ) -> Response {
        let start = Instant::now();
        let waiting = self.turns.wait();
        loop {
            let agent = match self.agent.try_lock() {
                Err(TryLockError::Poisoned(agent)) => Ok(agent.into_inner()),
                other => other,
            };
            match agent {
                Ok(mut agent) => {
                    drop(waiting);
                    return answer(&mut agent, progress);
                }
                Err(_) if start.elapsed() < OTHERS => {
                    progress(Progress { text: "waiting for another host".into(), done: 0, total: 0 });
                    thread::sleep(TURN);
                }
                Err(_) => {
                    let message = format!("another host has kept the device at work for {OTHERS:?}; try again");
                    return Response::Refused { code: RefusalCode::Busy, message };
                }
            }
        }
    }

    /// The answer still goes out: a raised flag ends the lines after it.
    fn restart(&self, what: Restart) -> Response {
        let done = match what {
            Restart::Daemon => Ok(()),
            Restart::Board => reboot(),
            _ => Err("this device does not know what to start anew; update it".into()),
        };
        match done {
            Ok(()) => {
                log("starting anew, as a host asked");
                self.stop.store(true, Ordering::Relaxed);
                Response::Done
            }
            Err(message) => Response::Refused { code: RefusalCode::Unsupported, message },
        }
    }
}

fn refused((code, message): Refusal) -> Response {
    Response::Refused { code, message }
}

fn reboot() -> Result<(), String> {
    let remedy = "let user graft do so (polkit: org.freedesktop.login1.reboot), or use --daemon";
    match Command::new("systemctl").arg("reboot").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "systemctl reboot failed: {}; {remedy}",
            String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect::<String>()
        )),
        Err(e) => Err(format!("systemctl reboot did not start: {e}; {remedy}")),
    }
}

/// How long a host waits for what another one has the device do, such as a self-test.
const OTHERS: Duration = Duration::from_secs(120);
/// How often it looks whether its turn has come.
const TURN: Duration = Duration::from_millis(20);

/// Serves the hosts on a line until `stop` is raised or the line ends.
///
/// # Errors
///
/// The line's.
pub fn attend(transport: impl Transport, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    let mut shared = {
        let device = agent.lock().unwrap_or_else(PoisonError::into_inner);
        Shared {
            agent,
            guard: device.guard(),
            turns: device.turns(),
            visit: Visit::default(),
            place: device.place(),
            spool: None,
            max_bundle_bytes: device.max_bundle_bytes(),
            stop,
            connected: false,
        }
    };
    serve(transport, &mut shared, stop)
}

/// A serial port as a transport.
struct Port(TTYPort);

impl Transport for Port {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.0.set_timeout(patience)?;
        read_patiently(&mut self.0, buffer)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.set_timeout(WRITE_PATIENCE)?;
        io::Write::write_all(&mut self.0, bytes)
    }

    fn rate(&self) -> Option<u32> {
        self.0.baud_rate().ok()
    }

    fn set_rate(&mut self, bits_per_second: u32) -> io::Result<()> {
        io::Write::flush(&mut self.0)?;
        self.0.set_baud_rate(bits_per_second)?;
        Ok(self.0.clear(ClearBuffer::Input)?)
    }
}

/// A port that takes nothing for so long has nobody at its end.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

fn serial(path: &Path, baud: u32, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    let port = serialport::new(path.to_string_lossy(), baud).open_native()?;
    attend(Port(port), agent, stop)
}

/// Hosts on one TCP port or socket at once.
const MAX_HOSTS: usize = 8;

fn tcp(address: &str, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let accept = || {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    attend_all(accept, agent, stop)
}

fn unix(path: &Path, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    // A daemon that was killed leaves its socket; one that runs would answer.
    if UnixStream::connect(path).is_err() && path.symlink_metadata().is_ok_and(|m| m.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    let accept = || {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    };
    let outcome = attend_all(accept, agent, stop);
    let _ = fs::remove_file(path);
    outcome
}

/// Serves every host that comes, each in a thread of its own.
fn attend_all<T: Transport>(
    accept: impl Fn() -> io::Result<T>,
    agent: &Mutex<Agent>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let hosts = &AtomicUsize::new(0);
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match accept() {
                // Each costs memory; one too many is hung up on.
                Ok(_) if hosts.load(Ordering::Relaxed) >= MAX_HOSTS => {}
                Ok(stream) => {
                    hosts.fetch_add(1, Ordering::Relaxed);
                    scope.spawn(move || {
                        // The host closing its end is the usual end of a conversation.
                        let _ = attend(stream, agent, stop);
                        hosts.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(TURN),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    })
}

/// Makes a pseudo-terminal and a link to it at `path`.
fn pty(path: &Path, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    // The far end stays open here too, so that a host that leaves is not the end of the line. It must not be touched
    // further: any lock on it would keep the host out.
    let (master, far) = TTYPort::pair()?;
    let name = far.name().ok_or_else(|| io::Error::other("the pseudo-terminal has no name"))?;
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&name, &fresh)?;
    fs::rename(&fresh, path)?;
    let outcome = attend(Port(master), agent, stop);
    let _ = fs::remove_file(path);
    drop(far);
    outcome
}
