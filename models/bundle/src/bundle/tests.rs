//! Bundles made, broken in every way, and refused by name.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{BundleWriter, MODEL_FILE, PublicKey, SecretKey, Trust, TrustPolicy, Unsigned};

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn policy(keys: &[PublicKey], unsigned: Unsigned) -> TrustPolicy {
    TrustPolicy { keys: keys.to_vec(), unsigned }
}

fn writer(model: &[u8], borders: &[usize]) -> BundleWriter {
    let mut w = BundleWriter::new("leaves", "graft 0.1.0");
    w.labels(&["healthy".into(), "rust".into()]);
    w.metadata([("graft.preprocessing".to_owned(), "{\"crop\":96}".to_owned())].into());
    w.add_file(MODEL_FILE, model, borders).unwrap();
    w.add_file("golden/00.jpg", b"jpeg", &[]).unwrap();
    w.golden("golden/00.jpg", "rust", &[-0.1, 1.0e-8]).tolerance(0.05);
    w
}

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn what_was_packed_comes_out_and_packing_again_gives_the_same_bytes() {
    let model = noise(200_000, 1);
    let bytes = writer(&model, &[100, 70_000]).to_bytes(Some(&key(1))).unwrap();
    assert_eq!(bytes, writer(&model, &[100, 70_000]).to_bytes(Some(&key(1))).unwrap());
    let bundle = Bundle::from_bytes(&bytes).unwrap();
    assert_eq!(bundle.file(MODEL_FILE).unwrap(), model);
    assert_eq!(bundle.file("golden/00.jpg").unwrap(), b"jpeg");
    assert!(matches!(bundle.file("x"), Err(BundleError::NoFile(_))));
    let m = bundle.manifest();
    assert_eq!((m.golden[0].logits.as_slice(), m.tolerance), (&[-0.1, 1.0e-8][..], 0.05));
    assert_eq!(
        bundle.head().trust(&policy(&[key(1).public()], Unsigned::Refuse)).unwrap(),
        Trust::Signed(key(1).public())
    );
    let head = Head::read(&mut &bytes[..]).unwrap();
    assert_eq!(&head, bundle.head());
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = writer(b"the model", &[]).to_bytes(Some(&key(1))).unwrap();
    assert!(Bundle::from_bytes(&bytes).is_ok());
    let trusted = policy(&[key(1).public()], Unsigned::Allow);
    let mut names = BTreeSet::new();
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let error = match Bundle::from_bytes(&altered) {
            Err(error) => error,
            Ok(bundle) => bundle.head().trust(&trusted).expect_err(&format!("bit {bit} was taken")),
        };
        let name = format!("{error:?}");
        names.insert(name.split([' ', '(', '{']).next().unwrap().to_owned());
    }
    assert!(names.contains("Signature") && names.contains("Magic") && names.contains("Digest"), "{names:?}");
}

#[test]
fn every_prefix_and_every_longer_file_is_refused() {
    let bytes = writer(b"the model", &[]).to_bytes(Some(&key(1))).unwrap();
    for len in 0..bytes.len() {
        let error = Bundle::from_bytes(&bytes[..len]).expect_err(&format!("{len} of {} bytes were taken", bytes.len()));
        assert!(matches!(error, BundleError::Truncated { .. }), "{len}: {error:?}");
    }
    let longer = [&bytes[..], b"\0"].concat();
    assert!(matches!(Bundle::from_bytes(&longer), Err(BundleError::Trailing { .. })));
}

#[test]
fn trust_follows_the_policy_and_names_the_key() {
    let signed = Bundle::from_bytes(&writer(b"m", &[]).to_bytes(Some(&key(1))).unwrap()).unwrap();
    let unsigned = Bundle::from_bytes(&writer(b"m", &[]).to_bytes(None).unwrap()).unwrap();
    let other = policy(&[key(2).public()], Unsigned::Allow);
    match signed.head().trust(&other) {
        Err(BundleError::Untrusted { found, trusted: 1 }) => assert_eq!(found, key(1).public().fingerprint()),
        found => panic!("{found:?}"),
    }
    assert_eq!(unsigned.head().trust(&other).unwrap(), Trust::Unsigned);
    assert!(matches!(unsigned.head().trust(&policy(&[], Unsigned::Refuse)), Err(BundleError::Unsigned)));
}

#[test]
fn a_new_head_leaves_the_chunks_of_the_backbone() {
    let mut model = noise(300_000, 2);
    let borders = [150, 250_000, 290_000];
    let digests = |model: &[u8]| -> BTreeSet<Digest> {
        let bundle = Bundle::from_bytes(&writer(model, &borders).to_bytes(None).unwrap()).unwrap();
        bundle.manifest().chunks.iter().map(|c| c.digest).collect()
    };
    let before = digests(&model);
    model[250_000..290_000].copy_from_slice(&noise(40_000, 3));
    let after = digests(&model);
    assert_eq!(after.difference(&before).count(), 1);
}

