//! Reads pretrained weights from a file and finds the facts that go with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use graft_onnx::{Export, Format, Head, Layers, Metadata, Outputs};
use graft_runtime::{LABELS, PREPROCESSING, PREPROCESSING_DIGEST};
use graft_zoo::weights::{Tensors, read_safetensors};
use graft_zoo::{Architecture, Catalogue, Names, Network, Padding, Preprocessing, Tensor, Weights};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::net::random;

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
    /// The seed of weights that are random, not pretrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_seed: Option<u64>,
}

/// What the network is to see of a picture, where that is not what its weights are used to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Input {
    /// Side of the square in pixels.
    pub side: Option<u32>,
    /// Share of the picture's shorter side that the square shows.
    pub share: Option<f32>,
}

/// Made by `cargo xtask pretrain`.
const EMBEDDED: &[u8] = include_bytes!("../../../models/weights/mobilenet_v2_0.35_96.safetensors");
const EMBEDDED_ARCHITECTURE: Architecture = Architecture::MobileNetV2 { width: 0.35 };
/// Files longer than this are refused.
const MAX_FILE_LEN: u64 = 2 << 30;

impl Pretrained {
    /// Reads `.safetensors`, or a PyTorch `.pth`/`.pt`/`.bin` of the zip format, as the weights of `architecture`.
    ///
    /// Padding, epsilon, normalisation and input side come from the catalogue where it knows the file's digest, else
    /// from the file's metadata ([`Conventions`]), else they are those of torchvision or timm, whose names the tensors go by.
    /// `input` overrides what is shown of a picture.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or its tensors are not those of the architecture; the message lists what is missing,
    /// unexpected or of another shape.
    pub fn read(path: &Path, architecture: Architecture, input: Input) -> Result<Self> {
        let doing = || format!("reading weights {}", path.display());
        let len = fs::metadata(path).with_context(doing)?.len();
        ensure!(
            len <= MAX_FILE_LEN,
            "expected weights of at most {MAX_FILE_LEN} bytes, found {len} in {}",
            path.display()
        );
        let bytes = fs::read(path).with_context(doing)?;
        let extension = path.extension().and_then(|e| e.to_str());
        let (tensors, metadata) = match extension {
            Some("safetensors") => read_safetensors(&bytes).with_context(doing)?,
            Some("pth" | "pt" | "bin") => (read_pickle(path).with_context(doing)?, BTreeMap::new()),
            other => bail!(
                "expected weights as .safetensors, .pth, .pt or .bin, found {} in {}",
                other.map_or("no extension".into(), |e| format!(".{e}")),
                path.display()
            ),
        };
        Self::new(&bytes, tensors, &metadata, architecture, input).with_context(doing)
    }

    /// Takes the backbone that comes with graft: MobileNetV2 of width 0.35 at 96 pixels, trained on generated pictures.
    ///
    /// # Errors
    ///
    /// If `input` is out of range.
    pub fn embedded(input: Input) -> Result<Self> {
        let (tensors, metadata) = read_safetensors(EMBEDDED)?;
        Self::new(EMBEDDED, tensors, &metadata, EMBEDDED_ARCHITECTURE, input)
    }

    /// Takes random weights, to train from scratch.
    ///
    /// # Errors
    ///
    /// If `input` is out of range.
    pub fn random(architecture: Architecture, input: Input, seed: u64) -> Result<Self> {
        let told = Conventions::usual(architecture, Names::Torchvision);
        let (tensors, _) = random(&architecture.backbone(told.padding, told.bn_eps), 1, seed);
        let mut made = Self::new(&seed.to_le_bytes(), tensors, &BTreeMap::new(), architecture, input)?;
        made.facts.random_seed = Some(seed);
        Ok(made)
    }

