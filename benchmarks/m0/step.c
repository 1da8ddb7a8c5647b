/* step.c: one training step on a bare Cortex-M0+. m0_cycles.py writes case.h, runs this in an emulator and compares. */
#include "ppn/ppn.h"

#include "case.h"

typedef struct {
    uint32_t microbatches, first;
    uint16_t directions;
    const int16_t *points, *rows, *cotangents;
    const int8_t *point_exps, *row_exps, *cotangent_exps;
} pass;

static const pass PASSES[] = {CASE_PASSES};

static ppn_place places[sizeof STAGES / sizeof *STAGES];
static ppn_network network = {STAGES, CHAINS, places, CASE_NETWORK};
static uint8_t weights[CASE_WEIGHTS] __attribute__((aligned(4)));
static uint8_t gradients[CASE_GRADIENTS] __attribute__((aligned(4)));
static uint8_t tapes[CASE_TAPES][CASE_TAPE] __attribute__((aligned(4)));
static uint8_t scratch[CASE_SCRATCH] __attribute__((aligned(4)));
static int32_t out[CASE_OUTS * 16];
static int16_t out_exps[CASE_OUTS];

ppn_sizes sizes;
int16_t mantissas[CASE_PARAMETER_BLOCKS * 16];
int8_t exps[CASE_PARAMETER_BLOCKS];
uint32_t peaks[CASE_ACCUMULATORS];
int flags;

static void run(const pass *p) {
    ppn_batch batch = {p->microbatches, p->directions, CASE_INPUTS, p->points, p->point_exps,
                       p->rows,         p->row_exps,   tapes[0],    CASE_TAPE};
    ppn_counter counter = {CASE_SEED, CASE_STEP, p->first};
    flags |= ppn_forward(&network, weights, scratch, &batch, out, out_exps);
    flags |= ppn_backward(&network, weights, gradients, scratch, &batch, p->cotangents, p->cotangent_exps, counter);
}

void start(void) {
    ppn_plan(&network, CASE_DIRECTIONS, &sizes);
    flags = ppn_load(&network, weights, scratch, WEIGHTS, WEIGHT_EXPS, (ppn_share){0, 1});
    ppn_begin(&network, gradients, SCALING, CASE_LIMIT);
    for (unsigned k = 0; k < sizeof PASSES / sizeof *PASSES; k++) run(&PASSES[k]);
    flags |= ppn_gradients(&network, weights, gradients, scratch, mantissas, exps, peaks, (ppn_share){0, 1});
}
