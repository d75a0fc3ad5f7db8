/* Counts the instructions that a program executes: a plugin of qemu-aarch64 (TCG plugin interface 1, QEMU 4.2 to 8).
 *
 *   cc -shared -fPIC -O2 -o count.so count.c
 *   qemu-aarch64 -plugin ./count.so,out=FILE PROGRAM
 *
 * FILE gets `total N`, `fmla N` and `sdot N`, then for each symbol `N symbol`, the most first. Counts of several threads
 * are not atomic: run programs of one. No header of QEMU's is needed, so that no package of it is either. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);

#define SYMBOLS 16384
static struct symbol {
    char *name;
    uint64_t count;
} symbols[SYMBOLS];
static uint64_t fmla, sdot;
static const char *out = "/dev/stderr";

/* Returns the count of a symbol; the first place is for what has none, and for those that the table does not hold. */
static uint64_t *count_of(const char *name) {
    if (!name || !*name) return &symbols[0].count;
    uint32_t hash = 2166136261u;
    for (const char *c = name; *c; c++) hash = (hash ^ (uint8_t)*c) * 16777619u;
    for (unsigned tried = 0; tried < SYMBOLS; tried++) {
        struct symbol *s = &symbols[1 + (hash + tried) % (SYMBOLS - 1)];
        if (!s->name) s->name = strdup(name);
        if (!strcmp(s->name, name)) return &s->count;
    }
    return &symbols[0].count;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    size_t all = qemu_plugin_tb_n_insns(block), fmlas = 0, sdots = 0;
    for (size_t i = 0; i < all; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), 4);
        /* Of four lanes; with a vector, or with an element of one. */
        fmlas += (word & 0xffe0fc00) == 0x4e20cc00 || (word & 0xffc0f400) == 0x4f801000;
        sdots += (word & 0xbfe0fc00) == 0x0e809400 || (word & 0xbfc0f400) == 0x0f80e000;
    }
    uint64_t *count = count_of(qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0)));
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, count, all);
    if (fmlas) qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &fmla, fmlas);
    if (sdots) qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &sdot, sdots);
}

static int more_first(const void *a, const void *b) {
    uint64_t x = ((const struct symbol *)a)->count, y = ((const struct symbol *)b)->count;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void ended(qemu_plugin_id_t id, void *unused) {
    uint64_t total = 0;
    for (unsigned i = 0; i < SYMBOLS; i++) total += symbols[i].count;
    FILE *file = fopen(out, "w");
    if (!file) return;
    fprintf(file, "total %lu\nfmla %lu\nsdot %lu\n", total, fmla, sdot);
    qsort(symbols, SYMBOLS, sizeof symbols[0], more_first);
    for (unsigned i = 0; i < SYMBOLS && symbols[i].count; i++)
        fprintf(file, "%lu %s\n", symbols[i].count, symbols[i].name ? symbols[i].name : "(none)");
    fclose(file);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **arguments) {
    for (int i = 0; i < count; i++)
        if (!strncmp(arguments[i], "out=", 4)) out = strdup(arguments[i] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
