//! A network as kernels run it, kept in a file beside or apart from its model, so that the next start need not pack it.
//!
//! The file holds a description of the steps and the packed weights, which are mapped and never copied. It is taken only
//! where everything fits: the digest of the model, the build of graft, the instruction set, the checksum of the whole
//! file; then each step is checked as if an enemy had written it (`sound.rs`). In every other case the network is made from
//! the model again and the file replaced; that it cannot be written is no error of the run. Format:
//! `docs/formats/packed.md`.
//!
//! A checksum is no signature: whoever may write the file decides what the network answers, as whoever may write the
//! model does. It belongs into a folder of graft's own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graft_kernels::conv::{self, Conv};
use graft_kernels::depthwise::{self, Depthwise};
use graft_kernels::int8::{self, Grid};
use graft_kernels::store::{Mapping, Stores};
use graft_kernels::{Isa, padded};
use serde::{Deserialize, Serialize};

use crate::input::Input;
use crate::plan::Extent;
use crate::program::{Link, Program, Shape, Step};
use crate::sound;
use crate::work::Work;

/// Where packed networks are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    place: Place,
    most: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Folder(PathBuf),
}

/// Where a network came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Loaded {
    /// From the model; no cache was given, or one that does not concern the engine.
    Model,
    /// From the cache.
    Cache,
    /// From the model, as the cache did not have it.
    Rebuilt {
        /// Why it did not.
        because: Miss,
        /// Why it does not have it now either, or none where it does.
        not_kept: Option<String>,
    },
}

/// Why a cache does not have a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(into = "String")]
#[non_exhaustive]
pub enum Miss {
    /// There is no file.
    #[error("there was none")]
    Absent,
    /// There is one that the system does not give.
    #[error("it could not be read ({0})")]
    Unreadable(String),
    /// It is cut short, or something in it was changed.
    #[error("it was damaged")]
    Damaged,
    /// It is of another format.
    #[error("it was of format {0}")]
    Format(u32),
    /// Another build of graft wrote it, whose kernels may want other weights.
    #[error("another build of graft wrote it")]
    Build,
    /// It is for another instruction set.
    #[error("it was for {0}")]
    Isa(String),
    /// It is of another model.
    #[error("it was of another model")]
    Model,
    /// It says what no network does.
    #[error("what it said did not hang together")]
    Unsound,
}

/// What a report says after the time.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => Ok(()),
            Self::Cache => f.write_str(" from the cache"),
            Self::Rebuilt { because, not_kept: None } => write!(f, " and into the cache, as {because}"),
            Self::Rebuilt { because, not_kept: Some(reason) } => {
                write!(f, " without the cache, as {because} ({reason})")
            }
        }
    }
}

impl From<Miss> for String {
    fn from(miss: Miss) -> Self {
        miss.to_string()
    }
}

/// What a packed network is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// BLAKE3 of the ONNX file.
    pub digest: [u8; 32],
    pub isa: Isa,
}

/// All of a loaded network, and what of the file is told besides.
#[derive(Debug)]
pub(crate) struct Packed<P = Program> {
    /// What open sides of the input were taken for.
    pub side: Option<usize>,
    pub input: Input,
    pub outputs: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub program: P,
}

impl Cache {
    /// Keeps one network in a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::File(path.into()), most: MOST }
    }

    /// Keeps networks in a folder, each under the digest of its model and the name of the instruction set.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Folder(path.into()), most: MOST }
    }

    /// Keeps no file of more than so many bytes.
    #[must_use]
    pub fn at_most(self, bytes: u64) -> Self {
        Self { most: bytes.min(self.most), ..self }
    }

    fn path(&self, key: &Key) -> PathBuf {
        match &self.place {
            Place::File(path) => path.clone(),
            Place::Folder(path) => {
                let digest: String = key.digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
                path.join(format!("{digest}-{}.packed", key.isa.name()))
            }
        }
    }

    /// Maps and checks a network.
    pub(crate) fn load(&self, key: &Key) -> Result<Packed, Miss> {
        let system = |e: io::Error| match e.kind() {
            ErrorKind::NotFound => Miss::Absent,
            _ => Miss::Unreadable(e.to_string()),
        };
        let file = File::open(self.path(key)).map_err(system)?;
        if file.metadata().map_err(system)?.len() > MOST {
            return Err(Miss::Damaged);
        }
        // No other file is mapped: this one's folder is graft's, which replaces it by renaming.
        let mapping = Arc::new(Mapping::of(&file).map_err(system)?);
        let description = Header::check(mapping.bytes(), key)?;
        let end = FRONT + description.len();
        let description: Description<Vec<Written<Kernel<Work>>>> = match postcard::take_from_bytes(description) {
            Ok((description, [])) => description,
            _ => return Err(Miss::Unsound),
        };
        // Kernels' checks are to find every nonsense; one that gets through ends here.
        let numbers = Stores::new(mapping, end);
        let whole = std::panic::AssertUnwindSafe(|| description.whole(key.isa, numbers));
        std::panic::catch_unwind(whole).ok().flatten().ok_or(Miss::Unsound)
    }

    /// Writes a network, which is then found by `key`.
    pub(crate) fn keep(&self, key: &Key, packed: &Packed<&Program>) -> io::Result<()> {
        let (steps, outputs) = packed.program.parts();
        let mut numbers = Vec::new();
        let description = Description {
            side: packed.side,
            input: packed.input.clone(),
            outputs: packed.outputs.clone(),
            metadata: packed.metadata.clone(),
            results: outputs.iter().map(WrittenShape::of).collect(),
            steps: steps.iter().map(|step| Written::of(step, &mut numbers)).collect::<Vec<_>>(),
        };
        let description = postcard::to_stdvec(&description).map_err(io::Error::other)?;
        let parts = Header::before(key, &description, &numbers);
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if len > self.most {
            return Err(io::Error::other(format!("it has {len} bytes, and {} are allowed", self.most)));
        }
        let path = self.path(key);
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".packed-").tempfile_in(folder)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }
}

