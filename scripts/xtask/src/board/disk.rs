//! The disk of an emulated board: a server of network block devices whose disk has a volatile write cache.
//!
//! To kill an emulator is no power cut: what the guest had written lies with the host's system then, synced or not, and
//! survives whatever the emulator's cache mode. So the disk is here: what the guest wrote and did not flush is kept, lost or torn
//! by chance when the power goes, as by a disk or card with a cache of its own. What was flushed stays. Since it knows of each
//! write and flush, it can also say that the power goes at the n-th one: from then on it answers nothing.
//!
//! # Source
//!
//! The NBD protocol, `doc/proto.md` of the `nbd` project, in its fixed newstyle; no extension but `NBD_OPT_GO`.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use graft_link::Random;

/// A disk, while no board is switched on.
pub(super) struct Disk {
    /// What reads see.
    seen: Vec<u8>,
    /// What a power cut leaves, if it keeps nothing else.
    flushed: Vec<u8>,
    /// What was written since, in order.
    unflushed: Vec<(usize, Vec<u8>)>,
}

/// What became of unflushed writes at a power cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Lost {
    pub(super) kept: usize,
    pub(super) lost: usize,
    pub(super) torn: usize,
}

impl Disk {
    /// A disk with these bytes.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { seen: bytes.clone(), flushed: bytes, unflushed: vec![] }
    }

    /// Cuts its power: each unflushed write is kept, lost or torn at a sector; at one cut in four, all are lost.
    pub(super) fn cut(&mut self, random: &mut Random) -> Lost {
        let mut found = Lost::default();
        let is_all_lost = random.below(4) == 0;
        for (at, bytes) in std::mem::take(&mut self.unflushed) {
            let sectors = bytes.len() / SECTOR;
            let kept = match random.below(4) {
                _ if is_all_lost => 0,
                0 => 0,
                1 => random.below(sectors as u64) as usize,
                _ => sectors,
            };
            match kept {
                0 => found.lost += 1,
                n if n == sectors => found.kept += 1,
                _ => found.torn += 1,
            }
            let len = kept * SECTOR;
            self.flushed[at..at + len].copy_from_slice(&bytes[..len]);
        }
        self.seen.clone_from(&self.flushed);
        found
    }

    fn range(&self, offset: u64, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.seen.len()).then_some(start..end)
    }

    fn write(&mut self, range: Range<usize>, bytes: Vec<u8>) {
        self.seen[range.clone()].copy_from_slice(&bytes);
        self.unflushed.push((range.start, bytes));
    }

    fn flush(&mut self) {
        for (at, bytes) in self.unflushed.drain(..) {
            self.flushed[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

/// What changes the bytes that a power cut leaves; a flush of nothing does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    Write,
    Flush,
}

/// The changes of a disk that serves a board, and the one at which the power goes. Clones are of the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    changes: Vec<Instant>,
    /// Changes until the power goes.
    left: Option<u64>,
    gone: Option<Change>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the power go at the `n`-th change from now on, unless such a moment was set before. A write at which it goes may be
    /// kept, lost or torn; a flush at which it goes keeps nothing for sure.
    pub(super) fn set(&self, n: u64) {
        self.lock().left.get_or_insert(n.max(1));
    }

    /// Returns the change at which the power went.
    pub(super) fn gone(&self) -> Option<Change> {
        self.lock().gone
    }

    /// Returns how many changes there were between two moments.
    pub(super) fn between(&self, from: Instant, to: Instant) -> u64 {
        self.lock().changes.iter().filter(|at| (from..to).contains(*at)).count() as u64
    }

    /// Notes a change; returns whether the power goes at it.
    fn note(&self, change: Change) -> bool {
        let mut seen = self.lock();
        seen.changes.push(Instant::now());
        if let Some(left) = &mut seen.left {
            *left -= 1;
            if *left == 0 {
                seen.gone = Some(change);
            }
        }
        seen.gone.is_some()
    }
}

/// A disk that serves a board until that is switched off.
pub(super) struct Served {
    disk: JoinHandle<(Disk, io::Result<()>)>,
    pub(super) watch: Watch,
}

impl Disk {
    /// Serves one board that connects to a socket at `path`.
    pub(super) fn serve(mut self, path: &Path) -> Result<Served> {
        // Of the board before.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))?;
        let watch = Watch::default();
        let seen = watch.clone();
        let disk = std::thread::spawn(move || {
            let outcome = listener.accept().and_then(|(line, _)| serve(&mut self, line, &seen));
            (self, outcome)
        });
        Ok(Served { disk, watch })
    }
}

impl Served {
    /// Returns the disk, once the emulator has ended. `socket` is where it was served.
    pub(super) fn taken_back(self, socket: &Path) -> Result<Disk> {
        // A board that never came would be waited for.
        drop(UnixStream::connect(socket));
        let _ = std::fs::remove_file(socket);
        let Ok((disk, outcome)) = self.disk.join() else {
            bail!("expected the disk to serve its board, found a panic")
        };
        match outcome {
            // The end of an emulator that was killed.
            Err(e)
                if !matches!(
                    e.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                Err(e).context("serving the disk")
            }
            _ => Ok(disk),
        }
    }
}

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// The most that one request may ask for.
const LONGEST: u32 = 32 << 20;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const ANSWER_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle, and no zeroes at the end of the handshake.
const HANDSHAKE: u16 = 1 | 2;
/// Has flags, takes flushes.
const EXPORT: u16 = 1 | 4;
const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) | 1;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const INVALID: u32 = 22;

