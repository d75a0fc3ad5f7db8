//! Checks a FAT file system before the crate that writes it sees it, and mends what that crate leaves wrong.
//!
//! It counts clusters unchecked: every number that is followed later, of the boot sector, of the table and of the two folders,
//! is found to lie in its range here. It gives a new folder's own entries long names: see [`Volume::mend_dots`].

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Where the parts of a FAT file system lie.
#[derive(Debug)]
pub(super) struct Volume {
    is_wide: bool,
    table_at: u64,
    root_at: u64,
    root_entries: u64,
    root_cluster: u64,
    data_at: u64,
    cluster_len: u64,
    clusters: u64,
}

/// What is wrong with a boot sector.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BootSectorFault {
    /// It has too few clusters to be one of FAT16 or FAT32.
    Fat12,
    /// It is none, or contradicts itself.
    NotFat,
}

impl Volume {
    /// Reads the boot sector of a partition of `len` bytes.
    ///
    /// # Source
    ///
    /// Microsoft, *FAT32 File System Specification*, 1.03: what tells the kinds of FAT apart is the number of clusters alone.
    pub(super) fn parse(first: &[u8; 512], len: u64) -> Result<Self, BootSectorFault> {
        let two = |at: usize| u64::from(u16::from_le_bytes([first[at], first[at + 1]]));
        let four = |at: usize| two(at) + (two(at + 2) << 16);
        let either = |small, large| if small == 0 { large } else { small };
        let (sector, per_cluster) = (two(11), u64::from(first[13]));
        if first[510..] != [0x55, 0xaa] || ![512, 1024, 2048, 4096].contains(&sector) || !per_cluster.is_power_of_two()
        {
            return Err(BootSectorFault::NotFat);
        }
        let is_wide = two(22) == 0;
        let (reserved, tables, root_entries) = (two(14), u64::from(first[16]), two(17));
        let per_table = either(two(22), four(36));
        let sectors = either(two(19), four(32));
        let root = reserved + tables * per_table;
        let data = root + (root_entries * 32).div_ceil(sector);
        let clusters = sectors.saturating_sub(data) / per_cluster;
        if clusters < FAT16_CLUSTERS {
            return Err(if clusters > 0 { BootSectorFault::Fat12 } else { BootSectorFault::NotFat });
        }
        let root_cluster = if is_wide { four(44) } else { 0 };
        let width = if is_wide { 4 } else { 2 };
        let is_sound = sectors * sector <= len
            && reserved > 0
            && tables > 0
            && is_wide == (clusters >= FAT32_CLUSTERS)
            && per_table * sector / width >= clusters + 2
            && (!is_wide || (2..clusters + 2).contains(&root_cluster));
        if !is_sound {
            return Err(BootSectorFault::NotFat);
        }
        Ok(Self {
            is_wide,
            table_at: reserved * sector,
            root_at: root * sector,
            root_entries,
            root_cluster,
            data_at: data * sector,
            cluster_len: per_cluster * sector,
            clusters,
        })
    }

    /// Checks the table and what the root and graft's folder say of their files.
    ///
    /// # Errors
    ///
    /// Those of the disk, and `InvalidData` names the first number that is out of its range.
    pub(super) fn check(&self, disk: &mut (impl Read + Seek), folder: &str) -> io::Result<()> {
        for number in 2..self.clusters + 2 {
            let next = self.next(disk, number)?;
            if next != 0 && next < self.last() && !self.is_cluster(next) {
                return Err(damaged(format!("cluster {number} is followed by {next}, which is none")));
            }
        }
        if let Some(cluster) = self.folder(disk, folder)? {
            self.check_chain(disk, cluster, &[0; 11])?;
        }
        Ok(())
    }

