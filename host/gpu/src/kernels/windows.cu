// What looks at a picture through a window.

// Lays out what each pixel of a convolution sees, `[pictures, out_h, out_w, row]` with rows of `[side, side, channels]` and zeros
// behind these: a product with the weights is the convolution. A row of blocks has a row of outputs.
KERNEL unfold(uint channels, uint row, Window w, Source x, uint first_picture, T *to) {
    uint groups = row / V, n = index();
    if (n >= groups * w.out_w) return;
    uint ox = n / groups, k = n % groups * V;
    uint oy = blockIdx.y % w.out_h, picture = blockIdx.y / w.out_h + first_picture;
    int top = (int)oy * w.stride - w.top, left = (int)ox * w.stride - w.left;
    float v[V];
    if (channels % V == 0) {
        uint tap = k / channels, c = k - tap * channels;
        int ky = (int)tap / w.side, y = top + ky, x_ = left + (int)tap - ky * w.side;
        EACH_LANE v[i] = 0.0f;
        if (ky < w.side && y >= 0 && y < w.h && x_ >= 0 && x_ < w.w)
            load_closed(x, ((picture * w.h + y) * w.w + x_) * channels + c, c, v);
    } else {
        // Few channels, as of pictures.
        uint tap = k / channels, c = k - tap * channels;
        int ky = (int)tap / w.side, kx = (int)tap - ky * w.side;
        EACH_LANE {
            int y = top + ky, x_ = left + kx;
            bool inside = ky < w.side && y >= 0 && y < w.h && x_ >= 0 && x_ < w.w;
            float z = inside ? wide(x.z[((picture * w.h + y) * w.w + x_) * channels + c]) : 0.0f;
            v[i] = inside && x.scale ? at(x.function, fmaf(z, x.scale[c], x.shift[c])) : z;
            if (++c == channels) {
                c = 0;
                if (++kx == w.side) {
                    kx = 0;
                    ky++;
                }
            }
        }
    }
    store(to + ((size_t)blockIdx.y * groups * w.out_w + n) * V, v);
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

// Outputs of a row that a thread computes: what neighbours see is read once for them.
#define STRIP 2

// A convolution of each channel; `turned` takes the weights from the last to the first.
template <int SIDE, int STRIDE>
__device__ inline void depthwise(uint channels, const Window &w, const Source &x, const float *weight, bool turned, bool adds,
                                 T *z) {
    uint lanes = channels / V, strips = (w.out_w + STRIP - 1) / STRIP, n = index();
    if (n >= lanes * strips) return;
    uint c = n % lanes * V, from = n / lanes * STRIP, oy = blockIdx.y % w.out_h, picture = blockIdx.y / w.out_h;
    T *to = z + (size_t)((picture * w.out_h + oy) * w.out_w + from) * channels + c;
    float sum[STRIP][V];
#pragma unroll
    for (int o = 0; o < STRIP; o++) {
        EACH_LANE sum[o][i] = 0.0f;
        if (adds && from + o < w.out_w) load(to + o * channels, sum[o]);
    }
    int left = (int)from * STRIDE - w.left;
#pragma unroll
    for (int ky = 0; ky < SIDE; ky++) {
        int y = (int)oy * STRIDE - w.top + ky;
        if (y < 0 || y >= w.h) continue;
        float k[SIDE][V];
#pragma unroll
        for (int kx = 0; kx < SIDE; kx++) {
            int tap = ky * SIDE + kx;
            load_wide(weight + (turned ? SIDE * SIDE - 1 - tap : tap) * channels + c, k[kx]);
        }
#pragma unroll
        for (int j = 0; j < (STRIP - 1) * STRIDE + SIDE; j++) {
            int x_ = left + j;
            if (x_ < 0 || x_ >= w.w) continue;
            float v[V];
            load_closed(x, ((picture * w.h + y) * w.w + x_) * channels + c, c, v);
#pragma unroll
            for (int o = 0; o < STRIP; o++) {
                int kx = j - o * STRIDE;
                if (kx >= 0 && kx < SIDE) EACH_LANE sum[o][i] = fmaf(v[i], k[kx][i], sum[o][i]);
            }
        }
    }
#pragma unroll
    for (int o = 0; o < STRIP; o++)
        if (from + o < w.out_w) store(to + o * channels, sum[o]);
}

// The gradient of what it looked at, where it has a stride: of each pixel the windows that see it.
template <int SIDE, int STRIDE>
__device__ inline void depthwise_input(uint channels, const Window &w, const T *dz, const float *weight, bool adds, T *dx) {
    uint lanes = channels / V, n = index();
    if (n >= lanes * w.w) return;
    uint c = n % lanes * V, x = n / lanes, y = blockIdx.y % w.h, picture = blockIdx.y / w.h;
    T *to = dx + (size_t)((picture * w.h + y) * w.w + x) * channels + c;
    float sum[V], v[V], k[V];
    EACH_LANE sum[i] = 0.0f;
    if (adds) load(to, sum);
#pragma unroll
    for (int ky = 0; ky < SIDE; ky++) {
        int down = (int)y + w.top - ky;
        if (down < 0 || down % STRIDE != 0 || down / STRIDE >= w.out_h) continue;
#pragma unroll
        for (int kx = 0; kx < SIDE; kx++) {
            int across = (int)x + w.left - kx;
            if (across < 0 || across % STRIDE != 0 || across / STRIDE >= w.out_w) continue;
            load(dz + (size_t)((picture * w.out_h + down / STRIDE) * w.out_w + across / STRIDE) * channels + c, v);
            load_wide(weight + (ky * SIDE + kx) * channels + c, k);
            EACH_LANE sum[i] = fmaf(v[i], k[i], sum[i]);
        }
    }
    store(to, sum);
}

#define DEPTHWISE(side, stride)                                                                                                \
    depthwise_##side##_##stride(uint channels, Window w, Source x, const float *weight, int turned, int adds, T *z) {          \
        depthwise<side, stride>(channels, w, x, weight, turned, adds, z);                                                      \
    }
