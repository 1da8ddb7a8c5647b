/* pass.h: a pass over one microbatch: where its rows lie, and the product of a row and a stage. Internal. */
#ifndef PPN_PASS_H
#define PPN_PASS_H

#include "activation.h"
#include "gradient.h"
#include "product.h"

/* ---- sizes ----------------------------------------------------------------------------------------------------- */

static inline uint32_t ppn_blocks(uint32_t size) { return (size + 3) / 4; }
static inline uint32_t ppn_padded(uint32_t bytes) { return (bytes + 3) & ~(uint32_t)3; }
static inline int ppn_wide(int bits) { return bits > 8; }
static inline uint32_t ppn_run_bytes(uint32_t blocks, int bits) { return blocks * (ppn_wide(bits) ? 33 : 17); }
static inline uint32_t ppn_matrix_blocks(const ppn_stage *s) { return ppn_blocks(s->rows) * ppn_blocks(s->cols); }
static inline uint32_t ppn_stage_in(const ppn_stage *s) { return s->expand ? s->rows : s->cols; }
static inline uint32_t ppn_stage_out(const ppn_stage *s) { return s->expand ? s->cols : s->rows; }

/* Do all directions share one even part, the last stream? */
static inline int ppn_is_summed(const ppn_network *net) { return net->mode >= PPN_LAPLACIAN; }
/* How many directions it sums; with one stream there is none. */
static inline uint32_t ppn_summed(const ppn_network *net, uint32_t streams) {
    uint32_t apart = 2 + (net->mode == PPN_LAPLACIAN_TIME);
    return streams > apart ? streams - apart : 0;
}

/* Is a stream a value of the network, which sees biases, and not a part of a difference? */
static inline int ppn_is_value(const ppn_network *net, uint32_t stream) {
    return stream == 0 || net->mode == PPN_NAIVE;
}

static inline int ppn_row_bits(const ppn_network *net, uint32_t stream) {
    return stream == 0 && net->mode != PPN_NAIVE ? net->bits_base : net->bits_activations;
}

/* Bytes of all streams' rows of |blocks| blocks in a tape. */
static inline uint32_t ppn_rows_bytes(const ppn_network *net, uint32_t blocks, uint32_t streams) {
    return ppn_padded(ppn_run_bytes(blocks, ppn_row_bits(net, 0))) +
           (streams - 1) * ppn_padded(ppn_run_bytes(blocks, net->bits_activations));
}

/* Bytes of one SMX(16) row a stream at the widest place: pre-activations forward, cotangents backward. */
static inline uint32_t ppn_rows16_bytes(const ppn_network *net, uint32_t streams) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        blocks = net->places[i].in_blocks > blocks ? net->places[i].in_blocks : blocks;
        blocks = net->places[i].out_blocks > blocks ? net->places[i].out_blocks : blocks;
    }
    return streams * ppn_padded(ppn_run_bytes(blocks, 16));
}

/* ---- rows and matrices in the regions -------------------------------------------------------------------------- */

/* A row or matrix stored as all mantissas, then all exponents. */
static inline ppn_run ppn_stored(const uint8_t *at, uint32_t blocks, int bits) {
    int wide = ppn_wide(bits);
    ppn_run run = {at, (const int8_t *)at + blocks * (wide ? 32u : 16u), 1, (uint8_t)wide, 0, (uint8_t)bits};
    return run;
}

static inline ppn_run ppn_matrix_run(const ppn_network *net, const uint8_t *weights, uint32_t i) {
    return ppn_stored(weights + net->places[i].matrix, ppn_matrix_blocks(&net->stages[i]), net->bits_weights);
}

/* The same for a forward pass over rows of |bits|: packed, if there is such a copy. */
static inline ppn_run ppn_forward_matrix(const ppn_network *net, const uint8_t *weights, uint32_t i, int bits) {
    ppn_run run = ppn_matrix_run(net, weights, i);
#if PPN_M0
    if (net->places[i].pairs && !ppn_wide(bits)) {
        run.mantissas = weights + net->places[i].pairs;
        run.wide = 1; /* a block takes 32 bytes */
        run.turned = PPN_M0_PAIRS;
    }
#else
    (void)bits;
#endif
    return run;
}

