/* fuzz_device.c: the device's side of the link (firmware/natmod, kernels_c) against a host that sends anything.
 *
 * fuzz_device PROGRAMS FRAMES SEED CORES
 *
 * PROGRAMS holds what CONFIGURE takes, each a 32-bit length and its bytes. FRAMES frames follow each other: noise,
 * well-formed requests with made-up numbers, the same bent in a byte or a length, sequence numbers of all kinds. Every
 * piece of memory is exactly as long as the device asked for, so that sanitizers see each access beyond. Whatever it
 * was told, the device answers whole frames, and INFO whenever it is asked. Prints what occurred.
 *
 * Requests are dealt out as module.c and firmware/ppn/network.py do it.
 */
#include "session.h"
#include "solver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD 1024
#define MEMORY (200u << 10) /* of a board */
#define LONGEST 16384       /* of what the host sends without a 0: more than a whole session takes */

enum { CONFIGURE = 2, COUNTERS = 11, LEAVE = 13, KINDS, FAILED = 0xFF };

static void *must(void *p) {
    if (!p) abort();
    return p;
}

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz_device: %s\n", what);
    abort();
}

/* ---- random numbers ------------------------------------------------------------------------------------------- */

static uint64_t state;

static uint32_t any(void) { /* splitmix64 */
    uint64_t z = (state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static uint32_t below(uint32_t n) { return (uint32_t)(((uint64_t)any() * n) >> 32); }
static int one_in(uint32_t n) { return below(n) == 0; }

static void fill(uint8_t *at, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) at[k] = (uint8_t)any();
}

/* ---- the device ----------------------------------------------------------------------------------------------- */

static ppn_session *session;
static ppn_solver *solver;
static ppn_device *device;
static uint32_t cores;
static pthread_t helper;
static void *taken[16];
static uint32_t takes;
static uint64_t executed[KINDS + 1], answered[KINDS + 1], sent, damaged, configured;

static void *take(uint32_t bytes) { return taken[takes++] = must(malloc(bytes ? bytes : 1)); }

static void *help(void *s) {
    ppn_solver_help(s);
    return NULL;
}

static void forget(void) {
    if (solver && cores > 1) {
        ppn_solver_dismiss(solver);
        pthread_join(helper, NULL);
    }
    while (takes) free(taken[--takes]);
    solver = NULL;
}

/* Answers whether the program was taken. */
static int configure(const uint8_t *payload, uint32_t n) {
    forget();
    if (n < 4) return 0;
    uint8_t *program = must(malloc(n - 4 ? n - 4 : 1)); /* of its own, so that reading beyond shows */
    memcpy(program, payload + 4, n - 4);
    int32_t bytes = ppn_device_bytes(program, n - 4);
    ppn_device_sizes s;
    int status = PPN_SHORT;
    if (bytes >= 0) {
        device = take((uint32_t)bytes);
        status = ppn_device_open(device, program, n - 4, &s);
    }
    free(program);
    if (status) {
        forget();
        return 0;
    }
    check(s.device == (uint32_t)bytes, "two sizes of one device");
    uint64_t shared = (uint64_t)s.device + s.weights + s.rows;
    uint64_t own = cores * ((uint64_t)s.gradients + s.scratch + s.numbers);
    uint32_t slots = cores + below(8);
    uint64_t room = (uint64_t)slots * s.tape;
    if (room < s.parameters) room = s.parameters;
    if (shared + own + room > MEMORY) {
        forget();
        return 0;
    }
    uint32_t tapes = (uint32_t)room;
    ppn_solver *made = take(sizeof *made);
    memset(made, 0, sizeof *made);
    made->device = device;
    made->weights = memset(take(s.weights), 0, s.weights); /* MicroPython's are zero, too */
    made->rows = memset(take(s.rows), 0, s.rows);
    made->tapes = memset(take(tapes), 0, tapes);
    made->cores = cores;
    made->slots = slots;
    for (uint32_t k = 0; k < cores; k++) {
        made->core[k].gradients = memset(take(s.gradients), 0, s.gradients);
        made->core[k].scratch = memset(take(s.scratch), 0, s.scratch);
        made->core[k].numbers = memset(take(s.numbers), 0, s.numbers);
    }
    ppn_solver_open(made);
    solver = made;
    if (cores > 1) check(pthread_create(&helper, NULL, help, solver) == 0, "no thread");
    configured++;
    return 1;
}

static void reply(int32_t length) {
    int failed = length < 0;
    check(length <= PAYLOAD, "an answer that is too long");
    if (!failed && session->kind < KINDS) answered[session->kind]++;
    ppn_session_reply(session, failed ? FAILED : session->kind | 0x80, failed ? 0 : (uint32_t)length);
}

/* The solver reads a request, and writes an answer, in memory of their own: what lies behind them shows. */
static int32_t solve(uint32_t kind, uint32_t n) {
    uint8_t *request = must(malloc(n ? n : 1)), *answer = must(malloc(PAYLOAD));
    memcpy(request, ppn_session_request(session), n);
    int32_t length = ppn_solver_do(solver, (uint8_t)kind, request, n, answer, PAYLOAD);
    if (length > 0 && length <= PAYLOAD) memcpy(ppn_session_answer(session), answer, (uint32_t)length);
    free(request);
    free(answer);
    return length;
}

static void execute(void) {
    uint32_t n = session->length, kind = session->kind;
    executed[kind < KINDS ? kind : KINDS]++;
    check(n <= PAYLOAD, "a request that is too long");
    if (kind == CONFIGURE)
        reply(configure(ppn_session_request(session), n) ? 44 : -1);
    else if (solver && kind >= PPN_WRITE && kind <= PPN_READ)
        reply(solve(kind, n));
    else
        reply(kind == PPN_INFO || (kind >= COUNTERS && kind <= LEAVE) ? 0 : -1);
}

/* What the device sent last, opened; a frame that is not whole is its fault. */
static uint8_t said[PPN_HEAD + PAYLOAD + 64];
static int32_t said_bytes;

static void look(void) {
    const uint8_t *frame = ppn_session_out(session);
    uint32_t n = session->out_length;
    check(n > PPN_HEAD + 4 && n <= PPN_SEALED(PPN_HEAD + PAYLOAD), "a frame of a wrong length");
    check(memchr(frame, 0, n) == frame + n - 1, "a frame with a 0 inside");
    memcpy(said, frame, n - 1);
    said_bytes = ppn_unseal(said, n - 1);
    check(said_bytes >= PPN_HEAD, "a damaged frame");
    sent++;
}

/* Bytes as they come over a stream, in pieces. */
static void feed(const uint8_t *bytes, uint32_t n) {
    while (n) {
        uint32_t piece = one_in(4) ? 1 + below(PPN_ARRIVED) : PPN_ARRIVED;
        if (piece > n) piece = n;
        uint8_t *arrived = must(malloc(piece));
        memcpy(arrived, bytes, piece);
        for (uint32_t at = 0; at < piece;) {
            uint32_t used = 0;
            enum ppn_event event = ppn_session_take(session, arrived + at, piece - at, &used);
            check(used > 0 && used <= piece - at, "bytes that were not there");
            check(event != PPN_NOTHING || used == piece - at, "bytes that were not used");
            at += used;
            if (event == PPN_EXECUTE) execute();
            if (event == PPN_EXECUTE || event == PPN_SEND) look();
        }
        free(arrived);
        bytes += piece;
        n -= piece;
    }
}

/* ---- the host ------------------------------------------------------------------------------------------------- */

static const uint8_t **programs;
static uint32_t *program_bytes, program_count;

static uint32_t put32(uint8_t *to, uint32_t x) {
    for (int k = 0; k < 4; k++) to[k] = (uint8_t)(x >> 8 * k);
    return 4;
}

static uint32_t put_batch(uint8_t *to, uint32_t points_and_more) {
    uint32_t directions = device->directions && one_in(4) ? below(device->directions + 1) : device->directions;
    uint32_t each = ppn_packed_points(device, directions);
    if (points_and_more) each += ppn_packed_cotangents(device, directions);
    uint32_t room = (PAYLOAD - 8) / each, count = room ? 1 + below(room < 4 ? room : 4) : 0;
    put32(to, directions | count << 16);
    put32(to + 4, any() & 3); /* whether to keep; the number of the first */
    fill(to + 8, count * each);
    if (one_in(2)) /* a batch that comes again: it may have its tapes */
        memset(to + 8, 1, count * each);
    return 8 + count * each;
}

static uint32_t put_write(uint8_t *to) {
    uint32_t all = ppn_device_arriving(device), offset = below(all + 1), n = below(all - offset + 1);
    if (!one_in(8)) { /* the next piece */
        offset = solver->arrived < all && !one_in(4) ? solver->arrived : 0;
        n = all - offset;
    }
    if (n > PAYLOAD - 4) n = PAYLOAD - 4;
    put32(to, offset);
    fill(to + 4, n);
    return 4 + n;
}

static uint32_t put_begin(uint8_t *to) {
    uint32_t n = device->sizes.accumulators * 2u;
    if (n > PAYLOAD - 12) n = PAYLOAD - 12;
    fill(to, 12 + n);
    put32(to + 8, one_in(8) ? any() : 8 + below(23));
    for (uint32_t k = 0; k < n; k += 2)
        if (!one_in(8)) to[12 + k] = (uint8_t)(0 - below(40)), to[13 + k] = 0xFF; /* an exponent of usual size */
    return 12 + n;
}

static uint32_t put_read(uint8_t *to) {
    uint32_t all = ppn_device_leaving(device), offset = one_in(2) ? below(all + 1) : 0;
    put32(to, offset);
    put32(to + 4, below((all - offset < PAYLOAD ? all - offset : PAYLOAD) + 1));
    return 8;
}

static uint32_t put_directions(uint8_t *to) {
    uint32_t bytes = device->inputs * 2u + (device->inputs + 3u) / 4, most = (PAYLOAD - 4) / bytes;
    uint32_t first = one_in(2) ? 0 : below(2u * device->directions + 2), count = below(2u * device->directions + 2);
    uint32_t n = (count < most ? count : most) * bytes;
    put32(to, first);
    fill(to + 4, n);
    return 4 + n;
}

static uint32_t put_configure(uint8_t *to) {
    uint32_t k = below(program_count), n = program_bytes[k];
    if (n > PAYLOAD - 4) return 4;
    fill(to, 4);
    memcpy(to + 4, programs[k], n);
    for (uint32_t bent = one_in(2) ? 0 : 1 + below(3); bent; bent--)
        to[4 + below(n)] = (uint8_t)(one_in(2) ? any() : below(20));
    return 4 + n;
}

/* A payload of the length that |kind| asks for, where there is one. */
static uint32_t put_payload(uint8_t *to, uint32_t kind) {
    if (kind == CONFIGURE) return put_configure(to);
    if (!solver) return below(32);
    switch (kind) {
    case PPN_WRITE:
        return put_write(to);
    case PPN_DIRECTIONS_SET:
        return put_directions(to);
    case PPN_FORWARD:
        return put_batch(to, 0);
    case PPN_BEGIN:
        return put_begin(to);
    case PPN_BACKWARD:
        return put_batch(to, 1);
    case PPN_READ:
        return put_read(to);
    default:
        return 0;
    }
}

static uint32_t any_kind(void) {
    static const uint8_t often[] = {CONFIGURE,   PPN_WRITE,    PPN_WRITE,     PPN_LOAD,     PPN_DIRECTIONS_SET,
                                    PPN_FORWARD, PPN_FORWARD,  PPN_BEGIN,     PPN_BACKWARD, PPN_BACKWARD,
                                    PPN_READ,    PPN_BACKWARD, PPN_GRADIENTS, COUNTERS,     LEAVE};
    if (one_in(16)) return one_in(2) ? PPN_INFO : any() & 0xFF;
    if (!solver && one_in(2)) return CONFIGURE;
    if (session->kind == PPN_GRADIENTS && one_in(2)) return PPN_READ;
    uint32_t kind = often[below(sizeof often)];
    return kind == CONFIGURE && !one_in(4) ? PPN_READ : kind;
}

/* A sealed request; its number is mostly the one that is due. */
static uint32_t make_frame(uint8_t *frame) {
    static uint8_t content[PPN_HEAD + PAYLOAD + 64];
    uint32_t kind = any_kind(), n = put_payload(content + PPN_HEAD, kind);
    if (one_in(16)) { /* of another length */
        n = one_in(4) ? below(PAYLOAD + 32) : n + below(9);
        if (n > PAYLOAD + 60) n = PAYLOAD + 60;
    }
    uint32_t sequence = one_in(16) ? session->due - 3 + below(6) : one_in(64) ? any() : session->due;
    content[0] = one_in(256) ? (uint8_t)any() : PPN_WIRE;
    content[1] = (uint8_t)kind;
    content[2] = (uint8_t)sequence;
    content[3] = (uint8_t)(sequence >> 8);
    return ppn_seal(content, PPN_HEAD + n, frame);
}

/* Anything that a stream may do to a frame. */
static uint32_t bend(uint8_t *frame, uint32_t n) {
    uint32_t at = below(n);
    switch (below(5)) {
    case 0:
        frame[at] = (uint8_t)any();
        return n;
    case 1:
        return at;
    case 2:
        memmove(frame + at, frame + at + 1, n - at - 1);
        return n - 1;
    case 3:
        memmove(frame + at + 1, frame + at, n - at);
        return n + 1;
    default:
        fill(frame + at, n - at < 16 ? n - at : 16);
        return n;
    }
}

/* A frame of its own memory, so that reading or writing beyond it shows. */
static void unseal_alone(const uint8_t *frame, uint32_t n) {
    uint8_t *copy = must(malloc(n ? n : 1));
    memcpy(copy, frame, n);
    check(ppn_unseal(copy, n) < (int32_t)n, "more than a frame held");
    free(copy);
}

/* After whatever came, a request to begin is answered. */
static void assert_in_step(void) {
    uint8_t frame[32], content[PPN_HEAD] = {PPN_WIRE, PPN_INFO, (uint8_t)any(), (uint8_t)any()};
    feed((const uint8_t *)"", 1);
    feed(frame, ppn_seal(content, sizeof content, frame));
    check(said_bytes == PPN_HEAD && said[1] == (PPN_INFO | 0x80), "INFO was not answered");
    check(said[2] == content[2] && said[3] == content[3], "INFO was answered by another number");
}

static uint8_t *read_programs(const char *name) {
    FILE *file = must(fopen(name, "rb"));
    size_t room = 1 << 20;
    uint8_t *text = must(malloc(room));
    size_t bytes = fread(text, 1, room, file);
    fclose(file);
    check(bytes < room, "too many programs");
    for (size_t at = 0; at < bytes; program_count++) {
        programs = must(realloc(programs, (program_count + 1) * sizeof *programs));
        program_bytes = must(realloc(program_bytes, (program_count + 1) * sizeof *program_bytes));
        memcpy(&program_bytes[program_count], text + at, 4);
        programs[program_count] = text + at + 4;
        at += 4 + program_bytes[program_count];
    }
    check(program_count > 0, "no programs");
    return text;
}

int main(int count, char **words) {
    if (count != 5) return 2;
    uint8_t *text = read_programs(words[1]), *frame = must(malloc(LONGEST));
    uint64_t frames = strtoull(words[2], NULL, 10);
    state = strtoull(words[3], NULL, 10);
    cores = (uint32_t)strtoul(words[4], NULL, 10);
    session = must(malloc(ppn_session_bytes(PAYLOAD)));
    ppn_session_open(session, PAYLOAD);
    for (uint64_t k = 0; k < frames; k++) {
        uint32_t n;
        if (one_in(8)) {
            fill(frame, n = 1 + below(one_in(64) ? LONGEST : 64));
            if (one_in(2)) frame[n - 1] = 0;
        } else {
            n = make_frame(frame);
            if (one_in(8)) n = bend(frame, n);
            unseal_alone(frame, n ? n - 1 : 0);
        }
        feed(frame, n);
        if (k % 256 == 0) assert_in_step();
    }
    assert_in_step();
    damaged = session->damaged;
    printf("frames %llu sent %llu damaged %llu configured %llu\n", (unsigned long long)frames, (unsigned long long)sent,
           (unsigned long long)damaged, (unsigned long long)configured);
    for (uint32_t k = 1; k <= KINDS; k++)
        printf("%u %llu %llu\n", k, (unsigned long long)executed[k], (unsigned long long)answered[k]);
    forget();
    free(session);
    free(frame);
    free(programs);
    free(program_bytes);
    free(text);
    return 0;
}