    /// Writes the backbone as an f32 graph, without a run to go with it: up to its features, or up to the labels that a head
    /// tells.
    ///
    /// # Errors
    ///
    /// If head and backbone do not fit.
    pub fn graph(&self, head: Option<&Head>, labels: &[String]) -> Result<Vec<u8>> {
        let layers = Layers::fold(&self.network, &self.backbone, head)?;
        let export = Export { network: &self.network, layers: &layers, preprocessing: &self.preprocessing };
        let mut metadata = Metadata::from([
            (PREPROCESSING.to_owned(), self.preprocessing.to_json()),
            (PREPROCESSING_DIGEST.to_owned(), self.preprocessing.digest()),
        ]);
        if head.is_some() {
            metadata.insert(LABELS.to_owned(), serde_json::to_string(labels)?);
        }
        Ok(export.write(Format::Float, Outputs::Last, &metadata)?)
    }

    fn new(
        bytes: &[u8],
        tensors: Tensors,
        metadata: &BTreeMap<String, String>,
        architecture: Architecture,
        input: Input,
    ) -> Result<Self> {
        let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
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
        let told = match entry {
            Some(e) => Conventions {
                padding: e.padding,
                bn_eps: e.bn_eps,
                mean: e.normalisation.0,
                std: e.normalisation.1,
                input: e.input,
                share: Preprocessing::IMAGENET_SHARE,
            },
            None => Conventions::of(metadata, Conventions::usual(architecture, Names::of(&tensors)))?,
        };
        let (side, share) = (input.side.unwrap_or(told.input), input.share.unwrap_or(told.share));
        ensure!((32..=1024).contains(&side), "expected an input side of 32 to 1024 pixels, found {side}");
        ensure!((0.1..=1.0).contains(&share), "expected a share of 0.1 to 1 of the picture to show, found {share}");
        let (padding, bn_eps) = (told.padding, told.bn_eps);
        let network = architecture.backbone(padding, bn_eps);
        let weights = Weights::from_tensors(architecture, &network, tensors)?;
        let facts = Facts {
            architecture,
            sha256,
            id: entry.map(|e| e.id.to_owned()),
            licence: entry.map(|e| e.licence.to_owned()),
            padding: if padding == Padding::TfSame { "tf_same" } else { "symmetric" }.into(),
            bn_eps,
            random_seed: None,
        };
        let preprocessing = Preprocessing::showing(share, side, (told.mean, told.std));
        Ok(Self { network, backbone: weights.backbone, preprocessing, facts })
    }
}

/// Returns the network that facts describe.
pub(crate) fn network(facts: &Facts) -> Network {
    let padding = if facts.padding == "tf_same" { Padding::TfSame } else { Padding::Symmetric };
    facts.architecture.backbone(padding, facts.bn_eps)
}

/// What weights take for granted and tensors do not tell; JSON under the key `graft` of a safetensors file's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conventions {
    /// Padding of strided convolutions.
    pub padding: Padding,
    /// Epsilon of the batch normalisations.
    pub bn_eps: f32,
    /// Subtracted from each channel, on the 0..255 scale.
    pub mean: [f32; 3],
    /// Each channel is divided by this afterwards.
    pub std: [f32; 3],
    /// Side of the input in pixels.
    pub input: u32,
    /// Share of a picture's shorter side that the input shows.
    pub share: f32,
}

impl Conventions {
    /// The key in a file's metadata.
    pub const KEY: &str = "graft";

    /// Returns those of torchvision or timm.
    fn usual(architecture: Architecture, names: Names) -> Self {
        let (mean, std) = Preprocessing::IMAGENET;
        let (bn_eps, share) = (architecture.bn_eps(names), Preprocessing::IMAGENET_SHARE);
        Self { padding: Padding::Symmetric, bn_eps, mean, std, input: 224, share }
    }

    pub(crate) fn of_run(facts: &Facts, preprocessing: &Preprocessing) -> Self {
        let network = network(facts);
        Self {
            padding: network.padding,
            bn_eps: network.bn_eps,
            mean: preprocessing.mean,
            std: preprocessing.std,
            input: preprocessing.crop,
            share: preprocessing.share(),
        }
    }

