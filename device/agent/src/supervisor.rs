//! Telling systemd that the daemon is ready and alive.
//!
//! Does nothing where `NOTIFY_SOCKET` is not set, so that the daemon runs the same from a shell.
//!
//! # Source
//!
//! sd_notify(3), systemd.service(5) `WatchdogSec=`.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The line to the supervisor, if there is one.
#[derive(Debug)]
pub struct Supervisor {
    line: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// Takes the socket and the watchdog's time from the environment.
    ///
    /// # Errors
    ///
    /// The socket's name is set and cannot be used.
    pub fn from_env() -> io::Result<Self> {
        let watchdog = env::var("WATCHDOG_USEC").ok();
        Self::new(env::var_os("NOTIFY_SOCKET"), watchdog.as_deref())
    }

    fn new(socket: Option<OsString>, watchdog_usec: Option<&str>) -> io::Result<Self> {
        let line = match socket {
            None => None,
            Some(name) => {
                let address = match name.as_bytes() {
                    [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
                    path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
                };
                Some((UnixDatagram::unbound()?, address))
            }
        };
        let watchdog = watchdog_usec.and_then(|t| t.parse().ok()).filter(|&t| t > 0);
        Ok(Self { line, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// Returns how often [`Supervisor::alive`] is due: half of the watchdog's time, as systemd advises.
    pub fn interval(&self) -> Option<Duration> {
        self.line.as_ref().and(self.watchdog).map(|t| t / 2)
    }

    /// Says that the daemon serves.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// Says that the daemon is alive.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Says that the daemon is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.line {
            // A supervisor that does not listen is its own affair; the device goes on.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn ready_alive_and_stopping_arrive_at_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::new(Some(path.into()), Some("3000000")).unwrap();
        assert_eq!(supervisor.interval(), Some(Duration::from_millis(1500)));
        supervisor.ready("slot A\nWATCHDOG=1");
        assert_eq!(received(&socket), "READY=1\nSTATUS=slot A WATCHDOG=1");
        supervisor.alive();
        assert_eq!(received(&socket), "WATCHDOG=1");
        supervisor.stopping();
        assert_eq!(received(&socket), "STOPPING=1");
    }

    #[test]
    fn a_name_with_an_at_sign_is_an_abstract_one() {
        let name = format!("graft-supervisor-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let supervisor = Supervisor::new(Some(format!("@{name}").into()), None).unwrap();
        supervisor.alive();
        assert_eq!(received(&socket), "WATCHDOG=1");
        assert_eq!(supervisor.interval(), None);
    }

    #[test]
    fn without_a_supervisor_nothing_is_sent_or_due() {
        for usec in [None, Some("1000000"), Some("0"), Some("soon")] {
            let supervisor = Supervisor::new(None, usec).unwrap();
            assert_eq!(supervisor.interval(), None);
            supervisor.alive();
        }
    }
}