#define DEPTHWISE_INPUT(side, stride)                                                                                          \
    depthwise_input_##side##_##stride(uint channels, Window w, const T *dz, const float *weight, int adds, T *dx) {            \
        depthwise_input<side, stride>(channels, w, dz, weight, adds, dx);                                                      \
    }
KERNEL DEPTHWISE(3, 1)
KERNEL DEPTHWISE(3, 2)
KERNEL DEPTHWISE(5, 1)
KERNEL DEPTHWISE(5, 2)
KERNEL DEPTHWISE_INPUT(3, 2)
KERNEL DEPTHWISE_INPUT(5, 2)

// Two channels of a map's pixel, closed; zeros outside.
__device__ inline float2 load_two(const Source &x, bool inside, int at, float2 scale, float2 shift) {
    float2 v = make_float2(0.0f, 0.0f);
    if (!inside) return v;
    v = two(x.z + at);
    v.x = fmaf(v.x, scale.x, shift.x);
    v.y = fmaf(v.y, scale.y, shift.y);
    if (x.function.kind > 1) return make_float2(::at(x.function, v.x), ::at(x.function, v.y));
    v.x = fminf(fmaxf(v.x, x.function.low), x.function.high);
    v.y = fminf(fmaxf(v.y, x.function.low), x.function.high);
    return v;
}

