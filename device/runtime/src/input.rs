//! What a network takes: one picture, as bytes or numbers.

use serde::{Deserialize, Serialize};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ValueInfoProto};

use crate::RuntimeError;
use crate::graph::{self, describe, tensor_type};
use crate::plan::{Extent, Layout};

/// The one input of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Input {
    pub kind: Kind,
    pub layout: Layout,
    pub extent: Extent,
}

/// Type of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// `u8`.
    Bytes,
    /// `f32`.
    Floats,
}

impl Input {
    /// Reads the graph's input: `[n, h, w, c]` or `[n, c, h, w]` with up to four channels, one picture; open sides become
    /// `side`.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Input`].
    pub fn of(graph: &GraphProto, side: Option<usize>) -> Result<Self, RuntimeError> {
        let inputs = graph::inputs(graph);
        let refused = || RuntimeError::Input {
            expected: "u8 or f32 [1, h, w, c] or [1, c, h, w] with up to 4 channels".to_owned(),
            found: inputs.iter().map(|i| describe(i)).collect::<Vec<_>>().join(" and "),
        };
        match inputs[..] {
            [input] => read(input, side).ok_or_else(refused),
            _ => Err(refused()),
        }
    }

    /// Whether [`Input::of`] could have read it.
    pub fn is_sound(&self) -> bool {
        let Extent { size, channels } = self.extent;
        (1..=MAX_CHANNELS).contains(&channels) && size.iter().all(|side| (1..=MAX_SIDE).contains(side))
    }

    /// Returns how many numbers a picture has.
    pub fn len(&self) -> usize {
        self.extent.size[0] * self.extent.size[1] * self.extent.channels
    }

    /// Returns the shape in the order of the memory.
    pub fn dims(&self) -> [usize; 4] {
        let Extent { size: [h, w], channels } = self.extent;
        match self.layout {
            Layout::ChannelsLast => [1, h, w, channels],
            Layout::Planes => [1, channels, h, w],
        }
    }
}

fn read(input: &ValueInfoProto, side: Option<usize>) -> Option<Input> {
    let tensor = tensor_type(input)?;
    let kind = match DataType::try_from(tensor.elem_type).ok()? {
        DataType::Uint8 => Kind::Bytes,
        DataType::Float => Kind::Floats,
        _ => return None,
    };
    let dims: Vec<Option<usize>> = tensor
        .shape
        .iter()
        .flat_map(|s| &s.dim)
        .map(|d| match d.value {
            Some(dimension::Value::DimValue(v)) => usize::try_from(v).ok().filter(|v| *v > 0),
            _ => None,
        })
        .collect();
    let &[None | Some(1), a, b, c] = &dims[..] else { return None };
    let few = |v: Option<usize>| v.filter(|v| *v <= MAX_CHANNELS);
    // Bytes come from a decoder, which puts channels last.
    let (layout, channels, sides) = match (few(a), few(c)) {
        (Some(channels), None) => (Layout::Planes, channels, [b, c]),
        (_, Some(channels)) => (Layout::ChannelsLast, channels, [a, b]),
        (None, None) => return None,
    };
    let [height, width] = sides.map(|s| s.or(side).filter(|s| *s <= MAX_SIDE));
    Some(Input { kind, layout, extent: Extent { size: [height?, width?], channels } })
}

/// Most channels of a picture.
const MAX_CHANNELS: usize = 4;
/// Largest height or width in pixels.
const MAX_SIDE: usize = 4096;
