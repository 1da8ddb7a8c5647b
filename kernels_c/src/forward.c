/* forward.c: microbatches through a network (spec 4, 5). */
#include "layer_simd.h"
#include "pass.h"
#include "rows_simd.h"

static void ppn_put_next(ppn_layer_out *o, uint32_t stream, uint32_t column, const int32_t *x, int e) {
    int bits = ppn_row_bits(o->pass->net, stream);
    uint8_t *row = ppn_next_row(o, stream);
    ppn_encode_to(x, e, bits, PPN_NEAREST, row, o->blocks, ppn_wide(bits), column, &o->pass->flags);
}
static uint32_t ppn_change_at(const ppn_layer_out *o, uint32_t stream, uint32_t column) {
    return (stream - 1) * o->slopes.blocks + column;
}
static void ppn_put_value(ppn_layer_out *o, uint32_t stream, uint32_t column, const ppn_curve *c) {
    int32_t x[16];
#if PPN_M0
    ppn_m0_spread16(c->h, x, 0);
#else
    LANES x[l] = c->h[l];
#endif
    ppn_put_next(o, stream, column, x, -15);
    PPN_COPY(ppn_p1(&o->slopes, stream, column), c->p1);
}

static void ppn_forward_pair(ppn_layer_out *o, uint32_t stream, uint32_t column, ppn_block *a, ppn_block *s,
                             const ppn_curve *c) {
    const ppn_network *net = o->pass->net;
    ppn_pair_out out;
    uint32_t odd = ppn_change_at(o, stream, column), even = ppn_change_at(o, stream + 1, column);
    out.d = o->slopes.changes + odd * 16;
    out.n = o->slopes.changes + even * 16;
    if (net->mode == PPN_JET)
        ppn_jet(c, a, s, &out);
    else
        ppn_odd_even(net->activation, c, a, s, &out, &o->pass->flags);
    ppn_put_next(o, stream, column, out.a, out.ea);
    ppn_put_next(o, stream + 1, column, out.s, out.es);
    o->slopes.exps[odd] = (int16_t)out.ed;
    o->slopes.exps[even] = (int16_t)out.en;
}

static void ppn_forward_difference(ppn_layer_out *o, uint32_t stream, uint32_t column, ppn_block *d,
                                   const ppn_curve *c) {
    int32_t x[16];
    ppn_block delta;
    uint32_t at = ppn_change_at(o, stream, column);
    int *flags = &o->pass->flags;
    ppn_limit_step(d, flags);
    int e = ppn_delta(o->pass->net->activation, c, d, &delta, x, flags);
    o->slopes.exps[at] = (int16_t)ppn_keep(x, e, o->slopes.changes + at * 16);
    LANES x[l] = delta.m[l];
    ppn_put_next(o, stream, column, x, delta.e);
}

/* The pre-activation of a stream in a block column. */
static void ppn_get_stream(const ppn_layer_out *o, uint8_t *rows, uint32_t stream, uint32_t column, ppn_block *x) {
    ppn_get_block(ppn_row16_at(rows, o->blocks, stream), o->blocks, column, x);
}
/* Directions' first derivatives, and the sum of their second ones, which is the last stream. */
static void ppn_forward_summed(ppn_layer_out *o, uint8_t *rows, uint32_t column, const ppn_curve *c) {
    uint32_t last = o->pass->streams - 1, summed = ppn_summed(o->pass->net, o->pass->streams);
    int32_t x[16], squares[16] = {0};
    ppn_block a, q;
    int top = UNUSED_TERM;
    for (uint32_t r = 1; r <= summed; r++) {
        ppn_get_stream(o, rows, r, column, &a);
        top = ppn_max(top, ppn_term_square(&a, 0));
    }
    for (uint32_t r = 1; r < last; r++) {
        uint32_t at = ppn_change_at(o, r, column);
        ppn_get_stream(o, rows, r, column, &a);
        if (r <= summed && a.e != PPN_ZERO_EXP) ppn_add_square(a.m, top - 2 * a.e, squares);
        o->slopes.exps[at] = (int16_t)ppn_scale_kept(c->p2, &a, o->slopes.changes + at * 16);
        int e = ppn_scale(c->p1, a.m, a.e, x);
        ppn_put_next(o, r, column, x, e);
    }
    ppn_to_block(squares, top + 15, &q, &o->pass->flags);
    uint32_t at = ppn_change_at(o, last, column);
    ppn_get_stream(o, rows, last, column, &a);
    int even = ppn_term(&a, -14), square = ppn_term(&q, -15); /* half of it */
    int e = ppn_sum2_products(c->p1, a.m, even, c->p2, q.m, square, x);
    ppn_put_next(o, last, column, x, e);
    e = ppn_sum2_products(c->p2, a.m, even, c->p3, q.m, square, x);
    o->slopes.exps[at] = (int16_t)ppn_keep(x, e, o->slopes.changes + at * 16);
}

