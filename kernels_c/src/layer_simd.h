/* layer_simd.h: a layer's product, activation and its transpose, a chunk of block columns at a time. Internal.
 * The plain way (forward.c, backward.c) gives the same bits; it writes every pre-activation to memory. */
#ifndef PPN_LAYER_SIMD_H
#define PPN_LAYER_SIMD_H

#include "activation_simd.h"
#include "columns_simd.h"
#include "pass.h"

#if PPN_SIMD

#define PPN_STREAMS 257 /* streams that are held at once where they depend on each other */

/* Of |outer| columns of a stage's matrix, over its rows or not, a chunk from |first| on; answers how many. */
static inline uint32_t ppn_take_stage(ppn_taken *to, ppn_run matrix, int over_rows, uint32_t inner, uint32_t outer,
                                      uint32_t first) {
    uint32_t apart = over_rows ? 1 : inner, count = outer - first < PPN_CHUNK ? outer - first : PPN_CHUNK;
    ppn_column_runs from = {ppn_run_at(matrix, (int)(first * apart)), apart, count};
    from.first.step = over_rows ? (int)outer : 1;
    from.first.turned = (uint8_t)over_rows;
    ppn_take_columns(to, &from, inner);
    return count;
}

/* ---- biases ---------------------------------------------------------------------------------------------------- */

/* The biases of a chunk, four a block. */
typedef struct {
    ppn_lanes x[4], e;
} ppn_biases;

static inline void ppn_take_biases(const uint8_t *bias, uint32_t blocks, uint32_t column, uint32_t count,
                                   ppn_biases *b) {
    int32_t x[4][PPN_CHUNK] = {{0}};
    for (uint32_t n = 0; n < count; n++) {
        int16_t m[4];
        memcpy(m, bias + (column + n) * 8, 8);
        for (int j = 0; j < 4; j++) x[j][n] = m[j];
    }
    for (int j = 0; j < 4; j++) b->x[j] = ppn_get_simd(x[j]);
    b->e = ppn_reach(ppn_get8_simd((const int8_t *)bias + blocks * 8 + column, count, PPN_ZERO_EXP));
}

