//! The operations of a network for candle's CPU, channel-last, with gradients.
//!
//! Activations are f32 `[n, h, w, c]`. candle's own convolution splits a grouped one into one call for each channel
//! and has no backward for a 3×3 pool of stride 2; these take a hundredth of the time on a MobileNet. Sums are taken
//! in an order that does not depend on the number of threads, so a run repeats bit for bit.
//!
//! Loops over channels run through `pulp`, which compiles them for the processor at hand.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};
use graft_zoo::Padding;
use pulp::Arch;
use rayon::prelude::*;

/// How a kernel moves over a picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
}

impl Window {
    fn plane(self, h: usize, w: usize) -> Plane {
        Plane {
            h,
            w,
            oh: self.padding.output_len(h, self.kernel, self.stride),
            ow: self.padding.output_len(w, self.kernel, self.stride),
            top: self.padding.amounts(h, self.kernel, self.stride).0,
            left: self.padding.amounts(w, self.kernel, self.stride).0,
            kernel: self.kernel,
            stride: self.stride,
        }
    }
}

/// A window on a picture of a known size.
#[derive(Debug, Clone, Copy)]
struct Plane {
    h: usize,
    w: usize,
    oh: usize,
    ow: usize,
    top: usize,
    left: usize,
    kernel: usize,
    stride: usize,
}

impl Plane {
    /// Returns the input row that tap `ky` of output row `oy` reads, unless it lies in the padding.
    #[inline(always)]
    fn row(&self, oy: usize, ky: usize) -> Option<usize> {
        (oy * self.stride + ky).checked_sub(self.top).filter(|&y| y < self.h)
    }

    /// Returns the input column that tap `kx` of output column `ox` reads, unless it lies in the padding.
    #[inline(always)]
    fn column(&self, ox: usize, kx: usize) -> Option<usize> {
        (ox * self.stride + kx).checked_sub(self.left).filter(|&x| x < self.w)
    }

    /// Calls `f(input pixel, tap)` for every tap of an output pixel that is on the picture.
    #[inline(always)]
    fn taps(&self, oy: usize, ox: usize, mut f: impl FnMut(usize, usize)) {
        for ky in 0..self.kernel {
            let Some(y) = self.row(oy, ky) else { continue };
            for kx in 0..self.kernel {
                if let Some(x) = self.column(ox, kx) {
                    f(y * self.w + x, ky * self.kernel + kx);
                }
            }
        }
    }
}

/// Depthwise convolution: `x [n, h, w, c]`, `w [k * k, c]`.
pub(crate) struct Depthwise(pub(crate) Window);

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, xl: &Layout, ws: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = xl.shape().dims4()?;
        let (x, weight) = (floats(xs, xl)?, floats(ws, wl)?);
        let p = self.0.plane(h, w);
        let mut out = vec![0.0f32; n * p.oh * p.ow * c];
        let arch = Arch::new();
        out.par_chunks_mut(p.ow * c).enumerate().for_each(|(i, row)| {
            let image = &x[i / p.oh * h * w * c..][..h * w * c];
            let oy = i % p.oh;
            arch.dispatch(|| {
                for (ox, to) in row.chunks_exact_mut(c).enumerate() {
                    p.taps(oy, ox, |pixel, tap| multiply_add(to, &image[pixel * c..][..c], &weight[tap * c..][..c]));
                }
            });
        });
        Ok((CpuStorage::F32(out), (n, p.oh, p.ow, c).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, h, wd, c) = x.dims4()?;
        let p = self.0.plane(h, wd);
        let (want_x, want_w) = (x.track_op(), w.track_op());
        let (xs, ws, gs) = (x.contiguous()?, w.contiguous()?, grad.contiguous()?);
        let (xs, ws, gs) = (values(&xs), values(&ws), values(&gs));
        let (xs, ws, gs) = (xs.floats()?, ws.floats()?, gs.floats()?);
        let mut dx = vec![0.0f32; if want_x { xs.len() } else { n }];
        let each = dx.len() / n.max(1);
        let arch = Arch::new();
        let parts: Vec<Vec<f32>> = dx
            .par_chunks_mut(each.max(1))
            .enumerate()
            .map(|(i, dx)| {
                let image = &xs[i * h * wd * c..][..h * wd * c];
                let g = &gs[i * p.oh * p.ow * c..][..p.oh * p.ow * c];
                let mut dw = vec![0.0f32; ws.len()];
                arch.dispatch(|| {
                    for (o, g) in g.chunks_exact(c).enumerate() {
                        p.taps(o / p.ow, o % p.ow, |pixel, tap| {
                            if want_x {
                                multiply_add(&mut dx[pixel * c..][..c], &ws[tap * c..][..c], g);
                            }
                            if want_w {
                                multiply_add(&mut dw[tap * c..][..c], &image[pixel * c..][..c], g);
                            }
                        });
                    }
                });
                dw
            })
            .collect();
        let dx = want_x.then(|| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?;
        let dw = want_w.then(|| Tensor::from_vec(sum(&parts, ws.len()), w.shape(), w.device())).transpose()?;
        Ok((dx, dw))
    }
}

