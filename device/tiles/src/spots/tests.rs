//! Tests of joined answers and their spots, held against numpy and scipy (`golden/joined.py`).

use serde::Deserialize;

use super::*;
use crate::grid::{Grid, Tile};

#[derive(Deserialize)]
struct Case {
    width: u32,
    height: u32,
    side: u32,
    overlap: f64,
    above: f32,
    tiles: Vec<Answered>,
    known: Vec<u8>,
    cells: Vec<f32>,
    spots: Vec<Expected>,
}

#[derive(Deserialize)]
struct Answered {
    x: u32,
    y: u32,
    kind: String,
    p: f32,
}

#[derive(Deserialize)]
struct Expected {
    cells: usize,
    area: u64,
    x: f64,
    y: f64,
    peak: f32,
    mean: f32,
}

#[test]
fn cells_and_spots_are_those_of_numpy_and_scipy() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../golden/joined.json")).unwrap();
    assert!(cases.iter().map(|c| c.spots.len()).sum::<usize>() > 10);
    for (number, case) in cases.into_iter().enumerate() {
        let grid = Grid::new(case.width, case.height, case.side, case.overlap).unwrap();
        let tiles: Vec<Tile> = grid.tiles().collect();
        let expected: Vec<Tile> = case.tiles.iter().map(|t| Tile { x: t.x, y: t.y }).collect();
        assert_eq!(tiles, expected, "case {number}");
        let mut heat = Heat::new(&grid, 2);
        for tile in &case.tiles {
            let at = Tile { x: tile.x, y: tile.y };
            match tile.kind.as_str() {
                "known" => heat.add(at, grid.side(), Some(&[tile.p, 1.0 - tile.p])),
                "unfamiliar" => heat.add(at, grid.side(), None),
                _ => {}
            }
        }
        let (columns, rows) = heat.size();
        assert_eq!((columns * rows) as usize, case.cells.len(), "case {number}");
        for row in 0..rows {
            for column in 0..columns {
                let at = (row * columns + column) as usize;
                let known = [Known::Empty, Known::Unfamiliar, Known::Yes][usize::from(case.known[at])];
                assert_eq!(heat.known(column, row), known, "case {number}, cell {column}, {row}");
                let (found, expected) = (heat.probability(column, row, 0), case.cells[at]);
                assert!(
                    (found - expected).abs() < 1e-5,
                    "case {number}, cell {column}, {row}: {found}, not {expected}"
                );
            }
        }
        let found = spots(&heat, &[0], case.above);
        assert_eq!(found.len(), case.spots.len(), "case {number}");
        for expected in &case.spots {
            let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
            let spot = found.iter().find(|s| near(s.x, expected.x) && near(s.y, expected.y));
            let spot = spot.unwrap_or_else(|| panic!("case {number}: no spot at {}, {}", expected.x, expected.y));
            assert_eq!((spot.cells, spot.area), (expected.cells, expected.area), "case {number}");
            assert!((spot.peak - expected.peak).abs() < 1e-5 && (spot.mean - expected.mean).abs() < 1e-5);
            let [left, top, right, bottom] = spot.bounds;
            let is_inside =
                |x: f64, y: f64| x >= left.into() && x <= right.into() && y >= top.into() && y <= bottom.into();
            assert!(is_inside(spot.x, spot.y) && is_inside(spot.peak_at.0, spot.peak_at.1));
        }
        let sums: Vec<f32> = found.iter().map(|s| s.mean * s.cells as f32).collect();
        assert!(sums.is_sorted_by(|a, b| a >= b), "the largest come first");
    }
}

#[test]
fn each_class_has_its_own_spots() {
    let grid = Grid::new(64, 32, 32, 0.0).unwrap();
    let mut heat = Heat::new(&grid, 2);
    heat.add(Tile { x: 0, y: 0 }, 32, Some(&[0.9, 0.1]));
    heat.add(Tile { x: 32, y: 0 }, 32, Some(&[0.2, 0.8]));
    let found = spots(&heat, &[0, 1], 0.5);
    let told: Vec<_> = found.iter().map(|s| (s.class, s.x, s.y, s.cells)).collect();
    assert_eq!(told, [(0, 16.0, 16.0, 1), (1, 48.0, 16.0, 1)]);
    assert!(spots(&heat, &[1], 0.9).is_empty());
}
