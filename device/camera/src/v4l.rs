//! A camera of the kernel's (V4L2): MJPEG as it comes, YUYV and RGB as pixels.
//!
//! Which crate talks to the kernel and why: `docs/decisions/0003-cameras.md`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linuxvideo::format::{PixFormat, PixelFormat};
use linuxvideo::stream::ReadStream;
use linuxvideo::{BufType, Device};

use crate::pipe::is_ready;
use crate::pixels::{Layout, rgb};
use crate::process::live;
use crate::tables::with_tables;
use crate::{Next, Picture, Source, SourceError};

/// An open camera.
pub(crate) struct Camera {
    path: PathBuf,
    name: String,
    stream: ReadStream,
    coding: Coding,
    width: usize,
    height: usize,
    stride: usize,
    number: u64,
}

/// What its frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Jpeg,
    Pixels(Layout),
}

/// Formats that are read, the best first: what is compressed needs the least of the cable.
const FORMATS: [(&[u8; 4], Coding); 5] = [
    (b"MJPG", Coding::Jpeg),
    (b"JPEG", Coding::Jpeg),
    (b"YUYV", Coding::Pixels(Layout::Yuyv)),
    (b"RGB3", Coding::Pixels(Layout::Rgb)),
    (b"BGR3", Coding::Pixels(Layout::Bgr)),
];
/// Frames that a camera could not fill, one after the other, before it counts as broken.
const MAX_BROKEN: u32 = 100;

impl Camera {
    /// Opens a device and starts it at about a size.
    pub(crate) fn open(path: &Path, (width, height): (u32, u32)) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        let device = Device::open(path).map_err(failed)?;
        let offered: Vec<PixelFormat> =
            device.formats(BufType::VIDEO_CAPTURE).filter_map(Result::ok).map(|f| f.pixel_format()).collect();
        let best = FORMATS.iter().find(|(code, _)| offered.contains(&PixelFormat::from_fourcc(**code)));
        let Some((code, coding)) = best else {
            let found: Vec<String> = offered.iter().map(ToString::to_string).collect();
            let found = if found.is_empty() { "no format".to_owned() } else { found.join(", ") };
            return Err(SourceError::Format { path: path.to_owned(), found });
        };
        let asked = PixelFormat::from_fourcc(**code);
        let device = device.video_capture(PixFormat::new(width, height, asked)).map_err(failed)?;
        let format = device.format();
        if format.pixel_format() != asked {
            let found = format!("{} where {asked} was asked for", format.pixel_format());
            return Err(SourceError::Format { path: path.to_owned(), found });
        }
        let [width, height, stride] =
            [format.width(), format.height(), format.bytes_per_line()].map(|n| usize::try_from(n).unwrap_or(0));
        let stream = device.into_stream().map_err(failed)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), name, stream, coding: *coding, width, height, stride, number: 0 })
    }

    fn picture(&self, frame: &[u8]) -> Option<Picture> {
        match self.coding {
            // A frame that the driver gave up on has no bytes.
            Coding::Jpeg => (!frame.is_empty()).then(|| Picture::File(with_tables(frame.to_vec()))),
            Coding::Pixels(layout) => {
                let rgb = rgb(layout, self.width, self.height, self.stride, frame)?;
                let [width, height] = [self.width, self.height].map(|n| u32::try_from(n).unwrap_or(0));
                Some(Picture::Pixels { width, height, rgb })
            }
        }
    }
}

impl Source for Camera {
    fn next(&mut self, patience: Duration) -> Result<Next, SourceError> {
        let failed = |source| SourceError::Camera { path: self.path.clone(), source };
        let end = Instant::now() + patience;
        for _ in 0..MAX_BROKEN {
            if !is_ready(&self.stream, end.saturating_duration_since(Instant::now())).map_err(failed)? {
                return Ok(Next::Nothing);
            }
            let bytes = self.stream.dequeue(|view| Ok(if view.is_error() { vec![] } else { view.to_vec() }));
            if let Some(picture) = self.picture(&bytes.map_err(failed)?) {
                return Ok(Next::Frame(live(&self.name, &mut self.number, picture)));
            }
        }
        let source = std::io::Error::other(format!("{MAX_BROKEN} of its pictures were damaged"));
        Err(SourceError::Camera { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_camera_is_named() {
        for path in ["/dev/graft-none", "/dev/null"] {
            let error = Camera::open(Path::new(path), (640, 480)).err().unwrap().to_string();
            assert!(error.contains(path) && error.contains("group video"), "{error}");
        }
    }
}
