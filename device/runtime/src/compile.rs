//! Recognises a whole graph and turns it into a [`Program`].
//!
//! Follows the nodes in order and keeps for every name what it stands for. A node that only closes its input (an
//! activation, a QDQ pair, the sum of a residual block) is fused into the step that made the input, where nobody else
//! reads that. A graph with one node that is not recognised is left to tract whole.

use std::collections::BTreeMap;

use graft_kernels::conv::Conv;
use graft_kernels::depthwise::Depthwise;
use graft_kernels::pool::Pool;
use graft_kernels::{Activation, Window, padded};
use tract_onnx::pb::{GraphProto, NodeProto};

use crate::constant::{Constant, Numbers};
use crate::graph;
use crate::program::{Program, Shape, Step, Work};

/// Compiles a graph whose one input is `u8 [1, side, side, 3]`.
///
/// # Errors
///
/// The operator of the first node that is not recognised.
pub(crate) fn compile(graph: &GraphProto, side: usize) -> Result<Program, String> {
    let mut compiler = Compiler { side, steps: Vec::new(), values: BTreeMap::new(), reads: BTreeMap::new() };
    for tensor in &graph.initializer {
        if let Some(constant) = Constant::read(tensor) {
            compiler.values.insert(&tensor.name, Value::Constant(constant));
        }
    }
    let [input] = graph::inputs(graph)[..] else {
        return Err("more than one input".to_owned());
    };
    compiler.values.insert(&input.name, Value::Picture(Picture::default()));
    let names = graph.node.iter().flat_map(|n| &n.input).chain(graph.output.iter().map(|o| &o.name));
    for name in names {
        *compiler.reads.entry(name).or_default() += 1;
    }
    for node in &graph.node {
        compiler.node(node).ok_or_else(|| node.op_type.clone())?;
        compiler.name(node);
    }
    let mut outputs = Vec::new();
    for output in &graph.output {
        let float = compiler.float(&output.name).ok_or("an output that is not of floats")?;
        outputs.push(float.shape);
    }
    Ok(Program::new(compiler.steps, outputs))
}

struct Compiler<'a> {
    side: usize,
    steps: Vec<Step>,
    values: BTreeMap<&'a str, Value>,
    /// How often a name is read, by nodes or as an output.
    reads: BTreeMap<&'a str, usize>,
}

/// What a name stands for.
#[derive(Debug, Clone)]
enum Value {
    Constant(Constant),
    Picture(Picture),
    Act(Act),
}

/// What a step makes.
#[derive(Debug, Clone, Copy)]
struct Act {
    shape: Shape,
    /// Nobody reads another name of it.
    alone: bool,
    /// `[1, c]` rather than `[1, c, h, w]`.
    flat: bool,
    /// The scale and zero point if the name stands for the integers; the numbers are their floats all the same.
    steps: Option<(f32, i64)>,
}

/// The input before it is numbers: which of the operations of `(image - mean) / std` were seen.
#[derive(Debug, Clone, Default)]
struct Picture {
    planes: bool,
    float: bool,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

impl<'a> Compiler<'a> {
    /// Takes one node in; none if it is not recognised.
    fn node(&mut self, node: &'a NodeProto) -> Option<()> {
        let outputs: Vec<&'a String> = node.output.iter().filter(|o| !o.is_empty()).collect();
        let ([output], "") = (&outputs[..], node.domain.as_str()) else {
            return None;
        };
        let input = node.input.first()?;
        let value = match node.op_type.as_str() {
            "Transpose" | "Cast" | "Sub" | "Div" => Value::Picture(self.picture(node)?),
            "Conv" => Value::Act(self.conv(node)?),
            "Gemm" => Value::Act(self.gemm(node)?),
            "Add" => Value::Act(self.add(node)?),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" => Value::Act(self.pool(node)?),
            "Relu" => Value::Act(self.close(input, Activation::RELU)?),
            "Clip" => Value::Act(self.close(input, self.clip(node)?)?),
            "HardSwish" => Value::Act(self.close(input, Activation::HardSwish)?),
            "Sigmoid" => Value::Act(self.close(input, Activation::Sigmoid)?),
            "HardSigmoid" => {
                let slope = float(node, "alpha").unwrap_or(0.2);
                let offset = float(node, "beta").unwrap_or(0.5);
                Value::Act(self.close(input, Activation::HardSigmoid { slope, offset })?)
            }
            "Identity" => self.alias(input)?,
            "Flatten" => match self.alias(input)? {
                Value::Act(act) if int(node, "axis").unwrap_or(1) == 1 && act.shape.size == [1, 1] => {
                    Value::Act(Act { flat: true, ..act })
                }
                _ => return None,
            },
            "QuantizeLinear" => Value::Act(self.quantize(node)?),
            "DequantizeLinear" => self.dequantize(node)?,
            _ => return None,
        };
        self.values.insert(output, value);
        Some(())
    }

