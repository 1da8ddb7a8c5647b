/* device.c: see device.h. */
#include "device.h"

#include <string.h>

#define LANES 16
#define HEADER 14                       /* bytes of a program before its stages */
#define MOST_BLOCKS (UINT32_C(1) << 24) /* of parameters, so that 33 bytes each stay far below 2^32 */

#define HEAD_BYTES 128 /* of a ppn_device, whatever the size of a pointer */

_Static_assert(sizeof(ppn_device) <= HEAD_BYTES, "HEAD_BYTES is too small");
_Static_assert(sizeof(ppn_stage) == 10 && sizeof(ppn_chain) == 20, "a program is these structures");

static uint32_t up(uint32_t size) { return (size + 3) / 4; }
static uint32_t padded(uint32_t bytes) { return (bytes + 3) & ~UINT32_C(3); }
static uint32_t word(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }
static int is_naive(const ppn_device *d) { return d->net.mode == PPN_NAIVE; }
static uint32_t streams_of(const ppn_device *d, uint32_t directions) { return ppn_streams(d->net.mode, directions); }

/* Rows of directions in memory: difference keeps both of a pair, naive none. */
static uint32_t rows_of(const ppn_device *d, uint32_t directions) {
    return is_naive(d) ? 0 : d->net.mode == PPN_DIFFERENCE ? 2 * directions : directions;
}
static uint32_t point_rows(const ppn_device *d, uint32_t directions) {
    return is_naive(d) ? streams_of(d, directions) : 1;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* One tensor among the parameters: a matrix in blocks; a bias is one of a single row. */
typedef struct {
    uint32_t rows, cols;
    int bits;
} tensor;

static uint32_t tensors_of(const ppn_device *d, const ppn_stage *s) {
    return (s->chain < 0 ? 1u : d->net.chains[s->chain].modes) + s->closes;
}

/* Tensor |k| of a stage: its matrix or its chain's cores, then its bias. */
static tensor tensor_of(const ppn_device *d, uint32_t stage, uint32_t k) {
    const ppn_stage *s = &d->net.stages[stage];
    tensor matrix = {s->rows, s->cols, d->net.bits_weights};
    if (s->closes && k + 1 == tensors_of(d, s)) {
        tensor bias = {1, s->panels > 1 ? d->net.places[stage].out_blocks * 4u : s->expand ? s->cols : s->rows, 16};
        return bias;
    }
    if (s->chain < 0) return matrix;
    const ppn_chain *c = &d->net.chains[s->chain];
    int last = k + 1 == c->modes;
    tensor core = {last ? c->rank[k] : (uint32_t)c->rank[k] * c->mode[k], last ? c->mode[k] : c->rank[k + 1], 16};
    return core;
}

static uint32_t width_of(const tensor *t) { return t->bits > 8 ? 2 : 1; }

/* ---- opening --------------------------------------------------------------------------------------------------- */

int32_t ppn_device_bytes(const uint8_t *program, uint32_t n) {
    if (n < HEADER) return PPN_SHORT;
    uint32_t stages = word(program), chains = word(program + 2);
    if (n != HEADER + stages * sizeof(ppn_stage) + chains * sizeof(ppn_chain)) return PPN_SHORT;
    uint32_t tables = padded(stages * sizeof(ppn_stage)) + padded(chains * sizeof(ppn_chain));
    tables += (stages + 1) * sizeof(ppn_packed_places);
    return (int32_t)(HEAD_BYTES + 2 * stages * sizeof(ppn_place) + tables);
}

/* Places, those for batches without directions, packed ones, stages and chains follow the ppn_device, each aligned to 4
 * bytes. */
static void read_program(ppn_device *d, const uint8_t *program) {
    uint32_t stages = word(program), chains = word(program + 2);
    uint8_t *at = (uint8_t *)d + HEAD_BYTES;
    ppn_packed_places *packed = (ppn_packed_places *)(void *)(at + 2 * stages * sizeof(ppn_place));
    ppn_stage *stage = (ppn_stage *)(void *)(packed + stages + 1);
    ppn_chain *chain = (ppn_chain *)(void *)((uint8_t *)stage + padded(stages * sizeof(ppn_stage)));
    const uint8_t *w = program + 6;
    memcpy(stage, program + HEADER, stages * sizeof(ppn_stage));
    memcpy(chain, program + HEADER + stages * sizeof(ppn_stage), chains * sizeof(ppn_chain));
    ppn_network net = {
        stage, chain, (ppn_place *)(void *)at, (uint16_t)stages, (uint16_t)chains, w[0], w[1], w[2], w[3], w[4], w[5]};
    d->net = net;
    d->single = net.places + stages;
    d->packed = packed;
    d->directions = (uint16_t)word(program + 4);
    d->bits_inputs = w[6];
}

/* Packed rows have no panels, so neither the first input nor the last output may. */
static int check(const ppn_device *d) {
    const ppn_network *net = &d->net;
    if (net->stages[0].panels != 1 || net->stages[net->stage_count - 1].panels != 1) return PPN_BAD_SHAPE;
    if (d->bits_inputs < 4 || d->bits_inputs > 16) return PPN_BAD_WIDTH;
    return d->sizes.parameter_blocks > MOST_BLOCKS ? PPN_TOO_LARGE : PPN_OK;
}

/* What a microbatch takes unpacked (struct numbers). */
static uint32_t numbers_bytes(const ppn_device *d) {
    uint32_t streams = streams_of(d, d->directions), rows = point_rows(d, d->directions);
    return padded(streams * d->sizes.out_blocks * (64 + 2 + 33) + rows * d->sizes.in_blocks * 33);
}

/* The network as a batch with so many directions sees it: only tapes are other ones. */
static ppn_network network_for(const ppn_device *d, uint32_t directions) {
    ppn_network net = d->net;
    if (!directions) net.places = d->single;
    return net;
}

static int plan(ppn_device *d) {
    ppn_sizes single;
    ppn_network net = network_for(d, 0);
    int status = ppn_plan(&d->net, d->directions, &d->sizes);
    if (!status) status = ppn_plan(&net, 0, &single);
    if (!status) d->single_tape = single.tape;
    return status;
}

/* Where each stage's parameters and gradients lie, packed. */
static void count_packed(ppn_device *d) {
    ppn_packed_places at = {0, 0, 0};
    for (uint32_t i = 0; i < d->net.stage_count; i++) {
        d->packed[i] = at;
        for (uint32_t k = 0; k < tensors_of(d, &d->net.stages[i]); k++) {
            tensor t = tensor_of(d, i, k);
            at.blocks += up(t.rows) * up(t.cols);
            at.parameters += t.rows * t.cols * width_of(&t);
            at.gradients += t.rows * t.cols * 2;
        }
    }
    d->packed[d->net.stage_count] = at;
}

int ppn_device_open(ppn_device *d, const uint8_t *program, uint32_t n, ppn_device_sizes *sizes) {
    int32_t bytes = ppn_device_bytes(program, n);
    if (bytes < 0) return PPN_SHORT;
    read_program(d, program);
    int status = plan(d);
    if (status) return status;
    const ppn_stage *first = d->net.stages, *last = first + d->net.stage_count - 1;
    d->inputs = first->expand ? first->rows : first->cols;
    d->outputs = last->expand ? last->cols : last->rows;
    status = check(d);
    if (status) return status;
    count_packed(d);
    const ppn_sizes *s = &d->sizes;
    ppn_device_sizes out = {(uint32_t)bytes,
                            s->weights,
                            rows_of(d, d->directions) * s->in_blocks * 33,
                            padded(s->parameter_blocks * 33) + s->accumulators * 4u,
                            s->gradients,
                            s->scratch,
                            ppn_tape_bytes(d, d->directions),
                            numbers_bytes(d)};
    *sizes = out;
    return PPN_OK;
}

/* ---- packed rows ----------------------------------------------------------------------------------------------- */

/* Bytes of |rows| rows of a matrix with |cols| columns: mantissas, then an exponent a block. */
static uint32_t packed_bytes(uint32_t rows, uint32_t cols, uint32_t width, uint32_t exp_width) {
    return rows * cols * width + up(cols) * exp_width;
}

uint32_t ppn_stamp_bytes(const ppn_device *d, uint32_t directions) {
    return 4 + padded(ppn_packed_points(d, directions));
}
uint32_t ppn_tape_bytes(const ppn_device *d, uint32_t directions) {
    return ppn_stamp_bytes(d, directions) + (directions ? d->sizes.tape : d->single_tape);
}

uint32_t ppn_packed_points(const ppn_device *d, uint32_t directions) {
    return point_rows(d, directions) * packed_bytes(4, d->inputs, 2, 1);
}
uint32_t ppn_packed_cotangents(const ppn_device *d, uint32_t directions) {
    return streams_of(d, directions) * packed_bytes(4, d->outputs, 2, 1);
}
uint32_t ppn_packed_outputs(const ppn_device *d, uint32_t directions) {
    return streams_of(d, directions) * packed_bytes(4, d->outputs, 4, 2);
}

/* A mantissa of |width| bytes, limited to what |bits| hold. */
static int16_t mantissa(const uint8_t *at, uint32_t width, int bits) {
    int m = width == 1 ? (int8_t)at[0] : (int16_t)word(at), top = (1 << (bits - 1)) - 1;
    return (int16_t)(m > top ? top : m < -top ? -top : m);
}

/* One packed block row: |rows| 4, or 1 for four equal rows. */
static void unpack_row(const uint8_t *packed, uint32_t rows, uint32_t cols, int bits, int16_t *m, int8_t *exps) {
    uint32_t blocks = up(cols);
    memcpy(exps, packed + rows * cols * 2, blocks);
    memset(m, 0, blocks * LANES * sizeof *m);
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t c = 0; c < cols; c++)
            if (exps[c / 4] != PPN_ZERO_EXP)
                m[c / 4 * LANES + r * 4 + c % 4] = mantissa(packed + ((rows == 4 ? r : 0) * cols + c) * 2, 2, bits);
}

