/* product.h: products of runs of SMX blocks (spec 3). Internal.
 *
 * One primitive: out[i][j] = sum over k of a[i][k] b[j][k], both blocks read with k running fastest; a block whose k
 * runs over its rows is read turned. PPN_SIMD selects the body: 0 portable C, else vectors (simd.h). Same bits.
 */
#ifndef PPN_PRODUCT_H
#define PPN_PRODUCT_H

#include "block.h"
#include "cortexm0.h"
#include "cortexm4.h"
#include "simd.h"

#define PPN_SPREAD 64 /* longest run whose left side is spread over vector lanes beforehand */

/* Load a block as 16 int16, k fastest. */
static inline void ppn_load_block(const ppn_run *run, int k, int16_t *m) {
    ptrdiff_t at = (ptrdiff_t)k * run->step * 16;
    if (run->wide) {
        const int16_t *from = (const int16_t *)run->mantissas + at;
        if (!run->turned)
            memcpy(m, from, 32);
        else
            LANES m[l] = from[(l % 4) * 4 + l / 4];
    } else {
        const int8_t *from = (const int8_t *)run->mantissas + at;
        if (!run->turned)
            LANES m[l] = from[l];
        else
            LANES m[l] = from[(l % 4) * 4 + l / 4];
    }
}

/* Exact product of one pair; needs 4 M(p) M(q) < 2^30, that is p + q <= 30. */
static inline void ppn_dot(const int16_t *a, const int16_t *b, int32_t *out) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const int16_t *x = a + 4 * i, *y = b + 4 * j;
            out[4 * i + j] = x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3];
        }
}

/* The same for p + q > 30: up to 2^32, in 64 bits. */
static inline void ppn_dot_wide(const int16_t *a, const int16_t *b, int64_t *out) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int64_t sum = 0;
            for (int k = 0; k < 4; k++) sum += (int32_t)a[4 * i + k] * b[4 * j + k];
            out[4 * i + j] = sum;
        }
}

static inline int64_t ppn_rnd_wide(int64_t x, int s) { return s > 40 ? 0 : (x + ((INT64_C(1) << s) >> 1)) >> s; }

/* Largest exponent sum over the run, UNUSED_TERM if every pair has a zero block. */
static inline int ppn_run_top(const ppn_run *a, const ppn_run *b, int n) {
    int16_t top = UNUSED_TERM;
    if (a->step == 1 && b->step == 1) /* apart, so that a compiler can use vector registers */
        for (int k = 0; k < n; k++) {
            int16_t e = (int16_t)ppn_pair_exp(a->exps[k], b->exps[k]);
            top = e > top ? e : top;
        }
    else
        for (int k = 0; k < n; k++) {
            int16_t e = (int16_t)ppn_pair_exp(a->exps[k * a->step], b->exps[k * b->step]);
            top = e > top ? e : top;
        }
    return top;
}

#if PPN_SIMD
static inline void ppn_run_sum(const ppn_run *a, const ppn_run *b, int n, int top, int headroom, int32_t *out) {
    ppn_operand left = {a->mantissas, a->wide, a->turned}, right = {b->mantissas, b->wide, b->turned};
    ppn_lanes acc = ppn_all_simd(0);
    for (int k = 0; k < n; k++) {
        int i = k * a->step, j = k * b->step, shift = top - ppn_pair_exp(a->exps[i], b->exps[j]) + headroom;
        if (shift > 30) continue;
        ppn_lanes x = ppn_dot_simd(ppn_spread_simd(&left, i), ppn_right_simd(&right, j));
        acc = ppn_add_simd(acc, ppn_rnd_simd(x, shift));
    }
    ppn_put_simd(out, acc);
}
#else
static inline void ppn_run_sum(const ppn_run *a, const ppn_run *b, int n, int top, int headroom, int32_t *out) {
    memset(out, 0, 16 * sizeof *out);
    for (int k = 0; k < n; k++) {
        int16_t x[16], y[16];
        int32_t p[16];
        int e = ppn_pair_exp(a->exps[k * a->step], b->exps[k * b->step]);
        int shift = top - e + headroom;
        if (shift > 30) continue;
        ppn_load_block(a, k, x);
        ppn_load_block(b, k, y);
        ppn_dot(x, y, p);
        int32_t half = (1 << shift) >> 1;
        LANES out[l] += (p[l] + half) >> shift;
    }
}
#endif

/* The sum for p + q > 30. */
#if PPN_SIMD >= 3
static inline void ppn_run_sum_wide(const ppn_run *a, const ppn_run *b, int n, int top, int headroom, int32_t *out) {
    ppn_operand left = {a->mantissas, a->wide, a->turned}, right = {b->mantissas, b->wide, b->turned};
    ppn_lanes acc = ppn_all_simd(0);
    for (int k = 0; k < n; k++) {
        int i = k * a->step, j = k * b->step, e = ppn_pair_exp(a->exps[i], b->exps[j]), shift = top - e + headroom;
        if (e == UNUSED_TERM || shift > 40) continue;
        acc = ppn_add_simd(acc, ppn_dot_wide_simd(ppn_spread_simd(&left, i), ppn_right_simd(&right, j), shift));
    }
    ppn_put_simd(out, acc);
}
#else
static inline void ppn_run_sum_wide(const ppn_run *a, const ppn_run *b, int n, int top, int headroom, int32_t *out) {
    memset(out, 0, 16 * sizeof *out);
    for (int k = 0; k < n; k++) {
        int16_t x[16], y[16];
        int64_t p[16];
        int e = ppn_pair_exp(a->exps[k * a->step], b->exps[k * b->step]);
        if (e == UNUSED_TERM) continue;
        ppn_load_block(a, k, x);
        ppn_load_block(b, k, y);
        ppn_dot_wide(x, y, p);
        LANES out[l] += (int32_t)ppn_rnd_wide(p[l], top - e + headroom);
    }
}
#endif

