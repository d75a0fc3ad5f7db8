//! The receiving half of a channel: puts pieces in order, joins them to messages, and says what arrived.

use super::{MAX_MESSAGE, MAX_PAYLOAD, MAX_WINDOW};
use std::collections::VecDeque;
use std::time::Duration;

/// How long an acknowledgement may wait for company.
const ACK_DELAY: Duration = Duration::from_millis(30);
/// How many pieces in order are acknowledged together.
const ACK_EVERY: u32 = 4;
/// Most bytes of messages held for a reader; beyond, pieces are dropped as if the line had lost them.
const HELD_MAX: usize = MAX_MESSAGE + (256 << 10);
/// What a message costs besides its bytes.
const EACH: usize = 64;
/// Most bytes held: [`HELD_MAX`], the buffer of a message being joined, which doubles, and pieces that came early.
pub(super) const MEMORY_MAX: usize = HELD_MAX + MAX_MESSAGE + MAX_WINDOW as usize * (MAX_PAYLOAD + EACH);

/// The message being joined grew over [`MAX_MESSAGE`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlong;

#[derive(Debug)]
pub(super) struct Receiver {
    window: usize,
    expected: u16,
    /// Pieces that came too early: place 0 is `expected + 1`.
    early: VecDeque<Option<(Vec<u8>, bool)>>,
    joined: Vec<u8>,
    messages: VecDeque<Vec<u8>>,
    held: usize,
    unanswered: u32,
    ack_at: Option<Duration>,
}

impl Receiver {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            expected: 0,
            early: VecDeque::new(),
            joined: Vec::new(),
            messages: VecDeque::new(),
            held: 0,
            unanswered: 0,
            ack_at: None,
        }
    }

    /// Takes in one piece.
    pub(super) fn accept(&mut self, seq: u16, payload: Vec<u8>, last: bool, now: Duration) -> Result<(), Overlong> {
        let ahead = usize::from(seq.wrapping_sub(self.expected));
        if ahead >= self.window {
            // Old (its acknowledgement was lost) or impossible: say again where we are.
            self.ack_at = Some(now);
            return Ok(());
        }
        if self.held + self.joined.len() + payload.len() + EACH > HELD_MAX {
            return Ok(());
        }
        if let Some(place) = ahead.checked_sub(1) {
            if self.early.len() <= place {
                self.early.resize(place + 1, None);
            }
            if let Some(slot) = self.early.get_mut(place) {
                *slot = Some((payload, last));
            }
            self.ack_at = Some(now);
            return Ok(());
        }
        self.unanswered += 1;
        let mut piece = Some((payload, last));
        while let Some((payload, last)) = piece {
            self.expected = self.expected.wrapping_add(1);
            self.join(payload, last)?;
            piece = self.early.pop_front().flatten();
        }
        let soon = if self.unanswered >= ACK_EVERY || !self.early.is_empty() { now } else { now + ACK_DELAY };
        self.ack_at = Some(self.ack_at.map_or(soon, |at| at.min(soon)));
        Ok(())
    }

    pub(super) fn take_message(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.pop_front()?;
        self.held -= message.len() + EACH;
        Some(message)
    }

    pub(super) fn memory(&self) -> usize {
        let early: usize = self.early.iter().map(|p| EACH + p.as_ref().map_or(0, |p| p.0.capacity())).sum();
        let messages: usize = self.messages.iter().map(|m| m.capacity() + EACH).sum();
        early + messages + self.joined.capacity()
    }

    pub(super) fn expected(&self) -> u16 {
        self.expected
    }

    /// Asks for an acknowledgement at the next opportunity.
    pub(super) fn demand_ack(&mut self, now: Duration) {
        self.ack_at = Some(now);
    }

    pub(super) fn ack_deadline(&self) -> Option<Duration> {
        self.ack_at
    }

    /// A frame with the plain number goes out: enough, unless there are gaps to tell of.
    pub(super) fn note_carried(&mut self) {
        if self.early.is_empty() {
            self.note_acknowledged();
        }
    }

    pub(super) fn note_acknowledged(&mut self) {
        self.ack_at = None;
        self.unanswered = 0;
    }

    /// Returns which pieces beyond the expected one are here: bit `i` stands for `expected + 1 + i`.
    pub(super) fn bitmap(&self) -> Vec<u8> {
        let mut bits = vec![0u8; self.early.len().div_ceil(8)];
        for (place, _) in self.early.iter().enumerate().filter(|(_, piece)| piece.is_some()) {
            if let Some(byte) = bits.get_mut(place / 8) {
                *byte |= 1 << (place % 8);
            }
        }
        bits
    }

    fn join(&mut self, payload: Vec<u8>, last: bool) -> Result<(), Overlong> {
        if self.joined.len() + payload.len() > MAX_MESSAGE {
            self.joined = Vec::new();
            return Err(Overlong);
        }
        if self.joined.is_empty() {
            self.joined = payload;
        } else {
            self.joined.extend_from_slice(&payload);
        }
        if last {
            let mut message = std::mem::take(&mut self.joined);
            message.shrink_to_fit();
            self.held += message.len() + EACH;
            self.messages.push_back(message);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1);

    fn accept(receiver: &mut Receiver, seq: u16, last: bool) {
        receiver.accept(seq, vec![u8::try_from(seq % 256).unwrap()], last, T0).unwrap();
    }

    #[test]
    fn pieces_out_of_order_become_messages_in_order() {
        let mut receiver = Receiver::new(8);
        for (seq, last) in [(2, true), (1, false), (3, true), (0, false), (0, false)] {
            accept(&mut receiver, seq, last);
        }
        assert_eq!(receiver.take_message(), Some(vec![0, 1, 2]));
        assert_eq!(receiver.take_message(), Some(vec![3]));
        assert_eq!((receiver.take_message(), receiver.expected()), (None, 4));
    }

    #[test]
    fn the_bitmap_tells_of_pieces_beyond_a_gap() {
        let mut receiver = Receiver::new(16);
        for seq in [0, 2, 4, 10] {
            accept(&mut receiver, seq, true);
        }
        assert_eq!((receiver.expected(), receiver.bitmap()), (1, vec![0b0000_0101, 0b0000_0001]));
        accept(&mut receiver, 1, true);
        assert_eq!((receiver.expected(), receiver.bitmap()), (3, vec![0b0100_0001]));
    }

    #[test]
    fn acknowledgements_wait_for_company_unless_there_is_a_gap() {
        let mut receiver = Receiver::new(16);
        accept(&mut receiver, 0, true);
        assert_eq!(receiver.ack_deadline(), Some(T0 + ACK_DELAY));
        accept(&mut receiver, 2, true);
        assert_eq!(receiver.ack_deadline(), Some(T0));
    }

    #[test]
    fn a_message_over_the_limit_is_an_error_and_not_an_allocation() {
        let mut receiver = Receiver::new(8);
        let mut seq = 0u16;
        let outcome = loop {
            match receiver.accept(seq, vec![0; 4096], false, T0) {
                Ok(()) => seq += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((outcome, usize::from(seq)), (Overlong, MAX_MESSAGE / 4096));
    }

    #[test]
    fn a_reader_that_does_not_read_costs_bounded_memory() {
        let mut receiver = Receiver::new(8);
        for seq in 0..2000 {
            receiver.accept(seq, vec![0; 4096], true, T0).unwrap();
        }
        assert_eq!(receiver.messages.len(), HELD_MAX / (4096 + EACH));
        let next = receiver.expected();
        receiver.take_message();
        receiver.accept(next, vec![0; 4096], true, T0).unwrap();
        assert_eq!(receiver.expected(), next + 1);
    }
}
