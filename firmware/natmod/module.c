/* module.c: session.h and solver.h as the MicroPython module |ppn.native|. Its caller is firmware/ppn/service.py. */
#include "session.h"
#include "solver.h"

#include "py/dynruntime.h"
#include "py/stream.h"

static uint8_t *memory(mp_obj_t object, size_t bytes, mp_uint_t access) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(object, &info, access);
    if (info.len < bytes) mp_raise_ValueError("buffer too short");
    return info.buf;
}

static uint8_t *region(mp_obj_t object, size_t bytes) { return memory(object, bytes, MP_BUFFER_RW); }

static uint32_t size_of(mp_obj_t object) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(object, &info, MP_BUFFER_READ);
    return (uint32_t)info.len;
}

static uint32_t number(mp_obj_t object) { return (uint32_t)mp_obj_get_int_truncated(object); }

/* ---- the session ----------------------------------------------------------------------------------------------- */

/* session_bytes(payload): bytes of a session. */
static mp_obj_t session_bytes(mp_obj_t payload) { return mp_obj_new_int_from_uint(ppn_session_bytes(number(payload))); }
static MP_DEFINE_CONST_FUN_OBJ_1(session_bytes_obj, session_bytes);

static ppn_solver *solver_of(mp_obj_t object) { return (ppn_solver *)(void *)region(object, sizeof(ppn_solver)); }

static ppn_session *session_of(mp_obj_t object) { return (ppn_session *)(void *)region(object, sizeof(ppn_session)); }

/* session_open(session, payload): where the payloads of requests and of answers begin. */
static mp_obj_t session_open(mp_obj_t object, mp_obj_t payload) {
    uint32_t most = number(payload);
    uint8_t *memory = region(object, ppn_session_bytes(most));
    ppn_session *s = (ppn_session *)(void *)memory;
    ppn_session_open(s, most);
    mp_obj_t items[] = {mp_obj_new_int(ppn_session_request(s) - memory),
                        mp_obj_new_int(ppn_session_answer(s) - memory)};
    return mp_obj_new_tuple(2, items);
}
static MP_DEFINE_CONST_FUN_OBJ_2(session_open_obj, session_open);

static void send_out(ppn_session *s, mp_obj_t writer) {
    const mp_stream_p_t *protocol = mp_get_stream_raise(writer, MP_STREAM_OP_WRITE);
    const uint8_t *from = ppn_session_out(s), *end = from + s->out_length;
    while (from < end) {
        int error;
        mp_uint_t sent = protocol->write(writer, from, (mp_uint_t)(end - from), &error);
        if (sent == MP_STREAM_ERROR) mp_raise_OSError(error);
        from += sent;
    }
}

/* Wait for bytes, at most |most| at a time: a stream that blocks until it has as many as it was asked for takes 1. */
static void read_ahead(ppn_session *s, mp_obj_t reader, mp_uint_t most) {
    const mp_stream_p_t *protocol = mp_get_stream_raise(reader, MP_STREAM_OP_READ);
    int error;
    mp_uint_t got = protocol->read(reader, ppn_session_arrived(s), most < PPN_ARRIVED ? most : PPN_ARRIVED, &error);
    if (got == MP_STREAM_ERROR) mp_raise_OSError(error);
    if (got == 0) mp_raise_type_arg(&mp_type_EOFError, mp_const_none);
    s->first = 0;
    s->arrived = got;
}

/* Microseconds, as MicroPython's time.ticks_us() counts them. */
static uint32_t now(mp_obj_t ticks) { return number(mp_call_function_n_kw(ticks, 0, 0, NULL)); }
static uint32_t since(mp_obj_t ticks, uint32_t before) { return (now(ticks) - before) & 0x3FFFFFFF; }

static uint32_t solver_now(void *ticks) { return now((mp_obj_t)ticks); }

/* Have the solver answer the request, and send that; answers below 0 why it cannot. */
static int32_t execute(ppn_session *s, ppn_solver *solver, mp_obj_t writer, mp_obj_t ticks) {
    uint32_t started = now(ticks);
    int32_t length =
        ppn_solver_do(solver, s->kind, ppn_session_request(s), s->length, ppn_session_answer(s), s->payload);
    if (length < 0) return length;
    ppn_session_reply(s, s->kind | PPN_REPLY, (uint32_t)length);
    send_out(s, writer);
    s->busy += since(ticks, started);
    return 0;
}

