//! The lines on which hosts connect: serial ports, TCP, and pseudo-terminals.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use graft_link::messages::{Progress, Request, Response};
use graft_link::transport::read_patiently;
use graft_link::{Greeting, Service, Transport, serve};
use serialport::{SerialPort, TTYPort};

use crate::agent::{Agent, log};
use crate::config::Listen;

/// Serves hosts on one line until `stop` is raised; a line that fails is opened again.
pub fn listen(at: &Listen, agent: &Mutex<Agent>, stop: &AtomicBool) {
    let mut told = String::new();
    while !stop.load(Ordering::Relaxed) {
        let outcome = match at {
            Listen::Serial { path, baud } => serial(path, *baud, agent, stop),
            Listen::Tcp(address) => tcp(address, agent, stop),
            Listen::Pty(path) => pty(path, agent, stop),
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
    connected: bool,
}

impl Service for Shared<'_> {
    fn greeting(&self) -> Greeting {
        let agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        Greeting { device: agent.name().to_owned(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress)) -> Response {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).answer(request, progress)
    }

    fn connected(&mut self, is_connected: bool) {
        if self.connected != is_connected {
            self.connected = is_connected;
            self.agent.lock().unwrap_or_else(PoisonError::into_inner).host(is_connected);
        }
    }
}

fn attend(transport: impl Transport, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    serve(transport, &mut Shared { agent, connected: false }, stop)
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
}

/// A port that takes nothing for so long has nobody at its end.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

fn serial(path: &Path, baud: u32, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    let port = serialport::new(path.to_string_lossy(), baud).open_native()?;
    attend(Port(port), agent, stop)
}

fn tcp(address: &str, agent: &Mutex<Agent>, stop: &AtomicBool) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_nodelay(true)?;
                    // The host closing its end is the usual end of a conversation.
                    scope.spawn(move || attend(stream, agent, stop));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(20)),
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