// Sums by tap and channel over the rows of the output that fall to a block: `partial [blocks, side², channels]`. A thread has two
// channels.
template <int SIDE, int STRIDE>
__device__ inline void depthwise_weight(uint rows, uint channels, const Window &w, const Source &x, const T *dz, float *partial) {
    __shared__ float2 all[THREADS];
    uint lanes = channels / 2, wide = min(lanes, (uint)THREADS), high = THREADS / wide, row = threadIdx.x / wide;
    uint lane = blockIdx.x * THREADS + threadIdx.x % wide, c = lane * 2;
    bool works = row < high && lane < lanes;
    float2 sums[SIDE][SIDE], seen[SIDE][SIDE];
#pragma unroll
    for (int ky = 0; ky < SIDE; ky++)
#pragma unroll
        for (int kx = 0; kx < SIDE; kx++) sums[ky][kx] = make_float2(0.0f, 0.0f);
    if (works) {
        float2 scale = make_float2(1.0f, 1.0f), shift = make_float2(0.0f, 0.0f);
        if (x.scale) {
            scale = *(const float2 *)(x.scale + c);
            shift = *(const float2 *)(x.shift + c);
        }
        for (uint r = blockIdx.y * high + row; r < rows; r += gridDim.y * high) {
            uint oy = r % w.out_h, picture = r / w.out_h;
            int top = (int)oy * STRIDE - w.top, from[SIDE];
            bool is_row[SIDE];
            // The window goes along the row; what it has seen moves through it.
#pragma unroll
            for (int ky = 0; ky < SIDE; ky++) {
                int y = top + ky;
                is_row[ky] = y >= 0 && y < w.h;
                from[ky] = ((int)picture * w.h + y) * w.w * (int)channels + (int)c;
#pragma unroll
                for (int kx = STRIDE; kx < SIDE; kx++) {
                    int x_ = kx - STRIDE - w.left;
                    bool inside = is_row[ky] && x_ >= 0 && x_ < w.w;
                    seen[ky][kx] = load_two(x, inside, from[ky] + x_ * (int)channels, scale, shift);
                }
            }
            const T *d = dz + (size_t)r * w.out_w * channels + c;
            for (int ox = 0; ox < w.out_w; ox++, d += channels) {
                float2 g = two(d);
                int left = ox * STRIDE - w.left;
#pragma unroll
                for (int ky = 0; ky < SIDE; ky++) {
#pragma unroll
                    for (int kx = 0; kx < SIDE - STRIDE; kx++) seen[ky][kx] = seen[ky][kx + STRIDE];
#pragma unroll
                    for (int kx = SIDE - STRIDE; kx < SIDE; kx++) {
                        int x_ = left + kx;
                        bool inside = is_row[ky] && x_ >= 0 && x_ < w.w;
                        seen[ky][kx] = load_two(x, inside, from[ky] + x_ * (int)channels, scale, shift);
                    }
#pragma unroll
                    for (int kx = 0; kx < SIDE; kx++) {
                        sums[ky][kx].x = fmaf(seen[ky][kx].x, g.x, sums[ky][kx].x);
                        sums[ky][kx].y = fmaf(seen[ky][kx].y, g.y, sums[ky][kx].y);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int tap = 0; tap < SIDE * SIDE; tap++) {
        __syncthreads();
        all[threadIdx.x] = sums[tap / SIDE][tap % SIDE];
        __syncthreads();
        if (row == 0 && works) {
            float2 sum = all[threadIdx.x];
            for (uint k = 1; k < high; k++) {
                sum.x += all[k * wide + threadIdx.x].x;
                sum.y += all[k * wide + threadIdx.x].y;
            }
            *(float2 *)(partial + ((size_t)blockIdx.y * SIDE * SIDE + tap) * channels + c) = sum;
        }
    }
}

#define DEPTHWISE_WEIGHT(side, stride)                                                                                         \
    depthwise_weight_##side##_##stride(uint rows, uint channels, Window w, Source x, const T *dz, float *partial) {            \
        depthwise_weight<side, stride>(rows, channels, w, x, dz, partial);                                                     \
    }
KERNEL DEPTHWISE_WEIGHT(3, 1)
KERNEL DEPTHWISE_WEIGHT(3, 2)
KERNEL DEPTHWISE_WEIGHT(5, 1)
KERNEL DEPTHWISE_WEIGHT(5, 2)

// Writes the largest number that each window sees, and the tap that is the first to have it.
KERNEL max_pool(uint packs, uint channels, Window w, Source x, T *y, unsigned char *taps) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    uint ox = pixel % w.out_w, oy = pixel / w.out_w % w.out_h, picture = pixel / (w.out_w * w.out_h);
    float best[V], v[V];
    EACH_LANE best[i] = __int_as_float(0xff800000);
    for (int k = 0; k < w.side * w.side; k++) {
        int y_ = (int)oy * w.stride - w.top + k / w.side, x_ = (int)ox * w.stride - w.left + k % w.side;
        if (y_ < 0 || y_ >= w.h || x_ < 0 || x_ >= w.w) continue;
        load_closed(x, ((picture * w.h + y_) * w.w + x_) * channels + c, c, v);
        EACH_LANE if (v[i] > best[i]) {
            best[i] = v[i];
            taps[(size_t)n * V + i] = (unsigned char)k;
        }
    }
    store(y + (size_t)n * V, best);
}

KERNEL max_pool_input(uint packs, uint channels, Window w, const unsigned char *taps, const T *g, int adds, T *dx) {
    uint n = index();
    if (n >= packs) return;
    uint c = n * V % channels, pixel = n * V / channels;
    uint px = pixel % w.w, py = pixel / w.w % w.h, picture = pixel / (w.w * w.h);
    float sum[V], v[V];
    EACH_LANE sum[i] = 0.0f;
    if (adds) load(dx + (size_t)n * V, sum);
    EACH_WINDOW(w, py, px, {
        size_t from = (size_t)((picture * w.out_h + oy) * w.out_w + ox) * channels + c;
        load(g + from, v);
        EACH_LANE sum[i] += taps[from + i] == tap ? v[i] : 0.0f;
    })
    store(dx + (size_t)n * V, sum);
}
