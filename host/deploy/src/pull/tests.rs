//! Pulls from a device that only keeps pictures: over a pair, and over a line that is cut everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use graft_link::messages::{About, Progress};
use graft_link::transport::{Faults, Faulty, pair};
use graft_link::{Greeting, Host, Service, Transport, serve};

use super::*;

/// A device's store.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pictures: BTreeMap<u64, (Kept, Vec<u8>)>,
    predictions: Vec<Told>,
    /// From which bytes parts were asked for.
    parts: Vec<u64>,
}

const STORE: u64 = 0x5157;

impl Keeper {
    fn new(lengths: &[usize]) -> Self {
        let this = Self::default();
        {
            let mut state = this.0.lock().unwrap();
            for (i, len) in lengths.iter().enumerate() {
                let id = i as u64 + 1;
                let mut bytes: Vec<u8> = (0..*len).map(|b| (b * 7 + i) as u8).collect();
                let magic: &[u8] = if i % 2 == 0 { b"\xff\xd8\xff\xe0" } else { b"\x89PNG" };
                bytes[..4].copy_from_slice(magic);
                let told = Told {
                    id,
                    unix_ms: 1_795_745_180_000,
                    source: format!("leaf {id}.jpg"),
                    model: "leaves".into(),
                    label: "rust".into(),
                    probability: 0.5,
                    second: Some(("phoma, or so".into(), 0.25)),
                    doubt: Some("unsure: rust or phoma".into()),
                    value: 1.0 / id as f32,
                    latency_ms: 3.0,
                    frames: 1,
                };
                let kept = Kept { told: told.clone(), len: bytes.len() as u64, digest: Digest::of(&bytes).0 };
                state.pictures.insert(id, (kept, bytes));
                state.predictions.push(told);
            }
        }
        this
    }

    fn ids(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap().pictures.keys().copied().collect()
    }
}

impl Service for Keeper {
    fn greeting(&self) -> Greeting {
        Greeting { device: "bed 3".into(), version: "1".into() }
    }

    fn handle(&mut self, request: Request, _progress: &mut dyn FnMut(Progress) -> Host) -> Response {
        let mut state = self.0.lock().unwrap();
        match request {
            Request::About => Response::About(About { key: [7; 32], ..About::default() }),
            Request::Kept { skip, count } => {
                let mut all: Vec<Kept> = state.pictures.values().map(|(kept, _)| kept.clone()).collect();
                all.sort_by(|a, b| b.told.value.total_cmp(&a.told.value));
                let total = all.len() as u32;
                let pictures = all.into_iter().skip(skip as usize).take(count.min(2) as usize).collect();
                Response::Kept { store: STORE, total, pictures }
            }
            Request::Picture { id, offset, count } => {
                state.parts.push(offset);
                let Some((_, bytes)) = state.pictures.get(&id) else {
                    return Response::Refused { code: RefusalCode::State, message: "kept no longer".into() };
                };
                let end = bytes.len().min(offset as usize + (count as usize).min(MAX_PART));
                Response::Picture { bytes: bytes[offset as usize..end].to_vec() }
            }
            Request::Forget { pictures } => {
                let is_it = |s: &State, id: &u64, digest: &[u8; 32]| {
                    s.pictures.get(id).is_some_and(|(kept, _)| kept.digest == *digest)
                };
                let count = pictures.iter().filter(|(id, digest)| is_it(&state, id, digest)).count();
                for (id, digest) in &pictures {
                    if is_it(&state, id, digest) {
                        state.pictures.remove(id);
                    }
                }
                Response::Forgotten { count: count as u32 }
            }
            Request::Predictions { after, count } => {
                let wanted = state.predictions.iter().filter(|t| t.id > after);
                Response::Predictions {
                    store: STORE,
                    predictions: wanted.take(count.min(2) as usize).cloned().collect(),
                }
            }
            _ => Response::Refused { code: RefusalCode::Malformed, message: "not mine".into() },
        }
    }
}