fn serve(disk: &mut Disk, mut line: UnixStream, watch: &Watch) -> io::Result<()> {
    if !agree(disk, &mut line)? {
        return Ok(());
    }
    loop {
        let magic = u32::from_be_bytes(read(&mut line)?);
        if magic != REQUEST_MAGIC {
            return Err(strange("a request", u64::from(magic)));
        }
        let [_flags, kind] = [u16::from_be_bytes(read(&mut line)?), u16::from_be_bytes(read(&mut line)?)];
        let cookie: [u8; 8] = read(&mut line)?;
        let offset = u64::from_be_bytes(read(&mut line)?);
        let len = u32::from_be_bytes(read(&mut line)?);
        if len > LONGEST {
            return Err(strange("a request of at most 32 MB", len.into()));
        }
        let mut bytes = vec![0; if kind == WRITE { len as usize } else { 0 }];
        line.read_exact(&mut bytes)?;
        let range = disk.range(offset, len as usize).filter(|r| r.start % SECTOR == 0 && r.len() % SECTOR == 0);
        let (error, answer) = match (kind, range) {
            (READ, Some(range)) => (0, &disk.seen[range]),
            (WRITE, Some(range)) => {
                disk.write(range, bytes);
                if watch.note(Change::Write) {
                    return silent(line);
                }
                (0, &[][..])
            }
            (FLUSH, _) => {
                if !disk.unflushed.is_empty() && watch.note(Change::Flush) {
                    return silent(line);
                }
                disk.flush();
                (0, &[][..])
            }
            (DISCONNECT, _) => return Ok(()),
            _ => (INVALID, &[][..]),
        };
        let head = [&ANSWER_MAGIC.to_be_bytes()[..], &u32::to_be_bytes(error), &cookie].concat();
        line.write_all(&[&head, answer].concat())?;
    }
}

/// Answers nothing any more until the emulator has ended: to hang up would tell the board of a disk that fails.
fn silent(mut line: UnixStream) -> io::Result<()> {
    io::copy(&mut line, &mut io::sink()).map(drop)
}

