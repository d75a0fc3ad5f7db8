//! A GPU: its memory, its queue, and the kernels compiled for it. All of what the compiler cannot check is here.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cudarc::cublas::{self, CudaBlas};
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as PROCESSORS;
use cudarc::driver::{
    self, CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::{self, CompileOptions};

use crate::product::Order;

/// In what numbers maps are kept and multiplied; sums, statistics, parameters and what remembers them are f32 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// bf16, 8 bits of mantissa: half the memory, and the fastest since Ampere.
    #[default]
    Bf16,
    /// f32, of which products see 11 bits of mantissa.
    Tf32,
    /// f32 throughout.
    F32,
}

impl FromStr for Precision {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "bf16" => Ok(Self::Bf16),
            "tf32" => Ok(Self::Tf32),
            "f32" => Ok(Self::F32),
            _ => bail!("expected bf16, tf32 or f32, found {text:?}"),
        }
    }
}

/// A GPU that work is queued for; copies are the same one.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    precision: Precision,
    name: String,
    processors: usize,
    functions: HashMap<String, CudaFunction>,
    blas: CudaBlas,
    /// What cuBLAS works in.
    _workspace: CudaSlice<u8>,
    /// Memory that nobody has, by its size.
    spare: Mutex<BTreeMap<usize, Vec<CudaSlice<u8>>>>,
    stream: Arc<CudaStream>,
    /// How often the host has waited for all of the queue.
    waits: AtomicU64,
}

/// Numbers on a GPU. What was in it is there until something is written; it goes back to the GPU's spare memory when dropped,
/// which work that is queued for it does not mind.
pub struct Memory {
    slice: Option<CudaSlice<u8>>,
    address: u64,
    bytes: usize,
    gpu: Arc<Inner>,
}

/// Some bytes of a [`Memory`].
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    memory: PhantomData<&'a Memory>,
}

/// Memory of the host that a GPU copies from by itself.
pub struct Staging {
    address: *mut c_void,
    bytes: usize,
    /// The GPU's waits when it was last sent.
    sent: Option<u64>,
    gpu: Arc<Inner>,
}

