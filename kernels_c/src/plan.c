/* plan.c: checks a network and lays out its regions (spec 4). */
#include "chain.h"
#include "pass.h"

#define PPN_TOO_MANY_BYTES (UINT32_C(1) << 31)

static int ppn_bits_ok(int bits) { return bits >= 4 && bits <= 16; }
static int ppn_size_ok(uint32_t size) { return size >= 1 && size <= PPN_INNER; }

/* Bytes of a layer's linearization: p1, and for all modes but naive a kept row a further stream. */
static uint32_t ppn_slope_bytes(const ppn_network *net, uint32_t blocks, uint32_t streams) {
    if (net->mode == PPN_NAIVE) return streams * blocks * 32;
    return blocks * 32 + (streams - 1) * blocks * 34;
}

static int ppn_check_stage(const ppn_network *net, const ppn_stage *s) {
    if (s->expand > 1 || s->closes > 1) return PPN_BAD_ENUM;
    if (!ppn_size_ok(s->rows) || !ppn_size_ok(s->cols) || s->panels < 1) return PPN_BAD_SHAPE;
    if (s->panels * ppn_blocks(ppn_stage_in(s)) > PPN_INNER / 4) return PPN_BAD_SHAPE;
    if (s->panels * ppn_blocks(ppn_stage_out(s)) > PPN_INNER / 4) return PPN_BAD_SHAPE;
    if (s->chain < 0) return PPN_OK;
    if (s->chain >= net->chain_count) return PPN_BAD_CHAIN;
    return ppn_check_chain(&net->chains[s->chain], s->rows, s->cols) ? PPN_OK : PPN_BAD_CHAIN;
}

static int ppn_check(const ppn_network *net) {
    if (net->stage_count < 1 || net->stage_count > PPN_STAGES || net->activation > PPN_SINE ||
        net->mode > PPN_LAPLACIAN_TIME)
        return PPN_BAD_ENUM;
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

/* Reserve |bytes| < 2^31 of a region: answers the offset, moves the end, which stays at 2^31 once it is there. */
static uint32_t ppn_reserve(uint32_t *end, uint32_t bytes) {
    uint32_t at = *end;
    *end += ppn_padded(bytes);
    if (*end > PPN_TOO_MANY_BYTES) *end = PPN_TOO_MANY_BYTES;
    return at;
}

/* Are matrices kept as pairs, too? All widths of their products must be narrow, and the network small. */
static int ppn_keeps_pairs(const ppn_network *net) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < net->stage_count && blocks <= PPN_PAIRS; i++) blocks += ppn_matrix_blocks(&net->stages[i]);
    int widest = net->bits_weights > net->bits_activations ? net->bits_weights : net->bits_activations;
    return blocks <= PPN_PAIRS && !ppn_wide(widest) && !ppn_wide(net->bits_base);
}

static void ppn_plan_stage(const ppn_network *net, uint32_t i, uint32_t streams, int pairs, ppn_sizes *sizes) {
    const ppn_stage *s = &net->stages[i];
    ppn_place *p = &net->places[i];
    uint32_t blocks = ppn_matrix_blocks(s);
    const ppn_chain *chain = s->chain < 0 ? NULL : &net->chains[s->chain];
    p->in_blocks = (uint16_t)(s->panels * ppn_blocks(ppn_stage_in(s)));
    p->out_blocks = (uint16_t)(s->panels * ppn_blocks(ppn_stage_out(s)));
    p->accumulator = sizes->accumulators;
    p->matrix = ppn_reserve(&sizes->weights, ppn_run_bytes(blocks, net->bits_weights));
    p->pairs = pairs ? ppn_reserve(&sizes->weights, blocks * 32) : 0;
    p->cores = ppn_reserve(&sizes->weights, chain ? ppn_chain_bytes(chain) : 0);
    p->bias = ppn_reserve(&sizes->weights, s->closes ? p->out_blocks * 9u : 0);
    p->sum = ppn_reserve(&sizes->gradients, blocks * 64);
    p->bias_sum = ppn_reserve(&sizes->gradients, s->closes ? p->out_blocks * 16u : 0);
    p->input = ppn_reserve(&sizes->tape, i ? ppn_rows_bytes(net, p->in_blocks, streams) : 0);
    int activates = s->closes && i + 1 < net->stage_count;
    p->slope = ppn_reserve(&sizes->tape, activates ? ppn_slope_bytes(net, p->out_blocks, streams) : 0);
    sizes->accumulators = (uint16_t)(sizes->accumulators + 1 + s->closes);
    sizes->parameter_blocks += (chain ? ppn_chain_blocks(chain) : blocks) + (s->closes ? p->out_blocks : 0);
}

int ppn_plan(ppn_network *net, uint16_t directions, ppn_sizes *sizes) {
    int status = ppn_check(net);
    if (status) return status;
    if (directions > PPN_DIRECTIONS) return PPN_TOO_LARGE;
    uint32_t streams = ppn_streams(net->mode, directions), chains = 0;
    ppn_sizes planned = {0};
    int pairs = ppn_keeps_pairs(net);
    for (uint32_t i = 0; i < net->stage_count; i++) ppn_plan_stage(net, i, streams, pairs, &planned);
    if (planned.weights == PPN_TOO_MANY_BYTES || planned.gradients == PPN_TOO_MANY_BYTES ||
        planned.tape == PPN_TOO_MANY_BYTES)
        return PPN_TOO_LARGE;
    *sizes = planned;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        int16_t chain = net->stages[i].chain; /* only those of stages are checked */
        uint32_t bytes = chain < 0 ? 0 : ppn_chain_scratch(&net->chains[chain]);
        chains = bytes > chains ? bytes : chains;
    }
    uint32_t header = ppn_padded(4 + sizes->accumulators * (uint32_t)sizeof(ppn_accumulator));
    for (uint32_t i = 0; i < net->stage_count; i++) {
        net->places[i].sum += header;
        net->places[i].bias_sum += header;
    }
    sizes->gradients += header;
    uint32_t rows = PPN_SIMD && streams < PPN_GROUP ? PPN_GROUP : streams; /* of a group, with any fewer directions */
    sizes->scratch = 2 * ppn_rows16_bytes(net, rows);
    sizes->scratch = sizes->scratch > chains ? sizes->scratch : chains;
    sizes->in_blocks = net->places[0].in_blocks;
    sizes->out_blocks = net->places[net->stage_count - 1].out_blocks;
    return PPN_OK;
}
