/* activation_simd.h: tanh and sine on the streams of a chunk of block columns, forward: the twin of activation.h.
 * Internal. */
#ifndef PPN_ACTIVATION_SIMD_H
#define PPN_ACTIVATION_SIMD_H

#include "activation.h"
#include "chunk_simd.h"

#if PPN_SIMD

/* ---- the base stream ------------------------------------------------------------------------------------------- */

/* ppn_curve of a chunk. Of p1 and p2 the low halves alone, as ppn_madd_simd() wants one factor. */
typedef struct {
    ppn_chunk h;
    ppn_lanes p1[16], p2[16], p3[16];
} ppn_curves;

/* ppn_curve_at() for tanh; |z| as encoded */
static inline void ppn_tanh_chunk(const ppn_chunk *z, int bends, ppn_curves *c) {
    ppn_lanes zero = ppn_all_simd(0), s = ppn_add_simd(z->e, ppn_all_simd(22)), most = ppn_all_simd((1 << 25) - 1);
    ppn_lanes up = ppn_max_simd(ppn_min_simd(s, ppn_all_simd(25)), zero), fit = ppn_down_by_simd(most, up);
    ppn_shift by = ppn_shift_by(ppn_max_simd(ppn_sub_simd(zero, s), zero));
    for (int l = 0; l < 16; l++) {
        ppn_lanes size = ppn_abs_simd(ppn_shifted(z->x[l], by));
        ppn_lanes x = ppn_above_simd(size, fit, most, ppn_left_by_simd(size, up));
        ppn_lanes pairs = ppn_pairs_simd(PPN_TANH_TABLE, ppn_down_simd(x, 15)); /* none is negative */
        ppn_lanes low = ppn_low16(pairs), f = ppn_and_simd(x, ppn_all_simd(32767));
        ppn_lanes rise = ppn_rnd_madd_simd(ppn_sub_simd(ppn_high16_simd(pairs), low), f, 15);
        ppn_lanes h = ppn_signed_simd(ppn_add_simd(low, rise), z->x[l]), minus = ppn_sub_simd(zero, h);
        ppn_lanes one = ppn_all_simd((1 << 30) + (1 << 15)); /* and half of what is rounded away */
        ppn_lanes p1 = ppn_asr_simd(ppn_madd_onto_simd(one, ppn_low16(h), minus), 16); /* >= 0 */
        c->h.x[l] = h;
        c->p1[l] = p1;
        if (!bends) continue;
        ppn_lanes p2 = ppn_low16(ppn_rnd_madd_simd(p1, minus, 14)), twice = ppn_add_simd(p1, p1);
        x = ppn_madd_onto_simd(ppn_all_simd(1 << 13), p1, ppn_sub_simd(zero, twice)); /* >= -2^15 */
        c->p2[l] = p2;
        c->p3[l] = ppn_asr_simd(ppn_madd_onto_simd(x, p2, minus), 14);
    }
}
/* ppn_sin15() of |angle| < 2^24 */
static inline ppn_lanes ppn_sines(ppn_lanes angle) {
    ppn_lanes quarter = ppn_all_simd(1 << 22), v = ppn_and_simd(angle, ppn_all_simd((1 << 22) - 1));
    ppn_lanes odd = ppn_and_simd(angle, quarter), zero = ppn_all_simd(0);
    v = ppn_above_simd(odd, zero, ppn_sub_simd(quarter, v), v);
    ppn_lanes pairs = ppn_pairs_simd(PPN_SINE_TABLE, ppn_down_simd(v, 13)), low = ppn_low16(pairs);
    ppn_lanes f = ppn_and_simd(v, ppn_all_simd(8191)), rise = ppn_sub_simd(ppn_high16_simd(pairs), low);
    return ppn_signed_simd(ppn_add_simd(low, ppn_rnd_madd_simd(rise, f, 13)), ppn_left_simd(angle, 8));
}
/* ppn_curve_at() for sine */
static inline void ppn_sine_chunk(const ppn_chunk *z, ppn_curves *c) {
    ppn_lanes zero = ppn_all_simd(0), one = ppn_all_simd(1), turn = ppn_all_simd(0xFFFFFF);
    ppn_lanes s = ppn_add_simd(z->e, ppn_all_simd(7)), up = ppn_min_simd(ppn_max_simd(s, zero), ppn_all_simd(32));
    ppn_lanes down = ppn_sub_simd(zero, s), last = ppn_sub_simd(ppn_max_simd(down, one), one);
    for (int l = 0; l < 16; l++) {
        ppn_lanes m = ppn_low16(z->x[l]), u = ppn_left_simd(ppn_madd_simd(m, ppn_all_simd(5215)), 2);
        u = ppn_add_simd(u, ppn_rnd_madd_simd(m, ppn_all_simd(6199), 13)); /* |u| < 2^30 */
        ppn_lanes half = ppn_and_simd(ppn_asr_by_simd(u, last), one);      /* shifts by 32 and more leave the sign */
        ppn_lanes less = ppn_add_simd(ppn_asr_by_simd(u, ppn_max_simd(down, zero)), half);
        ppn_lanes angle = ppn_and_simd(ppn_above_simd(down, zero, less, ppn_left_by_simd(u, up)), turn);
        ppn_lanes next = ppn_and_simd(ppn_add_simd(angle, ppn_all_simd(1 << 22)), turn);
        ppn_lanes h = ppn_sines(angle), g = ppn_rnd_simd(ppn_sines(next), 1);
        c->h.x[l] = h;
        c->p1[l] = ppn_low16(g);
        c->p2[l] = ppn_low16(ppn_rnd_simd(ppn_sub_simd(zero, h), 1));
        c->p3[l] = ppn_sub_simd(zero, g);
    }
}
/* ppn_curve_at(); its second and third derivative only if |bends| */
static inline void ppn_curve_chunk(int activation, const ppn_chunk *z, int bends, ppn_curves *c) {
    if (activation == PPN_TANH)
        ppn_tanh_chunk(z, bends, c);
    else
        ppn_sine_chunk(z, c);
}

