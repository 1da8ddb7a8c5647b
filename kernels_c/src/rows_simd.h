/* rows_simd.h: all streams' rows through a stage that does not close, and their gradients, in registers. Internal.
 * The plain way (ppn_row_times, ppn_outer) gives the same bits, a stream at a time. */
#ifndef PPN_ROWS_SIMD_H
#define PPN_ROWS_SIMD_H

#include "chunk_simd.h"
#include "pass.h"

#if PPN_SIMD

#define PPN_COLS 2 /* with PPN_ROWS: block columns and rows that are summed at once, ten accumulators, of one chunk */

/* ---- products -------------------------------------------------------------------------------------------------- */

/* A right shift with rounding for each of sixteen blocks. */
typedef struct {
    int32_t shift[PPN_CHUNK], half[PPN_CHUNK];
} ppn_shifts;

static inline void ppn_shifts_by(ppn_shifts *s, ppn_lanes down) {
    ppn_shift one = ppn_shift_by(down);
    ppn_put_simd(s->shift, one.by);
    ppn_put_simd(s->half, one.half);
}

/* A tile of a product: a row of a stream for each block row, columns of the matrix, what they sum to. Lane or place
 * r * columns + c is that of row r and column c. */
typedef struct {
    ppn_run rows[PPN_ROWS], cols[PPN_COLS];
    int32_t headroom[PPN_CHUNK], e[PPN_CHUNK]; /* e: of the sums, far below EMPTY where there is nothing */
    ppn_shifts shifts[PPN_ROWS][PPN_COLS];
    ppn_lanes sums[PPN_ROWS][PPN_COLS];
} ppn_tile;

