/* packed.h: products whose right side was arranged once for many of them (spec 3), such as weights. The host's only.
 *
 * Block columns stand in groups. Where the inner size is worth it, 16 have a lane each (columns_simd.h), and a block
 * row is multiplied with all. Groups of 8, at the end of 4, 2 and 1, go with so many block rows that a tile has 16
 * sums: then what is one number a sum fills a vector, too. Of a group, for each k, first come the blocks of all its
 * columns, as ppn_pairs or as ppn_right has them, then, behind all groups' blocks, int32 exponents. */
#ifndef PPN_PACKED_H
#define PPN_PACKED_H

#include "../src/columns_simd.h"
#include "../src/rows_simd.h"
#include "host.h"

#if PPN_SIMD

#define PPN_TILE 16
#define PPN_DEEP 8 /* inner blocks from which on it is worth it to turn sums of 16 columns back into blocks */

static inline uint32_t ppn_group_width(uint32_t cols, uint32_t inner) {
    return PPN_SUMMED == 4 && cols >= 16 && inner >= PPN_DEEP ? 16 : cols >= 8 ? 8 : cols >= 4 ? 4 : cols >= 2 ? 2 : 1;
}

/* Lanes of a chunk: columns from |first| on. */
static void ppn_pack_lanes(const ppn_view *b, uint32_t first, uint32_t inner, int16_t *blocks, int32_t *exps) {
    ppn_column_runs from = {ppn_view_line(b, first, !b->transposed), b->transposed ? b->cols : 1, PPN_CHUNK};
    ppn_take_exps(&from, inner, (int32_t (*)[PPN_CHUNK])exps);
    ppn_take_pairs(&from, inner, (ppn_pairs *)(void *)blocks);
}
/* A column, one of |width|. */
static void ppn_pack_column(ppn_run from, uint32_t inner, uint32_t width, int16_t *blocks, int32_t *exps) {
    ppn_operand operand = {from.mantissas, from.wide, from.turned};
    for (uint32_t k = 0; k < inner; k++, blocks += width * 16, exps += width) {
        ptrdiff_t at = (ptrdiff_t)k * from.step;
        ppn_put_right_simd(blocks, ppn_right_simd(&operand, at));
        *exps = ppn_reach_one(from.exps[at]);
    }
}
static int ppn_pack(const ppn_matrix *b, uint8_t *to) {
    if (!ppn_matrix_ok(b)) return PPN_BAD_WIDTH;
    ppn_view view = ppn_matrix_view(b);
    uint32_t inner = ppn_view_rows(&view), cols = ppn_view_cols(&view);
    int16_t *blocks = (int16_t *)(void *)to;
    int32_t *exps = (int32_t *)(void *)(to + (size_t)cols * inner * 32);
    for (uint32_t first = 0, width; first < cols; first += width) {
        size_t at = (size_t)first * inner;
        width = ppn_group_width(cols - first, inner);
        if (width == PPN_CHUNK)
            ppn_pack_lanes(&view, first, inner, blocks + at * 16, exps + at);
        else
            for (uint32_t c = 0; c < width; c++, at++)
                ppn_pack_column(ppn_view_line(&view, first + c, !view.transposed), inner, width, blocks + at * 16,
                                exps + at);
    }
    return PPN_OK;
}

/* Block rows of a left side, and the columns that they are to be multiplied with. */
typedef struct {
    const ppn_view *a;
    const ppn_factor *b;
    uint32_t low, high;            /* rows low .. high - 1 are asked for */
    const int16_t *rows[PPN_TILE]; /* mantissas */
    size_t place[PPN_TILE];        /* of each row in the outcome, in blocks */
    int step, turned, headroom;    /* step: blocks from one k to the next */
    int32_t *out;
    int16_t *out_exps;
    int32_t left[PPN_INNER / 4][PPN_TILE];  /* for each k, the exponent of each sum's row, */
    int32_t pairs[PPN_INNER / 4][PPN_TILE]; /* and of its pair of blocks */
} ppn_strip;

/* Turn to |rows| rows from |row| on; behind the end the last one stands in, to be answered again. */
PPN_EACH void ppn_strip_rows(ppn_strip *s, uint32_t row, uint32_t rows, uint32_t cols) {
    uint32_t last = s->high - 1;
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t at = row + r < last ? row + r : last;
        ppn_run run = ppn_view_line(s->a, at, s->a->transposed);
        s->rows[r] = run.mantissas;
        s->place[r] = (size_t)at * s->b->cols;
        s->step = run.step;
        for (uint32_t k = 0; k < s->b->inner; k++) {
            int32_t e = ppn_reach_one(run.exps[(ptrdiff_t)k * run.step]);
            for (uint32_t c = 0; c < cols; c++) s->left[k][r * cols + c] = e;
        }
    }
}

