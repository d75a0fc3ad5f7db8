//! Conversations: requests and responses over a transport, and the loop that serves them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::channel::{Channel, ChannelConfig, CloseReason, Event, LineQuality, SendError};
use crate::messages::{
    MessageError, PROTOCOL_VERSION, Progress, RefusalCode, Request, Response, decode_body, decode_id, encode,
};
use crate::transport::Transport;

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Nobody answered.
    #[error("expected a device to answer within {waited:?}, found silence{}; check cable, power, port and that graftd runs", describe(*.skipped_bytes))]
    NoAnswer {
        /// How long.
        waited: Duration,
        /// Bytes that came and were no frames: another speed or another program.
        skipped_bytes: u64,
    },
    /// The port failed.
    #[error("the line failed; check cable and power, then repeat the command")]
    Line(#[from] io::Error),
    /// The session ended.
    #[error(transparent)]
    Closed(#[from] CloseReason),
    /// The device will not.
    #[error("the device refused: {message}")]
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// In words.
        message: String,
    },
    /// A message cannot be made or understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer speaks another version of the frames.
    #[error("expected a device of this link version, found version {found}; update the older side")]
    Version {
        /// The device's.
        found: u8,
    },
    /// The answer does not go with the question.
    #[error("expected an answer to {asked}, found {found}; update the older side")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came.
        found: String,
    },
    /// The caller raised its flag.
    #[error("stopped; repeat the command to go on from here")]
    Stopped,
}

fn describe(skipped: u64) -> String {
    if skipped == 0 { String::new() } else { format!(" and {skipped} bytes that are no frames (another baud rate?)") }
}

/// A channel on a transport.
struct Line<T> {
    transport: T,
    channel: Channel,
    start: Instant,
    sent: u64,
    received: u64,
}

/// Frames written before the other direction is looked at.
const BURST: usize = 8;
/// Longest wait in one read, so that a raised flag is noticed.
const TICK: Duration = Duration::from_millis(50);

impl<T: Transport> Line<T> {
    fn new(transport: T, channel: impl FnOnce(Duration) -> Channel) -> Self {
        Self { transport, channel: channel(Duration::ZERO), start: Instant::now(), sent: 0, received: 0 }
    }

    /// Writes what is due and reads what has come.
    fn pump(&mut self, patience: Duration) -> io::Result<()> {
        let mut written = 0;
        while written < BURST {
            let Some(frame) = self.channel.poll_transmit(self.start.elapsed()) else { break };
            self.transport.write_all(&frame)?;
            self.sent += frame.len() as u64;
            written += 1;
        }
        let now = self.start.elapsed();
        let until = self.channel.next_deadline().map_or(patience, |at| at.saturating_sub(now));
        let wait = if written == BURST { Duration::ZERO } else { patience.min(until) };
        let mut buffer = [0; 4096];
        let n = self.transport.read(&mut buffer, wait)?;
        self.received += n as u64;
        self.channel.receive(buffer.get(..n).unwrap_or_default(), self.start.elapsed());
        Ok(())
    }

    /// Sends what is queued, for at most `patience`.
    fn flush(&mut self, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        while self.channel.is_open() && !self.channel.is_flushed() && Instant::now() < until {
            self.pump(TICK)?;
        }
        Ok(())
    }
}

/// What a device says of itself at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its name.
    pub device: String,
    /// Version of its daemon.
    pub version: String,
}

/// The host's side of a conversation.
pub struct Client<T: Transport> {
    line: Line<T>,
    next_id: u32,
    stop: Option<std::sync::Arc<AtomicBool>>,
}