static void unpack_rows(const uint8_t *packed, uint32_t count, uint32_t cols, int bits, int16_t *m, int8_t *exps) {
    for (uint32_t k = 0; k < count; k++) {
        unpack_row(packed, 4, cols, bits, m, exps);
        packed += packed_bytes(4, cols, 2, 1);
        m += up(cols) * LANES;
        exps += up(cols);
    }
}

static void pack_outputs(const int32_t *x, const int16_t *exps, uint32_t count, uint32_t cols, uint8_t *packed) {
    for (uint32_t k = 0; k < count; k++) {
        for (uint32_t r = 0; r < 4; r++)
            for (uint32_t c = 0; c < cols; c++, packed += 4) memcpy(packed, x + c / 4 * LANES + r * 4 + c % 4, 4);
        memcpy(packed, exps, up(cols) * 2);
        packed += up(cols) * 2;
        x += up(cols) * LANES;
        exps += up(cols);
    }
}

int ppn_device_directions(const ppn_device *d, uint8_t *rows, uint32_t first, const uint8_t *packed, uint32_t n) {
    uint32_t bytes = packed_bytes(1, d->inputs, 2, 1), all = rows_of(d, d->directions), blocks = d->sizes.in_blocks;
    if (n % bytes) return PPN_SHORT;
    uint32_t count = n / bytes;
    if (first > all || count > all - first) return PPN_REFUSED;
    int16_t *m = (int16_t *)(void *)rows + first * blocks * LANES;
    int8_t *exps = (int8_t *)rows + all * blocks * 32 + first * blocks;
    for (uint32_t k = 0; k < count; k++)
        unpack_row(packed + k * bytes, 1, d->inputs, d->bits_inputs, m + k * blocks * LANES, exps + k * blocks);
    return 0;
}

