/* network.c: a network's plan, forward and backward over microbatches (spec 4, 6, 7). */
#include "activation.h"
#include "chain.h"
#include "gradient.h"
#include "product.h"

/* ---- plan ------------------------------------------------------------------------------------------------------ */

static uint32_t ppn_blocks(uint32_t size) { return (size + 3) / 4; }
static uint32_t ppn_padded(uint32_t bytes) { return (bytes + 3) & ~(uint32_t)3; }
static int ppn_wide(int bits) { return bits > 8; }
static uint32_t ppn_run_bytes(uint32_t blocks, int bits) { return blocks * (ppn_wide(bits) ? 33 : 17); }
static uint32_t ppn_streams(uint32_t directions) { return 1 + 2 * directions; }
static uint32_t ppn_matrix_blocks(const ppn_stage *s) { return ppn_blocks(s->rows) * ppn_blocks(s->cols); }
static uint32_t ppn_stage_in(const ppn_stage *s) { return s->expand ? s->rows : s->cols; }
static uint32_t ppn_stage_out(const ppn_stage *s) { return s->expand ? s->cols : s->rows; }
static int ppn_bits_ok(int bits) { return bits >= 4 && bits <= 16; }
static int ppn_size_ok(uint32_t size) { return size >= 1 && size <= PPN_INNER; }

static int ppn_row_bits(const ppn_network *net, uint32_t stream) {
    return stream == 0 && net->mode != PPN_NAIVE ? net->bits_base : net->bits_activations;
}

/* Bytes of all streams' rows of |blocks| blocks in a tape. */
static uint32_t ppn_rows_bytes(const ppn_network *net, uint32_t blocks, uint32_t streams) {
    return ppn_padded(ppn_run_bytes(blocks, ppn_row_bits(net, 0))) +
           (streams - 1) * ppn_padded(ppn_run_bytes(blocks, net->bits_activations));
}

/* Bytes of a layer's linearization: p1, and for all modes but naive an SMX(16) row a further stream. */
static uint32_t ppn_slope_bytes(const ppn_network *net, uint32_t blocks, uint32_t streams) {
    if (net->mode == PPN_NAIVE) return streams * blocks * 32;
    return blocks * 32 + ppn_padded((streams - 1) * blocks * 33);
}

static int ppn_check_stage(const ppn_network *net, const ppn_stage *s) {
    if (!ppn_size_ok(s->rows) || !ppn_size_ok(s->cols) || s->panels < 1) return PPN_BAD_SHAPE;
    if (s->panels * ppn_blocks(ppn_stage_in(s)) > PPN_INNER / 4) return PPN_BAD_SHAPE;
    if (s->panels * ppn_blocks(ppn_stage_out(s)) > PPN_INNER / 4) return PPN_BAD_SHAPE;
    if (s->chain < 0) return PPN_OK;
    if (s->chain >= net->chain_count) return PPN_BAD_CHAIN;
    return ppn_check_chain(&net->chains[s->chain], s->rows, s->cols) ? PPN_OK : PPN_BAD_CHAIN;
}

static int ppn_check(const ppn_network *net) {
    if (net->stage_count < 1 || net->activation > PPN_SINE || net->mode > PPN_JET) return PPN_BAD_ENUM;
    if (!ppn_bits_ok(net->bits_weights) || !ppn_bits_ok(net->bits_activations) || !ppn_bits_ok(net->bits_base) ||
        !ppn_bits_ok(net->bits_gradients))
        return PPN_BAD_WIDTH;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        const ppn_stage *s = &net->stages[i], *before = s - 1;
        int status = ppn_check_stage(net, s);
        if (status) return status;
        if (i && before->panels * ppn_blocks(ppn_stage_out(before)) != s->panels * ppn_blocks(ppn_stage_in(s)))
            return PPN_BAD_SHAPE;
    }
    return net->stages[net->stage_count - 1].closes ? PPN_OK : PPN_BAD_SHAPE;
}

/* Reserve |bytes| of a region: answers the offset, moves the end. */
static uint32_t ppn_reserve(uint32_t *end, uint32_t bytes) {
    uint32_t at = *end;
    *end += ppn_padded(bytes);
    return at;
}

