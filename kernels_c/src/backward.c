/* backward.c: cotangents through a network, and the gradients they leave (spec 6, 7). */
#include "layer_simd.h"
#include "pass.h"
#include "rows_simd.h"

/* The gradient of stage |i|'s bias, from one microbatch. */
static void ppn_stage_bias(ppn_return *b, uint32_t i) {
    const ppn_network *net = b->pass.net;
    const ppn_place *place = &net->places[i];
    ppn_accumulator *a = ppn_accumulators(b->gradients) + place->accumulator + 1;
    int32_t *sums = (int32_t *)(void *)(b->gradients + place->bias_sum);
    for (uint32_t r = 0; net->stages[i].closes && r < b->pass.streams; r++)
        if (ppn_is_value(net, r)) {
#if PPN_SIMD
            ppn_bias_sums(ppn_cotangent_row(b, i, r), place->out_blocks, a, sums);
#else
            ppn_bias_gradient(ppn_cotangent_row(b, i, r), place->out_blocks, a, sums);
#endif
        }
}

/* That of its matrix. */
static void ppn_stage_gradient(ppn_return *b, uint32_t i) {
    const ppn_pass *p = &b->pass;
    const ppn_stage *s = &p->net->stages[i];
    const ppn_place *place = &p->net->places[i];
    ppn_accumulator *a = ppn_accumulators(b->gradients) + place->accumulator;
    uint32_t in = ppn_blocks(ppn_stage_in(s)), out = ppn_blocks(ppn_stage_out(s));
    int32_t *sums = (int32_t *)(void *)(b->gradients + place->sum);
    for (uint32_t r = 0; r < p->streams; r++) {
        ppn_run c = ppn_cotangent_row(b, i, r), x = ppn_stage_row(p->net, p->batch, p->tape, p->at, i, r);
        if (!x.exps) continue;
        for (uint32_t panel = 0; panel < s->panels; panel++) {
            ppn_run xs = ppn_run_at(x, (int)(panel * in)), cs = ppn_run_at(c, (int)(panel * out));
            if (s->expand)
                ppn_outer(a, xs, in, cs, out, sums);
            else
                ppn_outer(a, cs, out, xs, in, sums);
        }
    }
}

/* One block column of the activation's transpose: the linearization it reads, and where cotangents go. */
typedef struct {
    ppn_return *b;
    ppn_slopes slopes;
    uint32_t column;
} ppn_transpose;

/* Encode a cotangent to SMX(g) into its row, which is kept 16-bit. */
static void ppn_put_cotangent(ppn_transpose *t, uint32_t stream, const int32_t *x, int e) {
    ppn_rounding how = ppn_stream_rounding(t->b, stream);
    uint32_t blocks = t->slopes.blocks;
    uint8_t *row = ppn_cotangent_at(t->b, 1, blocks, stream);
    how.index = t->column * 16;
    ppn_encode_to(x, e, t->b->pass.net->bits_gradients, how, row, blocks, 1, t->column, &t->b->pass.flags);
}

/* A block that lies elsewhere. */
typedef struct {
    const int16_t *m;
    int e;
} ppn_seen;

/* The cotangent of a stream. */
static ppn_seen ppn_given(const ppn_transpose *t, uint32_t stream) {
    uint32_t blocks = t->slopes.blocks;
    const uint8_t *row = ppn_cotangent_at(t->b, 1, blocks, stream);
    ppn_seen out = {(const int16_t *)(const void *)(row + t->column * 32), (int8_t)row[blocks * 32 + t->column]};
    return out;
}

/* The linearization of a further stream. */
static ppn_seen ppn_change(const ppn_transpose *t, uint32_t stream) {
    uint32_t at = (stream - 1) * t->slopes.blocks + t->column;
    ppn_seen out = {t->slopes.changes + at * 16, t->slopes.exps[at]};
    return out;
}

