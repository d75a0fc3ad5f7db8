//! Frames: how one piece of a message travels over a byte stream.
//!
//! Does no I/O: callers push bytes in and take frames out, so serial, TCP and the in-memory pair share it.
//! Never panics and never holds more than two frames' worth of bytes, whatever the input; after a bad frame
//! it resumes at the next magic. Spec: `docs/formats/link.md`.

use thiserror::Error;

/// The two bytes that begin every frame. Neither is ASCII text, so a login prompt cannot look like one.
pub const MAGIC: [u8; 2] = [0xC5, 0x9E];
/// Version of the frame layout, carried in every frame.
pub const FRAME_VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 13;
/// Bytes after the payload.
pub const TRAILER_LEN: usize = 4;
/// Largest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 4096;
/// Largest whole frame, in bytes.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD + TRAILER_LEN;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The initiator asks for a new session.
    Open,
    /// The responder agrees to the session.
    Opened,
    /// A piece of a message, more to follow.
    Part,
    /// The last (or only) piece of a message.
    End,
    /// Says which pieces have arrived.
    Ack,
    /// Asks the peer for an `Ack`, to learn whether it is still there.
    Ping,
    /// The sender of this frame does not know the session, or leaves it.
    Reset,
}

/// Who sent a frame. A side ignores frames of its own role, so a line that echoes is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that opens sessions: the host tool.
    Initiator,
    /// The side that waits for sessions: the device.
    Responder,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the frame is for.
    pub kind: Kind,
    /// Who sent it.
    pub from: Role,
    /// The session it belongs to.
    pub session: u16,
    /// Number of this piece; meaningful for `Part` and `End`.
    pub seq: u16,
    /// Number of the next piece that the sender of this frame waits for.
    pub ack: u16,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// Why bytes were not a frame.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The header was damaged on the way.
    #[error("frame header has checksum {found:#06x}, its bytes give {expected:#06x}; the piece will be sent again")]
    Header {
        /// Checksum of the bytes that arrived.
        expected: u16,
        /// Checksum that the frame carries.
        found: u16,
    },
    /// The payload was damaged on the way.
    #[error("frame payload has checksum {found:#010x}, its bytes give {expected:#010x}; the piece will be sent again")]
    Payload {
        /// Checksum of the bytes that arrived.
        expected: u32,
        /// Checksum that the frame carries.
        found: u32,
    },
    /// The peer speaks another version of the frame layout.
    #[error("peer speaks link version {found}, this side speaks version {expected}; update the older of the two")]
    Version {
        /// The version of this side.
        expected: u8,
        /// The version in the frame.
        found: u8,
    },
    /// The frame is of a kind that this version does not have.
    #[error("frame is of kind {found}, kinds 0 to 6 are known; update the older of the two sides")]
    Kind {
        /// The kind in the frame.
        found: u8,
    },
    /// The payload is longer than a frame may carry.
    #[error("frame payload is {found} bytes, at most {limit} are allowed; split it")]
    TooLong {
        /// Length asked for.
        found: usize,
        /// [`MAX_PAYLOAD`].
        limit: usize,
    },
}

impl Frame {
    /// Returns the bytes of the frame.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] if the payload is over [`MAX_PAYLOAD`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let too_long = FrameError::TooLong { found: self.payload.len(), limit: MAX_PAYLOAD };
        if self.payload.len() > MAX_PAYLOAD {
            return Err(too_long);
        }
        let len = u16::try_from(self.payload.len()).map_err(|_| too_long)?;
        let mut out = Vec::with_capacity(HEADER_LEN + self.payload.len() + TRAILER_LEN);
        out.extend_from_slice(&MAGIC);
        out.push((FRAME_VERSION << 4) | role_bit(self.from) | kind_bits(self.kind));
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.ack.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&header_check(&out).to_le_bytes());
        out.extend_from_slice(&self.payload);
        out.extend_from_slice(&crc32fast::hash(&self.payload).to_le_bytes());
        Ok(out)
    }
}

/// Takes frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes not yet understood; those before `start` are done with.
    buffer: Vec<u8>,
    start: usize,
    skipped: u64,
}

impl Decoder {
    /// Returns a decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `bytes`, as many as its bound allows, and returns how many.
    ///
    /// Call [`Decoder::next`] until it returns `None`, then push the rest: after that there is always room
    /// for at least one byte.
    #[must_use = "bytes that were not taken must be pushed again"]
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.buffer.drain(..self.start);
        self.start = 0;
        let room = (2 * MAX_FRAME).saturating_sub(self.buffer.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        taken.len()
    }

