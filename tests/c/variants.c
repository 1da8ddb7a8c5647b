/* variants.c: every variant of the kernels that a processor runs against the portable one, bit by bit, on random
 * numbers: encoding, products, and products of a packed side. The steps of a network are run_case.c's. Says how many
 * variants there are besides the portable one; the first difference ends it with 1. For tests/test_compilers.py. */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 200
#define MOST 20u /* blocks a side */
#define BLOCKS (MOST * MOST)

/* A matrix of its own, and what is made of two. */
typedef struct {
    int16_t mantissas[BLOCKS * 16];
    int8_t exps[BLOCKS];
    ppn_matrix as;
} matrix;
typedef struct {
    int32_t blocks[BLOCKS * 16];
    int16_t exps[BLOCKS];
} product;

static uint32_t state = 1;

static uint32_t below(uint32_t limit) {
    state = state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(state ^ state >> 15) * limit) >> 32);
}

static void must(int holds, const char *what, uint32_t round) {
    if (holds) return;
    printf("round %u: %s differs\n", (unsigned)round, what);
    exit(1);
}

/* Block-scaled integers of any size, some of them zero. */
static void draw(uint32_t count, int32_t *x, int16_t *exps, uint32_t spread) {
    for (uint32_t k = 0; k < count; k++) {
        uint32_t size = 1u << below(32);
        for (uint32_t l = 0; l < 16; l++) {
            int32_t value = (int32_t)below(size);
            *x++ = below(2) ? -value : value;
        }
        exps[k] = (int16_t)((int32_t)below(spread) - (int32_t)spread / 2);
    }
}

static void fill(matrix *m, uint32_t rows, uint32_t cols, uint8_t bits, const ppn_kernels *portable) {
    static int32_t x[BLOCKS * 16];
    static int16_t exps[BLOCKS];
    draw(rows * cols, x, exps, 24);
    portable->encode(rows * cols, x, exps, bits, m->mantissas, m->exps);
    ppn_matrix as = {m->mantissas, m->exps, (uint16_t)rows, (uint16_t)cols, bits, (uint8_t)below(2)};
    if (as.transposed) as.rows = (uint16_t)cols, as.cols = (uint16_t)rows;
    m->as = as;
}

static int same(const product *a, const product *b, uint32_t blocks) {
    return !memcmp(a->blocks, b->blocks, blocks * 64) && !memcmp(a->exps, b->exps, blocks * 2);
}

static void compare_products(const ppn_kernels *portable, const ppn_kernels *variant, uint32_t round) {
    static matrix a, b;
    static product expected, found;
    static uint32_t packed[BLOCKS * PPN_PACKED_BYTES / 4];
    uint32_t rows = 1 + below(MOST), inner = 1 + below(MOST), cols = 1 + below(MOST);
    fill(&a, rows, inner, (uint8_t)(4 + below(13)), portable);
    fill(&b, inner, cols, (uint8_t)(4 + below(13)), portable);
    portable->matmul(&a.as, &b.as, expected.blocks, expected.exps);
    variant->matmul(&a.as, &b.as, found.blocks, found.exps);
    must(same(&expected, &found, rows * cols), "a product", round);
    if (a.as.bits + b.as.bits > PPN_PACKED_BITS) return;
    ppn_factor factor = {(const uint8_t *)packed, (uint16_t)inner, (uint16_t)cols, b.as.bits};
    variant->pack(&b.as, (uint8_t *)packed);
    memset(&found, 0, sizeof found);
    for (uint16_t part = 0; part < 2; part++) {
        ppn_share share = {part, 2};
        variant->times_packed(&a.as, &factor, found.blocks, found.exps, share);
    }
    must(same(&expected, &found, rows * cols), "a product of a packed side", round);
}

static void compare_codes(const ppn_kernels *portable, const ppn_kernels *variant, uint32_t round) {
    static int32_t x[BLOCKS * 16];
    static int16_t exps[BLOCKS], expected[BLOCKS * 16], found[BLOCKS * 16];
    static int8_t expected_exps[BLOCKS], found_exps[BLOCKS];
    uint32_t count = 1 + below(BLOCKS);
    uint8_t bits = (uint8_t)(4 + below(13));
    draw(count, x, exps, 300);
    int flags = portable->encode(count, x, exps, bits, expected, expected_exps);
    must(variant->encode(count, x, exps, bits, found, found_exps) == flags, "a flag", round);
    must(!memcmp(expected, found, count * 32) && !memcmp(expected_exps, found_exps, count), "a code", round);
}

int main(void) {
    const ppn_kernels *portable = ppn_variant_kernels(PPN_PORTABLE);
    int variants = 0;
    for (int name = PPN_PORTABLE + 1; name < PPN_VARIANTS; name++) {
        const ppn_kernels *variant = ppn_variant_kernels(name);
        if (!variant) continue;
        variants++;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            compare_products(portable, variant, round);
            compare_codes(portable, variant, round);
        }
    }
    printf("%d\n", variants);
    return 0;
}
