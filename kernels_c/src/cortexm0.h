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
#define PPN_M0_END (-(1 << 30))  /* no shift is negative */

/* A side spread, 16 words a block, and its exponents. */
typedef struct {
    int32_t words[PPN_M0_BLOCKS * 16], exps[PPN_M0_BLOCKS];
    int32_t most; /* the largest exponent */
} ppn_m0_side;

/* A sum over pairs of one output block. |left| is a record for each: a number that |top| turns into the pair's shift,
 * and the left block, 16 words or packed 8; behind them PPN_M0_END. Right blocks are |step| bytes apart. A pair shifted
 * by more than 31 is left out. */
typedef void ppn_m0_run(const int32_t *left, const void *right, int32_t *out, int32_t top, int32_t step);

/* A left run made ready for many right ones of one kind. */
typedef struct {
    int32_t records[PPN_M0_PACKED * 9 + 1]; /* or PPN_M0_BLOCKS * 17 + 1 */
    int32_t exps[PPN_M0_PACKED];            /* 128 less those of its blocks */
    ppn_m0_run *sum;
    int n, room, headroom, step;
    int stride, up,
        fewer; /* words of a record; mantissas are doubled; how many bits fewer than in spec.md are shifted */
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

/* ppn_run_product(), once for all. */
int ppn_m0_rare_product(const ppn_run *a, const ppn_run *b, int n, int headroom, int32_t *out);

#endif
#endif