/* Nobody computes any more, and what was computed is counted. */
static void count_kernels(ppn_session *s, ppn_solver *solver) {
    if (!solver) return;
    ppn_solver_rest(solver);
    s->kernel += solver->computed;
    solver->computed = 0;
}

/* serve(session, solver, reader, writer, most, ticks): answer requests until one comes that is not the solver's (or
 * there is none: None), and answer its kind and, times 256, its payload's length; or -1 for a person's Ctrl-C; or,
 * below that, 1 less than what ppn_solver_do() says to a request that cannot be met. Reads at most |most| bytes at a
 * time; |ticks| tells microseconds. */
static mp_obj_t serve(size_t n, const mp_obj_t *a) {
    ppn_session *s = session_of(a[0]);
    ppn_solver *solver = a[1] == mp_const_none ? NULL : solver_of(a[1]);
    if (solver) {
        solver->now = solver_now;
        solver->clock = a[5];
    }
    for (;;) {
        uint32_t used;
        if (!s->arrived) read_ahead(s, a[2], number(a[4]));
        enum ppn_event event = ppn_session_take(s, ppn_session_arrived(s) + s->first, s->arrived, &used);
        s->first += used;
        s->arrived -= used;
        if (event == PPN_LEAVE) return mp_obj_new_int(-1);
        if (event == PPN_SEND) send_out(s, a[3]);
        if (event != PPN_EXECUTE) continue;
        if (!solver || s->kind < PPN_WRITE || s->kind > PPN_READ) {
            count_kernels(s, solver);
            return mp_obj_new_int((mp_int_t)(s->kind | s->length << 8));
        }
        int32_t failed = execute(s, solver, a[3], a[5]);
        if (failed) return mp_obj_new_int(failed - 1);
    }
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(serve_obj, 6, 6, serve);

/* reply(session, writer, kind, length): send the answer. */
static mp_obj_t reply(size_t n, const mp_obj_t *a) {
    ppn_session *s = session_of(a[0]);
    uint32_t length = number(a[3]);
    if (length > s->payload) mp_raise_ValueError("answer too long");
    ppn_session_reply(s, (uint8_t)number(a[2]), length);
    send_out(s, a[1]);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(reply_obj, 4, 4, reply);

/* counted(session): microseconds in kernels and busy in all, frames, damaged frames, bytes in and out. */
static mp_obj_t counted(mp_obj_t session) {
    const ppn_session *s = session_of(session);
    uint32_t counts[] = {s->kernel, s->busy, s->frames, s->damaged, s->bytes_in, s->bytes_out};
    mp_obj_t items[6];
    for (int k = 0; k < 6; k++) items[k] = mp_obj_new_int_from_uint(counts[k]);
    return mp_obj_new_tuple(6, items);
}
static MP_DEFINE_CONST_FUN_OBJ_1(counted_obj, counted);

/* ---- the solver ------------------------------------------------------------------------------------------------ */

/* device_bytes(program): bytes of its device, or below 0. */
static mp_obj_t device_bytes(mp_obj_t program) {
    uint32_t n = size_of(program);
    return mp_obj_new_int(ppn_device_bytes(memory(program, n, MP_BUFFER_READ), n));
}
static MP_DEFINE_CONST_FUN_OBJ_1(device_bytes_obj, device_bytes);

/* device_open(device, program): a ppn_status that is not PPN_OK, or the bytes of (device, weights, rows, parameters,
 * gradients, scratch, numbers, tape). */
static mp_obj_t device_open(mp_obj_t device, mp_obj_t program) {
    uint32_t n = size_of(program);
    const uint8_t *bytes = memory(program, n, MP_BUFFER_READ);
    int32_t needed = ppn_device_bytes(bytes, n);
    if (needed < 0) return mp_obj_new_int(needed);
    ppn_device_sizes s;
    int status = ppn_device_open((ppn_device *)(void *)region(device, (size_t)needed), bytes, n, &s);
    if (status) return mp_obj_new_int(status);
    uint32_t sizes[] = {s.device, s.weights, s.rows, s.parameters, s.gradients, s.scratch, s.numbers, s.tape};
    mp_obj_t items[8];
    for (int k = 0; k < 8; k++) items[k] = mp_obj_new_int_from_uint(sizes[k]);
    return mp_obj_new_tuple(8, items);
}
static MP_DEFINE_CONST_FUN_OBJ_2(device_open_obj, device_open);

/* solver_open(solver, device, weights, rows, tapes, slots, cores): |cores| is a list of (gradients, scratch,
 * numbers). All are of the sizes that device_open() said, and stay alive as long as the solver. */
static mp_obj_t solver_open(size_t n, const mp_obj_t *a) {
    ppn_solver *s = solver_of(a[0]);
    size_t cores, three;
    mp_obj_t *core, *items;
    s->device = (const ppn_device *)(const void *)region(a[1], sizeof(ppn_device));
    s->weights = region(a[2], 0);
    s->rows = region(a[3], 0);
    s->tapes = region(a[4], 0);
    s->slots = number(a[5]);
    mp_obj_get_array(a[6], &cores, &core);
    s->cores = (uint32_t)cores;
    for (size_t k = 0; k < cores && k < PPN_CORES; k++) {
        mp_obj_get_array(core[k], &three, &items);
        s->core[k].gradients = region(items[0], 0);
        s->core[k].scratch = region(items[1], 0);
        s->core[k].numbers = region(items[2], 0);
    }
    ppn_solver_open(s);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(solver_open_obj, 7, 7, solver_open);

/* help(solver): compute along, on another core, until dismiss(solver). */
static mp_obj_t help(mp_obj_t solver) {
    ppn_solver_help(solver_of(solver));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(help_obj, help);

static mp_obj_t dismiss(mp_obj_t solver) {
    ppn_solver_dismiss(solver_of(solver));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(dismiss_obj, dismiss);

mp_obj_t mpy_init(mp_obj_fun_bc_t *self, size_t n_args, size_t n_kw, mp_obj_t *args) {
    MP_DYNRUNTIME_INIT_ENTRY
    mp_store_global(MP_QSTR_VERSION, mp_obj_new_int(PPN_VERSION));
    mp_store_global(MP_QSTR_WIRE, mp_obj_new_int(PPN_WIRE));
    mp_store_global(MP_QSTR_WINDOW, mp_obj_new_int(PPN_WINDOW));
    mp_store_global(MP_QSTR_AT_ONCE, mp_obj_new_int(PPN_ARRIVED));
    mp_store_global(MP_QSTR_CORES, mp_obj_new_int(PPN_CORES));
    mp_store_global(MP_QSTR_SOLVER, mp_obj_new_int(sizeof(ppn_solver)));
    mp_store_global(MP_QSTR_session_bytes, MP_OBJ_FROM_PTR(&session_bytes_obj));
    mp_store_global(MP_QSTR_session_open, MP_OBJ_FROM_PTR(&session_open_obj));
    mp_store_global(MP_QSTR_serve, MP_OBJ_FROM_PTR(&serve_obj));
    mp_store_global(MP_QSTR_reply, MP_OBJ_FROM_PTR(&reply_obj));
    mp_store_global(MP_QSTR_counted, MP_OBJ_FROM_PTR(&counted_obj));
    mp_store_global(MP_QSTR_device_bytes, MP_OBJ_FROM_PTR(&device_bytes_obj));
    mp_store_global(MP_QSTR_device_open, MP_OBJ_FROM_PTR(&device_open_obj));
    mp_store_global(MP_QSTR_solver_open, MP_OBJ_FROM_PTR(&solver_open_obj));
    mp_store_global(MP_QSTR_help, MP_OBJ_FROM_PTR(&help_obj));
    mp_store_global(MP_QSTR_dismiss, MP_OBJ_FROM_PTR(&dismiss_obj));
    MP_DYNRUNTIME_INIT_EXIT
}