/// Lays the patches under a kernel side by side: `x [n, h, w, c]` to `[n, oh, ow, k * k * c]`.
pub(crate) struct Unfold(pub(crate) Window);

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = xl.shape().dims4()?;
        let x = floats(xs, xl)?;
        let p = self.0.plane(h, w);
        let patch = p.kernel * p.kernel * c;
        let mut out = vec![0.0f32; n * p.oh * p.ow * patch];
        out.par_chunks_mut(p.ow * patch).enumerate().for_each(|(i, row)| {
            let image = &x[i / p.oh * h * w * c..][..h * w * c];
            for (ox, to) in row.chunks_exact_mut(patch).enumerate() {
                p.taps(i % p.oh, ox, |pixel, tap| to[tap * c..][..c].copy_from_slice(&image[pixel * c..][..c]));
            }
        });
        Ok((CpuStorage::F32(out), (n, p.oh, p.ow, patch).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let (n, h, w, c) = x.dims4()?;
        let p = self.0.plane(h, w);
        let patch = p.kernel * p.kernel * c;
        let gs = grad.contiguous()?;
        let gs = values(&gs);
        let gs = gs.floats()?;
        let mut dx = vec![0.0f32; n * h * w * c];
        dx.par_chunks_mut(h * w * c).zip(gs.par_chunks(p.oh * p.ow * patch)).for_each(|(dx, g)| {
            for (o, g) in g.chunks_exact(patch).enumerate() {
                p.taps(o / p.ow, o % p.ow, |pixel, tap| add(&mut dx[pixel * c..][..c], &g[tap * c..][..c]));
            }
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Largest value under a window; padding never wins.
pub(crate) struct MaxPool(pub(crate) Window);

impl MaxPool {
    /// Calls `f(output value, channel, input index)` with the winner of each window of one picture.
    fn winners(p: &Plane, c: usize, image: &[f32], mut f: impl FnMut(usize, usize, usize)) {
        for o in 0..p.oh * p.ow {
            for channel in 0..c {
                let mut best: Option<usize> = None;
                p.taps(o / p.ow, o % p.ow, |pixel, _| {
                    let at = pixel * c + channel;
                    if best.is_none_or(|b| image[at] > image[b]) {
                        best = Some(at);
                    }
                });
                if let Some(best) = best {
                    f(o, channel, best);
                }
            }
        }
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = xl.shape().dims4()?;
        let x = floats(xs, xl)?;
        let p = self.0.plane(h, w);
        let mut out = vec![0.0f32; n * p.oh * p.ow * c];
        out.par_chunks_mut(p.oh * p.ow * c).zip(x.par_chunks(h * w * c)).for_each(|(out, image)| {
            Self::winners(&p, c, image, |o, channel, best| out[o * c + channel] = image[best]);
        });
        Ok((CpuStorage::F32(out), (n, p.oh, p.ow, c).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let (n, h, w, c) = x.dims4()?;
        let p = self.0.plane(h, w);
        let (xs, gs) = (x.contiguous()?, grad.contiguous()?);
        let (xs, gs) = (values(&xs), values(&gs));
        let (xs, gs) = (xs.floats()?, gs.floats()?);
        let mut dx = vec![0.0f32; n * h * w * c];
        let pictures = xs.par_chunks(h * w * c).zip(gs.par_chunks(p.oh * p.ow * c));
        dx.par_chunks_mut(h * w * c).zip(pictures).for_each(|(dx, (image, g))| {
            Self::winners(&p, c, image, |o, channel, best| dx[best] += g[o * c + channel]);
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// `clamp(x * scale + shift)`, both `[c]`: a batch normalisation with fixed statistics, and its activation.
pub(crate) struct Affine {
    pub(crate) bounds: (f32, f32),
}

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xl: &Layout,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = scaled(floats(xs, xl)?, floats(s1, l1)?, floats(s2, l2)?, self.bounds);
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (xs, ys, gs, scales) = (x.contiguous()?, result.contiguous()?, grad.contiguous()?, scale.contiguous()?);
        let (xs, ys, gs, scales) = (values(&xs), values(&ys), values(&gs), values(&scales));
        let (xs, ys, gs, scales) = (xs.floats()?, ys.floats()?, gs.floats()?, scales.floats()?);
        let c = scales.len();
        let dx = match x.track_op() {
            false => None,
            true => {
                let dx = combined(xs, ys, gs, self.bounds, scales, &vec![0.0; c], &vec![0.0; c]);
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            }
        };
        if !scale.track_op() && !shift.track_op() {
            return Ok((dx, None, None));
        }
        let (dscale, dshift) = moments(xs, ys, gs, self.bounds, &vec![0.0; c]);
        let tensor = |v: Vec<f64>| Tensor::from_vec(narrow(&v), c, x.device());
        Ok((dx, Some(tensor(dscale)?), Some(tensor(dshift)?)))
    }
}

/// Mean and variance of every channel of one batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    /// Biased, as the normalisation uses it.
    pub(crate) variance: Vec<f32>,
    /// Values a channel.
    pub(crate) count: usize,
}

/// Batch normalisation by the batch's own statistics, and its activation: `gamma`, `beta` are `[c]`.
///
/// # Source
///
/// Ioffe and Szegedy, *Batch Normalization*, arXiv:1502.03167.
pub(crate) struct BatchNorm {
    pub(crate) eps: f32,
    pub(crate) bounds: (f32, f32),
    /// Filled by the forward pass; read by the backward pass and by whoever keeps running statistics.
    pub(crate) statistics: Arc<Mutex<Statistics>>,
}

impl BatchNorm {
    fn statistics(&self) -> Result<Statistics> {
        match self.statistics.lock() {
            Ok(s) => Ok(s.clone()),
            Err(_) => bail!("a thread that computed batch statistics has died"),
        }
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xl: &Layout,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gamma, beta) = (floats(xs, xl)?, floats(s1, l1)?, floats(s2, l2)?);
        let c = gamma.len();
        let count = x.len() / c.max(1);
        let n = count.max(1) as f64;
        let (total, square) = column_sums(count, c, |r, a, b| {
            for ((a, b), &v) in a.iter_mut().zip(b).zip(&x[r * c..][..c]) {
                *a += v;
                *b += v * v;
            }
        });
        let mean: Vec<f64> = total.iter().map(|t| t / n).collect();
        let variance: Vec<f64> = square.iter().zip(&mean).map(|(s, m)| (s / n - m * m).max(0.0)).collect();
        let scale: Vec<f32> = gamma
            .iter()
            .zip(&variance)
            .map(|(&g, v)| (f64::from(g) / (v + f64::from(self.eps)).sqrt()) as f32)
            .collect();
        let shift: Vec<f32> =
            beta.iter().zip(&mean).zip(&scale).map(|((&b, &m), &s)| (f64::from(b) - m * f64::from(s)) as f32).collect();
        let out = scaled(x, &scale, &shift, self.bounds);
        match self.statistics.lock() {
            Ok(mut s) => *s = Statistics { mean: narrow(&mean), variance: narrow(&variance), count },
            Err(_) => bail!("a thread that computed batch statistics has died"),
        }
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.statistics()?;
        let (xs, ys, gs, gammas) = (x.contiguous()?, result.contiguous()?, grad.contiguous()?, gamma.contiguous()?);
        let (xs, ys, gs, gammas) = (values(&xs), values(&ys), values(&gs), values(&gammas));
        let (xs, ys, gs, gammas) = (xs.floats()?, ys.floats()?, gs.floats()?, gammas.floats()?);
        let c = gammas.len();
        let n = s.count.max(1) as f64;
        let rstd: Vec<f64> = s.variance.iter().map(|&v| 1.0 / (f64::from(v) + f64::from(self.eps)).sqrt()).collect();
        // With the mean subtracted first, the sum does not cancel.
        let (by_x, by_one) = moments(xs, ys, gs, self.bounds, &s.mean);
        let dgamma: Vec<f64> = by_x.iter().zip(&rstd).map(|(v, r)| v * r).collect();
        // dx = gamma rstd (g - mean(g) - xhat mean(g xhat)), written as a g + k x + b with constants of the channel.
        let a: Vec<f64> = gammas.iter().zip(&rstd).map(|(&g, r)| f64::from(g) * r).collect();
        let k: Vec<f64> = (0..c).map(|j| -a[j] * rstd[j] * dgamma[j] / n).collect();
        let b: Vec<f64> = (0..c).map(|j| -a[j] * by_one[j] / n - k[j] * f64::from(s.mean[j])).collect();
        let dx = combined(xs, ys, gs, self.bounds, &narrow(&a), &narrow(&k), &narrow(&b));
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_vec(narrow(&dgamma), c, device)?),
            Some(Tensor::from_vec(narrow(&by_one), c, device)?),
        ))
    }
}

/// Rows (pixels) that one task takes.
const ROWS: usize = 256;

/// Returns `clamp(x * scale + shift)` by channel.
fn scaled(x: &[f32], scale: &[f32], shift: &[f32], (low, high): (f32, f32)) -> Vec<f32> {
    let c = scale.len().max(1);
    let mut out = vec![0.0f32; x.len()];
    let arch = Arch::new();
    out.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).for_each(|(out, x)| {
        arch.dispatch(|| {
            for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                for (((o, &v), &s), &t) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                    *o = (v * s + t).max(low).min(high);
                }
            }
        });
    });
    out
}

