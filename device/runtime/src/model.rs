//! A loaded model: its metadata, and running pictures through it.
//!
//! The only file that drives tract, which runs the graphs that `compile` does not recognise. Loading and running are
//! wrapped in `catch_unwind`: a graph that makes the engine panic becomes [`RuntimeError::Engine`] (the panic's own
//! message still goes to standard error). Not guarded against: a graph that asks for more memory than there is, or for
//! endless arithmetic; on the device only bundles of trusted signers are loaded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use graft_bundle::{Bundle, MODEL_FILE};
use graft_zoo::Preprocessing;
use image::RgbImage;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::Datum;
use tract_onnx::prelude::{
    Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, TractResult, TypedSimplePlan, tvec,
};

use crate::graph::{self, MAX_MODEL_LEN};
use crate::program::{Explained, Program};
use crate::{ENGINE, RuntimeError, compile, picture};

/// Metadata key of the labels, a JSON array of strings in the order of the logits.
pub const LABELS: &str = "graft.labels";
/// Metadata key of the preprocessing, the JSON of [`Preprocessing`].
pub const PREPROCESSING: &str = "graft.preprocessing";
/// Metadata key of the preprocessing's BLAKE3 digest in hex.
pub const PREPROCESSING_DIGEST: &str = "graft.preprocessing_digest";
/// Name of the output that holds one logit a class.
pub const LOGITS: &str = "logits";
/// Largest input side in pixels, and largest `resize_shorter`.
pub const MAX_SIDE: u32 = 4096;

/// A model ready to run. Shared freely between threads.
#[derive(Debug)]
pub struct Model {
    engine: Engine,
    labels: Vec<String>,
    preprocessing: Preprocessing,
    metadata: BTreeMap<String, String>,
    outputs: Vec<String>,
}

