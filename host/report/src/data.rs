//! What is reported; serialised, it is the JSON of `graft report`.

use serde::Serialize;

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// The set's name.
    pub data: String,
    /// More facts, each with its name.
    pub facts: Vec<(String, String)>,
    /// What was told of pictures, and how well.
    pub told: Told,
    /// How the model was quantized, where it was.
    pub quantization: Option<Quantization>,
    /// How fast it is.
    pub latency: Latency,
    /// Pictures that could not be read, each with the reason.
    pub skipped: Vec<(String, String)>,
}

/// What was told of pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// One class of several.
    Classes(Box<Classes>),
    /// Tags, of which several may hold.
    Tags {
        /// Pictures.
        n: usize,
        /// Mean of the tags' F1.
        macro_f1: f64,
        /// One entry a tag.
        tags: Vec<Tag>,
    },
    /// Numbers.
    Values {
        /// Pictures.
        n: usize,
        /// One entry a value.
        values: Vec<Value>,
    },
}

/// A share with its 95 % interval; all are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// How many.
    pub hits: usize,
    /// Of how many.
    pub n: usize,
    /// The share; 0 of none.
    pub share: f64,
    /// Both ends of the interval.
    pub interval: [f64; 2],
}

/// What was found of classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classes {
    /// Pictures whose most probable class is the true one.
    pub top1: Share,
    /// Mean of the classes' F1.
    pub macro_f1: f64,
    /// One entry a class, in the order of the model's labels.
    pub classes: Vec<ClassRow>,
    /// `confusion[truth][answer]` counts pictures.
    pub confusion: Vec<Vec<usize>>,
    /// One entry a group (a site, a field), the worst first; none where the pictures have none.
    pub groups: Vec<GroupRow>,
    /// How far probabilities are from the share of right answers.
    pub calibration: Calibration,
    /// What is gained by answering less often.
    pub coverage: Coverage,
    /// Wrong answers, the most confident first.
    pub mistakes: Vec<Mistake>,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassRow {
    /// Its label.
    pub label: String,
    /// Its pictures that are found.
    pub recall: Share,
    /// Share of right ones among the answers of this class.
    pub precision: f64,
    /// Harmonic mean of recall and precision.
    pub f1: f64,
}

/// A group of pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRow {
    /// Its name.
    pub group: String,
    /// Its pictures that are told right.
    pub right: Share,
    /// Mean over the classes that occur in it of the share of their pictures that is told right.
    pub mean_recall: f64,
}

/// Probabilities against shares of right answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Without the temperature.
    pub before: Vec<Bin>,
    /// Expected calibration error of it.
    pub ece_before: f64,
    /// With the temperature, where the model holds one.
    pub after: Option<Vec<Bin>>,
    /// Expected calibration error of it.
    pub ece_after: Option<f64>,
    /// The temperature.
    pub temperature: Option<f64>,
}

/// Answers of about one probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Mean probability.
    pub probability: f64,
    /// How many of them are right.
    pub right: Share,
}

/// Wrong answers among the most probable ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coverage {
    /// From the fewest answers to all.
    pub points: Vec<Point>,
    /// Mean of the share of wrong answers over all coverages.
    pub area: f64,
    /// Where the model itself draws the line, if it does.
    pub sure: Option<Point>,
}

/// A point of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Answers of at least this probability are given.
    pub at_least: f64,
    /// Share of pictures that are answered.
    pub coverage: f64,
    /// Share of these answers that is wrong.
    pub risk: f64,
}

/// A wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// Its class.
    pub truth: String,
    /// The answer.
    pub answer: String,
    /// Its probability.
    pub probability: f64,
    /// What the network saw.
    #[serde(skip)]
    pub seen: Picture,
    /// The same, with what spoke for the answer marked.
    #[serde(skip)]
    pub marked: Option<Picture>,
}

/// A JPEG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(pub Vec<u8>);

/// A tag.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tag {
    /// Its name.
    pub label: String,
    /// Pictures with it that are found.
    pub recall: Share,
    /// Pictures with it among those said to have it.
    pub precision: Share,
    /// Harmonic mean of the two.
    pub f1: f64,
}

/// A value of a regression.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Its name.
    pub label: String,
    /// Mean absolute error.
    pub mae: Estimate,
    /// Root of the mean square error.
    pub rmse: f64,
    /// Share of the variance that is explained.
    pub r2: Estimate,
    /// `(true, told)` of each picture.
    pub points: Vec<(f64, f64)>,
}

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Both ends of the interval.
    pub interval: [f64; 2],
}

/// How a model was quantized.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantization {
    /// What was shipped.
    pub shipped: String,
    /// Why.
    pub why: String,
    /// How ranges were chosen, and what was repaired.
    pub method: String,
    /// Layers, that which adds the most noise first.
    pub layers: Vec<Layer>,
    /// What a device measured of it, where one was asked.
    pub device: Option<OnDevice>,
}

/// How fast and large the network was on a device when it was quantized.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnDevice {
    /// Milliseconds of a picture.
    pub ms: f64,
    /// Of the float network there.
    pub float_ms: f64,
    /// Bytes that the engine needs for it.
    pub memory: Option<u64>,
    /// What ran it.
    pub engine: String,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Whether it stayed in f32.
    pub is_float: bool,
    /// Signal over noise in dB; none where nothing is lost.
    pub snr_db: Option<f64>,
    /// Share of the noise of all layers.
    pub share: f64,
}

/// How fast a network is, without decoding and resizing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the runs are faster.
    pub median_ms: f64,
    /// The fastest run.
    pub min_ms: f64,
    /// 95 of 100 runs are faster.
    pub p95_ms: f64,
    /// Runs.
    pub runs: usize,
    /// Threads that shared the work of a picture.
    pub threads: usize,
    /// What ran it.
    pub engine: String,
    /// What it ran on.
    pub machine: String,
}
