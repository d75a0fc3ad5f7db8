//! How the board is: temperature, throttling and supply, memory, disk. What a board does not tell is left out.
//!
//! # Source
//!
//! Documentation/admin-guide/sysfs of the kernel for `thermal` and `hwmon`; of a Raspberry Pi's firmware `get_throttled`, whose
//! bits are those of `vcgencmd get_throttled` (raspberrypi.com, "OS utilities").

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

/// What the board tells.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Health {
    /// Of the hottest zone.
    pub temperature_celsius: Option<f32>,
    /// The supply's voltage is too low now.
    pub is_undervoltage: Option<bool>,
    /// It was since the start.
    pub was_undervoltage: Option<bool>,
    /// The processor is slowed down now, because of heat or supply.
    pub is_throttled: Option<bool>,
    /// It was since the start.
    pub was_throttled: Option<bool>,
    /// That programs may still take.
    pub memory_available_bytes: Option<u64>,
    /// In all.
    pub memory_total_bytes: Option<u64>,
    /// That the daemon takes.
    pub daemon_bytes: Option<u64>,
    /// Free on the disk of slots and store.
    pub disk_free_bytes: Option<u64>,
    /// In all.
    pub disk_total_bytes: Option<u64>,
    /// Of the system over a minute, in processors that are busy.
    pub load: Option<f32>,
}

/// A processor of a Raspberry Pi slows down from here on.
const HOT: f32 = 80.0;
/// A disk with less is full: no picture and no batch of predictions has room.
const FULL: u64 = 4 << 20;
/// Bits of the firmware's: now, and since the start.
const UNDERVOLTAGE: (u32, u32) = (1, 1 << 16);
/// Capped, throttled, at its soft limit.
const THROTTLED: (u32, u32) = (0b1110, 0b1110 << 16);
/// No such file is longer.
const MOST: u64 = 16 << 10;

impl Health {
    /// Asks the system, and for the disk of a folder.
    pub fn read(folder: &Path) -> Self {
        let mut health = Self::read_below(Path::new("/"));
        if health.is_throttled.is_none()
            && let Some(bits) = vcgencmd()
        {
            health.take_bits(bits);
        }
        if let Ok(disk) = rustix::fs::statvfs(folder) {
            health.disk_free_bytes = Some(disk.f_bavail.saturating_mul(disk.f_frsize));
            health.disk_total_bytes = Some(disk.f_blocks.saturating_mul(disk.f_frsize));
        }
        health
    }

    /// Reads the files of a system that lies below a folder.
    fn read_below(system: &Path) -> Self {
        let mut health = Self {
            temperature_celsius: hottest(system),
            memory_available_bytes: kilobytes(&system.join("proc/meminfo"), "MemAvailable:"),
            memory_total_bytes: kilobytes(&system.join("proc/meminfo"), "MemTotal:"),
            daemon_bytes: kilobytes(&system.join("proc/self/status"), "VmRSS:"),
            load: read(&system.join("proc/loadavg")).and_then(|t| t.split(' ').next()?.parse().ok()),
            ..Self::default()
        };
        let firmware = read(&system.join("sys/devices/platform/soc/soc:firmware/get_throttled"));
        if let Some(bits) = firmware.and_then(|t| u32::from_str_radix(t.trim().trim_start_matches("0x"), 16).ok()) {
            health.take_bits(bits);
        }
        // Of newer kernels, which tell of the supply alone.
        let supply = folders(&system.join("sys/class/hwmon"))
            .into_iter()
            .find(|folder| read(&folder.join("name")).is_some_and(|name| name.trim() == "rpi_volt"));
        if let Some(alarm) = supply.and_then(|folder| read(&folder.join("in0_lcrit_alarm"))) {
            health.is_undervoltage = Some(alarm.trim() == "1" || health.is_undervoltage == Some(true));
        }
        health
    }

    fn take_bits(&mut self, bits: u32) {
        let has = |mask: u32| Some(bits & mask != 0);
        (self.is_undervoltage, self.was_undervoltage) = (has(UNDERVOLTAGE.0), has(UNDERVOLTAGE.1));
        (self.is_throttled, self.was_throttled) = (has(THROTTLED.0), has(THROTTLED.1));
    }

    /// Whether the disk has no room.
    pub fn is_disk_full(&self) -> bool {
        self.disk_free_bytes.is_some_and(|free| free < FULL)
    }

    /// Returns what a person at the screen may do something about.
    pub fn warning(&self) -> Option<String> {
        if self.is_disk_full() {
            Some("storage full".into())
        } else if self.is_undervoltage == Some(true) {
            Some("supply too weak".into())
        } else {
            self.temperature_celsius.filter(|&t| t >= HOT).map(|t| format!("too hot: {t:.0} C"))
        }
    }

