//! Which layers are trained, for how long and how: chosen from the size of the data, the cost of a step here and the time
//! that there is.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::augment::{Augmentation, Mix, Preset};
use crate::features::Varied;
use crate::fit::Schedule;
use crate::net::{Norm, Recompute};
use crate::objective::{Loss, Targets};
use crate::optimiser::Optimiser;

/// How far training goes into the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// A head on the frozen backbone.
    Head,
    /// The head, then the last stages along with it.
    Blocks,
    /// The head, then all stages along with it.
    Full,
    /// All stages, from random weights: what the others are to be compared with.
    Scratch,
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Blocks => "blocks",
            Self::Full => "full",
            Self::Scratch => "scratch",
        })
    }
}

/// What was asked for; the rest is chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// Which layers.
    pub recipe: Option<Recipe>,
    /// How many of the last stages, for [`Recipe::Blocks`].
    pub unfrozen: Option<usize>,
    /// Seconds that fine-tuning may take.
    pub seconds: Option<f64>,
    /// Passes over the pictures.
    pub epochs: Option<usize>,
    /// Pictures that go through the network together.
    pub batch: Option<usize>,
    /// Batches whose gradients make one step.
    pub accumulate: Option<usize>,
    /// The rule of a step.
    pub optimiser: Option<Optimiser>,
    /// Peak rate.
    pub rate: Option<f64>,
    /// Factor of a stage's rate for each stage from the head down to it.
    pub stage_decay: Option<f64>,
    /// Longest gradient.
    pub clip: Option<f64>,
    /// Weight of the past in the average of the weights.
    pub average: Option<f64>,
    /// Share of a target that is spread over all classes.
    pub smoothing: Option<f32>,
    /// Views of each picture whose features the head learns from.
    pub views: Option<usize>,
    /// How pictures are varied.
    pub augment: Option<Preset>,
    /// How pictures of a batch are mixed.
    pub mix: Mix,
    /// Whether rare classes count more, so that all count the same in sum.
    pub balance: bool,
    /// Which statistics normalise.
    pub norm: Option<Norm>,
    /// Share of the pictures that chooses the best epoch.
    pub validation: Option<f64>,
    /// Epochs without a better one after which to stop.
    pub patience: Option<usize>,
    /// Whether activations are computed again instead of being kept.
    #[serde(default)]
    pub recompute: Recompute,
    /// Seed of order and views.
    pub seed: u64,
}

/// What fine-tuning does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Which layers.
    pub recipe: Recipe,
    /// How many of the last stages that is.
    pub unfrozen: usize,
    /// Which statistics normalise: those of a few pictures are worse than those of the many that a large backbone has
    /// seen, but let a small one go further.
    pub norm: Norm,
    /// Share of the pictures that chooses the best epoch; 0 takes the last one.
    pub validation: f64,
    /// How pictures are varied.
    pub augmentation: Augmentation,
    /// Views of each picture of which the frozen stages' activations are kept; 0 computes them in every epoch.
    pub views: usize,
    /// How to descend.
    pub schedule: Schedule,
}

impl Wish {
    /// Returns the views of pictures that the head learns from.
    pub fn varied(&self) -> Varied {
        let views = self.views.unwrap_or(HEAD_VIEWS).max(1);
        Varied { views, augmentation: self.augment.unwrap_or(PRESET).into(), seed: self.seed }
    }
}

/// A choice and the reason for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// What was asked for.
    pub wish: Wish,
    /// What is done after the head, if anything.
    pub tuning: Option<Tuning>,
    /// Why, as a sentence.
    pub why: String,
}

impl Settled {
    /// Returns which layers that trains.
    pub fn recipe(&self) -> Recipe {
        self.tuning.as_ref().map_or(Recipe::Head, |t| t.recipe)
    }
}

/// Seconds that a picture's view takes here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Through the frozen stages, and to be read and varied before that.
    pub frozen: f64,
    /// Through the trained stages and back.
    pub trained: f64,
    /// Views of each picture whose activations the disk has room for.
    pub views: usize,
}