/* x (exponent ex) p + y (exponent ey) q, put as a stream's cotangent. */
static void ppn_put_sum2(ppn_transpose *t, uint32_t stream, const int16_t *x, const int16_t *p, int ex,
                         const int16_t *y, const int16_t *q, int ey) {
    int32_t acc[16];
    int e = ppn_sum2_products(x, p, ex, y, q, ey, acc);
    ppn_put_cotangent(t, stream, acc, e);
}

/* Exponent of a block times a slope. */
static int ppn_own_term(int e) { return e == PPN_ZERO_EXP ? UNUSED_TERM : e - 14; }

/* Cotangents of one stream pair before the activation (spec 6). */
static void ppn_return_pair(ppn_transpose *t, uint32_t stream, const int16_t *p1) {
    ppn_seen odd = ppn_given(t, stream), even = ppn_given(t, stream + 1);
    ppn_seen d = ppn_change(t, stream), n = ppn_change(t, stream + 1);
    _Alignas(4) int16_t m1[16], given[16];
    int jet = t->b->pass.net->mode == PPN_JET;
    if (!jet) {
        p1 = ppn_stream_slope(p1, n.m, n.e, m1);
        PPN_COPY(given, odd.m);
    }
    ppn_put_sum2(t, stream, p1, odd.m, ppn_own_term(odd.e), d.m, even.m, ppn_kept_exp(d.e, even.e));
    if (jet) {
        int32_t x[16];
        int e = ppn_scale(p1, even.m, even.e, x);
        ppn_put_cotangent(t, stream + 1, x, e);
    } else
        ppn_put_sum2(t, stream + 1, p1, even.m, ppn_own_term(even.e), d.m, given, ppn_kept_exp(d.e, odd.e));
}

/* Cotangents of directions that share one even part, the last stream. */
static void ppn_return_summed(ppn_transpose *t, const int16_t *p1) {
    uint32_t last = t->b->pass.streams - 1, summed = ppn_summed(t->b->pass.net, last + 1);
    ppn_seen even = ppn_given(t, last);
    int32_t x[16];
    for (uint32_t r = 1; r <= last; r++) {
        ppn_seen c = ppn_given(t, r), d = ppn_change(t, r);
        if (r <= summed) {
            ppn_put_sum2(t, r, p1, c.m, ppn_own_term(c.e), d.m, even.m, ppn_kept_exp(d.e, even.e));
        } else {
            int e = ppn_scale(p1, c.m, c.e, x);
            ppn_put_cotangent(t, r, x, e);
        }
    }
}

PPN_SMALL static void ppn_return_difference(ppn_transpose *t, uint32_t stream, const int16_t *p1) {
    ppn_seen change = ppn_change(t, stream), c = ppn_given(t, stream);
    _Alignas(4) int16_t m1[16];
    int32_t x[16];
    int e = ppn_scale(ppn_stream_slope(p1, change.m, change.e, m1), c.m, c.e, x);
    ppn_put_cotangent(t, stream, x, e);
}

/* Stream 0: p1 H and every further stream's share, S terms of at most 2^30. */
static void ppn_return_base(ppn_transpose *t, const int16_t *p1) {
    ppn_seen c = ppn_given(t, 0);
    uint32_t streams = t->b->pass.streams;
    int32_t acc[16];
    ppn_sum sum = ppn_sum_open(streams);
    ppn_sum_offer(&sum, ppn_own_term(c.e));
    for (uint32_t r = 1; r < streams; r++) ppn_sum_offer(&sum, ppn_kept_exp(ppn_change(t, r).e, ppn_given(t, r).e));
    int fresh = ppn_sum_product(&sum, p1, c.m, ppn_own_term(c.e), 1, acc);
    for (uint32_t r = 1; r < streams; r++) {
        ppn_seen change = ppn_change(t, r);
        c = ppn_given(t, r);
        fresh = ppn_sum_product(&sum, change.m, c.m, ppn_kept_exp(change.e, c.e), fresh, acc);
    }
    ppn_sum_close(fresh, acc);
    ppn_put_cotangent(t, 0, acc, ppn_sum_exp(&sum));
}

