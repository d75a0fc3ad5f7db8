//! The coded data of a baseline JPEG, read a row of blocks at a time and written again so that each row can be decoded alone.
//!
//! Nothing is dequantized or transformed here: symbols are read, and the same symbols written, with each row's first DC
//! coefficients made absolute. A row then is what lies between two restart markers, and rows that follow each other make a JPEG.
//!
//! # Source
//!
//! ITU-T T.81 annexes C (tables), F.1.2 and F.2.2 (baseline), K.3.1 (the DC table that is written).

use std::io::BufRead;

use crate::TilesError;

/// A Huffman table, ready to read with.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Symbol and length of the code that each [`PEEK`] bits begin with; of length 0 where none is so short.
    quick: Vec<(u8, u8)>,
    /// Of each length: the code after its last, left-aligned to 16 bits.
    end: [u32; 17],
    /// Of each length: what is added to a code to come to its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// Builds the table of the numbers of codes of each length and the symbols in their order. None where there are too many
    /// codes of a length, or too few symbols.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let total: usize = counts.iter().map(|c| usize::from(*c)).sum();
        if total > 256 || total > symbols.len() {
            return None;
        }
        let mut quick = vec![(0, 0); 1 << PEEK];
        let (mut end, mut offset) = ([0; 17], [0; 17]);
        let (mut code, mut at) = (0_u32, 0_usize);
        for (length, &count) in (1_u32..).zip(counts) {
            let count = usize::from(count);
            let slot = length as usize;
            offset[slot] = i32::try_from(at).ok()? - i32::try_from(code).ok()?;
            for &symbol in &symbols[at..at + count] {
                if code >= 1 << length {
                    return None;
                }
                if length <= PEEK {
                    let first = (code << (PEEK - length)) as usize;
                    quick[first..first + (1 << (PEEK - length))].fill((symbol, length as u8));
                }
                code += 1;
            }
            at += count;
            end[slot] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { quick, end, offset, symbols: symbols[..total].to_vec() })
    }

    /// Returns the symbol that 16 bits begin with, and its length.
    fn find(&self, bits: u32) -> Option<(u8, u32)> {
        let (symbol, length) = *self.quick.get((bits >> (16 - PEEK)) as usize)?;
        if length > 0 {
            return Some((symbol, length.into()));
        }
        let length = (PEEK + 1..=16).find(|l| bits < self.end[*l as usize])?;
        let code = i32::try_from(bits >> (16 - length)).ok()?;
        let at = usize::try_from(code + self.offset[length as usize]).ok()?;
        Some((*self.symbols.get(at)?, length))
    }
}

/// A component of the scan.
#[derive(Debug, Clone)]
pub(super) struct Component {
    /// Blocks of it in a unit.
    pub blocks: u32,
    pub dc: Table,
    pub ac: Table,
}

/// The scan of a baseline JPEG, from its first byte of data on.
#[derive(Debug)]
pub(super) struct Scan<R> {
    bits: Bits<R>,
    components: Vec<Component>,
    /// The DC coefficient of each component's last block.
    last: Vec<i32>,
    units_across: u32,
    /// Units between two restart markers, or 0.
    interval: u32,
    /// Units until the next restart marker.
    until: u32,
    /// The number of the next restart marker.
    marker: u8,
}

impl<R: BufRead> Scan<R> {
    pub fn new(reader: R, components: Vec<Component>, units_across: u32, interval: u32) -> Self {
        let last = vec![0; components.len()];
        Self { bits: Bits::new(reader), components, last, units_across, interval, until: interval, marker: 0 }
    }

    /// Reads the next row of units and returns it as it would stand between two restart markers. None where the data ends
    /// before the row does.
    pub fn row(&mut self) -> Result<Option<Vec<u8>>, TilesError> {
        match self.try_row() {
            Ok(row) => Ok(Some(row)),
            Err(Stop::End) => Ok(None),
            Err(Stop::Read(error)) => Err(error.into()),
            Err(Stop::Damaged(reason)) => Err(super::damaged("JPEG", reason)),
        }
    }

