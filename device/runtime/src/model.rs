//! A loaded model: a network, what its pictures are and what its answers mean.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use graft_bundle::MODEL_FILE;
use graft_kernels::Isa;
use graft_zoo::Preprocessing;
use image::RgbImage;
use tract_onnx::pb::GraphProto;

use crate::cache::{Cache, Key, Miss};
use crate::decision::{DECISION, Decision, Standing, Weighed, doubt};
use crate::input::{Input, Kind};
use crate::network::{EngineChoice, Network, Picture, source, unknown_operators};
use crate::outline::Source;
use crate::picture::Region;
use crate::{RuntimeError, graph, picture};

/// Metadata key of the labels, a JSON array of strings in the order of the logits.
pub const LABELS: &str = "graft.labels";
/// Metadata key of the preprocessing, the JSON of [`Preprocessing`].
pub const PREPROCESSING: &str = "graft.preprocessing";
/// Metadata key of the preprocessing's BLAKE3 digest in hex.
pub const PREPROCESSING_DIGEST: &str = "graft.preprocessing_digest";
/// Metadata key of what the model tells: `classes`, which is also meant where it is missing, `tags` or `values`.
pub const TASK: &str = "graft.task";
/// Name of the output that holds one logit a class.
pub const LOGITS: &str = "logits";
/// Largest input side in pixels, and largest `resize_shorter`.
pub const MAX_SIDE: u32 = 4096;

/// A model ready to run. Shared freely between threads.
#[derive(Debug)]
pub struct Model {
    network: Network,
    labels: Vec<String>,
    preprocessing: Preprocessing,
    decision: Option<Decision>,
    metadata: BTreeMap<String, String>,
}

/// What a network says of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// One logit a class.
    pub logits: Vec<f32>,
    /// How far the picture is from those that the model was calibrated on; none where that is not known.
    pub distance: Option<f32>,
}

/// The answer for one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The class with the largest logit, the first of equals.
    pub index: usize,
    /// Its label, or `class N` where the model has no labels.
    pub label: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// One logit a class.
    pub logits: Vec<f32>,
    /// The softmax of the logits, calibrated where the model is.
    pub probabilities: Vec<f32>,
    /// What is to be made of the answer.
    pub standing: Standing,
    /// The labels that it may be, the most probable first; none where the model was not calibrated so.
    pub set: Vec<String>,
    /// How far the picture is from those that the model was calibrated on, 0 to 2; none where that is not known.
    pub distance: Option<f32>,
    /// Why the answer is not to be relied on, for a person; none where it is, or nothing is known of that.
    pub doubt: Option<String>,
    /// Time of preprocessing and network together.
    pub latency: Duration,
}

