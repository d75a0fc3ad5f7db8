//! Addresses of devices as people write them.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use graft_link::Transport;
use graft_link::transport::read_patiently;
use serialport::{ClearBuffer, SerialPort};

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A serial port.
    Serial {
        /// Such as `/dev/ttyUSB0` or `COM3`.
        path: String,
        /// Bits a second at which a session begins.
        baud: u32,
        /// Bits a second up to which a long transfer may go.
        fastest: u32,
    },
    /// `host:port`.
    Tcp(String),
    /// A socket of this machine.
    Unix(PathBuf),
    /// The folder of a device that is switched off: its mounted card. Not a line: who has the device's code opens it.
    Folder(PathBuf),
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an address such as /dev/ttyUSB0, /dev/ttyUSB0?baud=57600&max=460800, COM3, tcp://host:port, unix:/path or file:DIR, found {0:?}"
)]
pub struct AddressError(String);

const DEFAULT_BAUD: u32 = 115_200;
const SLOWEST_BAUD: u32 = 300;
const DEFAULT_FASTEST: u32 = 3_000_000;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        if let Some(rest) = text.strip_prefix("tcp://") {
            let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
            let port: u16 = port.parse().map_err(|_| wrong())?;
            return if host.is_empty() || port == 0 { Err(wrong()) } else { Ok(Self::Tcp(rest.to_owned())) };
        }
        for (prefix, kind) in [("unix:", Self::Unix as fn(PathBuf) -> Self), ("file:", Self::Folder)] {
            if let Some(path) = text.strip_prefix(prefix) {
                return if path.is_empty() || path.starts_with("//") { Err(wrong()) } else { Ok(kind(path.into())) };
            }
        }
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut baud, mut max) = (None, None);
        for entry in query.split('&').filter(|_| text.contains('?')) {
            let (key, value) = entry.split_once('=').ok_or_else(wrong)?;
            let value: u32 = value.parse().ok().filter(|&v| v >= SLOWEST_BAUD).ok_or_else(wrong)?;
            match key {
                "baud" => baud = Some(value),
                "max" => max = Some(value),
                _ => return Err(wrong()),
            }
        }
        let baud = baud.unwrap_or(DEFAULT_BAUD);
        let fastest = max.unwrap_or(DEFAULT_FASTEST).max(baud);
        let is_com = path.strip_prefix("COM").is_some_and(|n| n.parse::<u16>().is_ok());
        if path.contains("://") || !(is_com || path.contains('/')) {
            return Err(wrong());
        }
        Ok(Self::Serial { path: path.to_owned(), baud, fastest })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial { path, baud, fastest } => {
                f.write_str(path)?;
                let max = Some(*fastest).filter(|&f| f != DEFAULT_FASTEST.max(*baud));
                match (Some(*baud).filter(|&b| b != DEFAULT_BAUD), max) {
                    (None, None) => Ok(()),
                    (Some(baud), None) => write!(f, "?baud={baud}"),
                    (None, Some(max)) => write!(f, "?max={max}"),
                    (Some(baud), Some(max)) => write!(f, "?baud={baud}&max={max}"),
                }
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Folder(path) => write!(f, "file:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// A serial port as a transport.
struct Serial(Box<dyn SerialPort>);

/// A port that takes nothing for so long has nobody at its end.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

impl Transport for Serial {
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

impl Address {
    /// Opens the line.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn open(&self, patience: Duration) -> io::Result<Box<dyn Transport>> {
        match self {
            Self::Serial { path, baud, .. } => {
                // The control lines are left as they are: a pseudo-terminal has none, and on a board they may be a reset.
                let path =
                    std::fs::canonicalize(path).map_or_else(|_| path.clone(), |p| p.to_string_lossy().into_owned());
                Ok(Box::new(Serial(serialport::new(path, *baud).timeout(patience).open()?)))
            }
            Self::Tcp(address) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for to in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&to, patience) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Box::new(stream));
                        }
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            #[cfg(unix)]
            Self::Unix(path) => Ok(Box::new(std::os::unix::net::UnixStream::connect(path)?)),
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Folder(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a folder is no line")),
        }
    }

    /// Returns the bits a second up to which a long transfer may go.
    pub(crate) fn fastest(&self) -> u32 {
        match self {
            Self::Serial { fastest, .. } => *fastest,
            _ => DEFAULT_FASTEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_strangers_are_refused() {
        for text in [
            "/dev/ttyUSB0",
            "/dev/ttyS0?baud=57600",
            "/dev/ttyS0?baud=57600&max=57600",
            "/dev/ttyS0?max=460800",
            "COM3",
            "tcp://pi.local:7878",
            "tcp://[::1]:1",
            "./port",
            "unix:/run/graftd.sock",
            "file:/media/pi/data",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "ttyUSB0",
            "tcp://host",
            "tcp://:1",
            "tcp://h:0",
            "/dev/x?speed=1",
            "/dev/x?baud=1",
            "usb://1",
            "COM",
            "unix:",
            "file://x",
            "/dev/x?",
        ] {
            assert!(text.parse::<Address>().unwrap_err().to_string().contains("tcp://host:port"), "{text}");
        }
    }
}
