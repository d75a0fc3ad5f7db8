//! The outline of an ONNX file: all of it but the numbers of large tensors, which stay in the file until they are wanted.
//!
//! A network's file is nearly all weights. Decoded whole, they are in memory three times: as the file, as the decoder's
//! bytes and as numbers. Here they go from the file to numbers at once. Lengths are checked before anything is allocated
//! for them, so that no more is than the file is long, or the files beside it that have tensors of their own.
//!
//! # Source
//!
//! Protocol Buffers, *Encoding*, and `onnx.proto3` for the numbers of the fields.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto};

use crate::RuntimeError;
use crate::constant::Constant;
use crate::external::{Folder, is_external};
use crate::graph::{MAX_MODEL_LEN, mismatch};

/// Where an ONNX file is.
pub(crate) struct Source<'a> {
    /// For errors.
    path: PathBuf,
    len: u64,
    reader: Reader<'a>,
    /// Where files with tensors may be; none for a model in memory.
    folder: Option<Folder>,
    /// The one of them that was read last.
    beside: Option<(Arc<Path>, Reader<'a>)>,
}

trait Bytes: Read + Seek {}
impl<T: Read + Seek> Bytes for T {}

type Reader<'a> = BufReader<Box<dyn Bytes + 'a>>;

/// A model without the numbers of its large tensors.
#[derive(Debug)]
pub(crate) struct Outline {
    /// Without its graph.
    pub model: ModelProto,
    pub graph: GraphProto,
    /// Where the numbers of each initializer are that does not hold them.
    places: Vec<Option<Place>>,
}

/// Bytes of a file.
#[derive(Debug)]
struct Place {
    /// None for the model's own.
    file: Option<Arc<Path>>,
    bytes: Range<u64>,
}

