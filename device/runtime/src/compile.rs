//! Recognises a whole graph and turns it into a [`Plan`].
//!
//! Follows the nodes in order and keeps for every name what it stands for. A node that only closes its input (an
//! activation, a QDQ pair, the sum of a residual block) is fused into the operation that made the input, where nobody
//! else reads that. A graph with one node that is not recognised is left to tract whole.

mod arithmetic;
mod attributes;
mod picture;
mod window;

use std::collections::BTreeMap;

use graft_kernels::pool::Pool;
use graft_kernels::{Activation, Window};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};

use self::attributes::{float, int, ints};
use self::picture::Picture;
use self::window::{widened, window};
use crate::constant::{Constant, Numbers};
use crate::graph;
use crate::input::Input;
use crate::plan::{Arithmetic, Bias, Extent, Function, Kind, Operation, Plan, Weights};

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
        let act = compiler.bare(&output.name).ok_or("an output that is not of floats")?;
        compiler.plan.outputs.push(act.operation);
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
    /// `[1, c * h * w]` rather than `[1, c, h, w]`.
    flat: bool,
    /// The scale and zero point if the name stands for the integers; the numbers are their floats all the same.
    steps: Option<(f32, i64)>,
    /// Zeros around it that a Pad asks for: before and after, each height and width.
    pad: [[usize; 2]; 2],
}

impl Act {
    fn is_pixel(&self) -> bool {
        self.extent.size == [1, 1]
    }

    /// Returns how many numbers it has, those of a border left out.
    fn len(&self) -> usize {
        self.extent.size[0] * self.extent.size[1] * self.extent.channels
    }
}

