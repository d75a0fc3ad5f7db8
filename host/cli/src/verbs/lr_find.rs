//! `graft lr-find`: looks for a learning rate to fine-tune with.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use graft_onnx::Head;
use graft_train::dataset::Columns;
use graft_train::fit::Schedule;
use graft_train::net::{Net, Norm, Recompute};
use graft_train::photos::Photos;
use graft_train::rate::{RATES, find, plot};
use graft_train::recipe::PRESET;
use graft_train::run::write_atomic;
use graft_train::transfer::Device;
use serde_json::json;

use super::train::{Backbone, Pictures};
use crate::ui::{Ui, moves};

/// Look for a learning rate to fine-tune with
///
/// Trains for some steps at rates that rise from 1e-6 to 1 and draws the loss over the rate. The rate at which the loss
/// falls the fastest is told: a good peak for `graft train --rate` lies there or a little below.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft lr-find photos/ --model mobilenet_v2 --weights mobilenet_v2.safetensors --out rates.svg
  graft lr-find photos/ --unfreeze 3 --steps 60 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    pictures: Pictures,
    #[command(flatten)]
    backbone: Backbone,
    /// Train this many of the last stages along with the head, instead of all
    #[arg(long, value_name = "N")]
    unfreeze: Option<usize>,
    /// Steps, one rate each
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: usize,
    /// Pictures a step
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Seed of order and views
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draw the losses into this SVG file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    ensure!(args.batch > 0, "expected --batch of at least 1, found 0");
    let pretrained = args.backbone.pretrained(None, args.seed)?;
    let dataset = args.pictures.open(&Columns::Label)?;
    let (network, outputs) = (&pretrained.network, dataset.labels.len());
    ensure!(outputs >= 2, "expected at least two classes, found {outputs}: {}", dataset.labels.join(", "));
    let head = Head::zeros(outputs, network.features);
    let unfrozen = args.unfreeze.unwrap_or(network.stages);
    let p = &pretrained.preprocessing;
    let mut net = Net::new(network, &pretrained.backbone, &head, p, unfrozen, Norm::Frozen, &Device::Cpu)?;
    net.recompute(Recompute::Auto, args.batch)?;
    let photos = Photos::all(&dataset, p, PRESET);
    let schedule = Schedule { batch: args.batch, seed: args.seed, ..Schedule::default() };
    let bar = ui.bar("steps");
    let found = find(&mut net, &photos, &schedule, args.steps, &ui.stop, moves(&bar))?;
    bar.finish_and_clear();
    if let Some(path) = &args.out {
        write_atomic(path, plot(&found).as_bytes())?;
    }
    if args.json {
        return ui.json(&json!({ "steepest": found.steepest, "tried": found.tried, "plot": args.out }));
    }
    match found.steepest {
        Some(rate) => ui.line(&format!("the loss falls the fastest at a rate of {rate:.1e}"))?,
        None => ui.line(&format!("the loss falls at no rate from {:e} to {:e}", RATES[0], RATES[1]))?,
    }
    args.out.as_ref().map_or(Ok(()), |path| ui.line(&format!("plot      {}", path.display())))
}