    /// Names the step that makes a node's output, or made it before what was fused in.
    fn name(&mut self, node: &NodeProto) {
        let Some(name) = node.output.first() else { return };
        if let Some(Value::Act(act)) = self.values.get(name.as_str())
            && act.alone
        {
            self.steps[act.shape.slot].name.clone_from(name);
        }
    }

    fn constant(&self, node: &NodeProto, index: usize) -> Option<&Constant> {
        match self.values.get(node.input.get(index)?.as_str())? {
            Value::Constant(constant) => Some(constant),
            _ => None,
        }
    }

    /// Returns the constant at an input that may be left out, `Some(None)` where it is, or none if it is no constant.
    fn optional(&self, node: &NodeProto, index: usize) -> Option<Option<&Constant>> {
        match node.input.get(index).filter(|n| !n.is_empty()) {
            Some(_) => self.constant(node, index).map(Some),
            None => Some(None),
        }
    }

    /// Returns the third input of a convolution or product, zeros where it is left out.
    ///
    /// The caller has checked that there are weights for `outputs`, so that what is allocated is bounded by the file.
    fn bias(&self, node: &NodeProto, outputs: usize) -> Option<Vec<f32>> {
        let bias = match self.optional(node, 2)? {
            Some(bias) => bias.floats()?.to_vec(),
            None => vec![0.0; outputs],
        };
        (bias.len() == outputs).then_some(bias)
    }

    /// Returns the value under a further name.
    fn alias(&self, name: &str) -> Option<Value> {
        let mut value = self.values.get(name)?.clone();
        if let Value::Act(act) = &mut value {
            act.alone &= self.reads.get(name) == Some(&1);
        }
        Some(value)
    }

    fn picture(&self, node: &NodeProto) -> Option<Picture> {
        let Value::Picture(mut p) = self.values.get(node.input.first()?.as_str())?.clone() else {
            return None;
        };
        let channels = || {
            let constant = self.constant(node, 1)?;
            let &[a, b, c] = constant.floats()? else { return None };
            // Along the channels of `[1, 3, h, w]`.
            let fits = constant.dims.ends_with(&[3, 1, 1]);
            (p.planes && p.float && fits).then_some([a, b, c])
        };
        match node.op_type.as_str() {
            "Transpose" if !p.planes && ints(node, "perm")? == [0, 3, 1, 2] => p.planes = true,
            "Cast" if !p.float && int(node, "to")? == FLOAT => p.float = true,
            "Sub" if p.mean.is_none() && p.std.is_none() => p.mean = Some(channels()?),
            "Div" if p.std.is_none() => p.std = Some(channels()?),
            _ => return None,
        }
        Some(p)
    }

    /// Returns an activation of floats; a picture is made into one where it is first read as such.
    fn float(&mut self, name: &str) -> Option<Act> {
        let (&name, value) = self.values.get_key_value(name)?;
        match value {
            Value::Act(act) => act.steps.is_none().then_some(*act),
            Value::Constant(_) => None,
            Value::Picture(p) => {
                if !(p.planes && p.float) {
                    return None;
                }
                let (mean, std) = (p.mean.unwrap_or([0.0; 3]), p.std.unwrap_or([1.0; 3]));
                let of = |c: usize| std::array::from_fn(|byte| (byte as f32 - mean[c]) / std[c]);
                let table = Box::new([of(0), of(1), of(2)]);
                let act = self.push(Work::Normalise(table), None, None, [self.side; 2], 3, 4)?;
                self.steps[act.shape.slot].name = name.to_owned();
                self.values.insert(name, Value::Act(act));
                Some(act)
            }
        }
    }

    fn push(
        &mut self,
        work: Work,
        from: Option<Shape>,
        other: Option<Shape>,
        size: [usize; 2],
        channels: usize,
        stride: usize,
    ) -> Option<Act> {
        let len = size[0].checked_mul(size[1])?.checked_mul(stride)?;
        (len <= MAX_ACTIVATION).then_some(())?;
        let shape = Shape { slot: self.steps.len(), size, channels, stride };
        self.steps.push(Step { name: String::new(), work, from, other, to: shape });
        Some(Act { shape, alone: true, flat: false, steps: None })
    }