static void ppn_plan_stage(const ppn_network *net, uint32_t i, uint32_t streams, ppn_sizes *sizes) {
    const ppn_stage *s = &net->stages[i];
    ppn_place *p = &net->places[i];
    uint32_t blocks = ppn_matrix_blocks(s);
    const ppn_chain *chain = s->chain < 0 ? NULL : &net->chains[s->chain];
    p->in_blocks = (uint16_t)(s->panels * ppn_blocks(ppn_stage_in(s)));
    p->out_blocks = (uint16_t)(s->panels * ppn_blocks(ppn_stage_out(s)));
    p->accumulator = sizes->accumulators;
    p->tensor = sizes->tensors;
    p->matrix = ppn_reserve(&sizes->weights, ppn_run_bytes(blocks, net->bits_weights));
    p->cores = ppn_reserve(&sizes->weights, chain ? ppn_chain_bytes(chain) : 0);
    p->bias = ppn_reserve(&sizes->weights, s->closes ? p->out_blocks * 9u : 0);
    p->sum = ppn_reserve(&sizes->gradients, blocks * 64);
    p->bias_sum = ppn_reserve(&sizes->gradients, s->closes ? p->out_blocks * 16u : 0);
    p->input = ppn_reserve(&sizes->tape, i ? ppn_rows_bytes(net, p->in_blocks, streams) : 0);
    int activates = s->closes && i + 1 < net->stage_count;
    p->slope = ppn_reserve(&sizes->tape, activates ? ppn_slope_bytes(net, p->out_blocks, streams) : 0);
    sizes->accumulators = (uint16_t)(sizes->accumulators + 1 + s->closes);
    sizes->tensors = (uint16_t)(sizes->tensors + (chain ? chain->modes : 1) + s->closes);
    sizes->parameter_blocks += (chain ? ppn_chain_blocks(chain) : blocks) + (s->closes ? p->out_blocks : 0);
}

/* Bytes of one SMX(16) row a stream at the widest place: pre-activations forward, cotangents backward. */
static uint32_t ppn_rows16_bytes(const ppn_network *net, uint32_t streams) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        blocks = net->places[i].in_blocks > blocks ? net->places[i].in_blocks : blocks;
        blocks = net->places[i].out_blocks > blocks ? net->places[i].out_blocks : blocks;
    }
    return streams * ppn_padded(ppn_run_bytes(blocks, 16));
}

int ppn_plan(ppn_network *net, uint16_t directions, ppn_sizes *sizes) {
    int status = ppn_check(net);
    if (status) return status;
    uint32_t streams = ppn_streams(directions), chains = 0;
    memset(sizes, 0, sizeof *sizes);
    for (uint32_t i = 0; i < net->stage_count; i++) ppn_plan_stage(net, i, streams, sizes);
    for (uint32_t i = 0; i < net->chain_count; i++) {
        uint32_t bytes = ppn_chain_scratch(&net->chains[i]);
        chains = bytes > chains ? bytes : chains;
    }
    uint32_t header = ppn_padded(4 + sizes->accumulators * (uint32_t)sizeof(ppn_accumulator));
    for (uint32_t i = 0; i < net->stage_count; i++) {
        net->places[i].sum += header;
        net->places[i].bias_sum += header;
    }
    sizes->gradients += header;
    sizes->scratch = 2 * ppn_rows16_bytes(net, streams) + streams * (uint32_t)sizeof(ppn_block);
    sizes->scratch = sizes->scratch > chains ? sizes->scratch : chains;
    sizes->in_blocks = net->places[0].in_blocks;
    sizes->out_blocks = net->places[net->stage_count - 1].out_blocks;
    return PPN_OK;
}

/* ---- rows and matrices in the regions -------------------------------------------------------------------------- */

/* A row or matrix stored as all mantissas, then all exponents. */
static ppn_run ppn_stored(const uint8_t *at, uint32_t blocks, int bits) {
    int wide = ppn_wide(bits);
    ppn_run run = {at, (const int8_t *)at + blocks * (wide ? 32u : 16u), 1, (uint8_t)wide, 0, (uint8_t)bits};
    return run;
}

static ppn_run ppn_matrix_run(const ppn_network *net, const uint8_t *weights, uint32_t i) {
    return ppn_stored(weights + net->places[i].matrix, ppn_matrix_blocks(&net->stages[i]), net->bits_weights);
}

/* Offset of a stream's row among the rows of |blocks| blocks. */
static uint32_t ppn_row_at(const ppn_network *net, uint32_t blocks, uint32_t stream) {
    return stream == 0 ? 0 : ppn_rows_bytes(net, blocks, stream);
}

/* The stored input row of a stage beyond the first. */
static ppn_run ppn_tape_row(const ppn_network *net, const uint8_t *tape, uint32_t i, uint32_t stream) {
    const ppn_place *p = &net->places[i];
    return ppn_stored(tape + p->input + ppn_row_at(net, p->in_blocks, stream), p->in_blocks, ppn_row_bits(net, stream));
}

/* The network's input row of a stream; no exponents (NULL) means a zero row. */
static ppn_run ppn_input_row(const ppn_network *net, const ppn_batch *b, uint32_t at, uint32_t stream) {
    uint32_t blocks = net->places[0].in_blocks, row;
    ppn_run run = {NULL, NULL, 1, 1, 0, b->bits_inputs};
    int pairs = net->mode == PPN_JET || net->mode == PPN_ODD_EVEN;
    if (stream == 0 || net->mode == PPN_NAIVE) {
        row = net->mode == PPN_NAIVE ? at * ppn_streams(b->directions) + stream : at;
        run.mantissas = b->points;
        run.exps = b->point_exps;
    } else if (!pairs || stream % 2) {
        row = pairs ? stream / 2 : stream - 1;
        run.mantissas = b->rows;
        run.exps = b->row_exps;
    } else
        return run;
    return ppn_run_at(run, (int)(row * blocks));
}

