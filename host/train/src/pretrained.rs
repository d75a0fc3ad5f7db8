//! Reads pretrained weights from a file and finds the facts that go with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use graft_zoo::weights::{Tensors, read_safetensors};
use graft_zoo::{Architecture, Catalogue, Network, Padding, Preprocessing, Tensor, Weights};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A backbone ready for use.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// The network without its classifier.
    pub network: Network,
    /// Its parameters.
    pub backbone: Tensors,
    /// What is done to a picture before it.
    pub preprocessing: Preprocessing,
    /// Where the weights come from.
    pub facts: Facts,
}

/// What is known about weights besides their numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Architecture id.
    pub architecture: Architecture,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Catalogue id, where the digest is known.
    pub id: Option<String>,
    /// SPDX licence, where known.
    pub licence: Option<String>,
    /// `symmetric` or `tf_same`.
    pub padding: String,
    /// Batch-normalisation epsilon.
    pub bn_eps: f32,
}

/// Files longer than this are refused.
const MAX_FILE_LEN: u64 = 2 << 30;

impl Pretrained {
    /// Reads `.safetensors`, or a PyTorch `.pth`/`.pt`/`.bin` of the zip format, as the weights of `architecture`.
    ///
    /// Padding, epsilon and normalisation come from the catalogue where it knows the file's digest, else from the
    /// file's metadata (`padding`, `bn_eps`, `normalisation`), else they are torchvision's. `input` overrides the side of
    /// the input in pixels.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or its tensors are not those of the architecture; the message lists what is missing,
    /// unexpected or of another shape.
    pub fn read(path: &Path, architecture: Architecture, input: Option<u32>) -> Result<Self> {
        let doing = || format!("reading weights {}", path.display());
        let len = fs::metadata(path).with_context(doing)?.len();
        ensure!(len <= MAX_FILE_LEN, "expected weights of at most {MAX_FILE_LEN} bytes, found {len} in {}", path.display());
        let bytes = fs::read(path).with_context(doing)?;
        let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let (tensors, metadata) = match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => read_safetensors(&bytes).with_context(doing)?,
            Some("pth" | "pt" | "bin") => (read_pickle(path).with_context(doing)?, BTreeMap::new()),
            other => bail!(
                "expected weights as .safetensors, .pth, .pt or .bin, found {} in {}",
                other.map_or("no extension".into(), |e| format!(".{e}")),
                path.display()
            ),
        };
        let entry = Catalogue::by_sha256(&sha256);
        if let Some(entry) = entry {
            ensure!(
                entry.architecture == architecture,
                "expected weights of {architecture}, found those of {} ({}); give `--model {}`",
                entry.architecture,
                entry.id,
                entry.architecture
            );
        }
        let (padding, bn_eps, normalisation) = match entry {
            Some(e) => (e.padding, e.bn_eps, e.normalisation),
            None => told(&metadata)?,
        };
        let crop = input.unwrap_or(entry.map_or(224, |e| e.input));
        ensure!((32..=1024).contains(&crop), "expected an input side of 32 to 1024 pixels, found {crop}");
        let network = architecture.backbone(padding, bn_eps);
        let weights = Weights::from_tensors(architecture, &network, tensors).with_context(doing)?;
        let facts = Facts {
            architecture,
            sha256,
            id: entry.map(|e| e.id.to_owned()),
            licence: entry.map(|e| e.licence.to_owned()),
            padding: if padding == Padding::TfSame { "tf_same" } else { "symmetric" }.into(),
            bn_eps,
        };
        Ok(Self { network, backbone: weights.backbone, preprocessing: Preprocessing::centre_crop(crop, normalisation), facts })
    }
}

/// Returns the network that facts describe.
pub(crate) fn network(facts: &Facts) -> Network {
    let padding = if facts.padding == "tf_same" { Padding::TfSame } else { Padding::Symmetric };
    facts.architecture.backbone(padding, facts.bn_eps)
}

type Told = (Padding, f32, ([f32; 3], [f32; 3]));

fn told(metadata: &BTreeMap<String, String>) -> Result<Told> {
    let padding = match metadata.get("padding").map(String::as_str) {
        None | Some("symmetric") => Padding::Symmetric,
        Some("tf_same") => Padding::TfSame,
        Some(other) => bail!("expected padding symmetric or tf_same in the weights' metadata, found {other:?}"),
    };
    let eps = match metadata.get("bn_eps") {
        None => 1e-5,
        Some(text) => text.parse().with_context(|| format!("expected a number as bn_eps, found {text:?}"))?,
    };
    let normalisation = match metadata.get("normalisation").map(String::as_str) {
        None | Some("imagenet") => Preprocessing::IMAGENET,
        Some("unit") => Preprocessing::UNIT,
        Some(other) => bail!("expected normalisation imagenet or unit in the weights' metadata, found {other:?}"),
    };
    Ok((padding, eps, normalisation))
}

fn read_pickle(path: &Path) -> Result<Tensors> {
    let mut found = candle_core::pickle::read_all(path)?;
    for key in ["state_dict", "model"] {
        if found.is_empty() {
            found = candle_core::pickle::read_all_with_key(path, Some(key)).unwrap_or_default();
        }
    }
    ensure!(!found.is_empty(), "expected a state_dict of tensors (torch.save of the zip format), found none");
    let mut tensors = Tensors::new();
    for (name, tensor) in found {
        let shape = tensor.dims().to_vec();
        let data = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
        tensors.insert(name, Tensor { shape, data });
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_zoo::weights::{Precision, write_safetensors};

    fn write(dir: &Path, name: &str, metadata: &[(&str, &str)]) -> std::path::PathBuf {
        let architecture = Architecture::MobileNetV2 { width: 0.35 };
        let network = architecture.backbone(Padding::Symmetric, 1e-5);
        let tensor = |(n, shape): (String, Vec<usize>)| (n, Tensor { data: vec![0.5; shape.iter().product()], shape });
        let tensors = network.parameters().into_iter().map(tensor).collect();
        let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let path = dir.join(name);
        fs::write(&path, write_safetensors(&tensors, &metadata, Precision::F16)).unwrap();
        path
    }

    #[test]
    fn metadata_decides_where_the_catalogue_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let architecture = Architecture::MobileNetV2 { width: 0.35 };
        let path = write(dir.path(), "a.safetensors", &[("padding", "tf_same"), ("bn_eps", "1e-3"), ("normalisation", "unit")]);
        let p = Pretrained::read(&path, architecture, Some(96)).unwrap();
        assert_eq!((p.network.padding, p.network.bn_eps), (Padding::TfSame, 1e-3));
        assert_eq!(p.preprocessing, Preprocessing::centre_crop(96, Preprocessing::UNIT));
        assert_eq!(network(&p.facts), p.network);
        let path = write(dir.path(), "b.safetensors", &[("padding", "valid")]);
        assert!(Pretrained::read(&path, architecture, None).unwrap_err().to_string().contains("\"valid\""));
    }

    #[test]
    fn other_architectures_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a.safetensors", &[]);
        let wide = Architecture::MobileNetV2 { width: 1.0 };
        assert!(format!("{:#}", Pretrained::read(&path, wide, None).unwrap_err()).contains("shape"));
        let text = dir.path().join("a.txt");
        fs::write(&text, "x").unwrap();
        assert!(Pretrained::read(&text, wide, None).unwrap_err().to_string().contains("found .txt"));
    }
}
