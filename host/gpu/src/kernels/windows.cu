// What looks at a picture through a window.

// Lays out what each pixel of a convolution sees, `[pictures, out_h, out_w, row]` with rows of `[side, side, channels]` and zeros
// behind these: a product with the weights is the convolution.
KERNEL unfold(uint packs, uint channels, uint row, Window w, Source x, uint first_picture, T *to) {
    uint n = index();
    if (n >= packs) return;
    uint groups = row / V, group = n % groups, pixel = n / groups;
    uint ox = pixel % w.out_w, oy = pixel / w.out_w % w.out_h, picture = pixel / (w.out_w * w.out_h) + first_picture;
    float v[V];
    if (channels % V == 0) {
        uint tap = group * V / channels, c = group * V % channels;
        int y = (int)oy * w.stride - w.top + (int)tap / w.side, x_ = (int)ox * w.stride - w.left + (int)tap % w.side;
        EACH_LANE v[i] = 0.0f;
        if (tap < w.side * w.side && y >= 0 && y < w.h && x_ >= 0 && x_ < w.w)
            load_closed(x, ((picture * w.h + y) * w.w + x_) * channels + c, c, v);
    } else {
        EACH_LANE {
            uint k = group * V + i, tap = k / channels, c = k % channels;
            int y = (int)oy * w.stride - w.top + (int)tap / w.side, x_ = (int)ox * w.stride - w.left + (int)tap % w.side;
            bool inside = tap < w.side * w.side && y >= 0 && y < w.h && x_ >= 0 && x_ < w.w;
            float z = inside ? wide(x.z[((picture * w.h + y) * w.w + x_) * channels + c]) : 0.0f;
            v[i] = inside && x.scale ? at(x.function, fmaf(z, x.scale[c], x.shift[c])) : z;
        }
    }
    store(to + (size_t)n * V, v);
}

// Calls `body` with the output (oy, ox) and the tap of every window that sees the pixel (y, x).
#define EACH_WINDOW(w, y, x, body)                                                                                        \
    for (int ky = 0; ky < (w).side; ky++) {                                                                               \
        int down = (int)(y) + (w).top - ky;                                                                               \
        if (down < 0 || down % (w).stride != 0 || down / (w).stride >= (w).out_h) continue;                               \
        for (int kx = 0; kx < (w).side; kx++) {                                                                           \
            int across = (int)(x) + (w).left - kx;                                                                        \
            if (across < 0 || across % (w).stride != 0 || across / (w).stride >= (w).out_w) continue;                     \
            uint oy = down / (w).stride, ox = across / (w).stride, tap = ky * (w).side + kx;                              \
            body                                                                                                          \
        }                                                                                                                 \
    }

// The other way: dx (+)= the sum of what was made of each pixel.
KERNEL fold(uint packs, uint channels, uint row, Window w, const T *from, uint first_picture, int adds, T *dx) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    uint x = pixel % w.w, y = pixel / w.w % w.h, picture = pixel / (w.w * w.h);
    float sum[V], v[V];
    T *to = dx + (size_t)n * V + (size_t)first_picture * w.h * w.w * channels;
    EACH_LANE sum[i] = 0.0f;
    if (adds) load(to, sum);
    EACH_WINDOW(w, y, x, {
        load(from + (size_t)((picture * w.out_h + oy) * w.out_w + ox) * row + tap * channels + c, v);
        EACH_LANE sum[i] += v[i];
    })
    store(to, sum);
}

template <int SIDE>
__device__ inline void depthwise(uint packs, uint channels, const Window &w, const Source &x, const float *weight, T *z) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    uint ox = pixel % w.out_w, oy = pixel / w.out_w % w.out_h, picture = pixel / (w.out_w * w.out_h);
    float sum[V], v[V], k[V];
    EACH_LANE sum[i] = 0.0f;
#pragma unroll
    for (int ky = 0; ky < SIDE; ky++) {
        int y = (int)oy * w.stride - w.top + ky;
        if (y < 0 || y >= w.h) continue;
#pragma unroll
        for (int kx = 0; kx < SIDE; kx++) {
            int x_ = (int)ox * w.stride - w.left + kx;
            if (x_ < 0 || x_ >= w.w) continue;
            load_closed(x, ((picture * w.h + y) * w.w + x_) * channels + c, c, v);
            load_wide(weight + (ky * SIDE + kx) * channels + c, k);
            EACH_LANE sum[i] = fmaf(v[i], k[i], sum[i]);
        }
    }
    store(z + (size_t)n * V, sum);
}

KERNEL depthwise_3(uint packs, uint channels, Window w, Source x, const float *weight, T *z) {
    depthwise<3>(packs, channels, w, x, weight, z);
}

KERNEL depthwise_5(uint packs, uint channels, Window w, Source x, const float *weight, T *z) {
    depthwise<5>(packs, channels, w, x, weight, z);
}

KERNEL depthwise_input(uint packs, uint channels, Window w, const T *dz, const float *weight, int adds, T *dx) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    uint x = pixel % w.w, y = pixel / w.w % w.h, picture = pixel / (w.w * w.h);
    float sum[V], v[V], k[V];
    EACH_LANE sum[i] = 0.0f;
    if (adds) load(dx + (size_t)n * V, sum);
    EACH_WINDOW(w, y, x, {
        load(dz + (size_t)((picture * w.out_h + oy) * w.out_w + ox) * channels + c, v);
        load_wide(weight + tap * channels + c, k);
        EACH_LANE sum[i] = fmaf(v[i], k[i], sum[i]);
    })
    store(dx + (size_t)n * V, sum);
}

