/* chunk_simd.h: sixteen blocks side by side, a lane each, so that what is one number a block fills a vector too, and no
 * number is looked for across lanes. Internal. */
#ifndef PPN_CHUNK_SIMD_H
#define PPN_CHUNK_SIMD_H

#include "block.h"
#include "product.h"

#if PPN_SIMD

#define PPN_CHUNK 16
#define PPN_FAR (-8192) /* stands for the exponent of a block that does not count: below every alignment */

/* The elements, one after the other, of sixteen blocks; a lane each. What lies behind the last block is never read. */
typedef struct {
    ppn_lanes x[16];
    ppn_lanes e; /* exponents */
} ppn_chunk;

/* A right shift with rounding for each block. */
typedef struct {
    ppn_lanes by, half;
} ppn_shift;

/* By 2^down, down >= 0. From 31 on every |x| < 2^30 goes to 0, as it must. */
static inline ppn_shift ppn_shift_by(ppn_lanes down) {
    down = ppn_min_simd(down, ppn_all_simd(31));
    ppn_shift s = {down, ppn_down_simd(ppn_left_by_simd(ppn_all_simd(1), down), 1)};
    return s;
}
static inline ppn_lanes ppn_shifted(ppn_lanes x, ppn_shift s) { return ppn_asr_by_simd(ppn_add_simd(x, s.half), s.by); }

/* The same of ppn_madd_simd(x, y). */
static inline ppn_lanes ppn_shifted_madd(ppn_lanes x, ppn_lanes y, ppn_shift s) {
    return ppn_asr_by_simd(ppn_madd_onto_simd(s.half, x, y), s.by);
}

/* Exponents with that of the zero block put out of reach. */
static inline ppn_lanes ppn_reach(ppn_lanes e) {
    return ppn_above_simd(e, ppn_all_simd(PPN_ZERO_EXP), e, ppn_all_simd(PPN_FAR));
}
static inline int32_t ppn_reach_one(int e) { return e == PPN_ZERO_EXP ? PPN_FAR : e; }

/* ---- encoding -------------------------------------------------------------------------------------------------- */

#define PPN_GOLDEN 0x9E3779B9u /* between the random numbers of neighbours (spec 7) */

/* ppn_encode16() for blocks near an end of the exponents, or in a chunk with one. */
static __attribute__((noinline)) void ppn_encode_alone(ppn_chunk *c, uint32_t count, ppn_lanes bits,
                                                       const ppn_lanes *seeds, int *flags) {
    int32_t x[16][PPN_CHUNK], e[PPN_CHUNK], width[PPN_CHUNK], seed[PPN_CHUNK] = {0};
    for (int l = 0; l < 16; l++) ppn_put_simd(x[l], c->x[l]);
    ppn_put_simd(e, c->e);
    ppn_put_simd(width, bits);
    if (seeds) ppn_put_simd(seed, *seeds);
    for (uint32_t n = 0; n < count; n++) {
        ppn_rounding how = {(uint32_t)seed[n], 0, seeds != NULL};
        int32_t block[16];
        int16_t m[16];
        LANES block[l] = x[l][n];
        e[n] = ppn_encode16(block, e[n], width[n], how, m, flags);
        LANES x[l][n] = m[l];
    }
    for (int l = 0; l < 16; l++) c->x[l] = ppn_get_simd(x[l]);
    c->e = ppn_get_simd(e);
}

/* How a chunk is brought to its widths: up, or down with |rest| added first, or random bits up to it. */
typedef struct {
    ppn_lanes up, down, rest, top; /* top: the largest mantissa */
    const ppn_lanes *seeds;
} ppn_fitting;

PPN_EACH void ppn_fit_mantissas(ppn_chunk *c, const ppn_fitting *f, int rises) {
    ppn_lanes seed = f->seeds ? *f->seeds : ppn_all_simd(0);
    for (int l = 0; l < 16; l++) {
        ppn_lanes r = f->rest;
        if (f->seeds) {
            r = ppn_and_simd(r, ppn_mix_simd(seed));
            seed = ppn_add_simd(seed, ppn_all_simd((int32_t)PPN_GOLDEN));
        }
        ppn_lanes size = ppn_add_simd(ppn_abs_simd(c->x[l]), r);
        if (rises) size = ppn_left_by_simd(size, f->up);
        size = ppn_down_by_simd(size, f->down);
        c->x[l] = ppn_signed_simd(ppn_min_simd(size, f->top), c->x[l]);
    }
}

/* ppn_encode16() for the first |count| blocks: mantissas and exponents replace what they are made from. |bits|: a width
 * a block. |seeds|: for stochastic rounding, key + index PPN_GOLDEN of each block; NULL rounds to nearest. */