/* ---- jet ------------------------------------------------------------------------------------------------------- */

/* ppn_pair_out of a chunk: outputs; kept mantissas, and the exponents of the sums that they were rounded from. */
typedef struct {
    ppn_chunk a, s;
    ppn_lanes d[16], n[16], ed, en;
} ppn_pair_chunk;

/* The two-term aligned sum: its exponents, and how either term is brought to them. */
typedef struct {
    ppn_lanes e;
    ppn_shift x, y;
} ppn_two;

static inline ppn_two ppn_two_terms(ppn_lanes ex, ppn_lanes ey) {
    ppn_two two;
    two.e = ppn_add_simd(ppn_max_simd(ex, ey), ppn_all_simd(1));
    two.x = ppn_shift_by(ppn_sub_simd(two.e, ex));
    two.y = ppn_shift_by(ppn_sub_simd(two.e, ey));
    return two;
}
/* Exponents of terms made of blocks, as ppn_term() and ppn_term_square() have them. */
static inline ppn_lanes ppn_terms(const ppn_chunk *c, int shift) {
    return ppn_add_simd(ppn_reach(c->e), ppn_all_simd(shift));
}
static inline ppn_lanes ppn_terms_square(const ppn_chunk *c) { return ppn_add_simd(ppn_reach(c->e), ppn_reach(c->e)); }
/* The product of two int16. */
static inline ppn_lanes ppn_times(ppn_lanes x, ppn_lanes y) { return ppn_madd_simd(ppn_low16(x), y); }
static inline ppn_lanes ppn_rnd_times(ppn_lanes x, ppn_lanes y, int s) { return ppn_rnd_madd_simd(ppn_low16(x), y, s); }
static inline ppn_lanes ppn_minus(ppn_lanes x) { return ppn_sub_simd(ppn_all_simd(0), x); }

