//! What others make of the same line: ZMODEM by lrzsz, and mcumgr's SMP by smpclient.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::paced::Paced;

/// A protocol with its settings.
pub(super) enum Rival {
    /// An option of `sz`.
    Zmodem { name: &'static str, option: &'static str },
    /// Framing and bytes of the device's buffer, and the Python that has smpclient.
    Smp { name: &'static str, framing: &'static str, buffer: u32, python: Option<PathBuf> },
}

/// Zephyr's default, CONFIG_MCUMGR_TRANSPORT_NETBUF_SIZE.
const DEFAULT_BUFFER: u32 = 384;
/// Beyond this little is gained.
const LARGE_BUFFER: u32 = 4096;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers/smp_link.py");
/// What takes longer has stalled.
const LONGEST: Duration = Duration::from_secs(600);

impl Rival {
    pub(super) fn all(python: Option<PathBuf>) -> Vec<Self> {
        let smp = |name, framing, buffer| Self::Smp { name, framing, buffer, python: python.clone() };
        vec![
            Self::Zmodem { name: "ZMODEM (sz)", option: "--" },
            Self::Zmodem { name: "ZMODEM, blocks of 8 KB (sz -8)", option: "--try-8k" },
            smp("SMP (smpclient), buffer of 384 bytes, Zephyr's default", "console", DEFAULT_BUFFER),
            smp("SMP (smpclient), buffer of 4096 bytes", "console", LARGE_BUFFER),
            smp("SMP (smpclient), raw, 4096 bytes, Zephyr 4.4 or newer", "raw", LARGE_BUFFER),
        ]
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Zmodem { name, .. } | Self::Smp { name, .. } => name,
        }
    }

    /// Carries a file over a line of its own, looks whether it has come whole, and returns the seconds.
    pub(super) fn carry(&self, file: &Path, content: &[u8], into: &Path) -> Outcome<f64> {
        fs::create_dir_all(into)?;
        let received = into.join(file.file_name().unwrap_or_default());
        let seconds = match self {
            Self::Zmodem { option, .. } => zmodem(file, into, option)?,
            Self::Smp { python: None, .. } => return Err("`cargo xtask peers --line` makes its environment".into()),
            Self::Smp { framing, buffer, python: Some(python), .. } => smp(python, framing, *buffer, file, &received)?,
        };
        let is_whole = fs::read(&received)? == content;
        fs::remove_file(&received)?;
        if is_whole { Ok(seconds) } else { Err("it brought other bytes".into()) }
    }
}

/// Sends with `sz` to `rz`.
fn zmodem(file: &Path, into: &Path, option: &str) -> Outcome<f64> {
    let paced = Paced::new()?;
    let program = |name: &str, options: &[&str], end: &str| -> Outcome<Command> {
        let open = || File::options().read(true).write(true).open(end);
        let mut command = Command::new(name);
        command.args(options).stdin(open()?).stdout(open()?).stderr(Stdio::null());
        Ok(command)
    };
    let not_there = |e| format!("it did not start ({e}); install lrzsz");
    let mut receiver =
        program("rz", &["-q", "-y", "-b"], &paced.device)?.current_dir(into).spawn().map_err(not_there)?;
    // Each throws away what has come when it starts. The sender's greeting makes the receiver repeat its own.
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let mut sender = program("sz", &["-q", "-b", option], &paced.host)?.arg(file).spawn().map_err(not_there)?;
    // Its end: the receiver has said that all is there. The sender often takes its last word back as it ends, for which the
    // receiver waits 30 s more; what it received is compared.
    let sent = end_of(&mut sender);
    let seconds = start.elapsed().as_secs_f64();
    receiver.kill()?;
    receiver.wait()?;
    let sent = sent?;
    if sent.success() { Ok(seconds) } else { Err(format!("sz ended with {sent}").into()) }
}

/// Sends with smpclient to a device in Python; the sender tells the seconds, without those of its own start.
fn smp(python: &Path, framing: &str, buffer: u32, file: &Path, into: &Path) -> Outcome<f64> {
    let paced = Paced::new()?;
    let program = |role: &str, end: &str, file: &Path| {
        let mut command = Command::new(python);
        command.args([SCRIPT, role, end, framing, &buffer.to_string()]).arg(file).stdout(Stdio::piped());
        command
    };
    let mut device = program("receive", &paced.device, into).spawn()?;
    let mut ready = String::new();
    BufReader::new(device.stdout.take().ok_or("no output")?).read_line(&mut ready)?;
    let mut sender = program("send", &paced.host, file).spawn()?;
    let (sent, received) = (end_of(&mut sender)?, end_of(&mut device)?);
    if !(sent.success() && received.success()) {
        return Err(format!("{sent}, {received}").into());
    }
    let told = std::io::read_to_string(sender.stdout.take().ok_or("no output")?)?;
    told.trim().parse().map_err(|e| format!("expected seconds, found {told:?}: {e}").into())
}

/// Waits for a program, but not for ever.
fn end_of(program: &mut Child) -> Outcome<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = program.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > LONGEST {
            program.kill()?;
            program.wait()?;
            return Err(format!("it had not ended after {LONGEST:?}").into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}
