/* columns_simd.h: the product of a run of blocks with sixteen block columns, a lane each. Internal. */
#ifndef PPN_COLUMNS_SIMD_H
#define PPN_COLUMNS_SIMD_H

#include "chunk_simd.h"

#if PPN_SIMD

/* Pairs of mantissas of sixteen blocks: [2 j] and [2 j + 1] are elements k = 0, 1 and k = 2, 3 of output column j. */
typedef int32_t ppn_pairs[8][PPN_CHUNK];

/* Columns of a right side: for each of |inner| blocks their exponents, of a zero block out of reach, and mantissas. */
typedef struct {
    uint32_t inner;
    const int32_t (*e)[PPN_CHUNK];
    const ppn_pairs *right;
} ppn_columns;

/* Columns in memory, the first one and how many blocks lie from one to the next. */
typedef struct {
    ppn_run first;
    uint32_t apart, count;
} ppn_column_runs;

static inline void ppn_take_exps(const ppn_column_runs *from, uint32_t inner, int32_t (*to)[PPN_CHUNK]) {
    for (uint32_t k = 0; k < inner; k++) {
        const int8_t *exps = from->first.exps + (ptrdiff_t)k * from->first.step;
        int8_t e[PPN_CHUNK];
        for (uint32_t n = 0; n < from->count; n++) e[n] = exps[n * from->apart];
        ppn_put_simd(to[k], ppn_reach(ppn_get8_simd(e, from->count, PPN_ZERO_EXP)));
    }
}
static inline void ppn_take_pairs(const ppn_column_runs *from, uint32_t inner, ppn_pairs *to) {
    ppn_operand operand = {from->first.mantissas, from->first.wide, from->first.turned};
    for (uint32_t k = 0; k < inner; k++) {
        int16_t m[16 * PPN_CHUNK];
        ppn_lanes pairs[8];
        ptrdiff_t at = (ptrdiff_t)k * from->first.step;
        for (uint32_t n = 0; n < from->count; n++, at += from->apart) ppn_put_rows_simd(m + 16 * n, &operand, at);
        ppn_get_pairs(m, from->count, pairs);
        for (int l = 0; l < 8; l++) ppn_put_simd(to[k][l], pairs[l]);
    }
}

#define PPN_TAKEN 256 /* inner blocks that there is room for */

/* Columns that were taken, and where they are. */
typedef struct {
    ppn_columns columns;
    int32_t e[PPN_TAKEN][PPN_CHUNK];
    ppn_pairs right[PPN_TAKEN];
} ppn_taken;

static inline void ppn_take_columns(ppn_taken *to, const ppn_column_runs *from, uint32_t inner) {
    ppn_take_exps(from, inner, to->e);
    ppn_take_pairs(from, inner, to->right);
    ppn_columns columns = {inner, (const int32_t (*)[PPN_CHUNK])to->e, (const ppn_pairs *)to->right};
    to->columns = columns;
}

/* The sum of |inner| blocks' products with every column, onto |out| if there is |more| of it; |inner| apart so that it
 * can be constant. */
PPN_EACH void ppn_chunk_sums(const ppn_shift *s, const int32_t left[][8], const ppn_pairs *right, uint32_t inner,
                             int more, ppn_chunk *out) {
    for (int first = 0; first < 4; first += PPN_SUMMED) {
        ppn_lanes acc[4 * PPN_SUMMED];
        PPN_UNROLLED(int l = 0; l < 4 * PPN_SUMMED; l++) acc[l] = more ? out->x[4 * first + l] : ppn_all_simd(0);
        for (uint32_t k = 0; k < inner; k++) {
            PPN_UNROLLED(int i = 0; i < PPN_SUMMED; i++) {
                const int32_t *row = left[k] + 2 * (first + i);
                ppn_lanes low = ppn_all_simd(row[0]), high = ppn_all_simd(row[1]);
                PPN_UNROLLED(int j = 0; j < 4; j++) {
                    ppn_lanes x = ppn_madd_onto_simd(s[k].half, low, ppn_get_simd(right[k][2 * j]));
                    x = ppn_madd_onto_simd(x, high, ppn_get_simd(right[k][2 * j + 1]));
                    acc[4 * i + j] = ppn_add_simd(acc[4 * i + j], ppn_asr_by_simd(x, s[k].by));
                }
            }
        }
        PPN_UNROLLED(int l = 0; l < 4 * PPN_SUMMED; l++) out->x[4 * first + l] = acc[l];
    }
}
/* Exponents of the products of a row's block k with every column's. */
PPN_EACH ppn_lanes ppn_chunk_exps(const ppn_run *row, ptrdiff_t step, const ppn_columns *c, uint32_t k) {
    return ppn_add_simd(ppn_all_simd(ppn_reach_one(row->exps[k * step])), ppn_get_simd(c->e[k]));
}
/* The same from block |at| on, for up to PPN_SPREAD. */
PPN_EACH void ppn_chunk_part(const ppn_run *row, int turned, const ppn_columns *c, uint32_t at, ppn_chunk *out) {
    uint32_t inner = c->inner - at < PPN_SPREAD ? c->inner - at : PPN_SPREAD;
    ppn_operand from = {row->mantissas, row->wide, turned};
    ptrdiff_t step = turned ? row->step : 1;
    ppn_shift s[PPN_SPREAD];
    int32_t left[PPN_SPREAD][8]; /* pairs of mantissas */
    for (uint32_t k = 0; k < inner; k++) {
        s[k] = ppn_shift_by(ppn_sub_simd(out->e, ppn_chunk_exps(row, step, c, at + k)));
        ppn_put_rows_simd((int16_t *)(void *)left[k], &from, (at + k) * step);
    }
    if (at)
        ppn_chunk_sums(s, left, c->right + at, inner, 1, out);
    else if (inner == 1)
        ppn_chunk_sums(s, left, c->right, 1, 0, out);
    else if (inner == 2)
        ppn_chunk_sums(s, left, c->right, 2, 0, out);
    else
        ppn_chunk_sums(s, left, c->right, inner, 0, out);
}

/* ppn_run_product() of a row and every column. |turned|: as the row is, apart so that it can be constant; blocks that
 * are not turned lie side by side. */
PPN_EACH void ppn_chunk_run(const ppn_run *row, int turned, const ppn_columns *c, int bits, ppn_chunk *out) {
    ppn_lanes top = ppn_all_simd(2 * PPN_FAR);
    for (uint32_t k = 0; k < c->inner; k++) top = ppn_max_simd(top, ppn_chunk_exps(row, turned ? row->step : 1, c, k));
    out->e = ppn_add_simd(top, ppn_all_simd(ppn_headroom((int)c->inner, row->bits, bits)));
    for (uint32_t at = 0; at < c->inner; at += PPN_SPREAD) ppn_chunk_part(row, turned, c, at, out);
}
/* The same of a stage's row, which is zero if it has no exponents. */
static __attribute__((noinline)) void ppn_chunk_product(ppn_run row, const ppn_columns *c, int bits, ppn_chunk *out) {
    if (row.exps) {
        ppn_chunk_run(&row, 0, c, bits, out);
        return;
    }
    for (int l = 0; l < 16; l++) out->x[l] = ppn_all_simd(0);
    out->e = ppn_all_simd(PPN_FAR);
}

#endif
#endif