/* The activation of one block column, all streams; |rows| are the pre-activations. */
static PPN_APART void ppn_forward_column(ppn_layer_out *o, uint8_t *rows, uint32_t column) {
    const ppn_network *net = o->pass->net;
    ppn_curve c;
    ppn_block x, even;
    ppn_get_stream(o, rows, 0, column, &x);
    ppn_curve_at(net->activation, &x, &c);
    ppn_put_value(o, 0, column, &c);
    if (ppn_is_summed(net)) {
        if (o->pass->streams > 1) ppn_forward_summed(o, rows, column, &c);
        return;
    }
    for (uint32_t stream = 1; stream < o->pass->streams; stream++) {
        ppn_get_stream(o, rows, stream, column, &x);
        if (net->mode == PPN_NAIVE) {
            ppn_curve_at(net->activation, &x, &c);
            ppn_put_value(o, stream, column, &c);
        } else if (net->mode == PPN_DIFFERENCE) {
            ppn_forward_difference(o, stream, column, &x, &c);
        } else {
            ppn_get_stream(o, rows, stream + 1, column, &even);
            ppn_forward_pair(o, stream++, column, &x, &even, &c);
        }
    }
}

static void ppn_activate_layer(ppn_pass *p, uint32_t i, uint8_t *rows) {
    const ppn_place *next = &p->net->places[i + 1];
    ppn_layer_out o = {p, ppn_slopes_of(p, i), p->tape + next->input, next->in_blocks};
    for (uint32_t column = 0; column < o.blocks; column++) ppn_forward_column(&o, rows, column);
}

/* One microbatch through stage |i|. */
static void ppn_forward_one(ppn_pass *p, uint32_t i, uint8_t *scratch, int32_t *out, int16_t *out_exps) {
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    uint32_t blocks = net->places[i].out_blocks, last = i + 1 == net->stage_count, activates = s->closes && !last;
    int bits = i ? net->bits_activations : 16; /* inputs come in 16-bit words */
    ppn_run matrix = ppn_forward_matrix(net, p->weights, i, bits);
    for (uint32_t stream = 0; stream < p->streams; stream++) {
        ppn_sink sink = {NULL, 16, 1, PPN_NEAREST, NULL, NULL, NULL};
        if (last) {
            sink = ppn_output_sink(p, i, stream, out, out_exps);
        } else if (activates) {
            sink.at = ppn_row16_at(scratch, blocks, stream);
            if (ppn_is_value(net, stream)) sink.bias = p->weights + net->places[i].bias;
        } else {
            sink.at = p->tape + net->places[i + 1].input + ppn_row_at(net, blocks, stream);
            sink.bits = ppn_row_bits(net, stream);
            sink.wide = ppn_wide(sink.bits);
        }
        ppn_row_times(p, s, ppn_stage_row(net, p->batch, p->tape, p->at, i, stream), matrix, s->expand, sink);
    }
    if (activates) ppn_activate_layer(p, i, scratch);
}

static void ppn_forward_stage(ppn_pass *p, uint32_t i, uint8_t *scratch, int32_t *out, int16_t *out_exps) {
#if PPN_SIMD
    int closes = p->net->stages[i].closes, last = i + 1 == p->net->stage_count;
    if (closes && !last && ppn_forward_layer(p, i)) return;
    if (!closes && ppn_forward_rows(p, i)) return;
    if (last && ppn_forward_outputs(p, i, out, out_exps)) return;
#endif
    for (uint32_t at = p->first; at < p->end; at++) {
        ppn_enter(p, at);
        ppn_forward_one(p, i, scratch, out, out_exps);
    }
}

int ppn_forward(const ppn_network *net, const uint8_t *weights, uint8_t *scratch, const ppn_batch *batch, int32_t *out,
                int16_t *out_exps) {
    ppn_pass p = {net, weights, batch, NULL, 0, ppn_streams(net->mode, batch->directions), 0, 0, 0};
    uint32_t group = batch->tape_step ? ppn_group(p.streams) : 1;
    while (p.end < batch->count) {
        ppn_open_group(&p, group);
        for (uint32_t i = 0; i < net->stage_count; i++) ppn_forward_stage(&p, i, scratch, out, out_exps);
    }
    return p.flags;
}