impl Model {
    /// Loads an ONNX file, or the model of a bundle (`.graft`), whose digests and signature are checked but not whether
    /// its key is trusted.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Io`], [`RuntimeError::TooLong`], [`RuntimeError::Bundle`] and those of [`Model::from_onnx`].
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        Self::load(source(path)?, EngineChoice::Best)
    }

    /// Loads a model from the bytes of an ONNX file.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`] says what a sound model has and what this one has.
    pub fn from_onnx(bytes: &[u8]) -> Result<Self, RuntimeError> {
        Self::load(held(bytes), EngineChoice::Best)
    }

    /// Loads a model of which the BLAKE3 digest is known, from a cache if that has it; else from the bytes of the ONNX file
    /// that `read` gets, and the cache has it afterwards.
    ///
    /// Where it came from is [`Network::loaded`].
    ///
    /// # Errors
    ///
    /// Those of `read` and of [`Model::from_onnx`]. What is wrong with the cache is none.
    pub fn cached<E: From<RuntimeError>>(
        digest: [u8; 32],
        cache: &Cache,
        read: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let key = Key { digest, isa: Isa::best() };
        let because = match cache.load(&key) {
            Ok(packed) => {
                let side = packed.side;
                let (network, metadata) = Network::of(packed);
                match Self::of(network, metadata, side) {
                    Some(model) => return Ok(model),
                    None => Miss::Model,
                }
            }
            Err(because) => because,
        };
        let bytes = read()?;
        let mut source = held(&bytes);
        let mut model = Self::load_from(&mut source, EngineChoice::Best)?;
        let (side, metadata) = (model.preprocessing.crop as usize, model.metadata.clone());
        model.network.keep(cache, key, Some(side), metadata, because, &mut source);
        Ok(model)
    }

    /// Makes a model of what a cache had, if that was kept as one.
    fn of(network: Network, metadata: BTreeMap<String, String>, side: Option<usize>) -> Option<Self> {
        let preprocessing = preprocessing(&metadata).ok()?;
        let labels = labels(&metadata).ok()?;
        let decision = decision(&metadata).ok()?;
        let crop = preprocessing.crop as usize;
        let fits = side == Some(crop) && network.takes_bytes() && network.input() == [1, crop, crop, 3];
        let model = Self { network, labels, preprocessing, decision, metadata };
        (fits && model.check_outputs().is_ok()).then_some(model)
    }

    /// Loads as [`Model::from_onnx`], but for tract alone: what graft's own kernels are compared with.
    #[cfg(test)]
    pub(crate) fn in_tract(bytes: &[u8]) -> Result<Self, RuntimeError> {
        Self::load(held(bytes), EngineChoice::Tract)
    }

    fn load(mut source: Source<'_>, choice: EngineChoice) -> Result<Self, RuntimeError> {
        Self::load_from(&mut source, choice)
    }

    fn load_from(source: &mut Source<'_>, choice: EngineChoice) -> Result<Self, RuntimeError> {
        let outline = graph::read(source)?;
        let metadata = graph::metadata(&outline.model);
        let preprocessing = preprocessing(&metadata)?;
        let labels = labels(&metadata)?;
        let decision = decision(&metadata)?;
        let input = input(&outline.graph, preprocessing.crop)?;
        let network = Network::load(source, outline, input, choice)?;
        let model = Self { network, labels, preprocessing, decision, metadata };
        model.check_outputs()?;
        Ok(model)
    }

    /// Returns what runs, without labels and preprocessing.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Returns the labels in the order of the logits; none where the model has no classifier.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns what is done to a picture before the network.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Returns how logits become an answer, where the model was calibrated.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    /// Returns the engine's name and version, and what of it runs this network.
    pub fn engine(&self) -> String {
        self.network.engine()
    }

    /// Returns the metadata of the file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns the names of the outputs in the order of [`Model::run`].
    pub fn outputs(&self) -> Vec<String> {
        self.network.outputs().to_vec()
    }

    /// Runs one picture, `u8 [crop, crop, 3]`, and returns every output flattened, row-major.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Pixels`] or [`RuntimeError::Engine`].
    pub fn run(&self, pixels: &[u8]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        self.network.run(Picture::Bytes(pixels))
    }

    /// Runs each picture alone, `threads` at a time, and returns the outputs in the order of the pictures.
    ///
    /// `each` is called with the number of pictures done, from any thread. No thread count changes a result.
    ///
    /// # Errors
    ///
    /// The first error of [`Model::run`]; the pictures after it are left out.
    pub fn run_batch(
        &self,
        pixels: &[Vec<u8>],
        threads: usize,
        each: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Vec<f32>>>, RuntimeError> {
        let next = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let results = Mutex::new(vec![Vec::new(); pixels.len()]);
        let failure = Mutex::new(None);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(picture) = pixels.get(index) else {
                    break;
                };
                match self.run(picture) {
                    Ok(outputs) => lock(&results)[index] = outputs,
                    Err(error) => {
                        lock(&failure).get_or_insert(error);
                        next.store(pixels.len(), Ordering::Relaxed);
                        break;
                    }
                }
                each(done.fetch_add(1, Ordering::Relaxed) + 1);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, pixels.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None => Ok(results.into_inner().unwrap_or_else(|e| e.into_inner())),
        }
    }

    /// Runs one picture and returns its logits.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NoLogits`] and those of [`Model::run`].
    pub fn logits(&self, pixels: &[u8]) -> Result<Vec<f32>, RuntimeError> {
        Ok(self.ask(pixels)?.logits)
    }

    /// Runs one picture and returns what the network says of it.
    ///
    /// # Errors
    ///
    /// Those of [`Model::logits`].
    pub fn ask(&self, pixels: &[u8]) -> Result<Said, RuntimeError> {
        let at = self.index(LOGITS).ok_or_else(|| RuntimeError::NoLogits { outputs: self.outputs() })?;
        let mut outputs = self.run(pixels)?;
        let familiar = self.decision.as_ref().and_then(|d| d.familiar.as_ref());
        let distance = familiar.and_then(|f| Some(f.distance(outputs.get(self.index(&f.features)?)?)));
        Ok(Said { logits: outputs.swap_remove(at), distance })
    }

    /// Preprocesses a picture and classifies it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFinite`] and those of [`Model::logits`].
    pub fn classify(&self, picture: &RgbImage) -> Result<Prediction, RuntimeError> {
        let start = Instant::now();
        let said = self.ask(&picture::preprocess(picture, &self.preprocessing))?;
        let latency = start.elapsed();
        self.prediction(said, latency)
    }

    /// Classifies a square part of a larger picture, all of which the network sees: that part is what the middle of a photograph
    /// is, of which the edges are cut off.
    ///
    /// # Errors
    ///
    /// Those of [`Model::classify`].
    pub fn classify_tile(&self, tile: &RgbImage) -> Result<Prediction, RuntimeError> {
        let start = Instant::now();
        let region = Region { x: 0, y: 0, width: tile.width(), height: tile.height() };
        let said = self.ask(&picture::resize_region(tile, region, self.preprocessing.crop))?;
        let latency = start.elapsed();
        self.prediction(said, latency)
    }

    /// Turns what the network said into a prediction.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFinite`], and [`RuntimeError::Labels`] if there is no logit at all.
    pub fn prediction(&self, said: Said, latency: Duration) -> Result<Prediction, RuntimeError> {
        let Said { logits, distance } = said;
        if let Some((class, &found)) = logits.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(RuntimeError::NotFinite { class, found });
        }
        let index = largest(&logits).ok_or(RuntimeError::Labels { labels: self.labels.len(), logits: 0 })?;
        let weighed = self.decision.as_ref().map_or_else(|| Weighed::plain(&logits), |d| d.weigh(&logits, distance));
        Ok(self.told(index, weighed, logits, latency))
    }

    /// Returns the answer of several pictures of one thing: what is made of the means of their probabilities and distances.
    /// Logits and latency are those of the last one. None where there is none, or not all are this model's.
    pub fn together<'a>(&self, seen: impl IntoIterator<Item = &'a Prediction>) -> Option<Prediction> {
        let seen: Vec<&Prediction> = seen.into_iter().collect();
        let last = *seen.last()?;
        let mut probabilities = vec![0.0; last.probabilities.len()];
        let (mut distance, share) = (Some(0.0), 1.0 / seen.len() as f32);
        for prediction in &seen {
            if prediction.probabilities.len() != probabilities.len() {
                return None;
            }
            probabilities.iter_mut().zip(&prediction.probabilities).for_each(|(mean, p)| *mean += share * p);
            distance = distance.zip(prediction.distance).map(|(sum, d)| sum + share * d);
        }
        let index = largest(&probabilities)?;
        let weighed = match &self.decision {
            Some(decision) => decision.judge(probabilities, distance),
            None => Weighed { probabilities, standing: Standing::Unknown, set: vec![], distance },
        };
        Some(self.told(index, weighed, last.logits.clone(), last.latency))
    }

    fn told(&self, index: usize, weighed: Weighed, logits: Vec<f32>, latency: Duration) -> Prediction {
        let Weighed { probabilities, standing, set, distance } = weighed;
        let label = self.label(index);
        let set: Vec<String> = set.into_iter().map(|i| self.label(i)).collect();
        let doubt = doubt(standing, &label, &set);
        let probability = probabilities.get(index).copied().unwrap_or_default();
        Prediction { index, label, probability, logits, probabilities, standing, set, distance, doubt, latency }
    }

    /// Returns the label of a class, or `class N` where the model has no labels.
    pub fn label(&self, class: usize) -> String {
        self.labels.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }

    fn index(&self, output: &str) -> Option<usize> {
        self.network.outputs().iter().position(|name| name == output)
    }

    /// Makes sure that the network has the outputs that labels and decision are about.
    fn check_outputs(&self) -> Result<(), RuntimeError> {
        if let Some(familiar) = self.decision.as_ref().and_then(|d| d.familiar.as_ref()) {
            let refused =
                |found| RuntimeError::BadMetadata { key: DECISION, expected: "features among the outputs", found };
            let at = self.index(&familiar.features);
            let at = at.ok_or_else(|| refused(format!("{} among {}", familiar.features, self.outputs().join(", "))))?;
            let parts = familiar.means.first().map_or(0, crate::decision::Direction::len);
            if let Some(n) = self.network.output_len(at)?.filter(|&n| n != parts) {
                return Err(refused(format!("{n} numbers of {} and means of {parts}", familiar.features)));
            }
        }
        let labels = self.labels.len();
        if labels == 0 {
            return Ok(());
        }
        let at = self.index(LOGITS).ok_or_else(|| RuntimeError::NoLogits { outputs: self.outputs() })?;
        let logits = self.network.output_len(at)?;
        // A shape that depends on data is settled by running once.
        let logits = match logits {
            Some(n) => n,
            None => {
                let side = self.preprocessing.crop as usize;
                self.logits(&vec![0; side * side * 3])?.len()
            }
        };
        if logits == labels { Ok(()) } else { Err(RuntimeError::Labels { labels, logits }) }
    }
}

