// What all kernels share. Maps are channels last, `[pictures, h, w, channels]`, of numbers T; channels come in packs of V, which
// are 16 bytes. What is summed up is summed up in f32 or f64, in an order that does not depend on which block runs first.

#ifdef BFLOAT16
typedef unsigned short T;
#define V 8
__device__ inline float wide(T x) { return __uint_as_float((unsigned)x << 16); }
__device__ inline T narrow(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    T y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
#else
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (T)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}
#else
typedef float T;
#define V 4
__device__ inline float wide(T x) { return x; }
__device__ inline T narrow(float x) { return x; }
#endif

#define THREADS 256
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define EACH_LANE _Pragma("unroll") for (int i = 0; i < V; i++)

typedef unsigned int uint;

__device__ inline void load(const T *from, float *to) {
    uint4 raw = *(const uint4 *)from;
    const T *values = (const T *)&raw;
    EACH_LANE to[i] = wide(values[i]);
}

// Reads two numbers next to each other.
__device__ inline float2 two(const T *from) {
#ifdef BFLOAT16
    uint raw = *(const uint *)from;
    return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000u));
#else
    return *(const float2 *)from;
#endif
}

__device__ inline void load_wide(const float *from, float *to) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
        float4 raw = *(const float4 *)(from + i);
        to[i] = raw.x;
        to[i + 1] = raw.y;
        to[i + 2] = raw.z;
        to[i + 3] = raw.w;
    }
}

__device__ inline void store(T *to, const float *from) {
    uint4 raw;
    T *values = (T *)&raw;
    EACH_LANE values[i] = narrow(from[i]);
    *(uint4 *)to = raw;
}

__device__ inline void store_wide(float *to, const float *from) {
#pragma unroll
    for (int i = 0; i < V; i += 4) *(float4 *)(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
}

// A function that closes a node. The numbers are those of `Closing` in maps.rs.
struct Function {
    int kind;
    float low, high;
};

__device__ inline float sigmoid(float u) { return 1.0f / (1.0f + __expf(-u)); }

__device__ inline float at(Function f, float u) {
    switch (f.kind) {
    case 1: return fminf(fmaxf(u, f.low), f.high);
    case 2: return u * fminf(fmaxf(u / 6.0f + 0.5f, 0.0f), 1.0f);
    case 3: return u * sigmoid(u);
    case 4: return fminf(fmaxf(u / 6.0f + 0.5f, 0.0f), 1.0f);
    case 5: return sigmoid(u);
    default: return u;
    }
}

__device__ inline float slope(Function f, float u) {
    float s;
    switch (f.kind) {
    case 1: return u > f.low && u < f.high ? 1.0f : 0.0f;
    case 2: return u <= -3.0f ? 0.0f : u >= 3.0f ? 1.0f : (2.0f * u + 3.0f) / 6.0f;
    case 3: s = sigmoid(u); return s * (1.0f + u * (1.0f - s));
    case 4: return u > -3.0f && u < 3.0f ? 1.0f / 6.0f : 0.0f;
    case 5: s = sigmoid(u); return s * (1.0f - s);
    default: return 1.0f;
    }
}

// A map as it is kept: `function(scale z + shift)` by channel; just z where there is no scale.
struct Source {
    const T *z;
    const float *scale, *shift;
    Function function;
};

// Reads a pack of the function's arguments.
__device__ inline void load_open(const Source &s, uint at, uint channel, float *to) {
    load(s.z + (size_t)at, to);
    if (s.scale) {
        float scale[V], shift[V];
        load_wide(s.scale + channel, scale);
        load_wide(s.shift + channel, shift);
        EACH_LANE to[i] = fmaf(to[i], scale[i], shift[i]);
    }
}

struct Lanes {
    float v[V];
};

// A function of its own, and not one that is spelt out wherever a pack is read: that took half a minute to compile.
__device__ __noinline__ Lanes close_smoothly(Function f, Lanes lanes) {
    EACH_LANE lanes.v[i] = at(f, lanes.v[i]);
    return lanes;
}

// Applies a function to a pack. The bounds of what is no clamp are infinite where there is none.
__device__ inline void close(const Function &f, float *v) {
    if (f.kind <= 1) {
        EACH_LANE v[i] = fminf(fmaxf(v[i], f.low), f.high);
        return;
    }
    Lanes lanes;
    EACH_LANE lanes.v[i] = v[i];
    lanes = close_smoothly(f, lanes);
    EACH_LANE v[i] = lanes.v[i];
}

// Reads a pack of its results.
__device__ inline void load_closed(const Source &s, uint at, uint channel, float *to) {
    load_open(s, at, channel, to);
    close(s.function, to);
}

// A window over maps of h × w that gives maps of out_h × out_w.
struct Window {
    int h, w, out_h, out_w, side, stride, top, left;
};

__device__ inline uint index() { return blockIdx.x * THREADS + threadIdx.x; }