/// The front of the file, [`FRONT`] bytes.
struct Header;

impl Header {
    /// Returns the description of a file that fits and is whole.
    fn check<'a>(bytes: &'a [u8], key: &Key) -> Result<&'a [u8], Miss> {
        let (front, rest) = bytes.split_first_chunk::<FRONT>().ok_or(Miss::Damaged)?;
        if front[..8] != *MAGIC {
            return Err(Miss::Damaged);
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| front[at + i]));
        let version = u32::from_le_bytes([front[8], front[9], front[10], front[11]]);
        let sum = u32::from_le_bytes([front[12], front[13], front[14], front[15]]);
        if version != VERSION {
            return Err(Miss::Format(version));
        }
        if front[32..40] != build() {
            return Err(Miss::Build);
        }
        if front[40..64] != isa(key.isa) {
            let name = front[40..64].iter().take_while(|b| b.is_ascii_graphic());
            return Err(Miss::Isa(name.map(|b| char::from(*b)).collect()));
        }
        if front[64..] != key.digest {
            return Err(Miss::Model);
        }
        if number(16) != bytes.len() as u64 || crc32fast::hash(&bytes[SUMMED..]) != sum {
            return Err(Miss::Damaged);
        }
        let len = usize::try_from(number(24)).ok().filter(|len| *len <= MAX_DESCRIPTION);
        len.and_then(|len| rest.get(..len)).ok_or(Miss::Damaged)
    }

    /// Returns the parts of a file in turn.
    fn before<'a>(key: &Key, description: &'a [u8], numbers: &[&'a [u8]]) -> Vec<std::borrow::Cow<'a, [u8]>> {
        let front = FRONT + description.len();
        let gap = front.next_multiple_of(ALIGNED) - front;
        let len = front + gap + numbers.iter().map(|n| n.len()).sum::<usize>();
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend([0; 4]);
        head.extend((len as u64).to_le_bytes());
        head.extend((description.len() as u64).to_le_bytes());
        head.extend(build());
        head.extend(isa(key.isa));
        head.extend(key.digest);
        let mut parts = vec![head.into(), description.into(), vec![0; gap].into()];
        parts.extend(numbers.iter().map(|n| std::borrow::Cow::Borrowed(*n)));
        let mut sum = crc32fast::Hasher::new();
        sum.update(&parts[0][SUMMED..]);
        parts[1..].iter().for_each(|part| sum.update(part));
        parts[0].to_mut()[12..16].copy_from_slice(&sum.finalize().to_le_bytes());
        parts
    }
}

/// Returns what tells this build of graft from others, as `build.rs` makes it.
fn build() -> [u8; 8] {
    u64::from_str_radix(env!("GRAFT_BUILD"), 16).expect("sixteen digits").to_le_bytes()
}

fn isa(isa: Isa) -> [u8; 24] {
    let mut name = [0; 24];
    name.iter_mut().zip(isa.name().bytes()).for_each(|(to, from)| *to = from);
    name
}

/// What the file says, but for the weights.
#[derive(Serialize, Deserialize)]
struct Description<S> {
    side: Option<usize>,
    input: Input,
    outputs: Vec<String>,
    metadata: BTreeMap<String, String>,
    results: Vec<WrittenShape>,
    steps: S,
}

#[derive(Serialize, Deserialize)]
struct Written<K> {
    name: String,
    links: Vec<WrittenLink<K>>,
    from: Option<WrittenShape>,
    other: Option<WrittenShape>,
    slot: usize,
}

#[derive(Serialize, Deserialize)]
struct WrittenLink<K> {
    kernel: K,
    made: WrittenShape,
}

/// A shape; the distance of its pixels is one of two.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct WrittenShape {
    slot: usize,
    extent: Extent,
    /// Four numbers a pixel rather than whole blocks.
    is_narrow: bool,
    grid: Option<Grid>,
}

/// Work without its numbers.
#[derive(Serialize, Deserialize)]
enum Kernel<W> {
    Conv(conv::Form),
    Depthwise(depthwise::Form),
    ByteConv(int8::conv::Form),
    ByteDepthwise(int8::depthwise::Form),
    Other(W),
}

