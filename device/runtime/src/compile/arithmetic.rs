//! Sums, differences, products and quotients: of two activations, or of one and a constant.

use graft_kernels::Window;
use tract_onnx::pb::NodeProto;

use super::attributes::{float, int};
use super::{Act, Compiler, Value};
use crate::plan::{Arithmetic, Bias, Function, Kind, Operation, Weights};

/// `x * factor + term` with one of each for all channels or one a channel.
struct Affine {
    factors: Vec<f32>,
    terms: Vec<f32>,
}

impl<'a> Compiler<'a> {
    pub(super) fn arithmetic(&mut self, node: &'a NodeProto, operation: Arithmetic) -> Option<Value> {
        let [a, b] = &node.input[..] else { return None };
        let commutes = matches!(operation, Arithmetic::Add | Arithmetic::Mul);
        let (name, index) = match (self.constant(node, 0), self.constant(node, 1)) {
            (None, Some(_)) => (a, 1),
            (Some(_), None) if commutes => (b, 0),
            (None, None) => {
                return Some(Value::Act(match operation {
                    Arithmetic::Add => self.add(node)?,
                    Arithmetic::Mul => self.mul(node)?,
                    _ => return None,
                }));
            }
            _ => return None,
        };
        if let Value::Picture(picture) = self.values.get(name)? {
            return Some(Value::Picture(picture.clone().adjusted(operation, self.constant(node, index)?)?));
        }
        let act = self.bare(name)?;
        let constant = self.constant(node, index)?;
        let values = constant.floats()?;
        let channels = act.extent.channels;
        let (rank, across): (_, &[usize]) = if act.flat { (2, &[channels]) } else { (4, &[channels, 1, 1]) };
        let each = values.len() == channels && constant.dims.ends_with(across) && (!act.flat || act.is_pixel());
        (constant.dims.len() <= rank && (values.len() == 1 || each)).then_some(())?;
        let ones = || vec![1.0; values.len()];
        let (factors, terms) = match operation {
            Arithmetic::Add => (ones(), values.to_vec()),
            Arithmetic::Sub => (ones(), values.iter().map(|v| -v).collect()),
            Arithmetic::Mul => (values.to_vec(), vec![0.0; values.len()]),
            Arithmetic::Div => (values.iter().map(|v| v.recip()).collect(), vec![0.0; values.len()]),
        };
        Some(Value::Act(self.affine(name, act, Affine { factors, terms })?))
    }

    /// A batch normalisation is a factor and a term for each channel.
    pub(super) fn batch_norm(&mut self, node: &NodeProto) -> Option<Act> {
        let name = node.input.first()?;
        let act = self.bare(name)?;
        let read = |index: usize| self.constant(node, index)?.floats().map(|f| f.into_owned());
        let (scale, shift, mean, variance) = (read(1)?, read(2)?, read(3)?, read(4)?);
        let channels = act.extent.channels;
        let sound = [&scale, &shift, &mean, &variance].iter().all(|v| v.len() == channels);
        let infers = int(node, "training_mode").unwrap_or(0) == 0 && int(node, "spatial").unwrap_or(1) == 1;
        (sound && infers && (!act.flat || act.is_pixel())).then_some(())?;
        let epsilon = float(node, "epsilon").unwrap_or(1e-5);
        let factors: Vec<f32> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let terms = shift.iter().zip(&mean).zip(&factors).map(|((s, m), f)| s - m * f).collect();
        self.affine(name, act, Affine { factors, terms })
    }

    /// Folds factors and terms into the convolution before them, else has a function or a convolution of its own do it.
    fn affine(&mut self, name: &str, act: Act, by: Affine) -> Option<Act> {
        let channels = act.extent.channels;
        let free = act.alone && self.reads.get(name) == Some(&1);
        let Affine { factors, terms } = &by;
        let of = |values: &[f32], c: usize| values[c % values.len()];
        let Operation { kind, closing, added, .. } = &mut self.plan.operations[act.operation];
        if let (true, Kind::Conv { weights, bias, .. }) = (free && closing.is_empty() && added.is_none(), kind)
            && (matches!(weights, Weights::Floats(_)) || factors.iter().all(|f| *f == 1.0))
        {
            if let Weights::Floats(w) = weights {
                let per = w.len() / channels;
                w.chunks_mut(per).enumerate().for_each(|(c, w)| w.iter_mut().for_each(|w| *w *= of(factors, c)));
            }
            let folded = |(c, b): (usize, &f32)| b * of(factors, c) + of(terms, c);
            *bias = Bias::Floats(bias.floats().iter().enumerate().map(folded).collect());
            return Some(act);
        }
        if let (&[factor], &[term]) = (&factors[..], &terms[..]) {
            return self.close(name, Function::Affine { factor, term });
        }
        let (weights, bias) = (Weights::Floats(by.factors), Bias::Floats(by.terms));
        let kind = Kind::Conv { weights, bias, window: Window::POINT, depthwise: true };
        let made = self.push(kind, vec![act.operation], act.extent)?;
        Some(Act { flat: act.flat, ..made })
    }

    fn add(&mut self, node: &NodeProto) -> Option<Act> {
        let [a, b] = &node.input[..] else { return None };
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
            let kind = match (gate.is_pixel(), x.extent == gate.extent) {
                (true, _) if !x.flat || x.is_pixel() => Kind::Scale,
                (false, true) => Kind::Product,
                _ => continue,
            };
            let made = self.push(kind, vec![x.operation, gate.operation], x.extent)?;
            return Some(Act { flat: x.flat, ..made });
        }
        None
    }
}