/* An element of an odd part: its output and its kept mantissa; both have a's exponents less 14. */
static inline void ppn_odd_element(const ppn_curves *c, int l, ppn_lanes a, ppn_lanes *out, ppn_lanes *kept) {
    *out = ppn_madd_simd(c->p1[l], a);
    *kept = ppn_rnd_madd_simd(c->p2[l], a, 15);
}
/* The same of an even part, from the square |q| of one direction or the sum of several. */
static inline void ppn_even_element(const ppn_curves *c, int l, ppn_lanes s, ppn_lanes q, const ppn_two *two,
                                    ppn_lanes *out, ppn_lanes *kept) {
    *out = ppn_add_simd(ppn_shifted_madd(c->p1[l], s, two->x), ppn_shifted_madd(c->p2[l], q, two->y));
    ppn_lanes x = ppn_add_simd(ppn_shifted_madd(c->p2[l], s, two->x), ppn_shifted_madd(c->p3[l], q, two->y));
    *kept = ppn_rnd_simd(x, 15);
}

/* ppn_jet() */
static inline void ppn_jet_chunk(const ppn_curves *c, const ppn_chunk *a, const ppn_chunk *s, ppn_pair_chunk *out) {
    ppn_two two = ppn_two_terms(ppn_terms(s, -14), ppn_terms_square(a));
    out->a.e = out->ed = ppn_terms(a, -14);
    out->s.e = out->en = two.e;
    for (int k = 0; k < 16; k++) {
        ppn_odd_element(c, k, a->x[k], &out->a.x[k], &out->d[k]);
        ppn_even_element(c, k, s->x[k], ppn_rnd_times(a->x[k], a->x[k], 15), &two, &out->s.x[k], &out->n[k]);
    }
}

/* The sum of squares of |count| chunks, encoded to SMX(16) (spec 5, laplacian). */
static inline void ppn_square_chunks(const ppn_chunk *a, uint32_t count, uint32_t blocks, ppn_chunk *q, int *flags) {
    ppn_lanes top = ppn_all_simd(2 * PPN_FAR);
    for (int l = 0; l < 16; l++) q->x[l] = ppn_all_simd(0);
    for (uint32_t k = 0; k < count; k++) top = ppn_max_simd(top, ppn_terms_square(&a[k]));
    for (uint32_t k = 0; k < count; k++) {
        ppn_shift by = ppn_shift_by(ppn_sub_simd(top, ppn_terms_square(&a[k])));
        for (int l = 0; l < 16; l++) {
            ppn_lanes m = a[k].x[l];
            q->x[l] = ppn_add_simd(q->x[l], ppn_shifted(ppn_rnd_times(m, m, 15), by));
        }
    }
    q->e = ppn_add_simd(top, ppn_all_simd(15));
    ppn_encode_chunk(q, blocks, ppn_all_simd(16), NULL, flags);
}
/* One direction of several that share an even part. */
static inline void ppn_odd_chunk(const ppn_curves *c, const ppn_chunk *a, ppn_chunk *out, ppn_lanes kept[16]) {
    for (int l = 0; l < 16; l++) ppn_odd_element(c, l, a->x[l], &out->x[l], &kept[l]);
    out->e = ppn_terms(a, -14);
}
/* The even part that they share, from the encoded sum of squares |q|. */
static inline void ppn_even_chunk(const ppn_curves *c, const ppn_chunk *s, const ppn_chunk *q, ppn_chunk *out,
                                  ppn_lanes kept[16]) {
    ppn_two two = ppn_two_terms(ppn_terms(s, -14), ppn_terms(q, -15));
    for (int l = 0; l < 16; l++) ppn_even_element(c, l, s->x[l], q->x[l], &two, &out->x[l], &kept[l]);
    out->e = two.e;
}

/* ---- finite steps ---------------------------------------------------------------------------------------------- */

static inline ppn_lanes ppn_clip_simd(ppn_lanes x, int32_t limit) {
    return ppn_max_simd(ppn_min_simd(x, ppn_all_simd(limit)), ppn_all_simd(-limit));
}

/* How mantissas with given exponents become fixed point. */
typedef struct {
    ppn_lanes up;
    ppn_shift down;
} ppn_fixing;

