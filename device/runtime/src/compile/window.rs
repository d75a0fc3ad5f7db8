//! Reads the windows of convolutions and pools.

use graft_kernels::Window;
use tract_onnx::pb::NodeProto;

use super::attributes::{int, ints};

/// Reads the attributes of a convolution or pool over two axes.
pub(super) fn window(node: &NodeProto, kernel: [usize; 2], input: [usize; 2]) -> Option<Window> {
    let declared = ints(node, "kernel_shape").is_none_or(|k| k.iter().map(|v| usize::try_from(*v)).eq(kernel.map(Ok)));
    (declared && kernel.iter().all(|k| *k > 0)).then_some(())?;
    let read = |name: &str, or: i64, len: usize| -> Option<Vec<usize>> {
        let Some(values) = ints(node, name) else {
            return usize::try_from(or).ok().map(|v| vec![v; len]);
        };
        (values.len() == len).then_some(())?;
        values.iter().map(|v| usize::try_from(*v).ok()).collect()
    };
    let (stride, dilation, pads) = (read("strides", 1, 2)?, read("dilations", 1, 2)?, read("pads", 0, 4)?);
    stride.iter().chain(&dilation).all(|v| *v > 0).then_some(())?;
    let mut window = Window {
        kernel,
        stride: [stride[0], stride[1]],
        dilation: [dilation[0], dilation[1]],
        before: [pads[0], pads[1]],
        after: [pads[2], pads[3]],
    };
    let auto = node.attribute.iter().find(|a| a.name == "auto_pad").map_or(&b"NOTSET"[..], |a| &a.s);
    match auto {
        b"NOTSET" | b"" => {}
        b"VALID" => (window.before, window.after) = ([0; 2], [0; 2]),
        b"SAME_UPPER" | b"SAME_LOWER" => {
            for (a, &len) in input.iter().enumerate() {
                let last = (len.div_ceil(stride[a]).checked_sub(1)?).checked_mul(stride[a])?;
                let total = last.checked_add(reach(&window, a)?)?.saturating_sub(len);
                let (less, more) = (total / 2, total - total / 2);
                (window.before[a], window.after[a]) = if auto == b"SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        _ => return None,
    }
    Some(window)
}

/// Widens the border of a pool behind the picture until the last, partial windows fit, if `ceil_mode` asks for them; none
/// where a window would see nothing but border.
///
/// # Source
///
/// ONNX operator MaxPool: a window that starts in the border behind the picture is left out.
pub(super) fn widened(node: &NodeProto, mut window: Window, input: [usize; 2]) -> Option<Window> {
    let beyond = |a: usize| Some(window.before[a].max(window.after[a]) >= reach(&window, a)?);
    (!beyond(0)? && !beyond(1)?).then_some(())?;
    match int(node, "ceil_mode").unwrap_or(0) {
        0 => return Some(window),
        1 => {}
        _ => return None,
    }
    for (a, len) in input.into_iter().enumerate() {
        let before = len.checked_add(window.before[a])?;
        let padded = before.checked_add(window.after[a])?;
        let steps = padded.checked_sub(reach(&window, a)?)?.div_ceil(window.stride[a]);
        let start = steps.checked_mul(window.stride[a])?;
        let start = if start >= before { start - window.stride[a] } else { start };
        window.after[a] += (start + reach(&window, a)?).saturating_sub(padded);
    }
    Some(window)
}

/// Returns the pixels from the first tap to the last, both included.
fn reach(window: &Window, axis: usize) -> Option<usize> {
    window.kernel[axis].checked_sub(1)?.checked_mul(window.dilation[axis])?.checked_add(1)
}