    /// Reads them; what the metadata do not tell is as in `usual`.
    fn of(metadata: &BTreeMap<String, String>, usual: Self) -> Result<Self> {
        let Some(text) = metadata.get(Self::KEY) else { return Ok(usual) };
        let doing = || format!("reading the weights' metadata {text:?}");
        let told: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).with_context(doing)?;
        let mut all = serde_json::to_value(usual)?;
        if let Some(all) = all.as_object_mut() {
            all.extend(told);
        }
        let found: Self = serde_json::from_value(all).with_context(doing)?;
        let positive =
            [found.bn_eps, found.std[0], found.std[1], found.std[2]].iter().all(|v| v.is_finite() && *v > 0.0);
        ensure!(positive, "expected positive std and bn_eps in the weights' metadata, found {text}");
        Ok(found)
    }
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
    use graft_zoo::network::Parameter;
    use graft_zoo::weights::{Precision, write_safetensors};

    fn write(dir: &Path, name: &str, metadata: &[(&str, &str)]) -> std::path::PathBuf {
        let architecture = Architecture::MobileNetV2 { width: 0.35 };
        let network = architecture.backbone(Padding::Symmetric, 1e-5);
        let data = |shape: &[usize]| vec![0.5; shape.iter().product()];
        let tensor = |p: Parameter| (p.name, Tensor { data: data(&p.shape), shape: p.shape });
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
        let told = r#"{"padding":"tf_same","bn_eps":0.001,"mean":[127.5,127.5,127.5],"std":[127.5,127.5,127.5]}"#;
        let path = write(dir.path(), "a.safetensors", &[("graft", told)]);
        let p = Pretrained::read(&path, architecture, Input { side: Some(96), share: None }).unwrap();
        assert_eq!((p.network.padding, p.network.bn_eps), (Padding::TfSame, 1e-3));
        assert_eq!(p.preprocessing, Preprocessing::centre_crop(96, Preprocessing::UNIT));
        assert_eq!(network(&p.facts), p.network);
        for (text, word) in
            [(r#"{"padding":"valid"}"#, "valid"), (r#"{"bn_eps":0}"#, "positive"), (r#"{"eps":1}"#, "eps")]
        {
            let path = write(dir.path(), "b.safetensors", &[("graft", text)]);
            let error = format!("{:#}", Pretrained::read(&path, architecture, Input::default()).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn silent_weights_go_by_the_conventions_of_those_whose_names_they_have() {
        let small: Architecture = "mobilenet_v3_small".parse().unwrap();
        let of = |text: &str, names| {
            let metadata = BTreeMap::from([(Conventions::KEY.to_owned(), text.to_owned())]);
            Conventions::of(&metadata, Conventions::usual(small, names)).unwrap()
        };
        let told = r#"{"input":160}"#;
        assert_eq!((of(told, Names::Torchvision).bn_eps, of(told, Names::Torchvision).input), (1e-3, 160));
        assert_eq!(of(told, Names::Timm).bn_eps, 1e-5);
        assert_eq!((of(told, Names::Timm).share, of(r#"{"share":1}"#, Names::Timm).share), (0.875, 1.0));
        assert_eq!(of(r#"{"bn_eps":0.01}"#, Names::Torchvision).bn_eps, 1e-2);
    }

    #[test]
    fn other_architectures_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a.safetensors", &[]);
        let wide = Architecture::MobileNetV2 { width: 1.0 };
        assert!(format!("{:#}", Pretrained::read(&path, wide, Input::default()).unwrap_err()).contains("shape"));
        let text = dir.path().join("a.txt");
        fs::write(&text, "x").unwrap();
        assert!(Pretrained::read(&text, wide, Input::default()).unwrap_err().to_string().contains("found .txt"));
    }
}
