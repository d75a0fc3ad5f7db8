//! Messages out of any bytes, and back.

#![no_main]

use std::fmt::Debug;

use graft_link::messages::{
    About, Classified, DeviceInfo, LogEntry, MAX_MESSAGE, Measurement, Prediction, Progress, RefusalCode, Request,
    Response, Restart, SelfTest, SlotInfo, SlotState, decode_body, decode_id, encode,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    let Ok((id, body)) = decode_id(data) else { return };
    if let Ok(request) = decode_body::<Request>(body) {
        assert!(!request.name().is_empty() && request.since() > 0);
        round(id, &request);
    }
    if let Ok(response) = decode_body::<Response>(body) {
        if let Response::Begun { missing, .. } = &response {
            // A run that says it is endless.
            assert!(missing.below(100).take(1000).all(|chunk| chunk < 100));
        }
        round(id, &response);
    }
});

/// What was understood is said again in the same bytes. Numbers that are none are not equal to themselves, bytes are.
fn round<M: Serialize + DeserializeOwned + Debug>(id: u32, message: &M) {
    let bytes = encode(id, message).expect("a message no longer than what it was read from");
    let (same, body) = decode_id(&bytes).expect("an encoded number");
    let again: M = decode_body(body).expect("an encoded message");
    assert_eq!((same, encode(id, &again).expect("the same")), (id, bytes.clone()), "{message:?}");
    assert!(bytes.len() <= MAX_MESSAGE);
}

fn seeds() -> Vec<Vec<u8>> {
    let text = || "leaf".to_owned();
    let requests = [
        Request::Hello { protocol: 2, client: text() },
        Request::Info,
        Request::Slots,
        Request::Begin { head: vec![1, 2, 3] },
        Request::Missing,
        Request::Chunk { index: 300, stored: vec![9; 40] },
        Request::Finish,
        Request::Commit,
        Request::Rollback,
        Request::Classify { name: text(), image: vec![7; 9] },
        Request::Screen,
        Request::Recent { count: 5 },
        Request::About,
        Request::Echo { bytes: vec![0; 3] },
        Request::Rate { bits_per_second: 921_600 },
        Request::Log { count: 32 },
        Request::Rename { name: text() },
        Request::Clock { set_unix_ms: Some(1 << 40) },
        Request::Restart { what: Restart::Board },
        Request::Prove { nonce: [3; 32] },
        Request::Identify { key: [4; 32], signature: vec![5; 64] },
        Request::Spool { offset: 300, total: 1 << 30, bytes: vec![6; 40] },
        Request::Measure,
    ];
    let slot = SlotInfo {
        name: "A".to_owned(),
        state: SlotState::Trial,
        bundle_name: text(),
        bundle_digest: [6; 32],
        current: true,
    };
    let responses = [
        Response::Hello { protocol: 1, device: text(), version: text() },
        Response::Info(DeviceInfo { slot: Some(text()), ..DeviceInfo::default() }),
        Response::Slots(vec![slot.clone(), slot]),
        Response::Begun { missing: [0, 1, 2, 9, 300].into_iter().collect(), slot: text() },
        Response::ChunkStored { index: 7 },
        Response::Finished { slot: text(), self_test: SelfTest::default() },
        Response::Done,
        Response::Classified(Classified { top: vec![(text(), 0.5), (text(), f32::NAN)], ..Classified::default() }),
        Response::Screen { png: vec![8; 20] },
        Response::Recent(vec![Prediction { label: text(), ..Prediction::default() }; 3]),
        Response::Refused { code: RefusalCode::Untrusted, message: text() },
        Response::Progress(Progress { text: text(), done: 1, total: 2 }),
        Response::About(About { board: text(), ..About::default() }),
        Response::Echo { bytes: vec![1; 3] },
        Response::Log(vec![LogEntry { unix_ms: 1, text: text() }]),
        Response::Clock { unix_ms: u64::MAX, is_system: true },
        Response::Proof { key: [1; 32], signature: vec![2; 64], challenge: [3; 32] },
        Response::Measured(Measurement { memory: Some(1), engine: text(), ..Measurement::default() }),
    ];
    let encoded = requests.iter().map(|m| encode(300, m));
    encoded.chain(responses.iter().map(|m| encode(7, m))).map(|m| m.expect("a short message")).collect()
}