    /// Returns why the processor may be slower than it could be.
    pub fn slowness(&self) -> Option<String> {
        let told = Self { disk_free_bytes: None, ..self.clone() }.warning();
        told.or_else(|| (self.is_throttled == Some(true)).then(|| "slowed down by its firmware".into()))
    }
}

/// Returns the temperature of the hottest zone.
fn hottest(system: &Path) -> Option<f32> {
    let zones = folders(&system.join("sys/class/thermal")).into_iter();
    let zones = zones.filter(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("thermal_zone")));
    let degrees = zones.filter_map(|f| read(&f.join("temp"))?.trim().parse::<i32>().ok());
    // Sensors that are not there say 0 or less; none is hotter than this.
    degrees.map(|t| t as f32 / 1000.0).filter(|t| (0.0..200.0).contains(t) && *t != 0.0).reduce(f32::max)
}

fn folders(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).map_or(vec![], |entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
}

/// Returns what a line of a file of the kernel says in kB, in bytes.
pub(crate) fn kilobytes(path: &Path, key: &str) -> Option<u64> {
    let text = read(path)?;
    let kib = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024))
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks a Raspberry Pi's firmware by its program, where there is one.
fn vcgencmd() -> Option<u32> {
    let program = ["/usr/bin/vcgencmd", "/opt/vc/bin/vcgencmd"].into_iter().find(|p| Path::new(p).exists())?;
    let mut child = Command::new(program)
        .arg("get_throttled")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    child.stdout.take()?.take(100).read_to_string(&mut text).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("throttled=0x")?, 16).ok()
}

/// For the firmware to answer.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn put(system: &Path, file: &str, text: &str) {
        let path = system.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_raspberry_pi_tells_all_and_a_bare_system_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Health::read_below(dir.path()), Health::default());
        put(dir.path(), "sys/class/thermal/thermal_zone0/temp", "48312\n");
        put(dir.path(), "sys/class/thermal/thermal_zone1/temp", "81000\n");
        put(dir.path(), "sys/class/thermal/thermal_zone2/temp", "-274000\n");
        put(dir.path(), "sys/class/thermal/cooling_device0/temp", "99000\n");
        // Throttled now, and undervoltage since the start: bits 2, 16 and 18.
        put(dir.path(), "sys/devices/platform/soc/soc:firmware/get_throttled", "50004\n");
        put(dir.path(), "proc/meminfo", "MemTotal:        3884360 kB\nMemAvailable:    3000000 kB\n");
        put(dir.path(), "proc/self/status", "Name:\tgraftd\nVmRSS:\t   20480 kB\n");
        put(dir.path(), "proc/loadavg", "0.52 0.40 0.30 1/100 999\n");
        let found = Health::read_below(dir.path());
        let expected = Health {
            temperature_celsius: Some(81.0),
            is_undervoltage: Some(false),
            was_undervoltage: Some(true),
            is_throttled: Some(true),
            was_throttled: Some(true),
            memory_available_bytes: Some(3_072_000_000),
            memory_total_bytes: Some(3_977_584_640),
            daemon_bytes: Some(20_971_520),
            load: Some(0.52),
            ..Health::default()
        };
        assert_eq!(found, expected);
        assert_eq!(found.warning().as_deref(), Some("too hot: 81 C"));
        assert_eq!(found.slowness(), found.warning());
        let cooler = Health { temperature_celsius: Some(60.0), ..found };
        assert_eq!((cooler.warning(), cooler.slowness().as_deref()), (None, Some("slowed down by its firmware")));
        put(dir.path(), "sys/class/hwmon/hwmon1/name", "rpi_volt\n");
        put(dir.path(), "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
        assert_eq!(Health::read_below(dir.path()).warning().as_deref(), Some("supply too weak"));
    }

    #[test]
    fn a_full_disk_comes_first_and_this_system_tells_of_itself() {
        let full = Health { disk_free_bytes: Some(FULL - 1), is_undervoltage: Some(true), ..Health::default() };
        assert_eq!(full.warning().as_deref(), Some("storage full"));
        assert_eq!(full.slowness().as_deref(), Some("supply too weak"));
        let here = Health::read(Path::new("."));
        assert!(here.daemon_bytes.unwrap() > 1_000_000 && here.memory_total_bytes > here.memory_available_bytes);
        assert!(here.disk_total_bytes >= here.disk_free_bytes && here.warning().as_deref() != Some("supply too weak"));
    }
}