static inline ppn_fixing ppn_fix_by(ppn_lanes e, int fraction) {
    ppn_lanes s = ppn_add_simd(e, ppn_all_simd(fraction)), zero = ppn_all_simd(0);
    ppn_fixing by = {ppn_min_simd(ppn_max_simd(s, zero), ppn_all_simd(15)),
                     ppn_shift_by(ppn_max_simd(ppn_sub_simd(zero, s), zero))};
    return by;
}
/* ppn_fix(); one of the two shifts is by 0 */
static inline ppn_lanes ppn_fixed(ppn_lanes m, ppn_fixing by, int32_t limit) {
    return ppn_clip_simd(ppn_shifted(ppn_left_by_simd(m, by.up), by.down), limit);
}

/* ppn_limit_step() */
static inline void ppn_limit_steps(ppn_chunk *d, int *flags) {
    ppn_lanes most = ppn_all_simd(-12), up = ppn_fix_by(d->e, 12).up, cut = ppn_all_simd(0);
    for (int l = 0; l < 16; l++) {
        ppn_lanes x = ppn_left_by_simd(d->x[l], up);
        d->x[l] = ppn_clip_simd(x, 32767);
        cut = ppn_or_simd(cut, ppn_xor_simd(x, d->x[l]));
    }
    d->e = ppn_min_simd(d->e, most);
    if (ppn_fold_simd(cut)) *flags |= PPN_STEP;
}

/* ppn_ratio() of steps that |by| brings to 22 fraction bits */
static inline ppn_lanes ppn_ratios(const int16_t *table, ppn_lanes d, ppn_fixing by) {
    ppn_lanes size = ppn_abs_simd(ppn_fixed(d, by, (1 << 25) - 1));
    ppn_lanes pairs = ppn_pairs_simd(table, ppn_down_simd(size, 16)), low = ppn_wide_element(&pairs, 0);
    ppn_lanes rise = ppn_sub_simd(ppn_wide_element(&pairs, 1), low);
    rise = ppn_mul_simd(rise, ppn_and_simd(size, ppn_all_simd(65535)));
    return ppn_add_simd(low, ppn_rnd_simd(rise, 16));
}

/* x / y toward zero, |x| < 2^30, 0 < y <= 2^15: a quotient that is not whole is 2^-15 away from every whole number, and
 * a double rounds it by less than 2^-23. */
static inline ppn_lanes ppn_divide_simd(ppn_lanes x, ppn_lanes y) {
    int32_t a[16], b[16];
    ppn_put_simd(a, x);
    ppn_put_simd(b, y);
    LANES a[l] = (int32_t)((double)a[l] / (double)b[l]);
    return ppn_get_simd(a);
}
/* x 2^14 / y of |x| < 2^15, limited */
static inline ppn_lanes ppn_quotient(ppn_lanes x, ppn_lanes y) {
    return ppn_clip_simd(ppn_divide_simd(ppn_left_simd(x, 14), ppn_max_simd(y, ppn_all_simd(1))), 32767);
}

/* A step through the activation: phi(z + d) - phi(z); phi'(z + d) - phi'(z), kept, and the exponents of what that was
 * rounded from. */
typedef struct {
    ppn_chunk delta;
    ppn_lanes kept[16], e;
} ppn_step_chunk;

static inline void ppn_step_tanh(const ppn_curves *c, const ppn_chunk *d, ppn_step_chunk *out) {
    ppn_fixing by22 = ppn_fix_by(d->e, 22), by14 = ppn_fix_by(d->e, 14), by15 = ppn_fix_by(d->e, 15);
    ppn_lanes one = ppn_all_simd(1 << 14);
    for (int l = 0; l < 16; l++) {
        ppn_lanes m = d->x[l], h = c->h.x[l];
        ppn_lanes t = ppn_rnd_times(m, ppn_ratios(PPN_RATIO_TANH, m, by22), 14);
        ppn_lanes den = ppn_add_simd(one, ppn_rnd_times(h, ppn_fixed(t, by14, 16383), 15));
        ppn_lanes v = ppn_quotient(ppn_rnd_times(c->p1[l], t, 14), den);
        ppn_lanes middle = ppn_clip_simd(ppn_add_simd(h, ppn_rnd_simd(ppn_fixed(v, by15, 65535), 1)), 32767);
        out->delta.x[l] = v;
        out->kept[l] = ppn_rnd_times(ppn_minus(v), middle, 15);
    }
    out->delta.e = d->e;
    out->e = ppn_terms(d, -14);
}

