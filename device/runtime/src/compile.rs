//! Recognises a whole graph and turns it into a [`Plan`].
//!
//! Follows the nodes in order and keeps for every name what it stands for. A node that only closes its input (an
//! activation, a QDQ pair, the sum of a residual block) is fused into the operation that made the input, where nobody
//! else reads that. A graph with one node that is not recognised is left to tract whole.

use std::collections::BTreeMap;

use graft_kernels::pool::Pool;
use graft_kernels::{Activation, Window};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};

use crate::constant::{Constant, Numbers};
use crate::graph;
use crate::input::{Input, Kind as InputKind};
use crate::plan::{Bias, Extent, Function, Kind, Layout, Operation, Plan, Weights};

/// Compiles a graph of one input, of whose initializers `constants` has those that are numbers.
///
/// # Errors
///
/// The operator of the first node that is not recognised.
pub(crate) fn compile(
    graph: &GraphProto,
    constants: BTreeMap<String, Constant>,
    input: &Input,
) -> Result<Plan, String> {
    let name = match graph::inputs(graph)[..] {
        [input] => input.name.clone(),
        _ => return Err("more than one input".to_owned()),
    };
    let values = constants.into_iter().map(|(name, constant)| (name, Value::Constant(constant))).collect();
    let mut compiler = Compiler { plan: Plan::default(), values, reads: BTreeMap::new() };
    compiler.values.insert(name, Value::Picture(Picture::of(input)));
    let names = graph.node.iter().flat_map(|n| &n.input).chain(graph.output.iter().map(|o| &o.name));
    for name in names {
        *compiler.reads.entry(name).or_default() += 1;
    }
    for node in &graph.node {
        compiler.node(node).ok_or_else(|| node.op_type.clone())?;
        compiler.name(node);
    }
    for output in &graph.output {
        let float = compiler.float(&output.name).ok_or("an output that is not of floats")?;
        compiler.plan.outputs.push(float.operation);
    }
    Ok(compiler.plan)
}

struct Compiler<'a> {
    plan: Plan,
    values: BTreeMap<String, Value>,
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

/// What an operation makes.
#[derive(Debug, Clone, Copy)]
struct Act {
    operation: usize,
    extent: Extent,
    /// Nobody reads another name of it.
    alone: bool,
    /// `[1, c]` rather than `[1, c, h, w]`.
    flat: bool,
    /// The scale and zero point if the name stands for the integers; the numbers are their floats all the same.
    steps: Option<(f32, i64)>,
    /// Zeros around it that a Pad asks for: before and after, each height and width.
    pad: [[usize; 2]; 2],
}

/// The input before it is numbers: which of the operations of `(image - mean) / std` were seen.
#[derive(Debug, Clone)]
struct Picture {
    extent: Extent,
    bytes: bool,
    /// Where the channels lie in memory.
    layout: Layout,
    /// Whether the name stands for `[1, c, h, w]`.
    planes: bool,
    float: bool,
    mean: Option<Vec<f32>>,
    std: Option<Vec<f32>>,
}

impl Picture {
    fn of(input: &Input) -> Self {
        let bytes = input.kind == InputKind::Bytes;
        let planes = input.layout == Layout::Planes;
        Self { extent: input.extent, bytes, layout: input.layout, planes, float: !bytes, mean: None, std: None }
    }
}