/// Returns the bytes of the packed weights of some steps.
pub(crate) fn weights(steps: &[Step]) -> usize {
    let mut numbers = vec![];
    for step in steps {
        Written::of(step, &mut numbers);
    }
    numbers.iter().map(|n| n.len()).sum()
}

impl Description<Vec<Written<Kernel<Work>>>> {
    /// Puts the network together; all of `numbers` are its weights.
    fn whole(self, isa: Isa, mut numbers: Stores) -> Option<Packed> {
        let Self { side, input, outputs, metadata, results, steps } = self;
        let steps: Vec<Step> = steps.into_iter().map(|s| s.whole(isa, &mut numbers)).collect::<Option<_>>()?;
        let results: Vec<Shape> = results.iter().map(WrittenShape::whole).collect::<Option<_>>()?;
        sound::check(&steps, &results, &input)?;
        (numbers.is_empty() && results.len() == outputs.len()).then_some(())?;
        Some(Packed { side, input, outputs, metadata, program: Program::placed(isa, steps, results) })
    }
}

impl<'a> Written<Kernel<&'a Work>> {
    fn of(step: &'a Step, numbers: &mut Vec<&'a [u8]>) -> Self {
        let link = |link: &'a Link| {
            let mut apart = |(form, own): (Kernel<&'a Work>, Vec<&'a [u8]>)| {
                numbers.extend(own);
                form
            };
            let kernel = match &link.work {
                Work::Conv(conv) => apart(named(Kernel::Conv, conv.apart())),
                Work::Depthwise(conv) => apart(named(Kernel::Depthwise, conv.apart())),
                Work::ByteConv(conv) => apart(named(Kernel::ByteConv, conv.apart())),
                Work::ByteDepthwise(conv) => apart(named(Kernel::ByteDepthwise, conv.apart())),
                other => Kernel::Other(other),
            };
            let Link { extent, stride, grid, .. } = *link;
            WrittenLink { kernel, made: WrittenShape::of(&Shape { slot: step.to.slot, extent, stride, grid }) }
        };
        Self {
            links: step.links.iter().map(link).collect(),
            name: step.name.clone(),
            from: step.from.as_ref().map(WrittenShape::of),
            other: step.other.as_ref().map(WrittenShape::of),
            slot: step.to.slot,
        }
    }
}

fn named<F, K>(name: impl Fn(F) -> K, (form, own): (F, Vec<&[u8]>)) -> (K, Vec<&[u8]>) {
    (name(form), own)
}

impl Written<Kernel<Work>> {
    fn whole(self, isa: Isa, numbers: &mut Stores) -> Option<Step> {
        let mut link = |link: WrittenLink<Kernel<Work>>| {
            let work = match link.kernel {
                Kernel::Conv(form) => Work::Conv(Conv::whole(form, numbers)?),
                Kernel::Depthwise(form) => Work::Depthwise(Depthwise::whole(form, numbers)?),
                Kernel::ByteConv(form) => Work::ByteConv(int8::conv::Conv::whole(isa, form, numbers)?),
                Kernel::ByteDepthwise(form) => {
                    Work::ByteDepthwise(int8::depthwise::Depthwise::whole(isa, form, numbers)?)
                }
                Kernel::Other(work) => work,
            };
            let Shape { extent, stride, grid, .. } = link.made.whole()?;
            Some(Link { work, extent, stride, grid })
        };
        let links: Vec<Link> = self.links.into_iter().map(&mut link).collect::<Option<_>>()?;
        let shape = |written: Option<WrittenShape>| match written {
            Some(written) => written.whole().map(Some),
            None => Some(None),
        };
        let last = links.last()?;
        let to = Shape { slot: self.slot, extent: last.extent, stride: last.stride, grid: last.grid };
        Some(Step { name: self.name, from: shape(self.from)?, other: shape(self.other)?, to, links })
    }
}

impl WrittenShape {
    fn of(shape: &Shape) -> Self {
        let Shape { slot, extent, stride, grid } = *shape;
        Self { slot, extent, is_narrow: stride == NARROW, grid }
    }

    fn whole(&self) -> Option<Shape> {
        let Self { slot, extent, is_narrow, grid } = *self;
        (extent.channels <= crate::compile::MAX_ACTIVATION).then_some(())?;
        let stride = if is_narrow { NARROW } else { padded(extent.channels) };
        Some(Shape { slot, extent, stride, grid })
    }
}

const MAGIC: &[u8; 8] = b"GRAFTPKD";
const VERSION: u32 = 1;
/// Bytes before the description.
const FRONT: usize = 96;
/// Where what is summed begins.
const SUMMED: usize = 16;
/// Weights begin on a multiple of so many bytes.
const ALIGNED: usize = 64;
/// Numbers a pixel of a narrow picture.
const NARROW: usize = 4;
/// Longest description that is read: tables for each channel of a picture and labels are what is long in it.
const MAX_DESCRIPTION: usize = 16 << 20;
/// Longest file.
const MOST: u64 = 2 << 30;