/* ppn_sine_step() */
static inline void ppn_sine_steps(const ppn_chunk *d, ppn_lanes sine[16], ppn_lanes versine[16]) {
    ppn_fixing by = ppn_fix_by(d->e, 22);
    for (int l = 0; l < 16; l++) {
        ppn_lanes m = d->x[l], square = ppn_rnd_times(m, m, 15);
        sine[l] = ppn_rnd_times(m, ppn_ratios(PPN_RATIO_SINE, m, by), 14);
        versine[l] = ppn_rnd_times(square, ppn_ratios(PPN_RATIO_VERSINE, m, by), 14);
    }
}

static inline void ppn_step_sine(const ppn_curves *c, const ppn_chunk *d, uint32_t count, ppn_step_chunk *out,
                                 int *flags) {
    ppn_lanes sine[16], versine[16];
    ppn_two two = ppn_two_terms(ppn_terms(d, -14), ppn_terms_square(d));
    ppn_sine_steps(d, sine, versine);
    for (int l = 0; l < 16; l++) {
        ppn_lanes falls = ppn_low16(ppn_minus(ppn_rnd_simd(c->h.x[l], 1))), less = ppn_minus(versine[l]);
        ppn_lanes x = ppn_shifted_madd(ppn_low16(c->p1[l]), sine[l], two.x);
        out->delta.x[l] = ppn_add_simd(x, ppn_shifted_madd(falls, versine[l], two.y));
        x = ppn_shifted_madd(falls, sine[l], two.x);
        out->kept[l] = ppn_rnd_simd(ppn_add_simd(x, ppn_shifted_madd(ppn_low16(c->p1[l]), less, two.y)), 15);
    }
    out->delta.e = out->e = two.e;
    ppn_encode_chunk(&out->delta, count, ppn_all_simd(16), NULL, flags);
}

/* ppn_limit_step() and ppn_delta(); |d| is limited in place */
static inline void ppn_step(int activation, const ppn_curves *c, ppn_chunk *d, uint32_t count, ppn_step_chunk *out,
                            int *flags) {
    ppn_limit_steps(d, flags);
    if (activation == PPN_TANH)
        ppn_step_tanh(c, d, out);
    else
        ppn_step_sine(c, d, count, out, flags);
}

static inline void ppn_odd_even_tanh_chunk(const ppn_curves *c, const ppn_chunk *a, const ppn_chunk *v, uint32_t count,
                                           ppn_pair_chunk *out, int *flags) {
    ppn_fixing by22 = ppn_fix_by(a->e, 22), by14 = ppn_fix_by(a->e, 14), by15 = ppn_fix_by(v->e, 15);
    ppn_lanes one = ppn_all_simd((1 << 30) + (1 << 15)), unit = ppn_all_simd(1 << 14), odd[16];
    ppn_two two = ppn_two_terms(ppn_terms(v, -14), ppn_terms_square(a));
    for (int l = 0; l < 16; l++) {
        ppn_lanes m = a->x[l], h = ppn_clip_simd(ppn_add_simd(c->h.x[l], ppn_fixed(v->x[l], by15, 65535)), 32767);
        ppn_lanes p = ppn_asr_simd(ppn_madd_onto_simd(one, ppn_low16(h), ppn_minus(h)), 16);
        ppn_lanes big = ppn_rnd_times(m, ppn_ratios(PPN_RATIO_TANH, m, by22), 14);
        ppn_lanes product = ppn_rnd_times(h, ppn_fixed(big, by14, 16383), 15);
        odd[l] = ppn_quotient(ppn_rnd_times(p, big, 14), ppn_sub_simd(unit, ppn_rnd_times(product, product, 14)));
        ppn_lanes bend = ppn_low16(ppn_minus(ppn_rnd_times(h, big, 15)));
        ppn_lanes even = ppn_shifted(ppn_left_simd(v->x[l], 14), two.x);
        out->s.x[l] = ppn_add_simd(even, ppn_shifted_madd(bend, odd[l], two.y));
    }
    out->s.e = two.e;
    ppn_chunk even = out->s;
    ppn_encode_chunk(&even, count, ppn_all_simd(16), NULL, flags);
    by15 = ppn_fix_by(even.e, 15);
    two = ppn_two_terms(ppn_terms(&even, -14), ppn_terms_square(a));
    for (int l = 0; l < 16; l++) {
        ppn_lanes h = c->h.x[l], fixed = ppn_fixed(even.x[l], by15, 65535), minus = ppn_low16(ppn_minus(odd[l]));
        ppn_lanes end = ppn_clip_simd(ppn_add_simd(h, fixed), 32767);
        ppn_lanes middle = ppn_clip_simd(ppn_add_simd(h, ppn_rnd_simd(fixed, 1)), 32767);
        out->d[l] = ppn_rnd_madd_simd(minus, end, 15);
        ppn_lanes x = ppn_shifted_madd(ppn_low16(ppn_minus(middle)), even.x[l], two.x);
        out->n[l] = ppn_rnd_simd(ppn_add_simd(x, ppn_shifted_madd(minus, odd[l], two.y)), 15);
        out->a.x[l] = odd[l];
    }
    out->a.e = ppn_reach(a->e);
    out->ed = ppn_terms(a, -14);
    out->en = two.e;
}

