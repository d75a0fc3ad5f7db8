//! A whole bundle out of any bytes, and out of those with every length and digest put right.

#![no_main]

use graft_bundle::{Bundle, BundleWriter, Digest, Head, MODEL_FILE, Manifest, SecretKey, TrustPolicy, Unsigned};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    read(data);
    if let Some(bytes) = mended(data) {
        read(&bytes);
    }
});

fn read(bytes: &[u8]) {
    let Ok(bundle) = Bundle::from_bytes(bytes) else { return };
    let manifest = bundle.manifest();
    assert_eq!(Head::read(&mut &bytes[..]).expect("the head of a bundle"), *bundle.head());
    assert_eq!(bundle.head().bytes().len() as u64 + manifest.stored_len(), bytes.len() as u64);
    for file in &manifest.files {
        let found = bundle.file(&file.path).expect("a file that is there");
        assert_eq!((found.len() as u64, Digest::of(&found)), (file.len, file.digest));
    }
    // A signature that is right is by the key that is told; only that one is trusted.
    let trusts = |keys| bundle.head().trust(&TrustPolicy { keys, unsigned: Unsigned::Refuse }).is_ok();
    assert!(!trusts(vec![]));
    assert_eq!(trusts(bundle.head().key().into_iter().collect()), bundle.head().key().is_some());
}

/// Returns an unsigned bundle of what the bytes say, as far as they hang together at all.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let len = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?) as usize;
    let json = bytes.get(16..16_usize.checked_add(len)?)?;
    let payload = bytes.get(16 + len + BACK..)?;
    let mut manifest: Manifest = serde_json::from_slice(json).ok()?;
    let (mut at, mut raws) = (0, Vec::new());
    let last = manifest.chunks.len().checked_sub(1)?;
    for (index, chunk) in manifest.chunks.iter_mut().enumerate() {
        // The last chunk takes what is left.
        let rest = payload.len() - at;
        let len = if index == last { rest } else { (chunk.stored_len as usize).min(rest) };
        let raw = zstd::bulk::decompress(&payload[at..at + len], 1 << 16).unwrap_or_default();
        (chunk.stored_len, chunk.raw_len, chunk.digest) = (len as u32, raw.len() as u32, Digest::of(&raw));
        at += len;
        raws.push(raw);
    }
    for file in &mut manifest.files {
        file.chunks.truncate(64);
        let raw = file.chunks.iter().filter_map(|c| raws.get(*c as usize)).flatten().copied().collect::<Vec<u8>>();
        (file.len, file.digest) = (raw.len() as u64, Digest::of(&raw));
    }
    let json = serde_json::to_vec(&manifest).ok()?;
    let mut whole = b"GRAFTBND\x01\0\0\0".to_vec();
    whole.extend((json.len() as u32).to_le_bytes());
    whole.extend(json);
    whole.extend(Digest::of(payload).0);
    whole.extend([0; BACK - 32]);
    whole.extend(payload);
    Some(whole)
}

fn seeds() -> Vec<Vec<u8>> {
    let mut w = BundleWriter::new("leaves", "graft");
    w.add_file(MODEL_FILE, b"abc", &[]).expect("a file");
    let small = w.to_bytes(None).expect("a bundle");
    w.labels(&["healthy".into(), "rust".into()]);
    w.add_file("golden/00.jpg", &[7; 3000], &[4, 900]).expect("a file");
    w.golden("golden/00.jpg", "rust", &[-0.1, 1.0e-8]).tolerance(0.05);
    let [plain, signed] =
        [None, Some(SecretKey::from_seed(&[1; 32]))].map(|key| w.to_bytes(key.as_ref()).expect("a bundle"));
    vec![small, plain, signed]
}

/// Digest, kind, key and signature after the manifest.
const BACK: usize = 32 + 1 + 32 + 64;
