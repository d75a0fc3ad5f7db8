//! The input before it is an activation: preprocessing as graphs have it in front.

use graft_kernels::Activation;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::attributes::{int, ints};
use crate::constant::Constant;
use crate::input::{Input, Kind as InputKind};
use crate::plan::{Adjustment, Arithmetic, Extent, Kind, Layout};

/// What a name stands for that is the input still, adjusted number by number.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    pub extent: Extent,
    bytes: bool,
    /// Where the channels lie in memory.
    layout: Layout,
    /// Whether the name stands for `[1, c, h, w]`.
    planes: bool,
    float: bool,
    adjustments: Vec<Adjustment>,
    /// What a QuantizeLinear in front of the Transpose rounds to.
    pub rounding: Option<Activation>,
    /// As in an activation.
    steps: Option<(f32, i64)>,
}

impl Picture {
    pub fn of(input: &Input) -> Self {
        let bytes = input.kind == InputKind::Bytes;
        let (layout, extent) = (input.layout, input.extent);
        let (planes, adjustments) = (layout == Layout::Planes, Vec::new());
        Self { extent, bytes, layout, planes, float: !bytes, adjustments, rounding: None, steps: None }
    }

    /// Whether it is floats, that no integers stand for.
    fn is_float(&self) -> bool {
        self.float && self.steps.is_none()
    }

    /// Takes a Transpose or a Cast in.
    pub fn seen_by(mut self, node: &NodeProto) -> Option<Self> {
        match node.op_type.as_str() {
            "Transpose" if !self.planes && ints(node, "perm")? == [0, 3, 1, 2] => self.planes = true,
            "Cast" if !self.float && int(node, "to")? == DataType::Float as i64 => self.float = true,
            _ => return None,
        }
        Some(self)
    }

    /// Adjusts every number by a constant: one for all, or one a channel.
    pub fn adjusted(mut self, operation: Arithmetic, constant: &Constant) -> Option<Self> {
        (self.is_float() && self.rounding.is_none()).then_some(())?;
        let channels = self.extent.channels;
        let floats = constant.floats()?;
        // Along the channels of `[1, c, h, w]` or `[1, h, w, c]`.
        let across: &[usize] = if self.planes { &[channels, 1, 1] } else { &[channels] };
        let by = match floats[..] {
            [one] if constant.dims.len() <= 4 => vec![one; channels],
            _ if floats.len() == channels && constant.dims.ends_with(across) => floats.into_owned(),
            _ => return None,
        };
        self.adjustments.push(Adjustment { operation, by });
        Some(self)
    }

    /// Rounds every number; the name then stands for integers.
    pub fn quantized(self, rounding: Activation, steps: Option<(f32, i64)>) -> Option<Self> {
        let plain = self.is_float() && self.rounding.is_none();
        plain.then_some(Self { rounding: Some(rounding), steps, ..self })
    }

    /// Has integers of a scale and zero point stand for floats again.
    pub fn dequantized(self, steps: Option<(f32, i64)>) -> Option<Self> {
        (self.steps.is_some() && self.steps == steps).then_some(Self { steps: None, ..self })
    }

    /// Returns what makes it an activation, if it is floats in planes by now.
    pub fn kind(&self) -> Option<Kind> {
        (self.is_float() && self.planes).then_some(())?;
        let (layout, adjustments) = (self.layout, self.adjustments.clone());
        if !self.bytes {
            return Some(Kind::Numbers { layout, adjustments });
        }
        let of = |c: usize| std::array::from_fn(|byte| adjustments.iter().fold(byte as f32, |x, a| a.at(c, x)));
        Some(Kind::Bytes { layout, tables: (0..self.extent.channels).map(of).collect() })
    }
}