    /// Returns the next frame, an error for bytes that began like a frame and were none, or `None` when
    /// more bytes are needed.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends and then goes on would surprise")]
    pub fn next(&mut self) -> Option<Result<Frame, FrameError>> {
        self.seek_magic();
        let rest = self.buffer.get(self.start..)?;
        let header: &[u8; HEADER_LEN] = rest.first_chunk()?;
        let len = match check_header(header) {
            Ok(len) => len,
            Err(error) => {
                self.skip(1);
                return Some(Err(error));
            }
        };
        let body = rest.get(HEADER_LEN..HEADER_LEN + len + TRAILER_LEN)?;
        let (payload, trailer) = body.split_last_chunk::<TRAILER_LEN>()?;
        let (expected, found) = (crc32fast::hash(payload), u32::from_le_bytes(*trailer));
        if expected != found {
            self.skip(1);
            return Some(Err(FrameError::Payload { expected, found }));
        }
        let frame = read_header(header, payload.to_vec());
        self.start += HEADER_LEN + len + TRAILER_LEN;
        if frame.is_err() {
            self.skipped += (HEADER_LEN + len + TRAILER_LEN) as u64;
        }
        Some(frame)
    }

    /// Gives up on a frame that has begun and not ended, so that the bytes inside it are looked at again.
    ///
    /// For a caller that knows the line has been silent for longer than a sender pauses within a frame.
    pub fn abandon(&mut self) {
        if self.has_partial() {
            self.skip(1);
        }
    }

    /// Whether bytes are held that may be the beginning of a frame.
    pub fn has_partial(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Returns how many bytes were thrown away because they belonged to no good frame.
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped
    }

    /// Returns the bytes set aside for what is not yet understood.
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    fn seek_magic(&mut self) {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let found = rest.windows(2).position(|pair| pair == MAGIC);
        // A last byte that may be the first half of a magic stays.
        let tail = usize::from(rest.last() == Some(&MAGIC[0]));
        self.skip(found.unwrap_or(rest.len().saturating_sub(tail)));
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        self.skipped += count as u64;
    }
}

fn check_header(header: &[u8; HEADER_LEN]) -> Result<usize, FrameError> {
    let [covered @ .., check_low, check_high] = header;
    let (expected, found) = (header_check(covered), u16::from_le_bytes([*check_low, *check_high]));
    if expected != found {
        return Err(FrameError::Header { expected, found });
    }
    let version = header[2] >> 4;
    if version != FRAME_VERSION {
        return Err(FrameError::Version { expected: FRAME_VERSION, found: version });
    }
    let len = usize::from(u16::from_le_bytes([header[9], header[10]]));
    if len > MAX_PAYLOAD {
        return Err(FrameError::TooLong { found: len, limit: MAX_PAYLOAD });
    }
    Ok(len)
}

fn read_header(header: &[u8; HEADER_LEN], payload: Vec<u8>) -> Result<Frame, FrameError> {
    let from = if header[2] & ROLE_BIT == 0 { Role::Initiator } else { Role::Responder };
    let kind = match header[2] & KIND_MASK {
        0 => Kind::Open,
        1 => Kind::Opened,
        2 => Kind::Part,
        3 => Kind::End,
        4 => Kind::Ack,
        5 => Kind::Ping,
        6 => Kind::Reset,
        found => return Err(FrameError::Kind { found }),
    };
    Ok(Frame {
        kind,
        from,
        session: u16::from_le_bytes([header[3], header[4]]),
        seq: u16::from_le_bytes([header[5], header[6]]),
        ack: u16::from_le_bytes([header[7], header[8]]),
        payload,
    })
}