PPN_SMALL static void ppn_return_naive(ppn_transpose *t) {
    for (uint32_t r = 0; r < t->b->pass.streams; r++) {
        int32_t x[16];
        ppn_seen c = ppn_given(t, r);
        int e = ppn_scale(ppn_p1(&t->slopes, r, t->column), c.m, c.e, x);
        ppn_put_cotangent(t, r, x, e);
    }
}

/* Cotangents are replaced in place, each after what reads it. */
static void ppn_return_column(ppn_transpose *t) {
    ppn_return *b = t->b;
    int mode = b->pass.net->mode;
    if (mode == PPN_NAIVE) {
        ppn_return_naive(t);
        return;
    }
    const int16_t *p1 = ppn_p1(&t->slopes, 0, t->column);
    ppn_return_base(t, p1);
    if (ppn_is_summed(b->pass.net)) {
        ppn_return_summed(t, p1);
        return;
    }
    for (uint32_t r = 1; r < b->pass.streams; r++) {
        if (mode == PPN_DIFFERENCE)
            ppn_return_difference(t, r, p1);
        else if (r % 2)
            ppn_return_pair(t, r, p1);
    }
}

/* The cotangent of a stage's input: encoded at once, or to SMX(16) and, in place, through the activation before it. */
static void ppn_input_cotangent(ppn_return *b, uint32_t i) {
    const ppn_network *net = b->pass.net;
    const ppn_stage *s = &net->stages[i];
    uint32_t blocks = net->places[i].in_blocks;
    int activates = net->stages[i - 1].closes;
    ppn_run matrix = ppn_matrix_run(net, b->pass.weights, i);
    for (uint32_t r = 0; r < b->pass.streams; r++) {
        ppn_rounding how = activates ? PPN_NEAREST : ppn_stream_rounding(b, r);
        int bits = activates ? 16 : net->bits_gradients;
        ppn_sink sink = {ppn_cotangent_at(b, 1, blocks, r), bits, 1, how, NULL, NULL, NULL};
        ppn_row_times(&b->pass, s, ppn_cotangent_row(b, i, r), matrix, !s->expand, sink);
    }
    if (!activates) return;
    ppn_transpose t = {b, ppn_slopes_of(&b->pass, i - 1), 0};
    for (; t.column < blocks; t.column++) ppn_return_column(&t);
}

/* A group's cotangents through stage |i|, and the gradients they leave. */
static void ppn_return_stage(ppn_return *b, uint32_t i) {
    int summed = 0, returned = !i;
#if PPN_SIMD
    summed = ppn_outer_rows(b, i);
    if (i) returned = b->pass.net->stages[i - 1].closes ? ppn_return_layer(b, i) : ppn_return_rows(b, i);
#endif
    for (uint32_t at = b->pass.first; at < b->pass.end; at++) {
        ppn_enter_return(b, i, at);
        ppn_stage_bias(b, i);
        if (!summed) ppn_stage_gradient(b, i);
        if (!returned) ppn_input_cotangent(b, i);
    }
    uint8_t *swap = b->rows[0];
    b->rows[0] = b->rows[1];
    b->rows[1] = swap;
}

int ppn_backward(const ppn_network *net, const uint8_t *weights, uint8_t *gradients, uint8_t *scratch,
                 const ppn_batch *batch, const int16_t *cotangents, const int8_t *cotangent_exps, ppn_counter counter) {
    uint32_t streams = ppn_streams(net->mode, batch->directions), group = ppn_group(streams);
    uint32_t bytes = ppn_rows16_bytes(net, group * streams);
    ppn_return b = {{net, weights, batch, NULL, 0, streams, 0, 0, 0},
                    gradients,
                    {scratch, scratch + bytes},
                    cotangents,
                    cotangent_exps,
                    counter,
                    ppn_mix(ppn_mix(counter.seed) ^ counter.step),
                    0};
    while (b.pass.end < batch->count) {
        ppn_open_group(&b.pass, group);
        for (uint32_t i = net->stage_count; i-- > 0;) ppn_return_stage(&b, i);
    }
    return b.pass.flags;
}
