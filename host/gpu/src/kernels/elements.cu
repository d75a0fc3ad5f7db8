// Number by number.

// Normalises pictures of bytes.
KERNEL pictures(uint count, const unsigned char *from, float s0, float s1, float s2, float t0, float t1, float t2, T *to) {
    uint n = index();
    if (n >= count) return;
    uint c = n % 3;
    float scale = c == 0 ? s0 : c == 1 ? s1 : s2, shift = c == 0 ? t0 : c == 1 ? t1 : t2;
    to[n] = narrow(fmaf((float)from[n], scale, shift));
}

// y = f(a + b), b perhaps none.
KERNEL sum(uint packs, uint channels, Source a, Source b, Function f, T *y) {
    uint n = index() * V;
    if (n >= packs * V) return;
    float x[V], other[V];
    uint c = n % channels;
    load_closed(a, n, c, x);
    if (b.z) {
        load_closed(b, n, c, other);
        EACH_LANE x[i] += other[i];
    }
    close(f, x);
    store(y + n, x);
}

// The gradient of a sum's function, which is a clamp, by its results: g where they are within the bounds, else 0.
KERNEL mask(uint packs, Function f, const T *y, const T *g, T *to) {
    uint n = index() * V;
    if (n >= packs * V) return;
    float x[V], d[V];
    load(y + n, x);
    load(g + n, d);
    EACH_LANE d[i] *= slope(f, x[i]);
    store(to + n, d);
}

KERNEL add(uint packs, const T *from, T *to) {
    uint n = index() * V;
    if (n >= packs * V) return;
    float x[V], sum[V];
    load(from + n, x);
    load(to + n, sum);
    EACH_LANE sum[i] += x[i];
    store(to + n, sum);
}

// y = x factors, which are of a picture and a channel.
KERNEL scale(uint packs, uint channels, uint pixels, Source x, const float *factors, T *y) {
    uint n = index() * V;
    if (n >= packs * V) return;
    uint c = n % channels, picture = n / (channels * pixels);
    float v[V], f[V];
    load_closed(x, n, c, v);
    load_wide(factors + picture * channels + c, f);
    EACH_LANE v[i] *= f[i];
    store(y + n, v);
}

// dx (+)= factors dy + summands, either perhaps none.
KERNEL spread(uint packs, uint channels, uint pixels, const T *dy, const float *factors, const float *summands, float by,
              int adds, T *dx) {
    uint n = index() * V;
    if (n >= packs * V) return;
    uint at = n / (channels * pixels) * channels + n % channels;
    float d[V], f[V];
    EACH_LANE d[i] = 0.0f;
    if (dy) {
        load(dy + n, d);
        load_wide(factors + at, f);
        EACH_LANE d[i] *= f[i];
    }
    load_wide(summands + at, f);
    EACH_LANE d[i] = fmaf(f[i], by, d[i]);
    if (adds) {
        load(dx + n, f);
        EACH_LANE d[i] += f[i];
    }
    store(dx + n, d);
}

// Rows of numbers: y = f(z + bias).
KERNEL close_rows(uint count, uint width, const float *z, const float *bias, Function f, float *y) {
    uint n = index();
    if (n < count) y[n] = at(f, z[n] + bias[n % width]);
}

// dz = g f'(z + bias).
KERNEL open_rows(uint count, uint width, const float *z, const float *bias, Function f, const float *g, float *dz) {
    uint n = index();
    if (n < count) dz[n] = g[n] * slope(f, z[n] + bias[n % width]);
}

KERNEL round_all(uint count, const float *from, T *to) {
    uint n = index();
    if (n < count) to[n] = narrow(from[n]);
}
