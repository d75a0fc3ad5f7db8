//! Messages: what host and device say to each other, and how that becomes bytes.
//!
//! Knows nothing of frames, time or ports. A variant's number is its place in the enum, so new ones are
//! appended, never inserted. Spec: `docs/formats/link.md`.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Newest version of the messages that is spoken here; `Hello` finds the newest that both sides speak.
pub const PROTOCOL_VERSION: u16 = 4;
/// Oldest version that is spoken here.
pub const OLDEST_PROTOCOL: u16 = 1;
/// Largest message, in bytes, encoded.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// Begins a conversation.
    Hello {
        /// The host's [`PROTOCOL_VERSION`].
        protocol: u16,
        /// The host's program and version, for the device's log.
        client: String,
    },
    /// Asks what the device is.
    Info,
    /// Asks what is in the slots.
    Slots,
    /// Begins (or goes on with) the transfer of a bundle into the slot that is not running.
    Begin {
        /// The head of the bundle: manifest, golden samples and signature, as in the file.
        #[serde(with = "bytes")]
        head: Vec<u8>,
    },
    /// Asks which chunks of the begun bundle are still missing.
    Missing,
    /// Delivers one chunk of the begun bundle.
    Chunk {
        /// Its place in the manifest.
        index: u32,
        /// Its bytes as stored in the file.
        #[serde(with = "bytes")]
        stored: Vec<u8>,
    },
    /// Has the device verify the bundle, run its self-test and start it on trial.
    Finish,
    /// Makes the bundle on trial permanent.
    Commit,
    /// Goes back to the other slot.
    Rollback,
    /// Has the device classify one picture.
    Classify {
        /// A name for the device's log and screen.
        name: String,
        /// A JPEG or PNG file.
        #[serde(with = "bytes")]
        image: Vec<u8>,
    },
    /// Asks for a picture of the display.
    Screen,
    /// Asks for the newest predictions.
    Recent {
        /// At most this many.
        count: u32,
    },
    /// Asks what the device is made of. Since protocol 2, as all below.
    About,
    /// Has the same bytes sent back, to try the line.
    Echo {
        /// Anything.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Has the device go on at another rate of the line, once its answer is there. It returns to the rate of its
    /// configuration at the end of the session, and when it hears nothing good.
    Rate {
        /// Bits a second.
        bits_per_second: u32,
    },
    /// Asks for the newest entries of the device's log of bundles.
    Log {
        /// At most this many.
        count: u32,
    },
    /// Gives the device another name.
    Rename {
        /// 1 to 64 printable characters.
        name: String,
    },
    /// Asks for the device's clock, after setting it if a time is given.
    Clock {
        /// Milliseconds since 1970.
        set_unix_ms: Option<u64>,
    },
    /// Has the device start anew.
    Restart {
        /// What of it.
        what: Restart,
    },
    /// Has the device prove who it is.
    Prove {
        /// Random, and new each time.
        nonce: [u8; 32],
    },
    /// Says who the host is; answers the challenge in `Proof`.
    Identify {
        /// The host's ed25519 key.
        key: [u8; 32],
        /// Over what `docs/formats/link.md` says.
        #[serde(with = "bytes")]
        signature: Vec<u8>,
    },
    /// As `Classify`, with all that is known of the answer. Since protocol 3, as all below.
    Judge {
        /// A name for the device's log and screen.
        name: String,
        /// A JPEG or PNG file.
        #[serde(with = "bytes")]
        image: Vec<u8>,
    },
    /// Asks which pictures the device keeps, the most valuable first.
    Kept {
        /// So many are known already.
        skip: u32,
        /// At most this many; a device tells of at most [`MAX_TOLD`].
        count: u32,
    },
    /// Asks for a part of a kept picture.
    Picture {
        /// The number of its prediction.
        id: u64,
        /// From which byte.
        offset: u64,
        /// At most so many bytes; a device sends at most [`MAX_PART`].
        count: u32,
    },
    /// Has kept pictures deleted, which the host has.
    Forget {
        /// The number of each prediction, and the BLAKE3 digest of the picture that the host has; at most [`MAX_TOLD`].
        pictures: Vec<(u64, [u8; 32])>,
    },
    /// Asks for predictions in the order of their numbers.
    Predictions {
        /// Only those of higher numbers.
        after: u64,
        /// At most this many; a device tells of at most [`MAX_TOLD`].
        count: u32,
    },
    /// Brings a part of a bundle's file into the device's memory, to be measured; the first one forgets what was there.
    /// Since protocol 4, as all below.
    Spool {
        /// Where in the file it begins: 0, or where the part before it ended.
        offset: u64,
        /// Bytes of the file.
        total: u64,
        /// The part.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Has the device test and time the bundle in its memory, and forget it. What runs goes on, nothing is written.
    Measure,
}

/// Most pictures or predictions in one message.
pub const MAX_TOLD: usize = 100;
/// Most bytes of a picture in one message.
pub const MAX_PART: usize = 32 << 10;
/// Most characters of each text of a [`Told`].
pub const MAX_TEXT: usize = 200;

/// What starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Restart {
    /// The daemon alone.
    Daemon,
    /// The board.
    Board,
}

