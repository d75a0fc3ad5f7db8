// A stand-in for the parts of libcuda, libcublas and libnvrtc that graft-gpu uses: memory is the host's, a product is three
// loops, and kernels come from the libraries that make.sh compiles beside this one. So the walk of a network on a GPU is tested
// where there is none, slowly.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <string>

#define OK extern "C" int
typedef void *Handle;
typedef uint64_t Pointer;

OK cuInit(unsigned) { return 0; }
OK cuDeviceGetCount(int *count) { return *count = 1, 0; }
OK cuDeviceGet(int *device, int ordinal) { return ordinal ? 101 : (*device = 0, 0); }
OK cuDeviceGetName(char *name, int len, int) { return snprintf(name, len, "stand-in"), 0; }
OK cuDeviceGetAttribute(int *value, int attribute, int) {
    // Compute capability 8.0, 4 multiprocessors, no pools of memory.
    return *value = attribute == 75 ? 8 : attribute == 76 ? 0 : attribute == 16 ? 4 : 0, 0;
}
OK cuDevicePrimaryCtxRetain(Handle *context, int) { return *context = (Handle)1, 0; }
OK cuDevicePrimaryCtxRelease_v2(int) { return 0; }
OK cuCtxSetCurrent(Handle) { return 0; }
OK cuCtxGetCurrent(Handle *context) { return *context = (Handle)1, 0; }
OK cuCtxSynchronize() { return 0; }
OK cuStreamSynchronize(Handle) { return 0; }
OK cuMemGetInfo_v2(size_t *left, size_t *all) { return *left = *all = 1ull << 32, 0; }
OK cuMemAlloc_v2(Pointer *to, size_t bytes) {
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return 2;
    // Whoever reads what nobody has written shall see it.
    memset(memory, 0xff, bytes);
    return *to = (Pointer)memory, 0;
}
OK cuMemFree_v2(Pointer memory) { return free((void *)memory), 0; }
OK cuMemHostAlloc(void **to, size_t bytes, unsigned) { return *to = malloc(bytes), *to ? 0 : 2; }
OK cuMemFreeHost(void *memory) { return free(memory), 0; }
OK cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t n, Handle) { return memcpy((void *)to, from, n), 0; }
OK cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t n, Handle) { return memcpy(to, (void *)from, n), 0; }
OK cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t n, Handle) { return memcpy((void *)to, (void *)from, n), 0; }
OK cuMemsetD8Async(Pointer to, unsigned char value, size_t n, Handle) { return memset((void *)to, value, n), 0; }
OK cuGetErrorName(int, const char **text) { return *text = "an error of the stand-in", 0; }
OK cuGetErrorString(int, const char **text) { return *text = "an error of the stand-in", 0; }

OK cuModuleLoadData(Handle *module, const void *image) {
    Dl_info here;
    dladdr((void *)cuModuleLoadData, &here);
    std::string path = here.dli_fname;
    path = path.substr(0, path.rfind('/') + 1) + (const char *)image;
    *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "%s\n", dlerror());
    return *module ? 0 : 200;
}
OK cuModuleUnload(Handle) { return 0; }
OK cuModuleGetFunction(Handle *function, Handle module, const char *name) {
    *function = dlsym(module, (std::string("call_") + name).c_str());
    return *function ? 0 : 500;
}
OK cuLaunchKernel(Handle f, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz, unsigned, Handle,
                  void **values, void **) {
    unsigned grid[3] = {x, y, z};
    if (tx != 256 || ty != 1 || tz != 1 || !x || !y || z != 1) return 1;
    // What a thread knows of its place is common to all threads of the host.
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    ((void (*)(const unsigned *, void **))f)(grid, values);
    return 0;
}

// The program is its name of the library, which depends on the options.
OK nvrtcCreateProgram(char **program, const char *, const char *, int, const char *const *, const char *const *) {
    return *program = (char *)calloc(1, 64), 0;
}
OK nvrtcCompileProgram(char *program, int count, const char *const *options) {
    bool half = false;
    for (int i = 0; i < count; i++) half = half || strstr(options[i], "BFLOAT16");
    return strcpy(program, half ? "kernels-bf16.so" : "kernels-f32.so"), 0;
}
OK nvrtcGetPTXSize(char *program, size_t *size) { return *size = strlen(program) + 1, 0; }
OK nvrtcGetPTX(char *program, char *to) { return strcpy(to, program), 0; }
OK nvrtcGetProgramLogSize(char *, size_t *size) { return *size = 1, 0; }
OK nvrtcGetProgramLog(char *, char *to) { return *to = 0, 0; }
OK nvrtcDestroyProgram(char **program) { return free(*program), 0; }

OK cublasCreate_v2(Handle *handle) { return *handle = (Handle)1, 0; }
OK cublasDestroy_v2(Handle) { return 0; }
OK cublasSetStream_v2(Handle, Handle) { return 0; }
OK cublasSetWorkspace_v2(Handle, void *, size_t) { return 0; }

static float read(const void *from, int type, int64_t at) {
    if (type == 0) return ((const float *)from)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Types are 0 of f32 and 14 of bf16; columns lie behind each other.
OK cublasGemmEx(Handle, int ta, int tb, int m, int n, int k, const float *alpha, const void *a, int a_type, int lda,
                const void *b, int b_type, int ldb, const float *beta, void *c, int c_type, int ldc, int, int) {
    for (int type : {a_type, b_type, c_type})
        if (type != 0 && type != 14) return 7;
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            double sum = 0;
            for (int l = 0; l < k; l++)
                sum += (double)read(a, a_type, ta ? (int64_t)i * lda + l : (int64_t)l * lda + i) *
                       read(b, b_type, tb ? (int64_t)l * ldb + j : (int64_t)j * ldb + l);
            int64_t at = (int64_t)j * ldc + i;
            float value = (float)(*alpha * sum) + (*beta ? *beta * read(c, c_type, at) : 0.0f);
            if (c_type == 0) ((float *)c)[at] = value;
            else {
                uint32_t bits;
                memcpy(&bits, &value, 4);
                ((uint16_t *)c)[at] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
            }
        }
    return 0;
}
