//! A loaded network: what runs it, without what a picture means.
//!
//! The only file that drives tract, which runs the graphs that `compile` does not recognise. Loading and running are
//! wrapped in `catch_unwind`: a graph that makes the engine panic becomes [`RuntimeError::Engine`] (the panic's own
//! message still goes to standard error). No activation is larger than a bound. Not guarded against: many large ones
//! together, or endless arithmetic; on the device only bundles of trusted signers are loaded.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use graft_bundle::{Bundle, Head, MODEL_FILE};
use graft_kernels::Isa;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::Datum;
use tract_onnx::prelude::{
    Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, TractResult, TypedModel,
    TypedSimplePlan,
};

use crate::cache::{self, Cache, Key, Loaded, Miss, Packed};
use crate::compile::MAX_ACTIVATION;
use crate::input::{Input, Kind};
use crate::outline::{Outline, Source};
use crate::program::{Explained, Program};
use crate::{ENGINE, RuntimeError, compile, graph, lower};

/// A network ready to run. Shared freely between threads.
#[derive(Debug)]
pub struct Network {
    engine: Engine,
    input: Input,
    outputs: Vec<String>,
    loaded: Loaded,
}

/// Which engine may run a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// Graft's kernels where they know every operator, for the fastest instruction set of this machine; else tract.
    Best,
    /// The same for an instruction set that this machine has, to compare them.
    Kernels(Isa),
    /// Tract alone, to compare with.
    Tract,
}