/* ---- parameters ------------------------------------------------------------------------------------------------ */

/* Rows or columns of block |k| of |size| that are not padding. */
static uint32_t part(uint32_t size, uint32_t k) { return size - 4 * k < 4 ? size - 4 * k : 4; }

uint32_t ppn_device_arriving(const ppn_device *d) {
    return d->sizes.parameter_blocks + d->packed[d->net.stage_count].parameters;
}

uint32_t ppn_device_leaving(const ppn_device *d) {
    uint32_t mantissas = d->packed[d->net.stage_count].gradients;
    return mantissas + d->sizes.parameter_blocks + d->sizes.accumulators * 4u;
}

/* Where exponents lie, and packed mantissas that arrive: at the end of the room of unpacked ones. */
static uint8_t *exps_in(const ppn_device *d, uint8_t *parameters) {
    return parameters + d->sizes.parameter_blocks * 32;
}
static uint8_t *packed_in(const ppn_device *d, uint8_t *parameters) {
    return exps_in(d, parameters) - d->packed[d->net.stage_count].parameters;
}

void ppn_device_write(const ppn_device *d, uint8_t *parameters, uint32_t offset, const uint8_t *bytes, uint32_t n) {
    uint32_t blocks = d->sizes.parameter_blocks;
    uint32_t exps = offset >= blocks ? 0 : n < blocks - offset ? n : blocks - offset;
    memcpy(exps_in(d, parameters) + offset, bytes, exps);
    if (n > exps) memcpy(packed_in(d, parameters) + (offset + exps - blocks), bytes + exps, n - exps);
}