impl<'a> Compiler<'a> {
    /// Takes one node in; none if it is not recognised.
    fn node(&mut self, node: &'a NodeProto) -> Option<()> {
        // Of several outputs, those that nobody reads may be left out.
        let mut read = node.output.iter().filter(|o| self.reads.contains_key(o.as_str()));
        let (output, None, "") = (node.output.first()?, read.find(|o| *o != &node.output[0]), node.domain.as_str())
        else {
            return None;
        };
        let input = node.input.first().map_or("", String::as_str);
        let value = match node.op_type.as_str() {
            "Constant" => Value::Constant(constant(node)?),
            "Transpose" | "Cast" | "Sub" | "Div" => Value::Picture(self.picture(node)?),
            "Conv" => Value::Act(self.conv(node)?),
            "Gemm" | "MatMul" => Value::Act(self.product(node)?),
            "BatchNormalization" => Value::Act(self.batch_norm(node)?),
            "Pad" => Value::Act(self.pad(node)?),
            "Add" => Value::Act(self.add(node)?),
            "Mul" => Value::Act(self.mul(node)?),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "ReduceMean" => Value::Act(self.pool(node)?),
            "Relu" => Value::Act(self.close(input, Activation::RELU)?),
            "Clip" => Value::Act(self.close(input, self.clip(node)?)?),
            "HardSwish" => Value::Act(self.close(input, Activation::HardSwish)?),
            "Sigmoid" => Value::Act(self.close(input, Activation::Sigmoid)?),
            "HardSigmoid" => {
                let slope = float(node, "alpha").unwrap_or(0.2);
                let offset = float(node, "beta").unwrap_or(0.5);
                Value::Act(self.close(input, Activation::HardSigmoid { slope, offset })?)
            }
            "Softmax" => Value::Act(self.softmax(node)?),
            "Identity" | "Dropout" => self.alias(input)?,
            "Flatten" | "Reshape" | "Squeeze" => Value::Act(self.flatten(node)?),
            "QuantizeLinear" => Value::Act(self.quantize(node)?),
            "DequantizeLinear" => self.dequantize(node)?,
            _ => return None,
        };
        self.values.insert(output.clone(), value);
        Some(())
    }

    /// Names the operation that makes a node's output, or made it before what was fused in.
    fn name(&mut self, node: &NodeProto) {
        let Some(name) = node.output.first() else { return };
        if let Some(Value::Act(act)) = self.values.get(name)
            && act.alone
        {
            self.plan.operations[act.operation].name.clone_from(name);
        }
    }

    fn constant(&self, node: &NodeProto, index: usize) -> Option<&Constant> {
        match self.values.get(node.input.get(index)?)? {
            Value::Constant(constant) => Some(constant),
            _ => None,
        }
    }

