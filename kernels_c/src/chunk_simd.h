/* chunk_simd.h: sixteen blocks side by side, so that what is one number a block fills a vector too. Internal. */
#ifndef PPN_CHUNK_SIMD_H
#define PPN_CHUNK_SIMD_H

#include "block.h"
#include "product.h"

#if PPN_SIMD

#define PPN_CHUNK 16
#define PPN_FAR (-8192) /* stands for the exponent of a block that does not count: below every alignment */

/* Blocks and, a lane each, their exponents. What lies behind the last block is never read. */
typedef struct {
    ppn_lanes x[PPN_CHUNK];
    ppn_lanes e;
} ppn_chunk;

/* A right shift with rounding for each block. */
typedef struct {
    int32_t shift[PPN_CHUNK], half[PPN_CHUNK];
} ppn_shifts;

/* By 2^down, down >= 0. From 31 on every |x| < 2^30 goes to 0, as it must. */
static inline void ppn_shifts_by(ppn_shifts *s, ppn_lanes down) {
    down = ppn_min_simd(down, ppn_all_simd(31));
    ppn_put_simd(s->shift, down);
    ppn_put_simd(s->half, ppn_down_simd(ppn_left_by_simd(ppn_all_simd(1), down), 1));
}
static inline ppn_lanes ppn_shifted(ppn_lanes x, const ppn_shifts *s, uint32_t c) {
    return ppn_asr_by_simd(ppn_add_simd(x, ppn_all_simd(s->half[c])), ppn_all_simd(s->shift[c]));
}

/* The same of ppn_madd_simd(x, y). */
static inline ppn_lanes ppn_shifted_madd(ppn_lanes x, ppn_lanes y, const ppn_shifts *s, uint32_t c) {
    return ppn_asr_by_simd(ppn_madd_onto_simd(ppn_all_simd(s->half[c]), x, y), ppn_all_simd(s->shift[c]));
}

/* Exponents with that of the zero block put out of reach. */
static inline ppn_lanes ppn_reach(ppn_lanes e) {
    return ppn_where_simd(ppn_sub_simd(e, ppn_all_simd(PPN_ZERO_EXP)), e, ppn_all_simd(PPN_FAR));
}

/* One block near an end of the exponents, or in a chunk with one. */
static inline ppn_lanes ppn_encode_alone(ppn_lanes x, int32_t *e, int bits, ppn_rounding how, int *flags) {
    int32_t lanes[16];
    int16_t m[16];
    ppn_put_simd(lanes, x);
    *e = ppn_encode16(lanes, *e, bits, how, m, flags);
    return ppn_get16_simd(m);
}

/* How a chunk is encoded: magnitudes, and a left shift, a right one, the bits that rounding adds and the largest
 * mantissa of each block, and the exponents they give. */
typedef struct {
    int32_t up[PPN_CHUNK], down[PPN_CHUNK], rest[PPN_CHUNK], top[PPN_CHUNK];
    ppn_lanes e, size[PPN_CHUNK];
    int lifts, alone; /* is there a left shift; are there exponents near an end */
} ppn_scales;

/* This and ppn_round_chunk() are functions apart: wherever they are needed their code is still there, decoded. */
static __attribute__((noinline)) void ppn_scale_chunk(const ppn_chunk *c, uint32_t count, ppn_lanes bits,
                                                      int stochastic, ppn_scales *to) {
    ppn_lanes zero = ppn_all_simd(0), one = ppn_all_simd(1);
    if (count == PPN_CHUNK)
        for (uint32_t k = 0; k < PPN_CHUNK; k++) to->size[k] = ppn_abs_simd(c->x[k]);
    else
        for (uint32_t k = 0; k < PPN_CHUNK; k++) to->size[k] = k < count ? ppn_abs_simd(c->x[k]) : zero;
    ppn_lanes length = ppn_lengths_simd(to->size), s = ppn_sub_simd(ppn_add_simd(length, one), bits);
    s = ppn_where_simd(length, s, zero);
    ppn_lanes e = ppn_add_simd(c->e, s), there = ppn_where_simd(length, e, zero), down = ppn_max_simd(s, zero);
    ppn_lanes ends = ppn_or_simd(ppn_add_simd(there, ppn_all_simd(126)), ppn_sub_simd(ppn_all_simd(127), there));
    ppn_lanes fall = ppn_left_by_simd(one, down); /* rest is 0 where nothing falls */
    ppn_put_simd(to->up, ppn_max_simd(ppn_sub_simd(zero, s), zero));
    ppn_put_simd(to->down, down);
    ppn_put_simd(to->rest, stochastic ? ppn_sub_simd(fall, one) : ppn_down_simd(fall, 1));
    ppn_put_simd(to->top, ppn_sub_simd(ppn_left_by_simd(one, ppn_sub_simd(bits, one)), one));
    to->e = ppn_where_simd(length, e, ppn_all_simd(PPN_ZERO_EXP));
    to->lifts = ppn_negative_simd(s);
    to->alone = ppn_negative_simd(ends);
}