static ppn_run ppn_stage_row(const ppn_network *net, const ppn_batch *b, const uint8_t *tape, uint32_t at, uint32_t i,
                             uint32_t stream) {
    return i ? ppn_tape_row(net, tape, i, stream) : ppn_input_row(net, b, at, stream);
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

typedef struct {
    const ppn_network *net;
    const uint8_t *weights;
    const ppn_batch *batch;
    uint8_t *tape;
    uint32_t at; /* microbatch within the batch */
    uint32_t streams;
    int flags;
} ppn_pass;

/* Where the blocks of a product row go: encoded to SMX(bits) at |at|, or as they are to |values| if that is given. */
typedef struct {
    uint8_t *at;
    int bits, wide;
    ppn_rounding how;
    int32_t *values;
    int16_t *exps;
    const uint8_t *bias; /* added first, if given */
} ppn_sink;

/* Add the bias of a block column (spec 4.1): |acc| <= 2^30, |b| 2^14 < 2^29. */
static int ppn_add_bias(const uint8_t *bias, uint32_t blocks, uint32_t column, int32_t *acc, int e) {
    int16_t b[4];
    memcpy(b, bias + column * 8, 8);
    int f = (int8_t)bias[blocks * 8 + column];
    if (f == PPN_ZERO_EXP) return e;
    int to = ppn_max(e, f - 14), down = to - e, up = f - to;
    int32_t add[4];
    for (int l = 0; l < 4; l++) add[l] = up >= 0 ? b[l] * (1 << up) : ppn_rnd(b[l], -up);
    LANES acc[l] = ppn_rnd(acc[l], down) + add[l % 4];
    return to;
}

/* A row times a stage matrix, over the matrix's rows or its columns, panel after panel (spec 3, 4). */
static void ppn_row_times(ppn_pass *p, const ppn_stage *s, ppn_run row, ppn_run matrix, int over_rows, ppn_sink sink) {
    uint32_t high = ppn_blocks(s->rows), wide = ppn_blocks(s->cols);
    uint32_t inner = over_rows ? high : wide, outer = over_rows ? wide : high, blocks = s->panels * outer;
    ppn_ready left;
    matrix.step = over_rows ? (int)wide : 1;
    matrix.turned = (uint8_t)over_rows;
    for (uint32_t column = 0, panel = 0; panel < s->panels; panel++) {
        ppn_make_ready(&left, row, (int)inner, matrix.bits);
        for (uint32_t k = 0; k < outer; k++, column++) {
            int32_t x[16];
            ppn_run m = ppn_run_at(matrix, (int)(over_rows ? k : k * inner));
            int e = ppn_ready_product(&left, &m, x);
            if (sink.bias) e = ppn_add_bias(sink.bias, blocks, column, x, e);
            if (sink.values) {
                memcpy(sink.values + column * 16, x, sizeof x);
                sink.exps[column] = (int16_t)e;
            } else {
                sink.how.index = column * 16;
                ppn_encode_to(x, e, sink.bits, sink.how, sink.at, blocks, sink.wide, column, &p->flags);
            }
        }
        if (row.exps) row = ppn_run_at(row, (int)inner);
    }
}

/* Pre-activation rows, SMX(16), one a stream, in the scratch. */
static ppn_run ppn_argument_row(uint8_t *scratch, uint32_t blocks, uint32_t stream) {
    return ppn_stored(scratch + stream * ppn_padded(ppn_run_bytes(blocks, 16)), blocks, 16);
}

/* The linearization of a layer, as its closing stage keeps it: p1 of stream 0 (naive: of all), changes of the others.
 */
typedef struct {
    uint8_t *p1, *changes;
    uint32_t blocks, rows;
} ppn_slopes;

static ppn_slopes ppn_slopes_of(const ppn_pass *p, uint32_t i) {
    const ppn_place *place = &p->net->places[i];
    uint8_t *at = p->tape + place->slope;
    ppn_slopes out = {at, at + place->out_blocks * 32u, place->out_blocks, p->streams - 1};
    return out;
}
static int16_t *ppn_p1(const ppn_slopes *s, uint32_t stream, uint32_t column) {
    return (int16_t *)(void *)(s->p1 + (stream * s->blocks + column) * 32);
}

/* The next stage's stored input, as the activation writes it. */
typedef struct {
    ppn_pass *pass;
    ppn_slopes slopes;
    uint8_t *inputs;
    uint32_t blocks;
} ppn_layer_out;

static uint8_t *ppn_next_row(const ppn_layer_out *o, uint32_t stream) {
    return o->inputs + ppn_row_at(o->pass->net, o->blocks, stream);
}
static void ppn_put_next(ppn_layer_out *o, uint32_t stream, uint32_t column, const int32_t *x, int e) {
    int bits = ppn_row_bits(o->pass->net, stream);
    uint8_t *row = ppn_next_row(o, stream);
    ppn_encode_to(x, e, bits, PPN_NEAREST, row, o->blocks, ppn_wide(bits), column, &o->pass->flags);
}
static void ppn_put_change(ppn_layer_out *o, uint32_t stream, uint32_t column, const ppn_block *b) {
    ppn_slopes *s = &o->slopes;
    ppn_store(s->changes, s->rows * s->blocks, 1, (stream - 1) * s->blocks + column, b->m, b->e);
}
static void ppn_put_value(ppn_layer_out *o, uint32_t stream, uint32_t column, const ppn_curve *c) {
    int32_t x[16];
    LANES x[l] = c->h[l];
    ppn_put_next(o, stream, column, x, -15);
    memcpy(ppn_p1(&o->slopes, stream, column), c->p1, 32);
}

static void ppn_forward_pair(ppn_layer_out *o, uint32_t stream, uint32_t column, ppn_block a, ppn_block s,
                             const ppn_curve *c) {
    const ppn_network *net = o->pass->net;
    ppn_pair_out out;
    if (net->mode == PPN_JET)
        ppn_jet(c, &a, &s, &out, &o->pass->flags);
    else
        ppn_odd_even(net->activation, c, &a, &s, &out, &o->pass->flags);
    ppn_put_next(o, stream, column, out.a, out.ea);
    ppn_put_next(o, stream + 1, column, out.s, out.es);
    ppn_put_change(o, stream, column, &out.d);
    ppn_put_change(o, stream + 1, column, &out.n);
}

static void ppn_forward_difference(ppn_layer_out *o, uint32_t stream, uint32_t column, ppn_block d,
                                   const ppn_curve *c) {
    int32_t x[16];
    ppn_block delta, change;
    int *flags = &o->pass->flags;
    ppn_limit_step(&d, flags);
    int e = ppn_delta(o->pass->net->activation, c, &d, &delta, x, flags);
    ppn_to_block(x, e, &change, flags);
    LANES x[l] = delta.m[l];
    ppn_put_next(o, stream, column, x, delta.e);
    ppn_put_change(o, stream, column, &change);
}

#if PPN_SIMD
/* ppn_forward_pair() for jets. */
static void ppn_forward_jet_simd(ppn_layer_out *o, uint32_t stream, uint32_t column, ppn_run a, ppn_run s,
                                 const ppn_curve *c) {
    int *flags = &o->pass->flags, bits = o->pass->net->bits_activations;
    ppn_slopes *to = &o->slopes;
    uint32_t rows = to->rows * to->blocks, at = (stream - 1) * to->blocks + column;
    ppn_jet_simd out;
    ppn_lanes m;
    ppn_jet_lanes(c, &a, &s, column, &out);
    int e = ppn_encode_simd(out.a, out.ea, bits, PPN_NEAREST, &m, flags);
    ppn_store_simd(ppn_next_row(o, stream), o->blocks, ppn_wide(bits), column, m, e);
    e = ppn_encode_simd(out.s, out.es, bits, PPN_NEAREST, &m, flags);
    ppn_store_simd(ppn_next_row(o, stream + 1), o->blocks, ppn_wide(bits), column, m, e);
    e = ppn_encode_simd(out.d, out.ea, 16, PPN_NEAREST, &m, flags);
    ppn_store_simd(to->changes, rows, 1, at, m, e);
    e = ppn_encode_simd(out.n, out.en, 16, PPN_NEAREST, &m, flags);
    ppn_store_simd(to->changes, rows, 1, at + to->blocks, m, e);
}
#endif

/* The activation of one block column, all streams; |rows| are the pre-activations. */
static void ppn_forward_column(ppn_layer_out *o, uint8_t *rows, uint32_t column) {
    const ppn_network *net = o->pass->net;
    ppn_curve c;
    ppn_block z = ppn_get_block(ppn_argument_row(rows, o->blocks, 0), column);
    ppn_curve_at(net->activation, &z, &c);
    ppn_put_value(o, 0, column, &c);
    for (uint32_t stream = 1; stream < o->pass->streams; stream++) {
        ppn_run row = ppn_argument_row(rows, o->blocks, stream);
        if (net->mode == PPN_NAIVE) {
            z = ppn_get_block(row, column);
            ppn_curve_at(net->activation, &z, &c);
            ppn_put_value(o, stream, column, &c);
        } else if (net->mode == PPN_DIFFERENCE) {
            ppn_forward_difference(o, stream, column, ppn_get_block(row, column), &c);
        } else if (stream % 2) {
            ppn_run even = ppn_argument_row(rows, o->blocks, stream + 1);
#if PPN_SIMD
            if (net->mode == PPN_JET) {
                ppn_forward_jet_simd(o, stream, column, row, even, &c);
                continue;
            }
#endif
            ppn_forward_pair(o, stream, column, ppn_get_block(row, column), ppn_get_block(even, column), &c);
        }
    }
}

static void ppn_activate_layer(ppn_pass *p, uint32_t i, uint8_t *rows) {
    const ppn_place *next = &p->net->places[i + 1];
    ppn_layer_out o = {p, ppn_slopes_of(p, i), p->tape + next->input, next->in_blocks};
    for (uint32_t column = 0; column < o.blocks; column++) ppn_forward_column(&o, rows, column);
}

static void ppn_forward_stage(ppn_pass *p, uint32_t i, uint8_t *scratch, int32_t *out, int16_t *out_exps) {
    const ppn_network *net = p->net;
    const ppn_stage *s = &net->stages[i];
    uint32_t blocks = net->places[i].out_blocks, last = i + 1 == net->stage_count, activates = s->closes && !last;
    ppn_run matrix = ppn_matrix_run(net, p->weights, i);
    for (uint32_t stream = 0; stream < p->streams; stream++) {
        ppn_sink sink = {NULL, 16, 1, PPN_NEAREST, NULL, NULL, NULL};
        if (s->closes && (stream == 0 || net->mode == PPN_NAIVE)) sink.bias = p->weights + net->places[i].bias;
        if (last) {
            uint32_t to = (p->at * p->streams + stream) * blocks;
            sink.values = out + to * 16;
            sink.exps = out_exps + to;
        } else if (activates) {
            sink.at = scratch + stream * ppn_padded(ppn_run_bytes(blocks, 16));
        } else {
            sink.at = p->tape + net->places[i + 1].input + ppn_row_at(net, blocks, stream);
            sink.bits = ppn_row_bits(net, stream);
            sink.wide = ppn_wide(sink.bits);
        }
        ppn_row_times(p, s, ppn_stage_row(net, p->batch, p->tape, p->at, i, stream), matrix, s->expand, sink);
    }
    if (activates) ppn_activate_layer(p, i, scratch);
}

int ppn_forward(const ppn_network *net, const uint8_t *weights, uint8_t *scratch, const ppn_batch *batch, int32_t *out,
                int16_t *out_exps) {
    ppn_pass p = {net, weights, batch, NULL, 0, ppn_streams(batch->directions), 0};
    for (p.at = 0; p.at < batch->count; p.at++) {
        p.tape = batch->tape + (size_t)p.at * batch->tape_step;
        for (uint32_t i = 0; i < net->stage_count; i++) ppn_forward_stage(&p, i, scratch, out, out_exps);
    }
    return p.flags;
}

/* ---- gradients ------------------------------------------------------------------------------------------------- */

static ppn_accumulator *ppn_accumulators(uint8_t *gradients) { return (ppn_accumulator *)(void *)(gradients + 4); }

void ppn_begin(const ppn_network *net, uint8_t *gradients, const int16_t *exps, uint8_t limit) {
    gradients[0] = limit;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        const ppn_stage *s = &net->stages[i];
        const ppn_place *p = &net->places[i];
        for (uint32_t k = p->accumulator; k <= (uint32_t)p->accumulator + s->closes; k++) {
            ppn_accumulator fresh = {exps[k], 0, 0};
            ppn_accumulators(gradients)[k] = fresh;
        }
        memset(gradients + p->sum, 0, (size_t)ppn_matrix_blocks(s) * 64);
        if (s->closes) memset(gradients + p->bias_sum, 0, p->out_blocks * (size_t)16);
    }
}