    fn try_row(&mut self) -> Result<Vec<u8>, Stop> {
        let mut out = Writer::default();
        let mut written = vec![0_i32; self.components.len()];
        for _ in 0..self.units_across {
            if self.interval > 0 {
                if self.until == 0 {
                    self.restart()?;
                }
                self.until -= 1;
            }
            for (at, component) in self.components.iter().enumerate() {
                for _ in 0..component.blocks {
                    let bits = &mut self.bits;
                    let size = u32::from(bits.symbol(&component.dc)?.0);
                    if size > LARGEST_DC {
                        return Err(Stop::Damaged("a DC coefficient that is too large"));
                    }
                    let raw = bits.take(size)?;
                    let value = self.last[at] + extend(raw, size);
                    out.dc(value - written[at])?;
                    (self.last[at], written[at]) = (value, value);
                    copy_ac(bits, &component.ac, &mut out)?;
                }
            }
        }
        Ok(out.finish())
    }

    fn restart(&mut self) -> Result<(), Stop> {
        let expected = 0xd0 + self.marker;
        match self.bits.marker()? {
            found if found == expected => {}
            END => return Err(Stop::End),
            _ => return Err(Stop::Damaged("a restart marker out of its order")),
        }
        self.marker = (self.marker + 1) % 8;
        self.until = self.interval;
        self.last.fill(0);
        Ok(())
    }
}

fn copy_ac<R: BufRead>(bits: &mut Bits<R>, table: &Table, out: &mut Writer) -> Result<(), Stop> {
    let mut at = 1_u32;
    while at < 64 {
        let (symbol, code, length) = {
            let (symbol, length) = bits.symbol(table)?;
            (symbol, bits.taken, length)
        };
        out.put(code, length);
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => at += 16,
            (_, 0) => return Ok(()),
            _ => {
                at += run + 1;
                if at > 64 {
                    return Err(Stop::Damaged("more coefficients than a block has"));
                }
                let raw = bits.take(size)?;
                out.put(raw, size);
            }
        }
    }
    Ok(())
}

/// Returns the number that `size` bits stand for.
fn extend(raw: u32, size: u32) -> i32 {
    // At most eleven bits.
    let raw = raw as i32;
    if size > 0 && raw < 1 << (size - 1) { raw - (1 << size) + 1 } else { raw }
}

/// Why there is no row.
enum Stop {
    End,
    Read(std::io::Error),
    Damaged(&'static str),
}

/// Bits of coded data, without the zeros that follow each `ff`.
#[derive(Debug)]
struct Bits<R> {
    reader: R,
    /// The next bits, the first of them on the left.
    held: u64,
    count: u32,
    /// The marker that the data ended with; no byte is read after it.
    ended: Option<u8>,
    /// The code of the last symbol.
    taken: u32,
}

impl<R: BufRead> Bits<R> {
    fn new(reader: R) -> Self {
        Self { reader, held: 0, count: 0, ended: None, taken: 0 }
    }

    fn fill(&mut self) -> Result<(), Stop> {
        while self.count <= 48 && self.ended.is_none() {
            let buffer = self.reader.fill_buf().map_err(Stop::Read)?;
            let mut used = 0;
            for &byte in buffer {
                if byte == 0xff || self.count > 48 {
                    break;
                }
                self.held |= u64::from(byte) << (56 - self.count);
                self.count += 8;
                used += 1;
            }
            let is_end = buffer.is_empty();
            let is_marker = buffer.get(used) == Some(&0xff) && self.count <= 48;
            self.reader.consume(used);
            if is_end {
                self.ended = Some(END);
            } else if is_marker {
                match self.after_ff()? {
                    0 => {
                        self.held |= 0xff << (56 - self.count);
                        self.count += 8;
                    }
                    marker => self.ended = Some(marker),
                }
            }
        }
        Ok(())
    }