/* One output block of a product over |n| inner blocks; answers its exponent. A run without exponents is zero. */
static inline int ppn_run_product(const ppn_run *a, const ppn_run *b, int n, int headroom, int32_t *out) {
    int top = a->exps ? ppn_run_top(a, b, n) : UNUSED_TERM;
    if (top == UNUSED_TERM) {
        memset(out, 0, 16 * sizeof *out);
        return PPN_EMPTY_EXP;
    }
    if (a->bits + b->bits > 30)
        ppn_run_sum_wide(a, b, n, top, headroom, out);
    else
        ppn_run_sum(a, b, n, top, headroom, out);
    return top + headroom;
}

/* A left run made ready for many right runs of the same length, width, step and |turned|. */
typedef struct {
    ppn_run run;
    int n, headroom;
#if PPN_SIMD
    int spread; /* its blocks lie in |left| */
    ppn_left left[PPN_SPREAD];
#elif PPN_M0
    int spread;
    ppn_m0_factor left;
#elif PPN_M4
    int spread;
    ppn_m4_factor left;
#endif
} ppn_ready;

static inline void ppn_make_ready(ppn_ready *r, ppn_run run, int n, const ppn_run *right) {
    int bits = right->bits;
    r->run = run;
    r->n = n;
    r->headroom = ppn_headroom(n, run.bits, bits);
#if PPN_SIMD
    r->spread = run.exps && n <= PPN_SPREAD && run.bits + bits <= 30;
    if (!r->spread) return;
    ppn_operand from = {run.mantissas, run.wide, run.turned};
    for (int k = 0; k < n; k++) r->left[k] = ppn_spread_simd(&from, k * run.step);
#elif PPN_M0
    r->spread = run.exps && run.bits + bits != 31; /* 31 bits: a shift of 1, which the assembly does not know */
    if (r->spread) ppn_m0_make_ready(&r->run, right, n, r->headroom, &r->left);
#elif PPN_M4
    r->spread = ppn_m4_takes(&r->run, right, n);
    if (r->spread) ppn_m4_make_ready(&r->run, right, n, r->headroom, &r->left);
#endif
}

/* ppn_run_product() of a ready run. */
static inline int ppn_ready_product(ppn_ready *r, const ppn_run *b, int32_t *out) {
#if PPN_SIMD
    if (r->spread) {
        const ppn_run *a = &r->run;
        ppn_operand right = {b->mantissas, b->wide, b->turned};
        int top = ppn_run_top(a, b, r->n);
        ppn_lanes acc = ppn_all_simd(0);
        for (int k = 0; k < r->n; k++) {
            /* a zero block adds zeros at any shift; one out of range, either way, belongs to it or vanishes */
            unsigned shift = (unsigned)(top - a->exps[k * a->step] - b->exps[k * b->step] + r->headroom);
            if (shift > 30) continue;
            ppn_lanes x = ppn_dot_simd(r->left[k], ppn_right_simd(&right, k * b->step));
            acc = ppn_add_simd(acc, ppn_rnd_simd(x, (int)shift));
        }
        ppn_put_simd(out, acc);
        return top == UNUSED_TERM ? PPN_EMPTY_EXP : top + r->headroom;
    }
#elif PPN_M0
    return r->spread ? ppn_m0_product(&r->run, &r->left, b, out)
                     : ppn_m0_rare_product(&r->run, b, r->n, r->headroom, out);
#elif PPN_M4
    if (r->spread) return ppn_m4_product(&r->left, b, out);
#endif
    return ppn_run_product(&r->run, b, r->n, r->headroom, out);
}

/* A whole matrix of |rows| x |cols| blocks, used as it stands or transposed. */
typedef struct {
    ppn_run run;
    uint32_t rows, cols;
    int transposed;
} ppn_view;

static inline uint32_t ppn_view_rows(const ppn_view *v) { return v->transposed ? v->cols : v->rows; }
static inline uint32_t ppn_view_cols(const ppn_view *v) { return v->transposed ? v->rows : v->cols; }

/* The blocks of one row (|over_rows| 0) or one column (1) of a matrix as stored. */
static inline ppn_run ppn_view_line(const ppn_view *v, uint32_t line, int over_rows) {
    ppn_run run = ppn_run_at(v->run, (int)(over_rows ? line : line * v->cols));
    run.step = over_rows ? (int)v->cols : 1;
    run.turned = (uint8_t)over_rows;
    return run;
}

/* out = op(a) op(b), blocks row by row. */
static inline void ppn_product(const ppn_view *a, const ppn_view *b, int32_t *out, int16_t *exps) {
    uint32_t rows = ppn_view_rows(a), inner = ppn_view_cols(a), cols = ppn_view_cols(b);
    for (uint32_t i = 0; i < rows; i++) {
        ppn_ready left;
        ppn_run right = ppn_view_line(b, 0, !b->transposed);
        ppn_make_ready(&left, ppn_view_line(a, i, a->transposed), (int)inner, &right);
        for (uint32_t j = 0; j < cols; j++) {
            right = ppn_view_line(b, j, !b->transposed);
            exps[i * cols + j] = (int16_t)ppn_ready_product(&left, &right, out + (i * cols + j) * 16);
        }
    }
}

#endif
