/* run_case.c: cases through the kernels, for tests/test_compilers.py. On a host, or a Cortex-M4 that
 * borrows the host's files, from files; on a bare Cortex-M from memory.
 *
 * run_case FILE       answers one case: writes what came out to the standard output
 * run_case plan FILE  for every description in FILE: what ppn_plan() says; what it accepts is run on made-up numbers
 *
 * A case is little-endian 32-bit words: the description (struct head, stages of 6 words, chains of 10), then nine
 * arrays, each its length in bytes and its bytes, padded to a word. The answer is a status; if that is PPN_OK then
 * flags, outputs, their exponents, gradients, their exponents and peaks. tests/test_compilers.py writes and reads both.
 *
 * Every array is exactly as long as ppn.h says and aligned no better than it asks for, so that a sanitizer or a bus
 * sees each access beyond.
 */
#include "ppn/ppn.h"

#include <string.h>

/* The machine's part: memory, and where the answer goes. */
static void *take(uint32_t bytes, uint32_t align);
static void put(const void *from, uint32_t bytes);

struct head {
    int32_t stages, chains, activation, mode, weights, activations, base, gradients, inputs;
    int32_t directions, count, split, limit, seed, step, first;
};

/* All that a step takes. */
struct numbers {
    int16_t *scale, *weights, *points, *rows, *cotangents;
    int8_t *weight_exps, *point_exps, *row_exps, *cotangent_exps;
};

static void put_word(int32_t word) { put(&word, 4); }

/* ---- the description ------------------------------------------------------------------------------------------- */

static const uint8_t *read_words(const uint8_t *at, int32_t *to, uint32_t count) {
    memcpy(to, at, count * 4);
    return at + count * 4;
}

static const uint8_t *read_stages(const uint8_t *at, ppn_stage *to, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        int32_t w[6];
        at = read_words(at, w, 6);
        ppn_stage stage = {(uint16_t)w[0], (uint16_t)w[1], (uint16_t)w[2], (uint8_t)w[3], (uint8_t)w[4], (int16_t)w[5]};
        to[i] = stage;
    }
    return at;
}

static const uint8_t *read_chains(const uint8_t *at, ppn_chain *to, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        int32_t w[10];
        at = read_words(at, w, 10);
        to[i].modes = (uint16_t)w[0];
        for (int k = 0; k < PPN_MODES; k++) to[i].mode[k] = (uint16_t)w[1 + k];
        for (int k = 0; k <= PPN_MODES; k++) to[i].rank[k] = (uint16_t)w[5 + k];
    }
    return at;
}

static const uint8_t *read_network(const uint8_t *at, struct head *head, ppn_network *net) {
    int32_t words[sizeof *head / 4];
    at = read_words(at, words, sizeof *head / 4);
    memcpy(head, words, sizeof *head);
    ppn_stage *stages = take((uint32_t)head->stages * (uint32_t)sizeof *stages, 2);
    ppn_chain *chains = take((uint32_t)head->chains * (uint32_t)sizeof *chains, 2);
    at = read_stages(at, stages, head->stages);
    at = read_chains(at, chains, head->chains);
    ppn_network made = {stages,
                        chains,
                        take((uint32_t)head->stages * (uint32_t)sizeof(ppn_place), 4),
                        (uint16_t)head->stages,
                        (uint16_t)head->chains,
                        (uint8_t)head->activation,
                        (uint8_t)head->mode,
                        (uint8_t)head->weights,
                        (uint8_t)head->activations,
                        (uint8_t)head->base,
                        (uint8_t)head->gradients};
    *net = made;
    return at;
}

static void *read_array(const uint8_t **at, uint32_t align) {
    int32_t bytes;
    *at = read_words(*at, &bytes, 1);
    void *to = take((uint32_t)bytes, align);
    memcpy(to, *at, (uint32_t)bytes);
    *at += ((uint32_t)bytes + 3) & ~(uint32_t)3;
    return to;
}

static struct numbers read_numbers(const uint8_t *at) {
    struct numbers n;
    n.scale = read_array(&at, 2);
    n.weights = read_array(&at, 2);
    n.weight_exps = read_array(&at, 1);
    n.points = read_array(&at, 2);
    n.point_exps = read_array(&at, 1);
    n.rows = read_array(&at, 2);
    n.row_exps = read_array(&at, 1);
    n.cotangents = read_array(&at, 2);
    n.cotangent_exps = read_array(&at, 1);
    return n;
}

