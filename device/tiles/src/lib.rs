//! Large pictures, looked at in overlapping tiles: rows without the whole, a heat map, hot spots, and where they lie.
//!
//! Knows no engine: what looks at a tile is handed in. Rows come of [`Source`]; [`survey()`] cuts tiles of them, has each looked at and
//! joins the answers into [`Heat`]; [`spots()`] finds what is hot; [`Place`] tells where that lies; [`Atlas`] writes the files. Memory
//! is bounded by a picture's width and never by its height: see [`survey`](mod@survey).

pub mod atlas;
mod error;
pub mod grid;
pub mod heat;
mod overlay;
pub mod place;
mod small;
pub mod source;
pub mod spots;
pub mod survey;
mod upright;
pub mod verb;

pub use atlas::{Atlas, Chart, Choice};
pub use error::TilesError;
pub use grid::{Grid, Tile};
pub use heat::{Heat, Known};
pub use place::{Given, Place, Position};
pub use source::Source;
pub use spots::{Spot, spots};
pub use survey::{Answer, Survey, Tiling, survey};
