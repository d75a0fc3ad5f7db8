//! ZIP archives, by their central directory.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use ::zip::{CompressionMethod, ZipArchive};
use anyhow::{Context, Result, ensure};

use super::location::{Member, Packing};
use super::{Ignored, Location, Tree};

/// Lists a ZIP archive without reading its members.
///
/// # Errors
///
/// If it is damaged, encrypted, or packed otherwise than by deflate.
pub(super) fn tree(path: &Path) -> Result<Tree> {
    let doing = || format!("reading the directory of {}", path.display());
    let file = File::open(path).with_context(doing)?;
    let len = file.metadata().with_context(doing)?.len();
    let mut zip = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("expected a sound .zip file, found {}; copy it again", path.display()))?;
    let archive: Arc<Path> = path.into();
    let mut tree = Tree::new(path);
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).with_context(doing)?;
        let name = entry.name().with_context(doing)?.into_owned();
        if entry.is_dir() {
            tree.add_member(&name, None).with_context(doing)?;
            continue;
        }
        if entry.is_symlink() {
            tree.ignored.push(Ignored { path: path.join(name), reason: "is a link".into() });
            continue;
        }
        ensure!(
            !entry.encrypted(),
            "expected a .zip without a password, found {} encrypted; unpack it",
            path.display()
        );
        let packing = match entry.compression() {
            CompressionMethod::STORE => Packing::Plain,
            CompressionMethod::DEFLATE => Packing::Deflated,
            other => anyhow::bail!(
                "expected members stored or deflated in {}, found {name} as {other:?}; pack it with plain zip",
                path.display()
            ),
        };
        let offset = entry.data_start().context("expected a local header").with_context(doing)?;
        let (stored, size) = (entry.compressed_size(), entry.size());
        ensure!(
            offset.checked_add(stored).is_some_and(|end| end <= len)
                && (packing == Packing::Deflated || stored == size),
            "expected {name} to lie within {}, found it beyond its end; copy it again",
            path.display()
        );
        let crc = Some(entry.crc32());
        let member = Member { archive: archive.clone(), name: name.clone(), offset, stored, len: size, packing, crc };
        tree.add_member(&name, Some(Location::Member(member))).with_context(doing)?;
    }
    Ok(tree)
}
