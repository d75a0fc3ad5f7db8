//! What a bundle asks of the device that is to run it: entries of its manifest's metadata, compared before a byte is written.
//!
//! A host compares what it can ask of a device, the device itself compares all. Spec: `docs/formats/bundle.md`.

use std::collections::BTreeMap;

use crate::{BundleError, Manifest};

/// What a bundle asks of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Oldest version of graftd, such as `0.2.1`.
    pub agent: Option<String>,
    /// Beginnings of the names of the boards that it is for; any will do where there are none.
    pub boards: Vec<String>,
    /// Least memory of the board, in MB.
    pub memory_mb: Option<u64>,
    /// Room to be left on the device's disk once the bundle is there, in MB.
    pub free_mb: Option<u64>,
    /// Keys of a later version.
    unknown: Vec<String>,
}

/// What is known of a device; what is not, is not compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// Version of graftd.
    pub agent: Option<String>,
    /// The board as its firmware names it; empty where it does not.
    pub board: Option<String>,
    /// The board's memory, in bytes.
    pub memory_bytes: Option<u64>,
}

/// What a device lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}; {remedy}")]
pub struct Unmet {
    /// What the bundle asks.
    pub expected: String,
    /// What the device has.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
}

const PREFIX: &str = "graft.needs.";
const AGENT: &str = "graft.needs.agent";
const BOARD: &str = "graft.needs.board";
const MEMORY: &str = "graft.needs.memory_mb";
const FREE: &str = "graft.needs.free_mb";
/// Between the boards of a list. Names of boards have commas and slashes.
const OR: char = '|';
const MB: u64 = 1_000_000;

impl Needs {
    /// Reads what a bundle asks.
    ///
    /// # Errors
    ///
    /// [`BundleError::Manifest`] if it asks for what can't be compared.
    pub fn of(manifest: &Manifest) -> Result<Self, BundleError> {
        let mut needs = Self::default();
        for (key, value) in manifest.metadata.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            let megabytes = || value.parse().map(Some).map_err(|_| value);
            let read = match key.as_str() {
                AGENT => is_version(value).then(|| needs.agent = Some(value.clone())).ok_or(value),
                BOARD => {
                    needs.boards = value.split(OR).map(|board| board.trim().to_owned()).collect();
                    if needs.boards.iter().any(String::is_empty) { Err(value) } else { Ok(()) }
                }
                MEMORY => megabytes().map(|mb| needs.memory_mb = mb),
                FREE => megabytes().map(|mb| needs.free_mb = mb),
                _ => {
                    needs.unknown.push(key.clone());
                    Ok(())
                }
            };
            read.map_err(|value| {
                BundleError::Manifest(format!("expected {}, found {value:?}", expectation(key.as_str())))
            })?;
        }
        Ok(needs)
    }

    /// Returns them if [`Needs::of`] would read them as they are.
    ///
    /// # Errors
    ///
    /// [`BundleError::Manifest`] for a version that cannot be compared, or a board's name that is empty or two.
    pub fn checked(self) -> Result<Self, BundleError> {
        let bad =
            |key, value: &str| Err(BundleError::Manifest(format!("expected {}, found {value:?}", expectation(key))));
        if let Some(version) = self.agent.as_deref().filter(|version| !is_version(version)) {
            return bad(AGENT, version);
        }
        match self.boards.iter().find(|board| board.trim().is_empty() || board.contains(OR)) {
            Some(board) => bad(BOARD, board),
            None => Ok(self),
        }
    }

    /// Puts them among a bundle's metadata, in the place of those that were there.
    pub fn put(&self, metadata: &mut BTreeMap<String, String>) {
        metadata.retain(|key, _| !key.starts_with(PREFIX));
        let boards = (!self.boards.is_empty()).then(|| self.boards.join(&OR.to_string()));
        let number = |megabytes: Option<u64>| megabytes.map(|mb| mb.to_string());
        let entries = [
            (AGENT, self.agent.clone()),
            (BOARD, boards),
            (MEMORY, number(self.memory_mb)),
            (FREE, number(self.free_mb)),
        ];
        metadata.extend(entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }

    /// Returns what a device lacks; its room, which depends on what it holds already, is for itself to compare.
    pub fn unmet(&self, offer: &Offer) -> Option<Unmet> {
        let lacks = |expected, found, remedy| Some(Unmet { expected, found, remedy });
        if let Some(key) = self.unknown.first() {
            let found = format!("version {} of the bundle's format", env!("CARGO_PKG_VERSION"));
            return lacks(format!("a version that knows {key}"), found, "update graft and graftd");
        }
        if let (Some(least), Some(found)) = (&self.agent, &offer.agent)
            && numbers(found) < numbers(least)
        {
            return lacks(format!("graftd {least} or newer"), found.clone(), "install a newer graftd");
        }
        if let Some(found) = &offer.board
            && !(self.boards.is_empty() || self.boards.iter().any(|board| found.starts_with(board.as_str())))
        {
            let found = if found.is_empty() { "a board without a name" } else { found }.to_owned();
            return lacks(
                format!("a board named {}", self.boards.join(" or ")),
                found,
                "flash the bundle made for this board",
            );
        }
        if let (Some(least), Some(found)) = (self.memory_mb, offer.memory_bytes)
            && found < least.saturating_mul(MB)
        {
            let found = format!("{} MB", found / MB);
            return lacks(
                format!("{least} MB of memory"),
                found,
                "flash a bundle of a smaller model, or use a larger board",
            );
        }
        None
    }

    /// Returns the bytes to be left on the device's disk.
    pub fn free_bytes(&self) -> u64 {
        self.free_mb.unwrap_or(0).saturating_mul(MB)
    }
}

