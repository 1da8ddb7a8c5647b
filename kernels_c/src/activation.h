/* activation.h: tanh and sine on the streams of one block column, forward and backward (spec 5, 6). Internal. */
#ifndef PPN_ACTIVATION_H
#define PPN_ACTIVATION_H

#include "block.h"
#include "tables.h"

/* A block in SMX(16). */
typedef struct {
    _Alignas(4) int16_t m[16];
    int e;
} ppn_block;

/* phi(z) with 15 fraction bits; phi', phi'', phi''' with 14. */
typedef struct {
    _Alignas(4) int16_t h[16], p1[16], p2[16], p3[16];
} ppn_curve;

/* Exponent of a term made of a block: |shift| above the block's own, or left out for a zero block. */
static inline int ppn_term(const ppn_block *b, int shift) { return b->e == PPN_ZERO_EXP ? UNUSED_TERM : b->e + shift; }
/* Exponent of q = rnd(a^2 / 2^15) times something of exponent |shift|. */
static inline int ppn_term_square(const ppn_block *a, int shift) {
    return a->e == PPN_ZERO_EXP ? UNUSED_TERM : 2 * a->e + shift;
}

/* Block |at| of a 16-bit row of |blocks| blocks in the scratch. */
static inline void ppn_get_block(const uint8_t *row, uint32_t blocks, uint32_t at, ppn_block *b) {
    PPN_COPY(b->m, row + at * 32);
    b->e = (int8_t)row[blocks * 32 + at];
}
static inline void ppn_to_block(const int32_t *x, int e, ppn_block *out, int *flags) {
    out->e = ppn_encode16(x, e, 16, PPN_NEAREST, out->m, flags);
}

/* A part of the linearization, kept at the exponent it has (spec 5): |x| <= 2^30 - 2^15 makes |m| <= 2^15 - 1. */
static inline int ppn_keep(const int32_t *x, int e, int16_t *m) {
#if PPN_M0
    ppn_m0_keep(x, m);
#else
    LANES m[l] = (int16_t)ppn_rnd(x[l], 15);
#endif
    return e == PPN_EMPTY_EXP ? e : e + 15;
}
/* Exponent of a kept block (|kept|) in a term, |shift| above its own. */
static inline int ppn_kept_term(int kept, int shift) { return kept <= PPN_EMPTY_EXP ? UNUSED_TERM : kept + shift; }
/* Exponent of a kept block (|kept|) times a block (|e|). */
static inline int ppn_kept_exp(int kept, int e) {
    return kept <= PPN_EMPTY_EXP || e == PPN_ZERO_EXP ? UNUSED_TERM : kept + e;
}

static inline void ppn_multiply(const int16_t *x, const int16_t *y, int32_t *out) {
#if PPN_M0
    ppn_m0_times(x, y, out);
#else
    LANES out[l] = x[l] * y[l];
#endif
}

/* One-term aligned sum of |factor| (14 fraction bits) times a block; answers its exponent. */
static inline int ppn_scale(const int16_t *factor, const int16_t *m, int e, int32_t *out) {
    ppn_multiply(factor, m, out);
    return e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : e - 14;
}
/* The same, kept. */
static inline int ppn_scale_kept(const int16_t *factor, const ppn_block *b, int16_t *kept) {
#if PPN_M0
    ppn_m0_times_kept(factor, b->m, kept);
    return b->e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : b->e + 1;
#else
    int32_t x[16];
    int e = ppn_scale(factor, b->m, b->e, x);
    return ppn_keep(x, e, kept);
#endif
}

/* ---- the base stream ------------------------------------------------------------------------------------------- */

static inline void ppn_tanh_value(const ppn_block *z, int16_t *h) {
    int s = ppn_min(z->e + 22, 25);
    int32_t top = (1 << 25) - 1, fits = s > 0 ? top >> s : INT16_MAX; /* |m| up to which m 2^s stays below 2^25 */
    LANES {
        int32_t m = z->m[l], x = s > 0 ? ppn_clip(m, fits) * (1 << s) : ppn_rnd(m, -s);
        int32_t size = ppn_abs(m) > fits ? top : ppn_abs(x), i = size >> 15, f = size & 32767;
        int32_t low = PPN_TANH_TABLE[i], v = low + ppn_rnd((PPN_TANH_TABLE[i + 1] - low) * f, 15);
        h[l] = (int16_t)(m < 0 ? -v : v);
    }
}

