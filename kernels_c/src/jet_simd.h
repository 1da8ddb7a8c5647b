/* jet_simd.h: a layer's product, activation and its transpose for jets, block column by block column in registers.
 * Internal. The plain way (forward.c, backward.c) gives the same bits; it writes every pre-activation to memory. */
#ifndef PPN_JET_SIMD_H
#define PPN_JET_SIMD_H

#include "pass.h"

#if PPN_SIMD

#define PPN_LEFTS 384        /* blocks of all streams' rows that are held spread over lanes */
#define PPN_STREAMS 65       /* streams that are held in lanes */
#define PPN_GROUP 4          /* block columns that are worked on side by side */
#define PPN_NO_BLOCK (-4096) /* exponent that puts a pair out of reach of any alignment */

/* The left operand of a stage: every stream's row. */
typedef struct {
    uint32_t inner;
    int headroom[2]; /* of stream 0, of the others */
    int16_t exps[PPN_LEFTS];
    ppn_left left[PPN_LEFTS];
} ppn_lefts;

/* One block column of a stage matrix. */
typedef struct {
    int16_t exps[PPN_SPREAD];
    ppn_right right[PPN_SPREAD];
} ppn_column;

static inline int16_t ppn_reach(int e) { return (int16_t)(e == PPN_ZERO_EXP ? PPN_NO_BLOCK : e); }

static inline int ppn_lefts_fit(uint32_t inner, uint32_t streams, int bits, int other_bits) {
    return streams <= PPN_STREAMS && inner <= PPN_SPREAD && inner * streams <= PPN_LEFTS && bits + other_bits <= 30;
}
static inline void ppn_spread_row(ppn_lefts *l, uint32_t stream, ppn_run row) {
    ppn_operand from = {row.mantissas, row.wide, 0};
    for (uint32_t k = 0; k < l->inner; k++) {
        l->exps[stream * l->inner + k] = row.exps ? ppn_reach(row.exps[k]) : PPN_NO_BLOCK;
        if (row.exps) l->left[stream * l->inner + k] = ppn_spread_simd(&from, k);
    }
}
static inline void ppn_take_column(ppn_column *c, uint32_t inner, ppn_run matrix, uint32_t column, int over_rows) {
    ppn_run run = ppn_run_at(matrix, (int)(over_rows ? column : column * inner));
    ppn_operand from = {run.mantissas, run.wide, over_rows};
    for (uint32_t k = 0; k < inner; k++) {
        uint32_t at = k * (uint32_t)matrix.step;
        c->exps[k] = ppn_reach(run.exps[at]);
        c->right[k] = ppn_right_simd(&from, at);
    }
}
/* ppn_run_product() of a stream's row and the column; |inner| is given apart so that 1 and 2 can be constants. */
static inline ppn_lanes ppn_column_product(const ppn_lefts *l, uint32_t stream, const ppn_column *c, uint32_t inner,
                                           int *e) {
    const int16_t *exps = l->exps + stream * inner;
    const ppn_left *left = l->left + stream * inner;
    int headroom = l->headroom[stream > 0], top = PPN_NO_BLOCK / 2;
    ppn_lanes acc = ppn_all_simd(0);
    for (uint32_t k = 0; k < inner; k++) top = ppn_max(top, exps[k] + c->exps[k]);
    for (uint32_t k = 0; k < inner; k++) {
        int shift = top - exps[k] - c->exps[k] + headroom;
        if (shift <= 30) acc = ppn_add_simd(acc, ppn_rnd_simd(ppn_dot_simd(left[k], c->right[k]), shift));
    }
    *e = top == PPN_NO_BLOCK / 2 ? PPN_EMPTY_EXP : top + headroom;
    return acc;
}

/* ---- lanes of one block ---------------------------------------------------------------------------------------- */

/* A block in SMX(16) */
typedef struct {
    ppn_lanes m;
    int e;
} ppn_smx;

static inline ppn_smx ppn_smx_of(ppn_lanes x, int e, int *flags) {
    ppn_smx out;
    out.e = ppn_encode_simd(x, e, 16, PPN_NEAREST, &out.m, flags);
    return out;
}
static inline int ppn_smx_term(ppn_smx b, int shift) { return b.e == PPN_ZERO_EXP ? UNUSED_TERM : b.e + shift; }
static inline int ppn_scaled_exp(ppn_smx b) { return b.e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : b.e - 14; }