impl Request {
    /// Returns the request's name, for messages.
    pub fn name(&self) -> &'static str {
        self.told().0
    }

    /// Returns the first protocol that has it.
    pub fn since(&self) -> u16 {
        self.told().1
    }

    fn told(&self) -> (&'static str, u16) {
        match self {
            Self::Hello { .. } => ("Hello", 1),
            Self::Info => ("Info", 1),
            Self::Slots => ("Slots", 1),
            Self::Begin { .. } => ("Begin", 1),
            Self::Missing => ("Missing", 1),
            Self::Chunk { .. } => ("Chunk", 1),
            Self::Finish => ("Finish", 1),
            Self::Commit => ("Commit", 1),
            Self::Rollback => ("Rollback", 1),
            Self::Classify { .. } => ("Classify", 1),
            Self::Screen => ("Screen", 1),
            Self::Recent { .. } => ("Recent", 1),
            Self::About => ("About", 2),
            Self::Echo { .. } => ("Echo", 2),
            Self::Rate { .. } => ("Rate", 2),
            Self::Log { .. } => ("Log", 2),
            Self::Rename { .. } => ("Rename", 2),
            Self::Clock { .. } => ("Clock", 2),
            Self::Restart { .. } => ("Restart", 2),
            Self::Prove { .. } => ("Prove", 2),
            Self::Identify { .. } => ("Identify", 2),
            Self::Judge { .. } => ("Judge", 3),
            Self::Kept { .. } => ("Kept", 3),
            Self::Picture { .. } => ("Picture", 3),
            Self::Forget { .. } => ("Forget", 3),
            Self::Predictions { .. } => ("Predictions", 3),
            Self::Spool { .. } => ("Spool", 4),
            Self::Measure => ("Measure", 4),
        }
    }
}

