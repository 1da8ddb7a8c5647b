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

/* ppn_encode16() for the first |count| blocks: mantissas and exponents replace what they are made from. |bits|: a width
 * a block. |seeds|: for stochastic rounding, key + index 0x9E3779B9 of each block; NULL rounds to nearest. */
static inline void ppn_encode_chunk(ppn_chunk *c, uint32_t count, ppn_lanes bits, const uint32_t *seeds, int *flags) {
    ppn_lanes size[PPN_CHUNK], zero = ppn_all_simd(0), one = ppn_all_simd(1);
    for (uint32_t k = 0; k < PPN_CHUNK; k++) size[k] = k < count ? ppn_abs_simd(c->x[k]) : zero;
    ppn_lanes length = ppn_lengths_simd(size), s = ppn_sub_simd(ppn_add_simd(length, one), bits);
    s = ppn_where_simd(length, s, zero);
    ppn_lanes e = ppn_add_simd(c->e, s), there = ppn_where_simd(length, e, zero);
    ppn_lanes ends = ppn_or_simd(ppn_add_simd(there, ppn_all_simd(126)), ppn_sub_simd(ppn_all_simd(127), there));
    int32_t up[PPN_CHUNK], down[PPN_CHUNK], rest[PPN_CHUNK], top[PPN_CHUNK];
    if (ppn_negative_simd(ends)) {
        ppn_put_simd(up, c->e);
        ppn_put_simd(top, bits);
        for (uint32_t k = 0; k < count; k++) {
            ppn_rounding how = {seeds ? seeds[k] : 0, 0, seeds != NULL};
            c->x[k] = ppn_encode_alone(c->x[k], &up[k], top[k], how, flags);
        }
        c->e = ppn_get_simd(up);
        return;
    }
    ppn_lanes fall = ppn_left_by_simd(one, ppn_max_simd(s, zero)); /* then r is 0 for s <= 0 */
    if (ppn_negative_simd(s)) {
        ppn_put_simd(up, ppn_max_simd(ppn_sub_simd(zero, s), zero));
        for (uint32_t k = 0; k < count; k++) size[k] = ppn_left_by_simd(size[k], ppn_all_simd(up[k]));
    }
    ppn_put_simd(down, ppn_max_simd(s, zero));
    ppn_put_simd(rest, seeds ? ppn_sub_simd(fall, one) : ppn_down_simd(fall, 1));
    ppn_put_simd(top, ppn_sub_simd(ppn_left_by_simd(one, ppn_sub_simd(bits, one)), one));
    ppn_lanes step = ppn_mul_simd(ppn_iota_simd(), ppn_all_simd((int32_t)0x9E3779B9u));
    for (uint32_t k = 0; k < count; k++) {
        ppn_lanes r = ppn_all_simd(rest[k]);
        if (seeds) r = ppn_and_simd(r, ppn_mix_simd(ppn_add_simd(step, ppn_all_simd((int32_t)seeds[k]))));
        ppn_lanes m = ppn_down_by_simd(ppn_add_simd(size[k], r), ppn_all_simd(down[k]));
        c->x[k] = ppn_signed_simd(ppn_min_simd(m, ppn_all_simd(top[k])), c->x[k]);
    }
    c->e = ppn_where_simd(length, e, ppn_all_simd(PPN_ZERO_EXP));
}

/* Write the first |count| blocks to columns |column| .. of a row, as ppn_store(). */
static inline void ppn_store_chunk(uint8_t *at, uint32_t blocks, int wide, uint32_t column, uint32_t count,
                                   const ppn_chunk *c) {
    int8_t e[PPN_CHUNK];
    if (wide)
        for (uint32_t k = 0; k < count; k++) ppn_put16_simd((int16_t *)(void *)(at + (column + k) * 32), c->x[k]);
    else
        for (uint32_t k = 0; k < count; k++) ppn_put8_simd((int8_t *)at + (column + k) * 16, c->x[k]);
    ppn_put8_simd(e, c->e);
    memcpy(at + blocks * (wide ? 32 : 16) + column, e, count);
}

#endif
#endif
