//! The files of a survey: for each picture a map, for all of them a list of hot spots as GeoJSON and CSV, and a summary.
//!
//! Each is written whole or not at all. The map of a picture is there when the picture is done; the lists are written at the end, of
//! the pictures that were done until then.
//!
//! # Source
//!
//! RFC 7946 (GeoJSON), RFC 4180 (CSV).

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use serde::Serialize;
use serde_json::{Value, json};

use crate::TilesError;
use crate::overlay;
use crate::place::{Given, Place};
use crate::source::Facts;
use crate::spots::{Spot, spots};
use crate::survey::Survey;

/// What is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The labels of all classes.
    pub labels: Vec<String>,
    /// Numbers of the classes that spots are of.
    pub classes: Vec<usize>,
    /// From which probability on a cell is hot.
    pub above: f32,
}

impl Choice {
    /// Chooses classes by their labels: `only` these, or all where there is none, without those of `except`.
    ///
    /// # Errors
    ///
    /// [`TilesError::Setting`] for a label that the model has not, where none is left, and for a probability that is none.
    pub fn new(labels: &[String], only: &[String], except: &[String], above: f32) -> Result<Self, TilesError> {
        let number = |label: &String| {
            let found = labels.iter().position(|l| l == label);
            found.ok_or_else(|| TilesError::Setting {
                expected: format!("a class of the model: {}", labels.join(", ")),
                found: label.clone(),
            })
        };
        let only: Vec<usize> = only.iter().map(number).collect::<Result<_, _>>()?;
        let except: Vec<usize> = except.iter().map(number).collect::<Result<_, _>>()?;
        let is_chosen = |c: &usize| (only.is_empty() || only.contains(c)) && !except.contains(c);
        let classes: Vec<usize> = (0..labels.len()).filter(is_chosen).collect();
        if classes.is_empty() {
            return Err(TilesError::Setting { expected: "a class to look for".into(), found: "none".into() });
        }
        if !(above > 0.0 && above <= 1.0) {
            let expected = "a probability above 0 and at most 1".into();
            return Err(TilesError::Setting { expected, found: above.to_string() });
        }
        Ok(Self { labels: labels.to_vec(), classes, above })
    }

    /// Tells what a colour stands for.
    pub(crate) fn told(&self) -> String {
        let names: Vec<&str> = self.classes.iter().filter_map(|c| self.labels.get(*c)).map(String::as_str).collect();
        match names.len() {
            1 => format!("probability of {}", names[0]),
            2..=4 => format!("probability of the likeliest of {}", names.join(", ")),
            n => format!("probability of the likeliest of {n} classes"),
        }
    }
}

/// What is told of a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// The picture's file.
    pub picture: PathBuf,
    /// Its name without the folder.
    #[serde(skip)]
    pub name: String,
    /// Name of its format.
    pub format: &'static str,
    /// Pixels across and down, upright.
    pub width: u32,
    /// See `width`.
    pub height: u32,
    /// Pixels of a tile's side.
    pub tile: u32,
    /// Pixels of a cell's side.
    pub cell: u32,
    /// Tiles in all.
    pub tiles: usize,
    /// Of them, those unlike what the model was calibrated on.
    pub unfamiliar: usize,
    /// Of them, those with nothing to look at.
    pub empty: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// How its pixels are placed.
    pub place: Place,
    /// The file of its map, in the folder.
    pub map: String,
    /// Its hot spots.
    #[serde(skip)]
    pub spots: Vec<Spot>,
}

/// The files of a survey.
#[derive(Debug)]
pub struct Atlas {
    folder: PathBuf,
    choice: Choice,
    charts: Vec<Chart>,
    names: BTreeSet<String>,
}

impl Atlas {
    /// Begins one in a folder, which is made if need be. Files of the same names are replaced.
    ///
    /// # Errors
    ///
    /// [`TilesError::Write`].
    pub fn new(folder: &Path, choice: Choice) -> Result<Self, TilesError> {
        fs::create_dir_all(folder).map_err(|e| writing(folder, e))?;
        let names = [SPOTS_JSON, SPOTS_CSV, SUMMARY].map(str::to_owned).into();
        Ok(Self { folder: folder.to_owned(), choice, charts: vec![], names })
    }

    /// Adds a picture and writes its map.
    ///
    /// # Errors
    ///
    /// [`TilesError::Write`].
    pub fn add(&mut self, picture: &Path, facts: &Facts, survey: &Survey, given: Given) -> Result<&Chart, TilesError> {
        let (width, height) = survey.heat.picture();
        let found = spots(&survey.heat, &self.choice.classes, self.choice.above);
        let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
        let names = std::iter::once(format!("{stem}.png")).chain((2..).map(|n| format!("{stem}-{n}.png")));
        // Pictures of two folders may have one name; file systems may not tell cases apart.
        let map = names.into_iter().find(|n| !self.names.contains(&n.to_lowercase())).unwrap_or_default();
        let chart = Chart {
            picture: picture.to_owned(),
            name: picture.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            format: facts.format,
            width,
            height,
            tile: survey.side,
            cell: survey.heat.cell(),
            tiles: survey.tiles,
            unfamiliar: survey.unfamiliar,
            empty: survey.empty,
            seconds: survey.took.as_secs_f64(),
            place: Place::of(facts, width, height, given),
            map,
            spots: found,
        };
        let drawn = overlay::draw(&survey.small, &survey.heat, &chart, &self.choice);
        let mut png = Cursor::new(vec![]);
        drawn.write_to(&mut png, ImageFormat::Png).map_err(|e| writing(&self.folder, std::io::Error::other(e)))?;
        write(&self.folder.join(&chart.map), &png.into_inner())?;
        self.names.insert(chart.map.to_lowercase());
        self.charts.push(chart);
        Ok(&self.charts[self.charts.len() - 1])
    }

