//! What is to be told of a picture, and where a manifest says it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// What is to be told of a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One class of several.
    #[default]
    Classes,
    /// Tags, of which none, one or several hold.
    Tags,
    /// Numbers: a regression.
    Values,
}

impl Task {
    /// The key in an exported model's metadata; a model without it tells classes.
    pub const KEY: &str = graft_runtime::TASK;

    /// Returns the text that stands for it in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Tags => "tags",
            Self::Values => "values",
        }
    }

    /// Reads a model's metadata.
    ///
    /// # Errors
    ///
    /// If it names a task that is not known.
    pub fn of(metadata: &BTreeMap<String, String>) -> Result<Self> {
        let Some(name) = metadata.get(Self::KEY) else { return Ok(Self::default()) };
        let known = [Self::Classes, Self::Tags, Self::Values].into_iter().find(|t| t.name() == name);
        known.with_context(|| format!("expected a task of classes, tags or values in the model, found {name:?}"))
    }
}

/// The columns of a manifest that say what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// The label, one class.
    Label,
    /// One column of 0 or 1 for each tag.
    Tags(Vec<String>),
    /// One column of numbers for each value.
    Values(Vec<String>),
}

impl Columns {
    /// Returns the task that such columns are for.
    pub fn task(&self) -> Task {
        match self {
            Self::Label => Task::Classes,
            Self::Tags(_) => Task::Tags,
            Self::Values(_) => Task::Values,
        }
    }

    /// Returns the columns of numbers, if any.
    pub(super) fn names(&self) -> Option<&[String]> {
        match self {
            Self::Label => None,
            Self::Tags(names) | Self::Values(names) => Some(names),
        }
    }

    /// Makes sure that a layout without columns is not asked for any.
    pub(super) fn only_label(&self, path: &Path) -> Result<()> {
        let Some(names) = self.names() else { return Ok(()) };
        bail!(
            "expected a manifest (.csv, .parquet) with the columns {}, found {}, which has none",
            names.join(", "),
            path.display()
        )
    }

    /// Reads a field.
    pub(super) fn number(&self, text: &str) -> Result<f32> {
        let value: f32 = text.parse().ok().with_context(|| format!("expected a number, found {text:?}"))?;
        ensure!(value.is_finite(), "expected a finite number, found {text:?}");
        if let Self::Tags(_) = self {
            ensure!(value == 0.0 || value == 1.0, "expected 0 or 1 for a tag, found {text:?}");
        }
        Ok(value)
    }
}
