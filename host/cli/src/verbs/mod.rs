//! The verbs: each file parses its arguments, calls a library and reports.

use anyhow::Result;

use crate::ui::Ui;

mod bench;
mod data;
#[cfg(target_os = "linux")]
mod demo;
mod device;
mod evaluate;
mod export;
pub(crate) mod flash;
mod key;
mod label;
mod lr_find;
mod map;
mod model;
mod monitor;
mod pack;
mod ports;
mod predict;
mod provision;
mod pull;
pub(crate) mod quantize;
mod report;
pub(crate) mod retrain;
mod slot;
mod threads;
#[cfg(target_os = "linux")]
mod torture;
mod train;
mod verify;

/// What `graft` can do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List, show and fetch pretrained weights
    #[command(subcommand)]
    Model(model::Command),
    /// Look at a data set before training on it
    #[command(subcommand)]
    Data(data::Command),
    #[cfg(target_os = "linux")]
    Demo(demo::Args),
    Train(Box<train::Args>),
    LrFind(lr_find::Args),
    Evaluate(evaluate::Args),
    Export(export::Args),
    Quantize(Box<quantize::Args>),
    Report(report::Args),
    Predict(predict::Args),
    Map(map::Args),
    Bench(bench::Args),
    Label(label::Args),
    /// Make and show the keys that sign bundles
    #[command(subcommand)]
    Key(key::Command),
    Pack(pack::Args),
    Verify(verify::Args),
    Provision(provision::Args),
    Ports(ports::Args),
    Flash(flash::Args),
    /// List a device's slots, commit or roll back
    #[command(subcommand)]
    Slot(slot::Command),
    Monitor(monitor::Args),
    Pull(pull::Args),
    Retrain(retrain::Args),
    /// Tell what a device is, rename it, set its clock, start it anew
    #[command(subcommand)]
    Device(device::Command),
    #[cfg(target_os = "linux")]
    Torture(torture::Args),
}

pub(crate) fn run(verb: &Verb, ui: &mut Ui) -> Result<()> {
    match verb {
        Verb::Model(command) => model::run(command, ui),
        Verb::Data(command) => data::run(command, ui),
        #[cfg(target_os = "linux")]
        Verb::Demo(args) => demo::run(args, ui),
        Verb::Train(args) => train::run(args, ui),
        Verb::LrFind(args) => lr_find::run(args, ui),
        Verb::Evaluate(args) => evaluate::run(args, ui),
        Verb::Export(args) => export::run(args, ui),
        Verb::Quantize(args) => quantize::run(args, ui),
        Verb::Report(args) => report::run(args, ui),
        Verb::Predict(args) => predict::run(args, ui),
        Verb::Map(args) => map::run(args, ui),
        Verb::Bench(args) => bench::run(args, ui),
        Verb::Label(args) => label::run(args, ui),
        Verb::Key(command) => key::run(command, ui),
        Verb::Pack(args) => pack::run(args, ui),
        Verb::Verify(args) => verify::run(args, ui),
        Verb::Provision(args) => provision::run(args, ui),
        Verb::Ports(args) => ports::run(args, ui),
        Verb::Flash(args) => flash::run(args, ui),
        Verb::Slot(command) => slot::run(command, ui),
        Verb::Monitor(args) => monitor::run(args, ui),
        Verb::Pull(args) => pull::run(args, ui),
        Verb::Retrain(args) => retrain::run(args, ui),
        Verb::Device(command) => device::run(command, ui),
        #[cfg(target_os = "linux")]
        Verb::Torture(args) => torture::run(args, ui),
    }
}
