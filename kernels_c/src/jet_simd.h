/* jet_simd.h: a layer's product, activation and its transpose for jets, a chunk of block columns at a time. Internal.
 * The plain way (forward.c, backward.c) gives the same bits; it writes every pre-activation to memory. */
#ifndef PPN_JET_SIMD_H
#define PPN_JET_SIMD_H

#include "chunk_simd.h"
#include "pass.h"

#if PPN_SIMD

#define PPN_STREAMS 65 /* streams whose cotangents are held at once */

/* ---- products -------------------------------------------------------------------------------------------------- */

/* Columns of a stage matrix: right operands and, a lane each, exponents, for every inner block. */
typedef struct {
    uint32_t inner, count;
    ppn_lanes e[PPN_SPREAD];
    ppn_right right[PPN_SPREAD][PPN_CHUNK];
} ppn_columns;

static inline void ppn_take_columns(ppn_columns *c, ppn_run matrix, uint32_t first, int over_rows) {
    uint32_t apart = over_rows ? 1 : c->inner; /* blocks from column to column */
    int8_t e[PPN_CHUNK];
    ppn_run run = ppn_run_at(matrix, (int)(first * apart));
    ppn_operand from = {run.mantissas, run.wide, over_rows};
    for (uint32_t k = 0; k < c->inner; k++) {
        uint32_t at = k * (uint32_t)matrix.step;
        for (uint32_t n = 0; n < c->count; n++) c->right[k][n] = ppn_right_simd(&from, at + n * apart);
        for (uint32_t n = 0; n < c->count && apart > 1; n++) e[n] = run.exps[at + n * apart];
        c->e[k] = ppn_reach(ppn_get8_simd(apart > 1 ? e : run.exps + at, c->count, PPN_ZERO_EXP));
    }
}

/* The sum over k of left[k] x right[k][n], rounded by s[k], for every column n; |inner| apart so that it can be
 * constant. */
PPN_EACH void ppn_chunk_sums(const ppn_columns *c, const ppn_left *left, const ppn_shifts *s, uint32_t inner,
                             ppn_chunk *out) {
    for (uint32_t n = 0; n < c->count; n++) {
        ppn_lanes acc = ppn_all_simd(0);
        for (uint32_t k = 0; k < inner; k++) {
            ppn_lanes x = ppn_dot_onto_simd(ppn_all_simd(s[k].half[n]), left[k], c->right[k][n]);
            acc = ppn_add_simd(acc, ppn_asr_by_simd(x, ppn_all_simd(s[k].shift[n])));
        }
        out->x[n] = acc;
    }
}
/* ppn_run_product() of a row and every column. A row without exponents is zero. */
static inline void ppn_chunk_product(ppn_run row, const ppn_columns *c, int bits, ppn_chunk *out) {
    ppn_operand from = {row.mantissas, row.wide, 0};
    ppn_lanes e[PPN_SPREAD], top = ppn_all_simd(2 * PPN_FAR);
    ppn_left left[PPN_SPREAD];
    ppn_shifts s[PPN_SPREAD];
    if (!row.exps) {
        for (uint32_t n = 0; n < c->count; n++) out->x[n] = ppn_all_simd(0);
        out->e = ppn_all_simd(PPN_FAR);
        return;
    }
    for (uint32_t k = 0; k < c->inner; k++) {
        e[k] = ppn_add_simd(ppn_reach(ppn_all_simd(row.exps[k])), c->e[k]);
        top = ppn_max_simd(top, e[k]);
    }
    out->e = ppn_add_simd(top, ppn_all_simd(ppn_headroom((int)c->inner, row.bits, bits)));
    for (uint32_t k = 0; k < c->inner; k++) {
        ppn_shifts_by(&s[k], ppn_sub_simd(out->e, e[k]));
        left[k] = ppn_spread_simd(&from, k);
    }
    if (c->inner == 1)
        ppn_chunk_sums(c, left, s, 1, out);
    else if (c->inner == 2)
        ppn_chunk_sums(c, left, s, 2, out);
    else
        ppn_chunk_sums(c, left, s, c->inner, out);
}

