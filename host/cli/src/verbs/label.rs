//! `graft label`: has people label pictures on a local page.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use graft_label::{Answer, Desk, Folder, Hints, Server, gains, manifest_of};
use graft_runtime::{picture, softmax};
use graft_train::dataset::{Location, Sample, Task};
use graft_train::features::{Features, Varied, features};
use graft_train::head;
use graft_train::pictures::OnBad;
use graft_train::pretrained::{Input, Pretrained};
use graft_train::run::Run;
use serde_json::json;

use super::train::cache_folder;
use crate::ui::{Ui, moves};

/// Label pictures on a page in the browser, alone or with others
///
/// DIR is any folder of pictures, or a field folder: one with a `field.csv` that tells what devices said of its pictures
/// (docs/formats/field.md). The page shows one picture at a time with the device's answer and with pictures that look like
/// it, those first whose label is worth most, and takes keys: 1 to 9 label, Enter agrees, u takes back, s skips, x puts
/// aside, / finds a class, n adds one, ? shows all of them.
///
/// Every click is kept in DIR/labels.sqlite before it is acknowledged, and DIR/labels.csv, which `graft train` reads, is
/// written anew. Stop with Ctrl-C at any time; the same command goes on. Several people may use the page at once, each
/// under a name of their own: they get different pictures, and where two differ the picture waits until one of them has
/// seen that. The page is served on 127.0.0.1 alone, to who has the token in its address; others of a team reach it by
/// `ssh -L PORT:127.0.0.1:PORT` with --port.
///
/// What looks alike is told by the features of RUN's backbone, or of the small backbone inside graft; they are kept in the
/// cache. Labels are classes, one for each picture: no tags, no values.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft label field/
  graft label field/ --run runs/leaves --open
  graft label photos/ --classes healthy,rust,phoma
  graft label field/ --port 7800 --json
  graft train field/labels.csv --model mobilenet_v2 --out runs/field")]
pub(crate) struct Args {
    /// A folder of pictures, perhaps with a field.csv
    dir: PathBuf,
    /// A run whose classes there are, whose backbone tells what looks alike, and which answers where no device did
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Classes, in the order of the keys 1 to 9; those of the run, of earlier labels and of the answers come behind them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    classes: Vec<String>,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// Print one line of JSON with the page's url instead
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let run = args.run.as_deref().map(Run::open).transpose()?;
    let mut classes = args.classes.clone();
    if let Some(run) = &run {
        let task = run.record.task;
        ensure!(
            task == Task::Classes,
            "expected a run that tells classes, found one of {}; this page labels classes alone",
            task.name()
        );
        classes.extend(run.record.labels.iter().cloned());
    }
    let mut folder = Folder::open(&args.dir)?;
    let bar = ui.bar("what looks alike");
    let hints = hints(&mut folder, run, &cache_folder()?, &ui.stop, moves(&bar))?;
    bar.finish_and_clear();
    ui.skipped(folder.passed_over.iter().map(|p| (Path::new(&p.file), p.reason.as_str())));
    let manifest = manifest_of(folder.root());
    let desk = Desk::open(folder, &classes, hints)?;
    let (pictures, done) = (desk.folder().pictures.len(), settled(&desk));
    let decode = |bytes: &[u8]| picture::decode(bytes).map_err(|e| e.to_string());
    let server = Server::bind(desk, Box::new(decode), args.port)?;
    let url = server.url();
    if args.json {
        ui.line(&json!({ "url": url, "manifest": manifest, "pictures": pictures, "settled": done }).to_string())?;
    } else {
        ui.line(&format!("{pictures} pictures, {done} of them done"))?;
        ui.line(&format!("page      {url}"))?;
        ui.line(&format!("labels    {}", manifest.display()))?;
        ui.note("Ctrl-C stops; the same command goes on");
    }
    if args.open {
        open(&url, ui);
    }
    let stop = Arc::clone(&ui.stop);
    server.run(move || stop.load(Ordering::Relaxed))?;
    Ok(())
}

fn settled(desk: &Desk) -> usize {
    let overview = desk.overview("");
    overview.settled + overview.unusable
}

/// Runs all pictures through a backbone, leaving out those that cannot be read.
fn hints(
    folder: &mut Folder,
    run: Option<Run>,
    cache: &Path,
    stop: &AtomicBool,
    progress: impl FnMut(usize, usize),
) -> Result<Hints> {
    let (pretrained, told) = match run {
        Some(run) => (run.pretrained(), Some((run.head, run.record.labels))),
        None => (Pretrained::embedded(Input::default())?, None),
    };
    let sample = |(index, picture): (usize, &graft_label::Picture)| Sample {
        location: Location::File(folder.path(index).unwrap_or_default()),
        key: picture.file.clone(),
        class: 0,
        values: vec![],
        group: None,
    };
    let samples: Vec<Sample> = folder.pictures.iter().enumerate().map(sample).collect();
    let found = features(&pretrained, &samples, &Varied::plain(), cache, OnBad::Skip, stop, progress)?;
    let Features { rows, data, width, skipped, .. } = found;
    ensure!(!rows.is_empty(), "expected pictures that can be read, found none; `graft predict` tells what is wrong");
    let reasons: HashMap<PathBuf, String> = skipped.into_iter().map(|i| (i.path, i.reason)).collect();
    let reason = |i: usize| reasons.get(&samples[i].location.path()).cloned().unwrap_or_default();
    let is_read = |i: &usize| rows.binary_search(i).is_ok();
    folder.leave_out((0..samples.len()).filter(|i| !is_read(i)).map(|i| (i, reason(i))).collect::<Vec<_>>());

    let vectors: Vec<&[f32]> = data.chunks_exact(width).collect();
    ensure!(vectors.len() == folder.pictures.len(), "expected a vector of each picture, found {}", vectors.len());
    let answer = |(picture, vector): (&graft_label::Picture, &&[f32])| {
        let said = picture.seen.as_ref().map(Answer::of_device);
        said.or_else(|| told.as_ref().and_then(|(head, labels)| best(&head::logits(head, vector), labels)))
    };
    let answers: Vec<Option<Answer>> = folder.pictures.iter().zip(&vectors).map(answer).collect();
    let values: Vec<Option<f32>> =
        folder.pictures.iter().map(|p| p.seen.as_ref().and_then(|seen| seen.value)).collect();
    let gains = gains(&values, &answers);
    Ok(Hints { answers, gains, vectors: vectors.iter().map(|v| Some(v.to_vec())).collect() })
}

