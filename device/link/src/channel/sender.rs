//! The sending half of a channel: cuts messages into pieces, keeps those on their way, and decides which
//! to send again. Knows the time only as what the caller passes in.

use super::{BACKLOG_MAX, MAX_MESSAGE, MAX_PAYLOAD, MAX_WINDOW};
use crate::frame::{HEADER_LEN, TRAILER_LEN};
use std::collections::VecDeque;
use std::time::Duration;

/// Shortest wait before a piece counts as lost.
const RTO_MIN: Duration = Duration::from_millis(150);
/// Longest wait before a piece counts as lost.
const RTO_MAX: Duration = Duration::from_secs(8);
/// The wait while no round trip has been measured.
const RTO_FIRST: Duration = Duration::from_secs(1);

/// Most bytes held: an answer put on top of the backlog, and a copy of what is on its way.
pub(super) const MEMORY_MAX: usize = BACKLOG_MAX + MAX_MESSAGE + 2 * MAX_WINDOW as usize * MAX_PAYLOAD;

/// Fewest bytes in a piece: below, frames cost more than they save.
const FRAGMENT_MIN: f32 = 64.0;
/// What a piece costs besides its bytes.
const OVERHEAD: f32 = (HEADER_LEN + TRAILER_LEN) as f32;

/// What the line has lost lately.
///
/// A piece of `n` bytes with `h` around it, of which each is damaged with probability `p`, carries
/// `n (1 - p)^(n + h) / (n + h)` of the line; that is largest near `n = sqrt(h / p)`. Where pieces are lost whatever
/// their size, this ends where as much is spent on frames as is lost.
#[derive(Debug)]
struct Losses {
    pieces: f32,
    lost: f32,
    bytes: f32,
    lost_per_byte: f32,
}

impl Losses {
    /// Begins as if one piece had been lost in so many bytes: in small steps, which a good line soon lengthens.
    const PRIOR_BYTES: f32 = 4096.0;
    /// Older losses than these fade.
    const BYTES: f32 = 65_536.0;
    const PIECES: f32 = 64.0;

    fn new() -> Self {
        Self { pieces: 0.0, lost: 0.0, bytes: Self::PRIOR_BYTES, lost_per_byte: 1.0 }
    }

    fn add(&mut self, len: usize, is_lost: bool) {
        let lost = f32::from(u8::from(is_lost));
        let bytes = len as f32 + OVERHEAD;
        let fade = (1.0 - bytes / Self::BYTES).max(0.0);
        self.bytes = self.bytes * fade + bytes;
        self.lost_per_byte = self.lost_per_byte * fade + lost;
        let fade = 1.0 - 1.0 / Self::PIECES;
        self.pieces = self.pieces * fade + 1.0;
        self.lost = self.lost * fade + lost;
    }

    fn fragment(&self, limit: usize) -> usize {
        let best = (OVERHEAD * self.bytes / self.lost_per_byte.max(1e-6)).sqrt();
        (best.max(FRAGMENT_MIN) as usize).min(limit)
    }

    /// Of the latest pieces, once there are enough.
    fn share(&self) -> f32 {
        if self.pieces < Self::PIECES / 3.0 { 0.0 } else { self.lost / self.pieces }
    }
}

/// Pieces on their way before anything has arrived; each that arrives allows one more.
const ALLOWED_FIRST: usize = 4;

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
    /// Pieces that may be on their way by now: what a port takes at once should not wait longer than a first answer may.
    allowed: usize,
    /// Most bytes in a piece.
    fragment: usize,
    losses: Losses,
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
    backoff: u32,
    resent: u64,
}

