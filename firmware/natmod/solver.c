/* solver.c: see solver.h. */
#include "solver.h"

#include <string.h>

enum { IDLE, WORK, LEAVE, GONE }; /* ppn_deal.state: the helper waits, computes, is to leave, has left */

enum { FORWARD, BACKWARD, LOADING, CONTRACTING }; /* ppn_deal.job */
enum { NOT_BEGUN, ADDING, SUMMED };               /* ppn_solver.begun */
enum { NOTHING, PARAMETERS, GRADIENTS };          /* ppn_solver.passing */
#define NO_TAPE UINT32_MAX                        /* ppn_deal.tape: the core's spare one */

static uint32_t word(const uint8_t *at) {
    uint32_t x;
    memcpy(&x, at, 4);
    return x;
}
static uint32_t half(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }

static int32_t flags_in(uint8_t *out, int flags) {
    uint32_t x = (uint32_t)flags;
    if (flags < 0) return flags;
    memcpy(out, &x, 4);
    return 4;
}

void ppn_solver_open(ppn_solver *s) {
    s->kept = 0;
    s->loaded = s->begun = s->passing = 0;
    s->computed = 0;
    s->computes = s->together = 0;
    s->deal.state = IDLE;
}

/* ---- tapes ----------------------------------------------------------------------------------------------------- */

/* A tape begins with a stamp: its directions, a 32-bit number, and its packed points. Tapes that keep a microbatch lie
 * one behind the other, up to |kept|; the spare ones, one a core, at the end of all. */
static uint32_t whole(const ppn_solver *s) { return ppn_tape_bytes(s->device, s->device->directions); }
static uint32_t next_tape(const ppn_solver *s, uint32_t at) {
    return at + ppn_tape_bytes(s->device, word(s->tapes + at));
}
static uint32_t spare_at(const ppn_solver *s, uint32_t core) { return (s->slots - s->cores + core) * whole(s); }

static int same(const uint8_t *a, const uint8_t *b, uint32_t n) {
    while (n && *a == *b) a++, b++, n--;
    return n == 0;
}

/* The tape from |at| to |end| that holds a microbatch, or NO_TAPE. */
static uint32_t find_in(const ppn_solver *s, uint32_t at, uint32_t end, uint32_t directions, const uint8_t *points) {
    uint32_t bytes = ppn_packed_points(s->device, directions);
    for (; at < end; at = next_tape(s, at))
        if (word(s->tapes + at) == directions && same(s->tapes + at + 4, points, bytes)) return at;
    return NO_TAPE;
}

/* Where each microbatch of a batch has its tape, mostly behind that of the one before; answers whether all have one. */
static int find_all(ppn_solver *s, uint32_t count) {
    ppn_deal *deal = &s->deal;
    uint32_t bytes = ppn_packed_points(s->device, deal->directions), from = 0;
    int all = 1;
    for (uint32_t k = 0; k < count; k++) {
        const uint8_t *points = deal->points + k * bytes;
        uint32_t at = find_in(s, from, s->kept, deal->directions, points);
        if (at == NO_TAPE) at = find_in(s, 0, from, deal->directions, points);
        deal->tape[k] = at;
        if (at == NO_TAPE)
            all = 0;
        else
            from = next_tape(s, at);
    }
    return all;
}

/* Before microbatches run on the spare tapes: what those held is forgotten. */
static void free_spare(ppn_solver *s) {
    uint32_t at = 0;
    while (at < s->kept && next_tape(s, at) <= spare_at(s, 0)) at = next_tape(s, at);
    s->kept = at;
}

