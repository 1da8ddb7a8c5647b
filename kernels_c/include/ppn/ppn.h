/* ppn.h: integer training of small networks in 4x4-block microscaling integers (SMX).
 *
 * C11, integers only: no floating point, no malloc, no globals, no libc but memcpy and memset.
 * The arithmetic is docs/spec.md ("spec"), to the last bit, on every machine.
 *
 * How to use it
 *   1. Describe the network in a ppn_network (stages, half-chains, widths); give it room for one ppn_place a stage.
 *   2. ppn_plan() checks it and says how many bytes each region needs for K directions.
 *   3. Allocate the regions (any alignment of 4 bytes serves): weights, gradients, tape, scratch.
 *   4. ppn_load() parameters. Then for each step: ppn_begin(), and for every batch ppn_forward() with a tape and
 *      ppn_backward() with the same tape; finally ppn_gradients().
 *
 * Data at the interface are rows of 4x4 blocks (spec 2): mantissas 16 int16 a block whatever their width, exponents
 * one int8 a block. A microbatch is four points; it has S streams, one block row each: ppn_streams() (spec 4).
 *
 * No function keeps a pointer it was given after it returns, but ppn_network.places, which ppn_plan() fills.
 * Functions on different regions may run at the same time; |net| and |weights| are only read by forward and backward.
 */
#ifndef PPN_H
#define PPN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PPN_VERSION 2        /* of the arithmetic: docs/spec.md */
#define PPN_MODES 4          /* modes of a half-chain, at most */
#define PPN_INNER 4096       /* rows or columns of a stage matrix, at most */
#define PPN_STAGES 1024      /* stages, at most */
#define PPN_PAIRS 256        /* matrix blocks that a network may have to be kept packed, too: 8 KiB */
#define PPN_DIRECTIONS 4095  /* directions, at most */
#define PPN_ZERO_EXP (-128)  /* exponent of a zero SMX block */
#define PPN_EMPTY_EXP (-256) /* exponent of an empty block-scaled result */

enum ppn_activation { PPN_TANH, PPN_SINE };
enum ppn_mode { PPN_NAIVE, PPN_DIFFERENCE, PPN_ODD_EVEN, PPN_JET, PPN_LAPLACIAN, PPN_LAPLACIAN_TIME };
enum ppn_flag { PPN_OVERFLOW = 1, PPN_STEP = 2 }; /* sticky; spec 10 */

/* Why ppn_plan() or ppn_matmul() refused. */
enum ppn_status {
    PPN_OK,
    PPN_BAD_WIDTH, /* a mantissa width outside 4..16 */
    PPN_BAD_SHAPE, /* stages that do not fit each other, a size of 0 or above PPN_INNER */
    PPN_BAD_CHAIN, /* a half-chain that does not multiply out to its stage matrix */
    PPN_BAD_ENUM,  /* an activation, mode or yes/no that does not exist; no stage, or more than PPN_STAGES */
    PPN_TOO_LARGE  /* more than PPN_DIRECTIONS, or a region of 2 GiB */
};

/* A matrix in SMX(w), applied to |panels| equal column panels (spec 4). */
typedef struct {
    uint16_t rows, cols, panels;
    uint8_t expand; /* 0: y = x W^T, 1: y = x W */
    uint8_t closes; /* adds a bias and, unless it is the last stage, the activation */
    int16_t chain;  /* index of the half-chain contracted into the matrix, or -1 */
} ppn_stage;

/* A TT half-chain (spec 8): core k has shape (rank[k], mode[k], rank[k+1]); rank[modes] is 1. */
typedef struct {
    uint16_t modes;
    uint16_t mode[PPN_MODES];
    uint16_t rank[PPN_MODES + 1];
} ppn_chain;

/* Where a stage's data lie, as byte offsets into the regions; filled by ppn_plan(). */
typedef struct {
    uint32_t matrix, bias, cores;   /* in weights */
    uint32_t pairs;                 /* in weights, 0: none; the matrix packed for a Cortex-M0+ */
    uint32_t sum, bias_sum;         /* in gradients */
    uint32_t input, slope;          /* in a tape; slope: the closing stage's linearization */
    uint16_t accumulator;           /* index of the matrix's accumulator; its bias follows */
    uint16_t in_blocks, out_blocks; /* blocks of a row before and after the stage */
} ppn_place;

typedef struct {
    const ppn_stage *stages;
    const ppn_chain *chains;
    ppn_place *places; /* stage_count of them */
    uint16_t stage_count, chain_count;
    uint8_t activation, mode;
    uint8_t bits_weights, bits_activations, bits_base, bits_gradients;
} ppn_network;

typedef struct {
    uint32_t weights, gradients, tape, scratch; /* bytes; |tape| is for one microbatch */
    uint32_t parameter_blocks;                  /* blocks ppn_load() reads and ppn_gradients() writes */
    uint16_t accumulators;
    uint16_t in_blocks, out_blocks; /* of a row of points, of a row of outputs */
} ppn_sizes;