/* sin of |angle| in 2^-24 turns, 15 fraction bits. */
static inline int32_t ppn_sin15(uint32_t angle) {
    uint32_t quarter = angle >> 22 & 3, v = angle & ((1u << 22) - 1);
    if (quarter & 1) v = (1u << 22) - v;
    int32_t i = (int32_t)(v >> 13), f = (int32_t)(v & 8191), low = PPN_SINE_TABLE[i];
    int32_t s = low + ppn_rnd((PPN_SINE_TABLE[i + 1] - low) * f, 13);
    return quarter & 2 ? -s : s;
}

static inline void ppn_sine_value(const ppn_block *z, int16_t *h, int16_t *g) {
    int s = z->e + 7;
    LANES {
        /* |u| < 2^17 2^15 / 2 pi < 2^30; 4 * 5215 * 2^15 < 2^30 */
        int32_t u = 4 * (5215 * z->m[l]) + ppn_rnd(z->m[l] * 6199, 13);
        uint32_t angle;
        if (s >= 0)
            angle = s >= 24 ? 0u : (uint32_t)u << s;
        else
            angle = -s >= 32 ? 0u : (uint32_t)((u >> -s) + ((u >> (-s - 1)) & 1));
        h[l] = (int16_t)ppn_sin15(angle & 0xFFFFFF);
        g[l] = (int16_t)ppn_rnd(ppn_sin15((angle + (1u << 22)) & 0xFFFFFF), 1);
    }
}

static inline void ppn_curve_at(int activation, const ppn_block *z, ppn_curve *c) {
#if PPN_M0
    if (activation == PPN_TANH && z->e >= -22 && z->e <= -12) {
        ppn_m0_tanh(z->m, z->e + 22, c->h, PPN_TANH_TABLE);
        return;
    }
#endif
    if (activation == PPN_TANH) {
        ppn_tanh_value(z, c->h);
        LANES {
            int32_t h = c->h[l], p1 = ((1 << 30) - h * h + (1 << 15)) >> 16; /* <= 2^30 + 2^15 */
            int32_t p2 = ppn_rnd(-h * p1, 14);
            c->p1[l] = (int16_t)p1;
            c->p2[l] = (int16_t)p2;
            c->p3[l] = (int16_t)ppn_rnd(-2 * p1 * p1 - h * p2, 14); /* >= -2^29 where it is least */
        }
    } else {
        ppn_sine_value(z, c->h, c->p1);
        LANES {
            c->p2[l] = (int16_t)ppn_rnd(-c->h[l], 1);
            c->p3[l] = (int16_t)-c->p1[l];
        }
    }
}

/* ---- jet ------------------------------------------------------------------------------------------------------- */

/* What a pair of streams becomes: block-scaled integers for its outputs, kept blocks for its linearization, which go to
 * |d| and |n|. */
typedef struct {
    int32_t a[16], s[16];
    int ea, es, ed, en;
    int16_t *d, *n;
} ppn_pair_out;

/* q = rnd(a^2, 15) <= 2^15 - 2 */
static inline void ppn_square(const int16_t *a, int16_t *q) {
#if PPN_M0
    ppn_m0_square(a, q);
#else
    LANES q[l] = (int16_t)ppn_rnd(a[l] * a[l], 15);
#endif
}

static inline void ppn_jet(const ppn_curve *c, const ppn_block *a, const ppn_block *s, ppn_pair_out *out) {
    _Alignas(4) int16_t q[16];
    int32_t t[16];
    int even = ppn_term(s, -14), square = ppn_term_square(a, 0);
    ppn_square(a->m, q);
    out->ea = ppn_scale(c->p1, a->m, a->e, out->a);
    out->es = ppn_sum2_products(c->p1, s->m, even, c->p2, q, square, out->s);
    out->ed = ppn_scale_kept(c->p2, a, out->d);
    int e = ppn_sum2_products(c->p2, s->m, even, c->p3, q, square, t); /* 2^15 (2^15 - 2) = 2^30 - 2^16 */
    out->en = ppn_keep(t, e, out->n);
}

/* Add rnd(q, down) of the squares, down >= 0 (spec 5, laplacian): sums of 4095 stay below 2^27. */
static inline void ppn_add_square(const int16_t *a, int down, int32_t *sum) {
    _Alignas(4) int16_t q[16];
    if (down > 15) return; /* nothing is left of them */
    ppn_square(a, q);
    LANES sum[l] += ppn_rnd(q[l], down);
}