/* Bias gradient: sums of the four rows of a cotangent row, |sum| <= 4 M(16) < 2^17. */
static void ppn_bias_gradient(ppn_run c, uint32_t blocks, ppn_accumulator *a, int limit, int32_t *sums) {
    for (uint32_t n = 0; n < blocks; n++) {
        int16_t m[16];
        int32_t x[4];
        if (c.exps[n] == PPN_ZERO_EXP) continue;
        ppn_load_block(&c, (int)n, m);
        for (int l = 0; l < 4; l++) x[l] = m[l] + m[4 + l] + m[8 + l] + m[12 + l];
        ppn_accumulate(a, limit, x, c.exps[n], 4, sums + 4 * n);
    }
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

typedef struct {
    ppn_pass pass;
    uint8_t *gradients, *rows[2]; /* cotangent rows after and before the stage, always 16-bit */
    ppn_block *column;            /* one block a stream */
    const int16_t *given;         /* the caller's cotangents */
    const int8_t *given_exps;
    ppn_counter counter;
    uint32_t key; /* of the stage and microbatch */
} ppn_return;

/* A stream's row among cotangent rows. */
static uint8_t *ppn_cotangent_at(uint8_t *rows, uint32_t blocks, uint32_t stream) {
    return rows + stream * ppn_padded(ppn_run_bytes(blocks, 16));
}

static ppn_run ppn_cotangent_row(const ppn_return *b, uint32_t i, uint32_t stream) {
    const ppn_network *net = b->pass.net;
    uint32_t blocks = net->places[i].out_blocks, row = b->pass.at * b->pass.streams + stream;
    ppn_run run = {b->given, b->given_exps, 1, 1, 0, net->bits_gradients};
    if (i + 1 == net->stage_count) return ppn_run_at(run, (int)(row * blocks));
    run = ppn_stored(ppn_cotangent_at(b->rows[0], blocks, stream), blocks, 16);
    run.bits = net->bits_gradients;
    return run;
}

static void ppn_stage_gradient(ppn_return *b, uint32_t i, uint32_t stream) {
    const ppn_pass *p = &b->pass;
    const ppn_stage *s = &p->net->stages[i];
    const ppn_place *place = &p->net->places[i];
    ppn_accumulator *a = ppn_accumulators(b->gradients) + place->accumulator;
    uint32_t in = ppn_blocks(ppn_stage_in(s)), out = ppn_blocks(ppn_stage_out(s));
    ppn_run c = ppn_cotangent_row(b, i, stream), x = ppn_stage_row(p->net, p->batch, p->tape, p->at, i, stream);
    int32_t *sums = (int32_t *)(void *)(b->gradients + place->sum);
    int limit = b->gradients[0];
    if (s->closes && (stream == 0 || p->net->mode == PPN_NAIVE))
        ppn_bias_gradient(c, place->out_blocks, a + 1, limit, (int32_t *)(void *)(b->gradients + place->bias_sum));
    if (!x.exps) return;
    for (uint32_t panel = 0; panel < s->panels; panel++) {
        ppn_run xs = ppn_run_at(x, (int)(panel * in)), cs = ppn_run_at(c, (int)(panel * out));
        if (s->expand)
            ppn_outer(a, limit, xs, in, cs, out, sums);
        else
            ppn_outer(a, limit, cs, out, xs, in, sums);
    }
}

/* One block column of the activation's transpose: the linearization it reads, and where cotangents go. */
typedef struct {
    ppn_return *b;
    ppn_slopes slopes;
    uint32_t column;
} ppn_transpose;

static ppn_rounding ppn_stream_rounding(const ppn_return *b, uint32_t stream) {
    ppn_rounding how = {ppn_mix(b->key ^ stream), 0, 1};
    return how;
}

/* Encode a cotangent to SMX(g) into its row, which is kept 16-bit. */
static void ppn_put_cotangent(ppn_transpose *t, uint32_t stream, const int32_t *x, int e) {
    ppn_rounding how = ppn_stream_rounding(t->b, stream);
    uint32_t blocks = t->slopes.blocks;
    int16_t m[16];
    how.index = t->column * 16;
    e = ppn_encode16(x, e, t->b->pass.net->bits_gradients, how, m, &t->b->pass.flags);
    ppn_store(ppn_cotangent_at(t->b->rows[1], blocks, stream), blocks, 1, t->column, m, e);
}

/* The linearization of a further stream. */
static ppn_block ppn_change(const ppn_transpose *t, uint32_t stream) {
    const ppn_slopes *s = &t->slopes;
    return ppn_get_block(ppn_stored(s->changes, s->rows * s->blocks, 16), (stream - 1) * s->blocks + t->column);
}

/* Cotangents of one stream pair before the activation (spec 6). */
static void ppn_return_pair(ppn_transpose *t, uint32_t stream, const int16_t *p1) {
    const ppn_block *odd = &t->b->column[stream], *even = &t->b->column[stream + 1];
    ppn_block d = ppn_change(t, stream), n = ppn_change(t, stream + 1);
    int jet = t->b->pass.net->mode == PPN_JET, e;
    int16_t m1[16];
    int32_t x[16], y[16], sum[16];
    ppn_stream_slope(p1, jet ? NULL : &n, m1);
    LANES x[l] = m1[l] * odd->m[l];
    ppn_multiply(&d, even, y);
    e = ppn_sum2(x, ppn_term(odd, -14), y, ppn_term_pair(&d, even), sum);
    ppn_put_cotangent(t, stream, sum, e);
    e = ppn_scale(m1, even, x);
    if (!jet) {
        ppn_multiply(&d, odd, y);
        e = ppn_sum2(x, ppn_term(even, -14), y, ppn_term_pair(&d, odd), sum);
    }
    ppn_put_cotangent(t, stream + 1, jet ? x : sum, e);
}

static void ppn_return_difference(ppn_transpose *t, uint32_t stream, const int16_t *p1) {
    ppn_block change = ppn_change(t, stream);
    int16_t m1[16];
    int32_t x[16];
    ppn_stream_slope(p1, &change, m1);
    int e = ppn_scale(m1, &t->b->column[stream], x);
    ppn_put_cotangent(t, stream, x, e);
}

/* Stream 0: p1 H and every further stream's share, 1 + 2 K terms of at most 2^30. */
static void ppn_return_base(ppn_transpose *t, const int16_t *p1) {
    const ppn_block *c = t->b->column;
    uint32_t streams = t->b->pass.streams;
    int32_t x[16], acc[16] = {0};
    ppn_sum sum = ppn_sum_open(streams);
    ppn_sum_offer(&sum, ppn_term(&c[0], -14));
    for (uint32_t r = 1; r < streams; r++) {
        ppn_block change = ppn_change(t, r);
        ppn_sum_offer(&sum, ppn_term_pair(&change, &c[r]));
    }
    LANES x[l] = p1[l] * c[0].m[l];
    ppn_sum_add(&sum, x, ppn_term(&c[0], -14), acc);
    for (uint32_t r = 1; r < streams; r++) {
        ppn_block change = ppn_change(t, r);
        ppn_multiply(&change, &c[r], x);
        ppn_sum_add(&sum, x, ppn_term_pair(&change, &c[r]), acc);
    }
    ppn_put_cotangent(t, 0, acc, ppn_sum_exp(&sum));
}

static void ppn_return_naive(ppn_transpose *t) {
    for (uint32_t r = 0; r < t->b->pass.streams; r++) {
        int32_t x[16];
        int e = ppn_scale(ppn_p1(&t->slopes, r, t->column), &t->b->column[r], x);
        ppn_put_cotangent(t, r, x, e);
    }
}

#if PPN_SIMD
/* The whole column for jets. */
static void ppn_return_jet_simd(ppn_transpose *t) {
    ppn_return *b = t->b;
    const ppn_slopes *s = &t->slopes;
    uint32_t rows = s->rows * s->blocks, streams = b->pass.streams;
    const int16_t *changes = (const int16_t *)(const void *)s->changes;
    const int8_t *exps = (const int8_t *)s->changes + rows * 32;
    ppn_lanes p1 = ppn_get16_simd(ppn_p1(s, 0, t->column)), m;
    int bits = b->pass.net->bits_gradients, *flags = &b->pass.flags;
    ppn_sum sum = ppn_sum_open(streams);
    ppn_sum_offer(&sum, ppn_term(&b->column[0], -14));
    for (uint32_t r = 1; r < streams; r++)
        ppn_sum_offer(&sum, ppn_pair_exp(exps[(r - 1) * s->blocks + t->column], b->column[r].e));
    ppn_lanes acc = ppn_add_term_simd(ppn_all_simd(0), &sum, ppn_mul_simd(p1, ppn_get16_simd(b->column[0].m)),
                                      ppn_term(&b->column[0], -14));
    for (uint32_t r = 1; r < streams; r += 2) {
        uint32_t at = (r - 1) * s->blocks + t->column;
        const ppn_block *odd = &b->column[r], *even = odd + 1;
        ppn_lanes d = ppn_get16_simd(changes + at * 16), n = ppn_get16_simd(changes + (at + s->blocks) * 16);
        ppn_lanes a = ppn_get16_simd(odd->m), e = ppn_get16_simd(even->m), y;
        acc = ppn_add_term_simd(acc, &sum, ppn_mul_simd(d, a), ppn_pair_exp(exps[at], odd->e));
        acc = ppn_add_term_simd(acc, &sum, ppn_mul_simd(n, e), ppn_pair_exp(exps[at + s->blocks], even->e));
        ppn_rounding how = ppn_stream_rounding(b, r);
        how.index = t->column * 16;
        int to = ppn_sum2_simd(ppn_mul_simd(p1, a), ppn_term(odd, -14), ppn_mul_simd(d, e),
                               ppn_pair_exp(exps[at], even->e), &y);
        to = ppn_encode_simd(y, to, bits, how, &m, flags);
        ppn_store_simd(ppn_cotangent_at(b->rows[1], s->blocks, r), s->blocks, 1, t->column, m, to);
        how.key = ppn_stream_rounding(b, r + 1).key;
        to = even->e == PPN_ZERO_EXP ? PPN_EMPTY_EXP : even->e - 14;
        to = ppn_encode_simd(ppn_mul_simd(p1, e), to, bits, how, &m, flags);
        ppn_store_simd(ppn_cotangent_at(b->rows[1], s->blocks, r + 1), s->blocks, 1, t->column, m, to);
    }
    ppn_rounding how = ppn_stream_rounding(b, 0);
    how.index = t->column * 16;
    int to = ppn_encode_simd(acc, ppn_sum_exp(&sum), bits, how, &m, flags);
    ppn_store_simd(ppn_cotangent_at(b->rows[1], s->blocks, 0), s->blocks, 1, t->column, m, to);
}
#endif

static void ppn_return_column(ppn_transpose *t) {
    ppn_return *b = t->b;
    int mode = b->pass.net->mode;
    for (uint32_t r = 0; r < b->pass.streams; r++)
        b->column[r] = ppn_get_block(ppn_argument_row(b->rows[1], t->slopes.blocks, r), t->column);
    if (mode == PPN_NAIVE) {
        ppn_return_naive(t);
        return;
    }
#if PPN_SIMD
    if (mode == PPN_JET) {
        ppn_return_jet_simd(t);
        return;
    }
#endif
    const int16_t *p1 = ppn_p1(&t->slopes, 0, t->column);
    ppn_return_base(t, p1);
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
        ppn_sink sink = {ppn_cotangent_at(b->rows[1], blocks, r), bits, 1, how, NULL, NULL, NULL};
        ppn_row_times(&b->pass, s, ppn_cotangent_row(b, i, r), matrix, !s->expand, sink);
    }
    if (!activates) return;
    ppn_transpose t = {b, ppn_slopes_of(&b->pass, i - 1), 0};
    for (; t.column < blocks; t.column++) ppn_return_column(&t);
}