    /// Puts the entries `.` and `..` of a new folder in the root where they belong, and without long names.
    ///
    /// fatfs 0.3.6 puts a long name before each of them and has `..` name the root's cluster, where 0 is wanted: Linux reads
    /// such a folder, fsck.fat takes it apart.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(super) fn mend_dots(&self, disk: &mut (impl Read + Write + Seek), folder: &str) -> io::Result<()> {
        let Some(cluster) = self.folder(disk, folder)? else { return Ok(()) };
        let at = self.data_at + (cluster - 2) * self.cluster_len;
        let mut found = [[0; 32]; 4];
        disk.seek(SeekFrom::Start(at))?;
        for entry in &mut found {
            disk.read_exact(entry)?;
        }
        let [long, dot, _, mut dots] = found;
        if long[11] != LONG_NAME || !dot.starts_with(b".          ") || !dots.starts_with(b"..         ") {
            return Ok(());
        }
        let mut deleted = dot;
        deleted[0] = DELETED;
        for range in [20..22, 26..28] {
            dots[range].fill(0);
        }
        disk.seek(SeekFrom::Start(at))?;
        for entry in [dot, dots, deleted, deleted] {
            disk.write_all(&entry)?;
        }
        Ok(())
    }

    /// Returns the first cluster of a folder in the root, none where it is not there, and checks the root.
    fn folder(&self, disk: &mut (impl Read + Seek), folder: &str) -> io::Result<Option<u64>> {
        let mut name = [b' '; 11];
        for (to, from) in name.iter_mut().zip(folder.bytes()) {
            *to = from.to_ascii_uppercase();
        }
        if self.is_wide {
            return self.check_chain(disk, self.root_cluster, &name);
        }
        Ok(self.check_entries(disk, self.root_at, self.root_entries, &name)?.1)
    }

    /// Checks a folder, and returns the cluster of the folder of this name in it.
    fn check_chain(&self, disk: &mut (impl Read + Seek), from: u64, name: &[u8; 11]) -> io::Result<Option<u64>> {
        let mut cluster = from;
        let mut found = None;
        for _ in 0..MAX_FOLDER_LEN / self.cluster_len {
            let at = self.data_at + (cluster - 2) * self.cluster_len;
            let (is_end, one) = self.check_entries(disk, at, self.cluster_len / 32, name)?;
            found = found.or(one);
            cluster = self.next(disk, cluster)?;
            if is_end || !self.is_cluster(cluster) {
                return Ok(found);
            }
        }
        Err(damaged(format!("the folder in cluster {from} has no end")))
    }

    fn check_entries(
        &self,
        disk: &mut (impl Read + Seek),
        at: u64,
        count: u64,
        name: &[u8; 11],
    ) -> io::Result<(bool, Option<u64>)> {
        let mut found = None;
        disk.seek(SeekFrom::Start(at))?;
        for _ in 0..count {
            let mut entry = [0; 32];
            disk.read_exact(&mut entry)?;
            match (entry[0], entry[11]) {
                (0, _) => return Ok((true, found)),
                // Deleted; part of a long name; the volume's label.
                (DELETED, _) => continue,
                (_, attributes) if attributes & VOLUME != 0 => continue,
                _ => {}
            }
            let two = |at: usize| u64::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
            let cluster = two(26) + if self.is_wide { two(20) << 16 } else { 0 };
            let is_folder = entry[11] & FOLDER != 0;
            let is_empty = two(28) == 0 && two(30) == 0;
            let text = String::from_utf8_lossy(&entry[..11]).into_owned();
            // The folder above is 0 where it is the root.
            let is_none = cluster == 0 && is_empty && (!is_folder || entry[0] == b'.');
            if !self.is_cluster(cluster) && !is_none {
                return Err(damaged(format!("{text:?} begins in cluster {cluster}, which is none")));
            }
            if is_folder && entry[..11] == *name {
                found = Some(cluster);
            }
        }
        Ok((false, found))
    }

    fn next(&self, disk: &mut (impl Read + Seek), number: u64) -> io::Result<u64> {
        let mut bytes = [0; 4];
        let width = if self.is_wide { 4 } else { 2 };
        disk.seek(SeekFrom::Start(self.table_at + number * width as u64))?;
        disk.read_exact(&mut bytes[..width])?;
        // The upper four bits are not part of it.
        Ok(u64::from(u32::from_le_bytes(bytes) & 0x0fff_ffff))
    }

    fn is_cluster(&self, number: u64) -> bool {
        (2..self.clusters + 2).contains(&number)
    }

    /// From here on an entry of the table is a bad cluster or the end of a chain.
    fn last(&self) -> u64 {
        if self.is_wide { 0x0fff_fff7 } else { 0xfff7 }
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const FAT16_CLUSTERS: u64 = 4085;
const FAT32_CLUSTERS: u64 = 65525;
const DELETED: u8 = 0xe5;
const LONG_NAME: u8 = 0x0f;
// Also set in every part of a long name.
const VOLUME: u8 = 0x08;
const FOLDER: u8 = 0x10;
/// Longest folder: 65,536 entries.
const MAX_FOLDER_LEN: u64 = 65_536 * 32;
