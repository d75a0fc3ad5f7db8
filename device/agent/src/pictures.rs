//! Pictures that are kept for people to label, each in a file of its own with what was said of it.
//!
//! A file is written whole or not at all and removed only when a host has said which bytes it has, or when more valuable
//! ones need the room: of those worth least the oldest goes first. Power cuts at any moment lose no picture of which this
//! said that it is kept. Layout: `docs/formats/slots.md`.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use graft_bundle::Digest;
use graft_link::messages::{Kept, MAX_PART, MAX_TOLD, Told};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, FileSystem};

/// What was said of a picture, as in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    told: Told,
    len: u64,
    digest: Digest,
}

/// The kept pictures of a folder.
#[derive(Debug)]
pub struct Pictures<F> {
    disk: Disk<F>,
    /// Most bytes of all files.
    limit: u64,
    /// By number, with the length of the file.
    notes: BTreeMap<u64, (Note, u64)>,
    total: u64,
    tally: Tally,
}

/// What became of pictures since the start: what is here was here or was kept, and neither gave way nor was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Here at the start.
    pub found: u64,
    /// Kept since.
    pub kept: u64,
    /// Gone, to make room for others.
    pub evicted: u64,
    /// Gone, because a host has them.
    pub forgotten: u64,
    /// Here now.
    pub here: u64,
    /// Bytes of all their files.
    pub bytes: u64,
}

const FOLDER: &str = "pictures";
const MAGIC: &[u8; 8] = b"GRAFTPIC";
/// Bytes before the note: magic and the note's length.
const FRONT: usize = 12;
/// Longest note in bytes, above what the longest texts come to.
const MAX_NOTE: usize = 16 << 10;
const SUFFIX: &str = ".kept";

impl<F: FileSystem> Pictures<F> {
    /// Looks at what is kept, which may take `limit` bytes. What is no whole file is removed.
    pub fn open(files: F, limit: u64) -> Self {
        let mut this =
            Self { disk: Disk::new(files), limit, notes: BTreeMap::new(), total: 0, tally: Tally::default() };
        for name in this.disk.list(FOLDER).unwrap_or_default() {
            let path = format!("{FOLDER}/{name}");
            match this.read_note(&path) {
                Ok((note, len)) if name == file_name(note.told.id) => this.insert(note, len),
                // A disk that does not answer may do so the next time.
                Err(e) if e.kind() != ErrorKind::InvalidData => {}
                _ => drop(this.disk.remove(&path)),
            }
        }
        this.tally.found = this.notes.len() as u64;
        this
    }

    /// Returns what became of all pictures.
    pub fn tally(&self) -> Tally {
        Tally { here: self.notes.len() as u64, bytes: self.total, ..self.tally }
    }

    fn insert(&mut self, note: Note, len: u64) {
        self.total += len;
        if let Some((_, old)) = self.notes.insert(note.told.id, (note, len)) {
            self.total -= old;
        }
    }

    /// Returns the highest number that is kept.
    pub fn last_id(&self) -> Option<u64> {
        self.notes.keys().next_back().copied()
    }

    /// Whether the picture of this number is kept.
    pub fn has(&self, id: u64) -> bool {
        self.notes.contains_key(&id)
    }

    /// Keeps a picture, if there is room or a picture worth no more gives it; returns whether it is kept.
    ///
    /// # Errors
    ///
    /// The system's; the picture is not kept then.
    pub fn keep(&mut self, told: &Told, picture: &[u8]) -> io::Result<bool> {
        let note = Note { told: told.clone(), len: picture.len() as u64, digest: Digest::of(picture) };
        let json = serde_json::to_vec(&note)?;
        let len = u32::try_from(json.len()).ok().filter(|&l| l as usize <= MAX_NOTE);
        let front = len.ok_or_else(|| io::Error::other(format!("expected a note of at most {MAX_NOTE} bytes")))?;
        let bytes = [MAGIC, &front.to_le_bytes()[..], &json, picture].concat();
        let len = bytes.len() as u64;
        let Some(leaving) = self.leaving(len, told.value) else { return Ok(false) };
        for id in leaving {
            self.remove(id)?;
            self.tally.evicted += 1;
        }
        self.disk.write(&path(told.id), &bytes)?;
        self.insert(note, len);
        self.tally.kept += 1;
        Ok(true)
    }

    /// Returns which pictures go for one of `len` bytes, or none where those worth no more do not make room.
    fn leaving(&self, len: u64, value: f32) -> Option<Vec<u64>> {
        let mut over = self.total.saturating_add(len).saturating_sub(self.limit);
        let mut order: Vec<(f32, u64, u64)> = self
            .notes
            .iter()
            .map(|(&id, (note, len))| (note.told.value, id, *len))
            .filter(|(v, ..)| v.total_cmp(&value).is_le())
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut leaving = vec![];
        for (_, id, len) in order {
            if over == 0 {
                break;
            }
            leaving.push(id);
            over = over.saturating_sub(len);
        }
        (over == 0).then_some(leaving)
    }

