//! Tensors by name, read from safetensors and checked against a network.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::architecture::Architecture;
use crate::names;
use crate::network::{Network, Parameter};

/// A dense f32 tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements; their number is the product of `shape`.
    pub data: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The parameters of one network, complete and of the right shapes, under torchvision names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    /// Parameters and running statistics of the backbone.
    pub backbone: Tensors,
    /// `(weight [classes, features], bias [classes])` of the classifier, where the file had one.
    pub head: Option<(Tensor, Tensor)>,
}

/// Why tensors were not taken as the weights of a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The bytes are not a safetensors file.
    #[error("expected a safetensors file, found one that cannot be read as such ({0})")]
    Format(String),
    /// A tensor has a number type that weights do not come in.
    #[error("expected tensor {name} as F32, F16 or BF16, found {found}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Names or shapes differ from the network's.
    #[error("these weights do not belong to {arch}: {}", describe(.missing, .unexpected, .misshapen))]
    Mismatch {
        /// The architecture asked for.
        arch: String,
        /// Names the network needs and the file lacks.
        missing: Vec<String>,
        /// Names the file has and the network does not.
        unexpected: Vec<String>,
        /// Names with the shape expected and the shape found.
        misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
    /// A value is NaN or infinite.
    #[error("tensor {0} holds a value that is not finite; the file is damaged or training diverged")]
    NotFinite(String),
}