/// What the device answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// Answers `Hello`.
    Hello {
        /// The device's [`PROTOCOL_VERSION`].
        protocol: u16,
        /// The device's name.
        device: String,
        /// Version of the daemon.
        version: String,
    },
    /// Answers `Info`.
    Info(DeviceInfo),
    /// Answers `Slots`.
    Slots(Vec<SlotInfo>),
    /// Answers `Begin` and `Missing`.
    Begun {
        /// The chunks that the device does not have.
        missing: ChunkRanges,
        /// The slot that is being written.
        slot: String,
    },
    /// Answers `Chunk`: it is on disk and its digest is right.
    ChunkStored {
        /// Its place in the manifest.
        index: u32,
    },
    /// Answers `Finish`: the bundle is on trial.
    Finished {
        /// The slot that runs now.
        slot: String,
        /// What the self-test measured.
        self_test: SelfTest,
    },
    /// Answers what has nothing to tell, such as `Commit`, `Rollback` and `Spool`.
    Done,
    /// Answers `Classify`.
    Classified(Classified),
    /// Answers `Screen`.
    Screen {
        /// A PNG file.
        #[serde(with = "bytes")]
        png: Vec<u8>,
    },
    /// Answers `Recent`, newest first.
    Recent(Vec<Prediction>),
    /// Answers anything: the device will not, and why.
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// The reason in words, with the values found and expected.
        message: String,
    },
    /// Comes any number of times before the answer.
    Progress(Progress),
    /// Answers `About`. Since protocol 2, as all below.
    About(About),
    /// Answers `Echo`.
    Echo {
        /// The bytes as they came.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Answers `Log`, newest first.
    Log(Vec<LogEntry>),
    /// Answers `Clock`.
    Clock {
        /// The device's clock, milliseconds since 1970.
        unix_ms: u64,
        /// Whether the clock of the system was set, and not the daemon's alone.
        is_system: bool,
    },
    /// Answers `Prove`.
    Proof {
        /// The device's ed25519 key.
        key: [u8; 32],
        /// Over what `docs/formats/link.md` says.
        #[serde(with = "bytes")]
        signature: Vec<u8>,
        /// What a host signs to say who it is; good for this session.
        challenge: [u8; 32],
    },
    /// Answers `Judge`. Since protocol 3, as all below.
    Judged(Judged),
    /// Answers `Kept`.
    Kept {
        /// Of which store: another number, and other pictures may have the same numbers.
        store: u64,
        /// Pictures kept in all.
        total: u32,
        /// The most valuable first.
        pictures: Vec<Kept>,
    },
    /// Answers `Picture`.
    Picture {
        /// Fewer than asked for at its end.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Answers `Forget`.
    Forgotten {
        /// So many were there and are deleted.
        count: u32,
    },
    /// Answers `Predictions`, the lowest number first.
    Predictions {
        /// As in `Kept`.
        store: u64,
        /// None where there are no more.
        predictions: Vec<Told>,
    },
    /// Answers `Measure`. Since protocol 4, as all below.
    Measured(Measurement),
}

/// What a device measured of a bundle that it does not keep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// Golden samples run, all within tolerance.
    pub samples: u32,
    /// Largest difference to the host's expected outputs.
    pub max_abs_diff: f32,
    /// The fastest milliseconds of the network alone, one thread.
    pub network_ms: f64,
    /// Median milliseconds of one sample, its preprocessing included.
    pub latency_ms: f64,
    /// Milliseconds that loading the model took.
    pub load_ms: f64,
    /// Bytes that the engine needs for it: packed weights, activations and scratch; none where it does not tell.
    pub memory: Option<u64>,
    /// The engine, and for which instructions.
    pub engine: String,
    /// Why the board may be slower than it could be, for a person; none where it tells of nothing.
    pub warning: Option<String>,
}

/// What a picture shows, and what the answer is worth.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Judged {
    /// The answer.
    pub classified: Classified,
    /// The labels that it may be, the most probable first; none where the model was not calibrated so.
    pub set: Vec<String>,
    /// Why it is not to be relied on, for a person; none where it is.
    pub doubt: Option<String>,
    /// Whether the device keeps the picture.
    pub is_kept: bool,
}

impl Judged {
    /// Returns what a person is told: the label, or why it is not to be relied on.
    pub fn answer(&self) -> &str {
        self.doubt.as_ref().unwrap_or(&self.classified.label)
    }
}

/// A prediction with all that is remembered of it; its texts are cut at [`MAX_TEXT`] characters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Told {
    /// Counts up by one with each prediction of this store.
    pub id: u64,
    /// The device's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Name of the picture, or of the camera.
    pub source: String,
    /// Name of the bundle that answered.
    pub model: String,
    /// The best label.
    pub label: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// The next best label and its probability.
    pub second: Option<(String, f32)>,
    /// Why the answer is not to be relied on, for a person.
    pub doubt: Option<String>,
    /// What the picture is worth to learn from; more is more.
    pub value: f32,
    /// Time for preprocessing and the network.
    pub latency_ms: f32,
    /// Pictures in a row of which the answer is the mean; 0 and 1 are this one alone.
    #[serde(default)]
    pub frames: u32,
}

/// A picture that the device keeps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// What was said of it.
    pub told: Told,
    /// Bytes of the file.
    pub len: u64,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
}

/// What a device is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct About {
    /// The board as its firmware names it; empty where it does not.
    pub board: String,
    /// The system.
    pub system: String,
    /// The device's ed25519 key, which `Prove` has it prove.
    pub key: [u8; 32],
    /// Largest bundle taken, in bytes on the device's disk.
    pub max_bundle_bytes: u64,
    /// Whether this host may only read status, because its key is not trusted.
    pub is_guarded: bool,
}

/// One entry of the device's log of bundles.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogEntry {
    /// The device's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// What happened.
    pub text: String,
}