    /// Returns what is told of the pictures so far.
    pub fn charts(&self) -> &[Chart] {
        &self.charts
    }

    /// Writes the lists of spots and the summary, and returns the latter.
    ///
    /// # Errors
    ///
    /// [`TilesError::Write`].
    pub fn finish(&self) -> Result<Value, TilesError> {
        let summary = self.summary();
        let pretty = |value: &Value| format!("{value:#}\n").into_bytes();
        write(&self.folder.join(SPOTS_JSON), &pretty(&self.geojson()))?;
        write(&self.folder.join(SPOTS_CSV), self.csv().as_bytes())?;
        write(&self.folder.join(SUMMARY), &pretty(&summary))?;
        Ok(summary)
    }

    fn label(&self, class: usize) -> &str {
        self.choice.labels.get(class).map_or("", String::as_str)
    }

    fn summary(&self) -> Value {
        let pictures: Vec<Value> = self
            .charts
            .iter()
            .map(|chart| {
                let mut row = json!(chart);
                let mut count = serde_json::Map::new();
                for class in &self.choice.classes {
                    let spots = chart.spots.iter().filter(|s| s.class == *class).count();
                    count.insert(self.label(*class).to_owned(), spots.into());
                }
                row["spots"] = count.into();
                row
            })
            .collect();
        let classes: Vec<&str> = self.choice.classes.iter().map(|c| self.label(*c)).collect();
        json!({ "classes": classes, "above": round(self.choice.above.into(), 6), "pictures": pictures,
            "geojson": SPOTS_JSON, "csv": SPOTS_CSV })
    }

    /// All spots as GeoJSON; those without a position have no geometry.
    fn geojson(&self) -> Value {
        let mut features = vec![];
        for (chart, number, spot) in self.all() {
            let Row { label, area, position, map } = self.row(chart, spot);
            let geometry =
                position.map(|[longitude, latitude]| json!({ "type": "Point", "coordinates": [longitude, latitude] }));
            features.push(json!({
                "type": "Feature",
                "geometry": geometry,
                "properties": {
                    "picture": chart.picture, "number": number, "class": label, "peak": round(spot.peak.into(), 4),
                    "mean": round(spot.mean.into(), 4), "x": round(spot.x, 1), "y": round(spot.y, 1), "bounds": spot.bounds,
                    "cells": spot.cells, "area_px": spot.area, "area_m2": area, "precision": chart.place.precision(),
                    "map_x": map.map(|m| m.0), "map_y": map.map(|m| m.1), "epsg": chart.epsg(), "map": chart.map,
                },
            }));
        }
        json!({ "type": "FeatureCollection", "features": features })
    }

    fn csv(&self) -> String {
        let mut text = format!("{CSV_HEAD}\r\n");
        for (chart, number, spot) in self.all() {
            let Row { label, area, position, map } = self.row(chart, spot);
            let number_of = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
            let [left, top, right, bottom] = spot.bounds;
            let fields = [
                quoted(&chart.picture.to_string_lossy()),
                number.to_string(),
                quoted(label),
                round(spot.peak.into(), 4).to_string(),
                round(spot.mean.into(), 4).to_string(),
                round(spot.x, 1).to_string(),
                round(spot.y, 1).to_string(),
                left.to_string(),
                top.to_string(),
                right.to_string(),
                bottom.to_string(),
                spot.cells.to_string(),
                spot.area.to_string(),
                number_of(area),
                number_of(position.map(|p| p[0])),
                number_of(position.map(|p| p[1])),
                chart.place.precision().to_owned(),
                number_of(map.map(|m| m.0)),
                number_of(map.map(|m| m.1)),
                chart.epsg().map_or(String::new(), |e| e.to_string()),
            ];
            text += &fields.join(",");
            text += "\r\n";
        }
        text
    }

    /// All spots with their pictures and numbers.
    fn all(&self) -> impl Iterator<Item = (&Chart, usize, &Spot)> {
        self.charts.iter().flat_map(|chart| chart.spots.iter().enumerate().map(move |(i, spot)| (chart, i + 1, spot)))
    }

    fn row(&self, chart: &Chart, spot: &Spot) -> Row<'_> {
        // Seven digits of a degree are a centimetre.
        let position = chart.place.position(spot.x, spot.y).map(|p| [p.longitude, p.latitude].map(|v| round(v, 7)));
        let area = chart.place.area().map(|a| round(a * spot.area as f64, 3));
        Row { label: self.label(spot.class), area, position, map: chart.place.coordinates(spot.x, spot.y) }
    }
}

impl Chart {
    fn epsg(&self) -> Option<u16> {
        match &self.place {
            Place::Map { geo, .. } => geo.epsg,
            _ => None,
        }
    }
}

/// What a list tells of a spot besides itself.
struct Row<'a> {
    label: &'a str,
    area: Option<f64>,
    position: Option<[f64; 2]>,
    map: Option<(f64, f64)>,
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

fn quoted(text: &str) -> String {
    // A spreadsheet takes what begins so for a formula.
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TilesError> {
    graft_bundle::write_whole(path, bytes).map_err(|e| writing(path, e))
}

fn writing(path: &Path, source: std::io::Error) -> TilesError {
    TilesError::Write { path: path.display().to_string(), source }
}

const SPOTS_JSON: &str = "spots.geojson";
const SPOTS_CSV: &str = "spots.csv";
const SUMMARY: &str = "summary.json";
const CSV_HEAD: &str = "picture,number,class,peak,mean,x,y,left,top,right,bottom,cells,area_px,area_m2,longitude,latitude,precision,map_x,map_y,epsg";

#[cfg(test)]
mod tests;
