/* cortexm0.h: block products on a Cortex-M0+ (ARMv6-M) in assembly; the same bits as product.h and gradient.h.
 * Internal.
 *
 * One side is spread beforehand: 16 words a block, k fastest. A multiplication costs one cycle there and so does every
 * word loaded, so what counts is instructions: four words, four products and their sum take 13 cycles. */
#ifndef PPN_CORTEXM0_H
#define PPN_CORTEXM0_H

#include "block.h"

#if PPN_M0

#define PPN_M0_BLOCKS 16 /* blocks spread at a time: 1 KiB of stack */
#define PPN_M0_SKIP 255  /* shift of a pair that adds nothing */

/* Sum over |count| pairs of one output block. |shifts|: one a pair, as the kernel wants them. */
typedef struct {
    const int32_t *left; /* spread */
    const void *right;
    int32_t step; /* bytes from one right block to the next */
    const uint8_t *shifts;
    uint32_t count;
    int32_t *out;
} ppn_m0_run;

/* One block row of an outer product: |count| right blocks, spread, times one left block. */
typedef struct {
    const int32_t *right;
    int32_t *sums;
    const uint8_t *shifts;
    uint32_t count;
    const int32_t *left; /* 16 words */
    int32_t low; /* a term x is common if 0 <= x + low < span, unsigned: below the limit, its bits in the peak */
    uint32_t span, peak, top;
} ppn_m0_row;

/* Narrow: p + q <= 30, left words doubled, shifts s + 1. Wide: p + q = 32, shifts s - 1. */
void ppn_m0_narrow8(const ppn_m0_run *run);
void ppn_m0_narrow8_turned(const ppn_m0_run *run);
void ppn_m0_narrow16(const ppn_m0_run *run);
void ppn_m0_narrow16_turned(const ppn_m0_run *run);
void ppn_m0_wide16(const ppn_m0_run *run);
void ppn_m0_wide16_turned(const ppn_m0_run *run);
void ppn_m0_outer(ppn_m0_row *row);

/* Spread |count| blocks of a run from block |from| on: words of mantissas times |by|, a power of two. */
void ppn_m0_spread(const ppn_run *run, int from, int count, int by, int32_t *words);

/* The product of a run of |n| blocks, whose first PPN_M0_BLOCKS are spread, and another; answers its exponent. */
int ppn_m0_product(const ppn_run *a, const ppn_run *b, int n, int headroom, int32_t *left, int32_t *out);

#endif
#endif
