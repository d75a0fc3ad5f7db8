//! A pair of pseudo-terminals with a pacer between them: a serial line that takes its time.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use graft_link::Transport;
use serialport::{SerialPort, TTYPort};

use super::{BAUD, BYTES_PER_SECOND, Outcome, PATIENCE};

/// Two pseudo-terminals between which bytes go at 11,520 a second each way.
pub(super) struct Paced {
    pub(super) host: String,
    pub(super) device: String,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    // Kept open, and raw, while programs come and go.
    _ends: [TTYPort; 2],
}

impl Paced {
    pub(super) fn new() -> Outcome<Self> {
        let ((near, host), (far, device)) = (TTYPort::pair()?, TTYPort::pair()?);
        let name = |port: &TTYPort| port.name().ok_or("a pseudo-terminal without a name");
        let (host_name, device_name) = (name(&host)?, name(&device)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (mut from, mut to) in
            [(near.try_clone_native()?, far.try_clone_native()?), (far.try_clone_native()?, near.try_clone_native()?)]
        {
            let flag = Arc::clone(&stop);
            threads.push(thread::spawn(move || drop(forward(&mut from, &mut to, &flag))));
        }
        Ok(Self { host: host_name, device: device_name, stop, threads, _ends: [host, device] })
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// How late the pacer may be and still make up for it.
const LATE: Duration = Duration::from_millis(200);

/// A byte leaves when those before it have left: an idle line saves nothing up.
fn forward(from: &mut TTYPort, to: &mut TTYPort, stop: &AtomicBool) -> Outcome<()> {
    let mut free_at = Instant::now();
    let (mut buffer, mut is_busy) = ([0; 64], false);
    while !stop.load(Ordering::Relaxed) {
        // What waited already leaves when the line is free, however late a busy machine wakes this thread.
        let earliest = if is_busy { Instant::now() - LATE } else { Instant::now() };
        is_busy = false;
        from.set_timeout(Duration::from_millis(20))?;
        let n = graft_link::transport::read_patiently(from, &mut buffer)?;
        if n == 0 {
            continue;
        }
        free_at = free_at.max(earliest) + Duration::from_secs_f64(n as f64 / BYTES_PER_SECOND);
        thread::sleep(free_at.saturating_duration_since(Instant::now()));
        to.set_timeout(Duration::from_secs(10))?;
        to.write_all(buffer.get(..n).unwrap_or_default())?;
        is_busy = from.bytes_to_read()? > 0;
    }
    Ok(())
}

pub(super) fn open(path: &str) -> Outcome<Port> {
    Ok(Port(serialport::new(path, BAUD).open_native()?))
}

pub(super) struct Port(TTYPort);

impl Transport for Port {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> std::io::Result<usize> {
        self.0.set_timeout(patience)?;
        graft_link::transport::read_patiently(&mut self.0, buffer)
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.set_timeout(PATIENCE)?;
        Write::write_all(&mut self.0, bytes)
    }
}
