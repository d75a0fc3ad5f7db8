//! A session with one device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use graft_bundle::proof::{Prover, nonce as random};
use graft_bundle::{Bundle, BundleError, KeyError, Needs, Offer, PublicKey, SecretKey, Unmet};
use graft_link::connection::unexpected;
use graft_link::messages::{
    About, Classified, DeviceInfo, Judged, LogEntry, Prediction, Request, Response, Restart, SelfTest, SlotInfo,
    SlotState,
};
use graft_link::{Client, Greeting, LinkError, Transport};
use serde::Serialize;

use crate::{Address, FieldError};

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
    /// The bundle is not for this device. Nothing was written.
    #[error("this bundle does not fit the device at {address}: expected {expected}, found {found}; {remedy}")]
    DoesNotFit {
        /// Where.
        address: String,
        /// What the bundle needs.
        expected: String,
        /// What the device has.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The device is another one than was named, or cannot prove that it is not.
    #[error(
        "expected the device at {address} to prove {expected}, found {found}; check the address, and the key with `graft device info`"
    )]
    Impostor {
        /// Where.
        address: String,
        /// The key.
        expected: String,
        /// What it proved instead.
        found: String,
    },
    /// The bundle asks for what cannot be compared.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The folder for what comes back cannot be used.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// There are no random numbers for a proof.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The caller raised its flag while the device was testing a bundle.
    #[error(
        "stopped while the device tests the bundle: what ran goes on, unless the test had passed already or the device could not be told; see `graft slot list`"
    )]
    StoppedAtTest,
    /// No device, or more than one, answers on the ports of this machine.
    #[error("expected one device to answer, found {found}; name it with --device, such as --device {example}")]
    NotOne {
        /// What was found where.
        found: String,
        /// An address.
        example: String,
    },
}

impl DeployError {
    /// Whether the device said no, so that trying again is of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Link { source: LinkError::Refused { .. }, .. }
                | Self::DoesNotFit { .. }
                | Self::Impostor { .. }
                | Self::Bundle(_)
        )
    }

    /// Whether the device could not be reached, so that trying again may help.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Link { source, .. } => {
                matches!(
                    source,
                    LinkError::NoAnswer { .. } | LinkError::Line(_) | LinkError::Closed(_) | LinkError::Overdue { .. }
                )
            }
            Self::NotOne { .. } => true,
            _ => false,
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
    /// Rate of the line at the end, where it has one.
    pub bits_per_second: Option<u32>,
    /// Pieces that the host had to send more than once.
    pub resent: u64,
    /// The slot that runs now.
    pub slot: String,
    /// Whether that is on trial, if the device told: it goes back by itself unless the trial ends well.
    pub on_trial: Option<bool>,
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
    pub(crate) client: Client<Box<dyn Transport>>,
    pub(crate) greeting: Greeting,
    address: String,
    /// Bits a second up to which a long transfer may go.
    pub(crate) fastest: u32,
}