/// How far a long request has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub text: String,
    /// Steps done.
    pub done: u32,
    /// Steps in all; 0 when not known.
    pub total: u32,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its name, from its configuration.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Processor architecture, as Rust names it.
    pub arch: String,
    /// The engine that runs networks, and its version.
    pub engine: String,
    /// Time since the daemon started.
    pub uptime_ms: u64,
    /// The slot that runs, if one does.
    pub slot: Option<String>,
    /// The bundle that runs, if one does.
    pub bundle_name: Option<String>,
    /// Pictures classified since the daemon started.
    pub predictions: u64,
    /// Space left for bundles.
    pub free_bytes: u64,
}

/// What is in one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// `A` or `B`.
    pub name: String,
    /// How far its bundle has come.
    pub state: SlotState,
    /// Name of the bundle; empty when there is none.
    pub bundle_name: String,
    /// Digest of the bundle; zeros when there is none.
    pub bundle_digest: [u8; 32],
    /// Whether it is the one that runs.
    pub current: bool,
}

/// How far the bundle in a slot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SlotState {
    /// Nothing is there.
    Empty,
    /// A transfer has begun and not ended.
    Partial,
    /// Whole and verified, not running and not condemned.
    Ready,
    /// Running, and left again unless it is committed.
    Trial,
    /// Running, or ready to run, for good.
    Committed,
    /// Its self-test or its trial went wrong.
    Failed,
}

/// What a device's self-test measured on the golden samples.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SelfTest {
    /// Whether every sample was within tolerance.
    pub passed: bool,
    /// Samples run.
    pub samples: u32,
    /// Samples out of tolerance.
    pub failed: u32,
    /// Largest difference to the host's expected outputs.
    pub max_abs_diff: f32,
    /// Median time for one sample.
    pub latency_ms: f32,
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Classified {
    /// The best label.
    pub label: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// Time for preprocessing and the network.
    pub latency_ms: f32,
    /// The best labels with their probabilities, best first.
    pub top: Vec<(String, f32)>,
}

/// One prediction that the device remembers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Prediction {
    /// Counts up by one with each prediction of this device.
    pub id: u64,
    /// The device's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Name of the picture, or of the camera.
    pub source: String,
    /// The best label.
    pub label: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// Time for preprocessing and the network.
    pub latency_ms: f32,
}

/// Why a device refuses. Travels as a number; a number that this version does not know stays readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
#[non_exhaustive]
pub enum RefusalCode {
    /// Bytes do not match their digest.
    Digest,
    /// The signature is missing, wrong or by a key that the device does not trust.
    Signature,
    /// The self-test did not pass.
    Gate,
    /// Not enough room.
    Space,
    /// Something else is going on; try again.
    Busy,
    /// The other side is too old or too new.
    Version,
    /// The picture cannot be read.
    Image,
    /// No bundle is running.
    NoModel,
    /// The request cannot be understood.
    Malformed,
    /// The request does not fit the present state, as a chunk before `Begin`.
    State,
    /// The bundle cannot run on this device.
    Unsupported,
    /// The device has a fault of its own.
    Internal,
    /// The host's key is not trusted.
    Untrusted,
    /// A reason newer than this version.
    Other(u16),
}

impl From<u16> for RefusalCode {
    fn from(number: u16) -> Self {
        KNOWN_CODES.iter().find(|(_, known)| *known == number).map_or(Self::Other(number), |(code, _)| *code)
    }
}

impl From<RefusalCode> for u16 {
    fn from(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Other(number) => number,
            known => KNOWN_CODES.iter().find(|(other, _)| *other == known).map_or(0, |(_, number)| *number),
        }
    }
}

/// The numbers of `docs/formats/link.md`.
const KNOWN_CODES: [(RefusalCode, u16); 13] = [
    (RefusalCode::Digest, 1),
    (RefusalCode::Signature, 2),
    (RefusalCode::Gate, 3),
    (RefusalCode::Space, 4),
    (RefusalCode::Busy, 5),
    (RefusalCode::Version, 6),
    (RefusalCode::Image, 7),
    (RefusalCode::NoModel, 8),
    (RefusalCode::Malformed, 9),
    (RefusalCode::State, 10),
    (RefusalCode::Unsupported, 11),
    (RefusalCode::Internal, 12),
    (RefusalCode::Untrusted, 13),
];

/// A set of chunk numbers as ascending runs `(first, count)`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChunkRanges(Vec<(u32, u32)>);

