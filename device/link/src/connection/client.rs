//! The host's side of a conversation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rates::HOST_SILENCE;
use super::{Greeting, Line, LinkError, TICK, unexpected};
use crate::channel::{BACKLOG_MAX, Channel, ChannelConfig, CloseReason, Event, LineQuality, SendError};
use crate::messages::{
    MessageError, OLDEST_PROTOCOL, PROTOCOL_VERSION, Progress, RefusalCode, Request, Response, decode_body, decode_id,
    encode,
};
use crate::transport::Transport;

/// The host's side of a conversation.
pub struct Client<T: Transport> {
    pub(super) line: Line<T>,
    next_id: u32,
    protocol: u16,
    deadline: Duration,
    stop: Option<Arc<AtomicBool>>,
}

/// Requests on their way at once in [`Client::pipeline`].
const PIPELINE: usize = 64;
/// For how long nothing may move on a request: a device at work tells of it every second.
const DEADLINE: Duration = Duration::from_secs(30);

impl<T: Transport> Client<T> {
    /// Opens a session. `nonce` must differ from call to call.
    ///
    /// # Errors
    ///
    /// [`LinkError::NoAnswer`], [`LinkError::Version`] or [`LinkError::Line`].
    pub fn connect(
        transport: T,
        client: &str,
        nonce: u64,
        patience: Duration,
        stop: Option<Arc<AtomicBool>>,
    ) -> Result<(Self, Greeting), LinkError> {
        let line = Line::new(transport, HOST_SILENCE, |now| Channel::initiator(ChannelConfig::INITIATOR, nonce, now));
        let mut this = Self { line, next_id: 0, protocol: PROTOCOL_VERSION, deadline: DEADLINE, stop };
        let start = this.line.now();
        while !this.line.channel.is_open() {
            this.check_stop()?;
            this.line.pump(TICK)?;
            if let Some(found) = this.line.channel.foreign_version() {
                return Err(LinkError::Version { found });
            }
            if this.line.now().saturating_sub(start) > patience {
                let skipped_bytes = this.line.channel.line_quality().skipped_bytes;
                return Err(LinkError::NoAnswer { waited: patience, skipped_bytes });
            }
        }
        // Until it has greeted us, the device is given no longer than the caller has patience.
        this.deadline = patience.min(DEADLINE);
        let greeting = this.greet(client)?;
        this.deadline = DEADLINE;
        Ok((this, greeting))
    }

    /// Agrees on the newest protocol that both speak. A device of protocol 1 takes no other number than its own.
    fn greet(&mut self, client: &str) -> Result<Greeting, LinkError> {
        let mut outcome = Err(LinkError::Protocol { found: 0 });
        for protocol in (OLDEST_PROTOCOL..=PROTOCOL_VERSION).rev() {
            outcome = self.request(&Request::Hello { protocol, client: client.into() }, |_| ());
            if !matches!(outcome, Err(LinkError::Refused { code: RefusalCode::Version, .. })) {
                break;
            }
        }
        match outcome? {
            Response::Hello { protocol, device, version }
                if (OLDEST_PROTOCOL..=PROTOCOL_VERSION).contains(&protocol) =>
            {
                self.protocol = protocol;
                Ok(Greeting { device, version })
            }
            Response::Hello { protocol, .. } => Err(LinkError::Protocol { found: protocol }),
            other => Err(unexpected("Hello", &other)),
        }
    }