/// Returns the two best labels with their probabilities.
fn best(logits: &[f32], labels: &[String]) -> Option<Answer> {
    let mut probabilities = vec![0.0; logits.len()];
    softmax(logits, &mut probabilities);
    let mut ranked: Vec<(&String, f32)> = labels.iter().zip(probabilities).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told = |place: usize| ranked.get(place).map(|(label, p)| ((*label).clone(), *p));
    let (label, probability) = told(0)?;
    Some(Answer { label, probability, second: told(1), reason: None })
}

/// Opens the page as the desktop does; where that fails, the address is there to be copied.
fn open(url: &str, ui: &Ui) {
    let (program, before): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("rundll32", &["url.dll,FileProtocolHandler"]),
        _ => ("xdg-open", &[]),
    };
    let mut command = Command::new(program);
    command.args(before).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.spawn().with_context(|| format!("starting {program}")) {
        ui.note(&format!("cannot open a browser ({error:#}); open the page's address by hand"));
    }
}

#[cfg(test)]
mod tests {
    use graft_label::{Click, Verdict};
    use graft_train::dataset::Dataset;

    use super::*;

    fn picture(path: &Path, shade: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_fn(32, 32, |x, _| image::Rgb([shade, x as u8, 0])).save(path).unwrap();
    }

    #[test]
    fn the_trainer_reads_what_was_labelled() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a/1.png", "a,b/\"2\".png", "ü 3.png", "4.png", "5.png"];
        names.iter().enumerate().for_each(|(i, n)| picture(&dir.path().join(n), 40 * i as u8));
        let head = "file,device,unix_ms,source,model,answer,probability,site\n";
        let field = format!("{head}a/1.png,bed-3,1795745180000,s,m,rust,0.5,north\n4.png,bed-3,0,s,m,rust,0.9,\n");
        std::fs::write(dir.path().join("field.csv"), field).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let index = |name: &str| folder.pictures.iter().position(|p| p.file == name).unwrap();
        let places = names.map(index);
        let classes = ["rust, orange", "healthy"].map(str::to_owned);
        let mut desk = Desk::open(folder, &classes, Hints::default()).unwrap();
        for (i, picture) in places.into_iter().enumerate() {
            let click = Click { who: "ann".into(), nonce: i.to_string(), picture: Some(picture), seen: 0 };
            let verdict = if i == 4 { Verdict::Unusable } else { Verdict::Label(classes[i % 2].clone()) };
            desk.label(&click, verdict, 1).unwrap();
        }
        let data = Dataset::open(&manifest_of(dir.path()), None).unwrap();
        assert_eq!(data.labels, ["healthy", "rust, orange"]);
        let mut found: Vec<(&str, usize, Option<&str>)> =
            data.samples.iter().map(|s| (s.key.as_str(), s.class, s.group.as_deref())).collect();
        found.sort_unstable();
        let mut expected = [
            (names[0], 1, Some("north/2026-11-27")),
            (names[1], 0, None),
            (names[2], 1, None),
            (names[3], 0, Some("bed-3/1970-01-01")),
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(data.samples.iter().all(|s| graft_train::pictures::check(s).is_ok()));
    }

    #[test]
    fn hints_leave_out_what_cannot_be_read_and_keep_what_the_device_said() {
        let dir = tempfile::tempdir().unwrap();
        for (name, shade) in [("a.png", 10), ("c.png", 12), ("d.png", 240)] {
            picture(&dir.path().join(name), shade);
        }
        std::fs::write(dir.path().join("b.jpg"), "no picture").unwrap();
        let head = "file,device,unix_ms,source,model,answer,probability\n";
        std::fs::write(dir.path().join("field.csv"), format!("{head}c.png,bed-3,0,s,m,rust,0.75\n")).unwrap();
        let mut folder = Folder::open(dir.path()).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let hints = hints(&mut folder, None, cache.path(), &stop, |_, _| ()).unwrap();
        let files: Vec<&str> = folder.pictures.iter().map(|p| p.file.as_str()).collect();
        assert_eq!(files, ["a.png", "c.png", "d.png"]);
        assert!(folder.passed_over.iter().any(|p| p.file == "b.jpg" && p.reason.contains("JPEG or PNG")));
        assert_eq!(hints.answers[1].as_ref().unwrap().label, "rust");
        assert_eq!(hints.gains, [1.0, 0.25, 1.0]);
        assert_eq!(hints.vectors.len(), 3);
    }

    #[test]
    fn the_two_best_labels_come_with_their_softmax() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let answer = best(&[0.0, 2.0, 1.0], &labels).unwrap();
        // softmax of scipy 1.11: 0.09003057, 0.66524096, 0.24472847
        assert!((answer.probability - 0.665_240_96).abs() < 1e-6 && answer.label == "b");
        let (label, p) = answer.second.unwrap();
        assert!((p - 0.244_728_47).abs() < 1e-6 && label == "c");
    }
}
