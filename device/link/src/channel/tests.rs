//! Two channels joined by a simulated line, in simulated time.

use super::*;

/// Lets time pass until both sides have nothing to say or `limit` is over; `line` decides what becomes of each frame.
fn run(
    a: &mut Channel,
    b: &mut Channel,
    now: &mut Duration,
    limit: Duration,
    mut line: impl FnMut(Vec<u8>) -> Option<Vec<u8>>,
) {
    let end = *now + limit;
    while *now < end {
        for _ in 0..32 {
            let (from_a, from_b) = (a.poll_transmit(*now), b.poll_transmit(*now));
            if from_a.is_none() && from_b.is_none() {
                break;
            }
            if let Some(bytes) = from_a.and_then(&mut line) {
                b.receive(&bytes, *now);
            }
            if let Some(bytes) = from_b.and_then(&mut line) {
                a.receive(&bytes, *now);
            }
        }
        *now += Duration::from_millis(10);
    }
}

fn opened() -> (Channel, Channel, Duration) {
    let mut now = Duration::ZERO;
    let mut a = Channel::initiator(ChannelConfig::INITIATOR, 77, now);
    let mut b = Channel::responder(ChannelConfig::RESPONDER, now);
    run(&mut a, &mut b, &mut now, Duration::from_millis(50), Some);
    assert!(a.is_open() && b.is_open());
    (a, b, now)
}

#[test]
fn messages_of_every_size_arrive_in_order() {
    let (mut a, mut b, mut now) = opened();
    let sizes = [0, 1, 2047, 2048, 2049, 100_000];
    for (i, size) in sizes.into_iter().enumerate() {
        a.send(vec![i as u8; size]).unwrap();
    }
    run(&mut a, &mut b, &mut now, Duration::from_secs(2), Some);
    for (i, size) in sizes.into_iter().enumerate() {
        assert_eq!(b.take_message().unwrap(), vec![i as u8; size]);
    }
    assert!(b.take_message().is_none() && a.is_flushed());
    assert_eq!(a.line_quality().resent, 0);
}

#[test]
fn any_single_lost_frame_is_made_good() {
    for lost in 0..40 {
        let (mut a, mut b, mut now) = opened();
        a.send((0..60_000u32).map(|i| i as u8).collect()).unwrap();
        let mut count = 0;
        run(&mut a, &mut b, &mut now, Duration::from_secs(5), |frame| {
            count += 1;
            (count != lost + 1).then_some(frame)
        });
        assert_eq!(b.take_message().map(|m| m.len()), Some(60_000), "frame {lost}");
        assert!(a.is_flushed(), "frame {lost}");
    }
}

#[test]
fn a_silent_peer_is_noticed_and_a_restarted_one_too() {
    let (mut a, mut b, mut now) = opened();
    a.take_event();
    run(&mut a, &mut b, &mut now, Duration::from_secs(12), |_| None);
    assert!(matches!(a.take_event(), Some(Event::Closed(CloseReason::Silent(_)))));
    let (mut a, _, mut now) = opened();
    a.take_event();
    let mut fresh = Channel::responder(ChannelConfig::RESPONDER, now);
    a.send(vec![1]).unwrap();
    run(&mut a, &mut fresh, &mut now, Duration::from_secs(1), Some);
    assert_eq!(a.take_event(), Some(Event::Closed(CloseReason::Reset)));
    assert_eq!(a.send(vec![1]), Err(SendError::NotOpen));
}

#[test]
fn an_idle_session_stays_open_by_pings() {
    let (mut a, mut b, mut now) = opened();
    run(&mut a, &mut b, &mut now, Duration::from_secs(90), Some);
    assert!(a.is_open() && b.is_open());
}

#[test]
fn stray_bytes_before_the_first_frame_are_harmless() {
    let mut now = Duration::ZERO;
    let mut a = Channel::initiator(ChannelConfig::INITIATOR, 5, now);
    let mut b = Channel::responder(ChannelConfig::RESPONDER, now);
    b.receive(&[0x00, 0x67, 0xff, b'G'], now);
    run(&mut a, &mut b, &mut now, Duration::from_secs(2), Some);
    assert!(a.is_open() && b.is_open());
}
