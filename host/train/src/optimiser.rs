//! AdamW whose whole state can be saved, and the schedule of its rate.
//!
//! # Source
//!
//! Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101, algorithm 2; the cosine of
//! *SGDR*, arXiv:1608.03983, without restarts.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Tensor as Array, Var};
use graft_zoo::Tensor;
use graft_zoo::weights::Tensors;
use rayon::prelude::*;

/// First and second moments of the gradients of named variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdamW {
    moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
    steps: u64,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f32 = 1e-8;

impl AdamW {
    /// Moves `vars` against their gradients. Weights decay; shifts and scales (`[c]`) do not.
    ///
    /// # Errors
    ///
    /// If a gradient has another shape than its variable, which no network of this crate makes.
    pub(crate) fn step(
        &mut self,
        vars: &BTreeMap<String, Var>,
        gradients: &GradStore,
        rate: f64,
        decay: f64,
    ) -> Result<()> {
        self.steps += 1;
        let t = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (first, second) = (1.0 - BETA1.powi(t), 1.0 - BETA2.powi(t));
        let size = (rate / first) as f32;
        let root = (1.0 / second.sqrt()) as f32;
        for (name, var) in vars {
            let Some(gradient) = gradients.get(var) else { continue };
            let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            ensure!(
                gradient.len() == values.len(),
                "expected a gradient of {} values for {name}, found {}",
                values.len(),
                gradient.len()
            );
            let n = values.len();
            let (m, v) = self.moments.entry(name.clone()).or_insert_with(|| (vec![0.0; n], vec![0.0; n]));
            let keep = if var.rank() > 1 { (1.0 - rate * decay) as f32 } else { 1.0 };
            let moments = m.par_iter_mut().zip(v.par_iter_mut()).with_min_len(4096);
            values.par_iter_mut().zip(moments).zip(&gradient).for_each(|((w, (m, v)), &g)| {
                *m += (g - *m) * (1.0 - BETA1) as f32;
                *v += (g * g - *v) * (1.0 - BETA2) as f32;
                *w = *w * keep - size * *m / (v.sqrt() * root + EPS);
            });
            var.set(&Array::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }

    /// Returns the state as tensors named `m.NAME` and `v.NAME`, and the number of steps.
    pub(crate) fn save(&self) -> (Tensors, u64) {
        let flat = |data: &Vec<f32>| Tensor { shape: vec![data.len()], data: data.clone() };
        let both =
            |(n, (m, v)): (&String, &(Vec<f32>, Vec<f32>))| [(format!("m.{n}"), flat(m)), (format!("v.{n}"), flat(v))];
        (self.moments.iter().flat_map(both).collect(), self.steps)
    }

    /// Takes back what [`AdamW::save`] returned.
    pub(crate) fn load(tensors: &Tensors, steps: u64) -> Self {
        let mut moments = BTreeMap::new();
        for (name, m) in tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("m.")?, t))) {
            if let Some(v) = tensors.get(&format!("v.{name}")) {
                moments.insert(name.to_owned(), (m.data.clone(), v.data.clone()));
            }
        }
        Self { moments, steps }
    }
}

/// Returns the rate of a step: a line up over `warmup` steps, then half a cosine down to zero at `total`.
pub(crate) fn cosine(peak: f64, step: u64, warmup: u64, total: u64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let way = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    peak * 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// PyTorch 2.15: `w = tensor([[1., -2.]]); b = tensor([0.5])`, `AdamW([w, b], lr=0.1, weight_decay=0.01)` for `w`,
    /// 0 for `b`; loss `(w**2).sum() + 3 * b.sum()`, two steps. See `host/train/tests/golden/adamw.py`.
    #[test]
    fn two_steps_equal_pytorch() {
        let w = Var::new(&[[1f32, -2.0]], &Device::Cpu).unwrap();
        let b = Var::new(&[0.5f32], &Device::Cpu).unwrap();
        let vars = BTreeMap::from([("w".to_owned(), w.clone()), ("b".to_owned(), b.clone())]);
        let mut adam = AdamW::default();
        for _ in 0..2 {
            let loss = (w.sqr().unwrap().sum_all().unwrap() + (b.sum_all().unwrap() * 3.0).unwrap()).unwrap();
            adam.step(&vars, &loss.backward().unwrap(), 0.1, 0.01).unwrap();
            // A saved and loaded state goes on the same.
            let (tensors, steps) = adam.save();
            adam = AdamW::load(&tensors, steps);
        }
        let found = [w.flatten_all().unwrap().to_vec1::<f32>().unwrap(), b.to_vec1().unwrap()].concat();
        for (found, expected) in found.iter().zip(GOLDEN) {
            assert!((found - expected).abs() < 2e-6, "{found} {expected}");
        }
    }

    const GOLDEN: [f32; 3] = [0.798_519, -1.796_272_6, 0.3];

    #[test]
    fn the_rate_rises_in_a_line_and_falls_in_a_cosine() {
        let rates: Vec<f64> = (0..=6).map(|s| cosine(1.0, s, 2, 6)).collect();
        let expected = [0.5, 1.0, 1.0, 0.853_553, 0.5, 0.146_447, 0.0];
        for (found, expected) in rates.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{rates:?}");
        }
    }
}