    fn conv(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.float(node.input.first()?)?;
        let shape = act.shape;
        let weights = self.constant(node, 1)?;
        let &[outputs, per_group, kh, kw] = &weights.dims[..] else { return None };
        let groups = usize::try_from(int(node, "group").unwrap_or(1)).ok()?;
        let window = window(node, [kh, kw])?;
        let size = window.output(shape.size)?;
        (!act.flat && outputs > 0 && per_group.checked_mul(groups)? == shape.channels).then_some(())?;
        let (floats, bias) = (weights.floats()?, self.bias(node, outputs)?);
        let work = if groups == 1 {
            Work::Conv(Conv::new(floats, &bias, window, Activation::NONE))
        } else if groups == shape.channels && groups == outputs && shape.stride == padded(outputs) {
            Work::Depthwise(Depthwise::new(floats, &bias, window, Activation::NONE))
        } else {
            return None;
        };
        self.push(work, Some(shape), None, size, outputs, padded(outputs))
    }

    fn gemm(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.float(node.input.first()?)?;
        let weights = self.constant(node, 1)?;
        let &[rows, columns] = &weights.dims[..] else { return None };
        let across = int(node, "transB").unwrap_or(0) == 1;
        let (outputs, inputs) = if across { (rows, columns) } else { (columns, rows) };
        let plain = int(node, "transA").unwrap_or(0) == 0
            && float(node, "alpha").unwrap_or(1.0) == 1.0
            && float(node, "beta").unwrap_or(1.0) == 1.0;
        (act.flat && plain && outputs > 0 && inputs == act.shape.channels).then_some(())?;
        let (floats, bias) = (weights.floats()?, self.bias(node, outputs)?);
        let packed: Vec<f32> = match across {
            true => floats.to_vec(),
            false => (0..floats.len()).map(|i| floats[i % inputs * outputs + i / inputs]).collect(),
        };
        let work = Work::Conv(Conv::new(&packed, &bias, Window::POINT, Activation::NONE));
        let made = self.push(work, Some(act.shape), None, [1, 1], outputs, padded(outputs))?;
        Some(Act { flat: true, ..made })
    }

    fn add(&mut self, node: &NodeProto) -> Option<Act> {
        let [a, b] = &node.input[..] else { return None };
        let (first, second) = (self.float(a)?, self.float(b)?);
        let same = (first.shape.size, first.shape.channels, first.shape.stride, first.flat)
            == (second.shape.size, second.shape.channels, second.shape.stride, second.flat);
        (same && first.shape.stride == padded(first.shape.channels)).then_some(())?;
        // The later of the two may add the earlier one as it closes.
        for (name, own, other) in [(a, first, second), (b, second, first)] {
            let free = own.alone && self.reads.get(name.as_str()) == Some(&1) && other.shape.slot < own.shape.slot;
            let step = &mut self.steps[own.shape.slot];
            if let (true, None, Work::Conv(conv)) = (free, step.other, &step.work)
                && conv.activation() == Activation::NONE
            {
                step.other = Some(other.shape);
                return Some(own);
            }
        }
        let s = first.shape;
        let work = Work::Pointwise(Activation::NONE);
        let made = self.push(work, Some(s), Some(second.shape), s.size, s.channels, s.stride)?;
        Some(Act { flat: first.flat, ..made })
    }

    fn pool(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.float(node.input.first()?)?;
        let s = act.shape;
        (!act.flat && s.stride == padded(s.channels) && int(node, "ceil_mode").unwrap_or(0) == 0).then_some(())?;
        let (kind, window) = match node.op_type.as_str() {
            "GlobalAveragePool" => (Pool::Mean, Window { kernel: s.size, ..Window::POINT }),
            name => {
                let &[kh, kw] = ints(node, "kernel_shape")? else { return None };
                let window = window(node, [usize::try_from(kh).ok()?, usize::try_from(kw).ok()?])?;
                let kind = match (name, int(node, "count_include_pad").unwrap_or(0)) {
                    ("MaxPool", _) => Pool::Max,
                    (_, 0) => Pool::Mean,
                    _ => Pool::MeanWithPadding,
                };
                (kind, window)
            }
        };
        let size = window.output(s.size)?;
        self.push(Work::Pool(kind, window), Some(s), None, size, s.channels, s.stride)
    }

    fn clip(&self, node: &NodeProto) -> Option<Activation> {
        let bound = |index: usize, name: &str, open: f32| match self.optional(node, index)? {
            Some(bound) => bound.float(),
            None => Some(float(node, name).unwrap_or(open)),
        };
        let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        (low <= high).then_some(Activation::Clamp { low, high })
    }

