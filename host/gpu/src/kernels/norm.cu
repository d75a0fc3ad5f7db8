// Sums by channel, and what normalisations make of them.

// The part of a map's rows that a block goes over: threads next to each other read packs next to each other.
struct Part {
    uint wide, high, row, channel;
    bool works;
};

__device__ inline Part part(uint channels) {
    Part p;
    uint lanes = channels / V;
    p.wide = min(lanes, (uint)THREADS);
    p.high = THREADS / p.wide;
    p.row = threadIdx.x / p.wide;
    uint lane = blockIdx.x * THREADS + threadIdx.x % p.wide;
    p.channel = lane * V;
    p.works = p.row < p.high && lane < lanes;
    return p;
}

// Sums a number of each channel over the rows of a block.
__device__ inline void sum_rows(const Part &p, uint channels, const float *mine, float by, float *to) {
    __shared__ float all[THREADS * V];
    __syncthreads();
    EACH_LANE all[threadIdx.x * V + i] = p.works ? mine[i] : 0.0f;
    __syncthreads();
    for (uint n = threadIdx.x; n < p.wide * V; n += THREADS) {
        float sum = 0.0f;
        for (uint k = 0; k < p.high; k++) sum += all[k * p.wide * V + n];
        uint channel = blockIdx.x * THREADS * V + n;
        if (channel < channels) to[channel] = sum * by;
    }
}

// Sums of z - centre and of its square: `partial [blocks, 2, channels]`.
KERNEL statistics(uint rows, uint channels, const T *z, const float *centre, float *partial) {
    Part p = part(channels);
    float first[V], second[V], c[V], v[V];
    EACH_LANE first[i] = second[i] = 0.0f;
    if (p.works) {
        load_wide(centre + p.channel, c);
        for (uint r = blockIdx.y * p.high + p.row; r < rows; r += gridDim.y * p.high) {
            load(z + (size_t)r * channels + p.channel, v);
            EACH_LANE {
                v[i] -= c[i];
                first[i] += v[i];
                second[i] = fmaf(v[i], v[i], second[i]);
            }
        }
    }
    float *to = partial + (size_t)blockIdx.y * 2 * channels;
    sum_rows(p, channels, first, 1.0f, to);
    sum_rows(p, channels, second, 1.0f, to + channels);
}

// Of the gradient g of what a normalisation made: sums of its share before the function, and of that times z - mean.
KERNEL moments(uint rows, uint channels, Source x, const T *g, const float *mean, float *partial) {
    Part p = part(channels);
    float first[V], second[V], m[V], scale[V], shift[V], z[V], d[V];
    EACH_LANE first[i] = second[i] = 0.0f;
    if (p.works) {
        load_wide(mean + p.channel, m);
        load_wide(x.scale + p.channel, scale);
        load_wide(x.shift + p.channel, shift);
        for (uint r = blockIdx.y * p.high + p.row; r < rows; r += gridDim.y * p.high) {
            size_t n = (size_t)r * channels + p.channel;
            load(x.z + n, z);
            load(g + n, d);
            EACH_LANE {
                d[i] *= slope(x.function, fmaf(z[i], scale[i], shift[i]));
                first[i] += d[i];
                second[i] = fmaf(d[i], z[i] - m[i], second[i]);
            }
        }
    }
    float *to = partial + (size_t)blockIdx.y * 2 * channels;
    sum_rows(p, channels, first, 1.0f, to);
    sum_rows(p, channels, second, 1.0f, to + channels);
}

// dz = k0 g' + k1 z + k2, where g' is g before the function; the latter two where the statistics are the batch's.
KERNEL combine(uint packs, uint channels, Source x, const T *g, const float *k1, const float *k2, T *dz) {
    uint n = index() * V;
    if (n >= packs * V) return;
    uint c = n % channels;
    float z[V], d[V], scale[V], k[V];
    load(x.z + n, z);
    load(g + n, d);
    load_wide(x.scale + c, scale);
    load_wide(x.shift + c, k);
    EACH_LANE d[i] *= slope(x.function, fmaf(z[i], scale[i], k[i])) * scale[i];
    if (k1) {
        load_wide(k1 + c, k);
        EACH_LANE d[i] = fmaf(k[i], z[i], d[i]);
        load_wide(k2 + c, k);
        EACH_LANE d[i] += k[i];
    }
    store(dz + n, d);
}

