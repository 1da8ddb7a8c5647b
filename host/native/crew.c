/* crew.c: a pool of threads that look out for work a little while before they sleep. A training step has work for them
 * every tenth of a millisecond; to be woken takes about as long. */
#include "crew.h"

#include <stdlib.h>
#include <string.h>

/* Some work: |lane| of it, 0 being the caller's. Answers flags. */
typedef int (*picopinn_work)(const void *of, uint32_t lane);

#ifndef _WIN32

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define LOOKS 2000      /* at memory, a pause each, before others may have the processor */
#define YIELDS 1000     /* of it, before a thread sleeps */
#define STACK (4 << 20) /* bytes a thread; kernels take half a MiB, more than some systems give */

struct picopinn_crew {
    uint32_t size, started;
    picopinn_work work;
    const void *of;
    atomic_uint ticket; /* of the work, which it is written before */
    atomic_uint left;   /* threads that are not done with it */
    atomic_uint taken;  /* lanes given to threads at their start */
    atomic_int flags, sleepers;
    int closing;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void look_out(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void await_ticket(picopinn_crew *crew, unsigned seen) {
    for (int k = 0; k < LOOKS + YIELDS; k++) {
        if (atomic_load(&crew->ticket) != seen) return;
        if (k < LOOKS)
            look_out();
        else
            sched_yield();
    }
    pthread_mutex_lock(&crew->lock);
    atomic_fetch_add(&crew->sleepers, 1); /* before the last look, as the ticket is before theirs at sleepers */
    while (atomic_load(&crew->ticket) == seen) pthread_cond_wait(&crew->wake, &crew->lock);
    atomic_fetch_sub(&crew->sleepers, 1);
    pthread_mutex_unlock(&crew->lock);
}

/* Of a crew that closes, the last to leave frees it. Nobody is waited for: a forked process has no other threads. */
static void leave(picopinn_crew *crew) {
    if (atomic_fetch_sub(&crew->left, 1) > 1) return;
    pthread_cond_destroy(&crew->wake);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}

static void *serve(void *argument) {
    picopinn_crew *crew = argument;
    uint32_t lane = atomic_fetch_add(&crew->taken, 1) + 1;
    for (unsigned seen = 0;; seen++) {
        await_ticket(crew, seen);
        if (crew->closing) break;
        atomic_fetch_or(&crew->flags, crew->work(crew->of, lane));
        atomic_fetch_sub(&crew->left, 1);
    }
    leave(crew);
    return NULL;
}

/* Answers whether the system gave a thread. */
static int start(picopinn_crew *crew) {
    pthread_attr_t how;
    pthread_t thread;
    if (pthread_attr_init(&how)) return 0;
    pthread_attr_setstacksize(&how, STACK);
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    int started = !pthread_create(&thread, &how, serve, crew);
    pthread_attr_destroy(&how);
    return started;
}

static void call(picopinn_crew *crew) {
    atomic_fetch_add(&crew->ticket, 1);
    if (!atomic_load(&crew->sleepers)) return;
    pthread_mutex_lock(&crew->lock);
    pthread_cond_broadcast(&crew->wake);
    pthread_mutex_unlock(&crew->lock);
}

static int run(picopinn_crew *crew, picopinn_work work, const void *of) {
    if (crew->size == 1) return work(of, 0);
    crew->work = work;
    crew->of = of;
    atomic_store(&crew->flags, 0);
    atomic_store(&crew->left, crew->size - 1);
    call(crew);
    int flags = work(of, 0);
    for (int k = 0; atomic_load(&crew->left); k++)
        if (k < LOOKS)
            look_out();
        else
            sched_yield();
    return flags | atomic_load(&crew->flags);
}

void picopinn_crew_close(picopinn_crew *crew) {
    crew->closing = 1;
    atomic_store(&crew->left, crew->started + 1);
    call(crew);
    leave(crew);
}

picopinn_crew *picopinn_crew_open(uint32_t size) {
    picopinn_crew *crew = size > UINT16_MAX ? NULL : calloc(1, sizeof *crew); /* ppn_share counts to that */
    if (!crew) return NULL;
    crew->size = size;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->wake, NULL);
    while (crew->started < size - 1 && start(crew)) crew->started++;
    if (crew->started == size - 1) return crew;
    picopinn_crew_close(crew);
    return NULL;
}

#else /* no POSIX threads: the caller does it all */

struct picopinn_crew {
    uint32_t size;
};
static int run(picopinn_crew *crew, picopinn_work work, const void *of) {
    int flags = 0;
    for (uint32_t lane = 0; lane < crew->size; lane++) flags |= work(of, lane);
    return flags;
}
void picopinn_crew_close(picopinn_crew *crew) { free(crew); }
picopinn_crew *picopinn_crew_open(uint32_t size) {
    picopinn_crew *crew = size > UINT16_MAX ? NULL : malloc(sizeof *crew);
    if (crew) crew->size = size;
    return crew;
}

#endif

/* ---- the kernels ----------------------------------------------------------------------------------------------- */

/* A call's arguments. */
typedef struct {
    const picopinn_device *device;
    const ppn_batch *batch;
    const int16_t *mantissas;
    const int8_t *exps;
    ppn_counter counter;
    int32_t *out;
    int16_t *out_mantissas, *out_exps;
    int8_t *out_exps8;
    uint32_t *peaks;
} picopinn_call;

static ppn_share share_of(const picopinn_device *d, uint32_t lane) {
    ppn_share share = {(uint16_t)lane, (uint16_t)d->crew->size};
    return share;
}

/* The first of a lane's run of microbatches. */
static uint32_t first_of(const picopinn_device *d, const ppn_batch *batch, uint32_t lane) {
    return (uint32_t)((uint64_t)batch->count * lane / d->crew->size);
}
/* Microbatches |first| .. |end| - 1 of a batch. */
static ppn_batch part_of(const picopinn_device *d, const ppn_batch *batch, uint32_t first, uint32_t end) {
    uint32_t streams = d->net->mode == PPN_NAIVE ? ppn_streams(PPN_NAIVE, batch->directions) : 1;
    size_t at = (size_t)first * streams * d->sizes.in_blocks;
    ppn_batch part = *batch;
    part.count = end - first;
    part.points += at * 16;
    part.point_exps += at;
    part.tape += (size_t)first * batch->tape_step;
    return part;
}
/* Blocks of outputs, or of their cotangents, before a microbatch. */
static size_t blocks_before(const picopinn_device *d, const ppn_batch *batch, uint32_t microbatch) {
    return (size_t)microbatch * ppn_streams(d->net->mode, batch->directions) * d->sizes.out_blocks;
}

static int load(const void *of, uint32_t lane) {
    const picopinn_call *c = of;
    const picopinn_device *d = c->device;
    return d->kernels->load(d->net, d->weights, d->lanes[lane].scratch, c->mantissas, c->exps, share_of(d, lane));
}
int picopinn_load(const picopinn_device *device, const int16_t *mantissas, const int8_t *exps) {
    picopinn_call c = {.device = device, .mantissas = mantissas, .exps = exps};
    return run(device->crew, load, &c);
}

static int forward(const void *of, uint32_t lane) {
    const picopinn_call *c = of;
    const picopinn_device *d = c->device;
    uint32_t end = first_of(d, c->batch, lane + 1), some = c->batch->tape_step ? c->batch->count : PICOPINN_TOGETHER;
    int flags = 0;
    for (uint32_t first = first_of(d, c->batch, lane), to; first < end; first = to) {
        to = end - first < some ? end : first + some;
        ppn_batch part = part_of(d, c->batch, first, to);
        if (!part.tape_step) { /* the lane's own tapes, again and again */
            part.tape += (size_t)lane * PICOPINN_TOGETHER * d->sizes.tape;
            part.tape_step = d->sizes.tape;
        }
        size_t at = blocks_before(d, c->batch, first);
        flags |=
            d->kernels->forward(d->net, d->weights, d->lanes[lane].scratch, &part, c->out + at * 16, c->out_exps + at);
    }
    return flags;
}
int picopinn_forward(const picopinn_device *device, const ppn_batch *batch, int32_t *out, int16_t *out_exps) {
    picopinn_call c = {.device = device, .batch = batch, .out = out, .out_exps = out_exps};
    return run(device->crew, forward, &c);
}

void picopinn_begin(const picopinn_device *device, const int16_t *exps, uint8_t limit) {
    for (uint32_t k = 0; k < device->crew->size; k++)
        device->kernels->begin(device->net, device->lanes[k].gradients, exps, limit);
}

static int backward(const void *of, uint32_t lane) {
    const picopinn_call *c = of;
    const picopinn_device *d = c->device;
    uint32_t first = first_of(d, c->batch, lane);
    ppn_batch part = part_of(d, c->batch, first, first_of(d, c->batch, lane + 1));
    ppn_counter counter = c->counter;
    size_t at = blocks_before(d, c->batch, first);
    counter.first += first;
    return d->kernels->backward(d->net, d->weights, d->lanes[lane].gradients, d->lanes[lane].scratch, &part,
                                c->mantissas + at * 16, c->exps + at, counter);
}
int picopinn_backward(const picopinn_device *device, const ppn_batch *batch, const int16_t *cotangents,
                      const int8_t *cotangent_exps, ppn_counter counter) {
    picopinn_call c = {
        .device = device, .batch = batch, .mantissas = cotangents, .exps = cotangent_exps, .counter = counter};
    return run(device->crew, backward, &c);
}

static int gradients(const void *of, uint32_t lane) {
    const picopinn_call *c = of;
    const picopinn_device *d = c->device;
    const uint8_t *sums = d->crew->size > 1 ? d->merged : d->lanes[0].gradients;
    return d->kernels->gradients(d->net, d->weights, sums, d->lanes[lane].scratch, c->out_mantissas, c->out_exps8,
                                 c->peaks, share_of(d, lane));
}
int picopinn_gradients(const picopinn_device *device, int16_t *mantissas, int8_t *exps, uint32_t *peaks) {
    const picopinn_lane *lanes = device->lanes;
    picopinn_call c = {.device = device, .out_mantissas = mantissas, .out_exps8 = exps, .peaks = peaks};
    if (device->crew->size > 1)
        memcpy(device->merged, lanes[0].gradients, device->sizes.gradients); /* can be repeated */
    for (uint32_t k = 1; k < device->crew->size; k++)
        device->kernels->merge(device->net, device->merged, lanes[k].gradients);
    return run(device->crew, gradients, &c);
}

typedef struct {
    const ppn_kernels *kernels;
    const ppn_matrix *a;
    const ppn_factor *b;
    int32_t *out;
    int16_t *out_exps;
    uint16_t parts;
} picopinn_product;

static int times_packed(const void *of, uint32_t lane) {
    const picopinn_product *p = of;
    ppn_share share = {(uint16_t)lane, p->parts};
    return p->kernels->times_packed(p->a, p->b, p->out, p->out_exps, share);
}
int picopinn_times_packed(picopinn_crew *crew, const ppn_kernels *kernels, const ppn_matrix *a, const ppn_factor *b,
                          int32_t *out, int16_t *out_exps) {
    picopinn_product p = {kernels, a, b, out, out_exps, (uint16_t)crew->size};
    return run(crew, times_packed, &p);
}