/// Goes through the handshake; false if the client leaves it.
fn agree(disk: &Disk, line: &mut UnixStream) -> io::Result<bool> {
    line.write_all(&[&b"NBDMAGIC"[..], OPTION_MAGIC, &HANDSHAKE.to_be_bytes()].concat())?;
    let _flags: [u8; 4] = read(line)?;
    loop {
        let magic: [u8; 8] = read(line)?;
        if magic != *OPTION_MAGIC {
            return Err(strange("an option", u64::from_be_bytes(magic)));
        }
        let option = u32::from_be_bytes(read(line)?);
        let len = u32::from_be_bytes(read(line)?);
        if len > LONGEST {
            return Err(strange("an option of at most 32 MB", len.into()));
        }
        // The name of the disk and what else is asked of it: there is one disk, and one answer.
        line.read_exact(&mut vec![0; len as usize])?;
        let mut reply = |kind: u32, data: &[u8]| {
            let len = u32::try_from(data.len()).unwrap_or(0);
            let head = [&REPLY_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len.to_be_bytes()];
            line.write_all(&[&head.concat(), data].concat())
        };
        match option {
            OPTION_GO => {
                let size = disk.seen.len() as u64;
                reply(REPLY_INFO, &[&[0, 0][..], &size.to_be_bytes(), &EXPORT.to_be_bytes()].concat())?;
                reply(REPLY_ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                reply(REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => reply(REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn read<const N: usize>(line: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    line.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn strange(expected: &str, found: u64) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("expected {expected} of a block device's client, found {found:#x}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LEN: usize = 64 * SECTOR;

    /// A disk on which sectors 8 to 15 are flushed as 1, then 8 to 11 and 32 to 47 are written as 2.
    fn used() -> Disk {
        let mut disk = Disk::of(vec![0; LEN]);
        let sectors = |from: usize, to: usize| from * SECTOR..to * SECTOR;
        disk.write(sectors(8, 16), vec![1; 8 * SECTOR]);
        disk.flush();
        disk.write(sectors(8, 12), vec![2; 4 * SECTOR]);
        disk.write(sectors(32, 48), vec![2; 16 * SECTOR]);
        disk
    }

    #[test]
    fn what_was_flushed_stays_and_what_was_not_is_kept_lost_or_torn_by_sectors() {
        let mut all = Lost::default();
        for seed in 0..200 {
            let mut disk = used();
            assert!(disk.seen[8 * SECTOR] == 2 && disk.seen[12 * SECTOR] == 1);
            let found = disk.cut(&mut Random::new(seed, 0));
            assert_eq!(found.kept + found.lost + found.torn, 2);
            assert_eq!(disk.seen, disk.flushed);
            for (sector, bytes) in disk.seen.chunks(SECTOR).enumerate() {
                let allowed: &[u8] = match sector {
                    8..12 => &[1, 2],
                    12..16 => &[1],
                    32..48 => &[0, 2],
                    _ => &[0],
                };
                assert!(allowed.contains(&bytes[0]) && bytes.iter().all(|b| *b == bytes[0]), "{seed}: sector {sector}");
            }
            // Torn, a write is kept from its beginning.
            assert!(disk.seen[32 * SECTOR..48 * SECTOR].is_sorted_by(|a, b| a >= b));
            assert_eq!(disk.cut(&mut Random::new(seed, 1)), Lost::default(), "nothing is left to lose");
            all = Lost { kept: all.kept + found.kept, lost: all.lost + found.lost, torn: all.torn + found.torn };
        }
        assert!(all.kept > 50 && all.lost > 50 && all.torn > 20, "{all:?}");
    }

    /// The bytes are those of the protocol's document.
    #[test]
    fn a_client_agrees_writes_flushes_and_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let served = Disk::of(vec![0; LEN]).serve(&path).unwrap();
        let mut line = UnixStream::connect(&path).unwrap();
        let expect = |line: &mut UnixStream, bytes: &[u8]| {
            let mut found = vec![0; bytes.len()];
            line.read_exact(&mut found).unwrap();
            assert_eq!(found, bytes);
        };
        expect(&mut line, b"NBDMAGICIHAVEOPT\x00\x03");
        line.write_all(b"\0\0\0\x03").unwrap();
        // Structured replies, which this server has not, then the disk.
        line.write_all(b"IHAVEOPT\0\0\0\x08\0\0\0\0").unwrap();
        expect(&mut line, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\x80\0\0\x01\0\0\0\0");
        line.write_all(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0").unwrap();
        expect(&mut line, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\0\x80\0\0\x05");
        expect(&mut line, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0");
        let request = |kind: u8, offset: u32, len: u32| {
            let head = [&b"\x25\x60\x95\x13\0\0\0"[..], &[kind], b"cookie01\0\0\0\0"].concat();
            [&head[..], &offset.to_be_bytes(), &len.to_be_bytes()].concat()
        };
        let done = b"\x67\x44\x66\x98\0\0\0\0cookie01";
        line.write_all(&[request(1, 512, 512), vec![7; 512]].concat()).unwrap();
        expect(&mut line, done);
        line.write_all(&request(3, 0, 0)).unwrap();
        expect(&mut line, done);
        line.write_all(&request(0, 0, 1024)).unwrap();
        expect(&mut line, &[&done[..], &[0; 512], &[7; 512]].concat());
        // Behind the end of the disk.
        line.write_all(&request(0, 64 * 512, 512)).unwrap();
        expect(&mut line, b"\x67\x44\x66\x98\0\0\0\x16cookie01");
        line.write_all(&[request(1, 1024, 512), vec![9; 512]].concat()).unwrap();
        expect(&mut line, done);
        drop(line);
        let disk = served.taken_back(&path).unwrap();
        assert_eq!((disk.flushed[512], disk.flushed[1024], disk.unflushed.len()), (7, 0, 1));
    }

    /// Writes a sector of sevens after another and flushes after each, until there is no answer.
    fn served_until_the_power_goes(at: u64) -> (usize, Option<Change>, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let served = Disk::of(vec![0; LEN]).serve(&path).unwrap();
        let watch = served.watch.clone();
        let mut line = UnixStream::connect(&path).unwrap();
        line.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        line.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0").unwrap();
        line.read_exact(&mut [0; 18 + 32 + 20]).unwrap();
        let mut ask = |kind: u8, offset: u32, bytes: &[u8]| {
            let head = [&b"\x25\x60\x95\x13\0\0\0"[..], &[kind], b"cookie01\0\0\0\0", &offset.to_be_bytes()].concat();
            let len = if kind == 1 { 512_u32 } else { 0 };
            line.write_all(&[&head, &len.to_be_bytes()[..], bytes].concat()).unwrap();
            line.read_exact(&mut [0; 16]).is_ok()
        };
        // Of nothing: no change.
        assert!(ask(3, 0, &[]));
        watch.set(at);
        watch.set(1);
        let answered = (0..4).take_while(|i| ask(1, 512 * i, &[7; 512]) && ask(3, 0, &[])).count();
        drop(line);
        (answered, watch.gone(), served.taken_back(&path).unwrap())
    }

    #[test]
    fn the_power_goes_at_the_change_that_was_set_and_nothing_is_answered_from_it_on() {
        let (answered, gone, disk) = served_until_the_power_goes(3);
        assert_eq!((answered, gone), (1, Some(Change::Write)));
        assert_eq!((disk.flushed[0], disk.flushed[512], disk.unflushed.len()), (7, 0, 1));
        let (answered, gone, disk) = served_until_the_power_goes(4);
        assert_eq!((answered, gone), (1, Some(Change::Flush)));
        assert_eq!((disk.flushed[0], disk.flushed[512], disk.unflushed.len()), (7, 0, 1), "that flush did not end");
        let (answered, gone, disk) = served_until_the_power_goes(9);
        assert_eq!((answered, gone, disk.unflushed.len()), (4, None, 0));
    }
}
