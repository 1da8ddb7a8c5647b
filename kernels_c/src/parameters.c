/* parameters.c: parameters in, gradients out (spec 7, 8). */
#include "chain.h"
#include "pass.h"

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

void ppn_merge(const ppn_network *net, uint8_t *gradients, const uint8_t *other) {
    const ppn_place *last = &net->places[net->stage_count - 1];
    uint32_t count = (uint32_t)last->accumulator + 2, end = last->bias_sum + last->out_blocks * 16u;
    const ppn_accumulator *from = (const ppn_accumulator *)(const void *)(other + 4);
    for (uint32_t k = 0; k < count; k++) ppn_accumulators(gradients)[k].peak |= from[k].peak;
    uint32_t *sums = (uint32_t *)(void *)gradients; /* they may wrap */
    const uint32_t *others = (const uint32_t *)(const void *)other;
    for (uint32_t k = net->places[0].sum / 4; k < end / 4; k++) sums[k] += others[k];
}

/* Copy a matrix into its stage, narrowing the mantissas. */
static void ppn_load_matrix(uint8_t *at, uint32_t blocks, int bits, const int16_t *m, const int8_t *e) {
    for (uint32_t k = 0; k < blocks; k++) ppn_store(at, blocks, ppn_wide(bits), k, m + 16 * k, e[k]);
}

static void ppn_load_bias(uint8_t *at, uint32_t blocks, const int16_t *m, const int8_t *e) {
    for (uint32_t k = 0; k < blocks; k++) memcpy(at + 8 * k, m + 16 * k, 8);
    memcpy(at + 8 * blocks, e, blocks);
}

static int ppn_is_mine(ppn_share share, uint32_t stage) { return stage % share.parts == share.part; }

/* Blocks of a stage's matrix or cores as they travel. */
static uint32_t ppn_stage_blocks(const ppn_network *net, const ppn_stage *s) {
    return s->chain < 0 ? ppn_matrix_blocks(s) : ppn_chain_blocks(&net->chains[s->chain]);
}

/* A stage's matrix, loaded as it stands or contracted from its cores. */
static int ppn_load_factor(const ppn_network *net, uint32_t i, uint8_t *weights, uint8_t *scratch,
                           const int16_t *mantissas, const int8_t *exps) {
    const ppn_stage *s = &net->stages[i];
    const ppn_place *p = &net->places[i];
    if (s->chain < 0) {
        ppn_load_matrix(weights + p->matrix, ppn_matrix_blocks(s), net->bits_weights, mantissas, exps);
        return 0;
    }
    const ppn_chain *chain = &net->chains[s->chain];
    ppn_chain_load(chain, weights + p->cores, mantissas, exps);
    return ppn_chain_contract(chain, weights + p->cores, scratch, weights + p->matrix, net->bits_weights);
}

static int ppn_load_stage(const ppn_network *net, uint32_t i, uint8_t *weights, uint8_t *scratch,
                          const int16_t *mantissas, const int8_t *exps) {
    const ppn_stage *s = &net->stages[i];
    const ppn_place *p = &net->places[i];
    uint32_t blocks = ppn_stage_blocks(net, s);
    int flags = ppn_load_factor(net, i, weights, scratch, mantissas, exps);
#if PPN_M0
    if (p->pairs) ppn_m0_pack(weights + p->matrix, ppn_matrix_blocks(s), s->expand, weights + p->pairs);
#endif
    if (s->closes) ppn_load_bias(weights + p->bias, p->out_blocks, mantissas + blocks * 16, exps + blocks);
    return flags;
}

int ppn_load(const ppn_network *net, uint8_t *weights, uint8_t *scratch, const int16_t *mantissas, const int8_t *exps,
             ppn_share share) {
    int flags = 0;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        const ppn_stage *s = &net->stages[i];
        uint32_t blocks = ppn_stage_blocks(net, s) + (s->closes ? net->places[i].out_blocks : 0);
        if (ppn_is_mine(share, i)) flags |= ppn_load_stage(net, i, weights, scratch, mantissas, exps);
        mantissas += blocks * 16;
        exps += blocks;
    }
    return flags;
}

/* A bias's sums as blocks whose row 0 counts. */
static int ppn_bias_values(const int32_t *sums, int16_t exp, uint32_t blocks, int16_t *mantissas, int8_t *exps) {
    int flags = 0;
    for (uint32_t k = 0; k < blocks; k++) {
        int32_t x[16] = {0};
        memcpy(x, sums + 4 * k, 16);
        flags |= ppn_encode_blocks(1, x, &exp, 0, 16, mantissas + 16 * k, exps + k);
    }
    return flags;
}

/* A saturated tensor's: zero blocks. */
static void ppn_void_values(uint32_t blocks, int16_t *mantissas, int8_t *exps) {
    memset(mantissas, 0, blocks * (size_t)32);
    memset(exps, PPN_ZERO_EXP, blocks);
}

/* What a stage's sums say of its matrix or cores. */
static int ppn_matrix_values(const ppn_network *net, uint32_t i, const uint8_t *weights, const uint8_t *gradients,
                             uint8_t *scratch, const ppn_accumulator *a, int16_t *mantissas, int8_t *exps) {
    const ppn_stage *s = &net->stages[i];
    const ppn_place *p = &net->places[i];
    const int32_t *sums = (const int32_t *)(const void *)(gradients + p->sum);
    if (s->chain < 0) return ppn_encode_blocks(ppn_matrix_blocks(s), sums, &a->exp, 0, 16, mantissas, exps);
    return ppn_chain_return(&net->chains[s->chain], weights + p->cores, scratch, sums, a->exp, mantissas, exps);
}

int ppn_gradients(const ppn_network *net, const uint8_t *weights, const uint8_t *gradients, uint8_t *scratch,
                  int16_t *mantissas, int8_t *exps, uint32_t *peaks, ppn_share share) {
    const ppn_accumulator *accumulators = (const ppn_accumulator *)(const void *)(gradients + 4);
    uint32_t limit = (uint32_t)1 << gradients[0];
    int flags = 0;
    for (uint32_t i = 0; i < net->stage_count; i++) {
        const ppn_stage *s = &net->stages[i];
        const ppn_place *p = &net->places[i];
        const ppn_accumulator *a = &accumulators[p->accumulator];
        uint32_t blocks = ppn_stage_blocks(net, s), biases = s->closes ? p->out_blocks : 0;
        if (ppn_is_mine(share, i)) {
            const int32_t *bias_sums = (const int32_t *)(const void *)(gradients + p->bias_sum);
            if (a[0].peak > limit)
                ppn_void_values(blocks, mantissas, exps);
            else
                flags |= ppn_matrix_values(net, i, weights, gradients, scratch, a, mantissas, exps);
            if (biases && a[1].peak > limit)
                ppn_void_values(biases, mantissas + blocks * 16, exps + blocks);
            else if (biases)
                flags |= ppn_bias_values(bias_sums, a[1].exp, biases, mantissas + blocks * 16, exps + blocks);
            for (uint32_t k = 0; k <= s->closes; k++) peaks[p->accumulator + k] = a[k].peak;
        }
        mantissas += (blocks + biases) * 16;
        exps += blocks + biases;
    }
    return flags;
}