/* ---- finite steps ---------------------------------------------------------------------------------------------- */

/* Limit a step to |d| < 8 (spec 5). */
static inline void ppn_limit_step(ppn_block *d, int *flags) {
    if (d->e <= -12) return;
    int32_t by = 1 << ppn_min(d->e + 12, 15);
    LANES {
        int32_t m = d->m[l] * by;
        if (ppn_abs(m) > 32767) *flags |= PPN_STEP;
        d->m[l] = (int16_t)ppn_clip(m, 32767);
    }
    d->e = -12;
}

static inline int32_t ppn_ratio(const int16_t *table, int32_t d, int e) {
    int32_t size = ppn_abs(ppn_fix(d, e, 22, (1 << 25) - 1)), i = size >> 16, f = size & 65535;
    return table[i] + ppn_rnd((table[i + 1] - table[i]) * f, 16);
}

/* A zero block is the number zero wherever plain fixed point is wanted. */
static inline int32_t ppn_fix_block(const ppn_block *b, int l, int fraction, int32_t limit) {
    return b->e == PPN_ZERO_EXP ? 0 : ppn_fix(b->m[l], b->e, fraction, limit);
}

/* phi(z + d) - phi(z) as SMX(16), and phi'(z + d) - phi'(z) as block-scaled integers with its exponent answered. */
static inline int ppn_delta_tanh(const ppn_curve *c, const ppn_block *d, ppn_block *delta, int32_t *slope) {
    LANES {
        int32_t t = ppn_rnd(d->m[l] * ppn_ratio(PPN_RATIO_TANH, d->m[l], d->e), 14);
        int32_t den = (1 << 14) + ppn_rnd(c->h[l] * ppn_fix(t, d->e, 14, 16383), 15);
        int32_t v = ppn_clip(ppn_rnd(c->p1[l] * t, 14) * (1 << 14) / ppn_max(1, den), 32767);
        delta->m[l] = (int16_t)v;
        slope[l] = -v * ppn_clip(c->h[l] + ppn_rnd(ppn_fix(v, d->e, 15, 65535), 1), 32767);
    }
    delta->e = d->e;
    return d->e - 14;
}

/* sin d (exponent e_d) and 1 - cos d (exponent 2 e_d + 14). */
static inline void ppn_sine_step(const ppn_block *d, int32_t *sine, int32_t *versine) {
    LANES {
        int32_t m = d->m[l];
        sine[l] = ppn_rnd(m * ppn_ratio(PPN_RATIO_SINE, m, d->e), 14);
        versine[l] = ppn_rnd(ppn_rnd(m * m, 15) * ppn_ratio(PPN_RATIO_VERSINE, m, d->e), 14);
    }
}

static inline int ppn_delta_sine(const ppn_curve *c, const ppn_block *d, ppn_block *delta, int32_t *slope, int *flags) {
    int32_t sine[16], versine[16], x[16], y[16], t[16];
    ppn_sine_step(d, sine, versine);
    LANES x[l] = c->p1[l] * sine[l];
    LANES y[l] = -ppn_rnd(c->h[l], 1) * versine[l];
    int e = ppn_sum2(x, ppn_term(d, -14), y, ppn_term_square(d, 0), t);
    ppn_to_block(t, e, delta, flags);
    LANES x[l] = -ppn_rnd(c->h[l], 1) * sine[l];
    LANES y[l] = -c->p1[l] * versine[l];
    return ppn_sum2(x, ppn_term(d, -14), y, ppn_term_square(d, 0), slope);
}

static inline int ppn_delta(int activation, const ppn_curve *c, const ppn_block *d, ppn_block *delta, int32_t *slope,
                            int *flags) {
    if (d->e == PPN_ZERO_EXP) {
        *delta = *d;
        memset(slope, 0, 16 * sizeof *slope);
        return PPN_EMPTY_EXP;
    }
    return activation == PPN_TANH ? ppn_delta_tanh(c, d, delta, slope) : ppn_delta_sine(c, d, delta, slope, flags);
}

