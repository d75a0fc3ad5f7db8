//! JPEG by rows: the coded data is cut between rows of units, and some of them at a time are decoded as a picture of their own.
//!
//! So a large picture passes through the very decoder that small ones do, and gives the same pixels to the bit: where colour has
//! half of the rows, a row of units above and below goes along, and what was made of it is dropped. Progressive files, and those
//! with a scan for each colour, have no rows before their end: see [`super::whole`].
//!
//! # Source
//!
//! ITU-T T.81 annex B (markers), Adobe APP14, Exif 2.32 section 4.7, XMP part 3 section 1.1.3.

use std::collections::VecDeque;
use std::io::{BufRead, Cursor, Read, Seek};

use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, ImageDecoder, RgbImage};

use super::entropy::{Component, DC_TABLE, Scan, Table};
use super::{Band, Facts, Opened, Rows, damaged, guarded, kind, whole};
use crate::TilesError;

const FORMAT: &str = "JPEG";

/// Reads up to the data, and decides how the rest can be read.
pub(super) fn open<R: BufRead + Seek + Send + 'static>(mut reader: R) -> Result<Opened, TilesError> {
    let mut header = Header::default();
    let frame = loop {
        match header.step(&mut reader)? {
            Step::More => {}
            Step::Scan(frame) => break frame,
        }
    };
    let facts =
        Facts { exif: header.exif.take(), xmp: header.xmp.take(), ..Facts::of(FORMAT, frame.width, frame.height) };
    if frame.is_by_rows {
        let units = Units::of(&frame)?;
        let scan = Scan::new(reader, units.components(&header, &frame)?, units.across, header.interval);
        let head = header.head(&frame);
        let rows = Baseline {
            scan,
            head,
            units,
            height: frame.height,
            width: frame.width,
            held: VecDeque::new(),
            read: 0,
            done: 0,
        };
        return Ok(Opened { facts, rows: Box::new(rows) });
    }
    whole::check(FORMAT, frame.width, frame.height)?;
    reader.rewind()?;
    let bytes = whole::read(reader)?;
    whole::has_end(&bytes)?;
    let picture = decode(bytes, (frame.width, frame.height))?;
    Ok(Opened { facts, rows: Box::new(whole::Whole::new(picture, vec![])) })
}

/// Decodes a file of which the header tells a size.
fn decode(file: Vec<u8>, size: (u32, u32)) -> Result<RgbImage, TilesError> {
    let picture = guarded(FORMAT, || {
        let decoder = JpegDecoder::new(Cursor::new(file)).map_err(|e| damaged(FORMAT, e))?;
        if decoder.dimensions() != size {
            return Err(damaged(FORMAT, "two sizes"));
        }
        Ok(DynamicImage::from_decoder(decoder).map_err(|e| damaged(FORMAT, e))?.into_rgb8())
    })?;
    Ok(picture)
}

/// What stands before the data.
#[derive(Default)]
struct Header {
    tables: Vec<u8>,
    adobe: Option<Vec<u8>>,
    dc: [Option<Table>; 4],
    ac: [Option<(Table, Vec<u8>)>; 4],
    frame: Option<(u8, Vec<u8>)>,
    interval: u32,
    exif: Option<Vec<u8>>,
    xmp: Option<String>,
    is_begun: bool,
}

enum Step {
    More,
    Scan(Frame),
}

/// The frame with its first scan.
struct Frame {
    marker: u8,
    segment: Vec<u8>,
    width: u32,
    height: u32,
    /// Of each component: its parts across and down, and its tables for DC and AC.
    components: Vec<[u8; 4]>,
    is_by_rows: bool,
}

