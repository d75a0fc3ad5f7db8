//! Tensors whose numbers are in a file beside the model, where exporters put those of large models.
//!
//! A location is what the model says, so it may name any file of the machine: none is opened but regular files in the
//! model's own folder or below it, symbolic links followed. Reads no numbers.
//!
//! # Source
//!
//! ONNX, *External Data Format*, and `TensorProto` in `onnx.proto3`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

use crate::RuntimeError;

/// The folder of a model, and the files in it that were asked for.
pub(crate) struct Folder {
    path: PathBuf,
    /// Of each location, the file and its length.
    files: BTreeMap<String, (Arc<Path>, u64)>,
}

/// Whether a tensor's numbers are to be looked for in another file.
pub(crate) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32) || !tensor.external_data.is_empty()
}

impl Folder {
    /// Returns the folder that a model's file is in.
    pub fn of(model: &Path) -> Self {
        let parent = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self { path: parent.to_owned(), files: BTreeMap::new() }
    }

    /// Whether no file was asked for.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the file that has a tensor's numbers, and which of its bytes they are.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ExternalPlace`] where the location is outside the folder, or the bytes are outside the file or
    /// not those of the tensor's shape; [`RuntimeError::Io`] where there is no such file.
    pub fn place(&mut self, tensor: &TensorProto) -> Result<(Arc<Path>, Range<u64>), RuntimeError> {
        let refused = |expected: &str, found: String| RuntimeError::ExternalPlace {
            tensor: tensor.name.clone(),
            expected: expected.to_owned(),
            found,
        };
        let number = |key: &str| {
            let parse =
                |v: &str| v.parse::<u64>().map_err(|_| refused(&format!("a number as {key}"), format!("{v:?}")));
            entry(tensor, key).map(parse).transpose()
        };
        if tensor.data_location != Some(DataLocation::External as i32) {
            return Err(refused("an external data location", "the default one beside external data".to_owned()));
        }
        let location = entry(tensor, "location").ok_or_else(|| refused("a location", "none".to_owned()))?;
        let (file, len) = match self.files.get(location) {
            Some(known) => known.clone(),
            None => {
                let found = self.file(location, &refused)?;
                self.files.insert(location.to_owned(), found.clone());
                found
            }
        };
        let start = number("offset")?.unwrap_or(0);
        let of_shape = bytes(tensor);
        let end = match number("length")?.or(of_shape) {
            Some(bytes) => start.checked_add(bytes),
            None => Some(len),
        };
        let place = end.filter(|end| start <= *end && *end <= len).map(|end| start..end).ok_or_else(|| {
            let end = end.map_or_else(|| "beyond 2^64".to_owned(), |e| e.to_string());
            refused(&format!("bytes within the {len} of {location:?}"), format!("{start} to {end}"))
        })?;
        let found = place.end - place.start;
        match of_shape {
            Some(expected) if expected != found => {
                Err(refused(&format!("{expected} bytes for {:?}", tensor.dims), format!("{found}")))
            }
            _ => Ok((file, place)),
        }
    }

    /// Returns a file and its length if it is in the folder.
    fn file(
        &self,
        location: &str,
        refused: &dyn Fn(&str, String) -> RuntimeError,
    ) -> Result<(Arc<Path>, u64), RuntimeError> {
        let relative = Path::new(location);
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !relative.components().all(inside) {
            return Err(refused("a location inside the model's folder", format!("{location:?}")));
        }
        let path = self.path.join(relative);
        let io = |source| RuntimeError::Io { path: path.clone(), source };
        let folder = self.path.canonicalize().map_err(io)?;
        let real = path.canonicalize().map_err(io)?;
        if !real.starts_with(&folder) {
            return Err(refused("a location inside the model's folder", format!("{location:?}, a link out of it")));
        }
        // Before it is opened: opening a pipe waits for who writes to it.
        let found = real.metadata().map_err(io)?;
        if !found.is_file() {
            return Err(refused("a location of a regular file", format!("{location:?}")));
        }
        Ok((real.into(), found.len()))
    }
}

/// Returns what external data says of a tensor under a key.
fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str())
}

