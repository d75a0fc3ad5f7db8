//! The desk at which several people label: who gets which picture, what was said of each, what comes of it.
//!
//! Does no HTTP. Times are given by the caller, in milliseconds since 1970.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hints::{self, Unit};
use crate::manifest::{self, Labelled};
use crate::standing::{Standing, Vote, replay};
use crate::store::{Entry, Kind, Store};
use crate::{Answer, Folder, Hints, LOG, LabelError, Verdict, manifest_of};

/// All that is known while people label.
#[derive(Debug)]
pub struct Desk {
    folder: Folder,
    answers: Vec<Option<Answer>>,
    vectors: Vec<Option<Unit>>,
    groups: Vec<String>,
    /// The pictures in the order in which they are asked for.
    order: Vec<usize>,
    store: Store,
    /// The clicks on each picture.
    clicks: Vec<Vec<Entry>>,
    /// What they come to.
    standings: Vec<(Standing, Vec<Vote>)>,
    index: HashMap<String, usize>,
    classes: Vec<String>,
    /// Who is at a picture, and until when it is held for them.
    leases: HashMap<usize, (String, u64)>,
    /// What went wrong beside the log, which has every click.
    warning: Option<String>,
}

/// A click, as the page sends it.
#[derive(Debug, Clone, Deserialize)]
pub struct Click {
    /// Who clicked.
    pub who: String,
    /// Made by the page for each click, so that one sent again is not taken twice.
    pub nonce: String,
    /// The picture; taking back needs none.
    #[serde(default)]
    pub picture: Option<usize>,
    /// The newest click on the picture that the page showed.
    #[serde(default)]
    pub seen: i64,
}

/// What came of a click.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Its number.
    pub click: i64,
    /// The picture that it was about.
    pub picture: Option<usize>,
}

/// A picture, as the page shows it.
#[derive(Debug, Serialize)]
pub struct Card {
    /// Its place in the folder.
    pub picture: usize,
    /// Its path below the folder.
    pub file: String,
    /// What a model said.
    pub answer: Option<Answer>,
    /// Who saw it, where and when.
    pub origin: Option<Origin>,
    /// `open`, `settled` or `conflict`.
    pub standing: &'static str,
    /// What counts so far.
    pub votes: Vec<Vote>,
    /// The newest click on it.
    pub seen: i64,
    /// Somebody else who has it before them.
    pub held_by: Option<String>,
    /// What looks like it: labelled pictures first.
    pub neighbours: Vec<Neighbour>,
}

/// Where a picture comes from.
#[derive(Debug, Serialize)]
pub struct Origin {
    device: String,
    site: Option<String>,
    unix_ms: u64,
    model: String,
}

/// A picture that looks like another.
#[derive(Debug, Serialize)]
pub struct Neighbour {
    /// Its place in the folder.
    pub picture: usize,
    /// Its path below the folder.
    pub file: String,
    /// What people said of it.
    pub verdict: Option<Verdict>,
    /// What a model said of it.
    pub answer: Option<String>,
    /// Cosine of the two vectors.
    pub similarity: f32,
}

/// How far the work is.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The folder's name.
    pub folder: String,
    /// All pictures.
    pub pictures: usize,
    /// Those with a label that counts.
    pub settled: usize,
    /// Those of no use.
    pub unusable: usize,
    /// Those on which two people differ.
    pub conflicts: Vec<usize>,
    /// The classes, with their pictures.
    pub classes: Vec<Class>,
    /// Everybody who ever clicked here.
    pub people: Vec<Person>,
    /// Pictures that this person has skipped and nobody settled.
    pub skipped: usize,
    /// Pictures that this person clicked on last, oldest first.
    pub trail: Vec<usize>,
    /// Where the manifest is.
    pub manifest: PathBuf,
    /// What went wrong beside the log.
    pub warning: Option<String>,
}

/// A class.
#[derive(Debug, Serialize)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Its settled pictures.
    pub pictures: usize,
}