/// What a choice depends on besides the wish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Set<'a> {
    /// What is wanted of each picture.
    pub targets: &'a Targets,
    /// Stages of the network.
    pub stages: usize,
    /// Whether the network comes with trained weights.
    pub pretrained: bool,
}

/// Chooses what the wish leaves open. `cost` measures steps that train so many of the last stages; it is asked only where
/// the choice depends on it.
///
/// # Errors
///
/// If the wish contradicts itself or the network, or a step cannot be run.
pub fn settle(wish: &Wish, set: Set<'_>, mut cost: impl FnMut(usize) -> Result<Cost>) -> Result<Settled> {
    let n = set.targets.len();
    let blocks = wish.unfrozen.unwrap_or(set.stages.div_ceil(2));
    ensure!(
        blocks <= set.stages,
        "expected at most {} stages to fine-tune, found {blocks}; this network has no more",
        set.stages
    );
    let done = |recipe: Recipe, unfrozen: usize, views: usize, epochs: usize, why: String| {
        let tuning = (recipe != Recipe::Head).then(|| tuning(wish, set, recipe, unfrozen, views, epochs));
        Ok(Settled { wish: wish.clone(), tuning, why })
    };
    let asked = wish.recipe.or(wish.unfrozen.map(|u| if u == 0 { Recipe::Head } else { Recipe::Blocks }));
    ensure!(
        set.pretrained || asked == Some(Recipe::Scratch),
        "expected pretrained weights for this recipe, found none; give --weights FILE or --recipe scratch"
    );
    match asked {
        Some(Recipe::Head) => done(Recipe::Head, 0, 0, 0, "as asked for".into()),
        Some(recipe) => {
            let unfrozen = if recipe == Recipe::Blocks { blocks } else { set.stages };
            let most = if recipe == Recipe::Scratch { SCRATCH_EPOCHS } else { EPOCHS };
            let Some(seconds) = wish.seconds else {
                let epochs = wish.epochs.unwrap_or(most);
                let views = if recipe == Recipe::Blocks { cost(unfrozen)?.views.min(VIEWS).min(epochs) } else { 0 };
                return done(recipe, unfrozen, views, epochs, "as asked for".into());
            };
            let cost = cost(unfrozen)?;
            let (epochs, views) = affordable(recipe, n, seconds, cost, wish.epochs.unwrap_or(most));
            let why = format!("as asked for; an epoch of {n} pictures takes {:.0} s here", epoch(n, cost, views > 0));
            done(recipe, unfrozen, views, epochs.max(1), why)
        }
        None => {
            let scarcest = set.targets.counts().into_iter().min().unwrap_or(0);
            if scarcest < FEW {
                let why = format!("a class with {scarcest} pictures is too few to retrain a backbone on");
                return done(Recipe::Head, 0, 0, 0, why);
            }
            let seconds = wish.seconds.unwrap_or(SECONDS);
            let most = wish.epochs.unwrap_or(EPOCHS);
            for (recipe, unfrozen) in [(Recipe::Full, set.stages), (Recipe::Blocks, blocks)] {
                let cost = cost(unfrozen)?;
                let (epochs, views) = affordable(recipe, n, seconds, cost, most);
                let each = epoch(n, cost, views > 0);
                if epochs >= most.min(LEAST_EPOCHS) {
                    let layers = if recipe == Recipe::Full { "all".into() } else { format!("the last {unfrozen}") };
                    let why = format!(
                        "{layers} of {} stages at {each:.1} s an epoch: {epochs} in {}",
                        set.stages,
                        minutes(seconds)
                    );
                    return done(recipe, unfrozen, views, epochs, why);
                }
            }
            let why = format!("{LEAST_EPOCHS} epochs over {n} pictures do not fit into {}", minutes(seconds));
            done(Recipe::Head, 0, 0, 0, why)
        }
    }
}