impl Sender {
    pub(super) fn new(window: usize, fragment: usize) -> Self {
        Self {
            window: window.max(1),
            allowed: ALLOWED_FIRST.min(window.max(1)),
            fragment: fragment.max(1),
            losses: Losses::new(),
            messages: VecDeque::new(),
            offset: 0,
            base: 0,
            flight: VecDeque::new(),
            order: 0,
            arrived_order: 0,
            smoothed: None,
            variation: Duration::ZERO,
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

    pub(super) fn recent_loss(&self) -> f32 {
        self.losses.share()
    }

    /// The line is another one now: forgets what it has lost, and sends anew what may be.
    pub(super) fn renew(&mut self) {
        self.losses = Losses::new();
        self.backoff = 0;
        self.flight.iter_mut().filter(|piece| !piece.arrived).for_each(|piece| piece.lost = true);
    }

    pub(super) fn memory(&self) -> usize {
        let on_their_way: usize = self.flight.iter().map(|f| f.payload.capacity() + size_of::<InFlight>()).sum();
        let waiting: usize = self.messages.iter().map(|m| m.capacity() + size_of::<Vec<u8>>()).sum();
        waiting + on_their_way
    }

    /// Takes in what the peer says has arrived: everything before `ack`, and `ack + 1 + i` for bit `i`.
    pub(super) fn acknowledge(&mut self, ack: u16, bitmap: &[u8], now: Duration) {
        let advance = usize::from(ack.wrapping_sub(self.base));
        if advance > self.flight.len() {
            return; // an old frame, or one of a peer that counts wrongly
        }
        for place in 0..advance {
            self.mark_arrived(place, now);
        }
        for (byte, bits) in bitmap.iter().enumerate() {
            for bit in (0..8).filter(|bit| bits & (1 << bit) != 0) {
                self.mark_arrived(advance + 1 + byte * 8 + bit, now);
            }
        }
        self.flight.drain(..advance);
        self.base = ack;
        // A byte stream does not reorder: what was sent before something that arrived, and has not arrived
        // itself, is lost.
        for piece in self.flight.iter_mut().filter(|p| !p.arrived && p.latest_order < self.arrived_order) {
            if !piece.lost {
                self.losses.add(piece.payload.len(), true);
            }
            piece.lost = true;
        }
    }

    /// Returns the next piece that may be sent now.
    pub(super) fn poll(&mut self, now: Duration) -> Option<Piece> {
        self.expire(now);
        if let Some(place) = self.flight.iter().position(|piece| piece.lost) {
            return self.resend(place, now);
        }
        if self.flight.len() >= self.allowed {
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
        if self.flight.len() < self.allowed && !self.messages.is_empty() {
            return Some(Duration::ZERO);
        }
        let oldest = self.flight.iter().filter(|piece| !piece.arrived).map(|piece| piece.sent_at).min()?;
        Some(oldest + self.rto())
    }

    fn mark_arrived(&mut self, place: usize, now: Duration) {
        let Some(piece) = self.flight.get_mut(place).filter(|piece| !piece.arrived) else { return };
        piece.arrived = true;
        piece.lost = false;
        self.losses.add(piece.payload.len(), false);
        self.allowed = (self.allowed + 1).min(self.window);
        let waited = now.saturating_sub(piece.sent_at);
        let (tries, first, latest) = (piece.tries, piece.first_order, piece.latest_order);
        if tries == 1 {
            self.measure(waited);
        }
        // Which transmission arrived is not said. The latest did unless the answer came faster than answers do (as in
        // RFC 8985, section 6.2, but not than any ever did: before a port's buffer was full, they were faster), or the
        // wait for it may have been too short.
        let usual = self.smoothed.unwrap_or_default() * 3 / 4;
        let order = if tries == 1 || (self.backoff == 0 && waited >= usual) { latest } else { first };
        self.arrived_order = self.arrived_order.max(order);
    }

    /// The estimator of RFC 6298, section 2. Only what was sent once measures, and ends a longer wait.
    fn measure(&mut self, sample: Duration) {
        self.backoff = 0;
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
        // At least twice the usual: a port's buffer that fills up makes answers late.
        let measured = self.smoothed.map_or(RTO_FIRST, |smoothed| smoothed + smoothed.max(self.variation * 4));
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
        let fragment = self.losses.fragment(self.fragment);
        if let Some(payload) = rest.get(..fragment).filter(|_| rest.len() > fragment) {
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