/// Bytes from which on a faster rate is worth the seconds that agreeing on it takes.
pub(crate) const LONG: u64 = 60_000;

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
        let session = Self::over(line, name, patience, stop)?;
        Ok(Self { fastest: address.fastest(), ..session })
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
            Ok((client, greeting)) => Ok(Self { client, greeting, address, fastest: u32::MAX }),
            Err(source) => Err(DeployError::Link { address, source }),
        }
    }

    /// Changes up to which bits a second a long transfer may go.
    pub fn set_fastest(&mut self, bits_per_second: u32) {
        self.fastest = bits_per_second;
    }

    /// Returns what the device said of itself.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    pub(crate) fn link<T>(&self, outcome: Result<T, LinkError>) -> Result<T, DeployError> {
        outcome.map_err(|source| DeployError::Link { address: self.address.clone(), source })
    }

    pub(crate) fn ask<T>(
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

    /// Has the device classify a JPEG or PNG file and tell what the answer is worth; a device of an older protocol tells
    /// the answer alone.
    ///
    /// # Errors
    ///
    /// As [`Session::info`].
    pub fn judge(&mut self, name: &str, image: &[u8]) -> Result<Judged, DeployError> {
        if self.client.protocol() < 3 {
            let classified = self.classify(name, image)?;
            return Ok(Judged { classified, ..Judged::default() });
        }
        let request = Request::Judge { name: name.into(), image: image.to_vec() };
        self.ask(&request, "Judge", |r| if let Response::Judged(j) = r { Ok(j) } else { Err(r.into()) })
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

    /// Asks what the device is made of.
    ///
    /// # Errors
    ///
    /// As [`Session::info`]; a device of protocol 1 does not know.
    pub fn about(&mut self) -> Result<About, DeployError> {
        self.ask(&Request::About, "About", |r| if let Response::About(a) = r { Ok(a) } else { Err(r.into()) })
    }

    /// Asks for the newest entries of the log of bundles, newest first.
    ///
    /// # Errors
    ///
    /// As [`Session::about`].
    pub fn log(&mut self, count: u32) -> Result<Vec<LogEntry>, DeployError> {
        self.ask(&Request::Log { count }, "Log", |r| if let Response::Log(l) = r { Ok(l) } else { Err(r.into()) })
    }

    /// Gives the device another name.
    ///
    /// # Errors
    ///
    /// As [`Session::about`].
    pub fn rename(&mut self, name: &str) -> Result<(), DeployError> {
        let request = Request::Rename { name: name.into() };
        self.ask(&request, "Rename", |r| if r == Response::Done { Ok(()) } else { Err(r.into()) })
    }

    /// Reads the device's clock in milliseconds since 1970, after setting it if a time is given, and whether that is the
    /// clock of its system.
    ///
    /// # Errors
    ///
    /// As [`Session::about`].
    pub fn clock(&mut self, set_unix_ms: Option<u64>) -> Result<(u64, bool), DeployError> {
        self.ask(&Request::Clock { set_unix_ms }, "Clock", |r| {
            if let Response::Clock { unix_ms, is_system } = r { Ok((unix_ms, is_system)) } else { Err(r.into()) }
        })
    }

    /// Has the daemon or the board start anew.
    ///
    /// # Errors
    ///
    /// As [`Session::about`].
    pub fn restart(&mut self, what: Restart) -> Result<(), DeployError> {
        let request = Request::Restart { what };
        self.ask(&request, "Restart", |r| if r == Response::Done { Ok(()) } else { Err(r.into()) })
    }

    /// Has the device prove its key, which must be `expected` where one is given, and says by `host` who is asking.
    ///
    /// # Errors
    ///
    /// [`DeployError::Impostor`]; else as [`Session::about`].
    pub fn authenticate(
        &mut self,
        expected: Option<PublicKey>,
        host: Option<&SecretKey>,
    ) -> Result<PublicKey, DeployError> {
        let nonce = random()?;
        let (key, signature, challenge) = self.ask(&Request::Prove { nonce }, "Prove", |r| match r {
            Response::Proof { key, signature, challenge } => Ok((PublicKey::from_bytes(key), signature, challenge)),
            other => Err(other.into()),
        })?;
        let is_proved = key.proves(Prover::Device, &nonce, &challenge, &signature);
        if !is_proved || expected.is_some_and(|e| e != key) {
            return Err(DeployError::Impostor {
                address: self.address.clone(),
                expected: expected.unwrap_or(key).to_string(),
                found: if is_proved { key.to_string() } else { "a proof that does not hold".into() },
            });
        }
        if let Some(host) = host {
            let signature = host.prove(Prover::Host, &challenge, &key.to_bytes()).to_vec();
            let request = Request::Identify { key: host.public().to_bytes(), signature };
            self.ask(&request, "Identify", |r| if r == Response::Done { Ok(()) } else { Err(r.into()) })?;
        }
        Ok(key)
    }

    /// Tells whether a bundle is for this device before anything is written; what only the device can tell, such as its
    /// memory and its room beside what it holds already, it checks itself before it writes.
    ///
    /// # Errors
    ///
    /// [`DeployError::DoesNotFit`]; else as [`Session::info`].
    pub fn check_fit(&mut self, bundle: &Bundle) -> Result<(), DeployError> {
        let needs = Needs::of(bundle.manifest())?;
        let address = self.address.clone();
        let does_not_fit =
            |Unmet { expected, found, remedy }| DeployError::DoesNotFit { address, expected, found, remedy };
        let mut offer = Offer { agent: Some(self.greeting.version.clone()), ..Offer::default() };
        if let Some(lacks) = needs.unmet(&offer) {
            return Err(does_not_fit(lacks));
        }
        if self.client.protocol() < 2 {
            return Ok(());
        }
        let about = match self.about() {
            // It has none of what is checked here.
            Err(DeployError::Link { source: LinkError::Refused { .. }, .. }) => return Ok(()),
            other => other?,
        };
        offer.board = Some(about.board);
        if let Some(lacks) = needs.unmet(&offer) {
            return Err(does_not_fit(lacks));
        }
        let len = bundle.manifest().payload_len();
        if len > about.max_bundle_bytes {
            let found = format!("max_bundle_mb of {}", about.max_bundle_bytes / 1_000_000);
            let expected = format!("room for {len} bytes unpacked");
            let remedy = "raise max_bundle_mb on the device, or pack a smaller model";
            return Err(does_not_fit(Unmet { expected, found, remedy }));
        }
        Ok(())
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
        self.check_fit(bundle)?;
        let start = self.client.now();
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
        if total > LONG {
            let outcome = self.client.speed_up(self.fastest);
            self.link(outcome)?;
        }
        let mut done = 0;
        progress(FlashProgress::Sending { done, total });
        let requests =
            missing.iter().map(|&index| Request::Chunk { index, stored: bundle.stored_chunk(index as usize).to_vec() });
        let outcome = self.client.pipeline(requests, |response| {
            if let Response::ChunkStored { index } = response {
                done += len(*index);
                progress(FlashProgress::Sending { done, total });
            }
        });
        self.link(outcome)?;
        let transfer_seconds = self.client.now().saturating_sub(start).as_secs_f64();
        let outcome = self.client.request(&Request::Finish, |p| {
            progress(FlashProgress::Device { text: p.text.clone(), done: p.done, total: p.total });
        });
        if matches!(outcome, Err(LinkError::Stopped)) {
            return Err(DeployError::StoppedAtTest);
        }
        let (slot, test): (String, SelfTest) = match self.link(outcome)? {
            Response::Finished { slot, self_test } => (slot, self_test),
            other => return self.link(Err(unexpected("Finish", &other))),
        };
        let (sent, received) = wire(&self.client);
        let seconds = self.client.now().saturating_sub(start).as_secs_f64();
        // The flash is done, whatever becomes of this question.
        let slots = self.slots().ok();
        let on_trial = slots.map(|slots| slots.iter().any(|s| s.name == slot && s.state == SlotState::Trial));
        Ok(FlashReport {
            payload_bytes: bundle.head().bytes().len() as u64 + bundle.manifest().stored_len(),
            wire_bytes: sent - sent_before + received - received_before,
            wire_bytes_sent: sent - sent_before,
            seconds,
            transfer_seconds,
            bits_per_second: self.client.rate(),
            resent: self.client.line_quality().resent,
            slot,
            on_trial,
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