/// Returns `a * g + k * x + b` by channel, with `g` zero where the activation has clamped.
fn combined(x: &[f32], y: &[f32], g: &[f32], (low, high): (f32, f32), a: &[f32], k: &[f32], b: &[f32]) -> Vec<f32> {
    let c = a.len().max(1);
    let mut out = vec![0.0f32; x.len()];
    let arch = Arch::new();
    out.par_chunks_mut(ROWS * c).enumerate().for_each(|(i, out)| {
        arch.dispatch(|| {
            for (r, out) in out.chunks_exact_mut(c).enumerate() {
                let at = (i * ROWS + r) * c;
                let (x, y, g) = (&x[at..][..c], &y[at..][..c], &g[at..][..c]);
                let (a, k, b) = (&a[..c], &k[..c], &b[..c]);
                for j in 0..c {
                    let open = f32::from(u8::from(y[j] > low && y[j] < high));
                    out[j] = a[j] * (g[j] * open) + k[j] * x[j] + b[j];
                }
            }
        });
    });
    out
}

/// Returns the sums over rows of `g (x - centre)` and of `g`, with `g` zero where the activation has clamped.
fn moments(x: &[f32], y: &[f32], g: &[f32], (low, high): (f32, f32), centre: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let c = centre.len();
    column_sums(x.len() / c.max(1), c, |r, by_x, by_one| {
        let (x, y, g) = (&x[r * c..][..c], &y[r * c..][..c], &g[r * c..][..c]);
        let (centre, by_x, by_one) = (&centre[..c], &mut by_x[..c], &mut by_one[..c]);
        for j in 0..c {
            let open = f32::from(u8::from(y[j] > low && y[j] < high));
            by_x[j] += g[j] * open * (x[j] - centre[j]);
            by_one[j] += g[j] * open;
        }
    })
}