/* Offset of a stream's row among the rows of |blocks| blocks. */
static inline uint32_t ppn_row_at(const ppn_network *net, uint32_t blocks, uint32_t stream) {
    return stream == 0 ? 0 : ppn_rows_bytes(net, blocks, stream);
}

/* The stored input row of a stage beyond the first. */
static inline ppn_run ppn_tape_row(const ppn_network *net, const uint8_t *tape, uint32_t i, uint32_t stream) {
    const ppn_place *p = &net->places[i];
    return ppn_stored(tape + p->input + ppn_row_at(net, p->in_blocks, stream), p->in_blocks, ppn_row_bits(net, stream));
}

/* The network's input row of a stream; no exponents (NULL) means a zero row. */
static inline ppn_run ppn_input_row(const ppn_network *net, const ppn_batch *b, uint32_t at, uint32_t stream) {
    uint32_t blocks = net->places[0].in_blocks, row;
    ppn_run run = {NULL, NULL, 1, 1, 0, b->bits_inputs};
    int pairs = net->mode == PPN_JET || net->mode == PPN_ODD_EVEN;
    if (ppn_is_value(net, stream)) {
        row = net->mode == PPN_NAIVE ? at * ppn_streams(net->mode, b->directions) + stream : at;
        run.mantissas = b->points;
        run.exps = b->point_exps;
    } else if (pairs ? stream % 2 : !ppn_is_summed(net) || stream <= b->directions) {
        row = pairs ? stream / 2 : stream - 1;
        run.mantissas = b->rows;
        run.exps = b->row_exps;
    } else
        return run;
    return ppn_run_at(run, (int)(row * blocks));
}

static inline ppn_run ppn_stage_row(const ppn_network *net, const ppn_batch *b, const uint8_t *tape, uint32_t at,
                                    uint32_t i, uint32_t stream) {
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
    uint32_t first, end; /* microbatches that go through a stage together */
} ppn_pass;

/* How many go together: in vector registers, up to PPN_GROUP rows. */
static inline uint32_t ppn_group(uint32_t streams) { return PPN_SIMD && streams < PPN_GROUP ? PPN_GROUP / streams : 1; }
static inline void ppn_open_group(ppn_pass *p, uint32_t group) {
    p->first = p->end;
    p->end = p->batch->count - p->first < group ? p->batch->count : p->first + group;
}
/* Turn to a microbatch. */
static inline void ppn_enter(ppn_pass *p, uint32_t at) {
    p->at = at;
    p->tape = p->batch->tape + (size_t)at * p->batch->tape_step;
}

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
static inline int ppn_add_bias(const uint8_t *bias, uint32_t blocks, uint32_t column, int32_t *acc, int e) {
    int16_t b[4];
    memcpy(b, bias + column * 8, 8);
    int f = (int8_t)bias[blocks * 8 + column];
    if (f == PPN_ZERO_EXP) return e;
    int to = ppn_max(e, f - 14), down = to - e, up = f - to;
    int32_t add[4];
    for (int l = 0; l < 4; l++) add[l] = up >= 0 ? b[l] * (1 << up) : ppn_rnd(b[l], -up);
    if (down > 30) { /* nothing is left of |acc| */
        memset(acc, 0, 16 * sizeof *acc);
        down = 0;
    }
#if PPN_M0
    ppn_m0_bias(acc, add, down);
#else
    int32_t half = (1 << down) >> 1;
    LANES acc[l] = ((acc[l] + half) >> down) + add[l % 4];
#endif
    return to;
}

