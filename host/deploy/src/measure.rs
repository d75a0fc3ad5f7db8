//! Has a device measure a bundle that it does not keep: how fast a network is on the board, before it is shipped.

use graft_bundle::Bundle;
use graft_link::LinkError;
use graft_link::connection::unexpected;
use graft_link::messages::{Measurement, Request, Response};

use crate::session::LONG;
use crate::{DeployError, FlashProgress, Session};

impl Session {
    /// Tells whether the device can measure at all.
    ///
    /// # Errors
    ///
    /// [`DeployError::Link`] with [`LinkError::TooOld`].
    pub fn check_measures(&self) -> Result<(), DeployError> {
        let (asked, needs, found) = (Request::Measure.name(), Request::Measure.since(), self.client.protocol());
        self.link(if found < needs { Err(LinkError::TooOld { asked, needs, found }) } else { Ok(()) })
    }

    /// Brings a bundle into the device's memory and has it tested and timed there. Nothing is written, what runs goes on.
    ///
    /// # Errors
    ///
    /// As [`Session::flash`]; a bundle that a flash would refuse is refused here.
    pub fn measure(
        &mut self,
        bundle: &Bundle,
        mut progress: impl FnMut(FlashProgress),
    ) -> Result<Measurement, DeployError> {
        self.check_measures()?;
        self.check_fit(bundle)?;
        let stored = (0..bundle.manifest().chunks.len()).map(|index| bundle.stored_chunk(index));
        let file = std::iter::once(bundle.head().bytes()).chain(stored).collect::<Vec<_>>().concat();
        let total = file.len() as u64;
        if total > LONG {
            let outcome = self.client.speed_up(self.fastest);
            self.link(outcome)?;
        }
        let parts = (0..total).step_by(PART).zip(file.chunks(PART));
        let requests = parts.map(|(offset, part)| Request::Spool { offset, total, bytes: part.to_vec() });
        let mut done = 0;
        progress(FlashProgress::Sending { done, total });
        let outcome = self.client.pipeline(requests, |_| {
            done = total.min(done + PART as u64);
            progress(FlashProgress::Sending { done, total });
        });
        self.link(outcome)?;
        let outcome = self.client.request(&Request::Measure, |p| {
            progress(FlashProgress::Device { text: p.text.clone(), done: p.done, total: p.total });
        });
        match self.link(outcome)? {
            Response::Measured(found) => Ok(found),
            other => self.link(Err(unexpected("Measure", &other))),
        }
    }
}

/// Bytes of a part: short enough that progress shows on a slow line.
const PART: usize = 32 << 10;