    /// Reads an `ff` and returns the byte that it goes with; further `ff` are fill.
    fn after_ff(&mut self) -> Result<u8, Stop> {
        loop {
            let Some(&byte) = self.reader.fill_buf().map_err(Stop::Read)?.first() else { return Ok(END) };
            self.reader.consume(1);
            if byte != 0xff {
                return Ok(byte);
            }
        }
    }

    /// Returns the next symbol and the length of its code, which is then in `taken`.
    fn symbol(&mut self, table: &Table) -> Result<(u8, u32), Stop> {
        if self.count < 16 {
            self.fill()?;
        }
        let next = (self.held >> 48) as u32;
        let (symbol, length) = match table.find(next) {
            Some(found) if found.1 <= self.count => found,
            None if self.count >= 16 => return Err(Stop::Damaged("a code that is in no table")),
            _ => return Err(self.short()),
        };
        self.taken = next >> (16 - length);
        self.held <<= length;
        self.count -= length;
        Ok((symbol, length))
    }

    /// Returns the next bits, at most 16.
    fn take(&mut self, length: u32) -> Result<u32, Stop> {
        if length == 0 {
            return Ok(0);
        }
        if self.count < length {
            self.fill()?;
        }
        if self.count < length {
            return Err(self.short());
        }
        let bits = (self.held >> (64 - length)) as u32;
        self.held <<= length;
        self.count -= length;
        Ok(bits)
    }

    /// Why there are no more bits: the file ends, or has a marker where data should be.
    fn short(&self) -> Stop {
        match self.ended {
            Some(END) | None => Stop::End,
            Some(_) => Stop::Damaged("a marker in the midst of data"),
        }
    }

    /// Leaves the bits up to the next marker and returns it.
    fn marker(&mut self) -> Result<u8, Stop> {
        self.fill()?;
        if self.count >= 8 {
            return Err(Stop::Damaged("data where a restart marker should be"));
        }
        (self.held, self.count) = (0, 0);
        self.ended.take().ok_or(Stop::End)
    }
}

/// Bits of coded data that are written.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Writer {
    /// Writes bits, at most 32.
    fn put(&mut self, bits: u32, length: u32) {
        if length == 0 {
            return;
        }
        self.held = self.held << length | u64::from(bits);
        self.count += length;
        while self.count >= 8 {
            self.count -= 8;
            // The lowest eight of what is left.
            let byte = (self.held >> self.count) as u8;
            self.bytes.push(byte);
            if byte == 0xff {
                self.bytes.push(0);
            }
        }
        self.held &= (1 << self.count) - 1;
    }

    /// Writes the difference of a DC coefficient to the one before.
    fn dc(&mut self, difference: i32) -> Result<(), Stop> {
        let size = 32 - difference.unsigned_abs().leading_zeros();
        let Some(&(code, length)) = DC_CODES.get(size as usize) else {
            return Err(Stop::Damaged("a DC coefficient that is too large"));
        };
        self.put(code, length);
        let low = if difference < 0 { difference - 1 } else { difference };
        self.put(low as u32 & ((1 << size) - 1), size);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        let spare = (8 - self.count) % 8;
        self.put((1 << spare) - 1, spare);
        self.bytes
    }
}

/// Bits that a table is asked with first.
const PEEK: u32 = 9;
/// Most bits of a difference of DC coefficients of eight-bit samples.
const LARGEST_DC: u32 = 11;
/// The marker of a picture's end, which also stands for that of the file.
const END: u8 = 0xd9;
/// Codes of the DC table that rows are written with, by the number of bits that follow.
const DC_CODES: [(u32, u32); 12] = [
    (0b00, 2),
    (0b010, 3),
    (0b011, 3),
    (0b100, 3),
    (0b101, 3),
    (0b110, 3),
    (0b1110, 4),
    (0b1_1110, 5),
    (0b11_1110, 6),
    (0b111_1110, 7),
    (0b1111_1110, 8),
    (0b1_1111_1110, 9),
];
/// The same as the segment of a file: table 0 of class DC, numbers of codes, symbols.
pub(super) const DC_TABLE: [u8; 29] =
    [0, 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