/* A row times a stage matrix, over the matrix's rows or its columns, panel after panel (spec 3, 4). */
#if PPN_M0
void ppn_row_times(ppn_pass *p, const ppn_stage *s, ppn_run row, ppn_run matrix, int over_rows, ppn_sink sink);
#else
static inline void ppn_row_times(ppn_pass *p, const ppn_stage *s, ppn_run row, ppn_run matrix, int over_rows,
                                 ppn_sink sink) {
    uint32_t high = ppn_blocks(s->rows), wide = ppn_blocks(s->cols);
    uint32_t inner = over_rows ? high : wide, outer = over_rows ? wide : high, blocks = s->panels * outer;
    ppn_ready left;
    matrix.step = over_rows ? (int)wide : 1;
    matrix.turned = (uint8_t)over_rows;
    for (uint32_t column = 0, panel = 0; panel < s->panels; panel++) {
        ppn_run m = matrix;
        ppn_make_ready(&left, row, (int)inner, &matrix);
        for (uint32_t k = 0; k < outer; k++, column++, ppn_move(&m, over_rows ? 1 : (int)inner)) {
            int32_t x[16];
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
#endif

/* Where the last stage puts a stream's products. */
static inline ppn_sink ppn_output_sink(const ppn_pass *p, uint32_t i, uint32_t stream, int32_t *out,
                                       int16_t *out_exps) {
    uint32_t to = (p->at * p->streams + stream) * p->net->places[i].out_blocks;
    ppn_sink sink = {NULL, 16, 1, PPN_NEAREST, out + to * 16, out_exps + to, NULL};
    if (ppn_is_value(p->net, stream)) sink.bias = p->weights + p->net->places[i].bias;
    return sink;
}

/* A stream's row among 16-bit rows of |blocks| blocks in the scratch: pre-activations forward, cotangents backward. */
static inline uint8_t *ppn_row16_at(uint8_t *rows, uint32_t blocks, uint32_t stream) {
    return rows + stream * ppn_padded(ppn_run_bytes(blocks, 16));
}

/* What a closing stage keeps of its layer: p1 of stream 0 (naive: of all); kept blocks of the others, with exponents.
 */
typedef struct {
    int16_t *p1, *changes, *exps;
    uint32_t blocks;
} ppn_slopes;

static inline ppn_slopes ppn_slopes_of(const ppn_pass *p, uint32_t i) {
    const ppn_place *place = &p->net->places[i];
    uint32_t blocks = place->out_blocks;
    int16_t *at = (int16_t *)(void *)(p->tape + place->slope), *changes = at + blocks * 16;
    ppn_slopes out = {at, changes, changes + (p->streams - 1) * blocks * 16, blocks};
    return out;
}
static inline int16_t *ppn_p1(const ppn_slopes *s, uint32_t stream, uint32_t column) {
    return s->p1 + (stream * s->blocks + column) * 16;
}

/* The next stage's stored input, as the activation writes it. */
typedef struct {
    ppn_pass *pass;
    ppn_slopes slopes;
    uint8_t *inputs;
    uint32_t blocks;
} ppn_layer_out;

static inline uint8_t *ppn_next_row(const ppn_layer_out *o, uint32_t stream) {
    return o->inputs + ppn_row_at(o->pass->net, o->blocks, stream);
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

typedef struct {
    ppn_pass pass;
    uint8_t *gradients, *rows[2]; /* cotangent rows after and before the stage, always 16-bit */
    const int16_t *given;         /* the caller's cotangents */
    const int8_t *given_exps;
    ppn_counter counter;
    uint32_t step_key, key; /* of the step; of the stage and microbatch */
} ppn_return;

static inline void ppn_enter_return(ppn_return *b, uint32_t i, uint32_t at) {
    ppn_enter(&b->pass, at);
    b->key = ppn_mix(ppn_mix(b->step_key ^ i) ^ (b->counter.first + at));
}
/* A stream's row of cotangents after (|before| 0) or before the stage. */
static inline uint8_t *ppn_cotangent_at(const ppn_return *b, int before, uint32_t blocks, uint32_t stream) {
    return ppn_row16_at(b->rows[before], blocks, (b->pass.at - b->pass.first) * b->pass.streams + stream);
}

static inline ppn_run ppn_cotangent_row(const ppn_return *b, uint32_t i, uint32_t stream) {
    const ppn_network *net = b->pass.net;
    uint32_t blocks = net->places[i].out_blocks, row = b->pass.at * b->pass.streams + stream;
    ppn_run run = {b->given, b->given_exps, 1, 1, 0, net->bits_gradients};
    if (i + 1 == net->stage_count) return ppn_run_at(run, (int)(row * blocks));
    run = ppn_stored(ppn_cotangent_at(b, 0, blocks, stream), blocks, 16);
    run.bits = net->bits_gradients;
    return run;
}

static inline ppn_rounding ppn_stream_rounding(const ppn_return *b, uint32_t stream) {
    ppn_rounding how = {ppn_mix(b->key ^ stream), 0, 1};
    return how;
}

static inline ppn_accumulator *ppn_accumulators(uint8_t *gradients) {
    return (ppn_accumulator *)(void *)(gradients + 4);
}

#endif
