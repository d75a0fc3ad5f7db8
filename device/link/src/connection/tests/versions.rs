//! Older and newer peers: they work together, or say what is wrong. The table is in `docs/formats/link.md`.

use super::*;
use crate::frame::{Frame, Kind, Role};

/// A device of one protocol alone, as version 0.1 of the daemon was.
fn only(protocol: u16) -> impl FnMut(&Request) -> Response {
    move |request| match request {
        Request::Hello { protocol: asked, .. } if *asked == protocol => {
            Response::Hello { protocol, device: "old".into(), version: "0".into() }
        }
        Request::Hello { .. } => Response::Refused { code: RefusalCode::Version, message: "another".into() },
        Request::Info => Response::Info(DeviceInfo::default()),
        _ => Response::Refused { code: RefusalCode::Malformed, message: "unknown".into() },
    }
}

/// A device that answers every hello with a number.
fn answers(protocol: u16) -> impl FnMut(&Request) -> Response {
    move |_| Response::Hello { protocol, device: "new".into(), version: "9".into() }
}

/// Runs `host` against a device that answers by `respond`, without what [`serve`] does by itself.
fn against<R: FnMut(&Request) -> Response + Send + 'static>(mut respond: R, host: impl FnOnce(End)) {
    let (end, mut device) = line(115_200, Quality::CLEAN, Quality::CLEAN);
    let server = thread::spawn(move || {
        let mut channel = crate::channel::Channel::responder(ChannelConfig::RESPONDER, Duration::ZERO);
        let mut buffer = [0; 4096];
        while let Ok(n) = device.read(&mut buffer, Duration::from_millis(20)) {
            channel.receive(&buffer[..n], device.now());
            while let Some(message) = channel.take_message() {
                let (id, body) = decode_id(&message).unwrap();
                let response = respond(&decode_body(body).unwrap());
                channel.send(encode(id, &response).unwrap()).unwrap();
            }
            while let Some(frame) = channel.poll_transmit(device.now()) {
                if device.write_all(&frame).is_err() {
                    return;
                }
            }
        }
    });
    host(end);
    server.join().unwrap();
}

#[test]
fn a_device_of_protocol_1_serves_what_it_knows() {
    against(only(1), |end| {
        let mut client = connect(end, 1).unwrap();
        assert_eq!(client.protocol(), 1);
        assert!(client.request(&Request::Info, |_| ()).is_ok());
        assert_eq!(client.speed_up(921_600).unwrap(), Some(115_200));
        match client.request(&Request::About, |_| ()) {
            Err(e @ LinkError::TooOld { needs: 2, found: 1, .. }) => assert!(e.to_string().contains("graftd"), "{e}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_device_of_protocol_2_serves_what_it_knows() {
    against(only(2), |end| {
        let mut client = connect(end, 1).unwrap();
        assert_eq!(client.protocol(), 2);
        match client.request(&Request::Kept { skip: 0, count: 1 }, |_| ()) {
            Err(LinkError::TooOld { asked: "Kept", needs: 3, found: 2 }) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_device_of_protocol_3_serves_what_it_knows() {
    against(only(3), |end| {
        let mut client = connect(end, 1).unwrap();
        assert_eq!(client.protocol(), 3);
        match client.request(&Request::Measure, |_| ()) {
            Err(e @ LinkError::TooOld { asked: "Measure", needs: 4, found: 3 }) => {
                assert!(e.to_string().contains("install a newer graftd"), "{e}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_device_of_another_protocol_is_named() {
    against(answers(5), |end| match connect(end, 1).map(drop) {
        Err(e @ LinkError::Protocol { found: 5 }) => assert!(e.to_string().contains("1 to 4, found 5"), "{e}"),
        other => panic!("{other:?}"),
    });
    against(only(7), |end| match connect(end, 1).map(drop) {
        Err(LinkError::Refused { code: RefusalCode::Version, .. }) => {}
        other => panic!("{other:?}"),
    });
}

#[test]
fn hosts_of_protocols_1_to_5_are_served_and_0_is_told_why_not() {
    let (host, device) = pair();
    with_shelf(device, || {
        let mut client = connect(host, 1).unwrap();
        for (asked, answered) in [1, 2, 3, 4].map(|n| (n, Some(n))).into_iter().chain([(5, Some(4)), (0, None)]) {
            let hello = Request::Hello { protocol: asked, client: "x".into() };
            match (client.request(&hello, |_| ()), answered) {
                (Ok(Response::Hello { protocol, .. }), Some(expected)) => assert_eq!(protocol, expected),
                (Err(LinkError::Refused { code: RefusalCode::Version, message }), None) => {
                    assert!(message.contains("1 to 4, found 0"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// The first three bytes and the check of a header stay in every version, so that each side can name the other's.
#[test]
fn another_version_of_frames_is_named_on_both_sides() {
    let mut open = Frame { kind: Kind::Open, from: Role::Initiator, session: 1, seq: 0, ack: 0, payload: vec![0; 12] }
        .encode()
        .unwrap();
    let as_version_2 = |frame: &mut Vec<u8>| {
        frame[2] = (frame[2] & 0x0F) | 0x20;
        let check = crc32fast::hash(&frame[..11]).to_le_bytes();
        frame[11..13].copy_from_slice(&check[..2]);
    };
    as_version_2(&mut open);
    let (mut host, device) = pair();
    with_shelf(device, || {
        host.write_all(&open).unwrap();
        let mut buffer = [0; 100];
        let n = host.read(&mut buffer, Duration::from_secs(5)).unwrap();
        assert_eq!((n > 0, buffer[2] >> 4), (true, 1), "the device says which version it speaks");
        drop(host);
    });
    let (host, mut device) = pair();
    let mut opened = Frame { kind: Kind::Opened, from: Role::Responder, session: 1, seq: 0, ack: 0, payload: vec![] }
        .encode()
        .unwrap();
    as_version_2(&mut opened);
    device.write_all(&opened).unwrap();
    assert!(matches!(connect(host, 1).map(drop), Err(LinkError::Version { found: 2 })));
}
