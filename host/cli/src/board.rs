//! Times networks on a device before one of them is shipped: each is packed and signed as for a flash, measured there and forgotten.

use anyhow::{Context, Result, bail, ensure};
use graft_bundle::{Needs, SecretKey};
use graft_deploy::{Address, DeployError};
use graft_link::LinkError;
use graft_link::messages::{Measurement, RefusalCode};
use graft_train::dataset::Dataset;
use graft_train::quantize::{Asked, OnDevice};
use indicatif::ProgressBar;

use crate::packing::{Packing, bundle};
use crate::ui::Ui;
use crate::verbs::flash::{At, show};

/// A device that is there, and what networks are packed with for it.
pub(crate) struct Board<'a> {
    at: &'a At,
    key: &'a SecretKey,
    golden: &'a Dataset,
    ui: &'a Ui,
}

/// Reaches a device, which must know how to measure, and returns its name.
pub(crate) fn reach(at: &At, ui: &Ui) -> Result<String> {
    if let Some(address @ Address::Folder(_)) = &at.device {
        bail!("expected a device that runs, found the card of one, {address}; name its line, such as tcp://host:port");
    }
    let session = at.connect(ui)?;
    session.check_measures()?;
    Ok(session.greeting().device.clone())
}

impl<'a> Board<'a> {
    /// Golden samples are chosen from pictures of `golden`.
    pub(crate) fn new(at: &'a At, key: &'a SecretKey, golden: &'a Dataset, ui: &'a Ui) -> Self {
        Self { at, key, golden, ui }
    }

    /// Has a network measured. Each has a session of its own: none lives as long as what lies between two.
    pub(crate) fn measure(&self, onnx: &[u8], bar: &ProgressBar) -> Result<Asked> {
        let packing = Packing {
            onnx,
            name: "measured",
            golden: self.golden,
            count: GOLDEN,
            tolerance: None,
            needs: Needs::default(),
            calibrate: None,
        };
        let bundle = bundle(&packing, self.key).context("packing a network for the device")?;
        let (style, text) = (bar.style(), bar.message());
        let measured = self.at.connect(self.ui)?.measure(&bundle, |p| show(bar, p));
        bar.set_style(style);
        bar.set_message(text);
        let measured = match measured {
            Err(refused) if is_of_network(&refused) => return Ok(Asked::Refused(refused.into())),
            other => other.context("having the device measure a network")?,
        };
        let Measurement { samples: _, max_abs_diff, network_ms, latency_ms, load_ms, memory, engine, warning } =
            measured;
        ensure!(
            network_ms > 0.0 && network_ms.is_finite(),
            "expected milliseconds from the device, found {network_ms}"
        );
        Ok(Asked::Runs(OnDevice { ms: network_ms, latency_ms, load_ms, memory, max_abs_diff, engine, warning }))
    }
}

/// Whether the device refused this network, and might take another.
fn is_of_network(error: &DeployError) -> bool {
    match error {
        DeployError::Link { source: LinkError::Refused { code, .. }, .. } => {
            matches!(code, RefusalCode::Gate | RefusalCode::Unsupported | RefusalCode::Space)
        }
        DeployError::DoesNotFit { .. } => true,
        _ => false,
    }
}

/// Golden samples of each network.
const GOLDEN: usize = 6;
