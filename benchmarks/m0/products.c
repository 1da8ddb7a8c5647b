/* products.c: block products alone, on random blocks: plain (one exponent) and through SMX, 8 x 8 and 12 x 8 bits. */
#include "product.h"

#define SIDE 16 /* blocks: 64 rows and columns */
#define LONG 64 /* inner blocks: K = 256 */

static int16_t a[LONG * 16];
static int8_t narrow[LONG * 16], b[LONG * SIDE * 16], a_exps[LONG], b_exps[LONG * SIDE];
static int32_t out[16];

static uint32_t state = 1;
static int random_to(int top) {
    state = state * 1664525u + 1013904223u;
    return (int)(state >> 8) % (2 * top + 1) - top;
}

/* One block row of A, |n| blocks, times all of B, block columns of |n|. */
static inline void row(ppn_run left, ppn_run right, int n) {
    ppn_ready ready;
    ppn_make_ready(&ready, left, n, &right);
    for (int k = 0; k < SIDE; k++, ppn_move(&right, right.turned == 1 ? 1 : n)) ppn_ready_product(&ready, &right, out);
}
static ppn_run left8(void) { return (ppn_run){narrow, a_exps, 1, 0, 0, 8}; }
static ppn_run left12(void) { return (ppn_run){a, a_exps, 1, 1, 0, 12}; }
static ppn_run right8(void) { return (ppn_run){b, b_exps, 1, 0, 0, 8}; }
static ppn_run turned8(void) { return (ppn_run){b, b_exps, SIDE, 0, 1, 8}; }

#if PPN_M0
static uint8_t pairs[LONG * SIDE * 32] __attribute__((aligned(4)));
static ppn_run packed(void) { return (ppn_run){pairs, b_exps, 1, 1, PPN_M0_PAIRS, 8}; }

/* The kernels alone, as a matrix product without exponents would call them: every shift is |shift|. */
static inline void kernel(ppn_run left, ppn_run right, int shift) {
    static ppn_m0_factor ready;
    ppn_m0_make_ready(&left, &right, SIDE, 0, &ready);
    for (int k = 0; k < SIDE; k++) ready.records[k * ready.stride] = shift;
    for (int k = 0; k < SIDE; k++, ppn_move(&right, SIDE))
        ready.sum(ready.records, right.mantissas, out, 0, ready.step);
}

__attribute__((noinline)) void plain_8x8(void) { kernel(left8(), packed(), 0); }
__attribute__((noinline)) void plain_12x8(void) { kernel(left12(), right8(), 1); }
__attribute__((noinline)) void pack(void) { ppn_m0_pack((const uint8_t *)b, LONG * SIDE, 0, pairs); }
#else
static ppn_run packed(void) { return right8(); }
#endif

__attribute__((noinline)) void smx_8x8_k64(void) { row(left8(), packed(), SIDE); }
__attribute__((noinline)) void smx_8x8_k256(void) { row(left8(), packed(), LONG); }
__attribute__((noinline)) void smx_12x8_k64(void) { row(left12(), right8(), SIDE); }
__attribute__((noinline)) void smx_12x8_k256(void) { row(left12(), right8(), LONG); }
__attribute__((noinline)) void turned_12x8_k64(void) { row(left12(), turned8(), SIDE); }

void start(void) {
    for (int k = 0; k < LONG * 16; k++) {
        a[k] = (int16_t)random_to(2047);
        narrow[k] = (int8_t)random_to(127);
    }
    for (int k = 0; k < LONG * SIDE * 16; k++) b[k] = (int8_t)random_to(127);
    for (int k = 0; k < LONG; k++) a_exps[k] = (int8_t)random_to(3);
    for (int k = 0; k < LONG * SIDE; k++) b_exps[k] = (int8_t)random_to(3);
#if PPN_M0
    pack();
    plain_8x8();
    plain_12x8();
#endif
    smx_8x8_k64();
    smx_8x8_k256();
    smx_12x8_k64();
    smx_12x8_k256();
    turned_12x8_k64();
}