impl Header {
    /// Reads a segment.
    fn step(&mut self, reader: &mut impl BufRead) -> Result<Step, TilesError> {
        if !self.is_begun {
            let mut begin = [0; 2];
            reader.read_exact(&mut begin).map_err(ended)?;
            self.is_begun = true;
        }
        let marker = next_marker(reader)?;
        if marker == 0xd9 || (0xd0..=0xd8).contains(&marker) || marker < 0xc0 {
            return Err(damaged(FORMAT, format!("marker ff {marker:02x} before any data")));
        }
        let mut len = [0; 2];
        reader.read_exact(&mut len).map_err(ended)?;
        let len = usize::from(u16::from_be_bytes(len));
        let Some(len) = len.checked_sub(2) else { return Err(damaged(FORMAT, "a segment without a length")) };
        let mut segment = vec![0; len];
        reader.read_exact(&mut segment).map_err(ended)?;
        match marker {
            0xdb => {
                // Of each table there are few; what a file repeats a thousand times is no table.
                if self.tables.len() + segment.len() > MAX_TABLES {
                    return Err(damaged(FORMAT, "too many tables"));
                }
                append(&mut self.tables, 0xdb, &segment);
            }
            0xc4 => self.huffman(&segment)?,
            0xdd => self.interval = segment.get(..2).map_or(0, |b| u32::from(u16::from_be_bytes([b[0], b[1]]))),
            0xee if segment.starts_with(b"Adobe") => self.adobe = Some(segment),
            0xe1 if segment.starts_with(EXIF) && self.exif.is_none() => {
                self.exif = Some(segment[EXIF.len()..].to_vec())
            }
            0xe1 if segment.starts_with(XMP) && self.xmp.is_none() => {
                self.xmp = Some(String::from_utf8_lossy(&segment[XMP.len()..]).into_owned());
            }
            0xda => return self.scan(&segment).map(Step::Scan),
            0xc8 | 0xcc => {}
            0xc0..=0xcf if self.frame.is_some() => return Err(damaged(FORMAT, "two frame headers")),
            0xc0..=0xcf => self.frame = Some((marker, segment)),
            _ => {}
        }
        Ok(Step::More)
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Result<(), TilesError> {
        let short = || damaged(FORMAT, "a Huffman table that ends too early");
        while let Some((&id, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let total: usize = counts.iter().map(|c| usize::from(*c)).sum();
            let symbols = rest.get(..total).ok_or_else(short)?;
            let table =
                Table::new(counts, symbols).ok_or_else(|| damaged(FORMAT, "a Huffman table of too many codes"))?;
            let whole = segment.get(..17 + total).ok_or_else(short)?;
            match (id >> 4, usize::from(id & 15)) {
                (0, slot @ 0..4) => self.dc[slot] = Some(table),
                (1, slot @ 0..4) => self.ac[slot] = Some((table, whole.to_vec())),
                _ => return Err(damaged(FORMAT, format!("Huffman table {id:02x}"))),
            }
            segment = &rest[total..];
        }
        Ok(())
    }

    fn scan(&mut self, scan: &[u8]) -> Result<Frame, TilesError> {
        let (marker, segment) = self.frame.take().ok_or_else(|| damaged(FORMAT, "data before a frame header"))?;
        let short = || damaged(FORMAT, format!("a frame header of {} bytes", segment.len()));
        let (head, parts) = segment.split_first_chunk::<6>().ok_or_else(short)?;
        let [bits, h0, h1, w0, w1, count] = *head;
        let count = usize::from(count);
        if bits != 8 {
            return Err(kind("8 bits a channel", format!("a JPEG of {bits}"), "save it with 8 bits a channel"));
        }
        match count {
            1 | 3 => {}
            4 => return Err(kind("grey or RGB", "a CMYK JPEG".into(), "convert it to RGB")),
            n => return Err(damaged(FORMAT, format!("{n} colour components"))),
        }
        let parts: Vec<&[u8]> = parts.chunks_exact(3).take(count).collect();
        let [width, height] = [[w0, w1], [h0, h1]].map(|b| u32::from(u16::from_be_bytes(b)));
        if parts.len() < count || width == 0 || height == 0 {
            return Err(damaged(FORMAT, format!("a frame of {width}x{height} with {} components", parts.len())));
        }
        let chosen: Vec<&[u8]> = scan.get(1..).unwrap_or_default().chunks_exact(2).take(count).collect();
        // Each component in the order of the frame, with all of its coefficients.
        let is_one_scan = scan.first() == Some(&segment[5])
            && chosen.len() == count
            && chosen.iter().zip(&parts).all(|(c, p)| c[0] == p[0])
            && scan.get(1 + 2 * count..4 + 2 * count) == Some(&[0, 63, 0]);
        let is_by_rows = matches!(marker, 0xc0 | 0xc1) && is_one_scan;
        let components = parts
            .iter()
            .zip(&chosen)
            .map(|(part, chosen)| [part[1] >> 4, part[1] & 15, chosen[1] >> 4, chosen[1] & 15])
            .collect();
        Ok(Frame { marker, width, height, components, is_by_rows, segment: segment.clone() })
    }

    /// Returns what stands before the data of some rows; the height is filled in for each.
    fn head(&self, frame: &Frame) -> Head {
        let mut bytes = vec![0xff, 0xd8];
        if let Some(adobe) = &self.adobe {
            append(&mut bytes, 0xee, adobe);
        }
        bytes.extend(&self.tables);
        append(&mut bytes, 0xc4, &DC_TABLE);
        for (_, table) in self.ac.iter().flatten() {
            append(&mut bytes, 0xc4, table);
        }
        let height_at = bytes.len() + 5;
        append(&mut bytes, frame.marker, &frame.segment);
        Head { bytes, height_at }
    }
}

/// What stands before the data of some rows.
struct Head {
    bytes: Vec<u8>,
    height_at: usize,
}

/// The units of a frame: what holds a block, or some, of each component.
struct Units {
    across: u32,
    down: u32,
    /// Pixels down.
    height: u32,
    /// Blocks of each component.
    blocks: Vec<u32>,
    /// Whether some component has fewer rows than others, so that rows of units are mixed where they meet.
    are_mixed: bool,
    /// The segment that begins the data.
    scan: Vec<u8>,
}

impl Units {
    fn of(frame: &Frame) -> Result<Self, TilesError> {
        let parts: Vec<[u32; 2]> = frame.components.iter().map(|c| [c[0].into(), c[1].into()]).collect();
        if !parts.iter().flatten().all(|p| (1..=4).contains(p)) {
            return Err(damaged(FORMAT, "a component of no blocks, or more than 4 a side"));
        }
        let most = |side: usize| parts.iter().map(|p| p[side]).max().unwrap_or(1);
        // A component alone has units of one block, whatever its header says.
        let (most, blocks) = match parts.len() {
            1 => ([1, 1], vec![1]),
            _ => ([most(0), most(1)], parts.iter().map(|p| p[0] * p[1]).collect()),
        };
        let are_mixed = parts.len() > 1 && parts.iter().any(|p| p[1] != most[1]);
        let ids: Vec<u8> = frame.segment.get(6..).unwrap_or_default().chunks_exact(3).map(|c| c[0]).collect();
        let mut scan = vec![frame.components.len() as u8];
        for (id, component) in ids.iter().zip(&frame.components) {
            scan.extend([*id, component[3]]);
        }
        scan.extend([0, 63, 0]);
        let [width, height] = [8 * most[0], 8 * most[1]];
        let (across, down) = (frame.width.div_ceil(width), frame.height.div_ceil(height));
        Ok(Self { across, down, height, blocks, are_mixed, scan })
    }

    fn components(&self, header: &Header, frame: &Frame) -> Result<Vec<Component>, TilesError> {
        let missing = || damaged(FORMAT, "a Huffman table that is missing");
        let each = self.blocks.iter().zip(&frame.components).map(|(&blocks, component)| {
            let dc = header.dc.get(usize::from(component[2])).and_then(Option::as_ref).ok_or_else(missing)?;
            let ac = header.ac.get(usize::from(component[3])).and_then(Option::as_ref).ok_or_else(missing)?;
            Ok(Component { blocks, dc: dc.clone(), ac: ac.0.clone() })
        });
        each.collect()
    }
}

/// A baseline JPEG whose rows are read one after the other.
struct Baseline<R> {
    scan: Scan<R>,
    head: Head,
    units: Units,
    width: u32,
    height: u32,
    /// The coded rows of units that are still wanted; the last of them is row `read - 1`.
    held: VecDeque<Vec<u8>>,
    /// Rows of units that have been read.
    read: u32,
    /// Rows of units whose pixels are out.
    done: u32,
}

impl<R: BufRead + Send> Rows for Baseline<R> {
    fn band_rows(&self) -> u32 {
        (at_once(&self.units) + 2) * self.units.height
    }

    fn next(&mut self, band: &mut Band) -> Result<(), TilesError> {
        let (units, context) = (&self.units, u32::from(self.units.are_mixed));
        let first = self.done.saturating_sub(context);
        let end = (self.done + at_once(units)).min(units.down);
        let last = (end + context).min(units.down);
        while self.read < last {
            let Some(row) = self.scan.row()? else {
                let found = (self.read * units.height).min(self.height);
                return Err(TilesError::Truncated { format: FORMAT, rows: self.height, found });
            };
            self.held.push_back(row);
            self.read += 1;
        }
        let gone = self.held.len().saturating_sub((self.read - first) as usize);
        self.held.drain(..gone);
        let pixels = self.decode(first, last)?;
        let top = ((self.done - first) * units.height) as usize;
        let rows = (end * units.height).min(self.height) - self.done * units.height;
        let stride = self.width as usize * 3;
        let wanted = pixels.get(top * stride..(top + rows as usize) * stride);
        band.opaque(rows, wanted.ok_or_else(|| damaged(FORMAT, "fewer rows than its header says"))?);
        self.done = end;
        Ok(())
    }
}

impl<R> Baseline<R> {
    /// Decodes rows of units, which are the held ones.
    fn decode(&self, first: u32, last: u32) -> Result<Vec<u8>, TilesError> {
        let height = (last * self.units.height).min(self.height) - first * self.units.height;
        let mut file = self.head.bytes.clone();
        let told = u16::try_from(height).map_err(|e| damaged(FORMAT, e))?.to_be_bytes();
        if let Some(at) = file.get_mut(self.head.height_at..self.head.height_at + 2) {
            at.copy_from_slice(&told);
        }
        let interval = u16::try_from(self.units.across).map_err(|e| damaged(FORMAT, e))?;
        append(&mut file, 0xdd, &interval.to_be_bytes());
        append(&mut file, 0xda, &self.units.scan);
        for (number, row) in self.held.iter().take((last - first) as usize).enumerate() {
            if number > 0 {
                file.extend([0xff, 0xd0 + ((number - 1) % 8) as u8]);
            }
            file.extend(row);
        }
        file.extend([0xff, 0xd9]);
        Ok(decode(file, (self.width, height))?.into_raw())
    }
}

/// Rows of units that are decoded together: about 256 rows of pixels.
fn at_once(units: &Units) -> u32 {
    (256 / units.height).max(1)
}

/// Reads up to the next marker and returns it.
fn next_marker(reader: &mut impl Read) -> Result<u8, TilesError> {
    let mut byte = [0];
    reader.read_exact(&mut byte).map_err(ended)?;
    if byte != [0xff] {
        return Err(damaged(FORMAT, "data where a marker should be"));
    }
    while byte == [0xff] {
        reader.read_exact(&mut byte).map_err(ended)?;
    }
    Ok(byte[0])
}

fn append(bytes: &mut Vec<u8>, marker: u8, segment: &[u8]) {
    bytes.extend([0xff, marker]);
    // A segment was read as one, or is short.
    bytes.extend(u16::try_from(segment.len() + 2).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(segment);
}

/// What becomes of a file that ends in its header.
fn ended(error: std::io::Error) -> TilesError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged(FORMAT, "it ends in its header"),
        _ => error.into(),
    }
}

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Most bytes of quantization tables.
const MAX_TABLES: usize = 8 << 10;
