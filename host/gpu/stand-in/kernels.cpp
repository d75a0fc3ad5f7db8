// graft's kernels as plain C++: a block's threads run in turn, as coroutines where they wait for each other.
//
// Compiled twice by make.sh, with and without -DBFLOAT16; calls.inc has a CALL(name) for each kernel.

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
static float2 make_float2(float x, float y) { return {x, y}; }
struct Index { unsigned x, y, z; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float __uint_as_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static float __int_as_float(uint32_t bits) { return __uint_as_float(bits); }
static uint32_t __float_as_uint(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }
#define __expf expf
using std::min;

static Index threadIdx, blockIdx, gridDim;
static void __syncthreads();

#define __device__ static
#define __global__
#define __noinline__
#define __shared__ static
#define __launch_bounds__(n)
#include "graft.cu"

static const size_t STACK = 64 * 1024;
static std::vector<char> stacks(THREADS *STACK);
static jmp_buf places[THREADS], scheduler;
static ucontext_t contexts[THREADS], home;
static bool waits[THREADS], in_turn = false;
static void (*body)(void *);
static void *body_data;

static void __syncthreads() {
    if (!in_turn) { fprintf(stderr, "a kernel waits that make.sh does not know of\n"); abort(); }
    unsigned me = threadIdx.x;
    waits[me] = true;
    if (!_setjmp(places[me])) _longjmp(scheduler, 1);
    threadIdx.x = me;
}

static void start() {
    unsigned me = threadIdx.x;
    body(body_data);
    waits[me] = false;
    _longjmp(scheduler, 1);
}

// Runs a block: each thread up to where it waits or ends, until all have ended.
static void block() {
    static volatile unsigned t;
    static volatile bool first, again;
    again = true;
    for (first = true; again; first = false) {
        again = false;
        for (t = 0; t < THREADS; t = t + 1) {
            if (!first && !waits[t]) continue;
            waits[t] = false;
            if (!_setjmp(scheduler)) {
                threadIdx.x = t;
                if (!first) _longjmp(places[t], 1);
                getcontext(&contexts[t]);
                contexts[t].uc_stack.ss_sp = &stacks[t * STACK];
                contexts[t].uc_stack.ss_size = STACK;
                contexts[t].uc_link = &home;
                makecontext(&contexts[t], start, 0);
                setcontext(&contexts[t]);
            }
            again = again || waits[t];
        }
    }
}

template <class... A, size_t... I>
static void with(void (*kernel)(A...), void **values, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<std::remove_reference_t<A>> *)values[I]...);
}

template <class... A>
static void launch(void (*kernel)(A...), bool in_steps, const unsigned *grid, void **values) {
    auto one = [&] { with(kernel, values, std::index_sequence_for<A...>()); };
    gridDim = {grid[0], grid[1], grid[2]};
    body_data = &one;
    body = [](void *data) { (*(decltype(one) *)data)(); };
    for (unsigned y = 0; y < grid[1]; y++)
        for (unsigned x = 0; x < grid[0]; x++) {
            blockIdx = {x, y, 0};
            in_turn = in_steps;
            if (in_steps) block();
            else
                for (threadIdx.x = 0; threadIdx.x < THREADS; threadIdx.x++) one();
        }
}

#define CALL(name, in_steps) \
    extern "C" void call_##name(const unsigned *grid, void **values) { launch(name, in_steps, grid, values); }
#include "calls.inc"