/// What runs the network.
#[derive(Debug)]
enum Engine {
    Kernels(Box<Program>),
    Tract {
        plan: Arc<TypedSimplePlan>,
        /// The operator that the compiler does not know.
        because: String,
    },
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
    /// The softmax of the logits.
    pub probabilities: Vec<f32>,
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
        if path.extension().is_some_and(|e| e == "graft") {
            return Self::from_onnx(&Bundle::open(path)?.file(MODEL_FILE)?);
        }
        Self::from_onnx(&read(path)?)
    }

    /// Loads a model from the bytes of an ONNX file.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`] says what a sound model has and what this one has.
    pub fn from_onnx(bytes: &[u8]) -> Result<Self, RuntimeError> {
        Self::load(bytes, engine)
    }

    /// Loads as [`Model::from_onnx`], but for tract alone: what graft's own kernels are compared with.
    #[cfg(test)]
    pub(crate) fn in_tract(bytes: &[u8]) -> Result<Self, RuntimeError> {
        Self::load(bytes, |proto, graph, side| tract(proto, graph, side, "nothing: tract was asked for".to_owned()))
    }

    fn load(
        bytes: &[u8],
        engine: impl FnOnce(ModelProto, GraphProto, u32) -> Result<Engine, RuntimeError>,
    ) -> Result<Self, RuntimeError> {
        let (proto, graph) = graph::read(bytes)?;
        let metadata = graph::metadata(&proto);
        let preprocessing = preprocessing(&metadata)?;
        let labels = labels(&metadata)?;
        graph::check_input(&graph, preprocessing.crop)?;
        let outputs = graph.output.iter().map(|o| o.name.clone()).collect();
        let engine = engine(proto, graph, preprocessing.crop)?;
        let model = Self { engine, labels, preprocessing, metadata, outputs };
        model.check_labels()?;
        Ok(model)
    }

    /// Returns the labels in the order of the logits; none where the model has no classifier.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns what is done to a picture before the network.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Returns the operator because of which tract runs the whole network, slower; none where graft's own kernels do.
    pub fn unrecognised(&self) -> Option<&str> {
        match &self.engine {
            Engine::Kernels(_) => None,
            Engine::Tract { because, .. } => Some(because),
        }
    }

    /// Returns the engine's name and version, and what of it runs this network.
    pub fn engine(&self) -> String {
        match &self.engine {
            Engine::Kernels(program) => format!("{ENGINE} (kernels for {})", program.isa()),
            Engine::Tract { .. } => format!("{ENGINE} (tract 0.23.9)"),
        }
    }

    /// Times every step on a grey picture; none where tract runs the network.
    pub fn explain(&self, runs: usize) -> Option<Vec<Explained>> {
        match &self.engine {
            Engine::Kernels(program) => {
                let side = self.preprocessing.crop as usize;
                Some(program.explain(&vec![127; side * side * 3], runs))
            }
            Engine::Tract { .. } => None,
        }
    }

    /// Returns the metadata of the file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns the names of the outputs in the order of [`Model::run`].
    pub fn outputs(&self) -> Vec<String> {
        self.outputs.clone()
    }

    /// Runs one picture, `u8 [crop, crop, 3]`, and returns every output flattened, row-major.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Pixels`] or [`RuntimeError::Engine`].
    pub fn run(&self, pixels: &[u8]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let side = self.preprocessing.crop as usize;
        let expected = side * side * 3;
        if pixels.len() != expected {
            return Err(RuntimeError::Pixels { expected, found: pixels.len() });
        }
        guarded("run the model", || {
            let plan = match &self.engine {
                Engine::Kernels(program) => return Ok(program.run(pixels)),
                Engine::Tract { plan, .. } => plan,
            };
            let input = Tensor::from_shape(&[1, side, side, 3], pixels)?;
            let outputs = plan.run(tvec!(input.into_tvalue()))?;
            outputs
                .iter()
                .map(|value| {
                    let floats = value.cast_to::<f32>()?;
                    Ok(floats.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
                })
                .collect()
        })
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
        let at = self.logits_index().ok_or_else(|| RuntimeError::NoLogits { outputs: self.outputs.clone() })?;
        Ok(self.run(pixels)?.swap_remove(at))
    }

    /// Preprocesses a picture and classifies it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFinite`] and those of [`Model::logits`].
    pub fn classify(&self, picture: &RgbImage) -> Result<Prediction, RuntimeError> {
        let start = Instant::now();
        let logits = self.logits(&picture::preprocess(picture, &self.preprocessing))?;
        let latency = start.elapsed();
        self.prediction(logits, latency)
    }

    /// Turns logits into a prediction.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFinite`], and [`RuntimeError::Labels`] if there is no logit at all.
    pub fn prediction(&self, logits: Vec<f32>, latency: Duration) -> Result<Prediction, RuntimeError> {
        if let Some((class, &found)) = logits.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(RuntimeError::NotFinite { class, found });
        }
        let mut best: Option<(usize, f32)> = None;
        for (index, &value) in logits.iter().enumerate() {
            if best.is_none_or(|(_, b)| value > b) {
                best = Some((index, value));
            }
        }
        let Some((index, _)) = best else {
            return Err(RuntimeError::Labels { labels: self.labels.len(), logits: 0 });
        };
        let probabilities = softmax(&logits);
        Ok(Prediction {
            index,
            label: self.labels.get(index).cloned().unwrap_or_else(|| format!("class {index}")),
            probability: probabilities[index],
            logits,
            probabilities,
            latency,
        })
    }

    fn logits_index(&self) -> Option<usize> {
        self.outputs.iter().position(|name| name == LOGITS)
    }

    fn check_labels(&self) -> Result<(), RuntimeError> {
        let labels = self.labels.len();
        if labels == 0 {
            return Ok(());
        }
        let at = self.logits_index().ok_or_else(|| RuntimeError::NoLogits { outputs: self.outputs.clone() })?;
        let logits = guarded("read the shape of the logits", || {
            let plan = match &self.engine {
                Engine::Kernels(program) => return Ok(Some(program.output_len(at))),
                Engine::Tract { plan, .. } => plan,
            };
            let fact = plan.model().output_fact(at)?;
            Ok(fact.shape.as_concrete().map(|s| s.iter().product::<usize>()))
        })?;
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
    let (_, graph) = graph::read(onnx)?;
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

/// Reads a file of at most [`MAX_MODEL_LEN`] bytes.
fn read(path: &Path) -> Result<Vec<u8>, RuntimeError> {
    let io = |source| RuntimeError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_MODEL_LEN + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
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

fn unknown_operators(graph: &GraphProto) -> Vec<String> {
    let known = tract_onnx::onnx().op_register.0;
    let mut names = Vec::new();
    graph::walk(graph, &mut |node| {
        if !known.contains_key(&node.op_type) {
            names.push(node.op_type.clone());
        }
    });
    names.sort();
    names.dedup();
    names
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

/// Compiles a graph for our kernels, or gives it to tract.
fn engine(proto: ModelProto, graph: GraphProto, side: u32) -> Result<Engine, RuntimeError> {
    match guarded("compile the model", || Ok(compile::compile(&graph, side as usize)))? {
        Ok(program) => Ok(Engine::Kernels(Box::new(program))),
        Err(because) => tract(proto, graph, side, because),
    }
}

fn tract(mut proto: ModelProto, graph: GraphProto, side: u32, because: String) -> Result<Engine, RuntimeError> {
    let names = unknown_operators(&graph);
    if !names.is_empty() {
        return Err(RuntimeError::UnsupportedOperators { names });
    }
    proto.graph = Some(graph);
    let side = side as usize;
    let plan = guarded("load the model into tract", || {
        let fact = InferenceFact::dt_shape(u8::datum_type(), tvec!(1, side, side, 3));
        tract_onnx::onnx().model_for_proto_model(&proto)?.with_input_fact(0, fact)?.into_optimized()?.into_runnable()
    })?;
    Ok(Engine::Tract { plan, because })
}

/// Calls into the engine, turning its errors and panics into ours.
fn guarded<T>(doing: &'static str, call: impl FnOnce() -> TractResult<T>) -> Result<T, RuntimeError> {
    // Nothing outside the call is changed by it, so nothing can be seen half-done afterwards.
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let said = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(anyhow::anyhow!("tract panicked: {said}"))
    });
    outcome.map_err(|source| RuntimeError::Engine { doing, source })
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = logits.iter().map(|v| (v - max).exp()).collect();
    let total: f32 = exps.iter().sum();
    exps.iter().map(|e| e / total).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding it; a poisoned lock holds whole values.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
pub(crate) mod tests;