/* A batch of |count| microbatches, as forward and backward see it.
 * bits_inputs: 4 to 16, which the caller sees to; |directions| at most those of ppn_plan().
 * points:     |count| times one row (naive: S rows) of in_blocks, mantissas up to |bits_inputs| wide.
 * directions: K rows d_k; difference: 2 K rows d_1, -d_1, d_2, ...; naive: not read.
 * tape:       |count| regions of |tape_step| bytes each; tape_step 0 uses one region again and again (forward only,
 *             or with count 1). 32-bit aligned, like the other regions. */
typedef struct {
    uint32_t count;
    uint16_t directions;
    uint8_t bits_inputs;
    const int16_t *points;
    const int8_t *point_exps;
    const int16_t *rows;
    const int8_t *row_exps;
    uint8_t *tape;
    uint32_t tape_step;
} ppn_batch;

/* The counters of stochastic rounding (spec 9). |first| numbers the batch's first microbatch within the step. */
typedef struct {
    uint32_t seed, step, first;
} ppn_counter;

/* S: streams of a microbatch in a mode, with so many directions. */
static inline uint32_t ppn_streams(int mode, uint32_t directions) {
    return mode >= PPN_LAPLACIAN && directions ? directions + 2 : 1 + 2 * directions;
}

/* Check |net|, fill its places, and answer the bytes of every region for |directions| (the most any batch will have).
 * Returns PPN_OK or why not; then |sizes| is untouched. */
int ppn_plan(ppn_network *net, uint16_t directions, ppn_sizes *sizes);

/* Which stages a call works on, so that cores can share the work, each with a scratch of its own: those whose number is
 * |part| modulo |parts|. {0, 1}: all. */
typedef struct {
    uint16_t part, parts;
} ppn_share;

/* Set all parameters: |mantissas|, |exps| hold sizes.parameter_blocks blocks, tensor after tensor (each stage: its
 * matrix in SMX(w) or its chain's cores in SMX(16); then its bias in SMX(16), row 0 of each block). Contracts the
 * cores. Returns flags. */
int ppn_load(const ppn_network *net, uint8_t *weights, uint8_t *scratch, const int16_t *mantissas, const int8_t *exps,
             ppn_share share);

/* Run |batch| forward. |out|, |out_exps|: count x S x out_blocks blocks of 16 int32 and one exponent. Returns flags. */
int ppn_forward(const ppn_network *net, const uint8_t *weights, uint8_t *scratch, const ppn_batch *batch, int32_t *out,
                int16_t *out_exps);

/* Clear all sums; |exps| gives one exponent an accumulator (stage by stage: matrix, then bias if it closes), |limit|
 * the limit exponent t (spec 7). */
void ppn_begin(const ppn_network *net, uint8_t *gradients, const int16_t *exps, uint8_t limit);

/* Add the gradients of sum(cotangents * outputs). |batch| as given to ppn_forward() just before, with its tapes;
 * cotangents: count x S x out_blocks blocks in SMX(bits_gradients). Returns flags. */
int ppn_backward(const ppn_network *net, const uint8_t *weights, uint8_t *gradients, uint8_t *scratch,
                 const ppn_batch *batch, const int16_t *cotangents, const int8_t *cotangent_exps, ppn_counter counter);

/* Add another region's sums, begun with the same exponents and limit, to |gradients|. */
void ppn_merge(const ppn_network *net, uint8_t *gradients, const uint8_t *other);

/* Contract the sums back to parameters. |mantissas|, |exps|: SMX(16), every block that ppn_load() reads, in its order;
 * |peaks|: one an accumulator (above 2^limit: the step saturated, the tensor's values are zero). Returns flags. */
int ppn_gradients(const ppn_network *net, const uint8_t *weights, const uint8_t *gradients, uint8_t *scratch,
                  int16_t *mantissas, int8_t *exps, uint32_t *peaks, ppn_share share);

/* One matrix for ppn_matmul(): |rows| x |cols| blocks of SMX(bits). */
typedef struct {
    const int16_t *mantissas;
    const int8_t *exps;
    uint16_t rows, cols;
    uint8_t bits, transposed; /* transposed: use it turned over, from the same blocks */
} ppn_matrix;

/* C = op(A) op(B) (spec 3); |out| holds C's blocks row by row. Returns PPN_OK, PPN_BAD_WIDTH or PPN_BAD_SHAPE. */
int ppn_matmul(const ppn_matrix *a, const ppn_matrix *b, int32_t *out, int16_t *out_exps);

/* Encode |count| block-scaled int32 blocks to SMX(bits), nearest (spec 2.2); |x| <= 2^31 - 1. Returns flags. */
int ppn_encode(uint32_t count, const int32_t *x, const int16_t *x_exps, uint8_t bits, int16_t *mantissas, int8_t *exps);

/* phi and phi' of SMX(16) blocks as fixed point with 15 and 14 fraction bits (spec 5). */
void ppn_activate(uint32_t count, const int16_t *z, const int8_t *z_exps, uint8_t activation, int16_t *value,
                  int16_t *slope);

#ifdef __cplusplus
}
#endif
#endif