#define ACROSS 32
#define DOWN (THREADS / ACROSS)

// Sums by tap and channel over the rows of the output that fall to a block: `partial [blocks, side², channels]`. A thread has two
// channels.
template <int SIDE>
__device__ inline void depthwise_weight(uint rows, uint channels, const Window &w, const Source &x, const T *dz, float *partial) {
    __shared__ float all[DOWN][2 * ACROSS];
    uint lane = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS, c = (blockIdx.x * ACROSS + lane) * 2;
    float sums[SIDE * SIDE][2];
#pragma unroll
    for (int tap = 0; tap < SIDE * SIDE; tap++) sums[tap][0] = sums[tap][1] = 0.0f;
    if (c < channels) {
        float s0 = x.scale ? x.scale[c] : 1.0f, s1 = x.scale ? x.scale[c + 1] : 1.0f;
        float t0 = x.scale ? x.shift[c] : 0.0f, t1 = x.scale ? x.shift[c + 1] : 0.0f;
        for (uint r = blockIdx.y * DOWN + down; r < rows; r += gridDim.y * DOWN) {
            uint oy = r % w.out_h, picture = r / w.out_h;
            for (uint ox = 0; ox < w.out_w; ox++) {
                const T *d = dz + (size_t)(r * w.out_w + ox) * channels + c;
                float d0 = wide(d[0]), d1 = wide(d[1]);
#pragma unroll
                for (int ky = 0; ky < SIDE; ky++) {
                    int y = (int)oy * w.stride - w.top + ky;
                    if (y < 0 || y >= w.h) continue;
#pragma unroll
                    for (int kx = 0; kx < SIDE; kx++) {
                        int x_ = (int)ox * w.stride - w.left + kx;
                        if (x_ < 0 || x_ >= w.w) continue;
                        const T *z = x.z + (size_t)((picture * w.h + y) * w.w + x_) * channels + c;
                        float *sum = sums[ky * SIDE + kx];
                        sum[0] = fmaf(at(x.function, fmaf(wide(z[0]), s0, t0)), d0, sum[0]);
                        sum[1] = fmaf(at(x.function, fmaf(wide(z[1]), s1, t1)), d1, sum[1]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int tap = 0; tap < SIDE * SIDE; tap++) {
        __syncthreads();
        all[down][lane * 2] = sums[tap][0];
        all[down][lane * 2 + 1] = sums[tap][1];
        __syncthreads();
        uint channel = blockIdx.x * ACROSS * 2 + threadIdx.x;
        if (threadIdx.x < 2 * ACROSS && channel < channels) {
            float sum = 0.0f;
            for (int k = 0; k < DOWN; k++) sum += all[k][threadIdx.x];
            partial[((size_t)blockIdx.y * SIDE * SIDE + tap) * channels + channel] = sum;
        }
    }
}

KERNEL depthwise_weight_3(uint rows, uint channels, Window w, Source x, const T *dz, float *partial) {
    depthwise_weight<3>(rows, channels, w, x, dz, partial);
}

KERNEL depthwise_weight_5(uint rows, uint channels, Window w, Source x, const T *dz, float *partial) {
    depthwise_weight<5>(rows, channels, w, x, dz, partial);
}

// Finds the largest number of each lane in a window, and the tap that is the first to have it.
__device__ inline void largest(const Window &w, const Source &x, uint picture, uint oy, uint ox, uint channels, uint c,
                               float *best, int *tap) {
    EACH_LANE {
        best[i] = __int_as_float(0xff800000);
        tap[i] = -1;
    }
    for (int k = 0; k < w.side * w.side; k++) {
        int y = (int)oy * w.stride - w.top + k / w.side, x_ = (int)ox * w.stride - w.left + k % w.side;
        if (y < 0 || y >= w.h || x_ < 0 || x_ >= w.w) continue;
        float v[V];
        load_closed(x, ((picture * w.h + y) * w.w + x_) * channels + c, c, v);
        EACH_LANE if (tap[i] < 0 || v[i] > best[i]) {
            best[i] = v[i];
            tap[i] = k;
        }
    }
}

KERNEL max_pool(uint packs, uint channels, Window w, Source x, T *y) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    float best[V];
    int tap[V];
    largest(w, x, pixel / (w.out_w * w.out_h), pixel / w.out_w % w.out_h, pixel % w.out_w, channels, c, best, tap);
    store(y + (size_t)n * V, best);
}

KERNEL max_pool_input(uint packs, uint channels, Window w, Source x, const T *g, int adds, T *dx) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    uint px = pixel % w.w, py = pixel / w.w % w.h, picture = pixel / (w.w * w.h);
    float sum[V], v[V], best[V];
    int first[V];
    EACH_LANE sum[i] = 0.0f;
    if (adds) load(dx + (size_t)n * V, sum);
    EACH_WINDOW(w, py, px, {
        largest(w, x, picture, oy, ox, channels, c, best, first);
        load(g + (size_t)((picture * w.out_h + oy) * w.out_w + ox) * channels + c, v);
        EACH_LANE sum[i] += first[i] == (int)tap ? v[i] : 0.0f;
    })
    store(dx + (size_t)n * V, sum);
}