/// Half of a CRC-32: enough that noise rarely passes for a header, and two bytes cheaper.
fn header_check(covered: &[u8]) -> u16 {
    let [low, high, ..] = crc32fast::hash(covered).to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn role_bit(role: Role) -> u8 {
    match role {
        Role::Initiator => 0,
        Role::Responder => ROLE_BIT,
    }
}

fn kind_bits(kind: Kind) -> u8 {
    match kind {
        Kind::Open => 0,
        Kind::Opened => 1,
        Kind::Part => 2,
        Kind::End => 3,
        Kind::Ack => 4,
        Kind::Ping => 5,
        Kind::Reset => 6,
    }
}

const ROLE_BIT: u8 = 0b1000;
const KIND_MASK: u8 = 0b0111;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(len: usize) -> Frame {
        Frame {
            kind: Kind::Part,
            from: Role::Responder,
            session: 0x1234,
            seq: 0xC59E,
            ack: 7,
            payload: (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect(),
        }
    }

    /// Pushes everything and returns the good frames, as a receiver would see them.
    fn decode(decoder: &mut Decoder, mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let taken = decoder.push(bytes);
            assert!(taken > 0, "decoder made no progress");
            bytes = &bytes[taken..];
            while let Some(frame) = decoder.next() {
                frames.extend(frame);
            }
        }
        frames
    }

    #[test]
    fn layout_of_a_small_frame_is_as_documented() {
        let frame = Frame { payload: vec![1, 2, 3], ..sample(0) };
        let bytes = frame.encode().unwrap();
        assert_eq!(bytes[..11], [0xC5, 0x9E, 0x1A, 0x34, 0x12, 0x9E, 0xC5, 7, 0, 3, 0]);
        assert_eq!(bytes[13..16], [1, 2, 3]);
        // CRC-32 (ISO-HDLC) of 01 02 03, as zlib gives it.
        assert_eq!(bytes[16..], 0x55BC_801D_u32.to_le_bytes());
    }

    #[test]
    fn a_frame_survives_any_split_and_leading_garbage() {
        let bytes = [b"\r\nlogin: \xC5".as_slice(), &sample(300).encode().unwrap()].concat();
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::new();
            let mut frames = decode(&mut decoder, &bytes[..cut]);
            frames.extend(decode(&mut decoder, &bytes[cut..]));
            assert_eq!(frames, [sample(300)], "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_loses_that_frame_and_no_other() {
        let good = sample(40).encode().unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let frames = decode(&mut Decoder::new(), &[bad, good.clone()].concat());
            assert_eq!(frames, [sample(40)], "bit {bit}");
        }
    }

    #[test]
    fn a_truncated_frame_does_not_swallow_the_next() {
        let good = sample(40).encode().unwrap();
        for cut in 0..good.len() {
            let frames = decode(&mut Decoder::new(), &[&good[..cut], &good, &good].concat());
            assert_eq!(frames, [sample(40), sample(40)], "cut at {cut}");
        }
    }

    #[test]
    fn abandoning_a_stuck_frame_frees_the_one_inside() {
        let long = sample(2000).encode().unwrap();
        let short = sample(5).encode().unwrap();
        let mut decoder = Decoder::new();
        assert!(decode(&mut decoder, &[&long[..100], &short].concat()).is_empty());
        decoder.abandon();
        assert_eq!(decoder.next(), Some(Ok(sample(5))));
    }

    #[test]
    fn another_version_is_reported_with_its_number() {
        let mut bytes = sample(0).encode().unwrap();
        bytes[2] = (bytes[2] & 0x0F) | 0x20;
        let check = header_check(&bytes[..11]).to_le_bytes();
        bytes[11..13].copy_from_slice(&check);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push(&bytes), bytes.len());
        assert_eq!(decoder.next(), Some(Err(FrameError::Version { expected: 1, found: 2 })));
    }

    #[test]
    fn encode_refuses_a_payload_over_the_limit() {
        assert!(sample(MAX_PAYLOAD).encode().is_ok());
        let error = sample(MAX_PAYLOAD + 1).encode().unwrap_err();
        assert_eq!(error, FrameError::TooLong { found: 4097, limit: 4096 });
    }

    proptest! {
        #[test]
        fn decoding_noise_never_panics_and_stays_within_its_bound(
            pieces in prop::collection::vec(prop::collection::vec(
                prop_oneof![Just(MAGIC[0]), Just(MAGIC[1]), any::<u8>()], 0..9000), 0..4)
        ) {
            let mut decoder = Decoder::new();
            for piece in &pieces {
                decode(&mut decoder, piece);
                prop_assert!(decoder.buffer.capacity() <= 4 * MAX_FRAME);
            }
        }

        #[test]
        fn frames_between_noise_are_all_found(
            noise in prop::collection::vec(prop::collection::vec(0u8..0x80, 0..50), 1..5),
            len in 0usize..MAX_PAYLOAD,
        ) {
            let mut bytes = Vec::new();
            for piece in &noise {
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(&sample(len).encode().unwrap());
            }
            prop_assert_eq!(decode(&mut Decoder::new(), &bytes).len(), noise.len());
        }
    }
}
