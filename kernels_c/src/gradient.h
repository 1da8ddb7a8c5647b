/* gradient.h: accumulation of weight gradients (spec 7). Internal. */
#ifndef PPN_GRADIENT_H
#define PPN_GRADIENT_H

#include "product.h"

/* The gradient region begins with the limit exponent (4 bytes), then one of these for every accumulator. */
typedef struct {
    int16_t exp;
    uint16_t spare;
    uint32_t peak;
} ppn_accumulator;

static inline int32_t ppn_clip_wide(int64_t x) {
    return x > 1 << 30 ? 1 << 30 : x < -(1 << 30) ? -(1 << 30) : (int32_t)x;
}

/* Add |count| terms x (exponent e) to sums: align to the accumulator, note the peak. Sums wrap: those that do are void,
 * as the peak tells. |x| < 2^30, so a shift right by at most 30 has room for its half. */
static inline void ppn_accumulate(ppn_accumulator *a, const int32_t *x, int e, int count, int32_t *sums) {
    int down = a->exp - e;
    uint32_t peak = 0;
    if (down > 30) return;
    for (int l = 0; l < count; l++) {
        int32_t t = down >= 0 ? (x[l] + ((1 << down) >> 1)) >> down
                              : ppn_clip_wide((int64_t)x[l] * (INT64_C(1) << ppn_min(-down, 32))); /* <= 2^62 */
        peak |= (uint32_t)ppn_abs(t);
        sums[l] = (int32_t)((uint32_t)sums[l] + (uint32_t)t);
    }
    a->peak |= peak;
}

/* One block product whose widths need 64 bits: |x| <= 2^32, so x 2^30 fits. */
static inline void ppn_accumulate_wide(ppn_accumulator *a, const int64_t *x, int e, int32_t *sums) {
    int32_t kept[16];
    int down = a->exp - e;
    LANES {
        int64_t t = down >= 0 ? ppn_rnd_wide(x[l], down) : x[l] * (INT64_C(1) << ppn_min(-down, 30));
        kept[l] = ppn_clip_wide(t);
    }
    ppn_accumulate(a, kept, a->exp, 16, sums);
}

/* One pair by the plain way; any widths, any alignment. */
static inline PPN_SMALL void ppn_outer_block(ppn_accumulator *a, const ppn_run *left, uint32_t m, const ppn_run *right,
                                             uint32_t n, int32_t *sums) {
    int16_t x[16], y[16];
    int e = left->exps[m] + right->exps[n];
    ppn_load_block(left, (int)m, x);
    ppn_load_block(right, (int)n, y);
    if (left->bits + right->bits > 30) {
        int64_t p[16];
        ppn_dot_wide(x, y, p);
        ppn_accumulate_wide(a, p, e, sums);
    } else {
        int32_t p[16];
        ppn_dot(x, y, p);
        ppn_accumulate(a, p, e, 16, sums);
    }
}

#if PPN_M0
/* |products| < 2^(p + q) are multiplied by 2^spare, so that most shifts to the left become shifts to the right. */
static inline int ppn_m0_spare(const ppn_run *left, const ppn_run *right) { return 31 - left->bits - right->bits; }

/* Columns |from| to |from| + |count| of a block row of the outer product below: those of a shift to the left apart. */
static inline void ppn_m0_outer_row(ppn_accumulator *a, const ppn_run *left, uint32_t m, const ppn_run *right,
                                    const ppn_m0_side *side, uint32_t from, uint32_t count, int32_t *sums) {
    int32_t column[16];
    int top = a->exp - left->exps[m] + ppn_m0_spare(left, right);
    ppn_m0_spread_block(left, (int)m, 0, column);
    for (uint32_t n = 0; side->most >= top && n < count; n++)
        if (side->exps[n] >= top) ppn_outer_block(a, left, m, right, from + n, sums + n * 16);
    uint32_t full = ~a->peak & (a->peak + 1u); /* a power of 2: the peak has all bits below */
    if (full > 1u << 30) full = 1u << 30;      /* span must fit */
    /* |terms| <= 2^(31 - shift), and below it up to a shift of 17, as 4 M M' 2^spare <= 2^31 - 2^17 */
    int safe = 32 - ppn_length(full) + (full < 1u << 14);
    int32_t others = 0;
    for (int l = 4; l < 16 && !others; l++) others = column[l];
    ppn_m0_row row = {side->words,  sums,    side->exps, count,   column, full - 1,
                      2 * full - 2, a->peak, top,        !others, safe};
    ppn_m0_outer(&row);
    a->peak = row.peak;
}

static inline void ppn_m0_outer_product(ppn_accumulator *a, const ppn_run *left, uint32_t rows, const ppn_run *right,
                                        uint32_t cols, int32_t *sums) {
    ppn_m0_side side;
    for (uint32_t from = 0; from < cols; from += PPN_M0_BLOCKS) {
        uint32_t count = cols - from < PPN_M0_BLOCKS ? cols - from : PPN_M0_BLOCKS;
        ppn_m0_spread(right, (int)from, (int)count, ppn_m0_spare(left, right), &side);
        for (uint32_t m = 0; m < rows; m++)
            if (left->exps[m] != PPN_ZERO_EXP)
                ppn_m0_outer_row(a, left, m, right, &side, from, count, sums + (m * cols + from) * 16);
    }
}
#endif

/* sums[m][n] += left[m]^T right[n] for rows of blocks: the outer product of two rows of one stream. */
static inline void ppn_outer(ppn_accumulator *a, ppn_run left, uint32_t rows, ppn_run right, uint32_t cols,
                             int32_t *sums) {
    left.turned = right.turned = 1; /* the inner index is the point */
#if PPN_M0
    if (left.bits + right.bits <= 30) {
        ppn_m0_outer_product(a, &left, rows, &right, cols, sums);
        return;
    }
#endif
    for (uint32_t m = 0; m < rows; m++)
        for (uint32_t n = 0; n < cols; n++)
            if (left.exps[m] != PPN_ZERO_EXP && right.exps[n] != PPN_ZERO_EXP)
                ppn_outer_block(a, &left, m, &right, n, sums + (m * cols + n) * 16);
}

/* Bias gradient: sums of the four rows of a cotangent row, |sum| <= 4 M(16) < 2^17. */
static inline void ppn_bias_gradient(ppn_run c, uint32_t blocks, ppn_accumulator *a, int32_t *sums) {
    for (uint32_t n = 0; n < blocks; n++) {
        int16_t m[16];
        int32_t x[4];
        if (c.exps[n] == PPN_ZERO_EXP) continue;
        ppn_load_block(&c, (int)n, m);
        for (int l = 0; l < 4; l++) x[l] = m[l] + m[4 + l] + m[8 + l] + m[12 + l];
        ppn_accumulate(a, x, c.exps[n], 4, sums + 4 * n);
    }
}

#endif
