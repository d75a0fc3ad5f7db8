//! Addresses of devices as people write them.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use graft_link::Transport;
use graft_link::transport::read_patiently;
use serialport::SerialPort;

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A serial port.
    Serial {
        /// Such as `/dev/ttyUSB0` or `COM3`.
        path: String,
        /// Bits a second.
        baud: u32,
    },
    /// `host:port`.
    Tcp(String),
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an address such as /dev/ttyUSB0, /dev/ttyUSB0?baud=57600, COM3 or tcp://host:port, found {0:?}")]
pub struct AddressError(String);

const DEFAULT_BAUD: u32 = 115_200;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        if let Some(rest) = text.strip_prefix("tcp://") {
            let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
            let port: u16 = port.parse().map_err(|_| wrong())?;
            return if host.is_empty() || port == 0 { Err(wrong()) } else { Ok(Self::Tcp(rest.to_owned())) };
        }
        let (path, baud) = match text.split_once('?') {
            None => (text, DEFAULT_BAUD),
            Some((path, query)) => {
                let baud = query.strip_prefix("baud=").and_then(|b| b.parse().ok()).filter(|&b| b >= 300);
                (path, baud.ok_or_else(wrong)?)
            }
        };
        let is_com = path.strip_prefix("COM").is_some_and(|n| n.parse::<u16>().is_ok());
        if path.contains("://") || !(is_com || path.contains('/')) {
            return Err(wrong());
        }
        Ok(Self::Serial { path: path.to_owned(), baud })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial { path, baud: DEFAULT_BAUD } => f.write_str(path),
            Self::Serial { path, baud } => write!(f, "{path}?baud={baud}"),
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
}

impl Address {
    /// Opens the line.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn open(&self, patience: Duration) -> io::Result<Box<dyn Transport>> {
        match self {
            Self::Serial { path, baud } => {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_strangers_are_refused() {
        for text in ["/dev/ttyUSB0", "/dev/ttyS0?baud=57600", "COM3", "tcp://pi.local:7878", "tcp://[::1]:1", "./port"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "ttyUSB0", "tcp://host", "tcp://:1", "tcp://h:0", "/dev/x?speed=1", "/dev/x?baud=1", "usb://1", "COM"]
        {
            assert!(text.parse::<Address>().unwrap_err().to_string().contains("tcp://host:port"), "{text}");
        }
    }
}