/* acc += term, as ppn_sum_add() */
static inline ppn_lanes ppn_add_term_simd(ppn_lanes acc, const ppn_sum *s, ppn_lanes x, int e) {
    int shift = s->top - e + s->headroom; /* huge for UNUSED_TERM */
    return e == UNUSED_TERM || shift > 30 ? acc : ppn_add_simd(acc, ppn_rnd_simd(x, shift));
}
/* ppn_sum2() */
static inline int ppn_sum2_simd(ppn_lanes x, int ex, ppn_lanes y, int ey, ppn_lanes *out) {
    ppn_sum s = ppn_sum_open(2);
    ppn_sum_offer(&s, ex);
    ppn_sum_offer(&s, ey);
    *out = ppn_add_term_simd(ppn_add_term_simd(ppn_all_simd(0), &s, x, ex), &s, y, ey);
    return ppn_sum_exp(&s);
}

/* ppn_add_bias() */
static inline ppn_lanes ppn_bias_simd(const uint8_t *bias, uint32_t blocks, uint32_t column, ppn_lanes acc, int *e) {
    int f = (int8_t)bias[blocks * 8 + column];
    if (f == PPN_ZERO_EXP) return acc;
    ppn_lanes add = ppn_get_row_simd(bias + column * 8);
    int to = ppn_max(*e, f - 14), down = to - *e, up = f - to;
    acc = down > 30 ? ppn_all_simd(0) : ppn_rnd_simd(acc, down);
    add = up >= 0 ? ppn_left_simd(add, up) : -up > 30 ? ppn_all_simd(0) : ppn_rnd_simd(add, -up);
    *e = to;
    return ppn_add_simd(acc, add);
}

typedef struct {
    ppn_lanes h, p1, p2, p3;
} ppn_curve_lanes;

