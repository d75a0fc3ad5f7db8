//! `field.csv`: what a device said of each picture. Spec: `docs/formats/field.md`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;

use crate::LabelError;

/// What a device said of a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// The device's name.
    pub device: String,
    /// The device's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// What the device calls the picture.
    pub source: String,
    /// The model that answered.
    pub model: String,
    /// The best label.
    pub answer: String,
    /// Its probability.
    pub probability: f32,
    /// The next best label, and its probability.
    pub second: Option<(String, f32)>,
    /// Why the device was not sure.
    pub reason: Option<String>,
    /// What the device thought the picture is worth; more is more.
    pub value: Option<f32>,
    /// Where the device stood.
    pub site: Option<String>,
}

/// Reads the table; of two rows of one picture the later one counts. `None` where there is no table.
///
/// # Errors
///
/// If it cannot be read, a column is missing or a field is not what the format says.
pub(crate) fn read(path: &Path) -> Result<Option<HashMap<String, Seen>>, LabelError> {
    let io_error = |source| LabelError::Io { doing: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(e)),
    };
    let len = file.metadata().map_err(io_error)?.len();
    if len > MAX_LEN {
        let (expected, found) = (format!("at most {MAX_LEN} bytes"), len.to_string());
        return Err(LabelError::Field { path: path.to_owned(), expected, found });
    }
    parse(file.take(MAX_LEN), path).map(Some)
}

fn parse(from: impl Read, path: &Path) -> Result<HashMap<String, Seen>, LabelError> {
    let field_error = |expected: String, found: String| LabelError::Field { path: path.to_owned(), expected, found };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(from);
    let header = reader.headers().map_err(|e| field_error("a CSV header".into(), e.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|h| h.trim_start_matches('\u{feff}') == name);
    let need = |name: &str| {
        let found = || header.iter().collect::<Vec<_>>().join(", ");
        column(name).ok_or_else(|| field_error(format!("a column {name}"), found()))
    };
    let (file, answer, probability) = (need("file")?, need("answer")?, need("probability")?);
    let (device, unix_ms, source, model) = (need("device")?, need("unix_ms")?, need("source")?, need("model")?);
    let [second, second_probability, reason, value, site] =
        ["second", "second_probability", "reason", "value", "site"].map(column);
    let mut seen = HashMap::new();
    for (index, record) in reader.records().enumerate() {
        let row = index + 2;
        let record = record.map_err(|e| field_error(format!("a sound row {row}"), e.to_string()))?;
        let text = |c: usize| record.get(c).unwrap_or_default().to_owned();
        let optional = |c: Option<usize>| c.map(text).filter(|t| !t.is_empty());
        let number = |text: String, what: &str, is_right: fn(f32) -> bool| match text.parse::<f32>() {
            Ok(number) if is_right(number) => Ok(number),
            _ => Err(field_error(format!("{what} in row {row}"), format!("{text:?}"))),
        };
        let share = |text| number(text, "a probability from 0 to 1", |p| (0.0..=1.0).contains(&p));
        let (name, label, time) = (text(file), text(answer), text(unix_ms));
        if name.is_empty() || label.is_empty() {
            return Err(field_error(format!("a file and an answer in row {row}"), format!("{name:?} and {label:?}")));
        }
        let second = match (optional(second), optional(second_probability)) {
            (Some(label), Some(p)) => Some((label, share(p)?)),
            _ => None,
        };
        let said = Seen {
            device: text(device),
            unix_ms: time
                .parse()
                .map_err(|_| field_error(format!("milliseconds since 1970 in row {row}"), format!("{time:?}")))?,
            source: text(source),
            model: text(model),
            answer: label,
            probability: share(text(probability))?,
            second,
            reason: optional(reason),
            value: optional(value).map(|v| number(v, "a number as value", f32::is_finite)).transpose()?,
            site: optional(site),
        };
        seen.insert(name.replace('\\', "/"), said);
    }
    Ok(seen)
}

/// Longest table that is read, in bytes.
const MAX_LEN: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HashMap<String, Seen>, LabelError> {
        parse(text.as_bytes(), Path::new("field.csv"))
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_and_strangers_are_passed_over() {
        let text = "\u{feff}probability,answer,mood,file,device,unix_ms,source,model,second,second_probability,value,site\n\
                    0.5,rust,sad,a/1.jpg,bed-3,1795745180000,cam,v2,phoma,0.4,0.7,north\n\
                    0.9,healthy,,\"b,2.jpg\",bed-3,0,cam,v2,,,,\n";
        let seen = read(text).unwrap();
        let first = &seen["a/1.jpg"];
        assert_eq!((first.answer.as_str(), first.probability, first.unix_ms), ("rust", 0.5, 1_795_745_180_000));
        assert_eq!(first.second, Some(("phoma".into(), 0.4)));
        assert_eq!((first.value, first.site.as_deref()), (Some(0.7), Some("north")));
        assert_eq!((&seen["b,2.jpg"].second, &seen["b,2.jpg"].value), (&None, &None));
    }

    #[test]
    fn of_two_rows_of_a_picture_the_later_one_counts() {
        let head = "file,device,unix_ms,source,model,answer,probability\n";
        let seen = read(&format!("{head}a.jpg,d,1,s,m,rust,0.5\na.jpg,d,2,s,m,phoma,0.6\n")).unwrap();
        assert_eq!((seen.len(), seen["a.jpg"].answer.as_str()), (1, "phoma"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_row() {
        let head = "file,device,unix_ms,source,model,answer,probability,value\n";
        for (text, words) in [
            ("file,answer\n", ["column probability", "file, answer"]),
            (&format!("{head}a.jpg,d,1,s,m,rust,1.5,\n"), ["row 2", "1.5"]),
            (&format!("{head}a.jpg,d,1,s,m,rust,NaN,\n"), ["row 2", "NaN"]),
            (&format!("{head}a.jpg,d,1,s,m,rust,0.5,\nb.jpg,d,yesterday,s,m,rust,0.5,\n"), ["row 3", "yesterday"]),
            (&format!("{head}a.jpg,d,1,s,m,rust,0.5,inf\n"), ["value in row 2", "inf"]),
            (&format!("{head},d,1,s,m,rust,0.5,\n"), ["file and an answer in row 2", "rust"]),
            (&format!("{head}a.jpg,d,1\n"), ["row 2", "fields"]),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        }
    }
}