int ppn_backward(const ppn_network *net, const uint8_t *weights, uint8_t *gradients, uint8_t *scratch,
                 const ppn_batch *batch, const int16_t *cotangents, const int8_t *cotangent_exps, ppn_counter counter) {
    uint32_t streams = ppn_streams(batch->directions), bytes = ppn_rows16_bytes(net, streams);
    ppn_return b = {{net, weights, batch, NULL, 0, streams, 0},
                    gradients,
                    {scratch, scratch + bytes},
                    (ppn_block *)(void *)(scratch + 2 * bytes),
                    cotangents,
                    cotangent_exps,
                    counter,
                    0};
    uint32_t key = ppn_mix(ppn_mix(counter.seed) ^ counter.step);
    for (b.pass.at = 0; b.pass.at < batch->count; b.pass.at++) {
        b.pass.tape = batch->tape + (size_t)b.pass.at * batch->tape_step;
        for (uint32_t i = net->stage_count; i-- > 0;) {
            b.key = ppn_mix(ppn_mix(key ^ i) ^ (counter.first + b.pass.at));
            for (uint32_t r = 0; r < streams; r++) ppn_stage_gradient(&b, i, r);
            if (i) ppn_input_cotangent(&b, i);
            uint8_t *swap = b.rows[0];
            b.rows[0] = b.rows[1];
            b.rows[1] = swap;
        }
    }
    return b.pass.flags;
}