/// Returns the epochs that a time allows, `most` at most, and the views whose activations are kept for them.
fn affordable(recipe: Recipe, n: usize, seconds: f64, cost: Cost, most: usize) -> (usize, usize) {
    let views = if recipe == Recipe::Blocks { cost.views.min(VIEWS).min(most) } else { 0 };
    let before = (views * n) as f64 * cost.frozen;
    let epochs = ((seconds - before).max(0.0) / epoch(n, cost, views > 0).max(1e-9)) as usize;
    if views > epochs.max(1) {
        // Fewer epochs than views: each view is seen once, so keeping it saves nothing.
        return ((seconds / epoch(n, cost, false).max(1e-9)) as usize, 0);
    }
    (epochs.min(most), views)
}

/// Seconds of an epoch.
fn epoch(n: usize, cost: Cost, kept: bool) -> f64 {
    n as f64 * (cost.trained + if kept { 0.0 } else { cost.frozen })
}

fn minutes(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

fn tuning(wish: &Wish, set: Set<'_>, recipe: Recipe, unfrozen: usize, views: usize, epochs: usize) -> Tuning {
    let scratch = recipe == Recipe::Scratch;
    let usual = Schedule::default();
    let loss = match set.targets.loss() {
        Loss::CrossEntropy { .. } => Loss::CrossEntropy {
            smoothing: wish.smoothing.unwrap_or(SMOOTHING),
            weights: if wish.balance { balanced(&set.targets.counts()) } else { vec![] },
        },
        // Values come in deviations; what is further off than one is rather a mistake than to be learnt.
        Loss::Huber { .. } => Loss::Huber { delta: 1.0 },
        Loss::Tags => Loss::Tags,
    };
    Tuning {
        recipe,
        unfrozen,
        norm: wish.norm.unwrap_or(if scratch { Norm::Batch } else { Norm::Frozen }),
        validation: wish.validation.unwrap_or(VALIDATION),
        augmentation: wish.augment.unwrap_or(PRESET).into(),
        views: if wish.mix == Mix::default() { views } else { 0 },
        schedule: Schedule {
            epochs,
            batch: wish.batch.unwrap_or(usual.batch),
            accumulate: wish.accumulate.unwrap_or(usual.accumulate),
            optimiser: wish.optimiser.unwrap_or(usual.optimiser),
            rate: wish.rate.unwrap_or(if scratch { SCRATCH_RATE } else { RATE }),
            stage_decay: wish.stage_decay.unwrap_or(usual.stage_decay),
            decay: usual.decay,
            clip: wish.clip.or(usual.clip),
            average: wish.average.or(usual.average),
            mix: wish.mix,
            loss,
            patience: wish.patience.unwrap_or(usual.patience),
            seed: wish.seed,
        },
    }
}

/// Returns weights with which all classes count the same in sum, 1 on average over the pictures (scikit-learn's
/// `class_weight="balanced"`).
fn balanced(counts: &[usize]) -> Vec<f32> {
    let n: usize = counts.iter().sum();
    counts.iter().map(|&c| n as f32 / (counts.len() * c.max(1)) as f32).collect()
}

/// Time of fine-tuning where none is told.
const SECONDS: f64 = 300.0;
/// More epochs than this have not been seen to help.
const EPOCHS: usize = 20;
const SCRATCH_EPOCHS: usize = 60;
/// Fewer than this do not repay.
const LEAST_EPOCHS: usize = 5;
/// Pictures a class below which the backbone stays as it is.
const FEW: usize = 10;
/// Views that the head learns from where nothing is asked for.
const HEAD_VIEWS: usize = 1;
/// Views of each picture that are kept at most.
const VIEWS: usize = 8;
/// How pictures are varied where nothing is asked for.
pub const PRESET: Preset = Preset::Light;
const VALIDATION: f64 = 0.1;
const SMOOTHING: f32 = 0.1;
const SCRATCH_RATE: f64 = 2e-3;
/// At 1e-3, which suits a head alone, some fits of a whole network came to nothing (`docs/performance.md`).
const RATE: f64 = 3e-4;

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: [usize; 2] = [300, 300];

    fn classes(counts: &[usize]) -> Targets {
        let of = counts.iter().enumerate().flat_map(|(class, &n)| std::iter::repeat_n(class, n)).collect();
        Targets::Classes { of, count: counts.len() }
    }

    fn set(targets: &Targets) -> Set<'_> {
        Set { targets, stages: 9, pretrained: true }
    }

    /// A picture takes 31 ms with all stages trained, and 10 with the last half, 5 of them in the frozen one.
    fn cost(unfrozen: usize) -> Result<Cost> {
        Ok(if unfrozen == 9 {
            Cost { frozen: 0.001, trained: 0.03, views: 0 }
        } else {
            Cost { frozen: 0.005, trained: 0.005, views: 100 }
        })
    }

    fn settled(wish: &Wish, counts: &[usize]) -> (Recipe, usize, usize, String) {
        let s = settle(wish, set(&classes(counts)), cost).unwrap();
        let t = s.tuning;
        t.map_or((Recipe::Head, 0, 0, s.why.clone()), |t| (t.recipe, t.schedule.epochs, t.views, s.why))
    }

    #[test]
    fn the_time_decides_where_nothing_is_asked_for() {
        let in_time = |seconds| settled(&Wish { seconds: Some(seconds), ..Wish::default() }, &COUNTS);
        assert_eq!(in_time(10_000.0).0, Recipe::Full);
        assert_eq!(in_time(10_000.0).1, EPOCHS);
        assert_eq!((in_time(200.0).0, in_time(200.0).1), (Recipe::Full, 10));
        // 8 views of 600 pictures take 24 s, an epoch of what is kept 3 s.
        assert_eq!((in_time(60.0).0, in_time(60.0).1, in_time(60.0).2), (Recipe::Blocks, 12, 8));
        // Each view is seen once, so none is kept: 6 s an epoch.
        assert_eq!((in_time(35.0).0, in_time(35.0).1, in_time(35.0).2), (Recipe::Blocks, 5, 0));
        assert_eq!(in_time(10.0).0, Recipe::Head);
    }

    #[test]
    fn few_pictures_leave_the_backbone_alone() {
        let found = settled(&Wish::default(), &[300, 9]);
        assert_eq!(found.0, Recipe::Head);
        assert!(found.3.contains("9 pictures"));
        let asked = settled(&Wish { recipe: Some(Recipe::Full), ..Wish::default() }, &[300, 9]);
        assert_eq!(asked.0, Recipe::Full);
    }

    #[test]
    fn what_is_asked_for_is_done_without_measuring() {
        let wish = Wish { unfrozen: Some(9), recipe: Some(Recipe::Full), epochs: Some(3), ..Wish::default() };
        let s = settle(&wish, set(&classes(&COUNTS)), |_| unreachable!()).unwrap();
        assert_eq!(s.tuning.unwrap().schedule.epochs, 3);
        let wish = Wish { unfrozen: Some(10), ..Wish::default() };
        assert!(settle(&wish, set(&classes(&COUNTS)), cost).unwrap_err().to_string().contains("at most 9"));
        let targets = classes(&COUNTS);
        let bare = Set { pretrained: false, ..set(&targets) };
        assert!(settle(&Wish::default(), bare, cost).unwrap_err().to_string().contains("scratch"));
    }

    #[test]
    fn the_loss_is_that_of_the_task() {
        let loss = |targets: Targets| {
            let wish = Wish { recipe: Some(Recipe::Full), balance: true, ..Wish::default() };
            settle(&wish, set(&targets), cost).unwrap().tuning.unwrap().schedule.loss
        };
        assert_eq!(loss(classes(&[3, 1])), Loss::CrossEntropy { smoothing: 0.1, weights: vec![2.0 / 3.0, 2.0] });
        assert_eq!(loss(Targets::Tags { of: vec![0.0, 1.0], width: 2 }), Loss::Tags);
        assert_eq!(loss(Targets::Values { of: vec![0.0, 1.0], width: 1 }), Loss::Huber { delta: 1.0 });
    }

    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        // scikit-learn 1.9: compute_class_weight("balanced", classes=[0, 1], y=[0, 0, 0, 1]) is [0.6666667, 2.0].
        assert_eq!(balanced(&[3, 1]), [2.0 / 3.0, 2.0]);
    }
}
