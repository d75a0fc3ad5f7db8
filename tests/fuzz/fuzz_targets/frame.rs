//! Frames out of any bytes, in pieces of any length.
//!
//! The first byte says how: bit 0 puts the checksums of what begins like a frame right, the others seed the lengths of the
//! pieces.

#![no_main]

use graft_link::Random;
use graft_link::frame::{Decoder, Frame, HEADER_LEN, Kind, MAGIC, MAX_FRAME, MAX_PAYLOAD, Role, TRAILER_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    let Some((&how, bytes)) = data.split_first() else { return };
    let bytes = if how & 1 == 1 { mended(bytes) } else { bytes.to_vec() };
    let mut random = Random::new(how.into(), 0);
    let whole = decode(&bytes, || usize::MAX);
    let pieces = decode(&bytes, || 1 + random.below(300) as usize);
    assert_eq!(whole, pieces, "what is found does not depend on how it comes");
    for frame in whole.0 {
        let bytes = frame.encode().expect("a frame that was decoded");
        assert_eq!(decode(&bytes, || usize::MAX), (vec![frame], 0));
    }
});

/// Returns the good frames and how many bytes belonged to none.
fn decode(bytes: &[u8], mut len: impl FnMut() -> usize) -> (Vec<Frame>, u64) {
    let (mut decoder, mut rest, mut frames) = (Decoder::new(), bytes, Vec::new());
    while !rest.is_empty() {
        let piece = &rest[..len().min(rest.len())];
        let taken = decoder.push(piece);
        assert!(taken > 0, "there is always room for one byte");
        rest = &rest[taken..];
        while let Some(found) = decoder.next() {
            frames.extend(found);
        }
        assert!(decoder.memory() <= 4 * MAX_FRAME, "{} bytes are held", decoder.memory());
    }
    // Nothing more will come: what looked like the beginning of a frame is none, and may have hidden some.
    while decoder.has_partial() {
        decoder.abandon();
        while let Some(found) = decoder.next() {
            frames.extend(found);
        }
    }
    let good: usize = frames.iter().map(|f| HEADER_LEN + f.payload.len() + TRAILER_LEN).sum();
    assert_eq!(decoder.skipped_bytes() + good as u64, bytes.len() as u64, "every byte is accounted for");
    (frames, decoder.skipped_bytes())
}

/// Returns the bytes with good checksums.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(2).position(|pair| pair == MAGIC) {
        at += found;
        let Some(header) = bytes[at..].first_chunk_mut::<HEADER_LEN>() else { break };
        let len = usize::from(u16::from_le_bytes([header[9], header[10]])) % (MAX_PAYLOAD + 2);
        header[9..11].copy_from_slice(&(len as u16).to_le_bytes());
        let [low, high, ..] = crc32fast::hash(&header[..11]).to_le_bytes();
        header[11..].copy_from_slice(&[low, high]);
        let Some((payload, trailer)) = bytes[at + HEADER_LEN..].split_at_mut_checked(len) else { break };
        let Some(trailer) = trailer.first_chunk_mut::<TRAILER_LEN>() else { break };
        *trailer = crc32fast::hash(payload).to_le_bytes();
        at += HEADER_LEN + len + TRAILER_LEN;
    }
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind, from, len: usize| {
        let payload = (0..len).map(|i| (i * 7) as u8).collect();
        Frame { kind, from, session: 0x1234, seq: 7, ack: 0xC59E, payload }.encode().expect("a short frame")
    };
    let kinds = [Kind::Open, Kind::Opened, Kind::Part, Kind::End, Kind::Ack, Kind::Ping, Kind::Reset];
    let frames: Vec<Vec<u8>> = kinds.into_iter().map(|kind| frame(kind, Role::Initiator, 12)).collect();
    let long = frame(Kind::Part, Role::Responder, MAX_PAYLOAD);
    let cut = [&long[..1000], &frames[3], b"\r\nlogin: \xC5", &frames[2], &long[20..40]].concat();
    frames.into_iter().chain([long, cut]).flat_map(|f| [0, 1].map(|how| [&[how][..], &f].concat())).collect()
}
