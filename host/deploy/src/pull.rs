//! Brings back what a device has seen: the pictures that it keeps, the most valuable first, then its predictions.
//!
//! A picture is deleted on the device only when it is here, with the digest that the device told, and synced, and so is
//! what the device said of it. A pull that was cut off goes on where it was.

use graft_bundle::Digest;
use graft_link::LinkError;
use graft_link::messages::{Kept, MAX_PART, MAX_TOLD, RefusalCode, Request, Response, Told};
use serde::Serialize;

use crate::field::{Field, Teller, folder_name};
use crate::session::LONG;
use crate::{DeployError, Session};

/// Whether a device is to delete what the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It deletes pictures that are here, verified and synced.
    Delete,
    /// It keeps them.
    Leave,
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullProgress {
    /// Pictures are travelling.
    Pictures {
        /// Bytes that are here.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Predictions are travelling.
    Predictions {
        /// So many came.
        done: u64,
    },
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PullReport {
    /// The device's name.
    pub device: String,
    /// Pictures that the device kept.
    pub kept: usize,
    /// Of those, pictures that came now.
    pub brought: usize,
    /// Of those, pictures that were here already.
    pub known: usize,
    /// Pictures that the device deleted, for they are here.
    pub deleted: u32,
    /// Pictures that did not come, each with the reason; the device still has them, unless it says otherwise.
    pub left: Vec<String>,
    /// Predictions that came now.
    pub predictions: u64,
    /// Bytes on the line, both ways.
    pub wire_bytes: u64,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
}

/// Of what is told of in one message.
const PAGE: u32 = MAX_TOLD as u32;
/// Pictures between two writes of the table.
const BATCH: usize = 32;
/// Bytes from which on a batch is written.
const BATCH_BYTES: u64 = 4 << 20;
/// Longest picture that is brought; a device takes none that is longer.
const MAX_PICTURE: u64 = 256 << 20;

impl Session {
    /// Brings pictures and predictions into a field folder.
    ///
    /// # Errors
    ///
    /// [`DeployError::Link`] if the line fails or the device is too old, [`DeployError::Field`] if the folder cannot be
    /// written. What has come until then stays.
    pub fn pull(
        &mut self,
        field: &Field,
        then: Then,
        mut progress: impl FnMut(PullProgress),
    ) -> Result<PullReport, DeployError> {
        let start = self.client.now();
        let before = self.client.wire_bytes();
        // Names are not unique, keys are; one that is told here suffices to tell folders apart.
        let key = self.about()?.key;
        let name = self.greeting.device.clone();
        let folder = folder_name(&name, Some(graft_bundle::PublicKey::from_bytes(key)));
        let (store, kept) = self.kept()?;
        let teller = Teller { name: name.clone(), folder, store };
        let mut report = PullReport { device: name, kept: kept.len(), ..PullReport::default() };
        self.pictures(field, &teller, &kept, then, &mut report, &mut progress)?;
        self.predictions(field, &teller, &mut report, &mut progress)?;
        let (sent, received) = self.client.wire_bytes();
        report.wire_bytes = sent - before.0 + received - before.1;
        report.seconds = self.client.now().saturating_sub(start).as_secs_f64();
        Ok(report)
    }

    /// Asks for all that is kept, the most valuable first.
    fn kept(&mut self) -> Result<(u64, Vec<Kept>), DeployError> {
        let mut all: Vec<Kept> = vec![];
        let mut seen = std::collections::BTreeSet::new();
        let mut skip = 0u32;
        loop {
            let request = Request::Kept { skip, count: PAGE };
            let (store, pictures) = self.ask(&request, "Kept", |r| {
                if let Response::Kept { store, pictures, .. } = r { Ok((store, pictures)) } else { Err(r.into()) }
            })?;
            // The device may keep more meanwhile, which moves the rest.
            skip = skip.saturating_add(u32::try_from(pictures.len()).unwrap_or(u32::MAX));
            let is_end = pictures.is_empty() || skip == u32::MAX;
            all.extend(pictures.into_iter().filter(|k| k.len <= MAX_PICTURE && seen.insert(k.told.id)));
            if is_end {
                return Ok((store, all));
            }
        }
    }

    fn pictures(
        &mut self,
        field: &Field,
        teller: &Teller,
        kept: &[Kept],
        then: Then,
        report: &mut PullReport,
        progress: &mut impl FnMut(PullProgress),
    ) -> Result<(), DeployError> {
        let total = kept.iter().map(|k| k.len).sum();
        let mut done = 0;
        progress(PullProgress::Pictures { done, total });
        let mut is_fast = false;
        let mut batch = Batch::default();
        for picture in kept {
            let file = match field.has(teller, picture) {
                Some(file) => {
                    field.drop_part(teller, picture);
                    report.known += 1;
                    Some(file)
                }
                None => {
                    if !is_fast && total - done > LONG {
                        let outcome = self.client.speed_up(self.fastest);
                        self.link(outcome)?;
                        is_fast = true;
                    }
                    let at = |now: u64| progress(PullProgress::Pictures { done: done + now, total });
                    match self.fetch(field, teller, picture, at) {
                        Ok(Ok(file)) => {
                            report.brought += 1;
                            Some(file)
                        }
                        Ok(Err(reason)) => {
                            report.left.push(format!("{}: {reason}", picture.told.source));
                            None
                        }
                        Err(error) => {
                            // What is here is told of before the line's trouble is; the device keeps it all.
                            batch.write(field, teller)?;
                            return Err(error);
                        }
                    }
                }
            };
            done += picture.len;
            progress(PullProgress::Pictures { done, total });
            if let Some(file) = file {
                batch.add(file, picture);
            }
            if batch.rows.len() >= BATCH || batch.bytes >= BATCH_BYTES {
                self.settle(&mut batch, field, teller, then, report)?;
            }
        }
        self.settle(&mut batch, field, teller, then, report)
    }

    /// Writes what the device said of pictures that are here, and has it delete them.
    fn settle(
        &mut self,
        batch: &mut Batch,
        field: &Field,
        teller: &Teller,
        then: Then,
        report: &mut PullReport,
    ) -> Result<(), DeployError> {
        batch.write(field, teller)?;
        let Batch { forget, .. } = std::mem::take(batch);
        if then == Then::Delete && !forget.is_empty() {
            report.deleted += self.ask(&Request::Forget { pictures: forget }, "Forget", |r| {
                if let Response::Forgotten { count } = r { Ok(count) } else { Err(r.into()) }
            })?;
        }
        Ok(())
    }

    /// Brings one picture; returns its file, or why the device does not give it.
    fn fetch(
        &mut self,
        field: &Field,
        teller: &Teller,
        kept: &Kept,
        mut progress: impl FnMut(u64),
    ) -> Result<Result<String, String>, DeployError> {
        let mut bytes = field.part(teller, kept);
        loop {
            let begun = bytes.len() as u64;
            let parts = (begun..kept.len).step_by(MAX_PART);
            let requests = parts.map(|offset| Request::Picture { id: kept.told.id, offset, count: MAX_PART as u32 });
            let outcome = self.client.pipeline(requests, |response| {
                if let Response::Picture { bytes: more } = response {
                    bytes.extend(more);
                    progress(bytes.len() as u64);
                }
            });
            match outcome {
                Ok(()) => {}
                Err(LinkError::Refused { code: RefusalCode::State | RefusalCode::Internal, message }) => {
                    return Ok(Err(message));
                }
                Err(other) => {
                    field.keep_part(teller, kept, &bytes);
                    return self.link(Err(other));
                }
            }
            if Digest::of(&bytes).0 == kept.digest {
                return Ok(Ok(field.save(teller, kept, &bytes)?));
            }
            field.drop_part(teller, kept);
            if begun == 0 {
                let found = Digest::of(&bytes);
                return Ok(Err(format!(
                    "expected a picture with digest {}, found one with {found}; the device's disk may be failing",
                    Digest(kept.digest)
                )));
            }
            // What an earlier pull left was not the beginning of it.
            bytes.clear();
        }
    }

    fn predictions(
        &mut self,
        field: &Field,
        teller: &Teller,
        report: &mut PullReport,
        progress: &mut impl FnMut(PullProgress),
    ) -> Result<(), DeployError> {
        let mut table = field.predictions(teller)?;
        loop {
            let request = Request::Predictions { after: table.last, count: PAGE };
            let (store, told) = self.ask(&request, "Predictions", |r| {
                if let Response::Predictions { store, predictions } = r {
                    Ok((store, predictions))
                } else {
                    Err(r.into())
                }
            })?;
            let is_further = told.last().is_some_and(|t| t.id > table.last);
            if store != teller.store || !is_further {
                return Ok(());
            }
            table.add(&told)?;
            report.predictions += told.len() as u64;
            progress(PullProgress::Predictions { done: report.predictions });
        }
    }
}

/// Pictures that are here, of which the table does not tell yet.
#[derive(Default)]
struct Batch {
    rows: Vec<(String, Told)>,
    forget: Vec<(u64, [u8; 32])>,
    bytes: u64,
}

impl Batch {
    fn add(&mut self, file: String, kept: &Kept) {
        self.rows.push((file, kept.told.clone()));
        self.forget.push((kept.told.id, kept.digest));
        self.bytes += kept.len;
    }

    fn write(&mut self, field: &Field, teller: &Teller) -> Result<(), DeployError> {
        if !self.rows.is_empty() {
            field.tell(teller, &self.rows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