fn describe(missing: &[String], unexpected: &[String], misshapen: &[(String, Vec<usize>, Vec<usize>)]) -> String {
    let list = |what: &str, names: Vec<String>| {
        let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
        (!names.is_empty()).then(|| format!("{} {what} ({shown}{more})", names.len()))
    };
    let shapes = misshapen.iter().map(|(n, want, got)| format!("{n}: expected {want:?}, found {got:?}")).collect();
    [list("missing", missing.to_vec()), list("unexpected", unexpected.to_vec()), list("wrongly shaped", shapes)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

/// Reads every floating-point tensor of a safetensors file, and its metadata.
///
/// Integer tensors (`num_batches_tracked`) are left out.
///
/// # Errors
///
/// [`WeightsError::Format`] or [`WeightsError::Dtype`].
pub fn read_safetensors(bytes: &[u8]) -> Result<(Tensors, BTreeMap<String, String>), WeightsError> {
    let format = |e: safetensors::SafeTensorError| WeightsError::Format(e.to_string());
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(bytes).map_err(format)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        if matches!(view.dtype(), Dtype::I64 | Dtype::I32) {
            continue;
        }
        let data = floats(&name, &view)?;
        tensors.insert(name, Tensor { shape: view.shape().to_vec(), data });
    }
    Ok((tensors, metadata))
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, WeightsError> {
    let bytes = view.data();
    let halves = |f: fn(u16) -> f32| bytes.chunks_exact(2).map(|b| f(u16::from_le_bytes([b[0], b[1]]))).collect();
    Ok(match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => halves(|b| half::f16::from_bits(b).to_f32()),
        Dtype::BF16 => halves(|b| half::bf16::from_bits(b).to_f32()),
        other => return Err(WeightsError::Dtype { name: name.to_owned(), found: format!("{other:?}") }),
    })
}

/// Writes tensors as safetensors, in f32 or rounded to f16.
pub fn write_safetensors(tensors: &Tensors, metadata: &BTreeMap<String, String>, precision: Precision) -> Vec<u8> {
    let (dtype, encode): (_, fn(f32) -> Vec<u8>) = match precision {
        Precision::F32 => (Dtype::F32, |v| v.to_le_bytes().to_vec()),
        Precision::F16 => (Dtype::F16, |v| half::f16::from_f32(v).to_le_bytes().to_vec()),
    };
    let encoded: Vec<(&String, &Tensor, Vec<u8>)> =
        tensors.iter().map(|(n, t)| (n, t, t.data.iter().flat_map(|&v| encode(v)).collect())).collect();
    let views = encoded.iter().map(|(n, t, b)| {
        (n.as_str(), TensorView::new(dtype, t.shape.clone(), b).expect("bytes were made for this shape"))
    });
    // The header's key order follows the map given; a BTreeMap of one entry at most keeps the bytes reproducible.
    let metadata = (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
    safetensors::serialize(views, metadata).expect("names are unique and shapes fit")
}

/// Number format of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes an element.
    F32,
    /// 2 bytes an element.
    F16,
}

impl Weights {
    /// Takes tensors as the weights of `arch`, under torchvision or timm names.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Mismatch`] with everything that is missing, unexpected or of another shape;
    /// [`WeightsError::NotFinite`].
    pub fn from_tensors(arch: Architecture, net: &Network, tensors: Tensors) -> Result<Self, WeightsError> {
        let strip = |name: String| name.strip_prefix("module.").map(str::to_owned).unwrap_or(name);
        let tensors = tensors.into_iter().map(|(n, t)| (strip(n), t)).collect();
        let mut tensors = names::to_torchvision(arch, net, tensors);
        tensors.retain(|n, _| !n.ends_with(".num_batches_tracked"));
        if let Some((name, _)) = tensors.iter().find(|(_, t)| t.data.iter().any(|v| !v.is_finite())) {
            return Err(WeightsError::NotFinite(name.clone()));
        }
        let head_name = arch.head_name();
        let weight = tensors.remove(&format!("{head_name}.weight"));
        let bias = tensors.remove(&format!("{head_name}.bias"));
        let (mut missing, mut misshapen) = (vec![], vec![]);
        let mut backbone = Tensors::new();
        for Parameter { name, shape, .. } in net.parameters() {
            match tensors.remove(&name) {
                None => missing.push(name),
                // timm has a product as a 1×1 convolution.
                Some(t) if t.shape.strip_suffix(&[1, 1]) == Some(&shape) => {
                    drop(backbone.insert(name, Tensor { shape, ..t }));
                }
                Some(t) if t.shape != shape => misshapen.push((name, shape, t.shape)),
                Some(t) => drop(backbone.insert(name, t)),
            }
        }
        let head = match (weight, bias) {
            (Some(w), Some(b)) if w.shape.len() == 2 && w.shape[1] == net.features && b.shape == [w.shape[0]] => {
                Some((w, b))
            }
            (Some(w), _) => {
                misshapen.push((format!("{head_name}.weight"), vec![0, net.features], w.shape));
                None
            }
            _ => None,
        };
        let unexpected: Vec<String> = tensors.into_keys().collect();
        if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
            Ok(Self { backbone, head })
        } else {
            Err(WeightsError::Mismatch { arch: arch.to_string(), missing, unexpected, misshapen })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Padding;

    fn tiny() -> (Architecture, Network, Tensors) {
        let arch = Architecture::MobileNetV2 { width: 0.35 };
        let net = arch.backbone(Padding::Symmetric, 1e-5);
        let tensors = net
            .parameters()
            .into_iter()
            .map(|p| (p.name, Tensor { data: vec![0.5; p.shape.iter().product()], shape: p.shape }))
            .collect();
        (arch, net, tensors)
    }

    #[test]
    fn safetensors_round_trip_in_both_precisions() {
        let (arch, net, tensors) = tiny();
        for precision in [Precision::F32, Precision::F16] {
            let bytes = write_safetensors(&tensors, &BTreeMap::new(), precision);
            let (read, _) = read_safetensors(&bytes).unwrap();
            assert_eq!(read, tensors);
            assert!(Weights::from_tensors(arch, &net, read).unwrap().head.is_none());
        }
    }

    #[test]
    fn a_mismatch_names_all_that_is_wrong() {
        let (arch, net, mut tensors) = tiny();
        tensors.remove("features.0.0.weight");
        tensors.insert("extra.weight".into(), Tensor { shape: vec![1], data: vec![1.0] });
        tensors.insert("features.0.1.bias".into(), Tensor { shape: vec![2], data: vec![1.0; 2] });
        let text = Weights::from_tensors(arch, &net, tensors).unwrap_err().to_string();
        for part in [
            "1 missing (features.0.0.weight)",
            "1 unexpected (extra.weight)",
            "features.0.1.bias: expected [16], found [2]",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn damaged_files_are_refused_at_every_length() {
        let mut few = Tensors::new();
        few.insert("a".into(), Tensor { shape: vec![3], data: vec![1.0, 2.0, 3.0] });
        let bytes = write_safetensors(&few, &BTreeMap::new(), Precision::F32);
        for end in 0..bytes.len() {
            assert!(read_safetensors(&bytes[..end]).is_err(), "prefix of {end} bytes");
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_refused() {
        let (arch, net, mut tensors) = tiny();
        tensors.get_mut("features.0.0.weight").unwrap().data[3] = f32::NAN;
        assert!(matches!(Weights::from_tensors(arch, &net, tensors), Err(WeightsError::NotFinite(_))));
    }
}