/* Exponents of all sums of a group. */
PPN_EACH ppn_lanes ppn_strip_exps(ppn_strip *s, const int32_t *exps, uint32_t cols) {
    ppn_lanes top = ppn_all_simd(2 * PPN_FAR);
    for (uint32_t k = 0; k < s->b->inner; k++) {
        ppn_lanes e = ppn_add_simd(ppn_get_simd(s->left[k]), ppn_repeat_simd(exps + k * cols, cols));
        ppn_put_simd(s->pairs[k], e);
        top = ppn_max_simd(top, e);
    }
    return ppn_add_simd(top, ppn_all_simd(s->headroom));
}

static inline ppn_left ppn_strip_left(const ppn_strip *s, uint32_t r, uint32_t k) {
    ppn_operand from = {s->rows[r], 1, s->turned};
    return ppn_spread_simd(&from, (ptrdiff_t)k * s->step);
}
/* acc + the product of a pair, aligned. */
PPN_EACH ppn_lanes ppn_add_pair(ppn_lanes acc, ppn_left left, ppn_right right, const ppn_shifts *by, uint32_t l) {
    ppn_lanes x = ppn_dot_onto_simd(ppn_all_simd(by->half[l]), left, right);
    return ppn_add_simd(acc, ppn_asr_by_simd(x, ppn_all_simd(by->shift[l])));
}
/* All pairs at |k| onto the sums: of rows and columns the fewer stay in registers. */
PPN_EACH void ppn_strip_pairs(const ppn_strip *s, const int16_t *blocks, uint32_t k, uint32_t rows, uint32_t cols,
                              const ppn_shifts *by, ppn_lanes *acc) {
    if (rows <= cols) {
        ppn_left left[4];
        PPN_UNROLLED(uint32_t r = 0; r < rows; r++) left[r] = ppn_strip_left(s, r, k);
        PPN_UNROLLED(uint32_t c = 0; c < cols; c++) {
            ppn_right right = ppn_get_right_simd(blocks + c * 16);
            PPN_UNROLLED(uint32_t l = c; l < PPN_TILE; l += cols)
            acc[l] = ppn_add_pair(acc[l], left[l / cols], right, by, l);
        }
    } else {
        ppn_right right[2];
        PPN_UNROLLED(uint32_t c = 0; c < cols; c++) right[c] = ppn_get_right_simd(blocks + c * 16);
        PPN_UNROLLED(uint32_t r = 0; r < rows; r++) {
            ppn_left left = ppn_strip_left(s, r, k);
            PPN_UNROLLED(uint32_t c = 0; c < cols; c++)
            acc[r * cols + c] = ppn_add_pair(acc[r * cols + c], left, right[c], by, r * cols + c);
        }
    }
}

/* Of the group of columns from |first| on, mantissas and exponents. */
static inline const int16_t *ppn_packed_blocks(const ppn_factor *b, uint32_t first) {
    return (const int16_t *)(const void *)b->blocks + (size_t)first * b->inner * 16;
}
static inline const int32_t *ppn_packed_exps(const ppn_factor *b, uint32_t first) {
    const uint8_t *exps = b->blocks + (size_t)b->cols * b->inner * 32;
    return (const int32_t *)(const void *)exps + (size_t)first * b->inner;
}

/* The strip's rows times the group of columns from |first| on. */
PPN_EACH void ppn_strip_group(ppn_strip *s, uint32_t first, uint32_t rows, uint32_t cols) {
    uint32_t inner = s->b->inner;
    const int16_t *blocks = ppn_packed_blocks(s->b, first);
    ppn_lanes acc[PPN_TILE], e = ppn_strip_exps(s, ppn_packed_exps(s->b, first), cols);
    ppn_shifts by[PPN_CHUNK];
    int16_t e16[PPN_TILE];
    PPN_UNROLLED(uint32_t l = 0; l < PPN_TILE; l++) acc[l] = ppn_all_simd(0);
    for (uint32_t at = 0; at < inner; at += PPN_CHUNK) {
        uint32_t count = inner - at < PPN_CHUNK ? inner - at : PPN_CHUNK;
        for (uint32_t k = 0; k < count; k++) ppn_shifts_by(&by[k], ppn_sub_simd(e, ppn_get_simd(s->pairs[at + k])));
        for (uint32_t k = 0; k < count; k++)
            ppn_strip_pairs(s, blocks + (size_t)(at + k) * cols * 16, at + k, rows, cols, &by[k], acc);
    }
    PPN_UNROLLED(uint32_t l = 0; l < PPN_TILE; l++)
    ppn_put_simd(s->out + (s->place[l / cols] + first + l % cols) * 16, acc[l]);
    ppn_put16_simd(e16, ppn_max_simd(e, ppn_all_simd(PPN_EMPTY_EXP)));
    for (uint32_t r = 0; r < rows; r++) memcpy(s->out_exps + s->place[r] + first, e16 + r * cols, cols * sizeof *e16);
}

/* All rows times columns first .. end - 1, groups of one width. */
PPN_EACH void ppn_strip_all(ppn_strip *s, uint32_t first, uint32_t end, uint32_t cols) {
    uint32_t rows = PPN_TILE / cols;
    for (uint32_t row = s->low; row < s->high; row += rows) {
        ppn_strip_rows(s, row, rows, cols);
        for (uint32_t at = first; at < end; at += cols) ppn_strip_group(s, at, rows, cols);
    }
}