    /// Returns a constant to keep; it is copied where others read it too.
    fn take(&mut self, node: &NodeProto, index: usize) -> Option<Constant> {
        let name = node.input.get(index)?;
        let value = match self.reads.get(name.as_str()) {
            Some(1) => self.values.remove(name)?,
            _ => self.values.get(name)?.clone(),
        };
        match value {
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
    fn bias(&self, node: &NodeProto, outputs: usize) -> Option<Bias> {
        let Some(bias) = self.optional(node, 2)? else {
            return Some(Bias::Floats(vec![0.0; outputs]));
        };
        let floats = bias.floats()?;
        (floats.len() == outputs && floats.iter().all(|v| v.is_finite())).then_some(())?;
        Some(match (&bias.numbers, &bias.scaling) {
            (Numbers::I32(v), Some(s)) if s.scales.len() == outputs && s.zeros.iter().all(|z| *z == 0) => {
                Bias::Steps(v.clone(), s.scales.clone())
            }
            _ => Bias::Floats(floats.into_owned()),
        })
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
        let Value::Picture(mut p) = self.values.get(node.input.first()?)?.clone() else {
            return None;
        };
        let channels = || {
            let constant = self.constant(node, 1)?;
            let floats = constant.floats()?;
            // Along the channels of `[1, c, h, w]` or `[1, h, w, c]`, or one for all.
            let across: &[usize] = if p.planes { &[p.extent.channels, 1, 1] } else { &[p.extent.channels] };
            let each = floats.len() == p.extent.channels && constant.dims.ends_with(across);
            match floats[..] {
                [one] if p.float => Some(vec![one; p.extent.channels]),
                _ => (p.float && each).then(|| floats.to_vec()),
            }
        };
        match node.op_type.as_str() {
            "Transpose" if !p.planes && ints(node, "perm")? == [0, 3, 1, 2] => p.planes = true,
            "Cast" if !p.float && int(node, "to")? == DataType::Float as i64 => p.float = true,
            "Sub" if p.mean.is_none() && p.std.is_none() => p.mean = Some(channels()?),
            "Div" if p.std.is_none() => p.std = Some(channels()?),
            _ => return None,
        }
        Some(p)
    }

    /// Returns an activation of floats; a picture is made into one where it is first read as such.
    fn float(&mut self, name: &str) -> Option<Act> {
        let p = match self.values.get(name)? {
            Value::Act(act) => return act.steps.is_none().then_some(*act),
            Value::Constant(_) => return None,
            Value::Picture(p) => p.clone(),
        };
        if !(p.planes && p.float) {
            return None;
        }
        let (mean, std) = (or(p.mean, 0.0, p.extent.channels), or(p.std, 1.0, p.extent.channels));
        let kind = if p.bytes {
            let of = |c: usize| std::array::from_fn(|byte| (byte as f32 - mean[c]) / std[c]);
            Kind::Bytes((0..p.extent.channels).map(of).collect())
        } else {
            Kind::Numbers { layout: p.layout, mean, std }
        };
        let act = self.push(kind, vec![], p.extent)?;
        self.plan.operations[act.operation].name = name.to_owned();
        self.values.insert(name.to_owned(), Value::Act(act));
        Some(act)
    }

    /// Returns an activation of floats without zeros around it.
    fn bare(&mut self, name: &str) -> Option<Act> {
        self.float(name).filter(|act| act.pad == [[0; 2]; 2])
    }

    fn push(&mut self, kind: Kind, inputs: Vec<usize>, extent: Extent) -> Option<Act> {
        let width = extent.channels.checked_add(graft_kernels::BLOCK)?;
        let len = extent.size[0].checked_mul(extent.size[1])?.checked_mul(width)?;
        (len <= MAX_ACTIVATION).then_some(())?;
        let operation = self.plan.operations.len();
        self.plan.operations.push(Operation {
            name: String::new(),
            kind,
            inputs,
            extent,
            closing: Vec::new(),
            added: None,
        });
        Some(Act { operation, extent, alone: true, flat: false, steps: None, pad: [[0; 2]; 2] })
    }

    fn conv(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.float(node.input.first()?)?;
        let Extent { size: input, channels } = act.extent;
        let &[outputs, per_group, kh, kw] = &self.constant(node, 1)?.dims[..] else { return None };
        let groups = usize::try_from(int(node, "group").unwrap_or(1)).ok()?;
        let mut window = window(node, [kh, kw], input)?;
        for axis in 0..2 {
            window.before[axis] += act.pad[0][axis];
            window.after[axis] += act.pad[1][axis];
        }
        let size = window.output(input)?;
        (!act.flat && outputs > 0 && per_group.checked_mul(groups)? == channels).then_some(())?;
        let depthwise = groups > 1;
        (!depthwise || (groups == channels && groups == outputs)).then_some(())?;
        let bias = self.bias(node, outputs)?;
        let weights = weights(self.take(node, 1)?)?;
        let kind = Kind::Conv { weights, bias, window, depthwise };
        self.push(kind, vec![act.operation], Extent { size, channels: outputs })
    }

    /// A Gemm, or a MatMul by a constant.
    fn product(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.bare(node.input.first()?)?;
        let &[rows, columns] = &self.constant(node, 1)?.dims[..] else { return None };
        let across = int(node, "transB").unwrap_or(0) == 1;
        let (outputs, inputs) = if across { (rows, columns) } else { (columns, rows) };
        let plain = int(node, "transA").unwrap_or(0) == 0
            && float(node, "alpha").unwrap_or(1.0) == 1.0
            && float(node, "beta").unwrap_or(1.0) == 1.0;
        (act.flat && plain && outputs > 0 && inputs == act.extent.channels).then_some(())?;
        let bias = self.bias(node, outputs)?;
        let mut constant = self.take(node, 1)?;
        if !across {
            constant = transposed(constant)?;
        }
        let kind = Kind::Conv { weights: weights(constant)?, bias, window: Window::POINT, depthwise: false };
        let made = self.push(kind, vec![act.operation], Extent { size: [1, 1], channels: outputs })?;
        Some(Act { flat: true, ..made })
    }

    /// Folds a batch normalisation into the convolution before it.
    fn batch_norm(&mut self, node: &NodeProto) -> Option<Act> {
        let name = node.input.first()?;
        let act = self.bare(name)?;
        let read = |index: usize| self.constant(node, index)?.floats().map(|f| f.into_owned());
        let (scale, shift, mean, variance) = (read(1)?, read(2)?, read(3)?, read(4)?);
        let channels = act.extent.channels;
        ([&scale, &shift, &mean, &variance].iter().all(|v| v.len() == channels)).then_some(())?;
        let epsilon = float(node, "epsilon").unwrap_or(1e-5);
        let free = act.alone && self.reads.get(name.as_str()) == Some(&1);
        let operation = &mut self.plan.operations[act.operation];
        let Kind::Conv { weights: Weights::Floats(w), bias: Bias::Floats(b), .. } = &mut operation.kind else {
            return None;
        };
        (free && operation.closing.is_empty() && operation.added.is_none()).then_some(())?;
        let per = w.len() / channels;
        for c in 0..channels {
            let factor = scale[c] / (variance[c] + epsilon).sqrt();
            w[c * per..(c + 1) * per].iter_mut().for_each(|w| *w *= factor);
            b[c] = (b[c] - mean[c]) * factor + shift[c];
        }
        Some(act)
    }

    /// Keeps zeros around an activation for the convolution that reads it.
    fn pad(&mut self, node: &NodeProto) -> Option<Act> {
        let name = node.input.first()?;
        let act = self.bare(name)?;
        let constant_mode = node.attribute.iter().find(|a| a.name == "mode").is_none_or(|a| a.s == b"constant");
        let value = match self.optional(node, 2)? {
            Some(value) => value.float()?,
            None => float(node, "value").unwrap_or(0.0),
        };
        let pads = match self.optional(node, 1)? {
            Some(pads) => pads.steps()?,
            None => ints(node, "pads")?.to_vec(),
        };
        let &[0, 0, top, left, 0, 0, bottom, right] = &pads[..] else { return None };
        let size = |v: i64| usize::try_from(v).ok().filter(|v| *v <= MAX_PAD);
        let pad = [[size(top)?, size(left)?], [size(bottom)?, size(right)?]];
        let sound = !act.flat && constant_mode && value == 0.0 && node.input.len() < 4;
        sound.then_some(Act { pad, alone: false, ..act })
    }

    fn add(&mut self, node: &NodeProto) -> Option<Act> {
        let [a, b] = &node.input[..] else { return None };
        for (name, index) in [(a, 1), (b, 0)] {
            if self.constant(node, index).is_some() {
                return self.add_constant(name, node, index);
            }
        }
        let (first, second) = (self.bare(a)?, self.bare(b)?);
        (first.extent == second.extent && first.flat == second.flat).then_some(())?;
        // The later of the two may add the earlier one as it closes.
        for (name, own, other) in [(a, first, second), (b, second, first)] {
            let free = own.alone && self.reads.get(name.as_str()) == Some(&1) && other.operation < own.operation;
            let operation = &mut self.plan.operations[own.operation];
            // What was rounded to steps before is rounded by the kernel too; other functions are not.
            let open = operation.closing.iter().all(|f| f.steps().is_some()) && operation.closing.len() <= 1;
            if let (true, true, None, Kind::Conv { depthwise: false, .. }) =
                (free, open, operation.added, &operation.kind)
            {
                operation.added = Some((other.operation, operation.closing.len()));
                return Some(own);
            }
        }
        let made = self.push(Kind::Add, vec![first.operation, second.operation], first.extent)?;
        Some(Act { flat: first.flat, ..made })
    }

    /// Adds a constant for each channel to the bias of what came before.
    fn add_constant(&mut self, name: &str, node: &NodeProto, index: usize) -> Option<Act> {
        let act = self.bare(name)?;
        let constant = self.constant(node, index)?;
        let values = constant.floats()?.into_owned();
        let channels = act.extent.channels;
        let across: &[usize] = if act.flat { &[channels] } else { &[channels, 1, 1] };
        let free = act.alone && self.reads.get(name) == Some(&1);
        (free && values.len() == channels && constant.dims.ends_with(across)).then_some(())?;
        let operation = &mut self.plan.operations[act.operation];
        let Kind::Conv { bias, .. } = &mut operation.kind else { return None };
        (operation.closing.is_empty() && operation.added.is_none()).then_some(())?;
        *bias = Bias::Floats(bias.floats().iter().zip(&values).map(|(b, v)| b + v).collect());
        Some(act)
    }

    fn mul(&mut self, node: &NodeProto) -> Option<Act> {
        let [a, b] = &node.input[..] else { return None };
        let (first, second) = (self.bare(a)?, self.bare(b)?);
        (first.extent.channels == second.extent.channels && first.flat == second.flat).then_some(())?;
        let pairs = [(a, first, b, second), (b, second, a, first)];
        // A number times a function of itself is a function of it.
        for (name, x, gate_name, gate) in pairs {
            let last = self.plan.operations.len() - 1;
            let operation = &self.plan.operations[gate.operation];
            let of_x = matches!(operation.kind, Kind::Copy) && operation.inputs == [x.operation];
            let once = gate.alone && self.reads.get(gate_name.as_str()) == Some(&1);
            if of_x && once && gate.operation == last && operation.added.is_none() {
                let Operation { closing, .. } = self.plan.operations.pop()?;
                let f = Function::Gated(closing);
                // Both readers of `x` are this product.
                let free = x.alone && self.reads.get(name.as_str()) == Some(&2);
                return match free {
                    true => {
                        self.plan.operations[x.operation].close(f);
                        Some(x)
                    }
                    false => self.copy(x, f),
                };
            }
        }
        for (_, x, _, gate) in pairs {
            if gate.extent.size == [1, 1] {
                let made = self.push(Kind::Scale, vec![x.operation, gate.operation], x.extent)?;
                return Some(Act { flat: x.flat, ..made });
            }
        }
        None
    }

    fn pool(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.bare(node.input.first()?)?;
        let Extent { size: input, channels } = act.extent;
        (!act.flat && int(node, "ceil_mode").unwrap_or(0) == 0).then_some(())?;
        let whole = Window { kernel: input, ..Window::POINT };
        let mut flat = false;
        let (kind, window) = match node.op_type.as_str() {
            "GlobalAveragePool" => (Pool::Mean, whole),
            "ReduceMean" => {
                let axes = match self.optional(node, 1)? {
                    Some(axes) => axes.steps()?,
                    None => ints(node, "axes")?.to_vec(),
                };
                let mut axes: Vec<i64> = axes.iter().map(|a| a.rem_euclid(4)).collect();
                axes.sort_unstable();
                (axes == [2, 3]).then_some(())?;
                flat = int(node, "keepdims").unwrap_or(1) == 0;
                (Pool::Mean, whole)
            }
            name => {
                let &[kh, kw] = ints(node, "kernel_shape")? else { return None };
                let window = window(node, [usize::try_from(kh).ok()?, usize::try_from(kw).ok()?], input)?;
                let kind = match (name, int(node, "count_include_pad").unwrap_or(0)) {
                    ("MaxPool", _) => Pool::Max,
                    (_, 0) => Pool::Mean,
                    _ => Pool::MeanWithPadding,
                };
                (kind, window)
            }
        };
        let size = window.output(input)?;
        let made = self.push(Kind::Pool(kind, window), vec![act.operation], Extent { size, channels })?;
        Some(Act { flat, ..made })
    }

    fn softmax(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.bare(node.input.first()?)?;
        let over_channels = matches!(int(node, "axis").unwrap_or(-1), -1 | 1);
        (act.flat && over_channels).then_some(())?;
        let made = self.push(Kind::Softmax, vec![act.operation], act.extent)?;
        Some(Act { flat: true, ..made })
    }

    /// A change of shape from `[1, c, 1, 1]` or `[1, c]` to `[1, c]`.
    fn flatten(&mut self, node: &NodeProto) -> Option<Act> {
        let Value::Act(act) = self.alias(node.input.first()?)? else { return None };
        let channels = i64::try_from(act.extent.channels).ok()?;
        let sound = match node.op_type.as_str() {
            "Flatten" => int(node, "axis").unwrap_or(1) == 1,
            "Reshape" => {
                let shape = self.constant(node, 1)?.steps()?;
                matches!(shape[..], [1 | 0 | -1, c] if c == channels) || matches!(shape[..], [1 | 0, -1])
            }
            _ => {
                let axes = match self.optional(node, 1)? {
                    Some(axes) => axes.steps()?,
                    None => ints(node, "axes")?.to_vec(),
                };
                let mut axes: Vec<i64> = axes.iter().map(|a| a.rem_euclid(4)).collect();
                axes.sort_unstable();
                !act.flat && axes == [2, 3]
            }
        };
        let bare = act.pad == [[0; 2]; 2];
        (sound && bare && act.extent.size == [1, 1]).then_some(Act { flat: true, ..act })
    }

    fn clip(&self, node: &NodeProto) -> Option<Activation> {
        let bound = |index: usize, name: &str, open: f32| match self.optional(node, index)? {
            Some(bound) => bound.float(),
            None => Some(float(node, name).unwrap_or(open)),
        };
        let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        (low <= high).then_some(Activation::Clamp { low, high })
    }

    /// Applies a function to a value: in the operation that makes it, or else in one of its own.
    fn close(&mut self, name: &str, f: Activation) -> Option<Act> {
        let act = self.bare(name)?;
        if act.alone && self.reads.get(name) == Some(&1) {
            self.plan.operations[act.operation].close(Function::Plain(f));
            return Some(act);
        }
        self.copy(act, Function::Plain(f))
    }

    fn copy(&mut self, act: Act, f: Function) -> Option<Act> {
        let made = self.push(Kind::Copy, vec![act.operation], act.extent)?;
        self.plan.operations[made.operation].close(f);
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

    fn dequantize(&mut self, node: &NodeProto) -> Option<Value> {
        if self.constant(node, 0).is_some() {
            let axis = usize::try_from(int(node, "axis").unwrap_or(1)).ok()?;
            let constant = self.take(node, 0)?;
            let zero = self.optional(node, 2)?;
            return Some(Value::Constant(constant.dequantized(self.constant(node, 1)?, zero, axis)?));
        }
        let Value::Act(act) = self.alias(node.input.first()?)? else { return None };
        let z = match self.optional(node, 2)? {
            Some(z) => match z.steps()?[..] {
                [z] => z,
                _ => return None,
            },
            None => 0,
        };
        (act.steps? == (self.constant(node, 1)?.float()?, z)).then_some(Value::Act(Act { steps: None, ..act }))
    }
}

/// Turns a constant into weights, as steps if they are s8 of one scale an output.
fn weights(constant: Constant) -> Option<Weights> {
    if let (Numbers::I8(_), Some(s)) = (&constant.numbers, &constant.scaling) {
        let outputs = constant.dims.first().copied()?;
        let each = s.scales.len() == 1 || (s.axis == 0 && s.scales.len() == outputs);
        let sound = s.zeros.iter().all(|z| *z == 0) && s.scales.iter().all(|s| s.is_finite() && *s > 0.0);
        if each && sound {
            let scales = if s.scales.len() == 1 { vec![s.scales[0]; outputs] } else { s.scales.clone() };
            if let Numbers::I8(v) = constant.numbers {
                return Some(Weights::Steps(v, scales));
            }
        }
    }
    match constant {
        Constant { numbers: Numbers::F32(v), scaling: None, .. } => Some(Weights::Floats(v)),
        scaled => Some(Weights::Floats(scaled.floats()?.into_owned())),
    }
}

/// Swaps the two axes of a constant.
fn transposed(constant: Constant) -> Option<Constant> {
    let &[rows, columns] = &constant.dims[..] else { return None };
    fn swapped<T: Copy>(v: &[T], rows: usize, columns: usize) -> Vec<T> {
        (0..v.len()).map(|i| v[i % rows * columns + i / rows]).collect()
    }
    let numbers = match &constant.numbers {
        Numbers::F32(v) => Numbers::F32(swapped(v, rows, columns)),
        Numbers::U8(v) => Numbers::U8(swapped(v, rows, columns)),
        Numbers::I8(v) => Numbers::I8(swapped(v, rows, columns)),
        Numbers::I32(_) | Numbers::I64(_) => return None,
    };
    let scaling = constant.scaling.map(|s| crate::constant::Scaling { axis: 1 - s.axis.min(1), ..s });
    Some(Constant { dims: vec![columns, rows], numbers, scaling })
}

fn constant(node: &NodeProto) -> Option<Constant> {
    let [attribute] = &node.attribute[..] else { return None };
    match attribute.name.as_str() {
        "value" => Constant::read(attribute.t.clone()?),
        "value_float" => Some(Constant { dims: vec![], numbers: Numbers::F32(vec![attribute.f]), scaling: None }),
        "value_int" => Some(Constant { dims: vec![], numbers: Numbers::I64(vec![attribute.i]), scaling: None }),
        "value_ints" => {
            let numbers = Numbers::I64(attribute.ints.clone());
            Some(Constant { dims: vec![attribute.ints.len()], numbers, scaling: None })
        }
        _ => None,
    }
}

/// Reads the attributes of a convolution or pool over two axes.
fn window(node: &NodeProto, kernel: [usize; 2], input: [usize; 2]) -> Option<Window> {
    let declared = ints(node, "kernel_shape").is_none_or(|k| k.iter().map(|v| usize::try_from(*v)).eq(kernel.map(Ok)));
    (declared && kernel.iter().all(|k| *k > 0)).then_some(())?;
    let read = |name: &str, or: i64, len: usize| -> Option<Vec<usize>> {
        let Some(values) = ints(node, name) else {
            return usize::try_from(or).ok().map(|v| vec![v; len]);
        };
        (values.len() == len).then_some(())?;
        values.iter().map(|v| usize::try_from(*v).ok()).collect()
    };
    let (stride, dilation, pads) = (read("strides", 1, 2)?, read("dilations", 1, 2)?, read("pads", 0, 4)?);
    stride.iter().chain(&dilation).all(|v| *v > 0).then_some(())?;
    let mut window = Window {
        kernel,
        stride: [stride[0], stride[1]],
        dilation: [dilation[0], dilation[1]],
        before: [pads[0], pads[1]],
        after: [pads[2], pads[3]],
    };
    let auto = node.attribute.iter().find(|a| a.name == "auto_pad").map_or(&b"NOTSET"[..], |a| &a.s);
    match auto {
        b"NOTSET" | b"" => {}
        b"VALID" => (window.before, window.after) = ([0; 2], [0; 2]),
        b"SAME_UPPER" | b"SAME_LOWER" => {
            for a in 0..2 {
                let reach = (kernel[a] - 1).checked_mul(dilation[a])?.checked_add(1)?;
                let last = (input[a].div_ceil(stride[a]).checked_sub(1)?).checked_mul(stride[a])?;
                let total = last.checked_add(reach)?.saturating_sub(input[a]);
                let (less, more) = (total / 2, total - total / 2);
                (window.before[a], window.after[a]) = if auto == b"SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        _ => return None,
    }
    Some(window)
}

fn or(values: Option<Vec<f32>>, value: f32, len: usize) -> Vec<f32> {
    values.unwrap_or_else(|| vec![value; len])
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

/// Most numbers in one activation: a gigabyte.
const MAX_ACTIVATION: usize = 1 << 28;
/// Widest border of a Pad, in pixels.
const MAX_PAD: usize = 4096;

#[cfg(test)]
mod tests;