/// Somebody who labels.
#[derive(Debug, Serialize)]
pub struct Person {
    /// The name.
    pub who: String,
    /// Clicks that count: labels and pictures of no use.
    pub clicks: usize,
    /// The last click, milliseconds since 1970.
    pub last_ms: u64,
}

impl Desk {
    /// Opens a folder's log, or begins one, and goes on where it was.
    ///
    /// `classes` come first, then those of the log, then those of the answers.
    ///
    /// # Errors
    ///
    /// If the log cannot be used, a class has no name, or the manifest cannot be written.
    pub fn open(folder: Folder, classes: &[String], hints: Hints) -> Result<Self, LabelError> {
        let store = Store::open(&folder.root().join(LOG))?;
        let count = folder.pictures.len();
        let index: HashMap<String, usize> =
            folder.pictures.iter().enumerate().map(|(i, p)| (p.file.clone(), i)).collect();
        let mut clicks = vec![vec![]; count];
        // Clicks on pictures that are gone stay in the log, for when these come back.
        for entry in store.entries()? {
            if let Some(&i) = index.get(&entry.file) {
                clicks[i].push(entry);
            }
        }
        let standings: Vec<(Standing, Vec<Vote>)> = clicks.iter().map(|c| replay(c)).collect();
        let mut vectors: Vec<Option<Unit>> = hints.vectors.into_iter().map(|v| v.and_then(Unit::new)).collect();
        vectors.resize(count, None);
        let (mut answers, mut gains) = (hints.answers, hints.gains);
        answers.resize(count, None);
        gains.resize(count, 1.0);
        let labelled: Vec<usize> = (0..count).filter(|&i| standings[i].0 != Standing::Open).collect();
        let order = hints::order(&gains, &vectors, &labelled);
        let groups = (0..count).map(|i| group(&store, &folder, i)).collect::<Result<_, _>>()?;
        let mut desk = Self {
            folder,
            answers,
            vectors,
            groups,
            order,
            store,
            clicks,
            standings,
            index,
            classes: vec![],
            leases: HashMap::new(),
            warning: None,
        };
        let kept = desk.store.classes()?;
        let mut said: Vec<String> = desk.answers.iter().flatten().map(|a| a.label.clone()).collect();
        said.sort();
        for name in classes.iter().cloned().chain(kept).chain(said) {
            desk.add_class(&name)?;
        }
        manifest::write(&manifest_of(desk.folder.root()), desk.rows())?;
        Ok(desk)
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns the classes in the order of their keys.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Takes a label, or that a picture is of no use.
    ///
    /// # Errors
    ///
    /// If there is no such picture or class, or the log cannot be written.
    pub fn label(&mut self, click: &Click, verdict: Verdict, now_ms: u64) -> Result<Done, LabelError> {
        if let Verdict::Label(label) = &verdict
            && !self.classes.contains(label)
        {
            return Err(LabelError::NoSuchClass(label.clone()));
        }
        self.take(click, Kind::Verdict(verdict), now_ms)
    }

    /// Takes that somebody does not want to say anything of a picture: it comes last for them, not for others.
    ///
    /// # Errors
    ///
    /// If there is no such picture, or the log cannot be written.
    pub fn skip(&mut self, click: &Click, now_ms: u64) -> Result<Done, LabelError> {
        self.take(click, Kind::Skip, now_ms)
    }

    /// Takes back the person's last click that is not taken back.
    ///
    /// # Errors
    ///
    /// If there is none, or the log cannot be written.
    pub fn undo(&mut self, click: &Click, now_ms: u64) -> Result<Done, LabelError> {
        if let Some(done) = self.done_before(click)? {
            return Ok(done);
        }
        let mine = self.clicks.iter().enumerate().flat_map(|(i, c)| c.iter().map(move |e| (i, e)));
        let last = mine
            .filter(|(_, e)| e.who == click.who && e.undone_by.is_none() && e.kind != Kind::Undo)
            .max_by_key(|(_, e)| e.id)
            .map(|(i, e)| (i, e.id));
        let (picture, undone) = last.ok_or_else(|| LabelError::NothingToUndo(click.who.clone()))?;
        let entry = self.entry(click, picture, Kind::Undo, now_ms);
        let entry = self.store.append(entry, &click.nonce, Some(undone))?;
        let id = entry.id;
        for known in self.clicks[picture].iter_mut().filter(|e| e.id == undone) {
            known.undone_by = Some(id);
        }
        self.clicks[picture].push(entry);
        self.changed(picture);
        // It is before them again, unless somebody else has it by now.
        let lease = self.leases.entry(picture).or_insert_with(|| (click.who.clone(), 0));
        if lease.0 == click.who {
            lease.1 = now_ms + LEASE_MS;
        }
        Ok(Done { click: id, picture: Some(picture) })
    }

    /// Adds a class, behind the others.
    ///
    /// # Errors
    ///
    /// If it has no proper name, there are too many, or the log cannot be written.
    pub fn add_class(&mut self, name: &str) -> Result<(), LabelError> {
        check_name("a class", name, MAX_CLASS)?;
        if self.classes.iter().any(|c| c == name) {
            return Ok(());
        }
        if self.classes.len() == MAX_CLASSES {
            return Err(LabelError::TooManyClasses(MAX_CLASSES));
        }
        self.store.add_class(name)?;
        self.classes.push(name.to_owned());
        Ok(())
    }

    /// Returns the pictures that somebody is to look at next, and holds them for them.
    ///
    /// First what is open, in the order of expected gain; then what people differ on; then what they skipped themselves.
    ///
    /// # Errors
    ///
    /// If the person has no proper name.
    pub fn next(&mut self, who: &str, count: usize, now_ms: u64) -> Result<Vec<Card>, LabelError> {
        check_name("a name", who, MAX_WHO)?;
        self.leases.retain(|_, (_, until)| *until > now_ms);
        let is_free = |i: &usize| self.leases.get(i).is_none_or(|(holder, _)| holder == who);
        let is_open = |i: &usize| self.standings[*i].0 == Standing::Open;
        let free = || self.order.iter().copied().filter(is_free);
        let open = free().filter(|i| is_open(i) && self.skipped(*i, who).is_none());
        let conflicts = free()
            .filter(|i| matches!(self.standings[*i].0, Standing::Conflict { .. }) && self.skipped(*i, who).is_none());
        let mut skipped: Vec<(i64, usize)> = free()
            .filter(|i| !matches!(self.standings[*i].0, Standing::Settled(_)))
            .filter_map(|i| Some((self.skipped(i, who)?, i)))
            .collect();
        skipped.sort_unstable();
        let chosen: Vec<usize> =
            open.chain(conflicts).chain(skipped.into_iter().map(|s| s.1)).take(count.min(MAX_NEXT)).collect();
        for &i in &chosen {
            self.leases.insert(i, (who.to_owned(), now_ms + LEASE_MS));
        }
        chosen.into_iter().map(|i| self.card(i, who)).collect()
    }

    /// Returns what the page shows of a picture.
    ///
    /// # Errors
    ///
    /// If there is no such picture.
    pub fn card(&self, picture: usize, who: &str) -> Result<Card, LabelError> {
        let count = self.folder.pictures.len();
        let known = self.folder.pictures.get(picture);
        let known = known.ok_or(LabelError::NoSuchPicture { count, found: picture })?;
        let (standing, votes) = &self.standings[picture];
        let standing = match standing {
            Standing::Open => "open",
            Standing::Settled(_) => "settled",
            Standing::Conflict { .. } => "conflict",
        };
        Ok(Card {
            picture,
            file: known.file.clone(),
            answer: self.answers[picture].clone(),
            origin: known.seen.as_ref().map(|s| Origin {
                device: s.device.clone(),
                site: s.site.clone(),
                unix_ms: s.unix_ms,
                model: s.model.clone(),
            }),
            standing,
            votes: votes.clone(),
            seen: self.clicks[picture].last().map_or(0, |e| e.id),
            held_by: self.leases.get(&picture).map(|l| l.0.clone()).filter(|holder| holder != who),
            neighbours: self.neighbours(picture),
        })
    }

    /// Returns how far the work is, for one person.
    pub fn overview(&self, who: &str) -> Overview {
        let mut of_class: HashMap<&str, usize> = HashMap::new();
        let (mut settled, mut unusable, mut conflicts) = (0, 0, vec![]);
        for &i in &self.order {
            match &self.standings[i].0 {
                Standing::Open => (),
                Standing::Settled(Verdict::Unusable) => unusable += 1,
                Standing::Settled(Verdict::Label(label)) => {
                    settled += 1;
                    *of_class.entry(label).or_default() += 1;
                }
                Standing::Conflict { .. } => conflicts.push(i),
            }
        }
        let mut people: BTreeMap<&str, Person> = BTreeMap::new();
        let mut trail: BTreeMap<i64, usize> = BTreeMap::new();
        for (i, clicks) in self.clicks.iter().enumerate() {
            for entry in clicks {
                let person = people.entry(&entry.who).or_insert_with(|| Person {
                    who: entry.who.clone(),
                    clicks: 0,
                    last_ms: 0,
                });
                let counts = entry.undone_by.is_none() && matches!(entry.kind, Kind::Verdict(_));
                person.clicks += usize::from(counts);
                person.last_ms = person.last_ms.max(entry.unix_ms);
            }
            let mine = clicks.iter().filter(|e| e.who == who && e.undone_by.is_none() && e.kind != Kind::Undo);
            trail.extend(mine.map(|e| e.id).max().map(|id| (id, i)));
        }
        let skipped = |i: &&usize| self.standings[**i].0 == Standing::Open && self.skipped(**i, who).is_some();
        Overview {
            folder: self.folder.root().file_name().unwrap_or_default().to_string_lossy().into_owned(),
            pictures: self.folder.pictures.len(),
            settled,
            unusable,
            conflicts,
            classes: self
                .classes
                .iter()
                .map(|c| Class { name: c.clone(), pictures: of_class.get(c.as_str()).copied().unwrap_or(0) })
                .collect(),
            people: people.into_values().collect(),
            skipped: self.order.iter().filter(skipped).count(),
            trail: trail.into_values().rev().take(TRAIL).collect::<Vec<_>>().into_iter().rev().collect(),
            manifest: manifest_of(self.folder.root()),
            warning: self.warning.clone(),
        }
    }

    /// Checks a click, and returns what it did if it came before: a page that heard no answer sends it again.
    fn done_before(&self, click: &Click) -> Result<Option<Done>, LabelError> {
        check_click(click)?;
        let known = self.store.by_nonce(&click.nonce)?;
        Ok(known.map(|known| Done { click: known.id, picture: self.index.get(&known.file).copied() }))
    }

    fn take(&mut self, click: &Click, kind: Kind, now_ms: u64) -> Result<Done, LabelError> {
        if let Some(done) = self.done_before(click)? {
            return Ok(done);
        }
        let count = self.folder.pictures.len();
        let picture = click.picture.unwrap_or(usize::MAX);
        if picture >= count {
            return Err(LabelError::NoSuchPicture { count, found: picture });
        }
        let entry = self.entry(click, picture, kind, now_ms);
        let entry = self.store.append(entry, &click.nonce, None)?;
        let id = entry.id;
        self.clicks[picture].push(entry);
        if self.leases.get(&picture).is_some_and(|l| l.0 == click.who) {
            self.leases.remove(&picture);
        }
        self.changed(picture);
        Ok(Done { click: id, picture: Some(picture) })
    }

    fn entry(&self, click: &Click, picture: usize, kind: Kind, now_ms: u64) -> Entry {
        let (file, who) = (self.folder.pictures[picture].file.clone(), click.who.clone());
        Entry { id: 0, file, kind, who, unix_ms: now_ms, seen: click.seen, undone_by: None }
    }

    /// Settles anew what a picture's clicks come to, and writes the manifest.
    fn changed(&mut self, picture: usize) {
        self.standings[picture] = replay(&self.clicks[picture]);
        // The click itself is in the log, and the manifest is written again with the next one and at the next start.
        self.warning = manifest::write(&manifest_of(self.folder.root()), self.rows()).err().map(|e| {
            let cause = std::error::Error::source(&e).map_or(String::new(), |s| format!(": {s}"));
            format!("{e}{cause}; the clicks are safe in {LOG}")
        });
    }

    fn rows(&self) -> impl Iterator<Item = Labelled<'_>> {
        self.folder.pictures.iter().zip(&self.standings).zip(&self.groups).filter_map(|((picture, standing), group)| {
            let Standing::Settled(Verdict::Label(label)) = &standing.0 else { return None };
            Some(Labelled { file: &picture.file, label, group })
        })
    }

