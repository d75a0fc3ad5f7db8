//! Steps of an optimiser (`kernels/steps.cu`).

use std::ops::Range;

use anyhow::Result;

use crate::device::Argument::{Address, Count, Real};
use crate::device::{Gpu, Memory, Staging};
use crate::maps::{count, floats};

/// Parameters that lie behind each other, with their gradients and what an optimiser remembers of them.
pub struct Parameters {
    /// f32; there may be more behind those that are trained.
    pub values: Memory,
    /// The values in the numbers of maps, where these are others.
    pub rounded: Option<Memory>,
    /// The gradients, summed up since the last step.
    pub gradient: Memory,
    /// Their first and second moment.
    pub moments: [Memory; 2],
    /// The mean of past values, where one is kept.
    pub average: Option<Memory>,
    /// Numbers that are trained.
    trained: usize,
    stretches: Memory,
    blocks: usize,
    rates: Memory,
    sent: Staging,
}

/// What a step does to a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Learning rate.
    pub rate: f32,
    /// Weight decay.
    pub decay: f32,
}

/// The rule of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// AdamW.
    Adamw {
        /// Weight of the past in the moments.
        betas: [f32; 2],
        /// Added to the root of the second moment.
        epsilon: f32,
        /// Which step it is, from 1.
        count: u64,
    },
    /// SGD with Nesterov's momentum.
    Sgd {
        /// Weight of the past.
        momentum: f32,
    },
}

/// A step of all parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The rule.
    pub rule: Rule,
    /// What is done to each parameter.
    pub rates: Vec<Rate>,
    /// What gradients are multiplied with.
    pub scale: f32,
    /// The longest that they may be together, where that is bounded.
    pub clip: Option<f32>,
    /// The weight of the past in the averages, where these are kept.
    pub average: Option<f32>,
}

/// Numbers of a block.
const STRETCH: usize = 2048;
/// Blocks that sum squares.
const SQUARES: usize = 512;

impl Parameters {
    /// Takes memory for `numbers` values, of which parameters at these places are trained.
    ///
    /// # Errors
    ///
    /// If the GPU has no more.
    pub fn new(gpu: &Gpu, numbers: usize, places: &[Range<usize>]) -> Result<Self> {
        let trained = places.iter().map(|p| p.end).max().unwrap_or(0);
        let stretches: Vec<[u32; 3]> = places
            .iter()
            .enumerate()
            .flat_map(|(i, p)| {
                p.clone().step_by(STRETCH).map(move |from| [from, STRETCH.min(p.end - from), i].map(|n| n as u32))
            })
            .collect();
        let blocks = stretches.len();
        let bytes: Vec<u8> = stretches.into_iter().flatten().flat_map(u32::to_ne_bytes).collect();
        let table = gpu.memory(bytes.len())?;
        let mut sent = gpu.staging(bytes.len().max(places.len() * 8))?;
        sent.bytes()?[..bytes.len()].copy_from_slice(&bytes);
        gpu.send(&mut sent, table.bytes(0..bytes.len()))?;
        let rounded = (gpu.width() != 4).then(|| gpu.map(numbers)).transpose()?;
        Ok(Self {
            values: gpu.zeros(numbers)?,
            rounded,
            gradient: gpu.zeros(trained)?,
            moments: [gpu.zeros(trained)?, gpu.zeros(trained)?],
            average: None,
            trained,
            stretches: table,
            blocks,
            rates: gpu.memory(places.len() * 8)?,
            sent,
        })
    }
}

impl Gpu {
    /// Queues a step, which leaves gradients of zero.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    ///
    /// # Panics
    ///
    /// If there is not a rate for each parameter.
    pub fn step(&self, p: &mut Parameters, step: &Step) -> Result<()> {
        if p.blocks == 0 {
            return Ok(());
        }
        let rates = p.rates.bytes(0..step.rates.len() * 8);
        for (to, rate) in p.sent.bytes()?.chunks_exact_mut(8).zip(&step.rates) {
            to[..4].copy_from_slice(&rate.rate.to_ne_bytes());
            to[4..].copy_from_slice(&rate.decay.to_ne_bytes());
        }
        self.send(&mut p.sent, rates)?;
        let total = step.clip.map(|_| self.squares(p)).transpose()?;
        if step.average.is_some() && p.average.is_none() {
            let average = self.memory(p.trained * 4)?;
            self.copy(p.values.floats(0..p.trained), average.all())?;
            p.average = Some(average);
        }
        let n = p.trained;
        let all = |m: &Memory| floats(m.all(), n);
        let start = [
            Address(p.stretches.all().address),
            Address(p.rates.all().address),
            Real(step.scale),
            Address(total.as_ref().map_or(0, |t| t.all().address)),
            Real(step.clip.unwrap_or(0.0)),
        ];
        let ends = [
            p.average.as_ref().filter(|_| step.average.is_some()).map_or(Address(0), all),
            p.rounded.as_ref().map_or(Address(0), |r| Address(r.all().address)),
        ];
        let now = Real(step.average.map_or(0.0, |past| 1.0 - past));
        let [values, gradient, first, second] = [&p.values, &p.gradient, &p.moments[0], &p.moments[1]].map(all);
        match step.rule {
            Rule::Adamw { betas, epsilon, count } => {
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                let bias = betas.map(|b| 1.0 - f64::from(b).powi(count));
                let corrections = [1.0 / bias[0], 1.0 / bias[1].sqrt()].map(|c| Real(c as f32));
                let rule = [Real(betas[0]), Real(betas[1]), Real(epsilon), corrections[0], corrections[1], now];
                let arguments = start.into_iter().chain(rule).chain([values, gradient, first, second]).chain(ends);
                self.launch("adamw", [p.blocks, 1], &arguments.collect::<Vec<_>>())
            }
            Rule::Sgd { momentum } => {
                let rule = [Real(momentum), now, values, gradient, first];
                let arguments = start.into_iter().chain(rule).chain(ends);
                self.launch("sgd", [p.blocks, 1], &arguments.collect::<Vec<_>>())
            }
        }
    }

    /// Sums the squares of all gradients: an f64.
    fn squares(&self, p: &Parameters) -> Result<Memory> {
        let (partial, total) = (self.memory(SQUARES * 8)?, self.memory(8)?);
        let [to, sum] = [&partial, &total].map(|m| Address(m.all().address));
        self.launch("squares", [SQUARES, 1], &[count(p.trained)?, floats(p.gradient.all(), p.trained), to])?;
        self.launch("square_total", [1, 1], &[to, Count(SQUARES as u32), sum])?;
        Ok(total)
    }
}
