//! The head of a bundle around any text, and around the canonical form of a text that is a manifest.

#![no_main]

use graft_bundle::{BundleWriter, Head, MODEL_FILE, Manifest, Trust, TrustPolicy, Unsigned};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    read(data);
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        read(&serde_json::to_vec(&manifest).expect("a manifest"));
    }
});

fn read(json: &[u8]) {
    // Magic, version, length; digest of the chunks, no signature.
    let mut bytes = b"GRAFTBND\x01\0\0\0".to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json);
    bytes.extend([0; 32 + 1 + 32 + 64]);
    let parsed = Head::parse(&bytes);
    let streamed = Head::read(&mut &bytes[..]);
    let Ok(head) = parsed else {
        assert!(streamed.is_err());
        return;
    };
    assert_eq!(streamed.expect("what parses"), head);
    assert_eq!(head.bytes(), bytes);
    let policy = TrustPolicy { keys: vec![], unsigned: Unsigned::Allow };
    assert_eq!(head.trust(&policy).expect("an unsigned one"), Trust::Unsigned);
    let manifest = head.manifest();
    assert_eq!(serde_json::to_vec(manifest).expect("a manifest"), json, "a bundle has one digest");
    for file in &manifest.files {
        assert_eq!(manifest.file(&file.path).expect("a file that is there"), file);
        let len: u64 = file.chunks.iter().map(|c| u64::from(manifest.chunks[*c as usize].raw_len)).sum();
        assert_eq!(len, file.len);
    }
    assert!(manifest.file(MODEL_FILE).is_ok());
    assert!(manifest.golden.iter().all(|g| g.logits.len() == manifest.labels.len()));
}

fn seeds() -> Vec<Vec<u8>> {
    let mut w = BundleWriter::new("leaves", "graft");
    w.add_file(MODEL_FILE, b"abc", &[]).expect("a file");
    let small = w.to_bytes(None).expect("a bundle");
    w.labels(&["healthy".into(), "rust".into()]);
    w.metadata([("graft.preprocessing".to_owned(), "{\"crop\":96}".to_owned())].into());
    w.add_file("golden/00.jpg", b"a picture that is none", &[4]).expect("a file");
    w.golden("golden/00.jpg", "rust", &[-0.1, 1.0e-8]).tolerance(0.05);
    let large = w.to_bytes(None).expect("a bundle");
    let manifest = |bytes: &[u8]| Head::read(&mut &bytes[..]).map(|h| serde_json::to_vec(h.manifest()));
    [small, large].map(|b| manifest(&b).expect("a head").expect("a manifest")).into()
}