/// Requests on their way at once in [`Client::pipeline`].
const PIPELINE: usize = 64;
/// Bytes not yet acknowledged at which no further request is queued.
const BACKLOG: usize = 128 << 10;

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
        stop: Option<std::sync::Arc<AtomicBool>>,
    ) -> Result<(Self, Greeting), LinkError> {
        let line = Line::new(transport, |now| Channel::initiator(ChannelConfig::INITIATOR, nonce, now));
        let mut this = Self { line, next_id: 0, stop };
        let start = Instant::now();
        while !this.line.channel.is_open() {
            this.check_stop()?;
            this.line.pump(TICK)?;
            if let Some(found) = this.line.channel.foreign_version() {
                return Err(LinkError::Version { found });
            }
            if start.elapsed() > patience {
                let skipped_bytes = this.line.channel.line_quality().skipped_bytes;
                return Err(LinkError::NoAnswer { waited: patience, skipped_bytes });
            }
        }
        let hello = Request::Hello { protocol: PROTOCOL_VERSION, client: client.into() };
        match this.request(&hello, |_| ())? {
            Response::Hello { device, version, .. } => Ok((this, Greeting { device, version })),
            other => Err(unexpected("Hello", &other)),
        }
    }

    fn check_stop(&self) -> Result<(), LinkError> {
        match &self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(LinkError::Stopped),
            _ => Ok(()),
        }
    }

    fn send(&mut self, request: &Request) -> Result<u32, LinkError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        match self.line.channel.send(encode(id, request)?) {
            Ok(()) => Ok(id),
            Err(SendError::NotOpen) => Err(self.close_reason().into()),
            Err(SendError::TooLarge { found, limit }) => Err(MessageError::TooLarge { found, limit }.into()),
        }
    }

    fn close_reason(&mut self) -> CloseReason {
        let mut reason = CloseReason::Reset;
        while let Some(event) = self.line.channel.take_event() {
            if let Event::Closed(why) = event {
                reason = why;
            }
        }
        reason
    }

    /// Waits for the next response of any request.
    fn receive(&mut self) -> Result<(u32, Response), LinkError> {
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
            match self.receive()? {
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
        let mut waiting = std::collections::VecDeque::new();
        let mut more = true;
        loop {
            while more && waiting.len() < PIPELINE && self.line.channel.backlog() < BACKLOG {
                match requests.next() {
                    Some(request) => waiting.push_back(self.send(&request)?),
                    None => more = false,
                }
            }
            let Some(&id) = waiting.front() else { if more { continue } else { return Ok(()) } };
            match self.receive()? {
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

/// Returns the error for an answer that does not go with its question.
pub fn unexpected(asked: &'static str, found: &Response) -> LinkError {
    let mut found = format!("{found:?}");
    found.truncate(found.char_indices().nth(120).map_or(found.len(), |(at, _)| at));
    LinkError::Unexpected { asked, found }
}

/// What a device does with requests. `Hello` is answered by [`serve`] itself.
pub trait Service {
    /// Returns the device's name and the version of its daemon.
    fn greeting(&self) -> Greeting;

    /// Answers a request; `progress` may be called in between, and should be at least every second.
    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress)) -> Response;

    /// Is told when a host comes and goes.
    fn connected(&mut self, _is_connected: bool) {}
}

/// Serves hosts on a transport, one after another, until `stop` is raised or the transport fails.
///
/// # Errors
///
/// The transport's.
pub fn serve<T: Transport>(transport: T, service: &mut impl Service, stop: &AtomicBool) -> io::Result<()> {
    let mut line = Line::new(transport, |now| Channel::responder(ChannelConfig::RESPONDER, now));
    let ended = converse(&mut line, service, stop);
    service.connected(false);
    if ended.is_ok() {
        line.flush(Duration::from_millis(500))?;
        line.channel.close();
        line.pump(Duration::ZERO)?;
    }
    ended
}

fn converse<T: Transport>(line: &mut Line<T>, service: &mut impl Service, stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        line.pump(TICK)?;
        while let Some(event) = line.channel.take_event() {
            service.connected(matches!(event, Event::Opened));
        }
        while let Some(message) = line.channel.take_message() {
            let (id, response) = match decode_id(&message) {
                Err(e) => (0, malformed(&e)),
                Ok((id, body)) => (id, answer(line, id, body, service)),
            };
            let bytes = encode(id, &response).or_else(|e| {
                let message = format!("the answer cannot be sent: {e}");
                encode(id, &Response::Refused { code: RefusalCode::Internal, message })
            });
            // A session that ended meanwhile wants no answer.
            let _ = line.channel.send(bytes.unwrap_or_default());
        }
    }
    Ok(())
}

fn malformed(error: &MessageError) -> Response {
    Response::Refused { code: RefusalCode::Malformed, message: error.to_string() }
}

fn answer<T: Transport>(line: &mut Line<T>, id: u32, body: &[u8], service: &mut impl Service) -> Response {
    let request: Request = match decode_body(body) {
        Ok(request) => request,
        Err(e) => return malformed(&e),
    };
    if let Request::Hello { protocol, .. } = request {
        let Greeting { device, version } = service.greeting();
        if protocol != PROTOCOL_VERSION {
            let message = format!("expected protocol {PROTOCOL_VERSION}, found {protocol}; update the older side");
            return Response::Refused { code: RefusalCode::Version, message };
        }
        return Response::Hello { protocol: PROTOCOL_VERSION, device, version };
    }
    let mut progress = |p: Progress| {
        if let Ok(bytes) = encode(id, &Response::Progress(p)) {
            let _ = line.channel.send(bytes);
        }
        // A failing line shows at the next turn of the loop; the work goes on.
        let _ = line.pump(Duration::ZERO);
    };
    service.handle(request, &mut progress)
}

#[cfg(test)]
mod tests;
