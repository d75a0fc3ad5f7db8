//! Cuts a stream into JPEG files by their markers. Does no I/O.
//!
//! What is between files is skipped: padding of cameras, boundaries of a multipart stream. A file that ends in the middle,
//! because the camera did, is left out and counted. Never holds more than [`MAX_FRAME`] and what one push brings.
//!
//! # Source
//!
//! ITU-T T.81 annex B.

/// Longest file, in bytes.
pub const MAX_FRAME: usize = 32 << 20;

/// Takes bytes in and gives files out.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Where the file, or the search for one, begins.
    start: usize,
    /// Up to where it has been looked at.
    at: usize,
    state: State,
    torn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Before a file.
    #[default]
    Outside,
    /// At a marker.
    Segments,
    /// In entropy-coded data.
    Scan,
}

/// What a look at the next bytes says.
enum Look {
    /// They are not there yet.
    Short,
    Goes,
    /// No file goes on like this.
    Torn,
    Whole,
}

impl Splitter {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.at -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole file; none: it takes more bytes.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            let look = match self.state {
                State::Outside => self.outside(),
                State::Segments => self.segment(),
                State::Scan => self.scan(),
            };
            match look {
                Look::Goes => {}
                Look::Short if self.buffer.len() - self.start > MAX_FRAME => self.tear(),
                Look::Short => return None,
                Look::Torn => self.tear(),
                Look::Whole => {
                    let file = self.buffer.get(self.start..self.at).map(<[u8]>::to_vec);
                    (self.start, self.state) = (self.at, State::Outside);
                    return file;
                }
            }
        }
    }

    /// Returns how many files were left out because they did not go on as one does.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Gives up on the file and looks for the next one behind its beginning.
    fn tear(&mut self) {
        self.torn += 1;
        self.start += START.len().min(self.buffer.len() - self.start);
        (self.at, self.state) = (self.start, State::Outside);
    }

    fn outside(&mut self) -> Look {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        match rest.windows(START.len()).position(|w| w == START) {
            Some(skipped) => {
                self.start += skipped;
                self.at = self.start + 2;
                self.state = State::Segments;
                Look::Goes
            }
            None => {
                // Its first bytes may be those of a file.
                self.start += rest.len().saturating_sub(START.len() - 1);
                self.at = self.start;
                Look::Short
            }
        }
    }

    fn segment(&mut self) -> Look {
        let (Some(&mark), Some(&marker)) = (self.buffer.get(self.at), self.buffer.get(self.at + 1)) else {
            return Look::Short;
        };
        match (mark, marker) {
            (0xff, 0xff) => {
                self.at += 1;
                Look::Goes
            }
            (0xff, END) => {
                self.at += 2;
                Look::Whole
            }
            (0xff, 0xc0..=0xfe) if !matches!(marker, 0xd0..=0xd8) => {
                let (Some(&high), Some(&low)) = (self.buffer.get(self.at + 2), self.buffer.get(self.at + 3)) else {
                    return Look::Short;
                };
                let len = usize::from(u16::from_be_bytes([high, low]));
                if len < 2 {
                    return Look::Torn;
                }
                if self.buffer.len() < self.at + 2 + len {
                    return Look::Short;
                }
                self.at += 2 + len;
                self.state = if marker == SCAN { State::Scan } else { State::Segments };
                Look::Goes
            }
            _ => Look::Torn,
        }
    }

    fn scan(&mut self) -> Look {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let Some(data) = rest.iter().position(|&b| b == 0xff) else {
            self.at = self.buffer.len();
            return Look::Short;
        };
        self.at += data;
        match self.buffer.get(self.at + 1) {
            None => Look::Short,
            // Data, or a restart between them.
            Some(0x00 | 0xd0..=0xd7) => {
                self.at += 2;
                Look::Goes
            }
            Some(0xd8) => Look::Torn,
            Some(_) => {
                self.state = State::Segments;
                Look::Goes
            }
        }
    }
}

