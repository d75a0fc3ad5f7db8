//! `graft provision`: prepares the card of a board.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use graft_bundle::{Bundle, PublicKey, TrustPolicy, Unsigned};
use graft_deploy::{Consent, LaidState, Mode, Provision, ProvisionReport, Target, provision};

use crate::ui::Ui;

/// Prepare a Raspberry Pi's card: agent, service, settings and keys
///
/// Writes a folder `graft` to the boot partition of a Raspberry Pi OS image or card and has the first boot install it, which
/// leaves a log there; settings that the board has already are kept. The serial port is turned on where --listen names one, and
/// the login console on it off. A second run changes nothing that is right. An image is changed only once everything is known
/// to fit. A disk is written only with --yes, and only if it is removable and nothing of it is mounted or in use. Exit code 4:
/// it was refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft provision --image raspios.img --agent graftd --name bed-3 --trust field.key.pub
  graft provision --boot /media/pi/bootfs --agent graftd --name bed-3 --trust field.key.pub --bundle leaves.graft
  graft provision --image raspios.img --agent graftd --name bed-3 --listen tcp://0.0.0.0:7878 --dry-run
  sudo graft provision --image /dev/sdX --agent graftd --name bed-3 --trust field.key.pub --yes")]
pub(crate) struct Args {
    /// An unpacked image of Raspberry Pi OS, or the whole disk of a card (/dev/sdX)
    #[arg(long, value_name = "IMAGE", conflicts_with = "boot", required_unless_present = "boot")]
    image: Option<PathBuf>,
    /// The folder where a card's boot partition is mounted
    #[arg(long, value_name = "DIR")]
    boot: Option<PathBuf>,
    /// graftd, built for the board (aarch64 or armv7)
    #[arg(long, value_name = "GRAFTD")]
    agent: PathBuf,
    /// What the board is called
    #[arg(long)]
    name: String,
    /// Where hosts connect
    #[arg(long, value_name = "LINE", default_value = "/dev/serial0?baud=115200")]
    listen: String,
    /// A public key whose bundles are taken, as a file or as text; may be given several times
    #[arg(long, value_name = "KEY.pub")]
    trust: Vec<String>,
    /// A bundle for the factory slot, which runs where no other may
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// Where the board mounts its boot partition [default: by the image's age, /boot/firmware or /boot]
    #[arg(long, value_name = "PATH")]
    mounted_at: Option<String>,
    /// Write to a disk
    #[arg(long)]
    yes: bool,
    /// Tell what would be written, after all checks
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let what = settings(args)?;
    if what.keys.is_empty() {
        ui.note("note: no key is trusted, so the board takes no bundle; name one with --trust");
    }
    let consent = if args.yes { Consent::Given } else { Consent::Missing };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Write };
    let target = match (&args.image, &args.boot) {
        (Some(path), _) => Target::Image(path, consent),
        (None, Some(path)) => Target::Folder(path),
        (None, None) => anyhow::bail!("expected --image or --boot, found neither"),
    };
    let report = provision(&what, target, mode)?;
    if args.json {
        return ui.json(&report);
    }
    ui.line(&describe(&report, mode))
}

fn settings(args: &Args) -> Result<Provision> {
    let keys: Vec<PublicKey> = args.trust.iter().map(|t| super::verify::public_key(t)).collect::<Result<_>>()?;
    let bundle = match &args.bundle {
        None => None,
        Some(path) => {
            let doing = || format!("cannot use {} as a bundle", path.display());
            let bundle = Bundle::open(path).with_context(doing)?;
            // The board would refuse it at its first boot, where nobody looks.
            let policy = TrustPolicy { keys: keys.clone(), unsigned: Unsigned::Refuse };
            bundle.head().trust(&policy).with_context(doing)?;
            Some(read(path, MAX_BUNDLE_LEN)?)
        }
    };
    Ok(Provision {
        agent: read(&args.agent, MAX_AGENT_LEN)?,
        name: args.name.clone(),
        listen: args.listen.clone(),
        keys,
        bundle,
        mounted_at: args.mounted_at.clone(),
    })
}

fn describe(report: &ProvisionReport, mode: Mode) -> String {
    let written = if mode == Mode::Write { "wrote" } else { "would write" };
    let mut lines: Vec<String> = Vec::new();
    for file in &report.files {
        let state = if file.state == LaidState::Written { written } else { "is there:" };
        lines.push(format!("{state} {} ({} bytes)", file.path, file.bytes));
    }
    lines.push(format!("the first boot of the {} board runs {} and starts it anew", report.machine, report.first_boot));
    lines.join("\n")
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let doing = || format!("reading {}", path.display());
    let len = fs::metadata(path).with_context(doing)?.len();
    ensure!(len <= limit, "expected at most {limit} bytes in {}, found {len}", path.display());
    let mut bytes = Vec::new();
    File::open(path).with_context(doing)?.take(limit).read_to_end(&mut bytes).with_context(doing)?;
    Ok(bytes)
}

const MAX_AGENT_LEN: u64 = 128 << 20;
/// What a board takes where its settings say nothing else.
const MAX_BUNDLE_LEN: u64 = 256_000_000;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The settings are written without the device's code, so it reads them here.
    #[test]
    fn board_can_read_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cmdline.txt"), "console=tty1 rootwait\n").unwrap();
        let key = graft_bundle::SecretKey::from_seed(&[1; 32]).public();
        let mut agent = vec![0; 64];
        agent[..6].copy_from_slice(b"\x7fELF\x02\x01");
        agent[18] = 183;
        for listen in ["/dev/serial0?baud=115200", "tcp://0.0.0.0:7878"] {
            let what = Provision {
                agent: agent.clone(),
                name: "bed \"3\" \\ é".into(),
                listen: listen.into(),
                keys: vec![key],
                bundle: None,
                mounted_at: None,
            };
            provision(&what, Target::Folder(dir.path()), Mode::Write).unwrap();
            let config = graft_agent::config::Config::open(&dir.path().join("graft/graftd.toml")).unwrap();
            assert_eq!((config.name, config.trusted_keys), (what.name, vec![key.to_string()]));
            assert_eq!(config.listen[0].to_string(), listen);
            assert_eq!(config.root, Path::new("/var/lib/graft"));
        }
    }
}
