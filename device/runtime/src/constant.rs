//! Reads the constants of an ONNX graph.

use std::borrow::Cow;
use std::io::{self, Read};

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataType;

/// Numbers known before a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constant {
    pub dims: Vec<usize>,
    pub numbers: Numbers,
    /// What whole numbers stand for, behind a DequantizeLinear.
    pub scaling: Option<Scaling>,
}

/// The kinds of numbers that the compiler knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    F16(Vec<half::f16>),
    U8(Vec<u8>),
    I8(Vec<i8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// `(q - zero) * scale`, one of each for everything or one a slice of `axis`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scaling {
    pub scales: Vec<f32>,
    pub zeros: Vec<i64>,
    pub axis: usize,
}

impl Constant {
    /// Returns none where the kind is another or the data does not fill the shape.
    pub fn read(tensor: TensorProto) -> Option<Self> {
        let raw = &tensor.raw_data[..];
        // Nothing is read from outside, so nothing goes wrong with that.
        if !raw.is_empty() {
            return Self::read_from(&tensor, raw.len(), &mut &*raw).ok()?;
        }
        let dims = dims(&tensor)?;
        let numbers = match DataType::try_from(tensor.data_type).ok()? {
            DataType::Float => Numbers::F32(tensor.float_data),
            DataType::Int32 => Numbers::I32(tensor.int32_data),
            DataType::Int64 => Numbers::I64(tensor.int64_data),
            DataType::Uint8 => Numbers::U8(narrow(&tensor.int32_data)?),
            DataType::Int8 => Numbers::I8(narrow(&tensor.int32_data)?),
            _ => return None,
        };
        (numbers.len() == count(&dims)?).then_some(Self { dims, numbers, scaling: None })
    }

    /// As [`Constant::read`], for a tensor whose data is the next `len` bytes of `raw`.
    ///
    /// # Errors
    ///
    /// Those of `raw`.
    pub fn read_from(tensor: &TensorProto, len: usize, raw: &mut impl Read) -> io::Result<Option<Self>> {
        let (Some(dims), Ok(kind)) = (dims(tensor), DataType::try_from(tensor.data_type)) else { return Ok(None) };
        let width = match kind {
            DataType::Uint8 | DataType::Int8 => 1,
            DataType::Float16 => 2,
            DataType::Float | DataType::Int32 => 4,
            DataType::Int64 => 8,
            _ => return Ok(None),
        };
        if count(&dims).and_then(|n| n.checked_mul(width)) != Some(len) {
            return Ok(None);
        }
        let numbers = match kind {
            DataType::Float => Numbers::F32(words(raw, len, f32::from_le_bytes)?),
            DataType::Float16 => Numbers::F16(words(raw, len, half::f16::from_le_bytes)?),
            DataType::Int32 => Numbers::I32(words(raw, len, i32::from_le_bytes)?),
            DataType::Int64 => Numbers::I64(words(raw, len, i64::from_le_bytes)?),
            DataType::Int8 => Numbers::I8(words(raw, len, i8::from_le_bytes)?),
            _ => Numbers::U8(words(raw, len, u8::from_le_bytes)?),
        };
        Ok(Some(Self { dims, numbers, scaling: None }))
    }