/// Pulls over a line; `cut` tells which end dies after so many bytes.
fn pull(keeper: &Keeper, root: &Path, cut: Option<(End, u64)>, then: Then) -> Result<PullReport, DeployError> {
    let (host, device) = pair();
    let at = |end| Faults { cut_after: cut.filter(|c| c.0 == end).map(|c| c.1), ..Faults::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, mut service) = (Arc::clone(&stop), keeper.clone());
    let device = Faulty::new(device, at(End::Device));
    let server = thread::spawn(move || drop(serve(device, &mut service, &flag)));
    let host: Box<dyn Transport> = Box::new(Faulty::new(host, at(End::Host)));
    let outcome = Session::over(host, "pair".into(), PATIENCE, None)
        .and_then(|mut session| session.pull(&Field::open(root, Some("north"))?, then, |_| ()));
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
    outcome
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Host,
    Device,
}

const PATIENCE: Duration = Duration::from_secs(5);
/// More than one part, just one, less, and a file of no length to speak of.
const LENGTHS: [usize; 5] = [70_000, MAX_PART, 900, 4, 3000];

/// The pictures that are here, by digest; none may be torn.
fn here(root: &Path, all: &BTreeMap<u64, (Kept, Vec<u8>)>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let folder = root.join("bed-3-07070707");
    for entry in fs::read_dir(&folder).into_iter().flatten() {
        let path: PathBuf = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jpg" || e == "png") {
            let digest = Digest::of(&fs::read(&path).unwrap()).0;
            let id = all.iter().find(|(_, (kept, _))| kept.digest == digest).map(|(id, _)| *id);
            assert!(found.insert(id.expect("no torn picture")));
        }
    }
    found
}

fn rows(root: &Path, table: &str) -> Vec<csv::StringRecord> {
    csv::Reader::from_path(root.join(table)).unwrap().records().map(Result::unwrap).collect()
}

#[test]
fn all_that_is_kept_comes_and_a_second_pull_brings_nothing_twice() {
    let (dir, keeper) = (tempfile::tempdir().unwrap(), Keeper::new(&LENGTHS));
    let all = keeper.0.lock().unwrap().pictures.clone();
    let first = pull(&keeper, dir.path(), None, Then::Leave).unwrap();
    assert_eq!((first.kept, first.brought, first.known, first.deleted, first.predictions), (5, 5, 0, 0, 5));
    assert_eq!(here(dir.path(), &all).len(), 5);
    let parts = keeper.0.lock().unwrap().parts.len();
    assert_eq!(parts, 3 + 1 + 1 + 1 + 1);
    let second = pull(&keeper, dir.path(), None, Then::Delete).unwrap();
    assert_eq!((second.brought, second.known, second.deleted, second.predictions), (0, 5, 5, 0));
    assert_eq!(keeper.0.lock().unwrap().parts.len(), parts);
    assert!(keeper.ids().is_empty());
    let (field, told) = (rows(dir.path(), "field.csv"), rows(dir.path(), "predictions.csv"));
    assert_eq!((field.len(), told.len()), (5, 5));
    let row = field.iter().find(|r| &r[3] == "leaf 2.jpg").unwrap();
    assert!(row[0].starts_with("bed-3-07070707/") && row[0].ends_with(".png"), "{row:?}");
    let expected = ["bed 3", "1795745180000", "leaf 2.jpg", "leaves", "rust", "0.5", "phoma, or so", "0.25"];
    assert_eq!(row.iter().skip(1).take(8).collect::<Vec<_>>(), expected);
    assert_eq!(row.iter().skip(9).collect::<Vec<_>>(), ["unsure: rust or phoma", "0.5", "north"]);
    assert_eq!(&told[1].iter().take(3).collect::<Vec<_>>(), &["0000000000005157", "2", "bed 3"]);
}