impl ChunkRanges {
    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, count)| *count == 0)
    }

    /// Returns the numbers below `limit`, so that a run from outside cannot make the caller count for ever.
    pub fn below(&self, limit: u32) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(move |&(first, count)| first..first.saturating_add(count).min(limit))
    }
}

impl FromIterator<u32> for ChunkRanges {
    /// Takes ascending numbers; others are kept, only less compactly.
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some((first, count)) if first.checked_add(*count) == Some(number) => *count += 1,
                _ => runs.push((number, 1)),
            }
        }
        Self(runs)
    }
}

/// Why a message could not be made or understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The bytes are no message of this version.
    #[error(
        "message of {len} bytes is not one of protocol version {PROTOCOL_VERSION} ({source}); update the older side"
    )]
    Decode {
        /// Length of the message.
        len: usize,
        /// What the decoder said.
        source: postcard::Error,
    },
    /// The message cannot be encoded.
    #[error("message cannot be encoded")]
    Encode(#[source] postcard::Error),
    /// The message is over the limit.
    #[error("message is {found} bytes, at most {limit} are allowed; use a smaller picture or smaller chunks")]
    TooLarge {
        /// Its length.
        found: usize,
        /// [`MAX_MESSAGE`].
        limit: usize,
    },
}

/// Returns the bytes of a request or response with the number that ties the two together.
///
/// # Errors
///
/// [`MessageError::TooLarge`] if it is over [`MAX_MESSAGE`].
pub fn encode<M: Serialize>(id: u32, message: &M) -> Result<Vec<u8>, MessageError> {
    let bytes = postcard::to_stdvec(&(id, message)).map_err(MessageError::Encode)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError::TooLarge { found: bytes.len(), limit: MAX_MESSAGE });
    }
    Ok(bytes)
}

/// Returns the number at the front of a message, and the rest.
///
/// # Errors
///
/// [`MessageError::Decode`] if there is none.
pub fn decode_id(bytes: &[u8]) -> Result<(u32, &[u8]), MessageError> {
    postcard::take_from_bytes(bytes).map_err(|source| MessageError::Decode { len: bytes.len(), source })
}

/// Returns the request or response after the number. Bytes beyond it are ignored: later versions may append.
///
/// # Errors
///
/// [`MessageError::Decode`] if it is none of this version.
pub fn decode_body<M: DeserializeOwned>(body: &[u8]) -> Result<M, MessageError> {
    postcard::from_bytes(body).map_err(|source| MessageError::Decode { len: body.len(), source })
}

/// Byte strings as one block; serde would otherwise take them byte by byte. The encoding is the same.
mod bytes {
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Block;
        impl de::Visitor<'_> for Block {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Block)
    }
}