static inline void ppn_odd_even_sine_chunk(const ppn_curves *c, const ppn_chunk *a, const ppn_step_chunk *v,
                                           ppn_pair_chunk *out) {
    ppn_lanes sine[16], versine[16], kept = ppn_add_simd(v->e, ppn_all_simd(15)), square = ppn_terms_square(a);
    ppn_fixing by15 = ppn_fix_by(v->delta.e, 15), by14 = ppn_fix_by(kept, 14);
    ppn_two even = ppn_two_terms(ppn_terms(&v->delta, -14), square);
    ppn_two bent = ppn_two_terms(ppn_add_simd(kept, ppn_all_simd(-14)), square);
    ppn_sine_steps(a, sine, versine);
    for (int l = 0; l < 16; l++) {
        ppn_lanes p1 = ppn_wide_element(&c->p1[l], 0), vm = v->delta.x[l];
        ppn_lanes h = ppn_clip_simd(ppn_add_simd(c->h.x[l], ppn_fixed(vm, by15, 65535)), 32767);
        ppn_lanes falls = ppn_low16(ppn_minus(ppn_rnd_simd(h, 1)));
        ppn_lanes slope = ppn_clip_simd(ppn_add_simd(p1, ppn_fixed(v->kept[l], by14, 32767)), 16384);
        ppn_lanes x = ppn_shifted(ppn_left_simd(vm, 14), even.x);
        out->a.x[l] = ppn_times(slope, sine[l]);
        out->s.x[l] = ppn_add_simd(x, ppn_shifted_madd(falls, versine[l], even.y));
        out->d[l] = ppn_rnd_madd_simd(falls, sine[l], 15);
        x = ppn_shifted(ppn_left_simd(v->kept[l], 14), bent.x);
        x = ppn_add_simd(x, ppn_shifted_madd(ppn_low16(ppn_minus(slope)), versine[l], bent.y));
        out->n[l] = ppn_rnd_simd(x, 15);
    }
    out->a.e = out->ed = ppn_terms(a, -14);
    out->s.e = even.e;
    out->en = bent.e;
}

/* ppn_odd_even(); |a| and |s| are limited in place */
static inline void ppn_odd_even_chunk(int activation, const ppn_curves *c, ppn_chunk *a, ppn_chunk *s, uint32_t count,
                                      ppn_pair_chunk *out, int *flags) {
    ppn_step_chunk v;
    ppn_limit_steps(a, flags);
    ppn_step(activation, c, s, count, &v, flags);
    if (activation == PPN_TANH)
        ppn_odd_even_tanh_chunk(c, a, &v.delta, count, out, flags);
    else
        ppn_odd_even_sine_chunk(c, a, &v, out);
}

#endif
#endif
