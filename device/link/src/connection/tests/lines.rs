//! Conversations over simulated serial lines: noise, pace, rates, hosts that misbehave.

use super::*;
use crate::channel::{Channel, MEMORY_MAX};
use crate::messages::MAX_MESSAGE;

/// Sends 40 chunks over a line and returns the share of it that carried them, and how often pieces were sent again.
fn flash(rate: u32, there: Quality, back: Quality) -> (f64, u64) {
    let (host, device) = line(rate, there, back);
    let mut outcome = (0.0, 0);
    let shelf = with_shelf(device, || {
        let mut client = connect(host, 5 + there.seed).unwrap();
        let start = client.line.now();
        client.pipeline((0..40).map(chunk), |_| ()).unwrap();
        let bytes = 40.0 * 5000.0;
        let possible = (client.line.now() - start).as_secs_f64() * f64::from(rate) / 10.0;
        outcome = (bytes / possible, client.line_quality().resent);
    });
    assert!(shelf.chunks == expected(40), "{there:?}");
    outcome
}

#[test]
fn a_clean_line_carries_chunks_for_93_per_cent_of_its_time() {
    for rate in [9600, 115_200, 921_600] {
        let (efficiency, resent) = flash(rate, Quality::CLEAN, Quality::CLEAN);
        // While a slow line's first answers are measured, a few pieces may be sent twice.
        assert!(efficiency > 0.93 && resent < 8, "{rate}: {efficiency}, {resent} sent again");
    }
}

/// `cargo run --release -p graft-deploy --example line -- noise` does the same a hundred times with whole bundles.
#[test]
fn chunks_arrive_over_lines_with_bit_errors_and_lost_frames() {
    for seed in 0..3 {
        let errors = Quality { seed, bit_errors: 1e-4, ..Quality::CLEAN };
        let (efficiency, resent) = flash(115_200, errors, Quality { seed: 100 + seed, ..errors });
        assert!(efficiency > 0.6 && resent > 100, "bit errors: {efficiency}, {resent}");
        let losses = Quality { seed, lost_writes: 0.05, ..Quality::CLEAN };
        let (efficiency, resent) = flash(115_200, losses, Quality { seed: 100 + seed, ..losses });
        assert!(efficiency > 0.8 && resent > 5, "lost frames: {efficiency}, {resent}");
    }
}

fn climb(there: Quality, back: Quality) -> (Option<u32>, LineQuality) {
    let (host, device) = line(115_200, there, back);
    let mut outcome = (None, LineQuality::default());
    with_shelf(device, || {
        let mut client = connect(host, 9).unwrap();
        let rate = client.speed_up(3_000_000).unwrap();
        client.pipeline((0..4).map(chunk), |_| ()).unwrap();
        assert_eq!(client.rate(), rate);
        outcome = (rate, client.line_quality());
    });
    outcome
}

#[test]
fn the_rate_goes_up_to_the_fastest_that_carries_both_ways() {
    let up_to = |fastest| Quality { fastest, ..Quality::CLEAN };
    assert_eq!(climb(Quality::CLEAN, Quality::CLEAN).0, Some(3_000_000));
    assert_eq!(climb(up_to(1_000_000), Quality::CLEAN).0, Some(921_600));
    assert_eq!(climb(Quality::CLEAN, up_to(300_000)).0, Some(230_400));
    assert_eq!(climb(up_to(115_200), up_to(115_200)).0, Some(115_200));
}

/// Losing any one write, and any four in a row, of either side while the rate goes up.
#[test]
fn no_order_of_losses_leaves_the_ends_apart() {
    let mut stayed_below = 0;
    for count in [1, 4] {
        for place in 0..60 {
            let lossy = Quality { lost_places: (place, place + count), ..Quality::CLEAN };
            stayed_below += u32::from(climb(lossy, Quality::CLEAN).0 != Some(3_000_000));
            stayed_below += u32::from(climb(Quality::CLEAN, lossy).0 != Some(3_000_000));
        }
    }
    assert!(stayed_below > 0, "nothing that was lost mattered");
}

#[test]
fn a_line_that_turns_bad_at_a_rate_goes_on_at_a_slower_one() {
    /// Damages every third frame above a rate, from a moment on.
    struct Tiring(End, u32);
    impl Transport for Tiring {
        fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
            self.0.read(buffer, patience)
        }
        fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut bytes = bytes.to_vec();
            let is_tired = self.0.now() > Duration::from_secs(4) && self.0.rate() > Some(230_400);
            self.1 += 1;
            let is_hit = is_tired && self.1.is_multiple_of(3);
            if let Some(byte) = bytes.last_mut().filter(|_| is_hit) {
                *byte ^= 1;
            }
            self.0.write_all(&bytes)
        }
        fn now(&self) -> Duration {
            self.0.now()
        }
        fn rate(&self) -> Option<u32> {
            self.0.rate()
        }
        fn set_rate(&mut self, rate: u32) -> io::Result<()> {
            self.0.set_rate(rate)
        }
    }
    let (host, device) = line(115_200, Quality::CLEAN, Quality::CLEAN);
    with_shelf(device, || {
        let mut client = connect(Tiring(host, 0), 9).unwrap();
        assert_eq!(client.speed_up(460_800).unwrap(), Some(460_800));
        client.pipeline((0..100).map(chunk), |_| ()).unwrap();
        assert!(client.rate() < Some(460_800), "{:?}", client.rate());
    });
}

