/* Times ONNX Runtime through its C interface, without Python; run by `cargo xtask peers`.
 *
 *   ort LIBRARY MODEL THREADS SECONDS INPUT OUTPUT
 *
 * Prints the line of JSON that peer.py prints, so that peak memory is the engine's alone. LIBRARY is the shared library
 * in ONNX Runtime's wheel. The wheel has no header: the few functions used are taken from the table `OrtApi` by their
 * place, which ONNX Runtime promises never to change (its "size of version 1 API cannot change" assertions).
 *
 * Build: cc -O2 -o ort ort.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_NUM_THREADS = 24,
    SET_INTER_OP_NUM_THREADS = 25,
    SESSION_GET_INPUT_NAME = 36,
    SESSION_GET_OUTPUT_NAME = 37,
    CREATE_TENSOR_WITH_DATA = 49,
    GET_TENSOR_MUTABLE_DATA = 51,
    GET_TENSOR_SHAPE_ELEMENT_COUNT = 64,
    GET_TENSOR_TYPE_AND_SHAPE = 65,
    CREATE_CPU_MEMORY_INFO = 69,
    GET_ALLOCATOR_WITH_DEFAULT_OPTIONS = 78,
    RELEASE_VALUE = 96,
};
enum { API_VERSION = 17, LOG_ERROR = 3, ARENA_ALLOCATOR = 1, MEMORY_DEFAULT = 0, ELEMENT_FLOAT = 1 };
enum { WARM_UP_RUNS = 5, LEAST_RUNS = 10, MOST_RUNS = 1 << 20, PICTURE = 3 * 224 * 224 };

typedef struct { const void *const *(*api)(uint32_t); const char *(*version)(void); } ApiBase;

static const void *const *api;
#define CALL(place, types, ...) check(((void *(*) types)api[place])(__VA_ARGS__), #place)

static void fail(const char *expected, const char *found) {
    fprintf(stderr, "error: expected %s, found %s\n", expected, found);
    exit(1);
}

static void check(void *status, const char *call) {
    if (status) fail(call, ((const char *(*)(void *))api[GET_ERROR_MESSAGE])(status));
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double memory_mb(const char *field) {
    char line[256];
    long kb = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) fail("/proc/self/status", "no such file");
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, field, strlen(field))) kb = strtol(line + strlen(field) + 1, NULL, 10);
    fclose(status);
    return kb / 1024.0;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *session, *input, *output;
static char *input_name, *output_name;

static void infer(void) {
    if (output) ((void (*)(void *))api[RELEASE_VALUE])(output);
    output = NULL;
    const char *inputs[] = {input_name}, *outputs[] = {output_name};
    const void *values[] = {input};
    CALL(RUN, (void *, void *, const char **, const void **, size_t, const char **, size_t, void **), session, NULL,
         inputs, values, (size_t)1, outputs, (size_t)1, &output);
}

int main(int count, char **arguments) {
    if (count != 7) {
        fputs("usage: ort LIBRARY MODEL THREADS SECONDS INPUT OUTPUT\n", stderr);
        return 2;
    }
    int threads = atoi(arguments[3]);
    double seconds = atof(arguments[4]);
    if (threads < 1 || !(seconds > 0)) fail("positive THREADS and SECONDS", arguments[threads < 1 ? 3 : 4]);
    static float picture[PICTURE];
    FILE *file = fopen(arguments[5], "rb");
    if (!file || fread(picture, sizeof *picture, PICTURE, file) != PICTURE)
        fail("150528 values in INPUT, made by models.py", arguments[5]);
    fclose(file);

    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) fail("the shared library of ONNX Runtime", dlerror());
    const ApiBase *(*get_base)(void) = (const ApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
    if (!get_base) fail("a library with OrtGetApiBase", dlerror());
    const ApiBase *base = get_base();
    api = base->api(API_VERSION);
    if (!api) fail("ONNX Runtime 1.17 or later", base->version());

    double before = memory_mb("VmRSS:"), clock = now_ms();
    void *env, *options, *memory, *allocator;
    CALL(CREATE_ENV, (int, const char *, void **), LOG_ERROR, "peers", &env);
    CALL(CREATE_SESSION_OPTIONS, (void **), &options);
    CALL(SET_INTRA_OP_NUM_THREADS, (void *, int), options, threads);
    CALL(SET_INTER_OP_NUM_THREADS, (void *, int), options, 1);
    CALL(CREATE_SESSION, (void *, const char *, void *, void **), env, arguments[2], options, &session);
    CALL(GET_ALLOCATOR_WITH_DEFAULT_OPTIONS, (void **), &allocator);
    CALL(SESSION_GET_INPUT_NAME, (void *, size_t, void *, char **), session, (size_t)0, allocator, &input_name);
    CALL(SESSION_GET_OUTPUT_NAME, (void *, size_t, void *, char **), session, (size_t)0, allocator, &output_name);
    CALL(CREATE_CPU_MEMORY_INFO, (int, int, void **), ARENA_ALLOCATOR, MEMORY_DEFAULT, &memory);
    const int64_t shape[] = {1, 3, 224, 224};
    CALL(CREATE_TENSOR_WITH_DATA, (void *, void *, size_t, const int64_t *, size_t, int, void **), memory, picture,
         sizeof picture, shape, (size_t)4, ELEMENT_FLOAT, &input);
    double load_ms = now_ms() - clock;
    clock = now_ms();
    infer();
    double first_ms = now_ms() - clock;

    for (int i = 0; i < WARM_UP_RUNS; i++) infer();
    double *times = malloc(MOST_RUNS * sizeof *times);
    if (!times) fail("8 MB of memory", "less");
    int runs = 0;
    for (double end = now_ms() + seconds * 1e3; runs < MOST_RUNS && (runs < LEAST_RUNS || now_ms() < end); runs++) {
        clock = now_ms();
        infer();
        times[runs] = now_ms() - clock;
    }
    qsort(times, runs, sizeof *times, by_value);

    float *answer;
    void *kind;
    size_t length;
    CALL(GET_TENSOR_MUTABLE_DATA, (void *, float **), output, &answer);
    CALL(GET_TENSOR_TYPE_AND_SHAPE, (void *, void **), output, &kind);
    CALL(GET_TENSOR_SHAPE_ELEMENT_COUNT, (void *, size_t *), kind, &length);
    file = fopen(arguments[6], "wb");
    if (!file || fwrite(answer, sizeof *answer, length, file) != length || fclose(file))
        fail("to write OUTPUT", arguments[6]);
    printf("{\"engine\": \"onnxruntime-c\", \"version\": \"%s\", \"threads\": %d, \"min_ms\": %.6f, \"median_ms\": %.6f, "
           "\"p95_ms\": %.6f, \"first_ms\": %.6f, \"load_ms\": %.6f, \"rss_before_load_mb\": %.2f, \"peak_rss_mb\": %.2f, "
           "\"runs\": %d}\n",
           base->version(), threads, times[0], times[runs / 2], times[runs * 95 / 100], first_ms, load_ms, before,
           memory_mb("VmHWM:"), runs);
    return 0;
}
