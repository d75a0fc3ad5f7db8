//! A session with one device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use graft_bundle::Bundle;
use graft_link::connection::unexpected;
use graft_link::messages::{Classified, DeviceInfo, Prediction, Request, Response, SelfTest, SlotInfo};
use graft_link::{Client, Greeting, LinkError, Transport};
use serde::Serialize;

use crate::Address;

/// Why a device could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeployError {
    /// The line cannot be opened.
    #[error(
        "cannot reach a device at {address}; check cable, power and the address (`graft ports` lists serial ports)"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation failed.
    #[error("talking to the device at {address}")]
    Link {
        /// Where.
        address: String,
        /// How.
        source: LinkError,
    },
}

impl DeployError {
    /// Whether the device said no, so that trying again is of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Link { source: LinkError::Refused { .. }, .. })
    }

    /// Whether the device could not be reached, so that trying again may help.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Link { source, .. } => {
                matches!(source, LinkError::NoAnswer { .. } | LinkError::Line(_) | LinkError::Closed(_))
            }
        }
    }
}

/// How far a flash has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlashProgress {
    /// Chunks are travelling.
    Sending {
        /// Bytes of chunks that the device has stored.
        done: u64,
        /// Bytes to send.
        total: u64,
    },
    /// The device is at work.
    Device {
        /// At what.
        text: String,
        /// Steps done.
        done: u32,
        /// Steps in all, 0 when not known.
        total: u32,
    },
}

/// What a flash came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlashReport {
    /// Bytes of the bundle file.
    pub payload_bytes: u64,
    /// Bytes on the line, both ways, from the first to the last.
    pub wire_bytes: u64,
    /// Of those, from host to device.
    pub wire_bytes_sent: u64,
    /// Seconds from the request to the device's verdict.
    pub seconds: f64,
    /// Of those, until the last chunk was stored.
    pub transfer_seconds: f64,
    /// The slot that runs now.
    pub slot: String,
    /// Chunks of the bundle.
    pub chunks_total: usize,
    /// Chunks that the device had not.
    pub chunks_sent: usize,
    /// Golden samples that the device ran.
    pub self_test_samples: u32,
    /// Largest difference to the expected logits.
    pub self_test_max_abs_diff: f32,
    /// Median milliseconds of one sample on the device.
    pub device_latency_ms: f32,
}

/// An open session.
pub struct Session {
    client: Client<Box<dyn Transport>>,
    greeting: Greeting,
    address: String,
}

impl Session {
    /// Reaches a device; a raised `stop` ends every wait.
    ///
    /// # Errors
    ///
    /// [`DeployError::Unreachable`] or [`DeployError::Link`].
    pub fn connect(address: &Address, patience: Duration, stop: Option<Arc<AtomicBool>>) -> Result<Self, DeployError> {
        let name = address.to_string();
        let line =
            address.open(patience).map_err(|source| DeployError::Unreachable { address: name.clone(), source })?;
        Self::over(line, name, patience, stop)
    }

    /// Begins a session on a line that is open.
    ///
    /// # Errors
    ///
    /// [`DeployError::Link`].
    pub fn over(
        line: Box<dyn Transport>,
        address: String,
        patience: Duration,
        stop: Option<Arc<AtomicBool>>,
    ) -> Result<Self, DeployError> {
        let client = concat!("graft ", env!("CARGO_PKG_VERSION"));
        match Client::connect(line, client, nonce(), patience, stop) {
            Ok((client, greeting)) => Ok(Self { client, greeting, address }),
            Err(source) => Err(DeployError::Link { address, source }),
        }
    }

