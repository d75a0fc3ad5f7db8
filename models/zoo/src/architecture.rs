//! The architectures by id, each with what it builds and what its weights take for granted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::Names;
use crate::network::{Network, Padding};
use crate::{efficientnet, mobilenet_v2, mobilenet_v3, resnet};

/// An architecture with the choices that change its shape.
///
/// Its text form is the model id of the command line: `mobilenet_v2`, `mobilenet_v2:0.35`, `mobilenet_v3_small`, `resnet18`,
/// `efficientnet_b0`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Architecture {
    /// MobileNetV2 (Sandler et al., arXiv:1801.04381) with its width multiplier.
    MobileNetV2 {
        /// Multiplies every channel count; 1.0 is the paper's network.
        width: f32,
    },
    /// ResNet (He et al., arXiv:1512.03385) of 18, 34 or 50 layers, torchvision's variant.
    ResNet {
        /// Number of layers.
        depth: u32,
    },
    /// MobileNetV3-Small or -Large (Howard et al., arXiv:1905.02244).
    MobileNetV3 {
        /// Which of the two.
        size: Size,
    },
    /// EfficientNet-B0 (Tan and Le, arXiv:1905.11946), without stochastic depth.
    EfficientNetB0,
}

/// The sizes of MobileNetV3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 11 blocks, 1024 features.
    Small,
    /// 15 blocks, 1280 features.
    Large,
}

impl Architecture {
    /// Describes the network without its classifier; the output is the pooled feature vector `[n, features]`.
    pub fn backbone(self, padding: Padding, bn_eps: f32) -> Network {
        let mut net = match self {
            Self::MobileNetV2 { width } => mobilenet_v2::backbone(width),
            Self::ResNet { depth } => resnet::backbone(depth),
            Self::MobileNetV3 { size } => mobilenet_v3::backbone(size),
            Self::EfficientNetB0 => efficientnet::backbone(),
        };
        net.padding = padding;
        net.bn_eps = bn_eps;
        net
    }

    /// Returns the torchvision name of the classifier layer.
    pub fn head_name(self) -> &'static str {
        match self {
            Self::MobileNetV2 { .. } | Self::EfficientNetB0 => "classifier.1",
            Self::MobileNetV3 { .. } => "classifier.3",
            Self::ResNet { .. } => "fc",
        }
    }

    /// Returns the epsilon that batch normalisation has where a file's tensors go by these names.
    ///
    /// # Source
    ///
    /// The constructors of torchvision 0.29 and timm 1.0: MobileNetV3 alone has another than PyTorch's, in torchvision alone.
    pub fn bn_eps(self, names: Names) -> f32 {
        match (self, names) {
            (Self::MobileNetV3 { .. }, Names::Torchvision) => 1e-3,
            _ => 1e-5,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MobileNetV2 { width } if *width == 1.0 => write!(f, "mobilenet_v2"),
            Self::MobileNetV2 { width } => write!(f, "mobilenet_v2:{width}"),
            Self::ResNet { depth } => write!(f, "resnet{depth}"),
            Self::MobileNetV3 { size: Size::Small } => f.write_str("mobilenet_v3_small"),
            Self::MobileNetV3 { size: Size::Large } => f.write_str("mobilenet_v3_large"),
            Self::EfficientNetB0 => f.write_str("efficientnet_b0"),
        }
    }
}

impl From<Architecture> for String {
    fn from(a: Architecture) -> Self {
        a.to_string()
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "mobilenet_v3_small" => return Ok(Self::MobileNetV3 { size: Size::Small }),
            "mobilenet_v3_large" => return Ok(Self::MobileNetV3 { size: Size::Large }),
            "efficientnet_b0" => return Ok(Self::EfficientNetB0),
            _ => {}
        }
        let unknown = || UnknownArchitecture(s.to_owned());
        if let Some(depth) = s.strip_prefix("resnet") {
            let depth = depth.parse().map_err(|_| unknown())?;
            return if matches!(depth, 18 | 34 | 50) { Ok(Self::ResNet { depth }) } else { Err(unknown()) };
        }
        let rest = s.strip_prefix("mobilenet_v2").ok_or_else(unknown)?;
        let width: f32 = match rest.strip_prefix(':') {
            None if rest.is_empty() => 1.0,
            None => return Err(unknown()),
            Some(w) => w.parse().map_err(|_| unknown())?,
        };
        if !(0.1..=2.0).contains(&width) {
            return Err(unknown());
        }
        Ok(Self::MobileNetV2 { width })
    }
}

/// A model id that names no architecture.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected an architecture (mobilenet_v2, mobilenet_v2:WIDTH with 0.1 <= WIDTH <= 2, mobilenet_v3_small, mobilenet_v3_large, resnet18, resnet34, resnet50, efficientnet_b0), found {0:?}"
)]
pub struct UnknownArchitecture(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_strangers_are_refused() {
        for id in [
            "mobilenet_v2",
            "mobilenet_v2:0.35",
            "mobilenet_v3_small",
            "mobilenet_v3_large",
            "resnet18",
            "resnet34",
            "resnet50",
            "efficientnet_b0",
        ] {
            assert_eq!(id.parse::<Architecture>().unwrap().to_string(), id);
        }
        for id in [
            "",
            "resnet19",
            "mobilenet_v2:9",
            "mobilenet_v2:nan",
            "mobilenet_v2x",
            "mobilenet_v3",
            "mobilenet_v3_small:0.5",
            "efficientnet_b1",
            "vgg",
        ] {
            assert!(id.parse::<Architecture>().is_err(), "{id}");
        }
    }
}
