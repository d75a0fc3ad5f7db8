//! What a step takes of memory, and whether this machine has it.

use std::fs;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Net, Walk};

/// Whether activations are computed again on the way back instead of being kept. What is trained is the same to the bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Where a step would take more memory than there is.
    #[default]
    Auto,
    /// Wherever that saves memory.
    Always,
    /// Nowhere.
    Never,
}

impl Net {
    /// Settles whether activations are computed again in steps of `batch` pictures; returns whether they are.
    ///
    /// # Errors
    ///
    /// If that is asked of a GPU.
    pub fn recompute(&mut self, wish: Recompute, batch: usize) -> Result<bool> {
        let is_on_cpu = matches!(self.walk, Walk::Kernels(_));
        ensure!(
            is_on_cpu || wish != Recompute::Always,
            "expected the CPU for activations that are computed again, found a GPU; take smaller batches and --accumulate"
        );
        let is_short = || available().is_some_and(|bytes| self.step_bytes(batch) > bytes / 10 * 8);
        let is_wanted = match wish {
            Recompute::Always => true,
            Recompute::Never => false,
            Recompute::Auto => is_on_cpu && is_short(),
        };
        if let Walk::Kernels(engine) = &mut self.walk {
            engine.recompute(is_wanted);
        }
        Ok(is_wanted)
    }

    /// Returns about how many bytes a step takes on the CPU.
    fn step_bytes(&self, batch: usize) -> u64 {
        let Walk::Kernels(engine) = &self.walk else { return 0 };
        // Values, a gradient and two moments.
        let parameters: usize = self.weights.parameters.values().map(|p| 4 * size_of_val(&p.values[..])).sum();
        (batch * engine.activation_bytes() + parameters) as u64
    }
}

/// Returns the bytes that may still be taken here, where that is known: of the machine, and of this process's control group.
fn available() -> Option<u64> {
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = meminfo.lines().find_map(|l| number(l.strip_prefix("MemAvailable:")?)).map(|kb| kb * 1024)?;
    let group = |file: &str| number(&fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?);
    let rest = group("memory.max").zip(group("memory.current")).map(|(most, now)| most.saturating_sub(now));
    Some(rest.map_or(machine, |rest| rest.min(machine)))
}