    /// Returns the click with which somebody skipped a picture, unless they said something of it later.
    fn skipped(&self, picture: usize, who: &str) -> Option<i64> {
        let mine = |e: &&Entry| e.who == who && e.undone_by.is_none() && e.kind != Kind::Undo;
        self.clicks[picture].iter().rfind(mine).filter(|e| e.kind == Kind::Skip).map(|e| e.id)
    }

    /// Returns what looks like a picture: the nearest labelled ones, then the nearest others.
    fn neighbours(&self, picture: usize) -> Vec<Neighbour> {
        let Some(vector) = &self.vectors[picture] else { return vec![] };
        let (mut labelled, mut open) = (vec![], vec![]);
        for (i, other) in self.vectors.iter().enumerate().filter(|(i, _)| *i != picture) {
            let Some(other) = other else { continue };
            let list = if matches!(self.standings[i].0, Standing::Settled(_)) { &mut labelled } else { &mut open };
            list.push((vector.cosine(other), i));
        }
        for list in [&mut labelled, &mut open] {
            list.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        labelled.truncate(LABELLED_NEIGHBOURS);
        open.truncate(NEIGHBOURS - labelled.len());
        let tell = |(similarity, i): (f32, usize)| Neighbour {
            picture: i,
            file: self.folder.pictures[i].file.clone(),
            verdict: match &self.standings[i].0 {
                Standing::Settled(verdict) => Some(verdict.clone()),
                _ => None,
            },
            answer: self.answers[i].as_ref().map(|a| a.label.clone()),
            similarity,
        };
        labelled.into_iter().chain(open).map(tell).collect()
    }
}

/// Returns what a picture shares with those that must not be on the other side of a split: place and day.
fn group(store: &Store, folder: &Folder, picture: usize) -> Result<String, LabelError> {
    let Some(seen) = &folder.pictures[picture].seen else { return Ok(String::new()) };
    let place = seen.site.as_deref().unwrap_or(&seen.device);
    Ok(format!("{place}/{}", store.day(seen.unix_ms)?))
}

fn check_click(click: &Click) -> Result<(), LabelError> {
    check_name("a name", &click.who, MAX_WHO)?;
    check_name("a nonce", &click.nonce, MAX_NONCE)
}

fn check_name(what: &'static str, name: &str, most: usize) -> Result<(), LabelError> {
    let len = name.chars().count();
    if len == 0 || len > most || name.trim() != name || name.chars().any(char::is_control) {
        return Err(LabelError::Name { what, most, found: name.chars().take(2 * most).collect() });
    }
    Ok(())
}

/// How long a picture is held for somebody who does nothing.
pub(crate) const LEASE_MS: u64 = 120_000;
const MAX_WHO: usize = 40;
const MAX_CLASS: usize = 80;
const MAX_NONCE: usize = 64;
const MAX_CLASSES: usize = 500;
const MAX_NEXT: usize = 8;
const NEIGHBOURS: usize = 8;
const LABELLED_NEIGHBOURS: usize = 5;
const TRAIL: usize = 50;