fn expectation(key: &str) -> String {
    match key {
        AGENT => format!("a version such as 0.2.1 in {key}"),
        BOARD => format!("names of boards with {OR} between them in {key}"),
        _ => format!("a number of megabytes in {key}"),
    }
}

/// Whether a text is a version that can be compared.
fn is_version(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(|part| part.parse::<u64>().is_ok())
}

/// Returns the numbers of a version such as `0.2.10-rc1`, in the order in which versions are compared.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, BundleWriter, MODEL_FILE};

    fn manifest(metadata: BTreeMap<String, String>) -> Manifest {
        let mut w = BundleWriter::new("m", "test");
        w.metadata(metadata).add_file(MODEL_FILE, b"model", &[]).unwrap();
        Bundle::from_bytes(&w.to_bytes(None).unwrap()).unwrap().manifest().clone()
    }

    fn of(entries: &[(&str, &str)]) -> Result<Needs, BundleError> {
        Needs::of(&manifest(entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()))
    }

    #[test]
    fn needs_come_back_from_a_bundle_as_they_went_in() {
        let needs = Needs {
            agent: Some("0.2.1".into()),
            boards: vec!["Raspberry Pi 4".into(), "NVIDIA Jetson, Orin".into()],
            memory_mb: Some(900),
            free_mb: Some(50),
            ..Needs::default()
        };
        let mut metadata = BTreeMap::from([("graft.needs.other".into(), "x".into()), ("licence".into(), "MIT".into())]);
        needs.put(&mut metadata);
        assert_eq!(metadata.len(), 5, "{metadata:?}");
        assert_eq!(Needs::of(&manifest(metadata)).unwrap(), needs);
        assert_eq!(of(&[]).unwrap(), Needs::default());
        assert_eq!(needs.clone().checked().unwrap(), needs);
        for bad in [
            Needs { agent: Some("new".into()), ..Needs::default() },
            Needs { boards: vec!["a|b".into()], ..Needs::default() },
            Needs { boards: vec![" ".into()], ..Needs::default() },
        ] {
            assert!(bad.clone().checked().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_device_lacks_is_named() {
        let device = Offer {
            agent: Some("0.9.12".into()),
            board: Some("Raspberry Pi 4 Model B Rev 1.4".into()),
            memory_bytes: Some(1_900_000_000),
        };
        for met in [
            ("graft.needs.agent", "0.9.2"),
            ("graft.needs.agent", "0.9.12"),
            ("graft.needs.board", "Raspberry Pi"),
            ("graft.needs.board", "Jetson | Raspberry Pi 4"),
            ("graft.needs.memory_mb", "1900"),
        ] {
            assert_eq!(of(&[met]).unwrap().unmet(&device), None, "{met:?}");
        }
        for (unmet, text) in [
            (("graft.needs.agent", "0.10"), "expected graftd 0.10 or newer, found 0.9.12"),
            (("graft.needs.board", "Jetson|Raspberry Pi 5"), "a board named Jetson or Raspberry Pi 5, found Raspberry"),
            (("graft.needs.memory_mb", "1901"), "expected 1901 MB of memory, found 1900 MB"),
            (("graft.needs.moonlight", "full"), "a version that knows graft.needs.moonlight"),
        ] {
            let needs = of(&[unmet]).unwrap();
            let lacks = needs.unmet(&device).map(|lacks| lacks.to_string()).unwrap_or_default();
            assert!(lacks.contains(text), "{lacks}");
            let is_known = unmet.0 != "graft.needs.moonlight";
            assert_eq!(needs.unmet(&Offer::default()).is_none(), is_known, "what is not known is not compared");
        }
        let nameless = Offer { board: Some(String::new()), ..Offer::default() };
        assert!(of(&[("graft.needs.board", "Jetson")]).unwrap().unmet(&nameless).is_some());
        assert_eq!(of(&[("graft.needs.free_mb", "3")]).unwrap().free_bytes(), 3_000_000);
    }

    #[test]
    fn needs_that_cannot_be_compared_are_refused() {
        for bad in [
            ("graft.needs.agent", "new"),
            ("graft.needs.agent", "1.x"),
            ("graft.needs.agent", ""),
            ("graft.needs.board", "Jetson||Pi"),
            ("graft.needs.memory_mb", "512 MB"),
            ("graft.needs.free_mb", "-1"),
        ] {
            let error = of(&[bad]).unwrap_err();
            assert!(matches!(&error, BundleError::Manifest(text) if text.contains(bad.0)), "{error}");
        }
    }
}