/* ppn_add_bias() */
static inline void ppn_chunk_bias(const ppn_biases *b, ppn_chunk *c) {
    ppn_lanes zero = ppn_all_simd(0), to = ppn_max_simd(c->e, ppn_sub_simd(b->e, ppn_all_simd(14)));
    ppn_lanes lift = ppn_sub_simd(b->e, to), up = ppn_max_simd(lift, zero); /* at most 14 */
    ppn_shift acc = ppn_shift_by(ppn_sub_simd(to, c->e)),
              down = ppn_shift_by(ppn_max_simd(ppn_sub_simd(zero, lift), zero));
    ppn_lanes add[4];
    for (int j = 0; j < 4; j++) add[j] = ppn_shifted(ppn_left_by_simd(b->x[j], up), down);
    if (ppn_negative_simd(ppn_sub_simd(c->e, to))) /* seldom: a bias far above its sums */
        for (int l = 0; l < 16; l++) c->x[l] = ppn_shifted(c->x[l], acc);
    for (int l = 0; l < 16; l++) c->x[l] = ppn_add_simd(c->x[l], add[l % 4]);
    c->e = to;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

/* The chunk of a layer that is worked on. */
typedef struct {
    ppn_layer_out to;
    uint32_t column, count;
    ppn_lanes bits[2]; /* of the next inputs: stream 0, the others */
    ppn_biases biases;
    ppn_curves curve;
} ppn_layer_chunk;

/* Encode the output of a stream into the next stage's input. */
static inline void ppn_put_output(ppn_layer_chunk *l, uint32_t stream, ppn_chunk *c) {
    ppn_pass *p = l->to.pass;
    int wide = ppn_wide(ppn_row_bits(p->net, stream));
    ppn_encode_chunk(c, l->count, l->bits[stream > 0], NULL, &p->flags);
    ppn_store_chunk(ppn_next_row(&l->to, stream), l->to.blocks, wide, l->column, l->count, c);
}
/* Keep a stream's part of the linearization: mantissas as ppn_keep() makes them, with exponents |e| + 15. */
static inline void ppn_put_kept(ppn_layer_chunk *l, uint32_t stream, const ppn_lanes *m, ppn_lanes e) {
    uint32_t at = (stream - 1) * l->to.blocks + l->column;
    int16_t exps[PPN_CHUNK];
    ppn_put16_chunk(l->to.slopes.changes + at * 16, m, l->count);
    ppn_put16_simd(exps, ppn_add_simd(e, ppn_all_simd(15))); /* one that does not count stays far below EMPTY */
    memcpy(l->to.slopes.exps + at, exps, l->count * sizeof *exps);
}

/* A stream of values of the network, from its encoded pre-activations. */
static inline void ppn_put_value_chunk(ppn_layer_chunk *l, uint32_t stream, const ppn_chunk *z) {
    const ppn_pass *p = l->to.pass;
    int bends = p->streams > 1 && p->net->mode >= PPN_JET;
    ppn_curve_chunk(p->net->activation, z, bends, &l->curve);
    ppn_put16_chunk(ppn_p1(&l->to.slopes, stream, l->column), l->curve.p1, l->count);
    ppn_chunk *h = &l->curve.h, copy;
    h->e = ppn_all_simd(-15);
    if (p->net->mode < PPN_JET) { /* finite steps start from h, which encoding replaces */
        copy = *h;
        h = &copy;
    }
    ppn_put_output(l, stream, h);
}
/* Streams of a pair: their outputs, and what is kept of their linearization. */
static inline void ppn_put_pair(ppn_layer_chunk *l, uint32_t stream, ppn_pair_chunk *pair) {
    ppn_put_kept(l, stream, pair->d, pair->ed);
    ppn_put_kept(l, stream + 1, pair->n, pair->en);
    ppn_put_output(l, stream, &pair->a);
    ppn_put_output(l, stream + 1, &pair->s);
}
/* One or two further streams, from their encoded pre-activations, which finite steps limit; answers how many. */
static inline uint32_t ppn_put_further(ppn_layer_chunk *l, uint32_t stream, ppn_chunk *z) {
    ppn_pass *p = l->to.pass;
    ppn_step_chunk step;
    ppn_pair_chunk pair;
    switch (p->net->mode) {
    case PPN_NAIVE:
        ppn_put_value_chunk(l, stream, z);
        return 1;
    case PPN_DIFFERENCE:
        ppn_step(p->net->activation, &l->curve, z, l->count, &step, &p->flags);
        ppn_put_kept(l, stream, step.kept, step.e);
        ppn_put_output(l, stream, &step.delta);
        return 1;
    case PPN_ODD_EVEN:
        ppn_odd_even_chunk(p->net->activation, &l->curve, z, z + 1, l->count, &pair, &p->flags);
        break;
    default:
        ppn_jet_chunk(&l->curve, z, z + 1, &pair);
    }
    ppn_put_pair(l, stream, &pair);
    return 2;
}

/* All streams but the first, where directions share one even part. */
static inline void ppn_put_summed(ppn_layer_chunk *l, uint32_t streams, const ppn_chunk *z) {
    ppn_pass *p = l->to.pass;
    ppn_chunk squares, out;
    ppn_lanes kept[16];
    ppn_square_chunks(z + 1, ppn_summed(p->net, streams), l->count, &squares, &p->flags);
    for (uint32_t r = 1; r < streams; r++) {
        if (r + 1 < streams)
            ppn_odd_chunk(&l->curve, &z[r], &out, kept);
        else
            ppn_even_chunk(&l->curve, &z[r], &squares, &out, kept);
        ppn_put_kept(l, r, kept, out.e);
        ppn_put_output(l, r, &out);
    }
}

static inline ppn_run ppn_panel_of(ppn_run row, uint32_t at) { return row.exps ? ppn_run_at(row, (int)at) : row; }

/* Streams |from| .. of a microbatch: their pre-activations, encoded, values' biased, through the activation. */
static inline void ppn_put_layer(ppn_layer_chunk *l, uint32_t from, uint32_t streams, ppn_chunk *z) {
    uint32_t r = 0;
    if (from == 0) ppn_put_value_chunk(l, r++, z);
    if (ppn_is_summed(l->to.pass->net)) {
        if (streams > 1) ppn_put_summed(l, streams, z);
        return;
    }
    while (r < streams) r += ppn_put_further(l, from + r, z + r);
}

/* The end of those microbatches of a group from |first| on whose rows are worked on at once: PPN_ROWS, or one's. */
static inline uint32_t ppn_some_of(const ppn_pass *p, uint32_t first) {
    uint32_t count = p->streams < PPN_ROWS ? PPN_ROWS / p->streams : 1;
    return p->end - first < count ? p->end : first + count;
}

/* Microbatches |first| .. |end| - 1 through the columns of stage |i| and the activation. */
static inline void ppn_forward_some(ppn_layer_chunk *l, const ppn_columns *columns, uint32_t i, uint32_t panel,
                                    uint32_t first, uint32_t end) {
    ppn_pass *p = l->to.pass;
    const ppn_network *net = p->net;
    const ppn_place *place = &net->places[i];
    uint32_t blocks = place->out_blocks, most = ppn_is_summed(net) ? PPN_STREAMS : PPN_ROWS;
    ppn_chunk z[PPN_STREAMS];
    for (uint32_t from = 0, streams; from < p->streams; from += streams) {
        streams = p->streams - from < most ? p->streams - from : most - (from > 0); /* pairs whole */
        ppn_chunk *x = z;
        for (uint32_t at = first; at < end; at++) {
            ppn_enter(p, at);
            for (uint32_t r = from; r < from + streams; r++, x++) {
                ppn_run row = ppn_stage_row(net, p->batch, p->tape, at, i, r);
                ppn_chunk_product(ppn_panel_of(row, panel * columns->inner), columns, net->bits_weights, x);
                if (ppn_is_value(net, r)) ppn_chunk_bias(&l->biases, x);
                ppn_encode_chunk(x, l->count, ppn_all_simd(16), NULL, &p->flags);
            }
        }
        x = z;
        for (uint32_t at = first; at < end; at++, x += streams) {
            ppn_enter(p, at);
            ppn_layer_out to = {p, ppn_slopes_of(p, i), p->tape + place[1].input, blocks};
            l->to = to;
            ppn_put_layer(l, from, streams, x);
        }
    }
}

/* Stage |i|, which closes, and its activation. Answers 0 where the plain way must do it. */
static inline int ppn_forward_layer(ppn_pass *p, uint32_t i) {
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    ppn_run matrix = ppn_matrix_run(net, p->weights, i);
    uint32_t outer = ppn_blocks(ppn_stage_out(s)), inner = ppn_blocks(ppn_stage_in(s));
    int widest = i ? ppn_max(net->bits_base, net->bits_activations) : p->batch->bits_inputs;
    if (inner > PPN_TAKEN || widest + matrix.bits > 30) return 0;
    if (ppn_is_summed(net) && p->streams > PPN_STREAMS) return 0;
    ppn_layer_chunk l;
    ppn_taken taken;
    l.to.pass = p;
    for (uint32_t k = 0; k < 2; k++) l.bits[k] = ppn_all_simd(ppn_row_bits(net, k));
    for (uint32_t panel = 0; panel < s->panels; panel++)
        for (uint32_t k = 0; k < outer; k += PPN_CHUNK) {
            l.count = ppn_take_stage(&taken, matrix, s->expand, inner, outer, k);
            l.column = panel * outer + k;
            ppn_take_biases(p->weights + net->places[i].bias, net->places[i].out_blocks, l.column, l.count, &l.biases);
            for (uint32_t first = p->first, end; first < p->end; first = end) {
                end = ppn_some_of(p, first);
                ppn_forward_some(&l, &taken.columns, i, panel, first, end);
            }
        }
    return 1;
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

/* Where the cotangents of a layer's pre-activations go, and its linearization. */
typedef struct {
    ppn_return *b;
    ppn_slopes slopes;
    uint32_t blocks, column, count, row; /* blocks of a row; those worked on; of a group's rows the first worked on */
    uint32_t keys[PPN_STREAMS];          /* of the group's rows */
} ppn_return_chunk;

/* Encode a row of cotangents, of the group's as counted from the first worked on, into the stage before. */
static inline void ppn_put_cotangents(ppn_return_chunk *o, uint32_t row, ppn_chunk *c) {
    ppn_pass *p = &o->b->pass;
    ppn_lanes first = ppn_all_simd((int32_t)(o->keys[o->row + row] + o->column * 16 * PPN_GOLDEN));
    ppn_lanes seeds = ppn_add_simd(first, ppn_mul_simd(ppn_iota_simd(), ppn_all_simd((int32_t)(16 * PPN_GOLDEN))));
    ppn_encode_chunk(c, o->count, ppn_all_simd(p->net->bits_gradients), &seeds, &p->flags);
    ppn_store_chunk(ppn_row16_at(o->b->rows[1], o->blocks, o->row + row), o->blocks, 1, o->column, o->count, c);
}
/* A kept part of the linearization: its mantissas, its exponents, and those of its products with |c|. */
static inline void ppn_kept_mantissas(const ppn_return_chunk *o, uint32_t stream, ppn_lanes pairs[8]) {
    ppn_get_pairs(o->slopes.changes + ((stream - 1) * o->slopes.blocks + o->column) * 16, o->count, pairs);
}
static inline ppn_lanes ppn_kept(const ppn_return_chunk *o, uint32_t stream) {
    const int16_t *at = o->slopes.exps + (stream - 1) * o->slopes.blocks + o->column;
    ppn_lanes e = ppn_get16_first_simd(at, o->count, PPN_FAR);
    return ppn_above_simd(e, ppn_all_simd(PPN_EMPTY_EXP), e, ppn_all_simd(PPN_FAR));
}
static inline ppn_lanes ppn_kept_exps(const ppn_return_chunk *o, uint32_t stream, const ppn_chunk *c) {
    return ppn_add_simd(ppn_kept(o, stream), ppn_reach(c->e));
}
/* Exponents of stream 0's sum, before its headroom. */
static inline ppn_lanes ppn_base_top(const ppn_return_chunk *o, const ppn_chunk *c) {
    ppn_lanes top = ppn_terms(c, -14);
    for (uint32_t r = 1; r < o->b->pass.streams; r++) top = ppn_max_simd(top, ppn_kept_exps(o, r, &c[r]));
    return top;
}

/* A cotangent times the slopes |p1|, low halves in pairs. */
static inline void ppn_return_value(const ppn_lanes p1[8], ppn_chunk *c) {
    for (int l = 0; l < 16; l++) c->x[l] = ppn_madd_simd(ppn_element(p1, l), c->x[l]);
    c->e = ppn_terms(c, -14);
}
/* ppn_return_base() */
static inline void ppn_return_base_chunk(const ppn_return_chunk *o, const ppn_lanes p1[8], ppn_chunk *c) {
    uint32_t streams = o->b->pass.streams;
    ppn_lanes base = ppn_add_simd(ppn_base_top(o, c), ppn_all_simd(ppn_length(streams - 1)));
    ppn_shift by = ppn_shift_by(ppn_sub_simd(base, ppn_terms(c, -14)));
    for (int l = 0; l < 16; l++) c[0].x[l] = ppn_shifted_madd(ppn_element(p1, l), c[0].x[l], by);
    for (uint32_t r = 1; r < streams; r++) {
        ppn_lanes change[8];
        by = ppn_shift_by(ppn_sub_simd(base, ppn_kept_exps(o, r, &c[r])));
        ppn_kept_mantissas(o, r, change);
        for (int l = 0; l < 16; l++)
            c[0].x[l] = ppn_add_simd(c[0].x[l], ppn_shifted_madd(ppn_element(change, l), c[r].x[l], by));
    }
    c[0].e = base;
}
/* ppn_stream_slope(), in low halves */
static inline void ppn_stream_slopes(const ppn_return_chunk *o, uint32_t stream, const ppn_lanes p1[8],
                                     ppn_lanes slope[16]) {
    ppn_fixing by = ppn_fix_by(ppn_kept(o, stream), 14);
    ppn_lanes change[8];
    ppn_kept_mantissas(o, stream, change);
    for (int l = 0; l < 16; l++) {
        ppn_lanes x = ppn_fixed(ppn_wide_element(change, l), by, 32767);
        slope[l] = ppn_low16(ppn_clip_simd(ppn_add_simd(ppn_wide_element(p1, l), x), 32767));
    }
}
static inline void ppn_return_difference_chunk(const ppn_return_chunk *o, uint32_t stream, const ppn_lanes p1[8],
                                               ppn_chunk *c) {
    ppn_lanes slope[16];
    ppn_stream_slopes(o, stream, p1, slope);
    for (int l = 0; l < 16; l++) c->x[l] = ppn_madd_simd(slope[l], c->x[l]);
    c->e = ppn_terms(c, -14);
}
/* ppn_return_pair() for the odd part of a jet; |s| is the even one */
static inline void ppn_return_odd(const ppn_return_chunk *o, uint32_t stream, const ppn_lanes p1[8], ppn_chunk *a,
                                  const ppn_chunk *s) {
    ppn_lanes d[8];
    ppn_two odd = ppn_two_terms(ppn_terms(a, -14), ppn_kept_exps(o, stream, s));
    ppn_kept_mantissas(o, stream, d);
    for (int l = 0; l < 16; l++) {
        ppn_lanes x = ppn_shifted_madd(ppn_element(d, l), s->x[l], odd.y);
        a->x[l] = ppn_add_simd(ppn_shifted_madd(ppn_element(p1, l), a->x[l], odd.x), x);
    }
    a->e = odd.e;
}
/* ppn_return_summed() */
static inline void ppn_return_summed_chunk(const ppn_return_chunk *o, const ppn_lanes p1[8], ppn_chunk *c) {
    uint32_t last = o->b->pass.streams - 1, summed = ppn_summed(o->b->pass.net, last + 1);
    for (uint32_t r = 1; r <= last; r++) {
        if (r <= summed)
            ppn_return_odd(o, r, p1, &c[r], &c[last]);
        else
            ppn_return_value(p1, &c[r]);
    }
}
/* The same as ppn_return_pair() for finite steps */
static inline void ppn_return_pair_chunk(const ppn_return_chunk *o, uint32_t stream, const ppn_lanes p1[8],
                                         ppn_chunk *a, ppn_chunk *s) {
    ppn_lanes slope[16], d[8];
    ppn_two odd = ppn_two_terms(ppn_terms(a, -14), ppn_kept_exps(o, stream, s));
    ppn_two even = ppn_two_terms(ppn_terms(s, -14), ppn_kept_exps(o, stream, a));
    ppn_stream_slopes(o, stream + 1, p1, slope);
    ppn_kept_mantissas(o, stream, d);
    for (int l = 0; l < 16; l++) {
        ppn_lanes dm = ppn_element(d, l), am = a->x[l], sm = s->x[l];
        a->x[l] = ppn_add_simd(ppn_shifted_madd(slope[l], am, odd.x), ppn_shifted_madd(dm, sm, odd.y));
        s->x[l] = ppn_add_simd(ppn_shifted_madd(slope[l], sm, even.x), ppn_shifted_madd(dm, am, even.y));
    }
    a->e = odd.e;
    s->e = even.e;
}

/* ppn_return_column(): the encoded cotangents |c| after the activation become those before it. */
static inline void ppn_return_columns(const ppn_return_chunk *o, ppn_chunk *c) {
    int mode = o->b->pass.net->mode;
    ppn_lanes p1[8];
    ppn_get_pairs(ppn_p1(&o->slopes, 0, o->column), o->count, p1);
    if (mode == PPN_NAIVE)
        ppn_return_value(p1, c);
    else
        ppn_return_base_chunk(o, p1, c);
    if (ppn_is_summed(o->b->pass.net)) {
        ppn_return_summed_chunk(o, p1, c);
        return;
    }
    for (uint32_t r = 1; r < o->b->pass.streams; r++) {
        if (mode == PPN_NAIVE) {
            ppn_get_pairs(ppn_p1(&o->slopes, r, o->column), o->count, p1);
            ppn_return_value(p1, &c[r]);
        } else if (mode == PPN_DIFFERENCE)
            ppn_return_difference_chunk(o, r, p1, &c[r]);
        else if (r % 2 && mode == PPN_JET) {
            ppn_return_odd(o, r, p1, &c[r], &c[r + 1]);
            ppn_return_value(p1, &c[r + 1]);
        } else if (r % 2)
            ppn_return_pair_chunk(o, r, p1, &c[r], &c[r + 1]);
    }
}

/* Microbatches |first| .. |end| - 1 through the columns of stage |i| and the activation before it. */
static inline void ppn_return_some(ppn_return_chunk *o, const ppn_columns *columns, uint32_t i, uint32_t panel,
                                   uint32_t first, uint32_t end) {
    ppn_return *b = o->b;
    ppn_pass *p = &b->pass;
    ppn_chunk c[PPN_STREAMS];
    uint32_t rows = (end - first) * p->streams;
    for (uint32_t q = 0; q < rows; q++) {
        ppn_enter(p, first + q / p->streams);
        ppn_run row = ppn_run_at(ppn_cotangent_row(b, i, q % p->streams), (int)(panel * columns->inner));
        ppn_chunk_product(row, columns, p->net->bits_weights, &c[q]);
        ppn_encode_chunk(&c[q], o->count, ppn_all_simd(16), NULL, &p->flags);
    }
    for (uint32_t at = first; at < end; at++) {
        ppn_enter(p, at);
        o->slopes = ppn_slopes_of(p, i - 1);
        ppn_return_columns(o, c + (at - first) * p->streams);
    }
    o->row = (first - p->first) * p->streams;
    for (uint32_t q = 0; q < rows; q++) ppn_put_cotangents(o, q, &c[q]);
}

/* The cotangent of stage |i|'s input through the activation before it. Answers 0 where the plain way must do it. */
static inline int ppn_return_layer(ppn_return *b, uint32_t i) {
    ppn_pass *p = &b->pass;
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    ppn_run matrix = ppn_matrix_run(net, p->weights, i);
    uint32_t outer = ppn_blocks(ppn_stage_in(s)), inner = ppn_blocks(ppn_stage_out(s));
    int over_rows = !s->expand;
    if (p->streams > PPN_STREAMS || inner > PPN_TAKEN || net->bits_gradients + matrix.bits > 30) return 0;
    ppn_return_chunk o;
    ppn_taken taken;
    uint32_t rows = 0;
    o.b = b;
    o.blocks = net->places[i].in_blocks;
    for (uint32_t at = p->first; at < p->end; at++) {
        ppn_enter_return(b, i, at);
        for (uint32_t r = 0; r < p->streams; r++) o.keys[rows++] = ppn_stream_rounding(b, r).key;
    }
    for (uint32_t panel = 0; panel < s->panels; panel++)
        for (uint32_t k = 0; k < outer; k += PPN_CHUNK) {
            o.count = ppn_take_stage(&taken, matrix, over_rows, inner, outer, k);
            o.column = panel * outer + k;
            for (uint32_t first = p->first, end; first < p->end; first = end) {
                end = ppn_some_of(p, first);
                ppn_return_some(&o, &taken.columns, i, panel, first, end);
            }
        }
    return 1;
}

#endif
#endif
