/* rows_simd.h: all streams' rows through a stage that does not close, and their gradients, in registers. Internal.
 * The plain way (ppn_row_times, ppn_outer) gives the same bits, a stream at a time. */
#ifndef PPN_ROWS_SIMD_H
#define PPN_ROWS_SIMD_H

#include "pass.h"

#if PPN_SIMD

#define PPN_ROWS 5 /* block rows and block columns that are summed at once: ten accumulators */
#define PPN_COLS 2

/* ---- products -------------------------------------------------------------------------------------------------- */

/* A tile of a product: a row of a stream for each block row, columns of the matrix, what they sum to. */
typedef struct {
    ppn_run rows[PPN_ROWS], cols[PPN_COLS];
    int headroom[PPN_ROWS], top[PPN_ROWS][PPN_COLS];
    ppn_lanes sums[PPN_ROWS][PPN_COLS];
} ppn_tile;

static inline void ppn_tile_sum(ppn_tile *t, uint32_t rows, uint32_t cols, int inner) {
    ppn_lanes acc[PPN_ROWS][PPN_COLS];
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            t->top[r][c] = ppn_run_top(&t->rows[r], &t->cols[c], inner);
            acc[r][c] = ppn_all_simd(0);
        }
    for (int k = 0; k < inner; k++) {
        ppn_right right[PPN_COLS];
        int e[PPN_COLS];
        for (uint32_t c = 0; c < cols; c++) {
            ppn_operand from = {t->cols[c].mantissas, t->cols[c].wide, t->cols[c].turned};
            right[c] = ppn_right_simd(&from, k * t->cols[c].step);
            e[c] = t->cols[c].exps[k * t->cols[c].step];
        }
        for (uint32_t r = 0; r < rows; r++) {
            ppn_operand from = {t->rows[r].mantissas, t->rows[r].wide, 0};
            ppn_left left = ppn_spread_simd(&from, k);
            int at = t->headroom[r] - t->rows[r].exps[k];
            for (uint32_t c = 0; c < cols; c++) {
                /* a zero block adds zeros at any shift; a shift out of range, either way, belongs to one or vanishes */
                unsigned shift = (unsigned)(t->top[r][c] + at - e[c]);
                if (shift <= 30)
                    acc[r][c] = ppn_add_simd(acc[r][c], ppn_rnd_simd(ppn_dot_simd(left, right[c]), (int)shift));
            }
        }
    }
    memcpy(t->sums, acc, sizeof acc);
}

/* The tile with its most frequent sizes as constants. */
static inline void ppn_tile_product(ppn_tile *t, uint32_t rows, uint32_t cols, int inner) {
    if (rows == PPN_ROWS && cols == PPN_COLS)
        ppn_tile_sum(t, PPN_ROWS, PPN_COLS, inner);
    else if (rows == 1 && cols == PPN_COLS)
        ppn_tile_sum(t, 1, PPN_COLS, inner);
    else
        ppn_tile_sum(t, rows, cols, inner);
}

/* Rows of the streams of a stage that does not close: where they are, and where their products go. */
typedef struct {
    ppn_run (*row)(const void *of, uint32_t i, uint32_t stream);
    ppn_sink (*sink)(const void *of, uint32_t i, uint32_t stream);
    const void *of;
    int *flags;
} ppn_stream_rows;

static inline void ppn_tile_store(const ppn_tile *t, uint32_t r, uint32_t c, uint32_t column, uint32_t blocks,
                                  ppn_sink sink, int *flags) {
    int empty = t->top[r][c] == UNUSED_TERM;
    ppn_lanes m;
    sink.how.index = column * 16;
    int e = ppn_encode_simd(t->sums[r][c], empty ? PPN_EMPTY_EXP : t->top[r][c] + t->headroom[r], sink.bits, sink.how,
                            &m, flags);
    ppn_store_simd(sink.at, blocks, sink.wide, column, m, e);
}