/// Returns the names of the operators in an ONNX file that the engine cannot run, none if it runs all of them.
///
/// Looks every operator up, then loads, optimises and runs the graph on a black picture: an operator may be known
/// and still refuse its attributes or types. An export asks this on the host, so that the board never has to.
///
/// # Errors
///
/// As [`Model::from_onnx`], where no operator is to blame.
pub fn unsupported_operators(onnx: &[u8]) -> Result<Vec<String>, RuntimeError> {
    let graph = graph::read(&mut held(onnx))?.graph;
    let unknown = unknown_operators(&graph);
    if !unknown.is_empty() {
        return Ok(unknown);
    }
    let outcome = Model::from_onnx(onnx).and_then(|model| {
        let side = model.preprocessing.crop as usize;
        model.run(&vec![0; side * side * 3])
    });
    match outcome {
        Ok(_) => Ok(Vec::new()),
        Err(error @ RuntimeError::Engine { .. }) => match blamed_operator(&graph, &error) {
            Some(name) => Ok(vec![name]),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn held(onnx: &[u8]) -> Source<'_> {
    Source::held(Path::new(MODEL_FILE), onnx)
}

/// Returns the graph's input, which must be what the preprocessing makes: `u8 [n, side, side, 3]`.
fn input(graph: &GraphProto, side: u32) -> Result<Input, RuntimeError> {
    let refused = || RuntimeError::Input {
        expected: format!("u8 [n, {side}, {side}, 3]"),
        found: graph::inputs(graph).iter().map(|i| graph::describe(i)).collect::<Vec<_>>().join(" and "),
    };
    let side = side as usize;
    let input = Input::of(graph, Some(side)).map_err(|_| refused())?;
    let fits = input.kind == Kind::Bytes && input.dims() == [1, side, side, 3];
    if fits { Ok(input) } else { Err(refused()) }
}

fn preprocessing(metadata: &BTreeMap<String, String>) -> Result<Preprocessing, RuntimeError> {
    let entry = |key: &'static str| {
        metadata.get(key).ok_or_else(|| RuntimeError::MissingMetadata {
            key,
            found: if metadata.is_empty() {
                "no metadata".to_owned()
            } else {
                metadata.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            },
        })
    };
    let bad = |expected, found: String| RuntimeError::BadMetadata { key: PREPROCESSING, expected, found };
    let p: Preprocessing = serde_json::from_str(entry(PREPROCESSING)?)
        .map_err(|e| bad("a preprocessing definition in JSON", e.to_string()))?;
    let (expected, found) = (entry(PREPROCESSING_DIGEST)?.clone(), p.digest());
    if expected != found {
        return Err(RuntimeError::PreprocessingDigest { expected, found });
    }
    let sides = 1 <= p.crop && p.crop <= p.resize_shorter && p.resize_shorter <= MAX_SIDE;
    if !sides {
        let found = format!("crop {} and resize_shorter {}", p.crop, p.resize_shorter);
        return Err(bad("1 <= crop <= resize_shorter <= 4096", found));
    }
    if !p.mean.iter().chain(&p.std).all(|v| v.is_finite()) || p.std.contains(&0.0) {
        let found = format!("mean {:?} and std {:?}", p.mean, p.std);
        return Err(bad("finite mean and std, no std of 0", found));
    }
    Ok(p)
}

fn labels(metadata: &BTreeMap<String, String>) -> Result<Vec<String>, RuntimeError> {
    metadata.get(LABELS).map_or(Ok(Vec::new()), |text| {
        serde_json::from_str(text).map_err(|e| RuntimeError::BadMetadata {
            key: LABELS,
            expected: "a JSON array of strings",
            found: e.to_string(),
        })
    })
}

fn decision(metadata: &BTreeMap<String, String>) -> Result<Option<Decision>, RuntimeError> {
    let parsed = metadata.get(DECISION).map(|text| Decision::parse(text)).transpose();
    parsed.map_err(|found| RuntimeError::BadMetadata {
        key: DECISION,
        expected: "how this version of graft decides",
        found,
    })
}

/// Finds the node that the engine's message names, the longest name first, and returns its operator.
fn blamed_operator(graph: &GraphProto, error: &RuntimeError) -> Option<String> {
    let RuntimeError::Engine { source, .. } = error else {
        return None;
    };
    let text = format!("{source:#}");
    let mut nodes: Vec<_> = graph.node.iter().filter(|n| !n.name.is_empty()).collect();
    nodes.sort_by_key(|n| std::cmp::Reverse(n.name.len()));
    let names = |name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let before = text[..at].chars().next_back();
            !word(before) && !word(text[at + name.len()..].chars().next())
        })
    };
    nodes.iter().find(|n| names(&n.name)).map(|n| n.op_type.clone())
}

/// Returns the place of the largest number, the first of equals.
fn largest(values: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (index, &value) in values.iter().enumerate() {
        if best.is_none_or(|(_, b)| value > b) {
            best = Some((index, value));
        }
    }
    best.map(|(index, _)| index)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding it; a poisoned lock holds whole values.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
pub(crate) mod tests;