/// One picture as a network takes it.
#[derive(Debug, Clone, Copy)]
pub enum Picture<'a> {
    /// `u8`, in the order of the network's input.
    Bytes(&'a [u8]),
    /// `f32`, in the order of the network's input.
    Floats(&'a [f32]),
}

impl EngineChoice {
    /// Returns the instruction set for which kernels are asked, if they are.
    fn isa(self) -> Option<Isa> {
        match self {
            Self::Best => Some(Isa::best()),
            Self::Kernels(isa) => Some(isa),
            Self::Tract => None,
        }
    }
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

impl Network {
    /// Loads an ONNX file, or the model of a bundle (`.graft`), of one picture as input: `u8` or `f32`, `[1, h, w, c]` or
    /// `[1, c, h, w]`.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`] says what a sound network has and what this one has.
    pub fn open(path: &Path, choice: EngineChoice) -> Result<Self, RuntimeError> {
        Self::read(source(path)?, choice)
    }

    /// Loads a network from the bytes of an ONNX file.
    ///
    /// # Errors
    ///
    /// As [`Network::open`].
    pub fn from_onnx(bytes: &[u8], choice: EngineChoice) -> Result<Self, RuntimeError> {
        Self::read(Source::held(Path::new(MODEL_FILE), bytes), choice)
    }

    /// Loads as [`Network::open`], from a cache if that has the network; else the cache has it afterwards.
    ///
    /// Where it came from is [`Network::loaded`]. Of a bundle that the cache has, only the head is read and checked.
    ///
    /// # Errors
    ///
    /// As [`Network::open`]. What is wrong with the cache is none.
    pub fn open_cached(path: &Path, choice: EngineChoice, cache: &Cache) -> Result<Self, RuntimeError> {
        let Some(isa) = choice.isa().filter(|isa| isa.is_available()) else { return Self::open(path, choice) };
        let mut source = None;
        let digest = match is_bundle(path) {
            true => Head::read(&mut opened(path)?)?.manifest().file(MODEL_FILE)?.digest.0,
            false => source.insert(Source::open(path)?).digest()?,
        };
        let because = match cache.load(&Key { digest, isa }) {
            Ok(packed) if packed.side.is_none() => return Ok(Self::of(packed).0),
            Ok(_) => Miss::Model,
            Err(because) => because,
        };
        let (mut source, digest) = match source {
            Some(source) => (source, digest),
            None => {
                let bundle = Bundle::open(path)?;
                (Source::held(path, bundle.file(MODEL_FILE)?), bundle.manifest().file(MODEL_FILE)?.digest.0)
            }
        };
        let outline = graph::read(&mut source)?;
        let metadata = graph::metadata(&outline.model);
        let input = Input::of(&outline.graph, None)?;
        let mut network = Self::load(&mut source, outline, input, choice)?;
        network.keep(cache, Key { digest, isa }, None, metadata, because, &mut source);
        Ok(network)
    }

    fn read(mut source: Source<'_>, choice: EngineChoice) -> Result<Self, RuntimeError> {
        let outline = graph::read(&mut source)?;
        let input = Input::of(&outline.graph, None)?;
        Self::load(&mut source, outline, input, choice)
    }

    /// Returns what a cache had, and the metadata.
    pub(crate) fn of(packed: Packed) -> (Self, BTreeMap<String, String>) {
        let Packed { input, outputs, metadata, program, .. } = packed;
        (Self { engine: Engine::Kernels(Box::new(program)), input, outputs, loaded: Loaded::Cache }, metadata)
    }

    /// Has a cache keep the network, unless the model was changed while it was read: then its digest is not `key`'s.
    pub(crate) fn keep(
        &mut self,
        cache: &Cache,
        key: Key,
        side: Option<usize>,
        metadata: BTreeMap<String, String>,
        because: Miss,
        source: &mut Source<'_>,
    ) {
        let not_kept = match &self.engine {
            Engine::Tract { .. } => Some("tract runs the network, and what it makes is not kept".to_owned()),
            Engine::Kernels(_) if source.is_in_parts() => {
                Some("some of its numbers are in other files, which may change while the model does not".to_owned())
            }
            Engine::Kernels(program) if source.digest().is_ok_and(|found| found == key.digest) => {
                let (input, outputs) = (self.input.clone(), self.outputs.clone());
                let kept = cache.keep(&key, &Packed { side, input, outputs, metadata, program: &**program });
                kept.err().map(|e| e.to_string())
            }
            Engine::Kernels(_) => Some("the model was changed meanwhile".to_owned()),
        };
        self.loaded = Loaded::Rebuilt { because, not_kept };
    }

    /// Loads a model whose outline was read from `source`.
    pub(crate) fn load(
        source: &mut Source<'_>,
        mut outline: Outline,
        input: Input,
        choice: EngineChoice,
    ) -> Result<Self, RuntimeError> {
        let outputs = outline.graph.output.iter().map(|o| o.name.clone()).collect();
        let because = match choice.isa() {
            None => "nothing: tract was asked for".to_owned(),
            Some(isa) => {
                let constants = source.constants(&mut outline)?;
                let compiled = guarded("compile the model", || {
                    anyhow::ensure!(isa.is_available(), "this machine does not have {}", isa.name());
                    Ok(compile::compile(&outline.graph, constants, &input).map(|plan| lower::lower(plan, isa)))
                })?;
                match compiled {
                    Ok(program) => {
                        let engine = Engine::Kernels(Box::new(program));
                        return Ok(Self { engine, input, outputs, loaded: Loaded::Model });
                    }
                    Err(because) => because,
                }
            }
        };
        // The compiler takes the constants, so tract gets them anew.
        let outline = graph::read(source)?;
        let proto = source.whole(outline)?;
        Ok(Self { engine: tract(&proto, &input, because)?, input, outputs, loaded: Loaded::Model })
    }

    /// Returns the operator because of which tract runs the whole network, slower; none where graft's own kernels do.
    pub fn unrecognised(&self) -> Option<&str> {
        match &self.engine {
            Engine::Kernels(_) => None,
            Engine::Tract { because, .. } => Some(because),
        }
    }

    /// Returns where the network came from.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Returns the engine's name and version, and what of it runs this network.
    pub fn engine(&self) -> String {
        match &self.engine {
            Engine::Kernels(program) => format!("{ENGINE} (kernels for {})", program.isa()),
            Engine::Tract { .. } => format!("{ENGINE} (tract 0.23.9)"),
        }
    }

    /// Returns the bytes that the network needs for one picture at a time: packed weights, activations, and what kernels work
    /// in; none where tract runs it, which does not tell.
    pub fn memory(&self) -> Option<usize> {
        match &self.engine {
            Engine::Kernels(program) => Some(cache::weights(program.parts().0) + program.working()),
            Engine::Tract { .. } => None,
        }
    }

    /// Has `threads` threads share the work of a picture. Tract keeps to one.
    pub fn set_threads(&mut self, threads: usize) {
        if let Engine::Kernels(program) = &mut self.engine {
            program.set_threads(threads);
        }
    }

    /// Returns the names of the outputs in the order of [`Network::run`].
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Whether the input is of bytes rather than floats.
    pub fn takes_bytes(&self) -> bool {
        self.input.kind == Kind::Bytes
    }

    /// Returns the shape of the input.
    pub fn input(&self) -> [usize; 4] {
        self.input.dims()
    }

    /// Runs one picture and returns every output flattened, row-major.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Pixels`] or [`RuntimeError::Engine`].
    pub fn run(&self, picture: Picture<'_>) -> Result<Vec<Vec<f32>>, RuntimeError> {
        self.check(picture)?;
        guarded("run the model", || {
            let plan = match &self.engine {
                Engine::Kernels(program) => return Ok(program.run(picture)),
                Engine::Tract { plan, .. } => plan,
            };
            let dims = self.input.dims();
            let input = match picture {
                Picture::Bytes(bytes) => Tensor::from_shape(&dims, bytes)?,
                Picture::Floats(numbers) => Tensor::from_shape(&dims, numbers)?,
            };
            let outputs = plan.run([input.into_tvalue()].into_iter().collect())?;
            outputs
                .iter()
                .map(|value| {
                    let floats = value.cast_to::<f32>()?;
                    Ok(floats.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
                })
                .collect()
        })
    }

    /// Times every step on one picture; none where tract runs the network.
    ///
    /// # Errors
    ///
    /// As [`Network::run`].
    pub fn explain(&self, picture: Picture<'_>, runs: usize) -> Result<Option<Vec<Explained>>, RuntimeError> {
        self.check(picture)?;
        Ok(match &self.engine {
            Engine::Kernels(program) => Some(program.explain(picture, runs)),
            Engine::Tract { .. } => None,
        })
    }

    /// Returns how many numbers an output has, or none where that depends on the picture.
    pub(crate) fn output_len(&self, index: usize) -> Result<Option<usize>, RuntimeError> {
        guarded("read the shape of an output", || {
            let plan = match &self.engine {
                Engine::Kernels(program) => return Ok(Some(program.output_len(index))),
                Engine::Tract { plan, .. } => plan,
            };
            Ok(plan.model().output_fact(index)?.shape.as_concrete().map(|s| s.iter().product::<usize>()))
        })
    }

    fn check(&self, picture: Picture<'_>) -> Result<(), RuntimeError> {
        let (expected, found) = match (picture, self.input.kind) {
            (Picture::Bytes(bytes), Kind::Bytes) => (self.input.len(), bytes.len()),
            (Picture::Floats(numbers), Kind::Floats) => (self.input.len(), numbers.len()),
            // Of the wrong kind is as good as none.
            _ => (self.input.len(), 0),
        };
        if expected == found { Ok(()) } else { Err(RuntimeError::Pixels { expected, found }) }
    }
}

/// Opens an ONNX file, or the model of a bundle (`.graft`).
pub(crate) fn source(path: &Path) -> Result<Source<'static>, RuntimeError> {
    if is_bundle(path) {
        return Ok(Source::held(path, Bundle::open(path)?.file(MODEL_FILE)?));
    }
    Source::open(path)
}

fn is_bundle(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "graft")
}

fn opened(path: &Path) -> Result<File, RuntimeError> {
    File::open(path).map_err(|source| RuntimeError::Io { path: path.to_owned(), source })
}

/// Returns the operators of a graph that tract does not know.
pub(crate) fn unknown_operators(graph: &GraphProto) -> Vec<String> {
    let known = tract_onnx::onnx().op_register.0;
    let mut names = Vec::new();
    graph::walk(graph, &mut |node| {
        // tract does not look at domains: it would take another's Relu for ONNX's.
        match node.domain.as_str() {
            "" | "ai.onnx" | "ai.onnx.ml" if known.contains_key(&node.op_type) => {}
            "" | "ai.onnx" => names.push(node.op_type.clone()),
            domain => names.push(format!("{domain}.{}", node.op_type)),
        }
    });
    names.sort();
    names.dedup();
    names
}

fn tract(proto: &ModelProto, input: &Input, because: String) -> Result<Engine, RuntimeError> {
    let names = proto.graph.as_ref().map(unknown_operators).unwrap_or_default();
    if !names.is_empty() {
        return Err(RuntimeError::UnsupportedOperators { names });
    }
    let kind = match input.kind {
        Kind::Bytes => u8::datum_type(),
        Kind::Floats => f32::datum_type(),
    };
    let plan = guarded("load the model into tract", || {
        let fact = InferenceFact::dt_shape(kind, input.dims());
        let model = tract_onnx::onnx().model_for_proto_model(proto)?.with_input_fact(0, fact)?.into_typed()?;
        // Before constants are folded, and after.
        check_sizes(&model)?;
        let model = model.into_optimized()?;
        check_sizes(&model)?;
        model.into_runnable()
    })?;
    Ok(Engine::Tract { plan, because })
}

/// Checks that no activation is larger than the compiler takes: there may be no memory for it, which ends the process.
fn check_sizes(model: &TypedModel) -> TractResult<()> {
    for node in model.nodes() {
        for output in &node.outputs {
            let Some(shape) = output.fact.shape.as_concrete() else { continue };
            let len = shape.iter().try_fold(1usize, |len, side| len.checked_mul(*side));
            let fits = len.is_some_and(|len| len <= MAX_ACTIVATION);
            anyhow::ensure!(fits, "expected at most {MAX_ACTIVATION} numbers from {}, found {shape:?}", node.name);
        }
    }
    Ok(())
}

/// Calls into the engine, turning its errors and panics into ours.
pub(crate) fn guarded<T>(doing: &'static str, call: impl FnOnce() -> TractResult<T>) -> Result<T, RuntimeError> {
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

/// Writes the softmax of as many logits.
pub fn softmax(logits: &[f32], probabilities: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for (p, v) in probabilities.iter_mut().zip(logits) {
        *p = (v - max).exp();
    }
    let total: f32 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|p| *p /= total);
}
