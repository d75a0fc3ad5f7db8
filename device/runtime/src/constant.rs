//! Reads the constants of an ONNX graph.

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataType;

/// Numbers known before a run.
#[derive(Debug, Clone)]
pub(crate) struct Constant {
    pub dims: Vec<usize>,
    pub numbers: Numbers,
}

/// The kinds of numbers that the compiler knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    U8(Vec<u8>),
    I8(Vec<i8>),
    I32(Vec<i32>),
}

impl Constant {
    /// Returns none where the kind is another or the data does not fill the shape.
    pub fn read(tensor: &TensorProto) -> Option<Self> {
        let dims: Vec<usize> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
        let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let raw = &tensor.raw_data;
        let small = &tensor.int32_data;
        let numbers = match DataType::try_from(tensor.data_type).ok()? {
            DataType::Float if raw.is_empty() => Numbers::F32(tensor.float_data.clone()),
            DataType::Float => Numbers::F32(words(raw)?.map(f32::from_le_bytes).collect()),
            DataType::Int32 if raw.is_empty() => Numbers::I32(small.clone()),
            DataType::Int32 => Numbers::I32(words(raw)?.map(i32::from_le_bytes).collect()),
            DataType::Uint8 if raw.is_empty() => Numbers::U8(narrow(small)?),
            DataType::Uint8 => Numbers::U8(raw.clone()),
            DataType::Int8 if raw.is_empty() => Numbers::I8(narrow(small)?),
            DataType::Int8 => Numbers::I8(raw.iter().map(|b| i8::from_le_bytes([*b])).collect()),
            _ => return None,
        };
        let found = match &numbers {
            Numbers::F32(v) => v.len(),
            Numbers::U8(v) => v.len(),
            Numbers::I8(v) => v.len(),
            Numbers::I32(v) => v.len(),
        };
        (found == len).then_some(Self { dims, numbers })
    }

    /// Returns the numbers if they are floats.
    pub fn floats(&self) -> Option<&[f32]> {
        match &self.numbers {
            Numbers::F32(v) => Some(v),
            _ => None,
        }
    }

    /// Returns the only number if it is one float.
    pub fn float(&self) -> Option<f32> {
        match self.floats()? {
            [v] => Some(*v),
            _ => None,
        }
    }

    /// Returns `(q - zero) * scale` as DequantizeLinear has it, for one scale or one a slice of `axis`.
    pub fn dequantized(&self, scale: &Self, zero: Option<&Self>, axis: usize) -> Option<Self> {
        let (steps, scales) = (self.steps()?, scale.floats()?);
        let zeros = match zero {
            Some(z) => z.steps()?,
            None => vec![0; scales.len()],
        };
        if scales.is_empty() || zeros.len() != scales.len() {
            return None;
        }
        let inner: usize = match scales.len() {
            1 => steps.len().max(1),
            n => {
                (*self.dims.get(axis)? == n).then_some(())?;
                self.dims[axis + 1..].iter().product::<usize>().max(1)
            }
        };
        let floats = steps.iter().enumerate().map(|(i, q)| {
            let c = i / inner % scales.len();
            (q - zeros[c]) as f32 * scales[c]
        });
        Some(Self { dims: self.dims.clone(), numbers: Numbers::F32(floats.collect()) })
    }

    /// Returns the numbers, if they are whole, in a wider kind: no difference of two overflows.
    pub fn steps(&self) -> Option<Vec<i64>> {
        match &self.numbers {
            Numbers::F32(_) => None,
            Numbers::U8(v) => Some(v.iter().map(|x| i64::from(*x)).collect()),
            Numbers::I8(v) => Some(v.iter().map(|x| i64::from(*x)).collect()),
            Numbers::I32(v) => Some(v.iter().map(|x| i64::from(*x)).collect()),
        }
    }
}

fn words(raw: &[u8]) -> Option<impl Iterator<Item = [u8; 4]>> {
    let (words, []) = raw.as_chunks::<4>() else {
        return None;
    };
    Some(words.iter().copied())
}

fn narrow<T: TryFrom<i32>>(values: &[i32]) -> Option<Vec<T>> {
    values.iter().map(|v| T::try_from(*v).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(kind: DataType, dims: &[i64], raw: &[u8]) -> TensorProto {
        TensorProto { data_type: kind as i32, dims: dims.to_vec(), raw_data: raw.to_vec(), ..Default::default() }
    }

    #[test]
    fn data_that_does_not_fill_the_shape_is_refused() {
        assert!(Constant::read(&tensor(DataType::Float, &[1], &1f32.to_le_bytes())).is_some());
        assert!(Constant::read(&tensor(DataType::Float, &[2], &1f32.to_le_bytes())).is_none());
        assert!(Constant::read(&tensor(DataType::Float, &[1], &[0; 5])).is_none());
        assert!(Constant::read(&tensor(DataType::Float, &[-1], &[])).is_none());
        assert!(Constant::read(&tensor(DataType::Float, &[i64::MAX, i64::MAX], &[])).is_none());
        assert!(Constant::read(&tensor(DataType::Double, &[1], &[0; 8])).is_none());
    }

    #[test]
    fn each_channel_has_its_own_scale() {
        let q = Constant::read(&tensor(DataType::Int8, &[2, 2], &[1, 0xff, 2, 0x80])).unwrap();
        let scale = Constant { dims: vec![2], numbers: Numbers::F32(vec![0.5, 2.0]) };
        assert_eq!(q.dequantized(&scale, None, 0).unwrap().floats(), Some(&[0.5, -0.5, 4.0, -256.0][..]));
        assert_eq!(q.dequantized(&scale, None, 1).unwrap().floats(), Some(&[0.5, -2.0, 1.0, -256.0][..]));
        assert!(q.dequantized(&scale, None, 2).is_none());
    }
}
