/* rows_simd.h: all streams' rows through a stage that does not close, and their gradients, in registers. Internal.
 * The plain way (ppn_row_times, ppn_outer) gives the same bits, a stream at a time. */
#ifndef PPN_ROWS_SIMD_H
#define PPN_ROWS_SIMD_H

#include "chunk_simd.h"
#include "pass.h"

#if PPN_SIMD

#define PPN_ROWS 5 /* block rows and block columns that are summed at once: ten accumulators, of one chunk */
#define PPN_COLS 2

/* ---- products -------------------------------------------------------------------------------------------------- */

/* A tile of a product: a row of a stream for each block row, columns of the matrix, what they sum to. */
typedef struct {
    ppn_run rows[PPN_ROWS], cols[PPN_COLS];
    int headroom[PPN_ROWS], top[PPN_ROWS][PPN_COLS];
    ppn_shifts shifts[PPN_ROWS][PPN_COLS];
    ppn_lanes sums[PPN_ROWS][PPN_COLS];
} ppn_tile;

/* Exponents of a run from block |at| on, |count| of them. */
static inline ppn_lanes ppn_run_exps(const ppn_run *run, int at, int count) {
    int8_t e[PPN_CHUNK] = {0};
    if (run->step == 1) return ppn_get8_simd(run->exps + at, (uint32_t)count, 0);
    for (int k = 0; k < count; k++) e[k] = run->exps[(at + k) * run->step];
    return ppn_get8_simd(e, PPN_CHUNK, 0);
}
/* How pairs at .. at + count - 1 of every row and column are aligned. A zero block adds zeros at any shift. */
static inline void ppn_tile_shifts(ppn_tile *t, uint32_t rows, uint32_t cols, int at, int count) {
    for (uint32_t c = 0; c < cols; c++) {
        ppn_lanes e = ppn_run_exps(&t->cols[c], at, count);
        for (uint32_t r = 0; r < rows; r++) {
            ppn_lanes to = ppn_sub_simd(ppn_all_simd(t->top[r][c] + t->headroom[r]), e);
            ppn_lanes down = ppn_sub_simd(to, ppn_run_exps(&t->rows[r], at, count));
            ppn_shifts_by(&t->shifts[r][c], ppn_max_simd(down, ppn_all_simd(0)));
        }
    }
}
static inline void ppn_tile_sum(ppn_tile *t, uint32_t rows, uint32_t cols, int inner) {
    ppn_lanes acc[PPN_ROWS][PPN_COLS];
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            t->top[r][c] = ppn_run_top(&t->rows[r], &t->cols[c], inner);
            acc[r][c] = ppn_all_simd(0);
        }
    for (int at = 0; at < inner; at += PPN_CHUNK) {
        int count = inner - at < PPN_CHUNK ? inner - at : PPN_CHUNK;
        ppn_tile_shifts(t, rows, cols, at, count);
        for (int k = 0; k < count; k++) {
            ppn_right right[PPN_COLS];
            for (uint32_t c = 0; c < cols; c++) {
                ppn_operand from = {t->cols[c].mantissas, t->cols[c].wide, t->cols[c].turned};
                right[c] = ppn_right_simd(&from, (at + k) * t->cols[c].step);
            }
            for (uint32_t r = 0; r < rows; r++) {
                ppn_operand from = {t->rows[r].mantissas, t->rows[r].wide, 0};
                ppn_left left = ppn_spread_simd(&from, at + k);
                for (uint32_t c = 0; c < cols; c++) {
                    const ppn_shifts *s = &t->shifts[r][c];
                    ppn_lanes x = ppn_dot_onto_simd(ppn_all_simd(s->half[k]), left, right[c]);
                    acc[r][c] = ppn_add_simd(acc[r][c], ppn_asr_by_simd(x, ppn_all_simd(s->shift[k])));
                }
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
    else if (rows == PPN_ROWS && cols == 1)
        ppn_tile_sum(t, PPN_ROWS, 1, inner);
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

/* Encode a tile's sums, as one chunk, to block columns |column| .. of the rows. */
static inline void ppn_tile_store(const ppn_tile *t, uint32_t rows, uint32_t cols, uint32_t column, uint32_t blocks,
                                  const ppn_sink *sinks, int *flags) {
    ppn_chunk chunk;
    int32_t e[PPN_CHUNK] = {0}, bits[PPN_CHUNK] = {0};
    uint32_t seeds[PPN_CHUNK];
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            uint32_t k = r * cols + c;
            chunk.x[k] = t->sums[r][c];
            e[k] = t->top[r][c] == UNUSED_TERM ? PPN_EMPTY_EXP : t->top[r][c] + t->headroom[r];
            bits[k] = sinks[r].bits;
            seeds[k] = sinks[r].how.key + (column + c) * 16 * 0x9E3779B9u;
        }
    chunk.e = ppn_get_simd(e);
    ppn_encode_chunk(&chunk, rows * cols, ppn_get_simd(bits), sinks[0].how.stochastic ? seeds : NULL, flags);
    ppn_put_simd(e, chunk.e);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            uint32_t k = r * cols + c;
            ppn_store_simd(sinks[r].at, blocks, sinks[r].wide, column + c, chunk.x[k], e[k]);
        }
}

/* The last stage's sums, as they are but for the bias. */
static inline void ppn_tile_put(const ppn_tile *t, uint32_t rows, uint32_t cols, uint32_t column, uint32_t blocks,
                                const ppn_sink *sinks) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = column; c < column + cols; c++) {
            int32_t *x = sinks[r].values + c * 16;
            int top = t->top[r][c - column], e = top == UNUSED_TERM ? PPN_EMPTY_EXP : top + t->headroom[r];
            ppn_put_simd(x, t->sums[r][c - column]);
            if (sinks[r].bias) e = ppn_add_bias(sinks[r].bias, blocks, c, x, e);
            sinks[r].exps[c] = (int16_t)e;
        }
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
            if (sinks[0].values)
                ppn_tile_put(&t, rows, cols, column, blocks, sinks);
            else
                ppn_tile_store(&t, rows, cols, column, blocks, sinks, s->flags);
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