static inline void ppn_odd_even_tanh(const ppn_curve *c, const ppn_block *a, const ppn_block *v, ppn_pair_out *out,
                                     int *flags) {
    int32_t x[16], y[16], t[16];
    ppn_block odd;
    LANES {
        int32_t h = ppn_clip(c->h[l] + ppn_fix_block(v, l, 15, 65535), 32767);
        int32_t p = ((1 << 30) - h * h + (1 << 15)) >> 16;
        int32_t big = a->e == PPN_ZERO_EXP ? 0 : ppn_rnd(a->m[l] * ppn_ratio(PPN_RATIO_TANH, a->m[l], a->e), 14);
        int32_t fixed = a->e == PPN_ZERO_EXP ? 0 : ppn_fix(big, a->e, 14, 16383);
        int32_t product = ppn_rnd(h * fixed, 15);
        int32_t den = ppn_max(1, (1 << 14) - ppn_rnd(product * product, 14));
        int32_t o = ppn_clip(ppn_rnd(p * big, 14) * (1 << 14) / den, 32767);
        odd.m[l] = (int16_t)o;
        x[l] = v->m[l] * (1 << 14);
        y[l] = -ppn_rnd(h * big, 15) * o;
    }
    odd.e = a->e;
    LANES out->a[l] = odd.m[l];
    out->ea = odd.e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : odd.e;
    out->es = ppn_sum2(x, ppn_term(v, -14), y, ppn_term_square(&odd, 0), out->s);
    ppn_block even;
    ppn_to_block(out->s, out->es, &even, flags);
    LANES {
        int32_t fixed = ppn_fix_block(&even, l, 15, 65535);
        t[l] = -ppn_clip(c->h[l] + fixed, 32767) * odd.m[l];
        x[l] = -ppn_clip(c->h[l] + ppn_rnd(fixed, 1), 32767) * even.m[l];
        y[l] = -odd.m[l] * odd.m[l];
    }
    out->ed = ppn_keep(t, odd.e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : odd.e - 14, out->d);
    int e = ppn_sum2(x, ppn_term(&even, -14), y, ppn_term_square(&odd, 0), t); /* (2^15 - 1)^2 = 2^30 - 2^16 + 1 */
    out->en = ppn_keep(t, e, out->n);
}

static inline void ppn_odd_even_sine(const ppn_curve *c, const ppn_block *a, const ppn_block *v, const ppn_block *p,
                                     ppn_pair_out *out) {
    int32_t sine[16], versine[16], x[16], y[16], t[16], gt[16], tt[16];
    if (a->e == PPN_ZERO_EXP) {
        memset(sine, 0, sizeof sine);
        memset(versine, 0, sizeof versine);
    } else
        ppn_sine_step(a, sine, versine);
    LANES {
        tt[l] = ppn_rnd(ppn_clip(c->h[l] + ppn_fix_block(v, l, 15, 65535), 32767), 1);
        gt[l] = ppn_clip(c->p1[l] + ppn_fix(p->m[l], p->e, 14, 32767), 16384);
    }
    LANES out->a[l] = gt[l] * sine[l];
    out->ea = a->e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : a->e - 14;
    LANES x[l] = v->m[l] * (1 << 14);
    LANES y[l] = -tt[l] * versine[l];
    out->es = ppn_sum2(x, ppn_term(v, -14), y, ppn_term_square(a, 0), out->s);
    LANES t[l] = -tt[l] * sine[l];
    out->ed = ppn_keep(t, out->ea, out->d);
    LANES x[l] = p->m[l] * (1 << 14);
    LANES y[l] = -gt[l] * versine[l];
    int e = ppn_sum2(x, ppn_kept_term(p->e, -14), y, ppn_term_square(a, 0), t);
    out->en = ppn_keep(t, e, out->n);
}

static inline void ppn_odd_even(int activation, const ppn_curve *c, ppn_block *a, ppn_block *s, ppn_pair_out *out,
                                int *flags) {
    int32_t slope[16];
    ppn_block v, p;
    ppn_limit_step(a, flags);
    ppn_limit_step(s, flags);
    int e = ppn_delta(activation, c, s, &v, slope, flags);
    if (activation == PPN_TANH) {
        ppn_odd_even_tanh(c, a, &v, out, flags);
    } else {
        p.e = ppn_keep(slope, e, p.m);
        ppn_odd_even_sine(c, a, &v, &p, out);
    }
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

/* Slope of a stream: p1 plus its finite-step change, a kept block; answers |m1|. */
static inline PPN_SMALL const int16_t *ppn_stream_slope(const int16_t *p1, const int16_t *m, int e, int16_t *m1) {
    LANES m1[l] = (int16_t)ppn_clip(p1[l] + ppn_fix(m[l], e, 14, 32767), 32767);
    return m1;
}

#endif
