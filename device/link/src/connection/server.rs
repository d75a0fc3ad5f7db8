//! The device's side of a conversation: the loop that serves hosts.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rates::{DEVICE_SILENCE, SLOWEST};
use super::{Greeting, Line, TICK};
use crate::channel::{BACKLOG_MAX, Channel, ChannelConfig, Event};
use crate::messages::{
    MessageError, OLDEST_PROTOCOL, PROTOCOL_VERSION, Progress, RefusalCode, Request, Response, decode_body, decode_id,
    encode,
};
use crate::transport::Transport;

/// Whether the host that asked waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// It does, as far as the device knows: a line that only fell silent may be a busy host.
    Waits,
    /// It has ended its session, or begun another, or the line has ended.
    Gone,
}

/// What a device does with requests. `Hello`, `Echo` and `Rate` are answered by [`serve`] itself.
pub trait Service {
    /// Returns the device's name and the version of its daemon.
    fn greeting(&self) -> Greeting;

    /// Answers a request; `progress` may be called in between, and should be at least every second. It tells whether the
    /// host is still there.
    fn handle(&mut self, request: Request, progress: &mut dyn FnMut(Progress) -> Host) -> Response;

    /// Is told when a host comes and goes.
    fn connected(&mut self, _is_connected: bool) {}
}

/// Serves hosts on a transport, one after another, until `stop` is raised or the transport fails.
///
/// # Errors
///
/// The transport's.
pub fn serve<T: Transport>(transport: T, service: &mut impl Service, stop: &AtomicBool) -> io::Result<()> {
    let mut line = Line::new(transport, DEVICE_SILENCE, |now| Channel::responder(ChannelConfig::RESPONDER, now));
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
            line.return_to_base()?;
            service.connected(matches!(event, Event::Opened));
        }
        // A host that asks and takes no answers is not asked what more it wants.
        while line.channel.backlog() < BACKLOG_MAX
            && let Some(message) = line.channel.take_message()
        {
            let session = line.channel.session_nonce();
            let (id, answered) = match decode_id(&message) {
                Err(e) => (0, malformed(&e).into()),
                Ok((id, body)) => (id, answer(line, id, body, service)),
            };
            let bytes = encode(id, &answered.response).or_else(|e| {
                let message = format!("the answer cannot be sent: {e}");
                encode(id, &Response::Refused { code: RefusalCode::Internal, message })
            });
            // A session that ended meanwhile wants no answer, and the one after it not this.
            if line.channel.session_nonce() == session {
                let _ = line.channel.send(bytes.unwrap_or_default());
            }
            if let Some(rate) = answered.rate {
                line.follow(rate)?;
            }
        }
    }
    Ok(())
}

/// An answer, and the rate at which to go on after it.
struct Answered {
    response: Response,
    rate: Option<u32>,
}

impl From<Response> for Answered {
    fn from(response: Response) -> Self {
        Self { response, rate: None }
    }
}

fn malformed(error: &MessageError) -> Response {
    Response::Refused { code: RefusalCode::Malformed, message: error.to_string() }
}

fn answer<T: Transport>(line: &mut Line<T>, id: u32, body: &[u8], service: &mut impl Service) -> Answered {
    let request: Request = match decode_body(body) {
        Ok(request) => request,
        Err(e) => return malformed(&e).into(),
    };
    match request {
        Request::Hello { protocol, .. } => greet(protocol, service.greeting()).into(),
        Request::Echo { bytes } => Response::Echo { bytes }.into(),
        Request::Rate { bits_per_second } => match line.base {
            Some(base) if bits_per_second == base || bits_per_second >= SLOWEST => {
                Answered { response: Response::Done, rate: Some(bits_per_second) }
            }
            Some(_) => refuse(format!("expected at least {SLOWEST} bits a second, found {bits_per_second}")).into(),
            None => refuse("this line has no rate".into()).into(),
        },
        request => {
            let session = line.channel.session_nonce();
            let mut progress = |p: Progress| {
                if line.channel.session_nonce() == session
                    && line.channel.backlog() < BACKLOG_MAX
                    && let Ok(bytes) = encode(id, &Response::Progress(p))
                {
                    let _ = line.channel.send(bytes);
                }
                // A failing line shows at the next turn of the loop; what becomes of the work is for the service to say.
                let has_failed = line.pump(Duration::ZERO).is_err();
                if has_failed || line.channel.session_nonce() != session { Host::Gone } else { Host::Waits }
            };
            service.handle(request, &mut progress).into()
        }
    }
}

fn refuse(message: String) -> Response {
    Response::Refused { code: RefusalCode::Unsupported, message }
}

/// A newer host may know our protocol; whether it does is for the host to say.
fn greet(protocol: u16, greeting: Greeting) -> Response {
    let Greeting { device, version } = greeting;
    if protocol < OLDEST_PROTOCOL {
        let message = format!(
            "expected protocol {OLDEST_PROTOCOL} to {PROTOCOL_VERSION}, found {protocol}; update graft on the host"
        );
        return Response::Refused { code: RefusalCode::Version, message };
    }
    Response::Hello { protocol: protocol.min(PROTOCOL_VERSION), device, version }
}