/* The last stage, and where its products go. */
typedef struct {
    const ppn_pass *pass;
    int32_t *out;
    int16_t *out_exps;
} ppn_outputs;

static ppn_run ppn_outputs_row(const void *of, uint32_t i, uint32_t stream) {
    return ppn_forward_row(((const ppn_outputs *)of)->pass, i, stream);
}
static ppn_sink ppn_outputs_sink(const void *of, uint32_t i, uint32_t stream) {
    const ppn_outputs *o = of;
    return ppn_output_sink(o->pass, i, stream, o->out, o->out_exps);
}
static inline int ppn_forward_outputs(ppn_pass *p, uint32_t i, ppn_run matrix, int32_t *out, int16_t *out_exps) {
    const ppn_stage *s = &p->net->stages[i];
    ppn_outputs outputs = {p, out, out_exps};
    ppn_stream_rows rows = {ppn_outputs_row, ppn_outputs_sink, &outputs, &p->flags};
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

/* ---- gradients ------------------------------------------------------------------------------------------------- */

#define PPN_LEFTS 4 /* block rows of a gradient that are summed at once */

/* What ppn_outer_chunk() works on: blocks of up to PPN_ROWS streams. */
typedef struct {
    ppn_accumulator *a;
    uint32_t streams, rows, cols; /* block rows and columns of the gradient */
    int lift;                     /* bits by which left mantissas are shifted up */
    ppn_run left[PPN_ROWS], right[PPN_ROWS];
    int32_t *sums;
} ppn_outers;

/* How the lifted products of block |m| of a stream and |count| columns from |n| on are brought to the accumulator's
 * exponent. Answers 0 if that takes a shift up. */
static inline int ppn_outer_shifts(const ppn_outers *o, uint32_t r, uint32_t m, uint32_t n, uint32_t count,
                                   ppn_shifts *s) {
    ppn_lanes e = ppn_reach(ppn_get8_simd(o->right[r].exps + n, count, PPN_ZERO_EXP));
    ppn_lanes of = ppn_add_simd(e, ppn_reach(ppn_all_simd(o->left[r].exps[m])));
    ppn_lanes down = ppn_sub_simd(ppn_all_simd(o->a->exp + o->lift), of);
    if (ppn_negative_simd(down)) return 0;
    ppn_shifts_by(s, down);
    return 1;
}

/* Terms of block rows m .. m + lefts - 1 and |count| block columns from |n| on, in registers. */
static inline ppn_lanes ppn_outer_sum(const ppn_outers *o, const ppn_left x[][PPN_LEFTS],
                                      const ppn_shifts s[][PPN_LEFTS], uint32_t m, uint32_t lefts, uint32_t n,
                                      uint32_t count) {
    ppn_lanes peak = ppn_all_simd(0);
    for (uint32_t c = 0; c < count; c++) {
        ppn_lanes acc[PPN_LEFTS];
        int32_t *to = o->sums + (m * o->cols + n + c) * 16;
        for (uint32_t k = 0; k < lefts; k++) acc[k] = ppn_get_simd(to + k * o->cols * 16);
        for (uint32_t r = 0; r < o->streams; r++) {
            ppn_operand from = {o->right[r].mantissas, o->right[r].wide, 1};
            ppn_right right = ppn_right_simd(&from, n + c);
            for (uint32_t k = 0; k < lefts; k++) {
                ppn_lanes t = ppn_dot_onto_simd(ppn_all_simd(s[r][k].half[c]), x[r][k], right);
                t = ppn_asr_by_simd(t, ppn_all_simd(s[r][k].shift[c]));
                peak = ppn_or_simd(peak, ppn_abs_simd(t));
                acc[k] = ppn_add_simd(acc[k], t);
            }
        }
        for (uint32_t k = 0; k < lefts; k++) ppn_put_simd(to + k * o->cols * 16, acc[k]);
    }
    return peak;
}

/* The same the plain way. */
static inline void ppn_outer_plainly(const ppn_outers *o, uint32_t m, uint32_t lefts, uint32_t n, uint32_t count) {
    for (uint32_t r = 0; r < o->streams; r++)
        for (uint32_t k = m; k < m + lefts; k++)
            for (uint32_t c = n; c < n + count; c++)
                if (o->left[r].exps[k] != PPN_ZERO_EXP && o->right[r].exps[c] != PPN_ZERO_EXP)
                    ppn_outer_block(o->a, &o->left[r], k, &o->right[r], c, o->sums + (k * o->cols + c) * 16);
}

/* ppn_outer() for some streams: each sum is read and written once for all of them. */
static inline void ppn_outer_chunk(const ppn_outers *o) {
    ppn_lanes peak = ppn_all_simd(0);
    for (uint32_t m = 0; m < o->rows; m += PPN_LEFTS) {
        uint32_t lefts = o->rows - m < PPN_LEFTS ? o->rows - m : PPN_LEFTS;
        ppn_left x[PPN_ROWS][PPN_LEFTS];
        ppn_shifts s[PPN_ROWS][PPN_LEFTS];
        for (uint32_t r = 0; r < o->streams; r++)
            for (uint32_t k = 0; k < lefts; k++) {
                ppn_operand from = {o->left[r].mantissas, o->left[r].wide, 1};
                x[r][k] = ppn_lifted_simd(ppn_spread_simd(&from, m + k), o->lift);
            }
        for (uint32_t n = 0; n < o->cols; n += PPN_CHUNK) {
            uint32_t count = o->cols - n < PPN_CHUNK ? o->cols - n : PPN_CHUNK;
            int far = 1;
            for (uint32_t r = 0; r < o->streams; r++)
                for (uint32_t k = 0; k < lefts; k++) far &= ppn_outer_shifts(o, r, m + k, n, count, &s[r][k]);
            if (!far)
                ppn_outer_plainly(o, m, lefts, n, count);
            else if (lefts == 2)
                peak = ppn_or_simd(peak, ppn_outer_sum(o, x, s, m, 2, n, count));
            else
                peak = ppn_or_simd(peak, ppn_outer_sum(o, x, s, m, lefts, n, count));
        }
    }
    o->a->peak |= ppn_fold_simd(peak);
}

/* The weight gradient of stage |i|. Answers 0 where the plain way must do it. */
static inline int ppn_outer_streams(const ppn_return *b, uint32_t i, ppn_accumulator *a, int32_t *sums) {
    const ppn_pass *p = &b->pass;
    const ppn_stage *s = &p->net->stages[i];
    uint32_t in = ppn_blocks(ppn_stage_in(s)), out = ppn_blocks(ppn_stage_out(s));
    int bits = 0, gradient = p->net->bits_gradients;
    for (uint32_t r = 0; r < p->streams; r++)
        bits = ppn_max(bits, ppn_stage_row(p->net, p->batch, p->tape, p->at, i, r).bits);
    if (bits + gradient > 30) return 0;
    int lift = ppn_min(16 - (s->expand ? bits : gradient), 30 - bits - gradient); /* products stay below 2^30 */
    for (uint32_t first = 0; first < p->streams;) {
        ppn_outers o = {a, 0, s->expand ? in : out, s->expand ? out : in, lift, {{0}}, {{0}}, sums};
        ppn_run *x = s->expand ? o.left : o.right, *c = s->expand ? o.right : o.left;
        for (; o.streams < PPN_ROWS && first < p->streams; first++) {
            uint32_t r = o.streams;
            x[r] = ppn_stage_row(p->net, p->batch, p->tape, p->at, i, first);
            if (!x[r].exps) continue; /* a zero row */
            c[r] = ppn_cotangent_row(b, i, first);
            x[r].turned = c[r].turned = 1;
            o.streams++;
        }
        for (uint32_t panel = 0; panel < s->panels; panel++) {
            ppn_outer_chunk(&o);
            for (uint32_t r = 0; r < o.streams; r++) {
                x[r] = ppn_run_at(x[r], (int)in);
                c[r] = ppn_run_at(c[r], (int)out);
            }
        }
    }
    return 1;
}

/* ppn_bias_gradient() of one row, four blocks at a time. */
static inline void ppn_bias_sums(ppn_run c, uint32_t blocks, ppn_accumulator *a, int32_t *sums) {
    ppn_lanes peak = ppn_all_simd(0), zero = peak;
    uint32_t n = 0;
    for (; n + 4 <= blocks; n += 4) {
        int32_t down[16];
        LANES down[l] = a->exp - c.exps[n + (uint32_t)l / 4];
        ppn_lanes by = ppn_get_simd(down), half;
        if (ppn_negative_simd(ppn_add_simd(by, ppn_all_simd(13)))) break; /* |x| 2^13 < 2^30 */
        ppn_lanes x = ppn_columns_simd((const int16_t *)c.mantissas + 16 * n);
        x = ppn_left_by_simd(x, ppn_max_simd(ppn_sub_simd(zero, by), zero));
        by = ppn_min_simd(ppn_max_simd(by, zero), ppn_all_simd(31));
        half = ppn_down_simd(ppn_left_by_simd(ppn_all_simd(1), by), 1);
        x = ppn_asr_by_simd(ppn_add_simd(x, half), by);
        peak = ppn_or_simd(peak, ppn_abs_simd(x));
        ppn_put_simd(sums + 4 * n, ppn_add_simd(ppn_get_simd(sums + 4 * n), x));
    }
    a->peak |= ppn_fold_simd(peak);
    if (n < blocks) ppn_bias_gradient(ppn_run_at(c, (int)n), blocks - n, a, sums + 4 * n);
}

#endif
#endif
