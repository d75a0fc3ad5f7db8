//! The sending half of a channel: cuts messages into pieces, keeps those on their way, and decides which
//! to send again. Knows the time only as what the caller passes in.

use std::collections::VecDeque;
use std::time::Duration;

/// Shortest wait before a piece counts as lost.
const RTO_MIN: Duration = Duration::from_millis(150);
/// Longest wait before a piece counts as lost.
const RTO_MAX: Duration = Duration::from_secs(4);
/// The wait while no round trip has been measured.
const RTO_FIRST: Duration = Duration::from_secs(1);

/// One piece on its way.
#[derive(Debug)]
struct InFlight {
    payload: Vec<u8>,
    last: bool,
    sent_at: Duration,
    /// Place of the first and of the latest transmission in the order of all transmissions.
    first_order: u64,
    latest_order: u64,
    tries: u32,
    arrived: bool,
    lost: bool,
}

/// A piece to send now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) seq: u16,
    pub(super) last: bool,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Sender {
    window: usize,
    fragment: usize,
    messages: VecDeque<Vec<u8>>,
    /// How much of the front message has been cut off already.
    offset: usize,
    /// Sequence number of `flight[0]`, or of the next piece when nothing is on its way.
    base: u16,
    flight: VecDeque<InFlight>,
    order: u64,
    /// Latest transmission known to have arrived.
    arrived_order: u64,
    smoothed: Option<Duration>,
    variation: Duration,
    fastest: Duration,
    backoff: u32,
    resent: u64,
}

impl Sender {
    pub(super) fn new(window: usize, fragment: usize) -> Self {
        Self {
            window: window.max(1),
            fragment: fragment.max(1),
            messages: VecDeque::new(),
            offset: 0,
            base: 0,
            flight: VecDeque::new(),
            order: 0,
            arrived_order: 0,
            smoothed: None,
            variation: Duration::ZERO,
            fastest: Duration::MAX,
            backoff: 0,
            resent: 0,
        }
    }

    pub(super) fn push(&mut self, message: Vec<u8>) {
        self.messages.push_back(message);
    }

    /// Bytes of messages not yet known to have arrived.
    pub(super) fn backlog(&self) -> usize {
        let waiting: usize = self.messages.iter().map(Vec::len).sum();
        let on_their_way: usize = self.flight.iter().filter(|f| !f.arrived).map(|f| f.payload.len()).sum();
        waiting - self.offset + on_their_way
    }

