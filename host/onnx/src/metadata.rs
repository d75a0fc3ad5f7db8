//! Adds to the metadata of an ONNX file whose bytes are not to change otherwise.

use prost::Message;
use tract_onnx::pb::{ModelProto, StringStringEntryProto};

/// Returns an ONNX file with an entry more in its metadata, behind the bytes as they are: a device that has them needs the
/// entry alone. Of two entries of one key the later one counts.
///
/// # Source
///
/// Protocol Buffers encoding, *Last One Wins*: messages that follow one another are one, of which repeated fields are joined.
pub fn with_entry(onnx: &[u8], key: &str, value: &str) -> Vec<u8> {
    let entry = StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    let more = ModelProto { metadata_props: vec![entry], ..Default::default() };
    [onnx, &more.encode_to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_behind_the_bytes_as_they_are() {
        let entry = |key: &str| StringStringEntryProto { key: key.into(), value: "1".into() };
        let model = ModelProto { ir_version: 8, metadata_props: vec![entry("a")], ..Default::default() };
        let bytes = model.encode_to_vec();
        let more = with_entry(&bytes, "b", "1");
        assert!(more.starts_with(&bytes));
        let expected = ModelProto { metadata_props: vec![entry("a"), entry("b")], ..model };
        assert_eq!(ModelProto::decode(&more[..]).unwrap(), expected);
    }
}
