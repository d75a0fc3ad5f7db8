//! Where the tensors of an ONNX file lie, so that a bundle can cut it at their borders.

use crate::OnnxError;

/// Tensors smaller than this stay with what surrounds them.
const SMALLEST: usize = 2048;

/// Returns the byte offsets, ascending, at which the raw data of each larger initializer begins and ends.
///
/// # Errors
///
/// [`OnnxError::Decode`] if the bytes are not well-formed protobuf.
///
/// # Source
///
/// Protocol Buffers encoding; field numbers of `onnx.proto3`: ModelProto.graph = 7, GraphProto.initializer = 5,
/// TensorProto.raw_data = 9.
pub fn tensor_borders(onnx: &[u8]) -> Result<Vec<usize>, OnnxError> {
    let mut borders = Vec::new();
    for (_, at, len) in messages(onnx, 0, onnx.len())?.into_iter().filter(|m| m.0 == 7) {
        for (_, at, len) in messages(onnx, at, at + len)?.into_iter().filter(|m| m.0 == 5) {
            for (_, at, len) in messages(onnx, at, at + len)?.into_iter().filter(|m| m.0 == 9 && m.2 >= SMALLEST) {
                borders.extend([at, at + len]);
            }
        }
    }
    borders.dedup();
    Ok(borders)
}

/// Lists the length-delimited fields of the message in `bytes[at..end]` as (field number, offset, length).
fn messages(bytes: &[u8], mut at: usize, end: usize) -> Result<Vec<(u64, usize, usize)>, OnnxError> {
    let broken = |at: usize| OnnxError::Decode(format!("broken protobuf field at byte {at}"));
    let mut found = Vec::new();
    while at < end {
        let start = at;
        let key = varint(bytes, &mut at, end).ok_or_else(|| broken(start))?;
        let skip = match key & 7 {
            0 => {
                varint(bytes, &mut at, end).ok_or_else(|| broken(start))?;
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let len = varint(bytes, &mut at, end).ok_or_else(|| broken(start))?;
                let len = usize::try_from(len).map_err(|_| broken(start))?;
                found.push((key >> 3, at, len));
                len
            }
            _ => return Err(broken(start)),
        };
        at = at.checked_add(skip).filter(|&a| a <= end).ok_or_else(|| broken(start))?;
    }
    Ok(found)
}

fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(..end)?.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tract_onnx::pb::{GraphProto, ModelProto, TensorProto};

    use super::*;

    #[test]
    fn borders_enclose_exactly_the_large_tensors() {
        let tensor = |fill: u8, len: usize| TensorProto {
            name: format!("t{fill}"),
            raw_data: vec![fill; len],
            ..Default::default()
        };
        let graph =
            GraphProto { initializer: vec![tensor(1, 5000), tensor(2, 10), tensor(3, 3000)], ..Default::default() };
        let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        let b = tensor_borders(&bytes).unwrap();
        assert_eq!(b.len(), 4);
        assert_eq!(&bytes[b[0]..b[1]], &[1; 5000][..]);
        assert_eq!(&bytes[b[2]..b[3]], &[3; 3000][..]);
        for end in 1..bytes.len() {
            let _ = tensor_borders(&bytes[..end]);
        }
        assert!(tensor_borders(&[0xff; 20]).is_err());
    }
}