/* Tapes for a forward, as long as there is room if |keep|, else the spare ones. */
static void take_tapes(ppn_solver *s, uint32_t count, int keep) {
    ppn_deal *deal = &s->deal;
    uint32_t directions = deal->directions, bytes = ppn_packed_points(s->device, directions);
    uint32_t size = ppn_tape_bytes(s->device, directions), end = s->slots * whole(s);
    if (!keep || count > (end - s->kept) / size) { /* some run on the spare tapes */
        free_spare(s);
        end = keep ? spare_at(s, 0) : 0;
    }
    for (uint32_t k = 0; k < count; k++) {
        deal->tape[k] = NO_TAPE;
        if (s->kept + size > end) continue;
        deal->tape[k] = s->kept;
        memcpy(s->tapes + s->kept, &directions, 4);
        memcpy(s->tapes + s->kept + 4, deal->points + k * bytes, bytes);
        s->kept += size;
    }
}

/* ---- cores ----------------------------------------------------------------------------------------------------- */

#if defined(__ARM_ARCH)
#define WAIT() __asm volatile("wfe" ::: "memory") /* until the other core signals, or for an interrupt */
#define SIGNAL() __asm volatile("dmb\n sev" ::: "memory")
#else
#define WAIT() __sync_synchronize()
#define SIGNAL() __sync_synchronize()
#endif

/* ---- time ------------------------------------------------------------------------------------------------------ */

static uint32_t time_of(const ppn_solver *s) { return s->now ? s->now(s->clock) : 0; }

/* Count the time since the last mark if any core computed; from here on, whether this one does. */
static void mark(ppn_solver *s, int computes) {
    int working = s->deal.state == WORK;
    uint32_t now = time_of(s), until = s->computes || working ? now : s->together ? s->deal.ended : s->marked;
    uint32_t spent = (until - s->marked) % PPN_TICKS;
    if (spent < PPN_TICKS / 2) s->computed += spent; /* the other core may have ended just before the last mark */
    s->marked = now;
    s->computes = (uint8_t)computes;
    s->together = (uint8_t)working;
}

/* ---- work ------------------------------------------------------------------------------------------------------ */

/* Microbatches |first| to |first| + |count| of the batch, on one core. */
static int run_part(const ppn_solver *s, uint32_t number, uint32_t first, uint32_t count) {
    const ppn_deal *deal = &s->deal;
    const ppn_device *d = s->device;
    const ppn_core *core = &s->core[number];
    uint32_t points = ppn_packed_points(d, deal->directions), outputs = ppn_packed_outputs(d, deal->directions);
    uint32_t cotangents = ppn_packed_cotangents(d, deal->directions);
    int flags = 0;
    for (uint32_t k = first; k < first + count; k++) {
        uint32_t at = deal->tape[k] == NO_TAPE ? spare_at(s, number) : deal->tape[k];
        uint8_t *tape = s->tapes + at + ppn_stamp_bytes(d, deal->directions);
        ppn_packed one = {deal->points + k * points, deal->cotangents + k * cotangents, deal->number + k,
                          deal->directions};
        if (deal->job == FORWARD)
            flags |= ppn_device_forward(d, core, s->weights, s->rows, &one, tape, deal->out + k * outputs);
        else if (deal->tape[k] == NO_TAPE)
            flags |= ppn_device_forward(d, core, s->weights, s->rows, &one, tape, NULL);
        if (deal->job == BACKWARD)
            flags |= ppn_device_backward(d, core, s->weights, s->rows, &one, tape, s->seed, s->step);
    }
    return flags;
}

/* A core's share of the job: microbatches, or stages. */
static int run_share(ppn_solver *s, uint32_t number, uint32_t first, uint32_t count) {
    ppn_deal *deal = &s->deal;
    const ppn_core *core = &s->core[number];
    int flags = 0;
    if (deal->job == FORWARD || deal->job == BACKWARD) return run_part(s, number, first, count);
    for (uint32_t i = first; i < first + count; i++) {
        if (deal->job == LOADING)
            flags |= ppn_device_load(s->device, core, s->weights, s->tapes, i);
        else
            flags |= ppn_device_gradients(s->device, core, s->weights, s->core[0].gradients, s->tapes, i);
        if (number == 0) continue;
        SIGNAL(); /* all of it is written before it is done */
        deal->done = i + 1;
        SIGNAL();
    }
    return flags;
}