impl<'a> Compiler<'a> {
    /// Takes one node in; none if it is not recognised.
    fn node(&mut self, node: &'a NodeProto) -> Option<()> {
        // Of several outputs, those that nobody reads may be left out.
        let mut read = node.output.iter().filter(|o| self.reads.contains_key(o.as_str()));
        let (output, None, "" | "ai.onnx") =
            (node.output.first()?, read.find(|o| *o != &node.output[0]), node.domain.as_str())
        else {
            return None;
        };
        let input = node.input.first().map_or("", String::as_str);
        let value = match node.op_type.as_str() {
            "Constant" => Value::Constant(constant(node)?),
            "Transpose" | "Cast" => match self.values.get(input)? {
                Value::Picture(picture) => Value::Picture(picture.clone().seen_by(node)?),
                Value::Constant(halves) if node.op_type == "Cast" && int(node, "to")? == DataType::Float as i64 => {
                    Value::Constant(halves.clone().widened()?)
                }
                _ => return None,
            },
            "Add" => self.arithmetic(node, Arithmetic::Add)?,
            "Sub" => self.arithmetic(node, Arithmetic::Sub)?,
            "Mul" => self.arithmetic(node, Arithmetic::Mul)?,
            "Div" => self.arithmetic(node, Arithmetic::Div)?,
            "Conv" => Value::Act(self.conv(node)?),
            "Gemm" | "MatMul" => Value::Act(self.product(node)?),
            "BatchNormalization" => Value::Act(self.batch_norm(node)?),
            "Pad" => Value::Act(self.pad(node)?),
            "MaxPool" | "AveragePool" | "GlobalMaxPool" | "GlobalAveragePool" | "ReduceMean" => {
                Value::Act(self.pool(node)?)
            }
            "Relu" | "Clip" | "HardSwish" | "Sigmoid" | "HardSigmoid" => {
                Value::Act(self.close(input, Function::Plain(self.activation(node)?))?)
            }
            "Softmax" => Value::Act(self.softmax(node)?),
            "Identity" => self.alias(input)?,
            // A third input may ask for training.
            "Dropout" if node.input.get(2).is_none_or(String::is_empty) => self.alias(input)?,
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => Value::Act(self.reshape(node)?),
            "QuantizeLinear" => self.quantize(node)?,
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

    /// Returns an activation of floats, zeros around it perhaps; a picture is made into one where it is first read as such.
    fn float(&mut self, name: &str) -> Option<Act> {
        let p = match self.values.get(name)? {
            Value::Act(act) => return act.steps.is_none().then_some(*act),
            Value::Constant(_) => return None,
            Value::Picture(p) => p.clone(),
        };
        let act = self.push(p.kind()?, vec![], p.extent)?;
        let operation = &mut self.plan.operations[act.operation];
        operation.name = name.to_owned();
        p.rounding.into_iter().for_each(|f| operation.close(Function::Plain(f)));
        self.values.insert(name.to_owned(), Value::Act(act));
        Some(act)
    }

    /// Returns an activation of floats; zeros around it are made part of it where it is first read as such.
    fn bare(&mut self, name: &str) -> Option<Act> {
        let act = self.float(name)?;
        let [before, after] = act.pad;
        if act.pad == [[0; 2]; 2] {
            return Some(act);
        }
        // The convolution that changes nothing has a border as any has.
        let channels = act.extent.channels;
        let window = Window { before, after, ..Window::POINT };
        let (weights, bias) =
            (Weights::Steps(vec![1; channels], vec![1.0; channels]), Bias::Floats(vec![0.0; channels]));
        let kind = Kind::Conv { weights, bias, window, depthwise: true };
        let size = window.output(act.extent.size)?;
        let steps = self.plan.operations[act.operation].closing.last().filter(|f| f.steps().is_some()).cloned();
        let made = self.push(kind, vec![act.operation], Extent { size, channels })?;
        let operation = &mut self.plan.operations[made.operation];
        operation.name = name.to_owned();
        // Steps stay steps of the same scale.
        steps.into_iter().for_each(|f| operation.close(f));
        self.values.insert(name.to_owned(), Value::Act(made));
        Some(made)
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
        let padded = [0, 1].map(|axis| input[axis] + act.pad[0][axis] + act.pad[1][axis]);
        let mut window = window(node, [kh, kw], padded)?;
        for axis in 0..2 {
            window.before[axis] += act.pad[0][axis];
            window.after[axis] += act.pad[1][axis];
        }
        let size = window.output(input)?;
        (!act.flat && outputs > 0 && per_group.checked_mul(groups)? == channels).then_some(())?;
        let depthwise = groups > 1 && groups == channels && groups == outputs;
        let bias = self.bias(node, outputs)?;
        let mut weights = weights(self.take(node, 1)?)?;
        if groups > 1 && !depthwise {
            let len = outputs.checked_mul(channels)?.checked_mul(kh.checked_mul(kw)?)?;
            (outputs.is_multiple_of(groups) && len <= MAX_DENSE).then_some(())?;
            weights = weights.dense(groups, outputs);
        }
        let kind = Kind::Conv { weights, bias, window, depthwise };
        self.push(kind, vec![act.operation], Extent { size, channels: outputs })
    }

    /// A Gemm, or a MatMul by a constant.
    fn product(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.bare(node.input.first()?)?;
        let &[rows, columns] = &self.constant(node, 1)?.dims[..] else { return None };
        let across = int(node, "transB").unwrap_or(0) == 1;
        let (outputs, inputs) = if across { (rows, columns) } else { (columns, rows) };
        let (alpha, beta) = (float(node, "alpha").unwrap_or(1.0), float(node, "beta").unwrap_or(1.0));
        let sound = act.flat && int(node, "transA").unwrap_or(0) == 0 && outputs > 0 && inputs == act.len();
        sound.then_some(())?;
        let mut bias = self.bias(node, outputs)?;
        let mut constant = self.take(node, 1)?;
        if !across {
            constant = transposed(constant)?;
        }
        let mut weights = weights(constant)?;
        if alpha != 1.0 {
            weights = Weights::Floats(weights.floats().iter().map(|w| w * alpha).collect());
        }
        if beta != 1.0 {
            bias = Bias::Floats(bias.floats().iter().map(|b| b * beta).collect());
        }
        // A map that was flattened is `[c, h, w]` in memory, as are the weights of a window of its size.
        let window = Window { kernel: act.extent.size, ..Window::POINT };
        let kind = Kind::Conv { weights, bias, window, depthwise: false };
        let made = self.push(kind, vec![act.operation], Extent { size: [1, 1], channels: outputs })?;
        Some(Act { flat: true, ..made })
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
        let alone = act.alone && self.reads.get(name.as_str()) == Some(&1);
        sound.then_some(Act { pad, alone, ..act })
    }

    fn pool(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.bare(node.input.first()?)?;
        let Extent { size: input, channels } = act.extent;
        (!act.flat).then_some(())?;
        let whole = Window { kernel: input, ..Window::POINT };
        let mut flat = false;
        let (kind, window) = match node.op_type.as_str() {
            "GlobalAveragePool" => (Pool::Mean, whole),
            "GlobalMaxPool" => (Pool::Max, whole),
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
                let wide = widened(node, window, input)?;
                // What a window has beyond the border is not counted even where the border is.
                (kind != Pool::MeanWithPadding || wide == window).then_some(())?;
                (kind, wide)
            }
        };
        let size = window.output(input)?;
        let made = self.push(Kind::Pool(kind, window), vec![act.operation], Extent { size, channels })?;
        Some(Act { flat, ..made })
    }

    fn softmax(&mut self, node: &NodeProto) -> Option<Act> {
        let act = self.bare(node.input.first()?)?;
        let over_channels = matches!(int(node, "axis").unwrap_or(-1), -1 | 1);
        (act.flat && act.is_pixel() && over_channels).then_some(())?;
        let made = self.push(Kind::Softmax, vec![act.operation], act.extent)?;
        Some(Act { flat: true, ..made })
    }

    /// A change of shape from `[1, c, h, w]` to `[1, c * h * w]`, or between `[1, c]` and `[1, c, 1, 1]`.
    fn reshape(&mut self, node: &NodeProto) -> Option<Act> {
        self.bare(node.input.first()?)?;
        let Value::Act(act) = self.alias(node.input.first()?)? else { return None };
        let (len, channels) = (i64::try_from(act.len()).ok()?, i64::try_from(act.extent.channels).ok()?);
        let rank = if act.flat { 2 } else { 4 };
        let axes = || {
            let axes = match self.optional(node, 1)? {
                Some(axes) => axes.steps()?,
                None => ints(node, "axes")?.to_vec(),
            };
            let mut axes: Vec<i64> = axes.iter().map(|a| a.rem_euclid(4)).collect();
            axes.sort_unstable();
            Some(axes == [2, 3] && act.is_pixel())
        };
        let flat = match node.op_type.as_str() {
            "Flatten" => [1, 1 - rank].contains(&int(node, "axis").unwrap_or(1)).then_some(true)?,
            "Reshape" => {
                let shape = self.constant(node, 1)?.steps()?;
                let copies = int(node, "allowzero").unwrap_or(0) == 0;
                let one = shape.first().is_some_and(|s| matches!(s, 1 | -1) || (*s == 0 && copies));
                let all = shape.iter().filter(|s| **s == -1).count() < 2;
                match shape[..] {
                    [_, n] if one && all && (n == len || n == -1) => true,
                    [_, n, 1, 1] if one && all && act.is_pixel() && (n == channels || n == -1) => false,
                    _ => return None,
                }
            }
            "Squeeze" => (!act.flat && axes()?).then_some(true)?,
            _ => !(act.flat && axes()?).then_some(true)?,
        };
        Some(Act { flat, ..act })
    }

    fn activation(&self, node: &NodeProto) -> Option<Activation> {
        Some(match node.op_type.as_str() {
            "Relu" => Activation::RELU,
            "Clip" => self.clip(node)?,
            "HardSwish" => Activation::HardSwish,
            "Sigmoid" => Activation::Sigmoid,
            "HardSigmoid" => Activation::HardSigmoid {
                slope: float(node, "alpha").unwrap_or(0.2),
                offset: float(node, "beta").unwrap_or(0.5),
            },
            _ => return None,
        })
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
    fn close(&mut self, name: &str, f: Function) -> Option<Act> {
        // Zeros around it may stay to be made where the function leaves zeros alone.
        let act = if f.at(0.0) == 0.0 { self.float(name)? } else { self.bare(name)? };
        if act.alone && self.reads.get(name) == Some(&1) {
            self.plan.operations[act.operation].close(f);
            return Some(act);
        }
        self.copy(act, f)
    }

    fn copy(&mut self, act: Act, f: Function) -> Option<Act> {
        let made = self.push(Kind::Copy, vec![act.operation], act.extent)?;
        self.plan.operations[made.operation].close(f);
        Some(Act { flat: act.flat, pad: act.pad, ..made })
    }

    /// Rounds to the steps of a scale at once; the name then stands for integers.
    fn quantize(&mut self, node: &NodeProto) -> Option<Value> {
        let scale = self.constant(node, 1)?.float()?;
        let (zero, low, high) = match self.optional(node, 2)? {
            Some(zero) => match (&zero.numbers, &zero.steps()?[..]) {
                (Numbers::U8(_), &[z]) => (z, 0, 255),
                (Numbers::I8(_), &[z]) => (z, -128, 127),
                _ => return None,
            },
            None if int(node, "output_dtype").unwrap_or(0) == 0 => (0, 0, 255),
            None => return None,
        };
        (scale.is_finite() && scale > 0.0).then_some(())?;
        let f = Activation::Quantized { scale, low: (low - zero) as f32, high: (high - zero) as f32 };
        let steps = Some((scale, zero));
        let name = node.input.first()?;
        match self.values.get(name)? {
            // In front of the Transpose.
            Value::Picture(p) if p.kind().is_none() => Some(Value::Picture(p.clone().quantized(f, steps)?)),
            _ => Some(Value::Act(Act { steps, ..self.close(name, Function::Plain(f))? })),
        }
    }

    fn dequantize(&mut self, node: &NodeProto) -> Option<Value> {
        // Scales of blocks along an axis are others than these.
        (int(node, "block_size").unwrap_or(0) == 0 && self.constant(node, 1)?.dims.len() < 2).then_some(())?;
        if self.constant(node, 0).is_some() {
            let axis = usize::try_from(int(node, "axis").unwrap_or(1)).ok()?;
            let constant = self.take(node, 0)?;
            let zero = self.optional(node, 2)?;
            return Some(Value::Constant(constant.dequantized(self.constant(node, 1)?, zero, axis)?));
        }
        let z = match self.optional(node, 2)? {
            Some(z) => match z.steps()?[..] {
                [z] => z,
                _ => return None,
            },
            None => 0,
        };
        let given = Some((self.constant(node, 1)?.float()?, z));
        match self.alias(node.input.first()?)? {
            Value::Act(act) => (act.steps == given).then_some(Value::Act(Act { steps: None, ..act })),
            Value::Picture(p) => Some(Value::Picture(p.dequantized(given)?)),
            Value::Constant(_) => None,
        }
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
        Numbers::I32(_) | Numbers::F16(_) | Numbers::I64(_) => return None,
    };
    let scaling = constant.scaling.map(|s| crate::constant::Scaling { axis: 1 - s.axis.min(1), ..s });
    Some(Constant { dims: vec![columns, rows], numbers, scaling })
}

fn constant(node: &NodeProto) -> Option<Constant> {
    let [attribute] = &node.attribute[..] else { return None };
    match attribute.name.as_str() {
        "value" => Constant::read(attribute.t.clone()?),
        "value_floats" => {
            let numbers = Numbers::F32(attribute.floats.clone());
            Some(Constant { dims: vec![attribute.floats.len()], numbers, scaling: None })
        }
        "value_float" => Some(Constant { dims: vec![], numbers: Numbers::F32(vec![attribute.f]), scaling: None }),
        "value_int" => Some(Constant { dims: vec![], numbers: Numbers::I64(vec![attribute.i]), scaling: None }),
        "value_ints" => {
            let numbers = Numbers::I64(attribute.ints.clone());
            Some(Constant { dims: vec![attribute.ints.len()], numbers, scaling: None })
        }
        _ => None,
    }
}

/// Most numbers in one activation: a gigabyte.
pub(crate) const MAX_ACTIVATION: usize = 1 << 28;
/// Widest border of a Pad, in pixels.
const MAX_PAD: usize = 4096;
/// Most weights of a convolution of groups when it is made dense with zeros; tract is faster beyond.
const MAX_DENSE: usize = 1 << 16;

#[cfg(test)]
mod tests;
