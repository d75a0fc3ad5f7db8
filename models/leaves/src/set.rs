//! Writes a leaf set as an image folder: one folder a class, one JPEG a picture.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use image::codecs::jpeg::JpegEncoder;

use crate::{LeafClass, leaf_picture, rng::picture_seed};

/// Writes `per_class` pictures of each class as `dir/<class>/<n>.jpg`, quality 90.
///
/// Each file appears under its name only when it is whole. `progress` gets the pictures written and the
/// pictures in all, first with none written. Pictures that lie there already are written anew.
///
/// # Errors
///
/// The error of the file system, with the path it befell.
pub fn write_leaf_set(
    dir: &Path,
    per_class: usize,
    seed: u64,
    size: u32,
    mut progress: impl FnMut(usize, usize),
) -> io::Result<()> {
    let total = per_class.saturating_mul(LeafClass::ALL.len());
    let mut done = 0;
    progress(done, total);
    for class in LeafClass::ALL {
        let folder = dir.join(class.name());
        fs::create_dir_all(&folder).map_err(|e| at(&folder, &e))?;
        for n in 0..per_class {
            let picture = leaf_picture(class, picture_seed(seed, n as u64), size);
            let mut jpeg = Vec::new();
            JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
                .encode_image(&picture)
                .map_err(|e| io::Error::other(format!("cannot encode picture {n} of {class}: {e}")))?;
            write_whole(&folder.join(format!("{n:04}.jpg")), &jpeg)?;
            done += 1;
            progress(done, total);
        }
    }
    Ok(())
}

const QUALITY: u8 = 90;

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("jpg.part");
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&partial, path)).map_err(|e| {
        // What is left of a picture that could not be written is of no use to anyone.
        let _ = fs::remove_file(&partial);
        at(path, &e)
    })
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_a_folder_of_readable_pictures_for_each_class() {
        let dir = tempfile::tempdir().unwrap();
        let mut calls = Vec::new();
        write_leaf_set(dir.path(), 2, 7, 40, |done, total| calls.push((done, total))).unwrap();
        assert_eq!(calls.len(), 13);
        assert_eq!(calls.last(), Some(&(12, 12)));
        let mut files = 0;
        for class in LeafClass::ALL {
            for entry in fs::read_dir(dir.path().join(class.name())).unwrap() {
                let path = entry.unwrap().path();
                assert_eq!(path.extension().unwrap(), "jpg");
                let bytes = fs::read(&path).unwrap();
                let picture = image::load_from_memory(&bytes).unwrap();
                assert_eq!((picture.width(), picture.height()), (40, 40));
                files += 1;
            }
        }
        assert_eq!(files, 12);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("healthy");
        fs::write(&blocked, b"in the way").unwrap();
        let error = write_leaf_set(dir.path(), 1, 0, 8, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("healthy"), "{error}");
    }
}