static void hand_out(ppn_solver *s, uint32_t first, uint32_t count) {
    ppn_deal *deal = &s->deal;
    deal->first = deal->done = first;
    deal->count = count;
    s->together = 1;
    SIGNAL(); /* all of it is written before the state is */
    deal->state = WORK;
    SIGNAL();
}

/* The other core's flags, when it is through. */
static int join(ppn_solver *s) {
    while (s->deal.state == WORK) WAIT();
    int flags = s->deal.flags;
    s->deal.flags = 0;
    return flags;
}

/* Have all cores run |count| microbatches. */
static int run(ppn_solver *s, int job, uint32_t count) {
    uint32_t mine = s->cores < 2 ? count : (count + 1) / 2;
    s->deal.job = job;
    if (s->cores > 1) hand_out(s, mine, count - mine);
    int flags = run_share(s, 0, 0, mine);
    return flags | join(s);
}

void ppn_solver_help(ppn_solver *s) {
    ppn_deal *deal = &s->deal;
    while (deal->state != LEAVE) {
        if (deal->state == WORK) {
            deal->flags |= run_share(s, 1, deal->first, deal->count);
            deal->ended = time_of(s);
            SIGNAL();
            deal->state = IDLE;
            SIGNAL();
        } else
            WAIT();
    }
    deal->state = GONE;
    SIGNAL();
}

void ppn_solver_rest(ppn_solver *s) {
    mark(s, 0);
    s->flags |= join(s);
    mark(s, 0);
}

void ppn_solver_dismiss(ppn_solver *s) {
    while (s->deal.state == WORK) WAIT();
    s->deal.state = LEAVE;
    SIGNAL();
    while (s->deal.state != GONE) WAIT();
}

/* ---- stages ---------------------------------------------------------------------------------------------------- */

/* Begin to contract, parameters or sums. */
static void begin_stages(ppn_solver *s, int passing) {
    join(s); /* what it was about is void */
    s->passing = (uint8_t)passing;
    s->deal.job = passing == PARAMETERS ? LOADING : CONTRACTING;
    s->arrived = s->ready = s->next = 0;
    s->flags = 0;
    s->kept = 0;
}

/* Give another core, if there is one with nothing to do, stages up to |end|. */
static void share_stages(ppn_solver *s, uint32_t end) {
    if (s->cores < 2 || s->deal.state == WORK || s->next >= end) return;
    hand_out(s, s->next, end - s->next);
    s->next = end;
}

static int is_contracted(const ppn_solver *s, uint32_t stage) {
    return stage < s->next && (s->deal.state != WORK || stage < s->deal.done);
}