#define TILE 4
#define ROWS (THREADS / TILE)

// Sums what the blocks of a grid found, one or two sums of TILE channels at a time. True in the threads that get them.
__device__ inline bool gather(const float *partial, uint blocks, uint channels, uint parts, uint channel, double *to) {
    __shared__ double all[2][ROWS][TILE];
    uint column = threadIdx.x % TILE, row = threadIdx.x / TILE;
    double first = 0.0, second = 0.0;
    if (channel < channels)
#pragma unroll 4
        for (uint b = row; b < blocks; b += ROWS) {
            const float *from = partial + (size_t)b * parts * channels + channel;
            first += from[0];
            if (parts > 1) second += from[channels];
        }
    all[0][row][column] = first;
    all[1][row][column] = second;
    for (uint half = ROWS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (row < half) {
            all[0][row][column] += all[0][row + half][column];
            all[1][row][column] += all[1][row + half][column];
        }
    }
    to[0] = all[0][row][column];
    if (parts > 1) to[1] = all[1][row][column];
    return row == 0 && channel < channels;
}

// A normalisation's numbers: `n [6, channels]` are mean, one over the deviation, scale, shift and two factors of `combine`.
// Statistics are the batch's where there are blocks, else the running ones.
KERNEL settle(uint channels, const float *partial, uint blocks, float count, const float *weight, const float *bias,
              float *running_mean, float *running_variance, float epsilon, float momentum, float *n) {
    uint c = blockIdx.x * TILE + threadIdx.x % TILE;
    double sums[2];
    if (!gather(partial, blocks, channels, 2, c, sums)) return;
    double mean = running_mean[c], variance = running_variance[c];
    if (blocks > 0) {
        double first = sums[0] / count, second = sums[1] / count;
        mean += first;
        variance = fmax(second - first * first, 0.0);
        double unbiased = variance * (count / fmax(count - 1.0, 1.0));
        running_mean[c] = (float)((1.0 - momentum) * running_mean[c] + momentum * mean);
        running_variance[c] = (float)((1.0 - momentum) * running_variance[c] + momentum * unbiased);
    }
    double deviation = 1.0 / sqrt(variance + epsilon), factor = weight[c] * deviation;
    n[c] = (float)mean;
    n[channels + c] = (float)deviation;
    n[2 * channels + c] = (float)factor;
    n[3 * channels + c] = (float)(bias[c] - mean * factor);
}

// Adds to the gradients of a normalisation's weight and bias, and sets the factors of `combine`.
KERNEL settle_gradient(uint channels, const float *partial, uint blocks, float count, float *n, float *by_weight,
                       float *by_bias) {
    uint c = blockIdx.x * TILE + threadIdx.x % TILE;
    double sums[2];
    if (!gather(partial, blocks, channels, 2, c, sums)) return;
    double mean = n[c], deviation = n[channels + c], factor = n[2 * channels + c];
    by_weight[c] += (float)(sums[1] * deviation);
    by_bias[c] += (float)sums[0];
    // dz = weight / deviation (g - mean(g) - zhat mean(g zhat)).
    double by_z = -factor * deviation * deviation * sums[1] / count;
    n[4 * channels + c] = (float)by_z;
    n[5 * channels + c] = (float)(-factor * sums[0] / count - by_z * mean);
}

// to += the sum of blocks, `[blocks, count]`.
KERNEL add_blocks(uint count, const float *partial, uint blocks, float *to) {
    uint n = blockIdx.x * TILE + threadIdx.x % TILE;
    double sum;
    if (gather(partial, blocks, count, 1, n, &sum)) to[n] += (float)sum;
}

// Sums over the pixels of each picture, of a map or of its product with another: `[pictures, channels]`.
KERNEL sum_pixels(uint pixels, uint channels, Source x, const T *other, float by, float *to) {
    Part p = part(channels);
    float sum[V], v[V], o[V];
    EACH_LANE sum[i] = 0.0f;
    if (p.works)
        for (uint r = p.row; r < pixels; r += p.high) {
            uint n = (blockIdx.y * pixels + r) * channels + p.channel;
            load_closed(x, n, p.channel, v);
            if (other) {
                load(other + n, o);
                EACH_LANE v[i] *= o[i];
            }
            EACH_LANE sum[i] += v[i];
        }
    sum_rows(p, channels, sum, by, to + (size_t)blockIdx.y * channels);
}
