//! `graft`: fine-tunes, evaluates, quantizes and exports. One file for each verb in `verbs/`.

use std::process::ExitCode;

use clap::Parser;

mod model_file;
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
  graft data check photos/
  graft train photos/ --model mobilenet_v2 --weights mobilenet_v2.safetensors --out runs/leaves
  graft evaluate runs/leaves --data test-photos/
  graft export runs/leaves --int8 --calibrate photos/ --out leaves.onnx
  graft predict leaves.onnx leaf.jpg";

fn main() -> ExitCode {
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
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
