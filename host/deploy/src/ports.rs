//! The serial ports of this machine, what answers on them, and why one cannot be opened.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use graft_link::messages::{About, DeviceInfo, SlotState};
use serde::Serialize;
use serialport::SerialPortType;

use crate::trouble::{Trouble, trouble};
use crate::{Address, DeployError, Session};

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// What to give as --device.
    pub address: String,
    /// `usb`, `bluetooth`, `pci` or `unknown`.
    pub kind: &'static str,
    /// What the adapter says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usb: Option<Usb>,
    /// What a probe found; none if it was not probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

/// What a USB adapter says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usb {
    /// Vendor.
    pub vendor_id: u16,
    /// Product.
    pub product_id: u16,
    /// Serial number.
    pub serial: Option<String>,
    /// The vendor in words.
    pub manufacturer: Option<String>,
    /// The product in words.
    pub product: Option<String>,
}

/// What a probe found on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// A device.
    Device(Box<Device>),
    /// The port opens, and nothing answers as a device does.
    Nothing {
        /// In words.
        because: String,
    },
    /// The port does not open.
    Trouble(Trouble),
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its board, or its processor where that has no name.
    pub board: String,
    /// Version of its daemon.
    pub version: String,
    /// Each slot's name, state and bundle; the one that runs has a star.
    pub slots: Vec<String>,
    /// Bytes left for bundles.
    pub free_bytes: u64,
}

/// How long a probe waits for an answer: two attempts to open a session, and a device that returns to its base rate.
pub const PROBE: Duration = Duration::from_millis(2500);

/// Lists the serial ports, USB first.
///
/// # Errors
///
/// The system's.
pub fn ports() -> std::io::Result<Vec<Port>> {
    let mut ports: Vec<Port> = serialport::available_ports()?
        .into_iter()
        .map(|p| {
            let (kind, usb) = match p.port_type {
                SerialPortType::UsbPort(usb) => {
                    let usb = Usb {
                        vendor_id: usb.vid,
                        product_id: usb.pid,
                        serial: usb.serial_number,
                        manufacturer: usb.manufacturer,
                        product: usb.product,
                    };
                    ("usb", Some(usb))
                }
                SerialPortType::BluetoothPort => ("bluetooth", None),
                SerialPortType::PciPort => ("pci", None),
                SerialPortType::Unknown => ("unknown", None),
            };
            Port { address: p.port_name, kind, usb, found: None }
        })
        .collect();
    // Without udev some systems list nothing of what is there.
    if let Ok(entries) = std::fs::read_dir("/dev") {
        for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            let address = format!("/dev/{name}");
            let likely = ["ttyUSB", "ttyACM", "ttyAMA", "ttyTHS", "rfcomm"].iter().any(|front| name.starts_with(front));
            if likely && ports.iter().all(|p| p.address != address) {
                let kind = if name.starts_with("ttyUSB") || name.starts_with("ttyACM") { "usb" } else { "unknown" };
                ports.push(Port { address, kind, usb: None, found: None });
            }
        }
    }
    ports.sort_by(|a, b| (a.kind != "usb", &a.address).cmp(&(b.kind != "usb", &b.address)));
    Ok(ports)
}

/// Asks on all ports at once who is there.
pub fn probe(ports: &mut [Port], patience: Duration, stop: &Arc<AtomicBool>) {
    thread::scope(|scope| {
        for port in ports {
            scope.spawn(|| port.found = Some(look(&port.address, patience, stop)));
        }
    });
}

fn look(address: &str, patience: Duration, stop: &Arc<AtomicBool>) -> Found {
    let nothing = |because: String| Found::Nothing { because };
    let address: Address = match address.parse() {
        Ok(address) => address,
        Err(e) => return nothing(format!("{e}")),
    };
    match Session::connect(&address, patience, Some(Arc::clone(stop))).and_then(|mut s| describe(&mut s)) {
        Ok(device) => Found::Device(Box::new(device)),
        Err(DeployError::Unreachable { address, source }) => Found::Trouble(trouble(&address, &source)),
        Err(DeployError::Link { source: graft_link::LinkError::Line(source), .. })
            if source.kind() != ErrorKind::TimedOut =>
        {
            Found::Trouble(trouble(&address.to_string(), &source))
        }
        Err(DeployError::Link { source, .. }) => nothing(source.to_string()),
        Err(e) => nothing(e.to_string()),
    }
}

