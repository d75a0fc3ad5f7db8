//! The state of the slots on disk: two copies, each with a number and a digest, of which the newest whole one counts.
//!
//! A transition is the renaming of the first copy; the second is for a disk that forgets. Format: `docs/formats/slots.md`.

use std::io::{self, ErrorKind};

use graft_bundle::Digest;
use serde::{Deserialize, Serialize};

use super::{Slot, SlotError, Status, failed};
use crate::disk::{Disk, FileSystem};

/// A bundle in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Digest of its head.
    pub digest: Digest,
    /// What it has come to.
    pub status: Status,
}

/// Something that happened to a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by at least one from event to event, whatever the clock says.
    pub number: u64,
    /// The device's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Where.
    pub slot: Slot,
    /// The bundle's name.
    pub name: String,
    /// What, in a few words.
    pub what: String,
}

/// What runs, what is in the slots, and how that came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub current: Option<Slot>,
    pub a: Option<Installed>,
    pub b: Option<Installed>,
    /// The newest last, at most [`EVENTS`].
    pub log: Vec<Event>,
}

/// What a read of the state came to.
pub(super) enum Found {
    /// The newest whole copy and its number.
    Whole(u64, State),
    /// There never was one.
    Nothing,
    /// There are only damaged copies, for these reasons.
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Copy {
    format: u32,
    number: u64,
    digest: Digest,
    state: State,
}

/// Format 1 had one copy and no digest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    #[serde(rename = "format")]
    _format: u32,
    current: Option<Slot>,
    a: Option<Installed>,
    b: Option<Installed>,
}

pub(super) const COPIES: [&str; 2] = ["state.json", "state.copy.json"];
const FORMAT: u32 = 2;
const FIRST: u32 = 1;
/// Largest number that is read, of a state or an event: none that counted up from 0 came near, and from it one can go on.
const MAX_NUMBER: u64 = u64::MAX / 2;
/// Events that are kept.
pub const EVENTS: usize = 32;

impl State {
    pub fn installed(&self, slot: Slot) -> Option<&Installed> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
            Slot::Factory => None,
        }
    }

    /// Puts a bundle into a slot or takes it out; the factory's is not the state's affair.
    pub fn put(&mut self, slot: Slot, installed: Option<Installed>) {
        match slot {
            Slot::A => self.a = installed,
            Slot::B => self.b = installed,
            Slot::Factory => {}
        }
    }

    pub fn status(&self, slot: Slot) -> Option<&Status> {
        self.installed(slot).map(|i| &i.status)
    }

    pub fn set_status(&mut self, slot: Slot, status: Status) {
        let installed = self.installed(slot).cloned();
        self.put(slot, installed.map(|i| Installed { status, ..i }));
    }

    /// Reads the newest whole copy.
    ///
    /// # Errors
    ///
    /// [`SlotError::Format`] if a later version of graft wrote it.
    pub fn read<F: FileSystem>(disk: &Disk<F>) -> Result<Found, SlotError> {
        let mut newest: Option<(u64, Self)> = None;
        let mut damage = Vec::new();
        let mut later = None;
        for path in COPIES {
            match disk.read(path).map(|bytes| Self::parse(&bytes)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => damage.push(format!("{path}: {e}")),
                Ok(Err(Flaw::Format(found))) => later = Some((path, found)),
                Ok(Err(Flaw::Damage(reason))) => damage.push(format!("{path}: {reason}")),
                Ok(Ok(found)) if newest.as_ref().is_none_or(|n| n.0 < found.0) => newest = Some(found),
                Ok(Ok(_)) => {}
            }
        }
        match (newest, later) {
            (Some((number, state)), _) => Ok(Found::Whole(number, state)),
            (None, Some((path, found))) => Err(SlotError::Format { path, expected: FORMAT, found }),
            (None, None) if damage.is_empty() => Ok(Found::Nothing),
            (None, None) => Ok(Found::Damaged(damage.join("; "))),
        }
    }

    fn parse(bytes: &[u8]) -> Result<(u64, Self), Flaw> {
        #[derive(Deserialize)]
        struct Front {
            format: u32,
        }
        let damage = |e: serde_json::Error| Flaw::Damage(e.to_string());
        let front: Front = serde_json::from_slice(bytes).map_err(damage)?;
        match front.format {
            FIRST => {
                let First { current, a, b, .. } = serde_json::from_slice(bytes).map_err(damage)?;
                Ok((0, Self { current, a, b, log: vec![] }))
            }
            FORMAT => {
                let copy: Copy = serde_json::from_slice(bytes).map_err(damage)?;
                let digest = digest(copy.number, &copy.state).map_err(damage)?;
                if digest != copy.digest {
                    return Err(Flaw::Damage(format!("expected digest {}, found {digest}", copy.digest)));
                }
                let largest = copy.state.log.iter().map(|e| e.number).fold(copy.number, u64::max);
                if largest > MAX_NUMBER {
                    return Err(Flaw::Damage(format!("expected numbers up to {MAX_NUMBER}, found {largest}")));
                }
                Ok((copy.number, copy.state))
            }
            other => Err(Flaw::Format(other)),
        }
    }

    /// Writes both copies.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`] if the first was not written; the second is only a spare.
    pub fn write<F: FileSystem>(&self, number: u64, disk: &mut Disk<F>) -> Result<(), SlotError> {
        let encoded = digest(number, self)
            .and_then(|digest| serde_json::to_vec_pretty(&Copy { format: FORMAT, number, digest, state: self.clone() }))
            .map_err(|e| failed("encode the state")(e.into()))?;
        let [first, second] = COPIES;
        disk.write(first, &encoded).map_err(failed("write the state"))?;
        let _: io::Result<()> = disk.write(second, &encoded);
        Ok(())
    }
}

/// Why a copy is not used.
enum Flaw {
    Format(u32),
    Damage(String),
}

fn digest(number: u64, state: &State) -> serde_json::Result<Digest> {
    Ok(Digest::of(&serde_json::to_vec(&(number, state))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_which_one_cannot_go_on_are_damage() {
        let parsed = |number, event| {
            let log =
                vec![Event { number: event, unix_ms: 0, slot: Slot::A, name: String::new(), what: String::new() }];
            let state = State { log, ..State::default() };
            let digest = digest(number, &state).unwrap();
            State::parse(&serde_json::to_vec(&Copy { format: FORMAT, number, digest, state }).unwrap())
        };
        assert!(matches!(parsed(MAX_NUMBER, MAX_NUMBER), Ok((MAX_NUMBER, _))));
        for (number, event) in [(u64::MAX, 1), (1, u64::MAX)] {
            let Err(Flaw::Damage(reason)) = parsed(number, event) else { panic!("{number} and {event} were taken") };
            assert!(reason.contains(&u64::MAX.to_string()), "{reason}");
        }
    }
}