/* ppn_add_bias() */
static inline void ppn_chunk_bias(const uint8_t *bias, uint32_t blocks, uint32_t column, uint32_t count, ppn_chunk *c) {
    const int8_t *exps = (const int8_t *)bias + blocks * 8 + column;
    ppn_lanes zero = ppn_all_simd(0), f = ppn_reach(ppn_get8_simd(exps, count, PPN_ZERO_EXP));
    ppn_lanes to = ppn_max_simd(c->e, ppn_sub_simd(f, ppn_all_simd(14))), lift = ppn_sub_simd(f, to);
    ppn_shifts acc, add;
    int32_t up[PPN_CHUNK];
    ppn_shifts_by(&acc, ppn_sub_simd(to, c->e));
    ppn_shifts_by(&add, ppn_max_simd(ppn_sub_simd(zero, lift), zero));
    ppn_put_simd(up, ppn_max_simd(lift, zero)); /* at most 14 */
    for (uint32_t n = 0; n < count; n++) {
        ppn_lanes b = ppn_left_by_simd(ppn_get_row_simd(bias + (column + n) * 8), ppn_all_simd(up[n]));
        c->x[n] = ppn_add_simd(ppn_shifted(c->x[n], &acc, n), ppn_shifted(b, &add, n));
    }
    c->e = to;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

/* ppn_curve of a chunk. Of p1 and p2 the low halves alone, as ppn_madd_simd() wants one factor. */
typedef struct {
    ppn_chunk h;
    ppn_lanes p1[PPN_CHUNK], p2[PPN_CHUNK], p3[PPN_CHUNK];
} ppn_curves;

static inline ppn_lanes ppn_low16(ppn_lanes x) { return ppn_and_simd(x, ppn_all_simd(0xFFFF)); }

/* ppn_curve_at() for tanh, its second and third derivative only if |bends|; |z| as encoded */
static inline void ppn_tanh_chunk(const ppn_chunk *z, uint32_t count, int bends, ppn_curves *c) {
    ppn_lanes zero = ppn_all_simd(0), s = ppn_add_simd(z->e, ppn_all_simd(22)), most = ppn_all_simd((1 << 25) - 1);
    ppn_lanes lift = ppn_max_simd(ppn_min_simd(s, ppn_all_simd(25)), zero);
    int32_t up[PPN_CHUNK], fits[PPN_CHUNK];
    ppn_shifts by;
    ppn_shifts_by(&by, ppn_max_simd(ppn_sub_simd(zero, s), zero));
    ppn_put_simd(up, lift);
    ppn_put_simd(fits, ppn_down_by_simd(most, lift));
    for (uint32_t n = 0; n < count; n++) {
        ppn_lanes size = ppn_abs_simd(ppn_shifted(z->x[n], &by, n)), fit = ppn_all_simd(fits[n]);
        ppn_lanes x = ppn_left_by_simd(ppn_min_simd(size, fit), ppn_all_simd(up[n]));
        x = ppn_where_simd(ppn_sub_simd(size, fit), most, x);
        ppn_lanes pairs = ppn_pairs_simd(PPN_TANH_TABLE, ppn_down_simd(x, 15));
        ppn_lanes low = ppn_asr_simd(ppn_left_simd(pairs, 16), 16), f = ppn_and_simd(x, ppn_all_simd(32767));
        ppn_lanes rise = ppn_rnd_madd_simd(ppn_sub_simd(ppn_asr_simd(pairs, 16), low), f, 15);
        ppn_lanes h = ppn_signed_simd(ppn_add_simd(low, rise), z->x[n]), minus = ppn_sub_simd(zero, h);
        ppn_lanes one = ppn_all_simd((1 << 30) + (1 << 15)); /* and half of what is rounded away */
        ppn_lanes p1 = ppn_asr_simd(ppn_madd_onto_simd(one, ppn_low16(h), minus), 16); /* >= 0 */
        c->h.x[n] = h;
        c->p1[n] = p1;
        if (!bends) continue;
        ppn_lanes p2 = ppn_low16(ppn_rnd_madd_simd(p1, minus, 14)), twice = ppn_left_simd(p1, 1);
        x = ppn_madd_onto_simd(ppn_all_simd(1 << 13), p1, ppn_sub_simd(zero, twice)); /* >= -2^15 */
        c->p2[n] = p2;
        c->p3[n] = ppn_asr_simd(ppn_madd_onto_simd(x, p2, minus), 14);
    }
}
static inline void ppn_curve_chunk(int activation, const ppn_chunk *z, uint32_t count, int bends, ppn_curves *c) {
    if (activation == PPN_TANH) {
        ppn_tanh_chunk(z, count, bends, c);
        return;
    }
    int32_t e[PPN_CHUNK];
    ppn_put_simd(e, z->e);
    for (uint32_t n = 0; n < count; n++) {
        ppn_block block;
        ppn_curve curve;
        ppn_put16_simd(block.m, z->x[n]);
        block.e = e[n];
        ppn_curve_at(activation, &block, &curve);
        c->h.x[n] = ppn_get16_simd(curve.h);
        c->p1[n] = ppn_get_low16_simd(curve.p1);
        c->p2[n] = ppn_get_low16_simd(curve.p2);
        c->p3[n] = ppn_get16_simd(curve.p3);
    }
}

/* The chunk of a layer that is worked on. */
typedef struct {
    ppn_layer_out to;
    uint32_t column, count;
    ppn_lanes bits[2]; /* of the next inputs: stream 0, the others */
    ppn_curves curve;
} ppn_layer_chunk;

/* Encode the outputs of |streams| streams from |stream| on into the next stage's input. */
static inline void ppn_put_outputs(ppn_layer_chunk *l, uint32_t stream, uint32_t streams, ppn_chunk *c) {
    ppn_pass *p = l->to.pass;
    int wide = ppn_wide(ppn_row_bits(p->net, stream));
    ppn_encode_chunks(c, streams, l->count, l->bits[stream > 0], NULL, &p->flags);
    for (uint32_t r = 0; r < streams; r++)
        ppn_store_chunk(ppn_next_row(&l->to, stream + r), l->to.blocks, wide, l->column, l->count, &c[r]);
}
/* Keep a stream's part of the linearization: mantissas as ppn_keep() makes them, with exponents |e| + 15. */
static inline void ppn_put_kept(ppn_layer_chunk *l, uint32_t stream, const ppn_lanes *m, ppn_lanes e) {
    uint32_t at = (stream - 1) * l->to.blocks + l->column;
    int16_t exps[PPN_CHUNK];
    ppn_put16_blocks(l->to.slopes.changes + at * 16, m, l->count);
    ppn_put16_simd(exps, ppn_add_simd(e, ppn_all_simd(15))); /* one that does not count stays far below EMPTY */
    memcpy(l->to.slopes.exps + at, exps, l->count * sizeof *exps);
}

/* Stream 0, from its encoded pre-activations. */
static inline void ppn_put_base(ppn_layer_chunk *l, const ppn_chunk *z) {
    const ppn_pass *p = l->to.pass;
    ppn_curve_chunk(p->net->activation, z, l->count, p->streams > 1, &l->curve);
    for (uint32_t n = 0; n < l->count; n++) ppn_put_low16_simd(ppn_p1(&l->to.slopes, 0, l->column + n), l->curve.p1[n]);
    l->curve.h.e = ppn_all_simd(-15);
    ppn_put_outputs(l, 0, 1, &l->curve.h);
}
/* ppn_jet() */
static inline void ppn_put_jet(ppn_layer_chunk *l, uint32_t stream, const ppn_chunk *a, const ppn_chunk *s) {
    const ppn_curves *c = &l->curve;
    ppn_lanes ea = ppn_reach(a->e), of_s = ppn_sub_simd(ppn_reach(s->e), ppn_all_simd(14)), of_q = ppn_add_simd(ea, ea);
    ppn_lanes top = ppn_add_simd(ppn_max_simd(of_s, of_q), ppn_all_simd(1));
    ppn_lanes d[PPN_CHUNK], n2[PPN_CHUNK];
    ppn_shifts by_s, by_q;
    ppn_chunk next[2], *odd = &next[0], *even = &next[1];
    ppn_shifts_by(&by_s, ppn_sub_simd(top, of_s));
    ppn_shifts_by(&by_q, ppn_sub_simd(top, of_q));
    odd->e = ppn_sub_simd(ea, ppn_all_simd(14));
    even->e = top;
    for (uint32_t n = 0; n < l->count; n++) {
        ppn_lanes am = a->x[n], sm = s->x[n], q = ppn_rnd_madd_simd(ppn_low16(am), am, 15);
        odd->x[n] = ppn_madd_simd(c->p1[n], am);
        d[n] = ppn_rnd_madd_simd(c->p2[n], am, 15);
        even->x[n] = ppn_add_simd(ppn_shifted_madd(c->p1[n], sm, &by_s, n), ppn_shifted_madd(c->p2[n], q, &by_q, n));
        ppn_lanes x = ppn_add_simd(ppn_shifted_madd(c->p2[n], sm, &by_s, n), ppn_shifted_madd(c->p3[n], q, &by_q, n));
        n2[n] = ppn_rnd_simd(x, 15);
    }
    ppn_put_kept(l, stream, d, odd->e);
    ppn_put_kept(l, stream + 1, n2, top);
    ppn_put_outputs(l, stream, 2, next);
}

static inline ppn_run ppn_panel_of(ppn_run row, uint32_t at) { return row.exps ? ppn_run_at(row, (int)at) : row; }

/* Streams |from| .. of a microbatch: their pre-activations, encoded, and the base's biased, through the activation. */
static inline void ppn_put_layer(ppn_layer_chunk *l, uint32_t from, uint32_t streams, const ppn_chunk *z) {
    if (from == 0) ppn_put_base(l, z);
    for (uint32_t r = from ? 0 : 1; r < streams; r += 2) ppn_put_jet(l, from + r, &z[r], &z[r + 1]);
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
    uint32_t blocks = place->out_blocks;
    ppn_chunk z[PPN_ROWS];
    for (uint32_t from = 0, streams; from < p->streams; from += streams) {
        streams = p->streams - from < PPN_ROWS ? p->streams - from : PPN_ROWS - (from > 0); /* pairs whole */
        ppn_chunk *x = z;
        for (uint32_t at = first; at < end; at++) {
            ppn_enter(p, at);
            for (uint32_t r = from; r < from + streams; r++, x++) {
                ppn_run row = ppn_stage_row(net, p->batch, p->tape, at, i, r);
                ppn_chunk_product(ppn_panel_of(row, panel * columns->inner), columns, net->bits_weights, x);
                if (r == 0) ppn_chunk_bias(p->weights + place->bias, blocks, l->column, l->count, x);
            }
        }
        ppn_encode_chunks(z, (uint32_t)(x - z), l->count, ppn_all_simd(16), NULL, &p->flags);
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
static inline int ppn_forward_jets(ppn_pass *p, uint32_t i) {
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    ppn_run matrix = ppn_matrix_run(net, p->weights, i);
    uint32_t outer = ppn_blocks(ppn_stage_out(s)), inner = ppn_blocks(ppn_stage_in(s));
    int widest = i ? ppn_max(net->bits_base, net->bits_activations) : p->batch->bits_inputs;
    if (net->mode != PPN_JET || inner > PPN_SPREAD || widest + matrix.bits > 30) return 0;
    ppn_layer_chunk l;
    ppn_columns columns;
    l.to.pass = p;
    for (uint32_t k = 0; k < 2; k++) l.bits[k] = ppn_all_simd(ppn_row_bits(net, k));
    matrix.step = s->expand ? (int)outer : 1;
    columns.inner = inner;
    for (uint32_t panel = 0; panel < s->panels; panel++)
        for (uint32_t k = 0; k < outer; k += PPN_CHUNK) {
            l.count = columns.count = outer - k < PPN_CHUNK ? outer - k : PPN_CHUNK;
            l.column = panel * outer + k;
            ppn_take_columns(&columns, matrix, k, s->expand);
            for (uint32_t first = p->first, end; first < p->end; first = end) {
                end = ppn_some_of(p, first);
                ppn_forward_some(&l, &columns, i, panel, first, end);
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

/* Encode |rows| rows of cotangents into the stage before. */
static inline void ppn_put_cotangents(ppn_return_chunk *o, uint32_t rows, ppn_chunk *c) {
    ppn_pass *p = &o->b->pass;
    uint32_t seeds[PPN_ROWS][PPN_CHUNK];
    ppn_lanes bits = ppn_all_simd(p->net->bits_gradients);
    for (uint32_t from = 0, some; from < rows; from += some, c += some) {
        some = rows - from < PPN_ROWS ? rows - from : PPN_ROWS;
        for (uint32_t r = 0; r < some; r++)
            for (uint32_t n = 0; n < PPN_CHUNK; n++)
                seeds[r][n] = o->keys[o->row + from + r] + (o->column + n) * 16 * 0x9E3779B9u;
        ppn_encode_chunks(c, some, o->count, bits, (const uint32_t (*)[PPN_CHUNK])seeds, &p->flags);
        for (uint32_t r = 0; r < some; r++) {
            uint8_t *row = ppn_row16_at(o->b->rows[1], o->blocks, o->row + from + r);
            ppn_store_chunk(row, o->blocks, 1, o->column, o->count, &c[r]);
        }
    }
}
/* A kept part of the linearization: mantissas, low halves alone, and the exponents of its products with |c|. */
static inline const int16_t *ppn_kept_mantissas(const ppn_return_chunk *o, uint32_t stream) {
    return o->slopes.changes + ((stream - 1) * o->slopes.blocks + o->column) * 16;
}
static inline ppn_lanes ppn_kept_exps(const ppn_return_chunk *o, uint32_t stream, const ppn_chunk *c) {
    const int16_t *at = o->slopes.exps + (stream - 1) * o->slopes.blocks + o->column;
    ppn_lanes e = ppn_get16_first_simd(at, o->count, PPN_FAR), empty = ppn_all_simd(PPN_EMPTY_EXP);
    e = ppn_where_simd(ppn_sub_simd(e, empty), e, ppn_all_simd(PPN_FAR));
    return ppn_add_simd(e, ppn_reach(c->e));
}

/* ppn_return_column() for jets: the encoded cotangents |c| after the activation become those before it. */
static inline void ppn_return_jet(ppn_return_chunk *o, ppn_chunk *c) {
    uint32_t streams = o->b->pass.streams;
    ppn_lanes less = ppn_all_simd(14), of_h = ppn_sub_simd(ppn_reach(c[0].e), less), top = of_h;
    ppn_shifts by[2];
    for (uint32_t r = 1; r < streams; r++) top = ppn_max_simd(top, ppn_kept_exps(o, r, &c[r]));
    ppn_lanes base = ppn_add_simd(top, ppn_all_simd(ppn_length(streams - 1)));
    ppn_shifts_by(&by[0], ppn_sub_simd(base, of_h));
    const int16_t *p1 = ppn_p1(&o->slopes, 0, o->column);
    for (uint32_t n = 0; n < o->count; n++)
        c[0].x[n] = ppn_shifted_madd(ppn_get_low16_simd(p1 + n * 16), c[0].x[n], &by[0], n);
    c[0].e = base;
    for (uint32_t r = 1; r < streams; r += 2) {
        ppn_chunk *a = &c[r], *s = &c[r + 1];
        const int16_t *d = ppn_kept_mantissas(o, r), *n2 = ppn_kept_mantissas(o, r + 1);
        ppn_lanes of_a = ppn_sub_simd(ppn_reach(a->e), less), of_s = ppn_kept_exps(o, r, s);
        ppn_lanes odd = ppn_add_simd(ppn_max_simd(of_a, of_s), ppn_all_simd(1));
        ppn_shifts by_a, by_s;
        ppn_shifts_by(&by_a, ppn_sub_simd(odd, of_a));
        ppn_shifts_by(&by_s, ppn_sub_simd(odd, of_s));
        ppn_shifts_by(&by[0], ppn_sub_simd(base, ppn_kept_exps(o, r, a)));
        ppn_shifts_by(&by[1], ppn_sub_simd(base, ppn_kept_exps(o, r + 1, s)));
        for (uint32_t n = 0; n < o->count; n++) {
            ppn_lanes p = ppn_get_low16_simd(p1 + n * 16), dm = ppn_get_low16_simd(d + n * 16);
            ppn_lanes da = ppn_shifted_madd(dm, a->x[n], &by[0], n);
            ppn_lanes ns = ppn_shifted_madd(ppn_get_low16_simd(n2 + n * 16), s->x[n], &by[1], n);
            c[0].x[n] = ppn_add_simd(c[0].x[n], ppn_add_simd(da, ns));
            a->x[n] = ppn_add_simd(ppn_shifted_madd(p, a->x[n], &by_a, n), ppn_shifted_madd(dm, s->x[n], &by_s, n));
            s->x[n] = ppn_madd_simd(p, s->x[n]);
        }
        a->e = odd;
        s->e = ppn_sub_simd(ppn_reach(s->e), less);
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
    }
    for (uint32_t q = 0; q < rows; q += PPN_ROWS)
        ppn_encode_chunks(c + q, rows - q < PPN_ROWS ? rows - q : PPN_ROWS, o->count, ppn_all_simd(16), NULL,
                          &p->flags);
    for (uint32_t at = first; at < end; at++) {
        ppn_enter(p, at);
        o->slopes = ppn_slopes_of(p, i - 1);
        ppn_return_jet(o, c + (at - first) * p->streams);
    }
    o->row = (first - p->first) * p->streams;
    ppn_put_cotangents(o, rows, c);
}

/* The cotangent of stage |i|'s input through the activation before it. Answers 0 where the plain way must do it. */
static inline int ppn_return_jets(ppn_return *b, uint32_t i) {
    ppn_pass *p = &b->pass;
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    ppn_run matrix = ppn_matrix_run(net, p->weights, i);
    uint32_t outer = ppn_blocks(ppn_stage_in(s)), inner = ppn_blocks(ppn_stage_out(s));
    int over_rows = !s->expand;
    if (net->mode != PPN_JET || p->streams > PPN_STREAMS || inner > PPN_SPREAD ||
        net->bits_gradients + matrix.bits > 30)
        return 0;
    ppn_return_chunk o;
    ppn_columns columns;
    uint32_t rows = 0;
    o.b = b;
    o.blocks = net->places[i].in_blocks;
    for (uint32_t at = p->first; at < p->end; at++) {
        ppn_enter_return(b, i, at);
        for (uint32_t r = 0; r < p->streams; r++) o.keys[rows++] = ppn_stream_rounding(b, r).key;
    }
    matrix.step = over_rows ? (int)outer : 1;
    columns.inner = inner;
    for (uint32_t panel = 0; panel < s->panels; panel++)
        for (uint32_t k = 0; k < outer; k += PPN_CHUNK) {
            o.count = columns.count = outer - k < PPN_CHUNK ? outer - k : PPN_CHUNK;
            o.column = panel * outer + k;
            ppn_take_columns(&columns, matrix, k, over_rows);
            for (uint32_t first = p->first, end; first < p->end; first = end) {
                end = ppn_some_of(p, first);
                ppn_return_some(&o, &columns, i, panel, first, end);
            }
        }
    return 1;
}

#endif
#endif