/* All streams through stage |i|, over the matrix's rows or columns. Answers 0 where the plain way must do it. */
static inline int ppn_streams_times(const ppn_stream_rows *s, const ppn_stage *stage, uint32_t i, uint32_t streams,
                                    ppn_run matrix, int over_rows) {
    uint32_t high = ppn_blocks(stage->rows), wide = ppn_blocks(stage->cols);
    uint32_t inner = over_rows ? high : wide, outer = over_rows ? wide : high, blocks = stage->panels * outer;
    ppn_tile t;
    for (uint32_t r = 0; r < streams; r++) {
        ppn_run row = s->row(s->of, i, r);
        if (!row.exps || row.bits + matrix.bits > 30) return 0;
    }
    matrix.step = over_rows ? (int)wide : 1;
    matrix.turned = (uint8_t)over_rows;
    for (uint32_t first = 0; first < streams; first += PPN_ROWS) {
        uint32_t rows = streams - first < PPN_ROWS ? streams - first : PPN_ROWS;
        ppn_sink sinks[PPN_ROWS];
        for (uint32_t r = 0; r < rows; r++) {
            t.rows[r] = s->row(s->of, i, first + r);
            sinks[r] = s->sink(s->of, i, first + r);
            t.headroom[r] = ppn_headroom((int)inner, t.rows[r].bits, matrix.bits);
        }
        for (uint32_t column = 0; column < blocks;) {
            uint32_t k = column % outer, cols = outer - k < PPN_COLS ? outer - k : PPN_COLS;
            for (uint32_t c = 0; c < cols; c++)
                t.cols[c] = ppn_run_at(matrix, (int)(over_rows ? k + c : (k + c) * inner));
            ppn_tile_product(&t, rows, cols, (int)inner);
            for (uint32_t r = 0; r < rows; r++)
                for (uint32_t c = 0; c < cols; c++) ppn_tile_store(&t, r, c, column + c, blocks, sinks[r], s->flags);
            column += cols;
            if (column % outer == 0)
                for (uint32_t r = 0; r < rows; r++) t.rows[r] = ppn_run_at(t.rows[r], (int)inner);
        }
    }
    return 1;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

static ppn_run ppn_forward_row(const void *of, uint32_t i, uint32_t stream) {
    const ppn_pass *p = of;
    return ppn_stage_row(p->net, p->batch, p->tape, p->at, i, stream);
}
static ppn_sink ppn_forward_sink(const void *of, uint32_t i, uint32_t stream) {
    const ppn_pass *p = of;
    int bits = ppn_row_bits(p->net, stream);
    uint8_t *at = p->tape + p->net->places[i + 1].input + ppn_row_at(p->net, p->net->places[i].out_blocks, stream);
    ppn_sink sink = {at, bits, ppn_wide(bits), PPN_NEAREST, NULL, NULL, NULL};
    return sink;
}
static inline int ppn_forward_rows(ppn_pass *p, uint32_t i, ppn_run matrix) {
    const ppn_stage *s = &p->net->stages[i];
    ppn_stream_rows rows = {ppn_forward_row, ppn_forward_sink, p, &p->flags};
    return ppn_streams_times(&rows, s, i, p->streams, matrix, s->expand);
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

static ppn_run ppn_return_row(const void *of, uint32_t i, uint32_t stream) { return ppn_cotangent_row(of, i, stream); }
static ppn_sink ppn_return_sink(const void *of, uint32_t i, uint32_t stream) {
    const ppn_return *b = of;
    uint8_t *at = ppn_row16_at(b->rows[1], b->pass.net->places[i].in_blocks, stream);
    ppn_sink sink = {at, b->pass.net->bits_gradients, 1, ppn_stream_rounding(b, stream), NULL, NULL, NULL};
    return sink;
}
static inline int ppn_return_rows(ppn_return *b, uint32_t i, ppn_run matrix) {
    const ppn_stage *s = &b->pass.net->stages[i];
    ppn_stream_rows rows = {ppn_return_row, ppn_return_sink, b, &b->pass.flags};
    return ppn_streams_times(&rows, s, i, b->pass.streams, matrix, !s->expand);
}

/* ppn_outer() for a chunk of streams: each sum is read and written once for all of them. */
static inline void ppn_outer_chunk(ppn_accumulator *a, int limit, const ppn_run *left, uint32_t rows,
                                   const ppn_run *right, uint32_t cols, uint32_t streams, int32_t *sums) {
    ppn_lanes peak = ppn_all_simd(0);
    for (uint32_t m = 0; m < rows; m++) {
        ppn_left x[PPN_ROWS];
        for (uint32_t r = 0; r < streams; r++) {
            ppn_operand from = {left[r].mantissas, left[r].wide, 1};
            x[r] = ppn_spread_simd(&from, m);
        }
        for (uint32_t n = 0; n < cols; n++) {
            int32_t *to = sums + (m * cols + n) * 16;
            ppn_lanes acc = ppn_get_simd(to);
            for (uint32_t r = 0; r < streams; r++) {
                int el = left[r].exps[m], er = right[r].exps[n], down = a->exp - el - er;
                if (el == PPN_ZERO_EXP || er == PPN_ZERO_EXP || down > 30) continue;
                if (down < left[r].bits + right[r].bits - 30) { /* 2^30 is near: the plain way, on the sum so far */
                    ppn_put_simd(to, acc);
                    ppn_outer_block(a, limit, &left[r], m, &right[r], n, to);
                    acc = ppn_get_simd(to);
                    continue;
                }
                ppn_operand with = {right[r].mantissas, right[r].wide, 1};
                /* the sign of the shift changes from block to block: no branch */
                ppn_lanes t = ppn_left_simd(ppn_dot_simd(x[r], ppn_right_simd(&with, n)), ppn_max(-down, 0));
                t = ppn_rnd_simd(t, ppn_max(down, 0));
                peak = ppn_or_simd(peak, ppn_abs_simd(t));
                acc = ppn_add_simd(acc, ppn_clip_simd(t, 1 << limit));
            }
            ppn_put_simd(to, acc);
        }
    }
    a->peak |= ppn_fold_simd(peak);
}

/* The weight gradient of stage |i|. Answers 0 where the plain way must do it. */
static inline int ppn_outer_streams(const ppn_return *b, uint32_t i, ppn_accumulator *a, int limit, int32_t *sums) {
    const ppn_pass *p = &b->pass;
    const ppn_stage *s = &p->net->stages[i];
    uint32_t in = ppn_blocks(ppn_stage_in(s)), out = ppn_blocks(ppn_stage_out(s));
    for (uint32_t r = 0; r < p->streams; r++)
        if (ppn_stage_row(p->net, p->batch, p->tape, p->at, i, r).bits + p->net->bits_gradients > 30) return 0;
    for (uint32_t first = 0; first < p->streams;) {
        ppn_run x[PPN_ROWS], c[PPN_ROWS];
        uint32_t held = 0;
        for (; held < PPN_ROWS && first < p->streams; first++) {
            x[held] = ppn_stage_row(p->net, p->batch, p->tape, p->at, i, first);
            if (!x[held].exps) continue; /* a zero row */
            c[held] = ppn_cotangent_row(b, i, first);
            x[held].turned = c[held].turned = 1;
            held++;
        }
        for (uint32_t panel = 0; panel < s->panels; panel++) {
            if (s->expand)
                ppn_outer_chunk(a, limit, x, in, c, out, held, sums);
            else
                ppn_outer_chunk(a, limit, c, out, x, in, held, sums);
            for (uint32_t r = 0; r < held; r++) {
                x[r] = ppn_run_at(x[r], (int)in);
                c[r] = ppn_run_at(c[r], (int)out);
            }
        }
    }
    return 1;
}

#endif
#endif