    /// Returns the protocol of this session: the older of both sides'.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Changes for how long nothing may move on a request before it counts as overdue.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn check_stop(&self) -> Result<(), LinkError> {
        match &self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(LinkError::Stopped),
            _ => Ok(()),
        }
    }

    pub(super) fn send(&mut self, request: &Request) -> Result<u32, LinkError> {
        let (asked, needs) = (request.name(), request.since());
        if needs > self.protocol {
            return Err(LinkError::TooOld { asked, needs, found: self.protocol });
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        match self.line.channel.send(encode(id, request)?) {
            Ok(()) => Ok(id),
            Err(SendError::NotOpen) => Err(self.close_reason().into()),
            Err(SendError::TooLarge { found, limit }) => Err(MessageError::TooLarge { found, limit }.into()),
        }
    }

    pub(super) fn close_reason(&mut self) -> CloseReason {
        let mut reason = CloseReason::Reset;
        while let Some(event) = self.line.channel.take_event() {
            if let Event::Closed(why) = event {
                reason = why;
            }
        }
        reason
    }

    /// Waits for the next response of any request; `asked` is what the caller waits for.
    pub(super) fn receive(&mut self, asked: &'static str) -> Result<(u32, Response), LinkError> {
        let mut moved = (self.line.now(), self.line.channel.backlog());
        loop {
            if let Some(message) = self.line.channel.take_message() {
                let (id, body) = decode_id(&message)?;
                return Ok((id, decode_body(body)?));
            }
            if !self.line.channel.is_open() {
                return Err(self.close_reason().into());
            }
            self.check_stop()?;
            self.line.pump(TICK)?;
            let (now, backlog) = (self.line.now(), self.line.channel.backlog());
            if backlog != moved.1 {
                moved = (now, backlog);
            }
            if now.saturating_sub(moved.0) > self.deadline {
                return Err(LinkError::Overdue { asked, waited: self.deadline });
            }
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if the device will not; the session goes on. Others end it.
    pub fn request(&mut self, request: &Request, mut progress: impl FnMut(&Progress)) -> Result<Response, LinkError> {
        let id = self.send(request)?;
        loop {
            match self.receive(request.name())? {
                (found, Response::Progress(p)) if found == id => progress(&p),
                (found, Response::Refused { code, message }) if found == id => {
                    return Err(LinkError::Refused { code, message });
                }
                (found, response) if found == id => return Ok(response),
                // Left over from a request that was given up.
                _ => {}
            }
        }
    }

    /// Sends many requests without waiting for each answer, so that a slow line is never idle. `each` gets every answer
    /// in order.
    ///
    /// # Errors
    ///
    /// As [`Client::request`]; what is on its way is given up.
    pub fn pipeline(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
        mut each: impl FnMut(&Response),
    ) -> Result<(), LinkError> {
        let mut requests = requests.into_iter();
        let mut waiting = VecDeque::new();
        let mut more = true;
        loop {
            // A rate is changed between requests.
            let is_too_fast = self.is_too_fast();
            if is_too_fast && waiting.is_empty() {
                self.slow_down()?;
                continue;
            }
            while more && !is_too_fast && waiting.len() < PIPELINE && self.line.channel.backlog() < BACKLOG_MAX {
                match requests.next() {
                    Some(request) => waiting.push_back((self.send(&request)?, request.name())),
                    None => more = false,
                }
            }
            let Some(&(id, asked)) = waiting.front() else { if more { continue } else { return Ok(()) } };
            match self.receive(asked)? {
                (_, Response::Progress(_)) => {}
                (found, Response::Refused { code, message }) if found == id => {
                    return Err(LinkError::Refused { code, message });
                }
                (found, response) if found == id => {
                    waiting.pop_front();
                    each(&response);
                }
                _ => {}
            }
        }
    }

    /// Returns the bytes on the line so far, out and in.
    pub fn wire_bytes(&self) -> (u64, u64) {
        (self.line.sent, self.line.received)
    }

    /// Returns the time of the line since any fixed moment.
    pub fn now(&self) -> Duration {
        self.line.now()
    }

    /// Returns what went wrong on the line so far.
    pub fn line_quality(&self) -> LineQuality {
        self.line.channel.line_quality()
    }
}

impl<T: Transport> Drop for Client<T> {
    fn drop(&mut self) {
        // The device would notice the silence in time; telling it frees the port for the next host at once.
        self.line.channel.close();
        let _ = self.line.pump(Duration::ZERO);
    }
}