/// What a kernel is given. The layouts are those of `common.cu`.
#[derive(Clone, Copy)]
pub(crate) enum Argument {
    Address(u64),
    Count(u32),
    Flag(i32),
    Real(f32),
    Function(RawFunction),
    Source(RawSource),
    Window(RawWindow),
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawFunction {
    pub(crate) kind: i32,
    pub(crate) low: f32,
    pub(crate) high: f32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawSource {
    pub(crate) z: u64,
    pub(crate) scale: u64,
    pub(crate) shift: u64,
    pub(crate) function: RawFunction,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawWindow(pub(crate) [i32; 8]);

// SAFETY: plain numbers in C's layout, as the kernels declare them.
unsafe impl DeviceRepr for RawFunction {}
// SAFETY: likewise.
unsafe impl DeviceRepr for RawSource {}
// SAFETY: likewise.
unsafe impl DeviceRepr for RawWindow {}

/// Threads of a block, of every kernel.
pub(crate) const THREADS: usize = 256;
/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

const SOURCE: &str = concat!(
    include_str!("kernels/common.cu"),
    include_str!("kernels/elements.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/windows.cu"),
    include_str!("kernels/steps.cu"),
);

/// Lists the kernels of the source: `KERNEL name(...)`, or `KERNEL MACRO(side, stride)` of the name `macro_side_stride`.
fn names() -> impl Iterator<Item = String> {
    SOURCE.lines().filter_map(|l| l.strip_prefix("KERNEL ")?.split_once('(')).map(|(name, rest)| {
        match name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            true => format!("{name}_{}", rest.trim_end_matches(')').replace(", ", "_")).to_lowercase(),
            false => name.to_owned(),
        }
    })
}

impl Gpu {
    /// Takes the first GPU and compiles the kernels for it.
    ///
    /// # Errors
    ///
    /// If there is no GPU, a library of CUDA is missing, or the kernels do not compile.
    pub fn open(precision: Precision) -> Result<Self> {
        // SAFETY: these look for a library and load it.
        let there = unsafe {
            [
                ("NVIDIA's driver (libcuda)", driver::sys::is_culib_present()),
                ("cuBLAS (libcublas)", cublas::sys::is_culib_present()),
                ("NVRTC (libnvrtc)", nvrtc::sys::is_culib_present()),
            ]
        };
        let missing: Vec<&str> = there.iter().filter(|t| !t.1).map(|t| t.0).collect();
        ensure!(
            missing.is_empty(),
            "expected the libraries of CUDA 12 or 13, did not find {}; install the driver and the toolkit, and have LD_LIBRARY_PATH name their folder, or use --device cpu",
            missing.join(", ")
        );
        let context = CudaContext::new(0).map_err(|e| anyhow!("expected a CUDA GPU, found {e}; use --device cpu"))?;
        // SAFETY: there is one stream, which orders everything.
        unsafe { context.disable_event_tracking() };
        let name = context.name()?;
        let (major, minor) = context.compute_capability()?;
        ensure!(
            major >= 7,
            "expected a GPU of compute capability 7 (Volta) or newer, found {major}.{minor}; use --device cpu"
        );
        let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
        options.extend((precision == Precision::Bf16).then(|| "-DBFLOAT16".to_owned()));
        let options = CompileOptions { name: Some("graft.cu".into()), options, ..CompileOptions::default() };
        let program = nvrtc::compile_ptx_with_opts(SOURCE, options)
            .map_err(|e| anyhow!("expected kernels that NVRTC compiles for {name}, found {e}"))?;
        let module = context.load_module(program).context("expected a driver that is as new as NVRTC")?;
        let functions = names().map(|n| Ok((n.clone(), module.load_function(&n)?))).collect::<Result<_>>()?;
        let stream = context.default_stream();
        let blas = CudaBlas::new(stream.clone()).map_err(|e| anyhow!("cannot start cuBLAS: {e}"))?;
        // SAFETY: nobody reads it before it is written.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE)? };
        // SAFETY: the memory lives as long as the handle.
        unsafe {
            cublas::sys::cublasSetWorkspace_v2(
                *blas.handle(),
                workspace.device_ptr(&stream).0 as *mut c_void,
                WORKSPACE,
            )
        }
        .result()
        .map_err(|e| anyhow!("cannot give cuBLAS its memory: {e}"))?;
        Ok(Self(Arc::new(Inner {
            precision,
            name,
            processors: usize::try_from(context.attribute(PROCESSORS)?).unwrap_or(1),
            functions,
            blas,
            _workspace: workspace,
            spare: Mutex::default(),
            stream,
            waits: AtomicU64::new(0),
        })))
    }

    /// Returns what the GPU calls itself.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the numbers that maps are of.
    pub fn precision(&self) -> Precision {
        self.0.precision
    }

    /// Returns the bytes of a map's number.
    pub fn width(&self) -> usize {
        if self.0.precision == Precision::Bf16 { 2 } else { 4 }
    }

    pub(crate) fn processors(&self) -> usize {
        self.0.processors
    }

    /// Takes memory; what is in it is anything.
    ///
    /// # Errors
    ///
    /// If the GPU has no more.
    pub fn memory(&self, bytes: usize) -> Result<Memory> {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let mut spare = self.0.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = spare.range(bytes..=bytes + bytes / 4).find(|(_, list)| !list.is_empty()).map(|(size, _)| *size);
        let slice = match fit.and_then(|size| spare.get_mut(&size)?.pop()) {
            Some(slice) => slice,
            // SAFETY: kernels and copies write it before they read it.
            None => match unsafe { self.0.stream.alloc::<u8>(bytes) } {
                Ok(slice) => slice,
                Err(_) => {
                    // What is left of other sizes may do.
                    spare.clear();
                    self.0.stream.synchronize()?;
                    // SAFETY: as above.
                    unsafe { self.0.stream.alloc::<u8>(bytes) }.map_err(|e| {
                        anyhow!("expected {} MB more memory on {}, found {e}; lower --batch", bytes >> 20, self.0.name)
                    })?
                }
            },
        };
        let (address, bytes) = (slice.device_ptr(&self.0.stream).0, slice.num_bytes());
        Ok(Memory { slice: Some(slice), address, bytes, gpu: self.0.clone() })
    }

    /// Takes memory for a map of so many numbers.
    ///
    /// # Errors
    ///
    /// If the GPU has no more.
    pub fn map(&self, numbers: usize) -> Result<Memory> {
        self.memory(numbers * self.width())
    }

    /// Takes memory for so many f32, and clears it.
    ///
    /// # Errors
    ///
    /// If the GPU has no more.
    pub fn zeros(&self, numbers: usize) -> Result<Memory> {
        let memory = self.memory(numbers * 4)?;
        self.clear(memory.all())?;
        Ok(memory)
    }

    /// Takes memory for these numbers.
    ///
    /// # Errors
    ///
    /// If the GPU has no more.
    pub fn numbers(&self, numbers: &[f32]) -> Result<Memory> {
        let memory = self.memory(size_of_val(numbers))?;
        self.write(memory.floats(0..numbers.len()), numbers)?;
        Ok(memory)
    }

    /// Sets bytes to zero.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn clear(&self, part: Part<'_>) -> Result<()> {
        // SAFETY: the part is of memory that is there.
        unsafe { driver::result::memset_d8_async(part.address, 0, part.bytes, self.0.stream.cu_stream())? };
        Ok(())
    }

    /// Writes numbers; waits for the queue.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn write(&self, to: Part<'_>, numbers: &[f32]) -> Result<()> {
        ensure!(to.bytes == size_of_val(numbers), "expected {} bytes to write, found {}", to.bytes, numbers.len() * 4);
        // SAFETY: the sizes are equal; memory that is not pinned has been read when the call returns.
        unsafe { driver::result::memcpy_htod_async(to.address, numbers, self.0.stream.cu_stream())? };
        Ok(())
    }

