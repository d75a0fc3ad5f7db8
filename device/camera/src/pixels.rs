//! From what cameras give to RGB.

/// How the pixels of a camera lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Y U Y V: two pixels in four bytes.
    Yuyv,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

impl Layout {
    fn row_bytes(self, width: usize) -> Option<usize> {
        match self {
            Self::Yuyv => width.div_ceil(2).checked_mul(4),
            Self::Rgb | Self::Bgr => width.checked_mul(3),
        }
    }
}

/// Returns `u8 [height, width, 3]` of a frame whose rows begin `stride` bytes apart; none where it has fewer bytes.
pub(crate) fn rgb(layout: Layout, width: usize, height: usize, stride: usize, frame: &[u8]) -> Option<Vec<u8>> {
    let row_bytes = layout.row_bytes(width)?;
    let stride = stride.max(row_bytes);
    let mut rgb = Vec::with_capacity(width.checked_mul(height)?.checked_mul(3)?);
    for y in 0..height {
        let from = y.checked_mul(stride)?;
        let row = frame.get(from..from.checked_add(row_bytes)?)?;
        match layout {
            Layout::Rgb => rgb.extend_from_slice(row),
            Layout::Bgr => rgb.extend(row.as_chunks::<3>().0.iter().flat_map(|&[b, g, r]| [r, g, b])),
            Layout::Yuyv => {
                let end = rgb.len() + width * 3;
                for &[left, u, right, v] in row.as_chunks::<4>().0 {
                    rgb.extend(of_yuv(left, u, v));
                    rgb.extend(of_yuv(right, u, v));
                }
                rgb.truncate(end);
            }
        }
    }
    Some(rgb)
}

/// Returns the colour of a pixel.
///
/// # Source
///
/// ITU-R BT.601, studio range, as V4L2 has it where a driver tells no other: red is 1.164 (Y-16) + 1.596 (V-128), and so on,
/// in 256ths.
fn of_yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = (298 * (i32::from(y) - 16) + 128, i32::from(u) - 128, i32::from(v) - 128);
    let byte = |sum: i32| (sum >> 8).clamp(0, 255) as u8;
    [byte(y + 409 * v), byte(y - 100 * u - 208 * v), byte(y + 516 * u)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 75 % colour bars of SMPTE EG 1 in the digital values of BT.601, and the colours that they stand for.
    #[test]
    fn colour_bars_have_their_colours() {
        for (yuv, colour) in [
            ([180, 128, 128], [191, 191, 191]),
            ([162, 44, 142], [191, 191, 0]),
            ([131, 156, 44], [0, 191, 191]),
            ([112, 72, 58], [0, 191, 0]),
            ([84, 184, 198], [191, 0, 191]),
            ([65, 100, 212], [191, 0, 0]),
            ([35, 212, 114], [0, 0, 191]),
            ([16, 128, 128], [0, 0, 0]),
            ([235, 128, 128], [255, 255, 255]),
        ] {
            let [y, u, v] = yuv;
            let found = of_yuv(y, u, v);
            let apart = found.iter().zip(colour).map(|(&a, b): (_, u8)| a.abs_diff(b)).max().unwrap();
            assert!(apart <= 2, "{yuv:?} became {found:?}, not {colour:?}");
        }
    }

    #[test]
    fn rows_have_their_stride_and_their_order() {
        let bgr = [1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12];
        assert_eq!(rgb(Layout::Bgr, 2, 2, 8, &bgr).unwrap(), [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
        assert_eq!(rgb(Layout::Rgb, 2, 1, 0, &bgr).unwrap(), [1, 2, 3, 4, 5, 6]);
        // Of an odd width the last pixel has half of a pair.
        let yuyv = [16, 128, 235, 128, 235, 128, 16, 128];
        assert_eq!(rgb(Layout::Yuyv, 3, 1, 8, &yuyv).unwrap(), [0, 0, 0, 255, 255, 255, 255, 255, 255]);
        assert_eq!(rgb(Layout::Rgb, 2, 2, 8, &bgr[..13]), None);
        assert_eq!(rgb(Layout::Rgb, usize::MAX, 2, 8, &bgr), None);
    }
}
