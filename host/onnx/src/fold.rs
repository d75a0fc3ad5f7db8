//! Folds batch normalisation into the convolution before it, and takes a fully connected layer as one of one pixel.

use graft_zoo::weights::Tensors;
use graft_zoo::{Conv, Tensor};

use crate::OnnxError;

/// A convolution with bias: `weight` `[out, in / groups, k, k]`, `bias` `[out]`.
pub(crate) struct Folded {
    pub(crate) weight: Tensor,
    pub(crate) bias: Vec<f32>,
}

/// Folds the running statistics into weight and bias, in f64.
pub(crate) fn fold(conv: &Conv, eps: f32, weights: &Tensors) -> Result<Folded, OnnxError> {
    let tensor = |name: String| weights.get(&name).ok_or(OnnxError::MissingTensor(name));
    let norm = |part: &str| tensor(format!("{}.{part}", conv.norm));
    let (gamma, beta, mean, var) = (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
    let mut weight = tensor(format!("{}.weight", conv.name))?.clone();
    let per_output = weight.data.len() / conv.outputs;
    let mut bias = Vec::with_capacity(conv.outputs);
    for c in 0..conv.outputs {
        let factor = f64::from(gamma.data[c]) / (f64::from(var.data[c]) + f64::from(eps)).sqrt();
        for w in &mut weight.data[c * per_output..(c + 1) * per_output] {
            *w = (f64::from(*w) * factor) as f32;
        }
        bias.push((f64::from(beta.data[c]) - f64::from(mean.data[c]) * factor) as f32);
    }
    Ok(Folded { weight, bias })
}

/// Returns a layer's weights as those of a 1×1 convolution, and its bias.
pub(crate) fn layer(name: &str, weights: &Tensors) -> Result<Folded, OnnxError> {
    let tensor = |name: String| weights.get(&name).cloned().ok_or(OnnxError::MissingTensor(name));
    let (mut weight, bias) = (tensor(format!("{name}.weight"))?, tensor(format!("{name}.bias"))?.data);
    weight.shape.resize(4, 1);
    Ok(Folded { weight, bias })
}