    /// Reads numbers; waits for the queue.
    ///
    /// # Errors
    ///
    /// If the GPU fails, in anything that was queued before.
    pub fn read(&self, from: Part<'_>) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0f32; from.bytes / 4];
        // SAFETY: no more is read than is there, and it has been written when the queue is empty.
        unsafe { driver::result::memcpy_dtoh_async(&mut numbers, from.address, self.0.stream.cu_stream())? };
        self.wait()?;
        Ok(numbers)
    }

    /// Copies bytes on the GPU.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn copy(&self, from: Part<'_>, to: Part<'_>) -> Result<()> {
        assert!(from.bytes <= to.bytes, "a copy that does not fit");
        // SAFETY: it fits.
        unsafe { driver::result::memcpy_dtod_async(to.address, from.address, from.bytes, self.0.stream.cu_stream())? };
        Ok(())
    }

    /// Waits until all that was queued is done.
    ///
    /// # Errors
    ///
    /// If any of it failed.
    pub fn wait(&self) -> Result<()> {
        self.0.stream.synchronize()?;
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes memory of the host that can be sent without waiting.
    ///
    /// # Errors
    ///
    /// If there is no more.
    pub fn staging(&self, bytes: usize) -> Result<Staging> {
        let bytes = bytes.max(1);
        // SAFETY: it is freed when dropped.
        let address = unsafe { driver::result::malloc_host(bytes, 0)? };
        // SAFETY: so many bytes are there.
        unsafe { address.cast::<u8>().write_bytes(0, bytes) };
        Ok(Staging { address, bytes, sent: None, gpu: self.0.clone() })
    }

    /// Queues the first bytes of a staging to be sent.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn send(&self, staging: &mut Staging, to: Part<'_>) -> Result<()> {
        assert!(to.bytes <= staging.bytes, "more to send than is there");
        staging.sent = Some(self.0.waits.load(Ordering::Relaxed));
        let from = &staging.read()[..to.bytes];
        // SAFETY: whoever wants to write the staging waits before (`Staging::bytes`).
        unsafe { driver::result::memcpy_htod_async(to.address, from, self.0.stream.cu_stream())? };
        Ok(())
    }

    /// Queues a kernel over a grid of blocks.
    pub(crate) fn launch(&self, kernel: &'static str, grid: [usize; 2], arguments: &[Argument]) -> Result<()> {
        let function = &self.0.functions[kernel];
        let mut launch = self.0.stream.launch_builder(function);
        for argument in arguments {
            match argument {
                Argument::Address(a) => launch.arg(a),
                Argument::Count(n) => launch.arg(n),
                Argument::Flag(n) => launch.arg(n),
                Argument::Real(x) => launch.arg(x),
                Argument::Function(f) => launch.arg(f),
                Argument::Source(s) => launch.arg(s),
                Argument::Window(w) => launch.arg(w),
            };
        }
        let [x, y] = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        ensure!(x > 0 && (1..=65_535).contains(&y), "expected a grid that CUDA takes for {kernel}, found {grid:?}");
        let config = LaunchConfig { grid_dim: (x, y, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the callers, one for each kernel, give what it declares and check the sizes of all memory it touches.
        unsafe { launch.launch(config) }.map_err(|e| anyhow!("cannot run {kernel} on {}: {e}", self.0.name))?;
        Ok(())
    }

    /// Queues a product of matrices that lie row by row: `c[m, n] (+)= a[m, k] b[k, n]`.
    pub(crate) fn multiply(&self, order: &Order<'_>) -> Result<()> {
        use cublas::sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        use cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use cublas::sys::{cublasGemmAlgo_t, cudaDataType};
        let kind = |is_f32: bool| if is_f32 { cudaDataType::CUDA_R_32F } else { cudaDataType::CUDA_R_16BF };
        let turned = |turned: bool| if turned { CUBLAS_OP_T } else { CUBLAS_OP_N };
        let fast = self.0.precision == Precision::Tf32 && order.a.is_f32;
        let compute = if fast { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let [m, n, k] = order.sizes.map(|s| i32::try_from(s).unwrap_or(i32::MAX));
        let columns = |columns: usize| i32::try_from(columns).unwrap_or(i32::MAX);
        let (one, past) = (1.0f32, if order.adds { 1.0f32 } else { 0.0 });
        // SAFETY: `Order::check` has seen that the matrices are as large as their sizes say. To cuBLAS, whose matrices lie column by
        // column, all three are turned.
        unsafe {
            cublas::result::gemm_ex(
                *self.0.blas.handle(),
                turned(order.b.turned),
                turned(order.a.turned),
                n,
                m,
                k,
                (&raw const one).cast(),
                order.b.part.address as *const c_void,
                kind(order.b.is_f32),
                columns(order.b.columns),
                order.a.part.address as *const c_void,
                kind(order.a.is_f32),
                columns(order.a.columns),
                (&raw const past).cast(),
                order.c.part.address as *mut c_void,
                kind(order.c.is_f32),
                columns(order.c.columns),
                compute,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| anyhow!("cannot multiply {:?} on {}: {e}", order.sizes, self.0.name))
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.0.name, self.0.precision)
    }
}

/// Memory is taken in multiples of this, so that little remains unused.
const GRAIN: usize = 512;

impl Memory {
    /// Returns all of it.
    pub fn all(&self) -> Part<'_> {
        Part { address: self.address, bytes: self.bytes, memory: PhantomData }
    }

    /// Returns some bytes of it.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn bytes(&self, range: Range<usize>) -> Part<'_> {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} of {} bytes", self.bytes);
        Part { address: self.address + range.start as u64, bytes: range.len(), memory: PhantomData }
    }

    /// Returns some of its f32.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn floats(&self, range: Range<usize>) -> Part<'_> {
        self.bytes(range.start * 4..range.end * 4)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut spare = self.gpu.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = self.slice.take() {
            spare.entry(self.bytes).or_default().push(slice);
        }
    }
}

impl Staging {
    /// Returns the bytes that fit.
    #[allow(clippy::len_without_is_empty)] // there is always one
    pub fn len(&self) -> usize {
        self.bytes
    }

    fn read(&self) -> &[u8] {
        // SAFETY: so many bytes are there, initialised; the GPU only reads them.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.bytes) }
    }

    /// Returns the bytes to be written, once the GPU has read what was sent before.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn bytes(&mut self) -> Result<&mut [u8]> {
        if self.sent.take().is_some_and(|sent| sent == self.gpu.waits.load(Ordering::Relaxed)) {
            Gpu(self.gpu.clone()).wait()?;
        }
        // SAFETY: so many bytes are there, initialised, and nobody else reads them any more.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.bytes) })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What was sent may still be on its way.
        let _ = self.gpu.stream.synchronize();
        // SAFETY: it was taken from this call's twin, and nobody has it any more.
        let _ = unsafe { driver::result::free_host(self.address) };
    }
}

// SAFETY: it owns its memory.
unsafe impl Send for Staging {}