    /// Returns what the device said of itself.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    fn link<T>(&self, outcome: Result<T, LinkError>) -> Result<T, DeployError> {
        outcome.map_err(|source| DeployError::Link { address: self.address.clone(), source })
    }

    fn ask<T>(
        &mut self,
        request: &Request,
        asked: &'static str,
        take: impl FnOnce(Response) -> Result<T, Box<Response>>,
    ) -> Result<T, DeployError> {
        let outcome = self.client.request(request, |_| ());
        let outcome = outcome.and_then(|response| take(response).map_err(|other| unexpected(asked, &other)));
        self.link(outcome)
    }

    /// Asks what the device is.
    ///
    /// # Errors
    ///
    /// [`DeployError::Link`], as all below.
    pub fn info(&mut self) -> Result<DeviceInfo, DeployError> {
        self.ask(&Request::Info, "Info", |r| if let Response::Info(i) = r { Ok(i) } else { Err(r.into()) })
    }

    /// Asks what is in the slots.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn slots(&mut self) -> Result<Vec<SlotInfo>, DeployError> {
        self.ask(&Request::Slots, "Slots", |r| if let Response::Slots(s) = r { Ok(s) } else { Err(r.into()) })
    }

    /// Makes the bundle on trial permanent.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn commit(&mut self) -> Result<(), DeployError> {
        self.ask(&Request::Commit, "Commit", |r| if r == Response::Done { Ok(()) } else { Err(r.into()) })
    }

    /// Goes back to the other slot.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn rollback(&mut self) -> Result<(), DeployError> {
        self.ask(&Request::Rollback, "Rollback", |r| if r == Response::Done { Ok(()) } else { Err(r.into()) })
    }

    /// Has the device classify a JPEG or PNG file.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn classify(&mut self, name: &str, image: &[u8]) -> Result<Classified, DeployError> {
        let request = Request::Classify { name: name.into(), image: image.to_vec() };
        self.ask(&request, "Classify", |r| if let Response::Classified(c) = r { Ok(c) } else { Err(r.into()) })
    }

    /// Asks for the picture on the display, a PNG file.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn screen(&mut self) -> Result<Vec<u8>, DeployError> {
        self.ask(&Request::Screen, "Screen", |r| if let Response::Screen { png } = r { Ok(png) } else { Err(r.into()) })
    }

    /// Asks for the newest predictions, newest first.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn recent(&mut self, count: u32) -> Result<Vec<Prediction>, DeployError> {
        self.ask(
            &Request::Recent { count },
            "Recent",
            |r| if let Response::Recent(p) = r { Ok(p) } else { Err(r.into()) },
        )
    }

    /// Sends what the device has not of a bundle, and has it test and run it. A flash that was cut off goes on where it
    /// was.
    ///
    /// # Errors
    ///
    /// As [`Session::info`]; a refusal leaves the device as it was.
    pub fn flash(
        &mut self,
        bundle: &Bundle,
        mut progress: impl FnMut(FlashProgress),
    ) -> Result<FlashReport, DeployError> {
        let start = Instant::now();
        let wire = |client: &Client<_>| client.wire_bytes();
        let (sent_before, received_before) = wire(&self.client);
        let chunks = &bundle.manifest().chunks;
        let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let begin = Request::Begin { head: bundle.head().bytes().to_vec() };
        let missing = self.ask(&begin, "Begin", |r| {
            if let Response::Begun { missing, .. } = r { Ok(missing) } else { Err(r.into()) }
        })?;
        let missing: Vec<u32> = missing.below(count).collect();
        let len = |index: u32| bundle.stored_chunk(index as usize).len() as u64;
        let total = missing.iter().map(|&i| len(i)).sum();
        let mut done = 0;
        let requests =
            missing.iter().map(|&index| Request::Chunk { index, stored: bundle.stored_chunk(index as usize).to_vec() });
        let outcome = self.client.pipeline(requests, |response| {
            if let Response::ChunkStored { index } = response {
                done += len(*index);
                progress(FlashProgress::Sending { done, total });
            }
        });
        self.link(outcome)?;
        let transfer_seconds = start.elapsed().as_secs_f64();
        let outcome = self.client.request(&Request::Finish, |p| {
            progress(FlashProgress::Device { text: p.text.clone(), done: p.done, total: p.total });
        });
        let (slot, test): (String, SelfTest) = match self.link(outcome)? {
            Response::Finished { slot, self_test } => (slot, self_test),
            other => return self.link(Err(unexpected("Finish", &other))),
        };
        let (sent, received) = wire(&self.client);
        Ok(FlashReport {
            payload_bytes: bundle.head().bytes().len() as u64 + bundle.manifest().stored_len(),
            wire_bytes: sent - sent_before + received - received_before,
            wire_bytes_sent: sent - sent_before,
            seconds: start.elapsed().as_secs_f64(),
            transfer_seconds,
            slot,
            chunks_total: chunks.len(),
            chunks_sent: missing.len(),
            self_test_samples: test.samples,
            self_test_max_abs_diff: test.max_abs_diff,
            device_latency_ms: test.latency_ms,
        })
    }
}

/// Returns a number that no earlier session had.
fn nonce() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
    // The low bits name the session; the clock alone may be coarse.
    nanos.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id())
}

#[cfg(test)]
mod tests;
