/* cortexm4.h: block products on a Cortex-M4 or M33 (ARMv7E-M, ARMv8-M with DSP) in assembly; the same bits as
 * product.h. Internal.
 *
 * The left side is laid out beforehand: mantissas times four in pairs of 16 bits. A column of a right block becomes
 * such pairs, too, so that two instructions multiply and add four products. A third (SMMLAR) shifts their sum by a
 * multiplication, rounds it and adds it to the output: for P = 4 p and m = 2^(30 - s), floor(P m / 2^32 + 1/2) is p /
 * 2^s, rounded halves up. */
#ifndef PPN_CORTEXM4_H
#define PPN_CORTEXM4_H

#include "block.h"

#if PPN_M4

#define PPN_M4_BLOCKS 64        /* of the longest run that is laid out */
#define PPN_M4_WORDS 9          /* of a record: two rows of a block, the factor that shifts, two rows */
#define PPN_M4_FACTOR 4         /* ... which is this word of it */
#define PPN_M4_FAR (-(1 << 13)) /* exponent of a zero block, below all others; 0xE000 */
#define PPN_M4_NONE (PPN_M4_FAR / 2)

/* A left run made ready for many right ones of one kind. */
typedef struct {
    int32_t records[PPN_M4_BLOCKS * PPN_M4_WORDS];
    int32_t exps[PPN_M4_BLOCKS / 2]; /* in pairs, 0 and 2, 1 and 3 of every four */
    int n, headroom, bytes;          /* ...; right blocks are 8-bit, follow each other and are not turned */
} ppn_m4_factor;

/* Are products of |n| blocks for this file? 4 M(p) 4 fits 16 bits, and 4 products times four stay below 2^30. */
static inline int ppn_m4_takes(const ppn_run *run, const ppn_run *right, int n) {
    return run->exps && n <= PPN_M4_BLOCKS && run->bits <= 14 && run->bits + right->bits <= 28;
}

void ppn_m4_make_ready(const ppn_run *run, const ppn_run *right, int n, int headroom, ppn_m4_factor *left);

/* The product of a run made ready and another; answers its exponent. */
int ppn_m4_product(ppn_m4_factor *left, const ppn_run *b, int32_t *out);

#endif
#endif