/* ppn_curve_at() for tanh */
static inline ppn_curve_lanes ppn_tanh_simd(ppn_smx z) {
    int s = ppn_min(z.e + 22, 25);
    int32_t top = (1 << 25) - 1, fits = s > 0 ? top >> s : INT16_MAX;
    ppn_lanes size = ppn_abs_simd(z.m), x, zero = ppn_all_simd(0);
    if (s > 0)
        x = ppn_left_simd(ppn_min_simd(size, ppn_all_simd(fits)), s);
    else
        x = -s > 30 ? zero : ppn_abs_simd(ppn_rnd_simd(z.m, -s));
    x = ppn_where_simd(ppn_sub_simd(size, ppn_all_simd(fits)), ppn_all_simd(top), x);
    ppn_lanes pairs = ppn_pairs_simd(PPN_TANH_TABLE, ppn_down_simd(x, 15));
    ppn_lanes low = ppn_asr_simd(ppn_left_simd(pairs, 16), 16), f = ppn_and_simd(x, ppn_all_simd(32767));
    ppn_lanes rise = ppn_mul_simd(ppn_sub_simd(ppn_asr_simd(pairs, 16), low), f);
    ppn_curve_lanes c;
    c.h = ppn_signed_simd(ppn_add_simd(low, ppn_rnd_simd(rise, 15)), z.m);
    c.p1 = ppn_rnd_simd(ppn_sub_simd(ppn_all_simd(1 << 30), ppn_mul_simd(c.h, c.h)), 16);
    c.p2 = ppn_rnd_simd(ppn_sub_simd(zero, ppn_mul_simd(c.h, c.p1)), 14);
    ppn_lanes twice = ppn_left_simd(ppn_mul_simd(c.p1, c.p1), 1);
    c.p3 = ppn_rnd_simd(ppn_sub_simd(ppn_sub_simd(zero, twice), ppn_mul_simd(c.h, c.p2)), 14);
    return c;
}
static inline ppn_curve_lanes ppn_curve_simd(int activation, ppn_smx z) {
    if (activation == PPN_TANH) return ppn_tanh_simd(z);
    ppn_block block;
    ppn_curve c;
    ppn_put16_simd(block.m, z.m);
    block.e = z.e;
    ppn_curve_at(activation, &block, &c);
    ppn_curve_lanes out = {ppn_get16_simd(c.h), ppn_get16_simd(c.p1), ppn_get16_simd(c.p2), ppn_get16_simd(c.p3)};
    return out;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

/* What a block column needs, stream by stream. The work is done in phases over all streams of a group of columns, since
 * the steps for one block wait for each other and those for different blocks do not. */
typedef struct {
    ppn_lanes x[PPN_STREAMS];
    int e[PPN_STREAMS];
} ppn_phase;

static inline void ppn_products(const ppn_lefts *l, const ppn_column *c, uint32_t streams, ppn_phase *out) {
    if (l->inner == 1)
        for (uint32_t r = 0; r < streams; r++) out->x[r] = ppn_column_product(l, r, c, 1, &out->e[r]);
    else if (l->inner == 2)
        for (uint32_t r = 0; r < streams; r++) out->x[r] = ppn_column_product(l, r, c, 2, &out->e[r]);
    else
        for (uint32_t r = 0; r < streams; r++) out->x[r] = ppn_column_product(l, r, c, l->inner, &out->e[r]);
}
static inline void ppn_arguments(ppn_phase *p, uint32_t streams, ppn_smx *out, int *flags) {
    for (uint32_t r = 0; r < streams; r++) out[r] = ppn_smx_of(p->x[r], p->e[r], flags);
}

/* Outputs and linearization of streams 1 .. (ppn_jet). */
static inline void ppn_jets(const ppn_smx *z, const ppn_curve_lanes *c, uint32_t streams, ppn_phase *next,
                            ppn_phase *change) {
    for (uint32_t r = 1; r < streams; r += 2) {
        ppn_smx a = z[r], s = z[r + 1];
        ppn_lanes q = ppn_rnd_simd(ppn_mul_simd(a.m, a.m), 15);
        int of_s = ppn_smx_term(s, -14), of_q = a.e == PPN_ZERO_EXP ? UNUSED_TERM : 2 * a.e;
        next->x[r] = ppn_mul_simd(c->p1, a.m);
        change->x[r] = ppn_mul_simd(c->p2, a.m);
        next->e[r] = change->e[r] = ppn_scaled_exp(a);
        next->e[r + 1] = ppn_sum2_simd(ppn_mul_simd(c->p1, s.m), of_s, ppn_mul_simd(c->p2, q), of_q, &next->x[r + 1]);
        change->e[r + 1] =
            ppn_sum2_simd(ppn_mul_simd(c->p2, s.m), of_s, ppn_mul_simd(c->p3, q), of_q, &change->x[r + 1]);
    }
}

/* Where each stream's outputs go. */
typedef struct {
    uint8_t *rows[PPN_STREAMS];
    int bits[2], wide[2]; /* of stream 0, of the others */
} ppn_next_rows;

static inline void ppn_find_rows(const ppn_layer_out *o, ppn_next_rows *to) {
    for (uint32_t r = 0; r < o->pass->streams; r++) to->rows[r] = ppn_next_row(o, r);
    for (uint32_t k = 0; k < 2; k++) {
        to->bits[k] = ppn_row_bits(o->pass->net, k);
        to->wide[k] = ppn_wide(to->bits[k]);
    }
}

static inline void ppn_put_column(ppn_layer_out *o, const ppn_next_rows *to, uint32_t column, const ppn_phase *next,
                                  const ppn_phase *change) {
    const ppn_slopes *s = &o->slopes;
    uint32_t streams = o->pass->streams;
    int flags = 0;
    for (uint32_t r = 0; r < streams; r++) {
        ppn_lanes m;
        int e = ppn_encode_simd(next->x[r], next->e[r], to->bits[r > 0], PPN_NEAREST, &m, &flags);
        ppn_store_simd(to->rows[r], o->blocks, to->wide[r > 0], column, m, e);
    }
    for (uint32_t r = 1; r < streams; r++) { /* ppn_keep() */
        uint32_t at = (r - 1) * s->blocks + column;
        ppn_put16_simd(s->changes + at * 16, ppn_rnd_simd(change->x[r], 15));
        s->exps[at] = (int16_t)(change->e[r] == PPN_EMPTY_EXP ? PPN_EMPTY_EXP : change->e[r] + 15);
    }
    o->pass->flags |= flags;
}

/* Stage |i|, which closes, and its activation. Answers 0 where the plain way must do it. */
static inline int ppn_forward_jets(ppn_pass *p, uint32_t i, ppn_run matrix) {
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    const ppn_place *next = &net->places[i + 1];
    uint32_t outer = ppn_blocks(ppn_stage_out(s)), inner = ppn_blocks(ppn_stage_in(s));
    int bits[2] = {i ? ppn_row_bits(net, 0) : p->batch->bits_inputs, i ? ppn_row_bits(net, 1) : p->batch->bits_inputs};
    if (net->mode != PPN_JET || !ppn_lefts_fit(inner, p->streams, ppn_max(bits[0], bits[1]), matrix.bits)) return 0;
    ppn_layer_out o = {p, ppn_slopes_of(p, i), p->tape + next->input, next->in_blocks};
    ppn_lefts l;
    ppn_column c[PPN_GROUP];
    ppn_phase x[PPN_GROUP], change[PPN_GROUP];
    ppn_smx z[PPN_GROUP][PPN_STREAMS];
    ppn_curve_lanes curve[PPN_GROUP];
    ppn_next_rows to;
    const uint8_t *bias = p->weights + net->places[i].bias;
    ppn_find_rows(&o, &to);
    l.inner = inner;
    for (int k = 0; k < 2; k++) l.headroom[k] = ppn_headroom((int)inner, bits[k], matrix.bits);
    matrix.step = s->expand ? (int)outer : 1;
    for (uint32_t panel = 0; panel < s->panels; panel++) {
        for (uint32_t r = 0; r < p->streams; r++) {
            ppn_run row = ppn_stage_row(net, p->batch, p->tape, p->at, i, r);
            ppn_spread_row(&l, r, row.exps ? ppn_run_at(row, (int)(panel * inner)) : row);
        }
        for (uint32_t k = 0; k < outer; k += PPN_GROUP) {
            uint32_t group = outer - k < PPN_GROUP ? outer - k : PPN_GROUP, column = panel * outer + k;
            for (uint32_t g = 0; g < group; g++) {
                ppn_take_column(&c[g], inner, matrix, k + g, s->expand);
                ppn_products(&l, &c[g], p->streams, &x[g]);
                x[g].x[0] = ppn_bias_simd(bias, o.blocks, column + g, x[g].x[0], &x[g].e[0]);
            }
            for (uint32_t g = 0; g < group; g++) ppn_arguments(&x[g], p->streams, z[g], &p->flags);
            for (uint32_t g = 0; g < group; g++) curve[g] = ppn_curve_simd(net->activation, z[g][0]);
            for (uint32_t g = 0; g < group; g++) {
                ppn_put16_simd(ppn_p1(&o.slopes, 0, column + g), curve[g].p1);
                x[g].x[0] = curve[g].h;
                x[g].e[0] = -15;
                ppn_jets(z[g], &curve[g], p->streams, &x[g], &change[g]);
            }
            for (uint32_t g = 0; g < group; g++) ppn_put_column(&o, &to, column + g, &x[g], &change[g]);
        }
    }
    return 1;
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

/* Where the cotangents of a layer's pre-activations go, and its linearization. */
typedef struct {
    ppn_return *b;
    ppn_slopes slopes;
    uint32_t keys[PPN_STREAMS];
} ppn_return_out;

static inline void ppn_put_cotangents(ppn_return_out *o, uint32_t column, const ppn_phase *p) {
    uint32_t blocks = o->slopes.blocks;
    int bits = o->b->pass.net->bits_gradients;
    for (uint32_t r = 0; r < o->b->pass.streams; r++) {
        ppn_rounding how = {o->keys[r], column * 16, 1};
        ppn_lanes m;
        int e = ppn_encode_simd(p->x[r], p->e[r], bits, how, &m, &o->b->pass.flags);
        ppn_store_simd(ppn_row16_at(o->b->rows[1], blocks, r), blocks, 1, column, m, e);
    }
}
static inline ppn_smx ppn_change_simd(const ppn_return_out *o, uint32_t column, uint32_t stream) {
    const ppn_slopes *s = &o->slopes;
    uint32_t at = (stream - 1) * s->blocks + column;
    ppn_smx out = {ppn_get16_simd(s->changes + at * 16), s->exps[at]};
    return out;
}

/* ppn_return_column() for jets: |c| are the cotangents after the activation, |out| those before it. */
static inline void ppn_return_jet_simd(const ppn_return_out *o, uint32_t column, const ppn_smx *c, ppn_phase *out) {
    uint32_t streams = o->b->pass.streams;
    ppn_lanes p1 = ppn_get16_simd(ppn_p1(&o->slopes, 0, column));
    ppn_sum sum = ppn_sum_open(streams);
    ppn_sum_offer(&sum, ppn_smx_term(c[0], -14));
    for (uint32_t r = 1; r < streams; r++) ppn_sum_offer(&sum, ppn_kept_exp(ppn_change_simd(o, column, r).e, c[r].e));
    ppn_lanes acc = ppn_add_term_simd(ppn_all_simd(0), &sum, ppn_mul_simd(p1, c[0].m), ppn_smx_term(c[0], -14));
    for (uint32_t r = 1; r < streams; r += 2) {
        ppn_smx d = ppn_change_simd(o, column, r), n = ppn_change_simd(o, column, r + 1), a = c[r], s = c[r + 1];
        acc = ppn_add_term_simd(acc, &sum, ppn_mul_simd(d.m, a.m), ppn_kept_exp(d.e, a.e));
        acc = ppn_add_term_simd(acc, &sum, ppn_mul_simd(n.m, s.m), ppn_kept_exp(n.e, s.e));
        out->e[r] = ppn_sum2_simd(ppn_mul_simd(p1, a.m), ppn_smx_term(a, -14), ppn_mul_simd(d.m, s.m),
                                  ppn_kept_exp(d.e, s.e), &out->x[r]);
        out->x[r + 1] = ppn_mul_simd(p1, s.m);
        out->e[r + 1] = ppn_scaled_exp(s);
    }
    out->x[0] = acc;
    out->e[0] = ppn_sum_exp(&sum);
}

/* The cotangent of stage |i|'s input through the activation before it. Answers 0 where the plain way must do it. */
static inline int ppn_return_jets(ppn_return *b, uint32_t i, ppn_run matrix) {
    const ppn_network *net = b->pass.net;
    const ppn_stage *s = &net->stages[i];
    uint32_t outer = ppn_blocks(ppn_stage_in(s)), inner = ppn_blocks(ppn_stage_out(s)), streams = b->pass.streams;
    int over_rows = !s->expand, bits = net->bits_gradients;
    if (net->mode != PPN_JET || !ppn_lefts_fit(inner, streams, bits, matrix.bits)) return 0;
    ppn_return_out o = {b, ppn_slopes_of(&b->pass, i - 1), {0}};
    ppn_smx cotangents[PPN_GROUP][PPN_STREAMS];
    ppn_lefts l;
    ppn_column c[PPN_GROUP];
    ppn_phase x[PPN_GROUP];
    l.inner = inner;
    l.headroom[0] = l.headroom[1] = ppn_headroom((int)inner, bits, matrix.bits);
    matrix.step = over_rows ? (int)outer : 1;
    for (uint32_t r = 0; r < streams; r++) o.keys[r] = ppn_stream_rounding(b, r).key;
    for (uint32_t panel = 0; panel < s->panels; panel++) {
        for (uint32_t r = 0; r < streams; r++)
            ppn_spread_row(&l, r, ppn_run_at(ppn_cotangent_row(b, i, r), (int)(panel * inner)));
        for (uint32_t k = 0; k < outer; k += PPN_GROUP) {
            uint32_t group = outer - k < PPN_GROUP ? outer - k : PPN_GROUP, column = panel * outer + k;
            for (uint32_t g = 0; g < group; g++) {
                ppn_take_column(&c[g], inner, matrix, k + g, over_rows);
                ppn_products(&l, &c[g], streams, &x[g]);
            }
            for (uint32_t g = 0; g < group; g++) ppn_arguments(&x[g], streams, cotangents[g], &b->pass.flags);
            for (uint32_t g = 0; g < group; g++) ppn_return_jet_simd(&o, column + g, cotangents[g], &x[g]);
            for (uint32_t g = 0; g < group; g++) ppn_put_cotangents(&o, column + g, &x[g]);
        }
    }
    return 1;
}

#endif
#endif
