/* cortexm0.h: block products on a Cortex-M0+ (ARMv6-M) in assembly; the same bits as product.h and gradient.h.
 * Internal.
 *
 * One side is spread beforehand: 16 words a block, k fastest. A multiplication costs one cycle there and so does every
 * word loaded, so what counts is instructions: four words, four products and their sum take 13 cycles. */
#ifndef PPN_CORTEXM0_H
#define PPN_CORTEXM0_H

#include "block.h"

#if PPN_M0

#define PPN_M0_BLOCKS 32         /* blocks spread at a time: 2 KiB of stack */
#define PPN_M0_PACKED 64         /* blocks packed at a time */
#define PPN_M0_NONE (-(1 << 14)) /* exponent of a zero block: far below all others */

/* A side spread, 16 words a block, or packed, 8 words; and its exponents. */
typedef struct {
    int32_t words[PPN_M0_BLOCKS * 16], exps[PPN_M0_PACKED];
    int32_t most; /* the largest exponent */
} ppn_m0_side;

/* Sum over |count| pairs of one output block: the shift of a pair is |top| less its |exps|, if that is 1 to 31. */
typedef struct {
    const int32_t *left;
    const void *right;
    int32_t step; /* bytes from one right block to the next */
    const int32_t *exps;
    uint32_t count;
    int32_t *out;
    int32_t top;
} ppn_m0_run;

/* A left run made ready for many right ones. */
typedef struct {
    ppn_m0_side side;
    ppn_m0_run run; /* |right|, |out| and |top| change from product to product */
    int32_t sums[PPN_M0_PACKED];
    void (*sum)(const ppn_m0_run *run);
    int n, room, headroom, fewer; /* ...; how many bits fewer the kernels shift than the specification does */
} ppn_m0_factor;

/* One block row of an outer product: |count| right blocks times one left block. Shifts as above. */
typedef struct {
    const int32_t *right;
    int32_t *sums;
    const int32_t *exps;
    uint32_t count;
    const int32_t *left; /* 16 words */
    uint32_t low, span;  /* a term x, rounded down, is common if x + low < span: its bits are in the peak already */
    uint32_t peak;
    int32_t top, single; /* single: only the first row of a block is not zero */
    int32_t safe;        /* from this shift on every term is common */
} ppn_m0_row;

/* Narrow: p + q <= 30, left words doubled, shifts one more. Wide: p + q = 32, shifts one less. */
void ppn_m0_narrow8(const ppn_m0_run *run);
void ppn_m0_narrow8_turned(const ppn_m0_run *run);
void ppn_m0_narrow16(const ppn_m0_run *run);
void ppn_m0_narrow16_turned(const ppn_m0_run *run);
void ppn_m0_wide16(const ppn_m0_run *run);
void ppn_m0_wide16_turned(const ppn_m0_run *run);
/* Both sides 8 bits wide and packed: |left| 8 words a block, shifts as they are. */
void ppn_m0_pairs8(const ppn_m0_run *run);
void ppn_m0_outer(ppn_m0_row *row);

/* Spread |count| blocks of a run from block |from| on: words are mantissas times 2^up. */
void ppn_m0_spread(const ppn_run *run, int from, int count, int up, ppn_m0_side *side);
void ppn_m0_spread_block(const ppn_run *run, int block, int up, int32_t *words);

/* Make a run of |n| blocks ready for products with |right| and others of its kind. */
void ppn_m0_make_ready(const ppn_run *run, const ppn_run *right, int n, int headroom, ppn_m0_factor *left);

/* Pack an 8-bit matrix, used turned or not: words b1 + b0 2^16, b3 + b2 2^16 of every four that meet a row. Times
 * a0 + a1 2^16 such a word is a0 b1 + (a0 b0 + a1 b1) 2^16 modulo 2^32: two products in one multiplication. */
void ppn_m0_pack(const uint8_t *matrix, uint32_t blocks, int turned, uint8_t *pairs);

/* The product of the run |a|, made ready, and another; answers its exponent. */
int ppn_m0_product(const ppn_run *a, ppn_m0_factor *left, const ppn_run *b, int32_t *out);

#endif
#endif