/* A whole block of 16-bit mantissas. */
static void unpack_whole(const uint8_t *from, int bits, int16_t *to) {
    int top = (1 << (bits - 1)) - 1;
    for (uint32_t l = 0; l < LANES; l++, from += 2) {
        int m = (int16_t)word(from);
        to[l] = (int16_t)(m > top ? top : m < -top ? -top : m);
    }
}

/* |rows| x |cols| packed mantissas as a block; answers where the next begin. */
static const uint8_t *unpack_block(const uint8_t *from, uint32_t width, int bits, uint32_t rows, uint32_t cols,
                                   int zero, int16_t *to) {
    if (rows == 4 && cols == 4 && width == 2 && !zero) {
        unpack_whole(from, bits, to);
        return from + 2 * LANES;
    }
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t c = 0; c < 4; c++, to++) {
            *to = 0;
            if (r >= rows || c >= cols) continue;
            if (!zero) *to = mantissa(from, width, bits);
            from += width;
        }
    return from;
}

static int16_t *pack_block(const int16_t *from, uint32_t rows, uint32_t cols, int16_t *to) {
    if (cols == 4) { /* towards lower addresses, so front to back */
        for (uint32_t l = 0; l < rows * 4; l++) to[l] = from[l];
        return to + rows * 4;
    }
    for (uint32_t r = 0; r < rows; r++, from += 4)
        for (uint32_t c = 0; c < cols; c++) *to++ = from[c];
    return to;
}

#if defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((optimize("O2"))) /* in a file that is small otherwise */
#else
#define FAST
#endif

/* Packed mantissas are unpacked from the end of their room to its start. What is left to read is never longer than what
 * is left to write, so writing never passes reading. */
FAST void ppn_device_unpack(const ppn_device *d, uint8_t *parameters, uint32_t stage) {
    ppn_packed_places at = d->packed[stage];
    const uint8_t *from = packed_in(d, parameters) + at.parameters;
    const int8_t *exps = (const int8_t *)exps_in(d, parameters) + at.blocks;
    int16_t *to = (int16_t *)(void *)parameters + at.blocks * LANES;
    for (uint32_t k = 0; k < tensors_of(d, &d->net.stages[stage]); k++) {
        tensor t = tensor_of(d, stage, k);
        for (uint32_t high = 0; high < up(t.rows); high++)
            for (uint32_t wide = 0; wide < up(t.cols); wide++, to += LANES)
                from = unpack_block(from, width_of(&t), t.bits, part(t.rows, high), part(t.cols, wide),
                                    *exps++ == PPN_ZERO_EXP, to);
    }
}

/* The way back, to the start, mantissas all 16 bits wide. */
void ppn_device_pack(const ppn_device *d, uint8_t *parameters, uint32_t stage) {
    ppn_packed_places at = d->packed[stage];
    const int16_t *from = (const int16_t *)(void *)parameters + at.blocks * LANES;
    int16_t *to = (int16_t *)(void *)(parameters + at.gradients);
    for (uint32_t k = 0; k < tensors_of(d, &d->net.stages[stage]); k++) {
        tensor t = tensor_of(d, stage, k);
        for (uint32_t high = 0; high < up(t.rows); high++)
            for (uint32_t wide = 0; wide < up(t.cols); wide++, from += LANES)
                to = pack_block(from, part(t.rows, high), part(t.cols, wide), to);
    }
}

/* Peaks lie behind the parameters. */
static uint32_t *peaks_in(const ppn_device *d, uint8_t *parameters) {
    return (uint32_t *)(void *)(parameters + padded(d->sizes.parameter_blocks * 33));
}

/* Towards lower addresses, so front to back. */
static uint8_t *move_down(uint8_t *to, const uint8_t *from, uint32_t n) {
    while (n--) *to++ = *from++;
    return to;
}

void ppn_device_pack_end(const ppn_device *d, uint8_t *parameters) {
    uint8_t *to = parameters + d->packed[d->net.stage_count].gradients;
    to = move_down(to, exps_in(d, parameters), d->sizes.parameter_blocks);
    move_down(to, (const uint8_t *)peaks_in(d, parameters), d->sizes.accumulators * 4u);
}

