/* solver.h: a network on the device, and the requests that compute (docs/spec.md, "wire" 3), in plain C.
 *
 * The caller opens a ppn_device (device.h), gives it memory in a ppn_solver and hands it the payloads of requests. A
 * batch is dealt to one core or, where another runs ppn_solver_help(), to two; the answers are the same.
 *
 * Parameters and gradients pass through the tapes' memory, stage by stage: a stage is contracted as soon as it has
 * arrived, and gradients leave while later stages are contracted, by another core where there is one. So what this does
 * may go on when ppn_solver_do() is back; before anybody touches the memory, ppn_solver_rest().
 *
 * Tapes: those of batches without directions are smaller. A microbatch that was run forward with |keep| is found again
 * by its points and directions, so that its backward need not run forward once more. Other parameters or directions
 * make all forgotten, and so do gradients on their way out, since they lie where the tapes are.
 */
#ifndef PPN_SOLVER_H
#define PPN_SOLVER_H

#include "device.h"

#define PPN_CORES 2
#define PPN_MICROBATCHES 64 /* of one request, at most */
#define PPN_TICKS (UINT32_C(1) << 30)
#define PPN_EARLY (-3)   /* answer to a request that needs another before it */
#define PPN_NO_ROOM (-4) /* ... whose answer has no room in a message */

enum ppn_request {
    PPN_WRITE = 3,
    PPN_LOAD,
    PPN_DIRECTIONS_SET,
    PPN_FORWARD,
    PPN_BEGIN,
    PPN_BACKWARD,
    PPN_GRADIENTS,
    PPN_READ
};

typedef struct ppn_solver ppn_solver;

/* What the cores share while they work. */
typedef struct {
    volatile uint32_t state; /* enum in solver.c */
    volatile uint32_t done;  /* stages: the helper has those before it */
    volatile uint32_t ended; /* when */
    int job, flags;          /* enum in solver.c; the helper's */
    uint32_t first, count;   /* the helper's microbatches or stages */
    const uint8_t *points, *cotangents;
    uint8_t *out;
    uint32_t number; /* of the batch's first microbatch */
    uint16_t directions;
    uint32_t tape[PPN_MICROBATCHES]; /* where the tape lies that a microbatch has or gets */
} ppn_deal;

struct ppn_solver {
    const ppn_device *device;
    uint8_t *weights, *rows, *tapes; /* tapes: parameters and gradients pass through them, too, so of their size */
    ppn_core core[PPN_CORES];
    uint32_t cores, slots; /* ...; tapes of full size, at least one a core */
    uint32_t kept;         /* bytes of the tapes that are taken */
    uint32_t seed, step;
    uint8_t loaded, begun;
    uint8_t passing;         /* enum in solver.c: what passes through the tapes' memory */
    uint32_t arrived, ready; /* ... bytes; stages that may be contracted, or are packed */
    uint32_t next;           /* ... stage that no core has begun */
    int flags;               /* ... of stages */
    uint32_t (*now)(void *); /* microseconds modulo PPN_TICKS, of |clock|; by any core */
    void *clock;
    uint32_t computed, marked;  /* microseconds in which any core computed; until when those are counted */
    uint8_t computes, together; /* since then: this core, or another */
    ppn_deal deal;
};

/* Forget all; the caller sets the memory, the counts and the clock beforehand. */
void ppn_solver_open(ppn_solver *solver);

/* Execute a request: its payload are |n| bytes aligned to 4; |out| has |room|. Answers the bytes of the answer, or
 * below 0 why not (device.h, above). A request that is none of enum ppn_request is PPN_REFUSED. */
int32_t ppn_solver_do(ppn_solver *solver, uint8_t kind, const uint8_t *payload, uint32_t n, uint8_t *out,
                      uint32_t room);

/* Compute along, on another core, until it is dismissed. */
void ppn_solver_help(ppn_solver *solver);

/* Wait until no other core computes any more. */
void ppn_solver_rest(ppn_solver *solver);

/* Have the other core leave ppn_solver_help(); returns when it has. */
void ppn_solver_dismiss(ppn_solver *solver);

#endif