    fn remove(&mut self, id: u64) -> io::Result<()> {
        self.disk.remove(&path(id))?;
        if let Some((_, len)) = self.notes.remove(&id) {
            self.total -= len;
        }
        Ok(())
    }

    /// Returns how many are kept, and of those the most valuable but for the first `skip`.
    pub fn list(&self, skip: usize, count: usize) -> (usize, Vec<Kept>) {
        let mut order: Vec<&Note> = self.notes.values().map(|(note, _)| note).collect();
        order.sort_by(|a, b| b.told.value.total_cmp(&a.told.value).then(a.told.id.cmp(&b.told.id)));
        let kept = |n: &&Note| Kept { told: n.told.clone(), len: n.len, digest: n.digest.0 };
        (order.len(), order.iter().skip(skip).take(count.min(MAX_TOLD)).map(kept).collect())
    }

    /// Returns at most `count` bytes of a picture.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is not kept; the system's.
    pub fn part(&self, id: u64, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let Some((note, file_len)) = self.notes.get(&id) else { return Err(ErrorKind::NotFound.into()) };
        let front = file_len - note.len;
        let count = note.len.saturating_sub(offset).min(count.min(MAX_PART) as u64) as usize;
        let bytes = self.disk.read_part(&path(id), front.saturating_add(offset), count)?;
        if bytes.len() == count { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Removes pictures whose digest is the one that is told; returns how many there were.
    ///
    /// # Errors
    ///
    /// The system's; some may be removed.
    pub fn forget(&mut self, pictures: &[(u64, [u8; 32])]) -> io::Result<usize> {
        let mut count = 0;
        for (id, digest) in pictures {
            if self.notes.get(id).is_some_and(|(note, _)| note.digest.0 == *digest) {
                self.remove(*id)?;
                self.tally.forgotten += 1;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Reads what was said of a picture, and the length of its file.
    fn read_note(&self, path: &str) -> io::Result<(Note, u64)> {
        let bad = || io::Error::from(ErrorKind::InvalidData);
        let file_len = self.disk.len(path)?;
        let front = self.disk.read_part(path, 0, FRONT)?;
        let (magic, len) = front.split_at_checked(MAGIC.len()).ok_or_else(bad)?;
        let len = u32::from_le_bytes(len.try_into().map_err(|_| bad())?) as usize;
        if magic != MAGIC || len > MAX_NOTE {
            return Err(bad());
        }
        let json = self.disk.read_part(path, FRONT as u64, len)?;
        let note: Note = serde_json::from_slice(&json).map_err(|_| bad())?;
        let is_whole = note.len.checked_add((FRONT + len) as u64) == Some(file_len);
        if is_whole && note.told.id <= MAX_ID { Ok((note, file_len)) } else { Err(bad()) }
    }
}

/// Largest number that is read: none that counted up from 1 came near, and from it one can go on.
pub(crate) const MAX_ID: u64 = u64::MAX / 2;

fn file_name(id: u64) -> String {
    format!("{id:010}{SUFFIX}")
}

fn path(id: u64) -> String {
    format!("{FOLDER}/{}", file_name(id))
}

#[cfg(test)]
mod tests {
    use graft_link::Random;

    use super::*;
    use crate::torture::Simulated;

    fn told(id: u64, value: f32) -> Told {
        Told { id, value, label: "rust".into(), ..Told::default() }
    }

    fn picture(id: u64) -> Vec<u8> {
        vec![id as u8; 500]
    }

    fn ids(pictures: &Pictures<Simulated>) -> Vec<u64> {
        pictures.list(0, 99).1.iter().map(|k| k.told.id).collect()
    }

    #[test]
    fn the_most_valuable_are_told_first_and_stay_when_room_is_short() {
        let disk = Simulated::default();
        let mut pictures = Pictures::open(disk.clone(), 2600);
        for (id, value) in [(1, 0.5), (2, 0.9), (3, 0.1)] {
            assert!(pictures.keep(&told(id, value), &picture(id)).unwrap());
        }
        assert_eq!(ids(&pictures), [2, 1, 3]);
        assert!(pictures.keep(&told(4, 0.5), &picture(4)).unwrap(), "number 3 gives its room");
        assert_eq!(ids(&pictures), [2, 1, 4]);
        assert!(pictures.keep(&told(5, 0.5), &picture(5)).unwrap(), "of equals the oldest goes");
        assert!(!pictures.keep(&told(6, 0.4), &picture(6)).unwrap(), "nothing is worth less");
        assert!(!pictures.keep(&told(7, 1.0), &[0; 3000]).unwrap(), "longer than all room");
        assert_eq!(ids(&pictures), [2, 4, 5]);
        let told = Tally { kept: 5, evicted: 2, here: 3, bytes: pictures.total, ..Tally::default() };
        assert_eq!(pictures.tally(), told);
        let again = Pictures::open(disk, 2600);
        assert_eq!((ids(&again), again.last_id(), again.total), (vec![2, 4, 5], Some(5), pictures.total));
        assert_eq!(again.list(1, 1), (3, pictures.list(1, 1).1));
    }

    #[test]
    fn parts_make_the_picture_and_only_its_digest_has_it_forgotten() {
        let mut pictures = Pictures::open(Simulated::default(), 1 << 20);
        let bytes: Vec<u8> = (0..80_000u32).map(|i| (i % 251) as u8).collect();
        pictures.keep(&told(9, 0.5), &bytes).unwrap();
        let mut back = vec![];
        while back.len() < bytes.len() {
            back.extend(pictures.part(9, back.len() as u64, usize::MAX).unwrap());
        }
        assert_eq!(back, bytes);
        assert!(pictures.part(9, 80_000, 10).unwrap().is_empty() && pictures.part(9, u64::MAX, 10).unwrap().is_empty());
        assert_eq!(pictures.part(8, 0, 10).unwrap_err().kind(), ErrorKind::NotFound);
        let digest = pictures.list(0, 1).1[0].digest;
        assert_eq!(digest, Digest::of(&bytes).0);
        assert_eq!(pictures.forget(&[(9, [0; 32]), (8, digest)]).unwrap(), 0);
        assert_eq!(pictures.forget(&[(9, digest)]).unwrap(), 1);
        assert_eq!((ids(&pictures).len(), pictures.total), (0, 0));
    }

    #[test]
    fn what_is_no_whole_file_is_removed_and_the_rest_stays() {
        let mut disk = Simulated::default();
        let mut pictures = Pictures::open(disk.clone(), 1 << 20);
        pictures.keep(&told(1, 0.5), &picture(1)).unwrap();
        pictures.keep(&told(2, 0.5), &picture(2)).unwrap();
        let whole = disk.read(&path(2)).unwrap();
        for (name, bytes) in [
            ("0000000003.kept", whole.clone()),
            ("0000000002.kept.new", whole.clone()),
            ("notes", b"hello".to_vec()),
            ("0000000002.kept", whole[..whole.len() - 1].to_vec()),
        ] {
            disk.write(&format!("{FOLDER}/{name}"), &bytes).unwrap();
        }
        let again = Pictures::open(disk.clone(), 1 << 20);
        assert_eq!(ids(&again), [1]);
        assert_eq!(disk.files(), [path(1)]);
    }

    /// The power is cut at every operation of the disk: what was said to be kept is there, whole, and what a host has not
    /// verified is never gone.
    #[test]
    fn no_kept_picture_is_lost_by_a_power_cut() {
        let mut random = Random::new(1, 1);
        let mut tried = 0;
        // What is done, by number: keep it, or have it forgotten.
        let story = [(1, true), (2, true), (1, false), (3, true), (4, true), (3, false), (5, true)];
        for done in 0..story.len() {
            let disk = Simulated::default();
            let mut pictures = Pictures::open(disk.clone(), 1 << 20);
            let mut present = vec![];
            let mut step = |pictures: &mut Pictures<Simulated>, (id, keeps): (u64, bool)| {
                if keeps {
                    pictures.keep(&told(id, 0.5), &picture(id)).unwrap();
                    present.push(id);
                } else {
                    pictures.forget(&[(id, Digest::of(&picture(id)).0)]).unwrap();
                    present.retain(|&p| p != id);
                }
                present.clone()
            };
            let before = story[..done].iter().fold(vec![], |_, &s| step(&mut pictures, s));
            disk.film();
            step(&mut pictures, story[done]);
            for moment in disk.moments() {
                for cut in moment.cuts(16, None, &mut random) {
                    tried += 1;
                    let after = Pictures::open(cut, 1 << 20);
                    let found = ids(&after);
                    // Only the one that a host has may be gone.
                    let lost =
                        before.iter().filter(|id| !found.contains(id) && (story[done].1 || **id != story[done].0));
                    assert_eq!(lost.count(), 0, "step {done}: {before:?} became {found:?}");
                    for id in found {
                        let whole = after.part(id, 0, 500).unwrap();
                        assert_eq!((whole == picture(id), whole.len()), (true, 500), "step {done}");
                    }
                }
            }
        }
        assert!(tried > 60, "{tried}");
    }
}