static inline void ppn_round_alone(ppn_chunk *c, uint32_t count, ppn_lanes bits, const uint32_t *seeds, int *flags) {
    int32_t e[PPN_CHUNK], width[PPN_CHUNK];
    ppn_put_simd(e, c->e);
    ppn_put_simd(width, bits);
    for (uint32_t k = 0; k < count; k++) {
        ppn_rounding how = {seeds ? seeds[k] : 0, 0, seeds != NULL};
        c->x[k] = ppn_encode_alone(c->x[k], &e[k], width[k], how, flags);
    }
    c->e = ppn_get_simd(e);
}

static __attribute__((noinline)) void ppn_round_chunk(ppn_chunk *c, uint32_t count, const uint32_t *seeds,
                                                      const ppn_scales *by) {
    ppn_lanes step = ppn_mul_simd(ppn_iota_simd(), ppn_all_simd((int32_t)0x9E3779B9u));
    for (uint32_t k = 0; k < count; k++) {
        ppn_lanes size = by->size[k], r = ppn_all_simd(by->rest[k]);
        if (by->lifts) size = ppn_left_by_simd(size, ppn_all_simd(by->up[k]));
        if (seeds) r = ppn_and_simd(r, ppn_mix_simd(ppn_add_simd(step, ppn_all_simd((int32_t)seeds[k]))));
        size = ppn_down_by_simd(ppn_add_simd(size, r), ppn_all_simd(by->down[k]));
        c->x[k] = ppn_signed_simd(ppn_min_simd(size, ppn_all_simd(by->top[k])), c->x[k]);
    }
    c->e = by->e;
}

/* ppn_encode16() for the first |count| blocks of each of up to PPN_ROWS chunks: mantissas and exponents replace what
 * they are made from. |bits|: a width a block. |seeds|: for stochastic rounding, key + index 0x9E3779B9 of each block;
 * NULL rounds to nearest. First all are measured, then all are rounded, so that none waits for its own shifts. */
static inline void ppn_encode_chunks(ppn_chunk *c, uint32_t chunks, uint32_t count, ppn_lanes bits,
                                     const uint32_t (*seeds)[PPN_CHUNK], int *flags) {
    ppn_scales by[PPN_ROWS];
    for (uint32_t r = 0; r < chunks; r++) ppn_scale_chunk(&c[r], count, bits, seeds != NULL, &by[r]);
    for (uint32_t r = 0; r < chunks; r++) {
        const uint32_t *own = seeds ? seeds[r] : NULL;
        if (by[r].alone)
            ppn_round_alone(&c[r], count, bits, own, flags);
        else
            ppn_round_chunk(&c[r], count, own, &by[r]);
    }
}

/* Write |count| blocks, whose lanes fit. */
static inline void ppn_put16_blocks(int16_t *to, const ppn_lanes *x, uint32_t count) {
    uint32_t k = 0;
    for (; k + 2 <= count; k += 2) ppn_put16_pair_simd(to + k * 16, x[k], x[k + 1]);
    if (k < count) ppn_put16_simd(to + k * 16, x[k]);
}
static inline void ppn_put8_blocks(int8_t *to, const ppn_lanes *x, uint32_t count) {
    uint32_t k = 0;
    for (; k + 4 <= count; k += 4) ppn_put8_four_simd(to + k * 16, x + k);
    for (; k < count; k++) ppn_put8_simd(to + k * 16, x[k]);
}

/* Write the first |count| blocks to columns |column| .. of a row, as ppn_store(). */
static inline void ppn_store_chunk(uint8_t *at, uint32_t blocks, int wide, uint32_t column, uint32_t count,
                                   const ppn_chunk *c) {
    int8_t e[PPN_CHUNK];
    if (wide)
        ppn_put16_blocks((int16_t *)(void *)(at + column * 32), c->x, count);
    else
        ppn_put8_blocks((int8_t *)at + column * 16, c->x, count);
    ppn_put8_simd(e, c->e);
    memcpy(at + blocks * (wide ? 32 : 16) + column, e, count);
}

#endif
#endif