#[test]
fn equal_chunks_are_stored_once() {
    let bundle = Bundle::from_bytes(&writer(&vec![7; 640 << 10], &[]).to_bytes(None).unwrap()).unwrap();
    assert_eq!(bundle.manifest().chunks.len(), 2);
    assert_eq!(bundle.file(MODEL_FILE).unwrap().len(), 640 << 10);
}

#[test]
fn manifests_that_contradict_themselves_are_refused() {
    let good = Bundle::from_bytes(&writer(b"the model", &[]).to_bytes(None).unwrap()).unwrap();
    type Change = fn(&mut Manifest);
    let cases: [(&str, Change); 12] = [
        ("model.onnx", |m| m.files[0].path = "other".into()),
        ("plain", |m| m.files[0].path = "../model.onnx".into()),
        ("twice", |m| m.files[1].path = MODEL_FILE.into()),
        ("folder", |m| m.files[1].path = "model.onnx/x".into()),
        ("below 2", |m| m.files[0].chunks.push(2)),
        ("bytes in", |m| m.files[0].len += 1),
        ("in none", |m| m.files.truncate(1)),
        ("tolerance", |m| m.tolerance = -1.0),
        ("golden", |m| m.golden[0].file = "golden/01.jpg".into()),
        ("2 finite logits", |m| m.golden[0].logits.truncate(1)),
        ("at most", |m| m.chunks[0].raw_len = u32::MAX),
        ("once", |m| m.chunks[1] = m.chunks[0].clone()),
    ];
    for (word, change) in cases {
        let mut manifest = good.manifest().clone();
        change(&mut manifest);
        let error = Head::make(manifest, good.head().payload_digest(), None).unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn another_text_of_the_same_manifest_is_refused() {
    let bytes = writer(b"m", &[]).to_bytes(None).unwrap();
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let spaced = [&bytes[..12], &(len as u32 + 1).to_le_bytes(), b" ", &bytes[16..]].concat();
    let error = Bundle::from_bytes(&spaced).unwrap_err();
    assert!(error.to_string().contains("canonical"), "{error}");
}

#[test]
fn a_chunk_that_unpacks_to_more_than_it_says_is_refused() {
    let stored = zstd::bulk::compress(&[0; 60_000], 3).unwrap();
    let entry = ChunkEntry { digest: Digest::of(&[0; 100]), raw_len: 100, stored_len: stored.len() as u32 };
    assert!(matches!(decode_chunk(0, &entry, &stored), Err(BundleError::Chunk { index: 0, expected: 100 })));
}

/// The layout byte by byte, as `docs/formats/bundle.md` gives it.
#[test]
fn the_layout_is_as_documented() {
    let mut w = BundleWriter::new("n", "t");
    w.add_file(MODEL_FILE, b"abc", &[]).unwrap();
    let bytes = w.to_bytes(None).unwrap();
    let frame = zstd::bulk::compress(b"abc", 19).unwrap();
    let abc = Digest::of(b"abc");
    let json = format!(
        "{{\"name\":\"n\",\"created_by\":\"t\",\"labels\":[],\"metadata\":{{}},\"files\":[{{\"path\":\"model.onnx\",\"len\":3,\
         \"digest\":\"{abc}\",\"chunks\":[0]}}],\"chunks\":[{{\"digest\":\"{abc}\",\"raw_len\":3,\"stored_len\":{}}}],\
         \"golden\":[],\"tolerance\":0.0}}",
        frame.len()
    );
    let mut expected = b"GRAFTBND\x01\0\0\0".to_vec();
    expected.extend((json.len() as u32).to_le_bytes());
    expected.extend(json.as_bytes());
    expected.extend(Digest::of(&frame).0);
    expected.extend([0; 1 + 32 + 64]);
    expected.extend(&frame);
    assert_eq!(bytes, expected);
}

#[test]
fn a_file_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.graft");
    let summary = writer(&noise(100_000, 4), &[]).write(&path, Some(&key(1))).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    assert_eq!(summary.digest, bundle.head().digest());
    assert_eq!(summary.file_len, fs::metadata(&path).unwrap().len());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..500, with in prop::collection::vec(any::<u8>(), 1..20)) {
        let _ = Bundle::from_bytes(&bytes);
        let mut good = writer(b"the model", &[]).to_bytes(None).unwrap();
        let at = at % good.len();
        good.splice(at..(at + with.len()).min(good.len()), with);
        let _ = Bundle::from_bytes(&good);
    }
}