/// How every file begins: a marker, and the mark of the next.
const START: [u8; 3] = [0xff, 0xd8, 0xff];
const SCAN: u8 = 0xda;
const END: u8 = 0xd9;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a file of the structure of a JPEG with so many bytes of data, a thumbnail in a segment and a restart marker.
    pub(crate) fn jpeg(seed: u8, len: usize) -> Vec<u8> {
        let thumbnail = [0xff, 0xd8, 0xff, 0xd9];
        let mut file = vec![0xff, 0xd8, 0xff, 0xe1, 0, 6];
        file.extend(thumbnail);
        file.extend([0xff, 0xda, 0, 3, 1]);
        let data = (0..len).flat_map(|i| match (i + usize::from(seed)) % 250 {
            249 => vec![0xff, 0x00],
            248 => vec![0xff, 0xd3],
            b => vec![b as u8],
        });
        file.extend(data);
        file.extend([0xff, 0xc4, 0, 2, 0xff, 0xda, 0, 2, 7, 7, 0xff, 0xff, 0xd9]);
        file
    }

    fn all(chunks: impl IntoIterator<Item = Vec<u8>>) -> (Vec<Vec<u8>>, u64) {
        let (mut splitter, mut found) = (Splitter::default(), vec![]);
        for chunk in chunks {
            splitter.push(&chunk);
            found.extend(std::iter::from_fn(|| splitter.take()));
        }
        (found, splitter.torn())
    }

    proptest! {
        #[test]
        fn files_come_out_however_they_went_in(
            sizes in prop::collection::vec((0u8..255, 0usize..900), 1..6),
            padding in prop::collection::vec(0usize..40, 6),
            cut in 1usize..700,
        ) {
            let files: Vec<Vec<u8>> = sizes.iter().map(|&(seed, len)| jpeg(seed, len)).collect();
            let mut stream = vec![];
            for (file, &n) in files.iter().zip(&padding) {
                stream.extend(b"--boundary\r\nContent-Type: image/jpeg\r\n\r\n".iter().take(n));
                stream.extend(file);
            }
            let (found, torn) = all(stream.chunks(cut).map(<[u8]>::to_vec));
            prop_assert_eq!((found, torn), (files, 0));
        }

        #[test]
        fn no_bytes_break_it(mut bytes in prop::collection::vec(any::<u8>(), 0..400), marks in prop::collection::vec(0usize..400, 0..60)) {
            for at in marks {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 0xff;
                }
            }
            let start = [&[0xff, 0xd8, 0xff, 0xda][..], &bytes].concat();
            let last = jpeg(3, 50);
            let (found, _) = all([start, vec![0xff, 0xd9], vec![0; 70_000], last.clone()]);
            prop_assert_eq!(found.last(), Some(&last));
        }
    }

    #[test]
    fn a_file_that_ends_in_the_middle_is_left_out_and_the_next_one_is_not() {
        let (whole, next) = (jpeg(1, 300), jpeg(2, 300));
        let cuts = 3..whole.len() - 1;
        let well = cuts.clone().filter(|&cut| {
            let (found, torn) = all([[&whole[..cut], &next.repeat(400)].concat()]);
            let same = found.iter().rev().take_while(|f| **f == next).count();
            // Cut at the length of a segment, it takes what follows for that, for 64 KB at most.
            assert!(same > 400 - 70_000 / 300, "{cut}: {same} {torn}");
            (torn, same) == (1, 400)
        });
        let (well, cuts) = (well.count(), cuts.len());
        assert!(well > cuts - 20, "{well} of {cuts}");
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let mut splitter = Splitter::default();
        splitter.push(&[0xff, 0xd8, 0xff, 0xda, 0, 2]);
        let mut most = 0;
        for _ in 0..700 {
            splitter.push(&[0; 64 << 10]);
            assert_eq!(splitter.take(), None);
            most = most.max(splitter.buffer.len());
        }
        assert!(splitter.torn() == 1 && most <= MAX_FRAME + (128 << 10), "{most}");
    }
}