/* Exponents of a run from block |at| on, |count| of them; the others do not count. */
static inline ppn_lanes ppn_run_exps(const ppn_run *run, int at, int count) {
    int8_t e[PPN_CHUNK];
    if (run->step == 1) return ppn_reach(ppn_get8_simd(run->exps + at, (uint32_t)count, PPN_ZERO_EXP));
    for (int k = 0; k < PPN_CHUNK; k++) e[k] = k < count ? run->exps[(at + k) * run->step] : PPN_ZERO_EXP;
    return ppn_reach(ppn_get8_simd(e, PPN_CHUNK, 0));
}
/* Exponents of all sums. */
static inline void ppn_tile_exps(ppn_tile *t, uint32_t rows, uint32_t cols, int inner) {
    ppn_lanes top[PPN_CHUNK];
    for (uint32_t k = 0; k < PPN_CHUNK; k++) top[k] = ppn_all_simd(2 * PPN_FAR);
    for (int at = 0; at < inner; at += PPN_CHUNK)
        for (uint32_t c = 0; c < cols; c++) {
            int count = inner - at < PPN_CHUNK ? inner - at : PPN_CHUNK;
            ppn_lanes e = ppn_run_exps(&t->cols[c], at, count);
            for (uint32_t r = 0; r < rows; r++) {
                ppn_lanes *most = &top[r * cols + c];
                *most = ppn_max_simd(*most, ppn_add_simd(e, ppn_run_exps(&t->rows[r], at, count)));
            }
        }
    ppn_put_simd(t->e, ppn_add_simd(ppn_largest_simd(top), ppn_get_simd(t->headroom)));
}
/* How pairs at .. at + count - 1 of every row and column are aligned. A zero block adds zeros at any shift. */
static inline void ppn_tile_shifts(ppn_tile *t, uint32_t rows, uint32_t cols, int at, int count) {
    for (uint32_t c = 0; c < cols; c++) {
        ppn_lanes e = ppn_run_exps(&t->cols[c], at, count);
        for (uint32_t r = 0; r < rows; r++) {
            ppn_lanes down = ppn_sub_simd(ppn_all_simd(t->e[r * cols + c]), e);
            ppn_shifts_by(&t->shifts[r][c], ppn_sub_simd(down, ppn_run_exps(&t->rows[r], at, count)));
        }
    }
}
PPN_EACH void ppn_tile_sum(ppn_tile *t, uint32_t rows, uint32_t cols, int inner, int turned) {
    ppn_lanes acc[PPN_ROWS][PPN_COLS];
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) acc[r][c] = ppn_all_simd(0);
    ppn_tile_exps(t, rows, cols, inner);
    for (int at = 0; at < inner; at += PPN_CHUNK) {
        int count = inner - at < PPN_CHUNK ? inner - at : PPN_CHUNK;
        ppn_tile_shifts(t, rows, cols, at, count);
        for (int k = 0; k < count; k++) {
            ppn_right right[PPN_COLS];
            for (uint32_t c = 0; c < cols; c++) {
                ppn_operand from = {t->cols[c].mantissas, t->cols[c].wide, turned};
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
    int turned = t->cols[0].turned;
    if (rows == PPN_ROWS && cols == PPN_COLS && turned)
        ppn_tile_sum(t, PPN_ROWS, PPN_COLS, inner, 1);
    else if (rows == PPN_ROWS && cols == PPN_COLS)
        ppn_tile_sum(t, PPN_ROWS, PPN_COLS, inner, 0);
    else if (rows == PPN_ROWS && cols == 1)
        ppn_tile_sum(t, PPN_ROWS, 1, inner, turned);
    else
        ppn_tile_sum(t, rows, cols, inner, turned);
}

/* A group's rows, stream after stream of each microbatch: where they are, and where their products go. */
typedef struct {
    ppn_run (*row)(void *of, uint32_t i, uint32_t row);
    ppn_sink (*sink)(void *of, uint32_t i, uint32_t row);
    void *of;
    int *flags;
} ppn_group_rows;

/* Turn to the microbatch of a row; answers the stream. */
static inline uint32_t ppn_enter_row(ppn_pass *p, uint32_t row) {
    ppn_enter(p, p->first + row / p->streams);
    return row % p->streams;
}
static inline uint32_t ppn_rows_of(const ppn_pass *p) { return (p->end - p->first) * p->streams; }

/* Encode a tile's sums, as one chunk, to block columns |column| .. of the rows. */
static inline void ppn_tile_store(const ppn_tile *t, uint32_t rows, uint32_t cols, uint32_t column, uint32_t blocks,
                                  const ppn_sink *sinks, int *flags) {
    ppn_chunk chunk;
    int32_t e[PPN_CHUNK], bits[PPN_CHUNK], seed[PPN_CHUNK];
    int16_t m[PPN_CHUNK * 16];
    for (uint32_t k = 0; k < PPN_CHUNK; k++) {
        const ppn_sink *sink = &sinks[k < rows * cols ? k / cols : 0];
        chunk.x[k] = k < rows * cols ? t->sums[k / cols][k % cols] : ppn_all_simd(0);
        bits[k] = sink->bits;
        seed[k] = (int32_t)(sink->how.key + (column + k % cols) * 16 * PPN_GOLDEN);
    }
    ppn_lanes seeds = ppn_get_simd(seed);
    chunk.e = ppn_get_simd(t->e);
    ppn_turn_simd(chunk.x);
    ppn_encode_chunk(&chunk, rows * cols, ppn_get_simd(bits), sinks[0].how.stochastic ? &seeds : NULL, flags);
    ppn_put_turned16_simd(m, chunk.x);
    ppn_put_simd(e, chunk.e);
    for (uint32_t r = 0, k = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++, k++)
            ppn_store(sinks[r].at, blocks, sinks[r].wide, column + c, m + 16 * k, e[k]);
}

/* The last stage's sums, as they are but for the bias. */
static inline void ppn_tile_put(const ppn_tile *t, uint32_t rows, uint32_t cols, uint32_t column, uint32_t blocks,
                                const ppn_sink *sinks) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = column; c < column + cols; c++) {
            int32_t *x = sinks[r].values + c * 16;
            int e = ppn_max(t->e[r * cols + c - column], PPN_EMPTY_EXP); /* no sum's is below */
            ppn_put_simd(x, t->sums[r][c - column]);
            if (sinks[r].bias) e = ppn_add_bias(sinks[r].bias, blocks, c, x, e);
            sinks[r].exps[c] = (int16_t)e;
        }
}