/* The strip's rows times the sixteen columns from |first| on. */
PPN_EACH void ppn_strip_lanes(const ppn_strip *s, uint32_t first, int turned) {
    ppn_columns columns = {s->b->inner, (const int32_t (*)[PPN_CHUNK])ppn_packed_exps(s->b, first),
                           (const ppn_pairs *)(const void *)ppn_packed_blocks(s->b, first)};
    for (uint32_t row = s->low; row < s->high; row++) {
        size_t at = (size_t)row * s->b->cols + first;
        int32_t *to = s->out + at * 16;
        ppn_chunk sums;
        ppn_run line = ppn_view_line(s->a, row, turned);
        ppn_chunk_run(&line, turned, &columns, s->b->bits, &sums);
        ppn_turn_simd(sums.x);
        for (uint32_t n = 0; n < PPN_CHUNK; n++) ppn_put_simd(to + n * 16, sums.x[n]);
        ppn_put16_simd(s->out_exps + at, ppn_max_simd(sums.e, ppn_all_simd(PPN_EMPTY_EXP)));
    }
}

#define PPN_NEAR (1 << 18) /* bytes of columns that stay near while all rows pass */

static void ppn_times_columns(const ppn_view *a, const ppn_factor *b, uint32_t low, uint32_t high, int32_t *out,
                              int16_t *out_exps) {
    ppn_strip s; /* 128 KiB: to clear it would take as long as a small product */
    s.a = a, s.b = b, s.low = low, s.high = high, s.out = out, s.out_exps = out_exps, s.turned = a->transposed;
    s.headroom = ppn_headroom(b->inner, a->run.bits, b->bits);
    uint32_t panel = 8 * (1 + PPN_NEAR / (8u * PPN_PACKED_BYTES * b->inner)), whole = b->cols & ~7u, first = 0;
    for (; ppn_group_width(b->cols - first, b->inner) == PPN_CHUNK; first += PPN_CHUNK)
        if (s.turned)
            ppn_strip_lanes(&s, first, 1);
        else
            ppn_strip_lanes(&s, first, 0);
    for (; first < whole; first += panel) ppn_strip_all(&s, first, first + panel < whole ? first + panel : whole, 8);
    if (b->cols & 4) ppn_strip_all(&s, whole, whole + 4, 4);
    if (b->cols & 2) ppn_strip_all(&s, b->cols & ~3u, (b->cols & ~3u) + 2, 2);
    if (b->cols & 1) ppn_strip_all(&s, b->cols - 1u, b->cols, 1);
}

#else

/* The portable kernels read the same runs as ever: columns of blocks turned beforehand, then int8 exponents. */
static int ppn_pack(const ppn_matrix *b, uint8_t *to) {
    if (!ppn_matrix_ok(b)) return PPN_BAD_WIDTH;
    ppn_view view = ppn_matrix_view(b);
    uint32_t inner = ppn_view_rows(&view), cols = ppn_view_cols(&view);
    int8_t *exps = (int8_t *)to + (size_t)cols * inner * 32;
    for (uint32_t j = 0; j < cols; j++) {
        ppn_run run = ppn_view_line(&view, j, !view.transposed);
        for (uint32_t k = 0; k < inner; k++, to += 32) {
            ppn_load_block(&run, (int)k, (int16_t *)(void *)to);
            *exps++ = run.exps[(ptrdiff_t)k * run.step];
        }
    }
    return PPN_OK;
}
static void ppn_times_columns(const ppn_view *a, const ppn_factor *b, uint32_t low, uint32_t high, int32_t *out,
                              int16_t *out_exps) {
    const int8_t *exps = (const int8_t *)b->blocks + (size_t)b->cols * b->inner * 32;
    ppn_run columns = {b->blocks, exps, 1, 1, 0, b->bits};
    for (uint32_t i = low; i < high; i++) {
        ppn_ready left;
        ppn_make_ready(&left, ppn_view_line(a, i, a->transposed), b->inner, &columns);
        for (uint32_t j = 0; j < b->cols; j++) {
            size_t at = (size_t)i * b->cols + j;
            ppn_run column = ppn_run_at(columns, (int)(j * b->inner));
            out_exps[at] = (int16_t)ppn_ready_product(&left, &column, out + at * 16);
        }
    }
}

#endif

static int ppn_times_packed(const ppn_matrix *a, const ppn_factor *b, int32_t *out, int16_t *out_exps,
                            ppn_share share) {
    ppn_view view = ppn_matrix_view(a);
    if (!ppn_matrix_ok(a) || a->bits + b->bits > PPN_PACKED_BITS) return PPN_BAD_WIDTH;
    if (ppn_view_cols(&view) != b->inner || b->inner > PPN_INNER / 4) return PPN_BAD_SHAPE;
    uint64_t rows = ppn_view_rows(&view);
    uint32_t low = (uint32_t)(rows * share.part / share.parts);
    ppn_times_columns(&view, b, low, (uint32_t)(rows * (share.part + 1u) / share.parts), out, out_exps);
    return PPN_OK;
}

#endif