void ppn_merge(const ppn_network *net, uint8_t *gradients, const uint8_t *other) {
    const ppn_place *last = &net->places[net->stage_count - 1];
    uint32_t count = (uint32_t)last->accumulator + 2, end = last->bias_sum + last->out_blocks * 16u;
    const ppn_accumulator *from = (const ppn_accumulator *)(const void *)(other + 4);
    for (uint32_t k = 0; k < count; k++) ppn_accumulators(gradients)[k].peak |= from[k].peak;
    int32_t *sums = (int32_t *)(void *)gradients;
    const int32_t *others = (const int32_t *)(const void *)other;
    for (uint32_t k = net->places[0].sum / 4; k < end / 4; k++) sums[k] += others[k];
}

/* ---- parameters ------------------------------------------------------------------------------------------------ */

/* Copy a matrix into its stage, narrowing the mantissas. */
static void ppn_load_matrix(uint8_t *at, uint32_t blocks, int bits, const int16_t *m, const int8_t *e) {
    for (uint32_t k = 0; k < blocks; k++) ppn_store(at, blocks, ppn_wide(bits), k, m + 16 * k, e[k]);
}

static void ppn_load_bias(uint8_t *at, uint32_t blocks, const int16_t *m, const int8_t *e) {
    for (uint32_t k = 0; k < blocks; k++) memcpy(at + 8 * k, m + 16 * k, 8);
    memcpy(at + 8 * blocks, e, blocks);
}