/* |count| rows through stage |i|, over the matrix's rows or columns. Answers 0 where the plain way must do it. */
static inline int ppn_rows_times(const ppn_group_rows *s, const ppn_stage *stage, uint32_t i, uint32_t count,
                                 ppn_run matrix, int over_rows) {
    uint32_t high = ppn_blocks(stage->rows), wide = ppn_blocks(stage->cols);
    uint32_t inner = over_rows ? high : wide, outer = over_rows ? wide : high, blocks = stage->panels * outer;
    ppn_tile t;
    for (uint32_t r = 0; r < count; r++) {
        ppn_run row = s->row(s->of, i, r);
        if (!row.exps || row.bits + matrix.bits > 30) return 0;
    }
    matrix.step = over_rows ? (int)wide : 1;
    matrix.turned = (uint8_t)over_rows;
    for (uint32_t first = 0; first < count; first += PPN_ROWS) {
        uint32_t rows = count - first < PPN_ROWS ? count - first : PPN_ROWS;
        ppn_sink sinks[PPN_ROWS];
        int headroom[PPN_ROWS];
        for (uint32_t r = 0; r < rows; r++) {
            t.rows[r] = s->row(s->of, i, first + r);
            sinks[r] = s->sink(s->of, i, first + r);
            headroom[r] = ppn_headroom((int)inner, t.rows[r].bits, matrix.bits);
        }
        for (uint32_t column = 0; column < blocks;) {
            uint32_t k = column % outer, cols = outer - k < PPN_COLS ? outer - k : PPN_COLS;
            for (uint32_t c = 0; c < cols; c++)
                t.cols[c] = ppn_run_at(matrix, (int)(over_rows ? k + c : (k + c) * inner));
            for (uint32_t k = 0; k < PPN_CHUNK; k++) t.headroom[k] = k < rows * cols ? headroom[k / cols] : 0;
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

static ppn_run ppn_forward_row(void *of, uint32_t i, uint32_t row) {
    ppn_pass *p = of;
    uint32_t stream = ppn_enter_row(p, row);
    return ppn_stage_row(p->net, p->batch, p->tape, p->at, i, stream);
}
static ppn_sink ppn_forward_sink(void *of, uint32_t i, uint32_t row) {
    ppn_pass *p = of;
    uint32_t stream = ppn_enter_row(p, row);
    int bits = ppn_row_bits(p->net, stream);
    uint8_t *at = p->tape + p->net->places[i + 1].input + ppn_row_at(p->net, p->net->places[i].out_blocks, stream);
    ppn_sink sink = {at, bits, ppn_wide(bits), PPN_NEAREST, NULL, NULL, NULL};
    return sink;
}
static inline int ppn_forward_rows(ppn_pass *p, uint32_t i) {
    const ppn_stage *s = &p->net->stages[i];
    ppn_group_rows rows = {ppn_forward_row, ppn_forward_sink, p, &p->flags};
    return ppn_rows_times(&rows, s, i, ppn_rows_of(p), ppn_matrix_run(p->net, p->weights, i), s->expand);
}

/* The last stage, and where its products go. */
typedef struct {
    ppn_pass *pass;
    int32_t *out;
    int16_t *out_exps;
} ppn_outputs;

static ppn_run ppn_outputs_row(void *of, uint32_t i, uint32_t row) {
    return ppn_forward_row(((const ppn_outputs *)of)->pass, i, row);
}
static ppn_sink ppn_outputs_sink(void *of, uint32_t i, uint32_t row) {
    const ppn_outputs *o = of;
    uint32_t stream = ppn_enter_row(o->pass, row);
    return ppn_output_sink(o->pass, i, stream, o->out, o->out_exps);
}
static inline int ppn_forward_outputs(ppn_pass *p, uint32_t i, int32_t *out, int16_t *out_exps) {
    const ppn_stage *s = &p->net->stages[i];
    ppn_outputs outputs = {p, out, out_exps};
    ppn_group_rows rows = {ppn_outputs_row, ppn_outputs_sink, &outputs, &p->flags};
    return ppn_rows_times(&rows, s, i, ppn_rows_of(p), ppn_matrix_run(p->net, p->weights, i), s->expand);
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

static ppn_run ppn_return_row(void *of, uint32_t i, uint32_t row) {
    ppn_return *b = of;
    uint32_t stream = ppn_enter_row(&b->pass, row);
    return ppn_cotangent_row(b, i, stream);
}
static ppn_sink ppn_return_sink(void *of, uint32_t i, uint32_t row) {
    ppn_return *b = of;
    uint32_t stream = ppn_enter_row(&b->pass, row);
    ppn_enter_return(b, i, b->pass.at);
    uint8_t *at = ppn_cotangent_at(b, 1, b->pass.net->places[i].in_blocks, stream);
    ppn_sink sink = {at, b->pass.net->bits_gradients, 1, ppn_stream_rounding(b, stream), NULL, NULL, NULL};
    return sink;
}
static inline int ppn_return_rows(ppn_return *b, uint32_t i) {
    ppn_pass *p = &b->pass;
    const ppn_stage *s = &p->net->stages[i];
    ppn_group_rows rows = {ppn_return_row, ppn_return_sink, b, &p->flags};
    return ppn_rows_times(&rows, s, i, ppn_rows_of(p), ppn_matrix_run(p->net, p->weights, i), !s->expand);
}

/* ---- gradients ------------------------------------------------------------------------------------------------- */

#define PPN_LEFTS 4 /* block rows of a gradient that are summed at once */

/* What ppn_outer_chunk() works on: blocks of up to PPN_ROWS rows. */
typedef struct {
    ppn_accumulator *a;
    uint32_t streams, rows, cols; /* block rows and columns of the gradient */
    int lift;                     /* bits by which left mantissas are shifted up */
    ppn_run left[PPN_ROWS], right[PPN_ROWS];
    int32_t *sums;
} ppn_outers;

/* How the lifted products of a block with exponent |one| and a chunk with |e| are brought to the accumulator's
 * exponent. Answers by how many bits down, or |least| if that is less: below 0 it takes a shift up. */
static inline ppn_lanes ppn_outer_shifts(const ppn_outers *o, int one, ppn_lanes e, ppn_lanes least, ppn_shifts *s) {
    ppn_lanes down = ppn_sub_simd(ppn_all_simd(o->a->exp + o->lift - ppn_reach_one(one)), e);
    ppn_shifts_by(s, down);
    return ppn_min_simd(least, down);
}

/* Terms of block rows m .. m + lefts - 1 and |count| block columns from |n| on, in registers. */
PPN_EACH ppn_lanes ppn_outer_sum(const ppn_outers *o, const ppn_left x[][PPN_LEFTS], const ppn_shifts s[][PPN_LEFTS],
                                 uint32_t m, uint32_t lefts, uint32_t n, uint32_t count) {
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

static inline ppn_left ppn_outer_left(const ppn_outers *o, uint32_t r, uint32_t m) {
    ppn_operand from = {o->left[r].mantissas, o->left[r].wide, 1};
    return ppn_lifted_simd(ppn_spread_simd(&from, m), o->lift);
}

#define PPN_FEW 2 /* block columns of a narrow gradient */

/* Terms of |count| block rows from m on and of all |cols| block columns, whose right operands are at hand. */
PPN_EACH ppn_lanes ppn_narrow_sum(const ppn_outers *o, const ppn_right right[][PPN_FEW], const ppn_shifts s[][PPN_FEW],
                                  uint32_t m, uint32_t count, uint32_t cols) {
    ppn_lanes peak = ppn_all_simd(0);
    for (uint32_t k = 0; k < count; k++) {
        int32_t *to = o->sums + (m + k) * cols * 16;
        ppn_lanes acc[PPN_FEW];
        for (uint32_t c = 0; c < cols; c++) acc[c] = ppn_get_simd(to + c * 16);
        for (uint32_t r = 0; r < o->streams; r++) {
            ppn_left left = ppn_outer_left(o, r, m + k);
            for (uint32_t c = 0; c < cols; c++) {
                ppn_lanes t = ppn_dot_onto_simd(ppn_all_simd(s[r][c].half[k]), left, right[r][c]);
                t = ppn_asr_by_simd(t, ppn_all_simd(s[r][c].shift[k]));
                peak = ppn_or_simd(peak, ppn_abs_simd(t));
                acc[c] = ppn_add_simd(acc[c], t);
            }
        }
        for (uint32_t c = 0; c < cols; c++) ppn_put_simd(to + c * 16, acc[c]);
    }
    return peak;
}

/* A gradient of up to PPN_FEW block columns: here a chunk is of block rows. */
static inline void ppn_outer_narrow(const ppn_outers *o) {
    ppn_lanes peak = ppn_all_simd(0);
    ppn_right right[PPN_ROWS][PPN_FEW];
    for (uint32_t r = 0; r < o->streams; r++)
        for (uint32_t c = 0; c < o->cols; c++) {
            ppn_operand from = {o->right[r].mantissas, o->right[r].wide, 1};
            right[r][c] = ppn_right_simd(&from, c);
        }
    for (uint32_t m = 0; m < o->rows; m += PPN_CHUNK) {
        uint32_t count = o->rows - m < PPN_CHUNK ? o->rows - m : PPN_CHUNK;
        ppn_shifts s[PPN_ROWS][PPN_FEW];
        ppn_lanes least = ppn_all_simd(0);
        for (uint32_t r = 0; r < o->streams; r++) {
            ppn_lanes e = ppn_run_exps(&o->left[r], (int)m, (int)count);
            for (uint32_t c = 0; c < o->cols; c++) least = ppn_outer_shifts(o, o->right[r].exps[c], e, least, &s[r][c]);
        }
        if (ppn_negative_simd(least))
            ppn_outer_plainly(o, m, count, 0, o->cols);
        else if (o->cols == 1)
            peak = ppn_or_simd(peak, ppn_narrow_sum(o, right, s, m, count, 1));
        else
            peak = ppn_or_simd(peak, ppn_narrow_sum(o, right, s, m, count, PPN_FEW));
    }
    o->a->peak |= ppn_fold_simd(peak);
}

/* ppn_outer() for some streams: each sum is read and written once for all of them. */
static inline void ppn_outer_chunk(const ppn_outers *o) {
    ppn_lanes peak = ppn_all_simd(0);
    for (uint32_t m = 0; m < o->rows; m += PPN_LEFTS) {
        uint32_t lefts = o->rows - m < PPN_LEFTS ? o->rows - m : PPN_LEFTS;
        ppn_left x[PPN_ROWS][PPN_LEFTS];
        ppn_shifts s[PPN_ROWS][PPN_LEFTS];
        for (uint32_t r = 0; r < o->streams; r++)
            for (uint32_t k = 0; k < lefts; k++) x[r][k] = ppn_outer_left(o, r, m + k);
        for (uint32_t n = 0; n < o->cols; n += PPN_CHUNK) {
            uint32_t count = o->cols - n < PPN_CHUNK ? o->cols - n : PPN_CHUNK;
            ppn_lanes least = ppn_all_simd(0);
            for (uint32_t r = 0; r < o->streams; r++) {
                ppn_lanes e = ppn_run_exps(&o->right[r], (int)n, (int)count);
                for (uint32_t k = 0; k < lefts; k++)
                    least = ppn_outer_shifts(o, o->left[r].exps[m + k], e, least, &s[r][k]);
            }
            if (ppn_negative_simd(least))
                ppn_outer_plainly(o, m, lefts, n, count);
            else if (lefts == 1)
                peak = ppn_or_simd(peak, ppn_outer_sum(o, x, s, m, 1, n, count));
            else if (lefts == 2)
                peak = ppn_or_simd(peak, ppn_outer_sum(o, x, s, m, 2, n, count));
            else if (lefts == PPN_LEFTS)
                peak = ppn_or_simd(peak, ppn_outer_sum(o, x, s, m, PPN_LEFTS, n, count));
            else
                peak = ppn_or_simd(peak, ppn_outer_sum(o, x, s, m, lefts, n, count));
        }
    }
    o->a->peak |= ppn_fold_simd(peak);
}

/* The weight gradient of stage |i|, from a group. Answers 0 where the plain way must do it. */
static inline int ppn_outer_rows(ppn_return *b, uint32_t i) {
    ppn_pass *p = &b->pass;
    const ppn_stage *s = &p->net->stages[i];
    const ppn_place *place = &p->net->places[i];
    ppn_accumulator *a = ppn_accumulators(b->gradients) + place->accumulator;
    int32_t *sums = (int32_t *)(void *)(b->gradients + place->sum);
    uint32_t in = ppn_blocks(ppn_stage_in(s)), out = ppn_blocks(ppn_stage_out(s)), count = ppn_rows_of(p);
    int bits = 0, gradient = p->net->bits_gradients;
    for (uint32_t r = 0; r < count; r++) bits = ppn_max(bits, ppn_forward_row(p, i, r).bits);
    if (bits + gradient > 30) return 0;
    int lift = ppn_min(16 - (s->expand ? bits : gradient), 30 - bits - gradient); /* products stay below 2^30 */
    for (uint32_t first = 0; first < count;) {
        ppn_outers o = {a, 0, s->expand ? in : out, s->expand ? out : in, lift, {{0}}, {{0}}, sums};
        ppn_run *x = s->expand ? o.left : o.right, *c = s->expand ? o.right : o.left;
        for (; o.streams < PPN_ROWS && first < count; first++) {
            uint32_t r = o.streams;
            x[r] = ppn_forward_row(p, i, first);
            if (!x[r].exps) continue; /* a zero row */
            c[r] = ppn_return_row(b, i, first);
            x[r].turned = c[r].turned = 1;
            o.streams++;
        }
        for (uint32_t panel = 0; panel < s->panels; panel++) {
            if (o.cols <= PPN_FEW)
                ppn_outer_narrow(&o);
            else
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
        ppn_lanes by = ppn_sub_simd(ppn_all_simd(a->exp), ppn_get_rows8_simd(c.exps + n)), half;
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