/* ---- a step ---------------------------------------------------------------------------------------------------- */

/* Backward over microbatches from |from| on, into sums of their own. */
static uint8_t *sums_of(const struct head *head, const ppn_network *net, const ppn_sizes *sizes, const uint8_t *weights,
                        uint8_t *scratch, ppn_batch batch, uint32_t from, const struct numbers *n, int *flags) {
    uint32_t streams = ppn_streams(net->mode, batch.directions), outs = from * streams * sizes->out_blocks;
    uint32_t rows = from * (net->mode == PPN_NAIVE ? streams : 1u) * sizes->in_blocks;
    ppn_counter counter = {(uint32_t)head->seed, (uint32_t)head->step, (uint32_t)head->first + from};
    uint8_t *sums = take(sizes->gradients, 4);
    batch.points += rows * 16;
    batch.point_exps += rows;
    batch.tape += from * batch.tape_step;
    ppn_begin(net, sums, n->scale, (uint8_t)head->limit);
    *flags |=
        ppn_backward(net, weights, sums, scratch, &batch, n->cotangents + outs * 16, n->cotangent_exps + outs, counter);
    return sums;
}

/* Forward, backward in two parts with sums of their own, merged, and gradients. */
static void run(const struct head *head, const ppn_network *net, const ppn_sizes *sizes, const struct numbers *n) {
    uint32_t count = (uint32_t)head->count, split = (uint32_t)head->split, blocks = sizes->parameter_blocks;
    uint32_t outs = count * ppn_streams(net->mode, (uint32_t)head->directions) * sizes->out_blocks;
    uint8_t *weights = take(sizes->weights, 4), *scratch = take(sizes->scratch, 4);
    ppn_batch batch = {count,
                       (uint16_t)head->directions,
                       (uint8_t)head->inputs,
                       n->points,
                       n->point_exps,
                       n->rows,
                       n->row_exps,
                       take(count * sizes->tape, 4),
                       sizes->tape};
    int32_t *out = take(outs * 64, 4);
    int16_t *out_exps = take(outs * 2, 2), *values = take(blocks * 32, 2);
    int8_t *exps = take(blocks, 1);
    uint32_t *peaks = take(sizes->accumulators * 4u, 4);
    ppn_share all = {0, 1};

    int flags = ppn_load(net, weights, scratch, n->weights, n->weight_exps, all);
    flags |= ppn_forward(net, weights, scratch, &batch, out, out_exps);
    batch.count = split;
    uint8_t *sums = sums_of(head, net, sizes, weights, scratch, batch, 0, n, &flags);
    batch.count = count - split;
    uint8_t *others = sums_of(head, net, sizes, weights, scratch, batch, split, n, &flags);
    ppn_merge(net, sums, others);
    flags |= ppn_gradients(net, weights, sums, scratch, values, exps, peaks, all);

    put_word(flags);
    put(out, outs * 64);
    put(out_exps, outs * 2);
    put(values, blocks * 32);
    put(exps, blocks);
    put(peaks, sizes->accumulators * 4u);
}

static void run_case(const uint8_t *at) {
    struct head head;
    ppn_network net;
    ppn_sizes sizes;
    at = read_network(at, &head, &net);
    int status = ppn_plan(&net, (uint16_t)head.directions, &sizes);
    put_word(status);
    if (status != PPN_OK) return;
    struct numbers n = read_numbers(at);
    run(&head, &net, &sizes, &n);
}

#if __STDC_HOSTED__
/* ---- a host ---------------------------------------------------------------------------------------------------- */

#include <stdio.h>
#include <stdlib.h>

static void **taken;
static size_t takes;
static int quiet;

static void *must(void *p) {
    if (!p) abort();
    return p;
}

/* malloc() aligns to 16: |align| bytes behind, the end is exact and the alignment is no better than asked for. */
static void *take(uint32_t bytes, uint32_t align) {
    taken = must(realloc(taken, (takes + 1) * sizeof *taken));
    taken[takes] = must(malloc((size_t)bytes + align));
    return (uint8_t *)taken[takes++] + align;
}

static void give_back(void) {
    while (takes) free(taken[--takes]);
    free(taken);
    taken = NULL;
}