/// The line is cut after every so many bytes of either end. What the device has deleted is here, whole; and the next pull
/// brings the rest, once.
#[test]
fn no_picture_is_lost_wherever_the_line_is_cut() {
    let whole = Keeper::new(&LENGTHS);
    let all = whole.0.lock().unwrap().pictures.clone();
    let mut tried = 0;
    let mut cut_short = 0;
    for (end, step, most) in [(End::Device, 1597, 115_000), (End::Host, 37, 2300)] {
        for after in (0..most).step_by(step) {
            let (dir, keeper) = (tempfile::tempdir().unwrap(), Keeper::new(&LENGTHS));
            let outcome = pull(&keeper, dir.path(), Some((end, after as u64)), Then::Delete);
            tried += 1;
            cut_short += usize::from(outcome.is_err());
            let (there, found) = (keeper.ids(), here(dir.path(), &all));
            let lost = all.keys().filter(|id| !there.contains(id) && !found.contains(id)).count();
            assert_eq!(lost, 0, "after {after} bytes: {there:?} and {found:?}");
            let rest = pull(&keeper, dir.path(), None, Then::Delete).unwrap();
            assert_eq!(rest.brought, all.len() - found.len(), "after {after} bytes");
            assert!(keeper.ids().is_empty() && rest.left.is_empty());
            assert_eq!(here(dir.path(), &all).len(), all.len());
            let (field, told) = (rows(dir.path(), "field.csv"), rows(dir.path(), "predictions.csv"));
            assert_eq!((field.len(), told.len()), (all.len(), all.len()), "after {after} bytes");
            let parts = fs::read_dir(dir.path().join("bed-3-07070707")).unwrap();
            assert!(parts.flatten().all(|e| e.path().extension().is_none_or(|x| x != "part" && x != "new")));
        }
    }
    assert!(tried > 120 && cut_short > 80, "{cut_short} of {tried}");
}

#[test]
fn a_picture_goes_on_where_the_line_was_cut() {
    let (dir, keeper) = (tempfile::tempdir().unwrap(), Keeper::new(&[20 * MAX_PART]));
    let cut = Some((End::Device, 15 * MAX_PART as u64));
    assert!(pull(&keeper, dir.path(), cut, Then::Delete).unwrap_err().is_unreachable());
    let before = std::mem::take(&mut keeper.0.lock().unwrap().parts);
    let parts = fs::read_dir(dir.path().join("bed-3-07070707")).unwrap().flatten();
    let part = parts.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "part")).unwrap();
    let here = fs::metadata(part).unwrap().len();
    let report = pull(&keeper, dir.path(), None, Then::Delete).unwrap();
    let again: BTreeSet<u64> = std::mem::take(&mut keeper.0.lock().unwrap().parts).into_iter().collect();
    // How many came before the cut is for the machine to say: a busy one sends pieces twice. Those that are here do not come again.
    let rest = (here..20 * MAX_PART as u64).step_by(MAX_PART).collect();
    assert!(report.brought == 1 && here > 0 && before.len() > 1, "{here} and {before:?}");
    assert_eq!(again, rest);
}

#[test]
fn a_part_that_is_not_its_beginning_is_thrown_away_and_what_is_damaged_there_is_left() {
    let (dir, keeper) = (tempfile::tempdir().unwrap(), Keeper::new(&[3000, 2000]));
    let name = |kept: &Kept| format!("bed-3-07070707/{}.part", &Digest(kept.digest).to_string()[..32]);
    let first = keeper.0.lock().unwrap().pictures[&1].0.clone();
    fs::create_dir_all(dir.path().join("bed-3-07070707")).unwrap();
    fs::write(dir.path().join(name(&first)), vec![9; 1000]).unwrap();
    keeper.0.lock().unwrap().pictures.get_mut(&2).unwrap().1[100] ^= 1;
    let report = pull(&keeper, dir.path(), None, Then::Delete).unwrap();
    assert_eq!((report.brought, report.deleted, report.left.len()), (1, 1, 1));
    assert!(report.left[0].contains("leaf 2.jpg") && report.left[0].contains("digest"), "{:?}", report.left);
    assert_eq!(keeper.ids(), [2].into());
}