/// Returns how many bytes a tensor's shape takes, where its kind has as many bits each as a number of bytes.
fn bytes(tensor: &TensorProto) -> Option<u64> {
    let width = match DataType::try_from(tensor.data_type).ok()? {
        DataType::Uint8 | DataType::Int8 | DataType::Bool => 1,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        _ => return None,
    };
    tensor.dims.iter().try_fold(width, |n: u64, d| n.checked_mul(u64::try_from(*d).ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use prost::Message;
    use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto};

    use super::*;
    use crate::graph::{self, MAX_MODEL_LEN};
    use crate::outline::Source;

    /// Four numbers of four bytes each.
    fn tensor(entries: &[(&str, &str)]) -> TensorProto {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).into(), value: (*value).into() };
        TensorProto {
            name: "w".to_owned(),
            dims: vec![2, 2],
            data_type: DataType::Float as i32,
            data_location: Some(DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        }
    }

    /// A model of these weights and one node that reads the first of them.
    fn model(initializer: Vec<TensorProto>) -> Vec<u8> {
        let node = NodeProto { input: vec!["w".into()], output: vec!["y".into()], ..NodeProto::default() };
        let output = ValueInfoProto { name: "y".to_owned(), ..ValueInfoProto::default() };
        let graph = GraphProto { initializer, node: vec![node], output: vec![output], ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
    }

    /// A folder with models/m.onnx, models/w.data of 40 bytes, models/deep/w.data and secret.data.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("models/deep")).unwrap();
        for name in ["models/w.data", "models/deep/w.data", "secret.data"] {
            fs::write(dir.path().join(name), (0..40).collect::<Vec<u8>>()).unwrap();
        }
        dir
    }

    /// Reads a model of a weight, from its file, as tract gets it.
    fn read(at: &Path, weight: TensorProto) -> Result<TensorProto, RuntimeError> {
        let path = at.join("models/m.onnx");
        fs::write(&path, model(vec![weight])).unwrap();
        let mut source = Source::open(&path)?;
        let outline = graph::read(&mut source)?;
        Ok(source.whole(outline)?.graph.unwrap().initializer.remove(0))
    }

    #[test]
    fn bytes_are_where_offset_and_length_say() {
        let dir = folder();
        #[cfg(unix)]
        std::os::unix::fs::symlink("w.data", dir.path().join("models/link.data")).unwrap();
        for (entries, start) in [
            (&[("location", "w.data"), ("offset", "8"), ("length", "16")][..], 8),
            (&[("location", "./deep/w.data"), ("length", "16"), ("checksum", "none")], 0),
            (&[("offset", "24"), ("location", "w.data")], 24),
            #[cfg(unix)]
            (&[("location", "link.data"), ("offset", "1")], 1),
        ] {
            let found = read(dir.path(), tensor(entries)).unwrap();
            assert_eq!(found.raw_data, (start..start + 16).collect::<Vec<u8>>(), "{entries:?}");
            assert_eq!((found.dims, found.data_location, found.external_data.len()), (vec![2, 2], None, 0));
        }
        // Of a kind whose width is not known here, the rest of the file.
        let weight = tensor(&[("location", "w.data"), ("offset", "37")]);
        let weight = TensorProto { data_type: DataType::String as i32, ..weight };
        assert_eq!(read(dir.path(), weight).unwrap().raw_data, [37, 38, 39]);
    }

    #[test]
    fn nothing_outside_the_folder_or_the_file_is_read() {
        let dir = folder();
        let at = dir.path();
        #[cfg(unix)]
        for (to, link) in [("../secret.data", "out.data"), ("..", "up")] {
            std::os::unix::fs::symlink(to, at.join("models").join(link)).unwrap();
        }
        let absolute = at.join("models/w.data");
        let outside = "expected a location inside the model's folder for the external data of w, found ";
        let within = "expected bytes within the 40 of \"w.data\"";
        for (entries, message) in [
            (&[("location", absolute.to_str().unwrap())][..], outside),
            (&[("location", "/dev/zero")], outside),
            (&[("location", "../secret.data")], outside),
            (&[("location", "deep/../../secret.data")], outside),
            (&[("location", "deep/../w.data")], outside),
            (&[("location", "")], outside),
            #[cfg(unix)]
            (&[("location", "out.data")], outside),
            #[cfg(unix)]
            (&[("location", "up/secret.data")], outside),
            (&[("location", "deep")], "expected a location of a regular file"),
            (&[("location", ".")], "expected a location of a regular file"),
            (&[("offset", "0")], "expected a location for the external data of w, found none"),
            (&[("location", "none.data")], "none.data; check that it is there"),
            (&[("location", "w\0.data")], "check that it is there"),
            (&[("location", "w.data"), ("offset", "25")], within),
            (&[("location", "w.data"), ("offset", "41"), ("length", "0")], within),
            (
                &[("location", "w.data"), ("offset", "18446744073709551615"), ("length", "16")],
                "found 18446744073709551615",
            ),
            (&[("location", "w.data"), ("offset", "-1")], "expected a number as offset"),
            (&[("location", "w.data"), ("length", "many")], "expected a number as length"),
            (
                &[("location", "w.data"), ("length", "15")],
                "expected 16 bytes for [2, 2] for the external data of w, found 15",
            ),
        ] {
            let error = read(at, tensor(entries)).unwrap_err().to_string();
            assert!(error.contains(message), "{entries:?}: {error}");
        }
        let default = TensorProto { data_location: None, ..tensor(&[("location", "w.data")]) };
        assert!(read(at, default).unwrap_err().to_string().contains("expected an external data location"));
        for raw_data in [vec![0; 16], vec![0; 4096]] {
            let both = TensorProto { raw_data, ..tensor(&[("location", "w.data")]) };
            assert!(read(at, both).unwrap_err().to_string().contains("expected the numbers of w in one place"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = folder();
        let pipe = dir.path().join("models/pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = read(dir.path(), tensor(&[("location", "pipe")])).unwrap_err().to_string();
        assert!(error.contains("expected a location of a regular file"), "{error}");
    }

    #[test]
    fn the_same_bytes_many_times_are_too_long() {
        let dir = folder();
        let (path, data) = (dir.path().join("models/m.onnx"), dir.path().join("models/large.data"));
        // Empty on the disk, and never read.
        fs::File::create(&data).unwrap().set_len(MAX_MODEL_LEN / 2).unwrap();
        let weight = |i| TensorProto {
            name: if i == 0 { "w".to_owned() } else { format!("w{i}") },
            dims: vec![(MAX_MODEL_LEN / 8) as i64],
            ..tensor(&[("location", "large.data")])
        };
        fs::write(&path, model((0..3).map(weight).collect())).unwrap();
        let error = graph::read(&mut Source::open(&path).unwrap()).unwrap_err();
        assert!(matches!(error, RuntimeError::TooLong { .. }), "{error}");
    }

    #[test]
    fn models_in_memory_and_tensors_within_nodes_are_refused_by_name() {
        let dir = folder();
        let weight = tensor(&[("location", "w.data")]);
        let in_memory = graph::read(&mut Source::held(Path::new("m.onnx"), model(vec![weight.clone()]))).unwrap_err();
        assert!(matches!(&in_memory, RuntimeError::ExternalData { tensor } if tensor == "w"), "{in_memory}");
        let mut with_node = ModelProto::decode(&model(vec![weight.clone()])[..]).unwrap();
        let graph = with_node.graph.as_mut().unwrap();
        graph.node[0].attribute.push(tract_onnx::pb::AttributeProto {
            t: Some(TensorProto { name: "inner".to_owned(), ..weight }),
            ..Default::default()
        });
        let path = dir.path().join("models/m.onnx");
        fs::write(&path, with_node.encode_to_vec()).unwrap();
        let error = graph::read(&mut Source::open(&path).unwrap()).unwrap_err();
        assert!(matches!(&error, RuntimeError::ExternalData { tensor } if tensor == "inner"), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_with_its_name() {
        let dir = folder();
        let path = dir.path().join("models/m.onnx");
        fs::write(&path, model(vec![tensor(&[("location", "w.data"), ("offset", "20")])])).unwrap();
        let mut source = Source::open(&path).unwrap();
        let outline = graph::read(&mut source).unwrap();
        fs::write(dir.path().join("models/w.data"), [0; 30]).unwrap();
        let error = source.whole(outline).unwrap_err();
        assert!(matches!(&error, RuntimeError::Io { path, .. } if path.ends_with("w.data")), "{error}");
    }
}
