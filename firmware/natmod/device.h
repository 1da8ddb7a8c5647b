/* device.h: what a board does with a host's messages (docs/spec.md, "wire"), in plain C.
 *
 * Numbers travel packed: matrices without padding, mantissas in as few bytes as they need. These functions unpack
 * them, run the kernels (ppn/ppn.h) and pack the answers. Whatever arrives, they read and write only what they are
 * given, and hand the kernels only numbers that those take: mantissas beyond their width are clipped.
 *
 * No malloc, no globals. The caller owns five kinds of memory, all aligned to 4 bytes, of the sizes that
 * ppn_device_open() answers. |device| keeps pointers into itself alone: it must not move. A core that computes beside
 * another has a ppn_core of its own; |device| and the shared regions are then only read.
 *
 * All layouts are little-endian, as every supported machine is.
 */
#ifndef PPN_DEVICE_H
#define PPN_DEVICE_H

#include "ppn/ppn.h"

#define PPN_SHORT (-1)   /* what ppn_device_...() answer for a message of another length than it must have */
#define PPN_REFUSED (-2) /* ... that asks for more than was configured, or comes before that */

/* Of the first stages of a network: their blocks, and bytes of their mantissas as parameters that arrive and as
 * gradients that leave. */
typedef struct {
    uint32_t blocks, parameters, gradients;
} ppn_packed_places;

typedef struct {
    ppn_network net;
    ppn_sizes sizes;
    ppn_packed_places *packed; /* of the first 0, 1, ... and all stages */
    ppn_place *single;         /* places for batches without directions, whose tapes are smaller */
    uint32_t single_tape;      /* ... bytes of one */
    uint16_t inputs, outputs;  /* columns of x and u */
    uint16_t directions;       /* the most that a batch may have */
    uint8_t bits_inputs;
} ppn_device;

/* Bytes of each region. |device|, |weights|, |rows| and |parameters| are shared; the others are a core's own. */
typedef struct {
    uint32_t device;             /* the ppn_device and what it points to; the same on all machines */
    uint32_t weights;            /* ppn_sizes.weights */
    uint32_t rows;               /* the directions */
    uint32_t parameters;         /* parameters before ppn_device_load(), their gradients after ppn_device_gradients() */
    uint32_t gradients, scratch; /* as ppn_sizes */
    uint32_t tape;               /* the most that a microbatch takes: ppn_tape_bytes() of all directions */
    uint32_t numbers;            /* one microbatch of points, outputs and cotangents, unpacked */
} ppn_device_sizes;

/* A core's memory. */
typedef struct {
    uint8_t *gradients, *scratch, *numbers;
} ppn_core;

/* Bytes of |device| for a program of |n| bytes, or PPN_SHORT if it is none. */
int32_t ppn_device_bytes(const uint8_t *program, uint32_t n);

/* Make |device| (ppn_device_bytes() of it) ready for a program: 16-bit numbers of stages, half-chains and directions;
 * bytes activation, mode, widths w, a, base, g and input, 0; then ppn_stage and ppn_chain as in ppn.h.
 * Returns a ppn_status, or PPN_SHORT; |sizes| is set where that is PPN_OK. */
int ppn_device_open(ppn_device *device, const uint8_t *program, uint32_t n, ppn_device_sizes *sizes);

/* Bytes of all parameters, packed: exponents, then mantissas; and of all gradients: mantissas, exponents and peaks. */
uint32_t ppn_device_arriving(const ppn_device *device);
uint32_t ppn_device_leaving(const ppn_device *device);

/* Bytes of a microbatch's tape, and of the stamp it begins with: a 32-bit number and the packed points. */
uint32_t ppn_tape_bytes(const ppn_device *device, uint32_t directions);
uint32_t ppn_stamp_bytes(const ppn_device *device, uint32_t directions);

/* Bytes of one microbatch, packed, with so many directions. */
uint32_t ppn_packed_points(const ppn_device *device, uint32_t directions);
uint32_t ppn_packed_cotangents(const ppn_device *device, uint32_t directions);
uint32_t ppn_packed_outputs(const ppn_device *device, uint32_t directions);

/* Put packed parameters from |offset| on into |parameters|; the caller sees to it that they are no more than arrive. */
void ppn_device_write(const ppn_device *device, uint8_t *parameters, uint32_t offset, const uint8_t *bytes, uint32_t n);

/* Unpack those of a stage, which have arrived, for ppn_device_load(): one stage after the other. */
void ppn_device_unpack(const ppn_device *device, uint8_t *parameters, uint32_t stage);

/* Give a stage's unpacked parameters to ppn_load(). Returns flags. */
int ppn_device_load(const ppn_device *device, const ppn_core *core, uint8_t *weights, uint8_t *parameters,
                    uint32_t stage);

/* Set directions (difference: their pairs) from |first| on: |n| bytes, packed one row of |inputs| mantissas and its
 * exponents after the other. Returns flags, PPN_SHORT or PPN_REFUSED. */
int ppn_device_directions(const ppn_device *device, uint8_t *rows, uint32_t first, const uint8_t *packed, uint32_t n);

/* A microbatch as it arrives: |directions| is 0 or as many as were set; |number| counts within the step. */
typedef struct {
    const uint8_t *points, *cotangents;
    uint32_t number;
    uint16_t directions;
} ppn_packed;

/* Run a microbatch forward over |tape|, behind its stamp; |out| takes its packed outputs, unless it is NULL. Returns
 * flags. */
int ppn_device_forward(const ppn_device *device, const ppn_core *core, const uint8_t *weights, const uint8_t *rows,
                       const ppn_packed *batch, uint8_t *tape, uint8_t *out);

/* Set gradient exponents (int16, one an accumulator: |n| bytes) and the limit. Returns 0, PPN_SHORT or PPN_REFUSED. */
int ppn_device_begin(const ppn_device *device, const ppn_core *core, const uint8_t *exps, uint32_t n, uint32_t limit);

/* Add a microbatch's gradients; |tape| is as ppn_device_forward() of it left it. Returns flags. */
int ppn_device_backward(const ppn_device *device, const ppn_core *core, const uint8_t *weights, const uint8_t *rows,
                        const ppn_packed *batch, uint8_t *tape, uint32_t seed, uint32_t step);

/* Add the sums of |other| to those of |core|. */
void ppn_device_merge(const ppn_device *device, const ppn_core *core, const ppn_core *other);

/* Contract a stage's sums back into |parameters|, with |core|'s scratch. Returns flags. */
int ppn_device_gradients(const ppn_device *device, const ppn_core *core, const uint8_t *weights,
                         const uint8_t *gradients, uint8_t *parameters, uint32_t stage);

/* Pack the mantissas of a stage's gradients in |parameters|, one stage after the other; behind the last stage, have
 * exponents and peaks follow. */
void ppn_device_pack(const ppn_device *device, uint8_t *parameters, uint32_t stage);
void ppn_device_pack_end(const ppn_device *device, uint8_t *parameters);

#endif