/* One of all stages, for kernels that deal them out. */
static ppn_share only(const ppn_device *d, uint32_t stage) {
    ppn_share share = {(uint16_t)stage, d->net.stage_count};
    return share;
}

int ppn_device_load(const ppn_device *d, const ppn_core *core, uint8_t *weights, uint8_t *parameters, uint32_t stage) {
    const int16_t *mantissas = (const int16_t *)(const void *)parameters;
    return ppn_load(&d->net, weights, core->scratch, mantissas, (const int8_t *)exps_in(d, parameters), only(d, stage));
}

int ppn_device_gradients(const ppn_device *d, const ppn_core *core, const uint8_t *weights, const uint8_t *gradients,
                         uint8_t *parameters, uint32_t stage) {
    return ppn_gradients(&d->net, weights, gradients, core->scratch, (int16_t *)(void *)parameters,
                         (int8_t *)exps_in(d, parameters), peaks_in(d, parameters), only(d, stage));
}

/* ---- batches --------------------------------------------------------------------------------------------------- */

/* One microbatch, unpacked; see numbers_bytes(). */
typedef struct {
    int32_t *out;
    int16_t *out_exps, *points, *cotangents;
    int8_t *point_exps, *cotangent_exps;
} numbers;

static numbers numbers_at(const ppn_device *d, uint8_t *at) {
    uint32_t outs = streams_of(d, d->directions) * d->sizes.out_blocks;
    uint32_t points = point_rows(d, d->directions) * d->sizes.in_blocks;
    numbers n;
    n.out = (int32_t *)(void *)at;
    n.points = (int16_t *)(void *)(at + outs * 64);
    n.cotangents = n.points + points * LANES;
    n.out_exps = n.cotangents + outs * LANES;
    n.point_exps = (int8_t *)(n.out_exps + outs);
    n.cotangent_exps = n.point_exps + points;
    return n;
}

/* A microbatch as the kernels take it; its points are unpacked into |n|. */
static ppn_batch one(const ppn_device *d, const uint8_t *rows, const ppn_packed *packed, uint8_t *tape,
                     const numbers *n) {
    const int8_t *row_exps = (const int8_t *)rows + rows_of(d, d->directions) * d->sizes.in_blocks * 32;
    unpack_rows(packed->points, point_rows(d, packed->directions), d->inputs, d->bits_inputs, n->points, n->point_exps);
    ppn_batch batch = {1,
                       packed->directions,
                       d->bits_inputs,
                       n->points,
                       n->point_exps,
                       (const int16_t *)(const void *)rows,
                       row_exps,
                       tape,
                       0};
    return batch;
}

int ppn_device_forward(const ppn_device *d, const ppn_core *core, const uint8_t *weights, const uint8_t *rows,
                       const ppn_packed *packed, uint8_t *tape, uint8_t *out) {
    numbers n = numbers_at(d, core->numbers);
    ppn_batch batch = one(d, rows, packed, tape, &n);
    ppn_network net = network_for(d, packed->directions);
    int flags = ppn_forward(&net, weights, core->scratch, &batch, n.out, n.out_exps);
    if (out) pack_outputs(n.out, n.out_exps, streams_of(d, packed->directions), d->outputs, out);
    return flags;
}

int ppn_device_begin(const ppn_device *d, const ppn_core *core, const uint8_t *exps, uint32_t n, uint32_t limit) {
    if (n != d->sizes.accumulators * 2u) return PPN_SHORT;
    if (limit > 30) return PPN_REFUSED;
    ppn_begin(&d->net, core->gradients, (const int16_t *)(const void *)exps, (uint8_t)limit);
    return 0;
}

int ppn_device_backward(const ppn_device *d, const ppn_core *core, const uint8_t *weights, const uint8_t *rows,
                        const ppn_packed *packed, uint8_t *tape, uint32_t seed, uint32_t step) {
    numbers n = numbers_at(d, core->numbers);
    ppn_batch batch = one(d, rows, packed, tape, &n);
    ppn_counter counter = {seed, step, packed->number};
    ppn_network net = network_for(d, packed->directions);
    unpack_rows(packed->cotangents, streams_of(d, packed->directions), d->outputs, d->net.bits_gradients, n.cotangents,
                n.cotangent_exps);
    return ppn_backward(&net, weights, core->gradients, core->scratch, &batch, n.cotangents, n.cotangent_exps, counter);
}

void ppn_device_merge(const ppn_device *d, const ppn_core *core, const ppn_core *other) {
    ppn_merge(&d->net, core->gradients, other->gradients);
}