    pub(super) fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.flight.is_empty()
    }

    pub(super) fn resent(&self) -> u64 {
        self.resent
    }

    /// Takes in what the peer says has arrived: everything before `ack`, and `ack + 1 + i` for bit `i`.
    pub(super) fn acknowledge(&mut self, ack: u16, bitmap: &[u8], now: Duration) {
        let advance = usize::from(ack.wrapping_sub(self.base));
        if advance > self.flight.len() {
            return; // an old frame, or one of a peer that counts wrongly
        }
        let mut news = false;
        for place in 0..advance {
            news |= self.mark_arrived(place, now);
        }
        for (byte, bits) in bitmap.iter().enumerate() {
            for bit in (0..8).filter(|bit| bits & (1 << bit) != 0) {
                news |= self.mark_arrived(advance + 1 + byte * 8 + bit, now);
            }
        }
        self.flight.drain(..advance);
        self.base = ack;
        if news {
            self.backoff = 0;
        }
        // A byte stream does not reorder: what was sent before something that arrived, and has not arrived
        // itself, is lost.
        for piece in self.flight.iter_mut().filter(|p| !p.arrived && p.latest_order < self.arrived_order) {
            piece.lost = true;
        }
    }

    /// Returns the next piece that may be sent now.
    pub(super) fn poll(&mut self, now: Duration) -> Option<Piece> {
        self.expire(now);
        if let Some(place) = self.flight.iter().position(|piece| piece.lost) {
            return self.resend(place, now);
        }
        if self.flight.len() >= self.window {
            return None;
        }
        let (payload, last) = self.cut()?;
        let seq = self.base.wrapping_add(u16::try_from(self.flight.len()).ok()?);
        self.order += 1;
        self.flight.push_back(InFlight {
            payload: payload.clone(),
            last,
            sent_at: now,
            first_order: self.order,
            latest_order: self.order,
            tries: 1,
            arrived: false,
            lost: false,
        });
        Some(Piece { seq, last, payload })
    }

    /// Returns when [`Sender::poll`] may next have something although nothing was pushed or acknowledged.
    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.flight.iter().any(|piece| piece.lost) {
            return Some(Duration::ZERO);
        }
        if self.flight.len() < self.window && !self.messages.is_empty() {
            return Some(Duration::ZERO);
        }
        let oldest = self.flight.iter().filter(|piece| !piece.arrived).map(|piece| piece.sent_at).min()?;
        Some(oldest + self.rto())
    }

    fn mark_arrived(&mut self, place: usize, now: Duration) -> bool {
        let Some(piece) = self.flight.get_mut(place).filter(|piece| !piece.arrived) else {
            return false;
        };
        piece.arrived = true;
        piece.lost = false;
        let waited = now.saturating_sub(piece.sent_at);
        let (tries, first, latest) = (piece.tries, piece.first_order, piece.latest_order);
        if tries == 1 {
            self.measure(waited);
        }
        // Which transmission arrived is not said. The latest did unless the answer came faster than any
        // answer can (as in RFC 8985, section 6.2).
        let order = if tries == 1 || waited >= self.fastest { latest } else { first };
        self.arrived_order = self.arrived_order.max(order);
        true
    }

    /// The estimator of RFC 6298, section 2.
    fn measure(&mut self, sample: Duration) {
        self.fastest = self.fastest.min(sample);
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    fn rto(&self) -> Duration {
        let measured = self.smoothed.map_or(RTO_FIRST, |smoothed| smoothed + self.variation * 4);
        (measured.clamp(RTO_MIN, RTO_MAX) * 2u32.pow(self.backoff.min(5))).min(RTO_MAX)
    }

    /// Marks the oldest piece as lost when its time is up: one, as a probe, since its acknowledgement tells
    /// of all the others.
    fn expire(&mut self, now: Duration) {
        let rto = self.rto();
        let waiting = self.flight.iter_mut().filter(|piece| !piece.arrived);
        if let Some(oldest) = waiting.min_by_key(|piece| piece.sent_at)
            && !oldest.lost
            && now >= oldest.sent_at + rto
        {
            oldest.lost = true;
            self.backoff += 1;
        }
    }

    fn resend(&mut self, place: usize, now: Duration) -> Option<Piece> {
        let seq = self.base.wrapping_add(u16::try_from(place).ok()?);
        self.order += 1;
        let piece = self.flight.get_mut(place)?;
        piece.lost = false;
        piece.sent_at = now;
        piece.latest_order = self.order;
        piece.tries += 1;
        self.resent += 1;
        Some(Piece { seq, last: piece.last, payload: piece.payload.clone() })
    }

    fn cut(&mut self) -> Option<(Vec<u8>, bool)> {
        let message = self.messages.front()?;
        let rest = message.get(self.offset..)?;
        if let Some(payload) = rest.get(..self.fragment).filter(|_| rest.len() > self.fragment) {
            self.offset += payload.len();
            return Some((payload.to_vec(), false));
        }
        let payload = rest.to_vec();
        self.messages.pop_front();
        self.offset = 0;
        Some((payload, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(5);

    fn ms(ms: u64) -> Duration {
        T0 + Duration::from_millis(ms)
    }

    fn sender_with(messages: usize) -> Sender {
        let mut sender = Sender::new(4, 10);
        (0..messages).for_each(|i| sender.push(vec![u8::try_from(i).unwrap(); 10]));
        sender
    }

    fn poll_all(sender: &mut Sender, now: Duration) -> Vec<u16> {
        std::iter::from_fn(|| sender.poll(now)).map(|piece| piece.seq).collect()
    }

    #[test]
    fn a_message_is_cut_at_the_fragment_size_and_its_end_is_marked() {
        let mut sender = Sender::new(8, 10);
        sender.push((0..25).collect());
        sender.push(Vec::new());
        let pieces: Vec<_> = std::iter::from_fn(|| sender.poll(T0)).map(|p| (p.payload.len(), p.last)).collect();
        assert_eq!(pieces, [(10, false), (10, false), (5, true), (0, true)]);
    }

    #[test]
    fn no_more_than_the_window_is_on_its_way() {
        let mut sender = sender_with(6);
        assert_eq!(poll_all(&mut sender, T0), [0, 1, 2, 3]);
        sender.acknowledge(2, &[], ms(10));
        assert_eq!(poll_all(&mut sender, ms(10)), [4, 5]);
    }

    #[test]
    fn only_the_piece_that_a_later_one_overtook_is_sent_again() {
        let mut sender = sender_with(4);
        poll_all(&mut sender, T0);
        sender.acknowledge(1, &[0b01], ms(10)); // 0 and 2 arrived; 1 is lost; 3 may be on its way
        assert_eq!(poll_all(&mut sender, ms(10)), [1]);
        sender.acknowledge(4, &[], ms(20));
        assert!(sender.is_idle());
    }

    #[test]
    fn a_piece_that_nobody_answers_is_sent_again_ever_more_slowly() {
        let mut sender = sender_with(1);
        poll_all(&mut sender, T0);
        assert_eq!(poll_all(&mut sender, ms(999)), [] as [u16; 0]);
        assert_eq!(sender.deadline(), Some(ms(1000)));
        assert_eq!(poll_all(&mut sender, ms(1000)), [0]);
        assert_eq!(poll_all(&mut sender, ms(2500)), [] as [u16; 0]);
        assert_eq!(poll_all(&mut sender, ms(3000)), [0]);
    }

    #[test]
    fn an_acknowledgement_from_nowhere_changes_nothing() {
        let mut sender = sender_with(2);
        poll_all(&mut sender, T0);
        sender.acknowledge(60_000, &[0xFF; 16], ms(10));
        sender.acknowledge(3, &[], ms(10));
        assert_eq!(sender.backlog(), 20);
    }

    #[test]
    fn numbers_wrap_around() {
        let mut sender = Sender::new(4, 10);
        for i in 0..70_000u32 {
            sender.push(vec![0]);
            let piece = sender.poll(T0).unwrap();
            assert_eq!(u32::from(piece.seq), i % 65_536);
            sender.acknowledge(piece.seq.wrapping_add(1), &[], T0);
        }
        assert!(sender.is_idle());
    }
}