impl<'a> Source<'a> {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Io`].
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        let io = |source| RuntimeError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?;
        if found.is_file() {
            let folder = Some(Folder::of(path));
            return Ok(Self { folder, ..Self::new(path, found.len(), Box::new(file)) });
        }
        // A pipe cannot be gone back in.
        let mut bytes = Vec::new();
        file.take(MAX_MODEL_LEN + 1).read_to_end(&mut bytes).map_err(io)?;
        Ok(Self::held(path, bytes))
    }

    /// Takes a file that is in memory.
    pub fn held(path: &Path, bytes: impl AsRef<[u8]> + 'a) -> Self {
        let len = u64::try_from(bytes.as_ref().len()).unwrap_or(u64::MAX);
        Self::new(path, len, Box::new(Cursor::new(bytes)))
    }

    fn new(path: &Path, len: u64, reader: Box<dyn Bytes + 'a>) -> Self {
        let reader = BufReader::with_capacity(BUFFER, reader);
        Self { path: path.to_owned(), len, reader, folder: None, beside: None }
    }

    /// Returns the BLAKE3 digest of the whole file.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::TooLong`], [`RuntimeError::Io`].
    pub fn digest(&mut self) -> Result<[u8; 32], RuntimeError> {
        check_len(self.len)?;
        let limit = self.len;
        self.read_at(None, 0, |reader| {
            let (mut hasher, mut part, mut reader) = (blake3::Hasher::new(), vec![0; HASHED], reader.take(limit));
            loop {
                match reader.read(&mut part)? {
                    0 => return Ok(*hasher.finalize().as_bytes()),
                    len => hasher.update(&part[..len]),
                };
            }
        })
    }

    /// Whether numbers were found in other files, which the digest says nothing of.
    pub fn is_in_parts(&self) -> bool {
        self.folder.as_ref().is_some_and(|folder| !folder.is_empty())
    }

    /// Reads the outline.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::TooLong`], [`RuntimeError::NotOnnx`], [`RuntimeError::Graph`] where there is no graph, and
    /// [`RuntimeError::Io`].
    pub fn outline(&mut self) -> Result<Outline, RuntimeError> {
        check_len(self.len)?;
        if self.len == 0 {
            return Err(RuntimeError::NotOnnx { reason: "the file is empty".to_owned() });
        }
        let len = self.len;
        let found = self.read_at(None, 0, |reader| match (Scan { reader, at: 0 }).outline(len) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Err(e)),
            found => found.map(Ok),
        })?;
        match found {
            Ok(Some(outline)) => Ok(outline),
            Ok(None) => Err(mismatch("a graph in the model", "none")),
            Err(e) => Err(RuntimeError::NotOnnx { reason: e.to_string() }),
        }
    }

    /// Finds the initializers whose numbers are in files beside the model. All their bytes count towards its length.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ExternalData`] where the model is in memory, [`RuntimeError::TooLong`], and those of
    /// [`Folder::place`].
    pub fn find_external(&mut self, outline: &mut Outline) -> Result<(), RuntimeError> {
        let mut total = self.len;
        for (tensor, place) in outline.graph.initializer.iter_mut().zip(&mut outline.places) {
            if !is_external(tensor) {
                continue;
            }
            let Some(folder) = &mut self.folder else {
                return Err(RuntimeError::ExternalData { tensor: tensor.name.clone() });
            };
            if place.is_some() || !tensor.raw_data.is_empty() {
                let expected = format!("the numbers of {} in one place", tensor.name);
                return Err(mismatch(&expected, "some in the model and some in an external file"));
            }
            let (file, bytes) = folder.place(tensor)?;
            total = total.saturating_add(bytes.end - bytes.start);
            check_len(total)?;
            *place = Some(Place { file: Some(file), bytes });
            *tensor = TensorProto {
                name: std::mem::take(&mut tensor.name),
                dims: std::mem::take(&mut tensor.dims),
                data_type: tensor.data_type,
                ..TensorProto::default()
            };
        }
        Ok(())
    }

    /// Reads the initializers that are constants of a kind that the compiler knows, and leaves their tensors empty.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Io`].
    pub fn constants(&mut self, outline: &mut Outline) -> Result<BTreeMap<String, Constant>, RuntimeError> {
        let mut constants = BTreeMap::new();
        for (tensor, place) in outline.graph.initializer.iter_mut().zip(&outline.places) {
            let empty = TensorProto { name: tensor.name.clone(), ..TensorProto::default() };
            let tensor = std::mem::replace(tensor, empty);
            let name = tensor.name.clone();
            let constant = match place {
                None => Constant::read(tensor),
                Some(place) => self.read(place, |raw| Constant::read_from(&tensor, len(place), raw))?,
            };
            constants.extend(constant.map(|c| (name, c)));
        }
        Ok(constants)
    }

    /// Brings the numbers into the tensors, and the graph into the model.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Io`].
    pub fn whole(&mut self, outline: Outline) -> Result<ModelProto, RuntimeError> {
        let Outline { mut model, mut graph, places } = outline;
        for (tensor, place) in graph.initializer.iter_mut().zip(places) {
            if let Some(place) = place {
                tensor.raw_data = vec![0; len(&place)];
                self.read(&place, |raw| raw.read_exact(&mut tensor.raw_data))?;
            }
        }
        model.graph = Some(graph);
        Ok(model)
    }

    fn read<T>(
        &mut self,
        place: &Place,
        read: impl FnOnce(&mut Reader<'a>) -> io::Result<T>,
    ) -> Result<T, RuntimeError> {
        self.read_at(place.file.as_ref(), place.bytes.start, read)
    }

    fn read_at<T>(
        &mut self,
        file: Option<&Arc<Path>>,
        at: u64,
        read: impl FnOnce(&mut Reader<'a>) -> io::Result<T>,
    ) -> Result<T, RuntimeError> {
        let path = file.map_or(&*self.path, |file| file);
        let io = |source| RuntimeError::Io { path: path.to_owned(), source };
        let reader = match (file, &mut self.beside) {
            (None, _) => &mut self.reader,
            (Some(file), Some((open, reader))) if open == file => reader,
            (Some(file), beside) => {
                let reader: Box<dyn Bytes> = Box::new(File::open(file).map_err(io)?);
                &mut beside.insert((file.clone(), BufReader::with_capacity(BUFFER, reader))).1
            }
        };
        reader.seek(SeekFrom::Start(at)).and_then(|_| read(reader)).map_err(io)
    }
}

/// Goes through a file's messages; `at` is where it is.
struct Scan<'r, 'a> {
    reader: &'r mut Reader<'a>,
    at: u64,
}

impl Scan<'_, '_> {
    fn outline(mut self, len: u64) -> io::Result<Option<Outline>> {
        let (mut model, mut graph, mut has_graph) = (Vec::new(), Vec::new(), false);
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        while let Some(part) = self.next(GRAPH, len, &mut model)? {
            has_graph = true;
            while let Some(tensor) = self.next(INITIALIZER, part.end, &mut graph)? {
                let (tensor, place) = self.tensor(tensor.end)?;
                tensors.push(tensor);
                places.push(place);
            }
        }
        let model = ModelProto::decode(&model[..])?;
        let graph = GraphProto { initializer: tensors, ..GraphProto::decode(&graph[..])? };
        Ok(has_graph.then_some(Outline { model, graph, places }))
    }

    /// Reads a tensor, and where its numbers are if they are many.
    fn tensor(&mut self, end: u64) -> io::Result<(TensorProto, Option<Place>)> {
        let (mut rest, mut raw, mut place) = (Vec::new(), Vec::new(), None);
        // Of several, the last one counts.
        while let Some(numbers) = self.next(RAW_DATA, end, &mut rest)? {
            raw.clear();
            let len = numbers.end - numbers.start;
            if len < LARGE {
                place = None;
                self.copy(len, &mut raw)?;
            } else {
                self.reader.seek_relative(i64::try_from(len).map_err(io::Error::other)?)?;
                self.at = numbers.end;
                place = Some(Place { file: None, bytes: numbers });
            }
        }
        Ok((TensorProto { raw_data: raw, ..TensorProto::decode(&rest[..])? }, place))
    }

    /// Copies fields up to `end` or up to what is in the next one that is `wanted`, and returns where that is.
    fn next(&mut self, wanted: u64, end: u64, rest: &mut Vec<u8>) -> io::Result<Option<Range<u64>>> {
        while self.at < end {
            let tag = self.varint(end)?;
            let len = match tag & 7 {
                VARINT => {
                    let value = self.varint(end)?;
                    put_varint(tag, rest);
                    put_varint(value, rest);
                    continue;
                }
                EIGHT_BYTES => 8,
                FOUR_BYTES => 4,
                BYTES => self.varint(end)?,
                kind => return Err(invalid(&format!("a field of kind {kind}"))),
            };
            if len > end - self.at {
                return Err(invalid(&format!("a field of {len} bytes where {} are left", end - self.at)));
            }
            if tag == wanted << 3 | BYTES {
                return Ok(Some(self.at..self.at + len));
            }
            put_varint(tag, rest);
            if tag & 7 == BYTES {
                put_varint(len, rest);
            }
            self.copy(len, rest)?;
        }
        Ok(None)
    }

    /// Copies bytes, of which the caller has checked that the file has them.
    fn copy(&mut self, len: u64, to: &mut Vec<u8>) -> io::Result<()> {
        let start = to.len();
        to.resize(start + usize::try_from(len).map_err(io::Error::other)?, 0);
        self.at += len;
        self.reader.read_exact(&mut to[start..])
    }

    fn varint(&mut self, end: u64) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.at == end {
                return Err(invalid("the end within a number"));
            }
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.at += 1;
            let part = u64::from(byte[0] & 127);
            value |= part << shift;
            match byte[0] {
                // Of the tenth byte, one bit is left.
                0..128 if value >> shift == part => return Ok(value),
                0..128 => break,
                _ => {}
            }
        }
        Err(invalid("a number of more than 64 bits"))
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn put_varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 128 {
        to.push(value.to_le_bytes()[0] | 128);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

fn check_len(found: u64) -> Result<(), RuntimeError> {
    if found > MAX_MODEL_LEN { Err(RuntimeError::TooLong { found }) } else { Ok(()) }
}

/// Returns the length of a part of a file whose length was checked.
fn len(place: &Place) -> usize {
    usize::try_from(place.bytes.end - place.bytes.start).expect("a length of at most MAX_MODEL_LEN")
}

/// Bytes from which on a tensor's numbers stay in the file.
const LARGE: u64 = 2048;
/// Bytes that are read and hashed at a time: enough to keep every lane busy, and few enough for the second cache.
const HASHED: usize = 256 << 10;
/// Bytes read ahead.
const BUFFER: usize = 16 << 10;

/// Field of `ModelProto`.
const GRAPH: u64 = 7;
/// Field of `GraphProto`.
const INITIALIZER: u64 = 5;
/// Field of `TensorProto`.
const RAW_DATA: u64 = 9;

const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

#[cfg(test)]
mod tests {
    use tract_onnx::pb::tensor_proto::DataType;

    use super::*;

    /// A model of tensors of so many bytes.
    fn model(lens: &[usize]) -> ModelProto {
        let initializer = lens.iter().enumerate().map(|(i, &len)| TensorProto {
            name: format!("t{i}"),
            dims: vec![len as i64],
            data_type: DataType::Uint8 as i32,
            raw_data: (0..len).map(|at| (at * 7 + i) as u8).collect(),
            ..TensorProto::default()
        });
        let graph = GraphProto { name: "g".to_owned(), initializer: initializer.collect(), ..GraphProto::default() };
        ModelProto { ir_version: 8, producer_name: "test".to_owned(), graph: Some(graph), ..ModelProto::default() }
    }

    fn held(bytes: &[u8]) -> Source<'_> {
        Source::held(Path::new("m.onnx"), bytes)
    }

    #[test]
    fn a_file_is_read_as_the_decoder_reads_it() {
        let model = model(&[0, 1, 2047, 2048, 5000, 100_000, 3]);
        let bytes = model.encode_to_vec();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, &bytes).unwrap();
        for mut source in [held(&bytes), Source::open(&path).unwrap()] {
            let outline = source.outline().unwrap();
            let stay: Vec<bool> = outline.places.iter().map(Option::is_some).collect();
            assert_eq!(stay, [false, false, false, true, true, true, false]);
            assert!(outline.graph.encoded_len() < 2400, "the numbers of large tensors are not there");
            assert_eq!(source.whole(outline).unwrap(), model);

            let mut outline = source.outline().unwrap();
            let constants = source.constants(&mut outline).unwrap();
            for tensor in &model.graph.as_ref().unwrap().initializer {
                assert_eq!(constants[&tensor.name], Constant::read(tensor.clone()).unwrap());
            }
        }
    }

    #[test]
    fn parts_of_a_message_are_put_together() {
        // As the decoder does: later fields count, lists go on.
        let (first, second) = (model(&[4000]), model(&[10, 3000]));
        let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
        let mut source = held(&bytes);
        let outline = source.outline().unwrap();
        assert_eq!(source.whole(outline).unwrap(), ModelProto::decode(&bytes[..]).unwrap());
    }

    #[test]
    fn every_proper_prefix_is_refused_or_what_the_decoder_makes_of_it() {
        let bytes = model(&[5, 2500]).encode_to_vec();
        for len in 0..bytes.len() {
            let mut source = held(&bytes[..len]);
            let found = source.outline().and_then(|outline| source.whole(outline));
            let decoded = ModelProto::decode(&bytes[..len]).ok().filter(|m| m.graph.is_some());
            assert_eq!(found.ok(), decoded, "of {len} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_what_the_decoder_makes_of_it() {
        let whole = model(&[5, 2500]).encode_to_vec();
        for bit in (0..120 * 8).chain((whole.len() - 40) * 8..whole.len() * 8) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut source = held(&bytes);
            // Some that the decoder takes are refused here: groups, which nobody writes.
            if let Ok(outline) = source.outline() {
                let found = source.whole(outline).unwrap();
                assert_eq!(found, ModelProto::decode(&bytes[..]).unwrap(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_file_allocates_nothing() {
        // A graph of 2^62 bytes; a tensor's numbers of as many.
        for head in [&[0x3a][..], &[0x3a, 13, 0x2a, 11, 0x4a]] {
            let mut bytes = head.to_vec();
            put_varint(1 << 62, &mut bytes);
            let error = held(&bytes).outline().unwrap_err();
            assert!(matches!(error, RuntimeError::NotOnnx { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, model(&[100_000]).encode_to_vec()).unwrap();
        let mut source = Source::open(&path).unwrap();
        let mut outline = source.outline().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(50_000).unwrap();
        let error = source.constants(&mut outline).unwrap_err();
        assert!(matches!(&error, RuntimeError::Io { path, .. } if path.ends_with("m.onnx")), "{error}");
    }
}
