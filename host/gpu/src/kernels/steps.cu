// Steps of an optimiser over all parameters at once. They lie behind each other in one list; a block of the grid has up to
// STRETCH numbers of one of them.

#define STRETCH 2048

struct Stretch {
    uint from, count, parameter;
};

// What a step does to a parameter: its rate, and what its decay is.
struct Rate {
    float rate, decay;
};

// Sums of squares, one of each block, and their sum.
KERNEL squares(uint count, const float *gradient, double *partial) {
    __shared__ double all[THREADS];
    double sum = 0.0;
    for (uint n = index(); n < count; n += gridDim.x * THREADS) sum += (double)gradient[n] * gradient[n];
    all[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0.0;
    for (uint k = 0; k < THREADS; k++) sum += all[k];
    partial[blockIdx.x] = sum;
}

KERNEL square_total(const double *partial, uint blocks, double *total) {
    if (threadIdx.x > 0) return;
    double sum = 0.0;
    for (uint b = 0; b < blocks; b++) sum += partial[b];
    *total = sum;
}

// What gradients are multiplied with: `scale`, less where they are longer than `longest`. As PyTorch's clip_grad_norm_.
__device__ inline float clipped(float scale, const double *total, float longest) {
    if (!total) return scale;
    return (float)(scale * fmin(longest / (scale * sqrt(*total) + 1e-6), 1.0));
}

__device__ inline void finish(uint n, float value, float now, float *values, float *gradient, float *average, T *rounded) {
    values[n] = value;
    gradient[n] = 0.0f;
    if (average) average[n] += now * (value - average[n]);
    if (rounded) rounded[n] = narrow(value);
}

KERNEL adamw(const Stretch *stretches, const Rate *rates, float scale, const double *total, float longest, float beta1,
             float beta2, float epsilon, float correction, float root, float now, float *values, float *gradient,
             float *first, float *second, float *average, T *rounded) {
    Stretch s = stretches[blockIdx.x];
    Rate r = rates[s.parameter];
    float by = clipped(scale, total, longest), keep = 1.0f - r.rate * r.decay, rate = r.rate * correction;
    for (uint n = s.from + threadIdx.x; n < s.from + s.count; n += THREADS) {
        float g = gradient[n] * by;
        float m = fmaf(beta1, first[n], (1.0f - beta1) * g), v = fmaf(beta2, second[n], (1.0f - beta2) * g * g);
        first[n] = m;
        second[n] = v;
        float moved = m / fmaf(sqrtf(v), root, epsilon);
        finish(n, fmaf(-rate, moved, values[n] * keep), now, values, gradient, average, rounded);
    }
}

KERNEL sgd(const Stretch *stretches, const Rate *rates, float scale, const double *total, float longest, float momentum,
           float now, float *values, float *gradient, float *first, float *average, T *rounded) {
    Stretch s = stretches[blockIdx.x];
    Rate r = rates[s.parameter];
    float by = clipped(scale, total, longest);
    for (uint n = s.from + threadIdx.x; n < s.from + s.count; n += THREADS) {
        float g = gradient[n] * by + r.decay * values[n];
        float m = momentum * first[n] + g;
        first[n] = m;
        finish(n, values[n] - r.rate * (g + momentum * m), now, values, gradient, average, rounded);
    }
}
