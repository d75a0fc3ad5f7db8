//! One emulated board that is switched on: the process of QEMU. Dropped, it is ended, as if its plug were pulled.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};

use super::image::Image;

pub(super) struct Emulator {
    child: Child,
    /// The pseudo-terminal that its UART is.
    port: String,
    /// Kept open: QEMU looks only once a second whether somebody has opened the far end.
    _line: OwnedFd,
}

/// The board: a Raspberry Pi 4's processor on a machine of virtual devices.
const MACHINE: [&str; 8] = ["-machine", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "320M"];
/// How long QEMU may take to name its pseudo-terminal.
const PORT: Duration = Duration::from_secs(20);

impl Emulator {
    /// Switches a board on, whose disk is served at a socket; what it and QEMU say is appended to `journal`.
    pub(super) fn start(image: &Image, disk: &Path, journal: &Path) -> Result<Self> {
        let said = journal.with_extension("qemu");
        let out = File::create(&said).with_context(|| format!("creating {}", said.display()))?;
        // The process ends with this one, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-aarch64"]).args(MACHINE);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initial);
        command.args(["-append", "console=hvc0 loglevel=5 panic=-1"]);
        // The machine's own UART, a PL011, stalls for good in QEMU 7.2 when much comes in. A 16550 does not.
        command.args(["-chardev", "pty,id=line", "-serial", "none", "-device", "pci-serial,chardev=line"]);
        command.arg("-chardev").arg(format!("file,id=journal,append=on,path={}", comma_safe(journal)?));
        command.args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=journal"]);
        // Its cache is a disk's that may be told to flush; which writes it loses is the disk's own matter.
        let drive = format!(
            "if=none,id=data,format=raw,cache=writeback,file.driver=nbd,file.server.type=unix,file.server.path={}",
            comma_safe(disk)?
        );
        command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=data"]);
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn();
        let mut child = child.context("starting qemu-system-aarch64 through setpriv")?;
        match port_of(&mut child, &said) {
            Ok((port, line)) => Ok(Self { child, port, _line: line }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// Returns the port that a host opens.
    pub(super) fn port(&self) -> &str {
        &self.port
    }

    /// Pulls its plug.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing qemu-system-aarch64")?;
        self.child.wait().context("waiting for qemu-system-aarch64 to end")?;
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Of one that was killed already there is nothing left to do.
        let _ = self.kill();
    }
}

/// Waits until QEMU has named its pseudo-terminal, and opens that.
fn port_of(child: &mut Child, said: &Path) -> Result<(String, OwnedFd)> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(said).with_context(|| format!("reading {}", said.display()))?;
        if let Some(port) = told_port(&text) {
            // Never as the terminal of this process, which would end with it.
            let line = rustix::fs::open(port, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
            let line = line.with_context(|| format!("opening {port}"))?;
            return Ok((port.to_owned(), line));
        }
        if let Some(status) = child.try_wait()? {
            bail!("expected qemu-system-aarch64 to run, found that it ended ({status}): {}", text.trim());
        }
        ensure!(start.elapsed() < PORT, "expected QEMU to name a pseudo-terminal within {PORT:?}, found {text:?}");
        sleep(Duration::from_millis(5));
    }
}

/// Returns the pseudo-terminal that QEMU says it has made.
fn told_port(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("char device redirected to ")?;
    rest.split_once(" (").map(|(port, _)| port)
}

/// A comma ends a value among QEMU's options.
fn comma_safe(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("expected a path in UTF-8, found {}", path.display()))?;
    Ok(text.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_one_qemu_tells_once_the_line_is_whole() {
        let text = "char device redirected to /dev/pts/3 (label line)\n";
        assert_eq!(told_port(text), Some("/dev/pts/3"));
        assert_eq!(told_port(&text[..36]), None);
        assert_eq!(told_port("qemu-system-aarch64: warning\n"), None);
    }
}