/// Whether a text may be a device's name: 1 to 64 printable characters.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= 64 && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_of_a_chunk_are_as_documented() {
        let bytes = encode(300, &Request::Chunk { index: 1, stored: vec![9, 8, 7] }).unwrap();
        assert_eq!(bytes, [0xAC, 0x02, 5, 1, 3, 9, 8, 7]);
        let (id, body) = decode_id(&bytes).unwrap();
        let back: Request = decode_body(body).unwrap();
        assert_eq!((id, back), (300, Request::Chunk { index: 1, stored: vec![9, 8, 7] }));
    }

    #[test]
    fn the_numbers_of_requests_and_responses_stay() {
        let last = encode(0, &Request::Recent { count: 1 }).unwrap();
        assert_eq!(last, [0, 11, 1]);
        let refused = Response::Refused { code: RefusalCode::Gate, message: "no".into() };
        assert_eq!(encode(0, &refused).unwrap(), [0, 10, 3, 2, b'n', b'o']);
    }

    #[test]
    fn the_numbers_of_protocol_2_stay() {
        let identify = Request::Identify { key: [7; 32], signature: vec![9] };
        assert_eq!(encode(0, &identify).unwrap(), [&[0, 20][..], &[7; 32], &[1, 9]].concat());
        assert_eq!(encode(0, &Request::Restart { what: Restart::Board }).unwrap(), [0, 18, 1]);
        let proof = Response::Proof { key: [1; 32], signature: vec![2], challenge: [3; 32] };
        assert_eq!(encode(0, &proof).unwrap(), [&[0, 16][..], &[1; 32], &[1, 2], &[3; 32]].concat());
    }

    #[test]
    fn the_numbers_of_protocol_3_stay() {
        assert_eq!(encode(0, &Request::Predictions { after: 1, count: 2 }).unwrap(), [0, 25, 1, 2]);
        assert_eq!(encode(0, &Request::Picture { id: 3, offset: 4, count: 5 }).unwrap(), [0, 23, 3, 4, 5]);
        assert_eq!(encode(0, &Response::Forgotten { count: 7 }).unwrap(), [0, 20, 7]);
        let none = Response::Predictions { store: 9, predictions: vec![] };
        assert_eq!(encode(0, &none).unwrap(), [0, 21, 9, 0]);
    }

    #[test]
    fn the_numbers_of_protocol_4_stay() {
        let spool = Request::Spool { offset: 300, total: 1, bytes: vec![9, 8] };
        assert_eq!(encode(0, &spool).unwrap(), [0, 26, 0xAC, 2, 1, 2, 9, 8]);
        assert_eq!(encode(0, &Request::Measure).unwrap(), [0, 27]);
        let found = Measurement { samples: 6, network_ms: 1.0, memory: Some(5), ..Measurement::default() };
        let one = [0, 0, 0, 0, 0, 0, 0xF0, 0x3F];
        let expected = [&[0, 22, 6][..], &[0; 4], &one, &[0; 16], &[1, 5, 0, 0]].concat();
        assert_eq!(encode(0, &Response::Measured(found)).unwrap(), expected);
    }

    /// The limits go together: what is full of the longest texts still is one message.
    #[test]
    fn the_longest_answers_fit_a_message() {
        let long = || "\u{10ffff}".repeat(MAX_TEXT);
        let told = Told {
            id: u64::MAX,
            unix_ms: u64::MAX,
            source: long(),
            model: long(),
            label: long(),
            second: Some((long(), 0.5)),
            doubt: Some(long()),
            ..Told::default()
        };
        let kept = Kept { told, len: u64::MAX, digest: [255; 32] };
        let full = Response::Kept { store: u64::MAX, total: u32::MAX, pictures: vec![kept; MAX_TOLD] };
        assert!(encode(u32::MAX, &full).unwrap().len() <= MAX_MESSAGE);
        assert!(encode(u32::MAX, &Request::Forget { pictures: vec![(u64::MAX, [255; 32]); MAX_TOLD] }).is_ok());
    }

    #[test]
    fn an_unknown_variant_is_an_error_and_an_unknown_refusal_is_not() {
        assert!(decode_body::<Request>(&[99]).is_err());
        let refused: Response = decode_body(&[10, 77, 0]).unwrap();
        assert_eq!(refused, Response::Refused { code: RefusalCode::Other(77), message: String::new() });
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        // A chunk that claims four billion bytes and has one.
        assert!(decode_body::<Request>(&[5, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1]).is_err());
        assert!(decode_body::<Response>(&[2, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1]).is_err());
    }

    #[test]
    fn encode_refuses_a_message_over_the_limit() {
        let image = vec![0; MAX_MESSAGE];
        let error = encode(0, &Request::Classify { name: "x".into(), image }).unwrap_err();
        assert!(matches!(error, MessageError::TooLarge { found, .. } if found > MAX_MESSAGE), "{error}");
    }

    #[test]
    fn ranges_are_compact_and_bounded() {
        let ranges: ChunkRanges = [0, 1, 2, 7, 9, 10].into_iter().collect();
        assert_eq!(ranges.0, [(0, 3), (7, 1), (9, 2)]);
        assert_eq!(ranges.below(10).collect::<Vec<_>>(), [0, 1, 2, 7, 9]);
        assert!(!ranges.is_empty() && ChunkRanges::default().is_empty());
        assert_eq!(ChunkRanges(vec![(5, u32::MAX)]).below(8).collect::<Vec<_>>(), [5, 6, 7]);
    }

    #[test]
    fn every_refusal_code_survives_the_wire() {
        for (code, number) in KNOWN_CODES {
            assert_eq!((u16::from(code), RefusalCode::from(number)), (number, code));
        }
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((_, body)) = decode_id(&bytes) {
                let _ = decode_body::<Request>(body);
                let _ = decode_body::<Response>(body);
            }
        }
    }
}