int ppn_load(const ppn_network *net, uint8_t *weights, uint8_t *scratch, const int16_t *mantissas, const int8_t *exps) {
    int flags = 0;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        const ppn_stage *s = &net->stages[i];
        const ppn_place *p = &net->places[i];
        uint32_t blocks = ppn_matrix_blocks(s), taken = blocks;
        if (s->chain < 0) {
            ppn_load_matrix(weights + p->matrix, blocks, net->bits_weights, mantissas, exps);
        } else {
            const ppn_chain *chain = &net->chains[s->chain];
            taken = ppn_chain_blocks(chain);
            ppn_chain_load(chain, weights + p->cores, mantissas, exps);
            flags |= ppn_chain_contract(chain, weights + p->cores, scratch, weights + p->matrix, net->bits_weights);
        }
        mantissas += taken * 16;
        exps += taken;
        if (!s->closes) continue;
        ppn_load_bias(weights + p->bias, p->out_blocks, mantissas, exps);
        mantissas += p->out_blocks * 16u;
        exps += p->out_blocks;
    }
    return flags;
}

/* A bias's sums as blocks whose row 0 counts. */
static void ppn_bias_values(const int32_t *sums, uint32_t blocks, int32_t *values) {
    memset(values, 0, blocks * (size_t)64);
    for (uint32_t k = 0; k < blocks; k++) memcpy(values + 16 * k, sums + 4 * k, 16);
}