#[test]
fn a_device_whose_host_died_at_a_fast_rate_is_found_at_the_base_rate() {
    let (mut host, device) = line(115_200, Quality::CLEAN, Quality::CLEAN);
    with_shelf(device, || {
        let mut client = connect(&mut host, 1).unwrap();
        assert_eq!(client.speed_up(921_600).unwrap(), Some(921_600));
        // Killed: no farewell, and the next program opens the port at the rate it was told.
        std::mem::forget(client);
        host.set_rate(115_200).unwrap();
        assert!(connect(&mut host, 2).is_ok());
        drop(host);
    });
}

#[test]
fn a_line_without_a_rate_stays_as_it_is() {
    let (host, device) = pair();
    with_shelf(device, || {
        let mut client = connect(host, 1).unwrap();
        assert_eq!(client.speed_up(921_600).unwrap(), None);
        let refused = client.request(&Request::Rate { bits_per_second: 921_600 }, |_| ());
        assert!(matches!(refused, Err(LinkError::Refused { code: RefusalCode::Unsupported, .. })));
    });
}

/// Answers at the pace of the channel, and never does what it is asked.
#[test]
fn a_device_that_is_there_and_does_not_answer_is_overdue() {
    let (host, mut device) = line(115_200, Quality::CLEAN, Quality::CLEAN);
    let server = thread::spawn(move || {
        let mut channel = Channel::responder(ChannelConfig::RESPONDER, Duration::ZERO);
        let mut buffer = [0; 4096];
        while let Ok(n) = device.read(&mut buffer, Duration::from_millis(20)) {
            channel.receive(&buffer[..n], device.now());
            while let Some(message) = channel.take_message() {
                let (id, body) = decode_id(&message).unwrap();
                if let Ok(Request::Hello { .. }) = decode_body(body) {
                    let hello = Response::Hello { protocol: 2, device: "stuck".into(), version: "1".into() };
                    channel.send(encode(id, &hello).unwrap()).unwrap();
                }
            }
            while let Some(frame) = channel.poll_transmit(device.now()) {
                if device.write_all(&frame).is_err() {
                    return;
                }
            }
        }
    });
    let mut client = connect(host, 1).unwrap();
    match client.request(&Request::Info, |_| ()) {
        Err(LinkError::Overdue { asked: "Info", waited }) => assert_eq!(waited, Duration::from_secs(30)),
        other => panic!("{other:?}"),
    }
    drop(client);
    server.join().unwrap();
}

/// Requests by the thousand whose answers nobody takes, pieces beyond gaps, messages that never end: what the device
/// holds stays below the stated bound.
#[test]
fn a_host_that_misbehaves_costs_bounded_memory() {
    use crate::frame::{Frame, Kind, Role};
    let now = Duration::ZERO;
    let most_of = |pieces: &mut dyn Iterator<Item = (Kind, u16, usize)>| {
        let mut device = Channel::responder(ChannelConfig::RESPONDER, now);
        let open = [&7u64.to_le_bytes()[..], &128u16.to_le_bytes(), &4096u16.to_le_bytes()].concat();
        let mut most = 0;
        for (kind, seq, len) in std::iter::once((Kind::Open, 0, 0)).chain(pieces) {
            let payload = if kind == Kind::Open { open.clone() } else { vec![0; len] };
            let frame = Frame { kind, from: Role::Initiator, session: 7, seq, ack: 0, payload };
            device.receive(&frame.encode().unwrap(), now);
            // The server: answers of the largest size, as long as it may send.
            while device.backlog() < crate::channel::BACKLOG_MAX && device.take_message().is_some() {
                device.send(vec![0; MAX_MESSAGE]).unwrap();
            }
            while device.poll_transmit(now).is_some() {}
            // Adding up is slow, and a piece adds at most itself.
            if seq % 16 == 0 {
                most = most.max(device.memory());
            }
        }
        most
    };
    // Small messages that nobody reads, large ones, and one that never ends, each with pieces beyond a gap.
    let small = most_of(&mut (0..24_000).map(|seq| (Kind::End, seq, usize::from(seq % 3))));
    let large = most_of(&mut (0..2000).flat_map(|seq| [(Kind::End, seq, 4096), (Kind::End, seq + 100, 4096)]));
    let endless = most_of(&mut (0..2000).flat_map(|seq| [(Kind::Part, seq, 4096), (Kind::Part, seq + 100, 4096)]));
    for most in [small, large, endless] {
        assert!(most > MAX_MESSAGE && most <= MEMORY_MAX, "{small}, {large}, {endless} of {MEMORY_MAX}");
    }
    const { assert!(MEMORY_MAX < 5 << 20, "the page says 5 MiB") };
}
