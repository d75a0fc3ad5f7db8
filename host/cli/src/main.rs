//! `graft`: fine-tunes, evaluates, quantizes and exports. One file for each verb in `verbs/`.

use std::process::ExitCode;

use clap::Parser;
use graft_bundle::BundleError;
use graft_deploy::{DeployError, ProvisionError};

mod board;
#[cfg(target_os = "linux")]
mod card;
mod model_file;
mod packing;
mod sheet;
mod ui;
mod verbs;

/// Grafts a new head on a pretrained backbone and carries it into the field
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 device unreachable, 4 refused.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: verbs::Verb,
}

const EXAMPLES: &str = "Examples:
  graft demo
  graft data check photos/
  graft train photos/ --model mobilenet_v2 --weights mobilenet_v2.safetensors --out runs/leaves
  graft evaluate runs/leaves --data test-photos/
  graft quantize runs/leaves --data photos/ --test test-photos/ --out leaves.onnx
  graft key new --out field.key
  graft pack leaves.onnx --key field.key --golden test-photos/ --out leaves.graft
  graft flash leaves.graft --device /dev/ttyUSB0";

fn main() -> ExitCode {
    // The demo's device is this program under the daemon's name.
    #[cfg(target_os = "linux")]
    if std::env::args_os().next().is_some_and(|name| name == "graftd") {
        return graft_agent::command::main(std::env::args_os());
    }
    let cli = Cli::parse();
    let mut ui = match ui::Ui::new() {
        Ok(ui) => ui,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match verbs::run(&cli.verb, &mut ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            exit_code(&error)
        }
    }
}

/// The only place that looks inside an error.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let deploy = error.chain().find_map(|e| e.downcast_ref::<DeployError>());
    let is_refused = error.chain().any(|e| {
        let disk = e.downcast_ref::<ProvisionError>();
        e.is::<BundleError>()
            || e.is::<verbs::quantize::Refused>()
            || e.is::<verbs::retrain::Worse>()
            || matches!(disk, Some(ProvisionError::Refused { .. }))
    });
    match deploy {
        Some(e) if e.is_refusal() => ExitCode::from(REFUSED),
        Some(e) if e.is_unreachable() => ExitCode::from(UNREACHABLE),
        None if is_refused => ExitCode::from(REFUSED),
        _ => ExitCode::FAILURE,
    }
}

const UNREACHABLE: u8 = 3;
const REFUSED: u8 = 4;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