/* Have a stage contracted, on whatever core, and later ones up to |end| begun. */
static void need_stage(ppn_solver *s, uint32_t stage, uint32_t end) {
    while (!is_contracted(s, stage)) {
        share_stages(s, s->next + 2 < end ? s->next + 2 : end - 1);
        if (s->next < end) {
            uint32_t mine = s->next++;
            s->flags |= run_share(s, 0, mine, 1);
        } else if (!is_contracted(s, stage))
            WAIT();
    }
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

/* Stages whose parameters have arrived. */
static uint32_t arrived(const ppn_solver *s) {
    const ppn_device *d = s->device;
    uint32_t i = s->ready;
    while (i < d->net.stage_count && s->arrived >= d->sizes.parameter_blocks + d->packed[i + 1].parameters) i++;
    return i;
}

static void unpack(ppn_solver *s, uint32_t end) {
    for (; s->ready < end; s->ready++) ppn_device_unpack(s->device, s->tapes, s->ready);
}

/* offset u32, bytes: from the start on, each behind the one before */
static int32_t do_write(ppn_solver *s, const uint8_t *payload, uint32_t n) {
    if (n < 4) return PPN_SHORT;
    uint32_t offset = word(payload), all = ppn_device_arriving(s->device);
    if (offset > all || n - 4 > all - offset) return PPN_REFUSED;
    if (offset && (s->passing != PARAMETERS || offset != s->arrived)) return PPN_REFUSED;
    if (!offset) {
        begin_stages(s, PARAMETERS);
        s->loaded = 0;
    }
    ppn_device_write(s->device, s->tapes, offset, payload + 4, n - 4);
    s->arrived = offset + n - 4;
    mark(s, 1);
    unpack(s, arrived(s));
    share_stages(s, s->ready);
    if (s->cores < 2 && s->ready) need_stage(s, s->ready - 1, s->ready);
    mark(s, 0);
    return 0;
}

/* What did not come by WRITE lies there already. */
static int32_t do_load(ppn_solver *s, uint32_t n, uint8_t *out) {
    uint32_t stages = s->device->net.stage_count;
    if (n) return PPN_SHORT;
    if (s->passing != PARAMETERS)
        begin_stages(s, PARAMETERS);
    else if (s->arrived != ppn_device_arriving(s->device))
        return PPN_EARLY;
    unpack(s, stages);
    for (uint32_t i = 0; i < stages; i++) need_stage(s, i, stages);
    s->flags |= join(s);
    s->passing = NOTHING;
    s->loaded = 1;
    return flags_in(out, s->flags);
}

/* first u32, packed rows */
static int32_t do_directions(ppn_solver *s, const uint8_t *payload, uint32_t n, uint8_t *out) {
    if (n < 4) return PPN_SHORT;
    s->kept = 0;
    return flags_in(out, ppn_device_directions(s->device, s->rows, word(payload), payload + 4, n - 4));
}

/* The head of a batch: directions u16, microbatches u16, u32; then points and perhaps cotangents. Answers the number
 * of microbatches, or below 0. */
static int32_t take_batch(ppn_solver *s, const uint8_t *payload, uint32_t n, int backward) {
    ppn_deal *deal = &s->deal;
    if (n < 8) return PPN_SHORT;
    uint32_t count = half(payload + 2);
    deal->directions = (uint16_t)half(payload);
    if (deal->directions > s->device->directions || count > PPN_MICROBATCHES) return PPN_REFUSED;
    uint32_t points = ppn_packed_points(s->device, deal->directions) * count;
    uint32_t cotangents = backward ? ppn_packed_cotangents(s->device, deal->directions) * count : 0;
    if (n != 8 + points + cotangents) return PPN_SHORT;
    if (!s->loaded) return PPN_EARLY;
    deal->points = payload + 8;
    deal->cotangents = payload + 8 + points;
    return (int32_t)count;
}

/* directions u16, microbatches u16, keep u32, packed points */
static int32_t do_forward(ppn_solver *s, const uint8_t *payload, uint32_t n, uint8_t *out, uint32_t room) {
    int32_t count = take_batch(s, payload, n, 0);
    if (count < 0) return count;
    uint32_t outputs = ppn_packed_outputs(s->device, s->deal.directions) * (uint32_t)count;
    if (4 + outputs > room) return PPN_NO_ROOM;
    s->deal.out = out + 4;
    take_tapes(s, (uint32_t)count, word(payload + 4) != 0);
    flags_in(out, run(s, FORWARD, (uint32_t)count));
    return (int32_t)(4 + outputs);
}

/* seed u32, step u32, limit u16, u16, an exponent int16 an accumulator */
static int32_t do_begin(ppn_solver *s, const uint8_t *payload, uint32_t n) {
    if (n < 12) return PPN_SHORT;
    uint32_t limit = half(payload + 8);
    for (uint32_t k = 0; k < s->cores; k++) {
        int status = ppn_device_begin(s->device, &s->core[k], payload + 12, n - 12, limit);
        if (status < 0) return status;
    }
    s->seed = word(payload);
    s->step = word(payload + 4);
    s->begun = ADDING;
    return 0;
}

/* directions u16, microbatches u16, number of the first u32, packed points, packed cotangents */
static int32_t do_backward(ppn_solver *s, const uint8_t *payload, uint32_t n, uint8_t *out) {
    int32_t count = take_batch(s, payload, n, 1);
    if (count < 0) return count;
    if (s->begun != ADDING) return PPN_EARLY;
    s->deal.number = word(payload + 4);
    if (!find_all(s, (uint32_t)count)) {
        free_spare(s);
        find_all(s, (uint32_t)count);
    }
    return flags_in(out, run(s, BACKWARD, (uint32_t)count));
}

static int32_t do_gradients(ppn_solver *s, uint32_t n) {
    if (n) return PPN_SHORT;
    if (!s->begun) return PPN_EARLY;
    for (uint32_t k = 1; s->begun == ADDING && k < s->cores; k++) ppn_device_merge(s->device, &s->core[0], &s->core[k]);
    s->begun = SUMMED; /* so that sums of other cores are added once */
    begin_stages(s, GRADIENTS);
    need_stage(s, 0, s->device->net.stage_count);
    return 0;
}

/* Have so many bytes of gradients packed. */
static void pack(ppn_solver *s, uint32_t bytes) {
    const ppn_device *d = s->device;
    uint32_t stages = d->net.stage_count;
    share_stages(s, s->next + 2 < stages ? s->next + 2 : stages);
    while (s->ready < stages && d->packed[s->ready].gradients < bytes) {
        need_stage(s, s->ready, stages);
        ppn_device_pack(d, s->tapes, s->ready++);
    }
    if (s->ready != stages || d->packed[stages].gradients >= bytes) return;
    s->flags |= join(s);
    ppn_device_pack_end(d, s->tapes);
    s->ready++; /* once */
}

/* offset u32, length u32 */
static int32_t do_read(ppn_solver *s, const uint8_t *payload, uint32_t n, uint8_t *out, uint32_t room) {
    if (n != 8) return PPN_SHORT;
    uint32_t offset = word(payload), length = word(payload + 4), all = ppn_device_leaving(s->device);
    if (s->passing != GRADIENTS) return PPN_EARLY;
    if (offset > all || length > all - offset) return PPN_REFUSED;
    if (room < 4 || length > room - 4) return PPN_NO_ROOM;
    mark(s, 1);
    pack(s, offset + length);
    mark(s, 0);
    memcpy(out + 4, s->tapes + offset, length);
    flags_in(out, s->flags);
    return (int32_t)(4 + length);
}

static int32_t answer(ppn_solver *s, uint8_t kind, const uint8_t *payload, uint32_t n, uint8_t *out, uint32_t room) {
    switch (kind) {
    case PPN_WRITE:
        return do_write(s, payload, n);
    case PPN_LOAD:
        return do_load(s, n, out);
    case PPN_DIRECTIONS_SET:
        return do_directions(s, payload, n, out);
    case PPN_FORWARD:
        return do_forward(s, payload, n, out, room);
    case PPN_BEGIN:
        return do_begin(s, payload, n);
    case PPN_BACKWARD:
        return do_backward(s, payload, n, out);
    case PPN_GRADIENTS:
        return do_gradients(s, n);
    case PPN_READ:
        return do_read(s, payload, n, out, room);
    default:
        return PPN_REFUSED;
    }
}

int32_t ppn_solver_do(ppn_solver *s, uint8_t kind, const uint8_t *payload, uint32_t n, uint8_t *out, uint32_t room) {
    mark(s, kind != PPN_WRITE && kind != PPN_READ);
    if (kind != PPN_WRITE && kind != PPN_LOAD && kind != PPN_READ) { /* these go on with what others began */
        join(s);
        s->passing = NOTHING;
    }
    int32_t length = answer(s, kind, payload, n, out, room);
    mark(s, 0);
    return length;
}