/// Adds up two values a channel over `rows`, in f32 within a block of rows and in f64 over the blocks.
fn column_sums(rows: usize, c: usize, each: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) -> (Vec<f64>, Vec<f64>) {
    let arch = Arch::new();
    let blocks: Vec<(Vec<f32>, Vec<f32>)> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|block| {
            let (mut a, mut b) = (vec![0.0f32; c], vec![0.0f32; c]);
            arch.dispatch(|| {
                for r in block * ROWS..((block + 1) * ROWS).min(rows) {
                    each(r, &mut a, &mut b);
                }
            });
            (a, b)
        })
        .collect();
    let (mut a, mut b) = (vec![0.0f64; c], vec![0.0f64; c]);
    for (block_a, block_b) in &blocks {
        for j in 0..c {
            a[j] += f64::from(block_a[j]);
            b[j] += f64::from(block_b[j]);
        }
    }
    (a, b)
}

#[inline(always)]
fn multiply_add(to: &mut [f32], a: &[f32], b: &[f32]) {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to += a * b;
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

fn sum(parts: &[Vec<f32>], len: usize) -> Vec<f32> {
    let mut total = vec![0.0f32; len];
    for part in parts {
        add(&mut total, part);
    }
    total
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else { bail!("expected f32, found {:?}", storage_type(storage)) };
    match layout.contiguous_offsets().and_then(|(from, to)| values.get(from..to)) {
        Some(values) => Ok(values),
        None => bail!("expected a contiguous tensor, found strides {:?}", layout.stride()),
    }
}

fn storage_type(storage: &CpuStorage) -> DType {
    candle_core::backend::BackendStorage::dtype(storage)
}

/// A tensor's values, for as long as its storage is borrowed.
struct Values<'a, S> {
    storage: S,
    layout: &'a Layout,
}

impl<S: Deref<Target = Storage>> Values<'_, S> {
    fn floats(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => floats(storage, self.layout),
            _ => bail!("expected a tensor of the CPU"),
        }
    }
}

fn values(t: &Tensor) -> Values<'_, impl Deref<Target = Storage> + '_> {
    let (storage, layout) = t.storage_and_layout();
    Values { storage, layout }
}