static __attribute__((noinline)) void ppn_encode_chunk(ppn_chunk *c, uint32_t count, ppn_lanes bits,
                                                       const ppn_lanes *seeds, int *flags) {
    ppn_lanes zero = ppn_all_simd(0), one = ppn_all_simd(1), all[4] = {zero, zero, zero, zero};
    for (int l = 0; l < 16; l++) all[l % 4] = ppn_or_simd(all[l % 4], ppn_abs_simd(c->x[l]));
    all[0] = ppn_or_simd(ppn_or_simd(all[0], all[1]), ppn_or_simd(all[2], all[3]));
    ppn_lanes length = ppn_lengths_simd(all[0]), s = ppn_sub_simd(ppn_add_simd(length, one), bits);
    s = ppn_above_simd(length, zero, s, zero);
    ppn_lanes e = ppn_add_simd(c->e, s), there = ppn_above_simd(length, zero, e, zero);
    if (ppn_negative_simd(
            ppn_or_simd(ppn_add_simd(there, ppn_all_simd(126)), ppn_sub_simd(ppn_all_simd(127), there)))) {
        ppn_encode_alone(c, count, bits, seeds, flags);
        return;
    }
    ppn_lanes minus = ppn_sub_simd(zero, s), up = ppn_max_simd(minus, zero), down = ppn_max_simd(s, zero);
    ppn_lanes fall = ppn_left_by_simd(one, down); /* rest is 0 where nothing falls */
    ppn_lanes rest = seeds ? ppn_sub_simd(fall, one) : ppn_down_simd(fall, 1);
    ppn_lanes top = ppn_sub_simd(ppn_left_by_simd(one, ppn_sub_simd(bits, one)), one);
    ppn_fitting fitting = {up, down, rest, top, seeds};
    if (!ppn_negative_simd(minus)) /* nothing falls */
        for (int l = 0; l < 16; l++) c->x[l] = ppn_left_by_simd(c->x[l], up);
    else if (!ppn_negative_simd(s))
        ppn_fit_mantissas(c, &fitting, 0);
    else
        ppn_fit_mantissas(c, &fitting, 1);
    c->e = ppn_above_simd(length, zero, e, ppn_all_simd(PPN_ZERO_EXP));
}

/* ---- blocks in memory ------------------------------------------------------------------------------------------ */

/* |count| blocks of int16, elements 2 k and 2 k + 1 as the halves of x[k]; zeros behind them. */
static inline void ppn_get_pairs(const int16_t *m, uint32_t count, ppn_lanes x[8]) {
    int16_t all[16 * PPN_CHUNK];
    if (count < PPN_CHUNK) {
        memcpy(all, m, count * (size_t)32);
        memset(all + count * 16, 0, sizeof all - count * (size_t)32);
        m = all;
    }
    ppn_get_turned16_simd(m, x);
}
/* The low halves alone of an element: with one such factor ppn_madd_simd() is the product of two int16. */
static inline ppn_lanes ppn_low16(ppn_lanes x) { return ppn_and_simd(x, ppn_all_simd(0xFFFF)); }
static inline ppn_lanes ppn_element(const ppn_lanes *pairs, int l) {
    return l % 2 ? ppn_high16_simd(pairs[l / 2]) : ppn_low16(pairs[l / 2]);
}

/* The element, its sign in all lanes' high halves. */
static inline ppn_lanes ppn_wide_element(const ppn_lanes *pairs, int l) {
    return ppn_asr_simd(l % 2 ? pairs[l / 2] : ppn_left_simd(pairs[l / 2], 16), 16);
}

/* Write |count| blocks, whose lanes fit. */
static inline void ppn_put16_chunk(int16_t *to, const ppn_lanes x[16], uint32_t count) {
    int16_t all[16 * PPN_CHUNK];
    ppn_put_turned16_simd(count < PPN_CHUNK ? all : to, x);
    if (count < PPN_CHUNK) memcpy(to, all, count * (size_t)32);
}
static inline void ppn_put8_chunk(int8_t *to, const ppn_lanes x[16], uint32_t count) {
    int8_t all[16 * PPN_CHUNK];
    ppn_put_turned8_simd(count < PPN_CHUNK ? all : to, x);
    if (count < PPN_CHUNK) memcpy(to, all, count * (size_t)16);
}

/* Write the first |count| blocks to columns |column| .. of a row, as ppn_store(). */
static inline void ppn_store_chunk(uint8_t *at, uint32_t blocks, int wide, uint32_t column, uint32_t count,
                                   const ppn_chunk *c) {
    int8_t e[PPN_CHUNK];
    if (wide)
        ppn_put16_chunk((int16_t *)(void *)(at + column * 32), c->x, count);
    else
        ppn_put8_chunk((int8_t *)at + column * 16, c->x, count);
    ppn_put8_simd(e, c->e);
    memcpy(at + blocks * (wide ? 32 : 16) + column, e, count);
}

#endif
#endif
