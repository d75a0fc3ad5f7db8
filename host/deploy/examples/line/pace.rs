//! Every protocol carries the same file over a line of its own, in turns.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use graft_bundle::Bundle;

use super::paced::{Paced, open};
use super::rivals::Rival;
use super::{BYTES_PER_SECOND, Outcome, bundle, flash};

/// One protocol, and the seconds of its turns or why it has none.
struct Row {
    name: &'static str,
    seconds: Result<Vec<f64>, String>,
}

pub(super) fn run(bytes: u32, turns: u32, python: Option<PathBuf>) -> Outcome<()> {
    let bundle = bundle(bytes)?;
    let content = bundle_file(&bundle);
    let folder = std::env::temp_dir().join(format!("graft-line-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let sent = folder.join("sent");
    fs::write(&sent, &content)?;
    let rivals = Rival::all(python);
    let mut rows = vec![Row { name: "graft", seconds: Ok(Vec::new()) }];
    rows.extend(rivals.iter().map(|rival| Row { name: rival.name(), seconds: Ok(Vec::new()) }));
    for turn in 0..turns as usize {
        for place in 0..rows.len() {
            // Each turn begins with another: being first after a pause may be an advantage.
            let place = (place + turn) % rows.len();
            let Row { name, seconds: Ok(seconds) } = &mut rows[place] else { continue };
            let outcome = match place.checked_sub(1) {
                None => graft(&bundle),
                Some(rival) => rivals[rival].carry(&sent, &content, &folder.join("received")),
            };
            match outcome {
                Ok(taken) => {
                    eprintln!("turn {} of {turns}: {name} {taken:.2} s", turn + 1);
                    seconds.push(taken);
                }
                Err(e) if place == 0 => return Err(e),
                Err(e) => rows[place].seconds = Err(e.to_string()),
            }
        }
    }
    fs::remove_dir_all(&folder)?;
    print(&rows, content.len());
    Ok(())
}

/// Returns the bundle as its file has it, which is what the others carry.
fn bundle_file(bundle: &Bundle) -> Vec<u8> {
    let chunks = (0..bundle.manifest().chunks.len()).flat_map(|i| bundle.stored_chunk(i).to_vec());
    bundle.head().bytes().iter().copied().chain(chunks).collect()
}

/// Returns the seconds from the first byte to the device's word that all is there.
fn graft(bundle: &Bundle) -> Outcome<f64> {
    let paced = Paced::new()?;
    let (host, device) = (open(&paced.host)?, open(&paced.device)?);
    let start = Instant::now();
    flash(Box::new(host), device, bundle)?;
    Ok(start.elapsed().as_secs_f64())
}

fn print(rows: &[Row], bytes: usize) {
    println!("{bytes} bytes; the median of the turns, and in brackets the least and the most.\n");
    println!("| protocol | seconds | share of 11520 bytes/s | graft's share / its |\n|---|---|---|---|");
    let ours = rows.first().and_then(|row| row.seconds.as_deref().ok()).unwrap_or_default();
    for row in rows {
        match &row.seconds {
            Err(reason) => println!("| {} | left out: {reason} | | |", row.name),
            Ok(seconds) => {
                let share: Vec<f64> = seconds.iter().map(|s| bytes as f64 / s / BYTES_PER_SECOND).collect();
                let ratio: Vec<f64> = seconds.iter().zip(ours).map(|(theirs, ours)| theirs / ours).collect();
                println!("| {} | {} | {} | {} |", row.name, spread(seconds, 2), spread(&share, 3), spread(&ratio, 2));
            }
        }
    }
}

/// Returns the median, and the range in brackets.
fn spread(numbers: &[f64], digits: usize) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.digits$} [{least:.digits$}, {most:.digits$}]"),
        _ => String::new(),
    }
}