    /// Applies a function to a value: in the step that makes it, or else in one of its own.
    fn close(&mut self, name: &str, f: Activation) -> Option<Act> {
        let act = self.float(name)?;
        let shape = act.shape;
        if act.alone && self.reads.get(name) == Some(&1) && self.steps[shape.slot].close(f) {
            return Some(act);
        }
        (shape.stride == padded(shape.channels)).then_some(())?;
        let made = self.push(Work::Pointwise(f), Some(shape), None, shape.size, shape.channels, shape.stride)?;
        Some(Act { flat: act.flat, ..made })
    }

    /// Rounds to the steps of a scale at once; the name then stands for integers.
    fn quantize(&mut self, node: &NodeProto) -> Option<Act> {
        let scale = self.constant(node, 1)?.float()?;
        let zero = self.constant(node, 2)?;
        let [z] = zero.steps()?[..] else { return None };
        let (low, high) = match zero.numbers {
            Numbers::U8(_) => (0, 255),
            Numbers::I8(_) => (-128, 127),
            _ => return None,
        };
        (scale.is_finite() && scale > 0.0).then_some(())?;
        let f = Activation::Quantized { scale, low: (low - z) as f32, high: (high - z) as f32 };
        Some(Act { steps: Some((scale, z)), ..self.close(node.input.first()?, f)? })
    }

    fn dequantize(&self, node: &NodeProto) -> Option<Value> {
        let scale = self.constant(node, 1)?;
        let zero = self.optional(node, 2)?;
        if let Some(constant) = self.constant(node, 0) {
            let axis = usize::try_from(int(node, "axis").unwrap_or(1)).ok()?;
            return Some(Value::Constant(constant.dequantized(scale, zero, axis)?));
        }
        let Value::Act(act) = self.alias(node.input.first()?)? else { return None };
        let z = match zero {
            Some(z) => match z.steps()?[..] {
                [z] => z,
                _ => return None,
            },
            None => 0,
        };
        (act.steps? == (scale.float()?, z)).then_some(Value::Act(Act { steps: None, ..act }))
    }
}

impl Step {
    /// Applies a function to what the step makes, where the step can take it in.
    fn close(&mut self, f: Activation) -> bool {
        let own = match &mut self.work {
            Work::Normalise(table) => {
                table.as_flattened_mut().iter_mut().for_each(|v| *v = f.at(*v));
                return true;
            }
            Work::Conv(conv) => conv.activation_mut(),
            Work::Depthwise(conv) => conv.activation_mut(),
            Work::Pointwise(activation) => activation,
            Work::Pool(..) => return false,
        };
        let both = own.then(f);
        *own = both.unwrap_or(*own);
        both.is_some()
    }
}

/// Reads the attributes of a convolution or pool over two axes.
fn window(node: &NodeProto, kernel: [usize; 2]) -> Option<Window> {
    let explicit = node.attribute.iter().find(|a| a.name == "auto_pad").is_none_or(|a| a.s == b"NOTSET");
    let declared = ints(node, "kernel_shape").is_none_or(|k| k.iter().map(|v| usize::try_from(*v)).eq(kernel.map(Ok)));
    (explicit && declared && kernel.iter().all(|k| *k > 0)).then_some(())?;
    let read = |name: &str, or: i64, len: usize| -> Option<Vec<usize>> {
        let Some(values) = ints(node, name) else {
            return usize::try_from(or).ok().map(|v| vec![v; len]);
        };
        (values.len() == len).then_some(())?;
        values.iter().map(|v| usize::try_from(*v).ok()).collect()
    };
    let (stride, dilation, pads) = (read("strides", 1, 2)?, read("dilations", 1, 2)?, read("pads", 0, 4)?);
    stride.iter().chain(&dilation).all(|v| *v > 0).then_some(())?;
    Some(Window {
        kernel,
        stride: [stride[0], stride[1]],
        dilation: [dilation[0], dilation[1]],
        before: [pads[0], pads[1]],
        after: [pads[2], pads[3]],
    })
}

fn ints<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    node.attribute.iter().find(|a| a.name == name).map(|a| &a.ints[..])
}

fn int(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}

fn float(node: &NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.f)
}

/// ONNX's number of the type `float`.
const FLOAT: i64 = 1;
/// Most numbers in one activation: a gigabyte.
const MAX_ACTIVATION: usize = 1 << 28;

#[cfg(test)]
mod tests;