    /// Returns the numbers if they are floats, or stand for floats.
    pub fn floats(&self) -> Option<Cow<'_, [f32]>> {
        let Some(Scaling { scales, zeros, .. }) = &self.scaling else {
            return match &self.numbers {
                Numbers::F32(v) => Some(Cow::Borrowed(v)),
                _ => None,
            };
        };
        let steps = self.steps()?;
        let inner = self.slice();
        let float = |(i, q): (usize, &i64)| {
            let c = i / inner % scales.len();
            (q - zeros[c]) as f32 * scales[c]
        };
        Some(steps.iter().enumerate().map(float).collect())
    }

    /// Returns halves as floats, as Cast has it; floats stay as they are.
    pub fn widened(self) -> Option<Self> {
        let numbers = match self.numbers {
            Numbers::F16(v) => Numbers::F32(v.into_iter().map(f32::from).collect()),
            Numbers::F32(v) if self.scaling.is_none() => Numbers::F32(v),
            _ => return None,
        };
        Some(Self { numbers, ..self })
    }

    /// Returns the only number if it is one float.
    pub fn float(&self) -> Option<f32> {
        match self.floats()?[..] {
            [v] => Some(v),
            _ => None,
        }
    }

    /// Returns what whole numbers stand for as DequantizeLinear has it, for one scale or one a slice of `axis`.
    pub fn dequantized(self, scale: &Self, zero: Option<&Self>, axis: usize) -> Option<Self> {
        if self.scaling.is_some() || matches!(self.numbers, Numbers::F32(_) | Numbers::F16(_) | Numbers::I64(_)) {
            return None;
        }
        let scales = scale.floats()?.to_vec();
        let zeros = match zero {
            Some(z) => z.steps()?,
            None => vec![0; scales.len()],
        };
        let each = scales.len() == 1 || self.dims.get(axis) == Some(&scales.len());
        let sound = !scales.is_empty() && zeros.len() == scales.len() && each;
        sound.then_some(Self { scaling: Some(Scaling { scales, zeros, axis }), ..self })
    }

    /// Returns how many numbers in a row have one scale.
    fn slice(&self) -> usize {
        match &self.scaling {
            Some(s) if s.scales.len() > 1 => self.dims[s.axis + 1..].iter().product::<usize>().max(1),
            _ => usize::MAX,
        }
    }

    /// Returns the numbers, if they are whole, in a wider kind: no difference of two of up to 32 bits overflows.
    pub fn steps(&self) -> Option<Vec<i64>> {
        match &self.numbers {
            Numbers::F32(_) | Numbers::F16(_) => None,
            Numbers::U8(v) => Some(v.iter().map(|x| i64::from(*x)).collect()),
            Numbers::I8(v) => Some(v.iter().map(|x| i64::from(*x)).collect()),
            Numbers::I32(v) => Some(v.iter().map(|x| i64::from(*x)).collect()),
            Numbers::I64(v) => Some(v.clone()),
        }
    }
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }
}

fn dims(tensor: &TensorProto) -> Option<Vec<usize>> {
    tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect()
}

/// Returns how many numbers a shape has.
fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// Reads `len` bytes, a multiple of `N`, in pieces that stay in the cache.
fn words<T, const N: usize>(raw: &mut impl Read, len: usize, word: impl Fn([u8; N]) -> T) -> io::Result<Vec<T>> {
    let mut numbers = Vec::with_capacity(len / N);
    let mut piece = vec![0; len.min(PIECE)];
    let mut left = len;
    while left > 0 {
        let piece = &mut piece[..left.min(PIECE)];
        raw.read_exact(piece)?;
        numbers.extend(piece.as_chunks().0.iter().map(|w| word(*w)));
        left -= piece.len();
    }
    Ok(numbers)
}

fn narrow<T: TryFrom<i32>>(values: &[i32]) -> Option<Vec<T>> {
    values.iter().map(|v| T::try_from(*v).ok()).collect()
}

/// Bytes read at a time, a multiple of the size of every number.
const PIECE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(kind: DataType, dims: &[i64], raw: &[u8]) -> TensorProto {
        TensorProto { data_type: kind as i32, dims: dims.to_vec(), raw_data: raw.to_vec(), ..Default::default() }
    }

    #[test]
    fn data_that_does_not_fill_the_shape_is_refused() {
        assert!(Constant::read(tensor(DataType::Float, &[1], &1f32.to_le_bytes())).is_some());
        assert!(Constant::read(tensor(DataType::Float, &[2], &1f32.to_le_bytes())).is_none());
        assert!(Constant::read(tensor(DataType::Float, &[1], &[0; 5])).is_none());
        assert!(Constant::read(tensor(DataType::Float, &[-1], &[])).is_none());
        assert!(Constant::read(tensor(DataType::Float, &[i64::MAX, i64::MAX], &[])).is_none());
        let halves = Constant::read(tensor(DataType::Float16, &[2], &[0x00, 0x3c, 0x00, 0xc1])).unwrap();
        assert!(halves.floats().is_none());
        assert_eq!(halves.widened().unwrap().numbers, Numbers::F32(vec![1.0, -2.5]));
        assert!(Constant::read(tensor(DataType::Double, &[1], &[0; 8])).is_none());
    }

    #[test]
    fn each_channel_has_its_own_scale() {
        let q = Constant::read(tensor(DataType::Int8, &[2, 2], &[1, 0xff, 2, 0x80])).unwrap();
        let scale = Constant { dims: vec![2], numbers: Numbers::F32(vec![0.5, 2.0]), scaling: None };
        let floats = |axis| q.clone().dequantized(&scale, None, axis).map(|c| c.floats().unwrap().to_vec());
        assert_eq!(floats(0).unwrap(), [0.5, -0.5, 4.0, -256.0]);
        assert_eq!(floats(1).unwrap(), [0.5, -2.0, 1.0, -256.0]);
        assert!(floats(2).is_none());
    }
}
