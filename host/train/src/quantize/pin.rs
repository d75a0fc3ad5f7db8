//! The backbone's rounding, kept so that a head that is fitted again leaves every byte of the backbone as it was: a device
//! that has the one needs only the other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use graft_onnx::{Factors, HEAD, Integers, Layers, Quantization};
use serde::{Deserialize, Serialize};

use super::Quantized;
use super::repair::{Repair, correct_bias};
use super::search::Found;
use crate::run::{Run, write_atomic};

/// Where pinned parameters lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    folder: PathBuf,
    afresh: bool,
}

/// A backbone's rounding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pinned {
    format: u32,
    factors: Factors,
    /// Of all layers but the head.
    quantization: Quantization,
    /// Layers that stay in f32.
    float_layers: Vec<String>,
    features: Option<[Vec<f32>; 2]>,
    pub(super) method: String,
    pub(super) repairs: Vec<Repair>,
}

/// Layout version of the file.
const FORMAT: u32 = 1;

impl Pins {
    /// Pins parameters in `folder`, and takes what is pinned there.
    pub fn kept(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), afresh: false }
    }

    /// Pins parameters in `folder` anew, whatever is pinned there.
    pub fn afresh(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), afresh: true }
    }

    fn path(&self, run: &Run) -> Result<PathBuf> {
        Ok(self.folder.join(format!("{}.json", run.backbone_digest()?)))
    }

    /// Reads what is pinned for a run's backbone and preprocessing.
    pub(super) fn read(&self, run: &Run) -> Result<Option<Pinned>> {
        let path = self.path(run)?;
        if self.afresh || !path.exists() {
            return Ok(None);
        }
        let doing = || format!("reading the backbone's pinned parameters in {}", path.display());
        let pinned: Pinned = serde_json::from_slice(&fs::read(&path).with_context(doing)?).with_context(doing)?;
        ensure!(
            pinned.format == FORMAT,
            "expected pinned parameters of format {FORMAT}, found {} in {}; calibrate --afresh",
            pinned.format,
            path.display()
        );
        Ok(Some(pinned))
    }

    /// Pins a run's backbone.
    pub(super) fn write(&self, run: &Run, pinned: &Pinned) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        write_atomic(&self.path(run)?, &serde_json::to_vec(pinned)?)
    }
}

impl Pinned {
    pub(super) fn of(found: &Found, float_layers: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            factors: found.factors.clone(),
            quantization: found.quantized.quantization.only(&|name| name != HEAD),
            float_layers,
            features: found.features.clone(),
            method: found.method.clone(),
            repairs: found.repairs.clone(),
        }
    }

    /// Rounds a head to go with the backbone.
    pub(super) fn apply(&self, layers: &Layers) -> Result<Quantized> {
        let mut layers = layers.clone();
        self.factors.apply(&mut layers);
        let mut quantization = self.quantization.clone();
        if let Some(head) = layers.get(HEAD) {
            let mut integers = Integers::nearest(head, Some(quantization.affine(&head.input)?))?;
            if let Some([float, rounded]) = &self.features {
                correct_bias(head, &mut integers, float, rounded)?;
            }
            quantization.layers.insert(HEAD.into(), integers);
        }
        let quantization = quantization.only(&|name| !self.float_layers.iter().any(|f| f == name));
        Ok(Quantized { layers, quantization })
    }
}
