//! The pretrained weights graft knows: where they are, under which licence, and the facts their files do not tell.

use serde::Serialize;

use crate::architecture::{Architecture, Size};
use crate::network::Padding;
use crate::preprocessing::Preprocessing;

/// Where the bytes of an entry are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Inside the binary.
    Embedded,
    /// On the Hugging Face hub.
    Hub {
        /// Repository, `owner/name`.
        repo: &'static str,
        /// File in it.
        file: &'static str,
        /// Revision, a tag or a commit.
        revision: &'static str,
    },
    /// A file that the user brings, known by its digest.
    File {
        /// Its usual name.
        name: &'static str,
    },
}

/// One set of pretrained weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The name used on the command line.
    pub id: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Architecture, as its id.
    pub architecture: Architecture,
    /// SPDX identifier of the licence of the weights.
    pub licence: &'static str,
    /// Who made them.
    pub origin: &'static str,
    /// Where the bytes are.
    pub source: Source,
    /// SHA-256 of the file in hex; none where upstream publishes none and the file was never seen here.
    pub sha256: Option<&'static str>,
    /// Input side the weights were trained at, in pixels.
    pub input: u32,
    /// Padding of the weights.
    pub padding: Padding,
    /// Batch-normalisation epsilon of the weights.
    pub bn_eps: f32,
    /// Mean and standard deviation on the 0..255 scale.
    pub normalisation: ([f32; 3], [f32; 3]),
}

impl Entry {
    /// Returns the preprocessing the weights were trained with, at an input side of `crop` pixels.
    pub fn preprocessing(&self, crop: u32) -> Preprocessing {
        Preprocessing::centre_crop(crop, self.normalisation)
    }
}

/// The list of entries.
#[derive(Debug)]
pub struct Catalogue;

impl Catalogue {
    /// Lists every entry.
    pub fn entries() -> &'static [Entry] {
        &ENTRIES
    }

    /// Finds an entry by id.
    pub fn find(id: &str) -> Option<&'static Entry> {
        ENTRIES.iter().find(|e| e.id == id)
    }

    /// Finds the entry of a file by the SHA-256 of its bytes, in hex.
    pub fn by_sha256(hex: &str) -> Option<&'static Entry> {
        ENTRIES.iter().find(|e| e.sha256 == Some(hex))
    }
}

const fn resnet(id: &'static str, depth: u32, repo: &'static str) -> Entry {
    let about = "ImageNet-1k, 224 px, as trained by timm (A1 recipe)";
    Entry {
        origin: "timm (Wightman et al., arXiv:2110.00476)",
        ..timm(id, about, Architecture::ResNet { depth }, repo)
    }
}

/// Weights of timm's that go by PyTorch's conventions.
const fn timm(id: &'static str, about: &'static str, architecture: Architecture, repo: &'static str) -> Entry {
    Entry {
        id,
        about,
        architecture,
        licence: "Apache-2.0",
        origin: "timm (Wightman)",
        source: Source::Hub { repo, file: "model.safetensors", revision: "main" },
        sha256: None,
        input: 224,
        padding: Padding::Symmetric,
        bn_eps: 1e-5,
        normalisation: Preprocessing::IMAGENET,
    }
}

static ENTRIES: [Entry; 10] = [
    Entry {
        id: "graft-tiny",
        about: "MobileNetV2 0.35 pre-trained by graft on generated textures and shapes; small enough to be inside the binary",
        architecture: Architecture::MobileNetV2 { width: 0.35 },
        licence: "MIT OR Apache-2.0",
        origin: "graft (`cargo xtask pretrain`)",
        source: Source::Embedded,
        sha256: None,
        input: 96,
        padding: Padding::Symmetric,
        bn_eps: 1e-3,
        normalisation: Preprocessing::UNIT,
    },
    timm(
        "mobilenet_v2",
        "ImageNet-1k, 224 px, as trained by timm (RandAugment)",
        Architecture::MobileNetV2 { width: 1.0 },
        "timm/mobilenetv2_100.ra_in1k",
    ),
    timm(
        "mobilenet_v3_small",
        "ImageNet-1k, 224 px, as trained by timm (LAMB)",
        Architecture::MobileNetV3 { size: Size::Small },
        "timm/mobilenetv3_small_100.lamb_in1k",
    ),
    timm(
        "mobilenet_v3_large",
        "ImageNet-1k, 224 px, as trained by timm (RandAugment)",
        Architecture::MobileNetV3 { size: Size::Large },
        "timm/mobilenetv3_large_100.ra_in1k",
    ),
    timm(
        "efficientnet_b0",
        "ImageNet-1k, 224 px, as trained by timm (RandAugment)",
        Architecture::EfficientNetB0,
        "timm/efficientnet_b0.ra_in1k",
    ),
    resnet("resnet18", 18, "timm/resnet18.a1_in1k"),
    resnet("resnet34", 34, "timm/resnet34.a1_in1k"),
    resnet("resnet50", 50, "timm/resnet50.a1_in1k"),
    Entry {
        id: "mobilenet_v2-coral",
        about: "ImageNet-1k with background class, 224 px, Coral's post-training-quantized network made float again",
        architecture: Architecture::MobileNetV2 { width: 1.0 },
        licence: "Apache-2.0",
        origin: "google-coral/test_data tf2_mobilenet_v2_1.0_224_ptq.tflite",
        source: Source::File { name: "mobilenet_v2_1.0_224.safetensors" },
        sha256: Some("c0cdf1e11a4c95a01a0054276a567b66fcc3e2802ae0cb18619859e864dc95fb"),
        input: 224,
        padding: Padding::TfSame,
        bn_eps: 1e-5,
        normalisation: Preprocessing::UNIT,
    },
    Entry {
        id: "mobilenet_v2-0.35-tm",
        about: "ImageNet-1k backbone, width 0.35, 224 px, as found in Teachable Machine exports",
        architecture: Architecture::MobileNetV2 { width: 0.35 },
        licence: "Apache-2.0",
        origin: "TensorFlow, through Teachable Machine",
        source: Source::File { name: "mobilenet_v2_0.35_224_notop.safetensors" },
        sha256: Some("0471c93e36bc7d9a21b4d99f2b92eb0faa0d9701b3782d2225a322ea86096525"),
        input: 224,
        padding: Padding::TfSame,
        bn_eps: 1e-3,
        normalisation: Preprocessing::UNIT,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_found() {
        for e in Catalogue::entries() {
            assert_eq!(Catalogue::find(e.id), Some(e));
            assert!(e.sha256.is_none_or(|s| s.len() == 64), "{}", e.id);
        }
    }
}
