//! Labelled pictures on disk as a fit takes them: read anew each time, varied for training.

use anyhow::Result;
use graft_runtime::picture::preprocess;
use graft_zoo::Preprocessing;

use crate::augment::Augmentation;
use crate::dataset::{Dataset, Sample};
use crate::fit::Source;
use crate::objective::Targets;
use crate::pictures;
use crate::rng::Rng;

/// Pictures on disk.
#[derive(Debug)]
pub struct Photos<'a> {
    samples: Vec<&'a Sample>,
    targets: Targets,
    preprocessing: &'a Preprocessing,
    augmentation: Augmentation,
}

impl<'a> Photos<'a> {
    /// Takes samples that are known to be readable, and how they are varied.
    pub fn new(
        samples: &[&'a Sample],
        targets: Targets,
        preprocessing: &'a Preprocessing,
        augmentation: impl Into<Augmentation>,
    ) -> Self {
        Self { samples: samples.to_vec(), targets, preprocessing, augmentation: augmentation.into() }
    }

    /// Takes every picture of a set.
    pub fn all(dataset: &'a Dataset, preprocessing: &'a Preprocessing, augmentation: impl Into<Augmentation>) -> Self {
        let samples: Vec<&Sample> = dataset.samples.iter().collect();
        let targets = dataset.targets(&(0..samples.len()).collect::<Vec<_>>());
        Self::new(&samples, targets, preprocessing, augmentation)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

impl Source for Photos<'_> {
    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
        let picture = pictures::open(self.samples[index])?;
        Ok(match rng {
            None => preprocess(&picture, self.preprocessing),
            Some(rng) => self.augmentation.view(&picture, self.preprocessing, rng),
        })
    }
}