int ppn_gradients(const ppn_network *net, const uint8_t *weights, const uint8_t *gradients, uint8_t *scratch,
                  int32_t *values, int16_t *exps, uint32_t *peaks) {
    const ppn_accumulator *a = (const ppn_accumulator *)(const void *)(gradients + 4);
    int flags = 0;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        const ppn_stage *s = &net->stages[i];
        const ppn_place *p = &net->places[i];
        const int32_t *sums = (const int32_t *)(const void *)(gradients + p->sum);
        uint32_t blocks = ppn_matrix_blocks(s), tensor = p->tensor;
        *peaks++ = a->peak;
        if (s->chain < 0) {
            memcpy(values, sums, (size_t)blocks * 64);
            exps[tensor++] = a->exp;
            values += blocks * 16;
        } else {
            const ppn_chain *chain = &net->chains[s->chain];
            flags |= ppn_chain_return(chain, weights + p->cores, scratch, sums, a->exp, values, exps + tensor);
            tensor += chain->modes;
            values += ppn_chain_blocks(chain) * 16;
        }
        a++;
        if (!s->closes) continue;
        *peaks++ = a->peak;
        exps[tensor] = (a++)->exp;
        ppn_bias_values((const int32_t *)(const void *)(gradients + p->bias_sum), p->out_blocks, values);
        values += p->out_blocks * 16u;
    }
    return flags;
}
