//! The serial ports of this machine.

use serde::Serialize;
use serialport::SerialPortType;

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// What to give as --device.
    pub address: String,
    /// `usb`, `bluetooth`, `pci` or `unknown`.
    pub kind: &'static str,
    /// Manufacturer and product, where the system knows them.
    pub description: String,
}

/// Lists the serial ports, USB first.
///
/// # Errors
///
/// The system's.
pub fn ports() -> std::io::Result<Vec<Port>> {
    let mut ports: Vec<Port> = serialport::available_ports()?
        .into_iter()
        .map(|p| {
            let (kind, description) = match p.port_type {
                SerialPortType::UsbPort(usb) => {
                    let words: Vec<String> =
                        [usb.manufacturer, usb.product, usb.serial_number].into_iter().flatten().collect();
                    ("usb", words.join(" "))
                }
                SerialPortType::BluetoothPort => ("bluetooth", String::new()),
                SerialPortType::PciPort => ("pci", String::new()),
                SerialPortType::Unknown => ("unknown", String::new()),
            };
            Port { address: p.port_name, kind, description }
        })
        .collect();
    // Without udev some systems list nothing of what is there.
    if let Ok(entries) = std::fs::read_dir("/dev") {
        for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            let address = format!("/dev/{name}");
            let likely = ["ttyUSB", "ttyACM", "ttyAMA", "ttyTHS", "rfcomm"].iter().any(|front| name.starts_with(front));
            if likely && ports.iter().all(|p| p.address != address) {
                let kind = if name.starts_with("ttyUSB") || name.starts_with("ttyACM") { "usb" } else { "unknown" };
                ports.push(Port { address, kind, description: String::new() });
            }
        }
    }
    ports.sort_by(|a, b| (a.kind != "usb", &a.address).cmp(&(b.kind != "usb", &b.address)));
    Ok(ports)
}