fn describe(session: &mut Session) -> Result<Device, DeployError> {
    let DeviceInfo { name, version, arch, free_bytes, .. } = session.info()?;
    // A device of protocol 1 does not know its board.
    let About { board, .. } = session.about().unwrap_or_default();
    let slots = session.slots()?;
    let slots = slots
        .iter()
        .filter(|s| s.state != SlotState::Empty)
        .map(|s| format!("{}{} {}", s.name, if s.current { "*" } else { "" }, s.bundle_name))
        .collect();
    Ok(Device { name, board: if board.is_empty() { arch } else { board }, version, slots, free_bytes })
}

/// Finds the one device that answers on the ports of this machine.
///
/// # Errors
///
/// [`DeployError::NotOne`] says what was found instead.
pub fn discover(stop: &Arc<AtomicBool>) -> Result<Address, DeployError> {
    let mut found = ports().unwrap_or_default();
    probe(&mut found, PROBE, stop);
    let told = choose(&found)?;
    told.parse().map_err(|_| DeployError::NotOne { found: told.clone(), example: told })
}

fn choose(ports: &[Port]) -> Result<String, DeployError> {
    let devices: Vec<&Port> = ports.iter().filter(|p| matches!(p.found, Some(Found::Device(_)))).collect();
    if let [one] = devices[..] {
        return Ok(one.address.clone());
    }
    let tell = |p: &Port| match &p.found {
        Some(Found::Device(d)) => format!("{} at {}", d.name, p.address),
        Some(Found::Trouble(t)) => format!("{} ({}; {})", p.address, t.what, t.remedy),
        _ => format!("{} (no device answers)", p.address),
    };
    let of_interest: Vec<String> = if devices.is_empty() {
        ports.iter().filter(|p| p.kind == "usb" || matches!(p.found, Some(Found::Trouble(_)))).map(tell).collect()
    } else {
        devices.iter().copied().map(tell).collect()
    };
    let found = match (ports.len(), of_interest.is_empty()) {
        (0, _) => "no serial port".into(),
        (n, true) => format!("none on {n} serial ports"),
        _ => of_interest.join(", "),
    };
    let example = devices.first().map_or("/dev/ttyUSB0".into(), |p| p.address.clone());
    Err(DeployError::NotOne { found, example })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str, found: Option<Found>) -> Port {
        Port { address: address.into(), kind: "usb", usb: None, found }
    }

    fn device(address: &str, name: &str) -> Port {
        let device = Device { name: name.into(), board: "b".into(), version: "1".into(), slots: vec![], free_bytes: 1 };
        port(address, Some(Found::Device(Box::new(device))))
    }

    #[test]
    fn one_device_is_chosen_and_none_or_two_are_told_of() {
        let silent = || port("/dev/ttyUSB9", Some(Found::Nothing { because: "silence".into() }));
        assert_eq!(choose(&[silent(), device("/dev/ttyUSB1", "pi")]).unwrap(), "/dev/ttyUSB1");
        let two = choose(&[device("/dev/ttyUSB1", "pi"), device("/dev/ttyACM0", "nano")]).unwrap_err().to_string();
        assert!(two.contains("pi at /dev/ttyUSB1, nano at /dev/ttyACM0"), "{two}");
        let none = choose(&[silent()]).unwrap_err();
        assert!(none.to_string().contains("/dev/ttyUSB9 (no device answers)") && none.is_unreachable(), "{none}");
        assert!(choose(&[]).unwrap_err().to_string().contains("no serial port"));
    }
}