static void put(const void *from, uint32_t bytes) {
    if (!quiet && fwrite(from, 1, bytes, stdout) != bytes) abort();
}

static uint8_t *read_file(const char *name, size_t *bytes) {
    FILE *file = must(fopen(name, "rb"));
    if (fseek(file, 0, SEEK_END)) abort();
    *bytes = (size_t)ftell(file);
    rewind(file);
    uint8_t *text = must(malloc(*bytes));
    if (fread(text, 1, *bytes, file) != *bytes) abort();
    fclose(file);
    return text;
}

/* |blocks| blocks that any width holds. */
static int16_t *make_blocks(uint32_t blocks, uint32_t *state, int8_t **exps) {
    int16_t *m = take(blocks * 32, 2);
    *exps = take(blocks, 1);
    for (uint32_t k = 0; k < blocks; k++) {
        int any = 0;
        for (uint32_t l = 0; l < 16; l++) {
            *state = *state * 1664525u + 1013904223u;
            m[16 * k + l] = (int16_t)((int)(*state >> 16) % 15 - 7);
            any |= m[16 * k + l];
        }
        (*exps)[k] = (int8_t)(any ? (int)(*state >> 20) % 16 - 12 : PPN_ZERO_EXP);
    }
    return m;
}

static struct numbers make_numbers(const struct head *head, const ppn_network *net, const ppn_sizes *sizes) {
    struct numbers n;
    uint32_t state = 1, count = (uint32_t)head->count, streams = ppn_streams(net->mode, (uint32_t)head->directions);
    n.weights = make_blocks(sizes->parameter_blocks, &state, &n.weight_exps);
    n.points = make_blocks(count * sizes->in_blocks * (net->mode == PPN_NAIVE ? streams : 1), &state, &n.point_exps);
    n.rows = make_blocks((streams - 1) * sizes->in_blocks, &state, &n.row_exps);
    n.cotangents = make_blocks(count * streams * sizes->out_blocks, &state, &n.cotangent_exps);
    n.scale = take(sizes->accumulators * 2u, 2);
    for (uint32_t k = 0; k < sizes->accumulators; k++) n.scale[k] = -8;
    return n;
}

static const uint8_t *plan(const uint8_t *at) {
    struct head head;
    ppn_network net;
    ppn_sizes s;
    at = read_network(at, &head, &net);
    int status = ppn_plan(&net, (uint16_t)head.directions, &s);
    if (status != PPN_OK) {
        printf("%d\n", status);
        return at;
    }
    printf("0 %u %u %u %u %u %u\n", s.parameter_blocks, s.accumulators, s.weights, s.gradients, s.tape, s.scratch);
    fflush(stdout);
    if ((uint64_t)s.weights + s.gradients + s.tape + s.scratch < 1 << 18) {
        struct numbers n = make_numbers(&head, &net, &s);
        run(&head, &net, &s, &n);
    }
    return at;
}

int main(int count, char **words) {
    if (count < 2) return 2;
    size_t bytes;
    uint8_t *text = read_file(words[count - 1], &bytes);
    if (count == 2) {
        run_case(text);
        give_back();
    } else {
        quiet = 1;
        for (const uint8_t *at = text; at < text + bytes; give_back()) at = plan(at);
    }
    free(text);
    return 0;
}

#else
/* ---- a bare machine -------------------------------------------------------------------------------------------- */

static uint8_t *arena, *answer;

static void *take(uint32_t bytes, uint32_t align) {
    uint8_t *at = arena + align;
    arena += (bytes + align + 7) & ~(uint32_t)7;
    return at;
}

static void put(const void *from, uint32_t bytes) {
    memcpy(answer, from, bytes);
    answer += bytes;
}

/* What tests/test_compilers.py calls: answers where the answer at |out| ends. */
uint8_t *bare_case(const uint8_t *in, uint8_t *out, uint8_t *memory) {
    arena = memory;
    answer = out;
    run_case(in);
    return answer;
}

void *memcpy(void *to, const void *from, size_t bytes) {
    for (size_t k = 0; k < bytes; k++) ((volatile uint8_t *)to)[k] = ((const uint8_t *)from)[k];
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    for (size_t k = 0; k < bytes; k++) ((volatile uint8_t *)to)[k] = (uint8_t)value;
    return to;
}

#endif
