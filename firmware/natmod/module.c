/* module.c: session.h and device.h as the MicroPython module |ppn.native|.
 *
 * Every buffer is checked against what the C code will touch; a short one raises ValueError. A |core| is the tuple
 * (gradients, scratch, numbers). Answers below 0 are device.h's.
 */
#include "device.h"
#include "session.h"

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
static mp_obj_t session_bytes(mp_obj_t payload) {
    return mp_obj_new_int_from_uint(ppn_session_bytes(number(payload)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_bytes_obj, session_bytes);

static ppn_session *session_of(mp_obj_t object) { return (ppn_session *)(void *)region(object, sizeof(ppn_session)); }

/* session_open(session, payload): where the payloads of requests and of answers begin. */
static mp_obj_t session_open(mp_obj_t object, mp_obj_t payload) {
    uint32_t most = number(payload);
    uint8_t *memory = region(object, ppn_session_bytes(most));
    ppn_session *s = (ppn_session *)(void *)memory;
    ppn_session_open(s, most);
    mp_obj_t items[] = {mp_obj_new_int(ppn_session_request(s) - memory), mp_obj_new_int(ppn_session_answer(s) - memory)};
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

/* receive(session, reader, writer, most): wait for a request; answers its kind and, times 256, its payload's length,
 * or -1 for a person's Ctrl-C. Reads at most |most| bytes at a time. */
static mp_obj_t receive(size_t n, const mp_obj_t *a) {
    ppn_session *s = session_of(a[0]);
    for (;;) {
        uint32_t used;
        if (!s->arrived) read_ahead(s, a[1], number(a[3]));
        enum ppn_event event = ppn_session_take(s, ppn_session_arrived(s) + s->first, s->arrived, &used);
        s->first += used;
        s->arrived -= used;
        if (event == PPN_EXECUTE) return mp_obj_new_int((mp_int_t)(s->kind | s->length << 8));
        if (event == PPN_LEAVE) return mp_obj_new_int(-1);
        if (event == PPN_SEND) send_out(s, a[2]);
    }
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(receive_obj, 4, 4, receive);

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

/* counted(session): frames, damaged, bytes in, bytes out. */
static mp_obj_t counted(mp_obj_t session) {
    const ppn_session *s = session_of(session);
    mp_obj_t items[] = {mp_obj_new_int_from_uint(s->frames), mp_obj_new_int_from_uint(s->damaged),
                        mp_obj_new_int_from_uint(s->bytes_in), mp_obj_new_int_from_uint(s->bytes_out)};
    return mp_obj_new_tuple(4, items);
}
static MP_DEFINE_CONST_FUN_OBJ_1(counted_obj, counted);

/* ---- the device ------------------------------------------------------------------------------------------------ */

static ppn_device *device_of(mp_obj_t object) { return (ppn_device *)(void *)region(object, sizeof(ppn_device)); }

/* The memory of a core, but for its tapes. */
static ppn_core core_of(const ppn_device *d, mp_obj_t core) {
    size_t n;
    mp_obj_t *items;
    mp_obj_get_array(core, &n, &items);
    if (n != 3) mp_raise_ValueError("a core is three buffers");
    ppn_core out = {region(items[0], d->sizes.gradients), region(items[1], d->sizes.scratch), region(items[2], 0), NULL,
                    0};
    return out;
}

/* Have a core use the tape in |slot|, or |spread| over those from there on. */
static void use_tapes(const ppn_device *d, ppn_core *core, mp_obj_t tapes, uint32_t slot, uint32_t count, int spread) {
    uint32_t size = d->sizes.tape;
    core->tape = region(tapes, (slot + (spread ? count : 1)) * size) + slot * size;
    core->tape_step = spread ? size : 0;
}

/* device_bytes(program): bytes of its device, or below 0. */
static mp_obj_t device_bytes(mp_obj_t program) {
    uint32_t n = size_of(program);
    return mp_obj_new_int(ppn_device_bytes(memory(program, n, MP_BUFFER_READ), n));
}
static MP_DEFINE_CONST_FUN_OBJ_1(device_bytes_obj, device_bytes);

/* open(device, program): a ppn_status that is not PPN_OK, or the bytes of (device, weights, rows, parameters,
 * gradients, tape, scratch, numbers). */
static mp_obj_t open(mp_obj_t device, mp_obj_t program) {
    uint32_t n = size_of(program);
    const uint8_t *bytes = memory(program, n, MP_BUFFER_READ);
    int32_t needed = ppn_device_bytes(bytes, n);
    if (needed < 0) return mp_obj_new_int(needed);
    ppn_device_sizes s;
    int status = ppn_device_open((ppn_device *)(void *)region(device, (size_t)needed), bytes, n, &s);
    if (status) return mp_obj_new_int(status);
    uint32_t sizes[] = {s.device, s.weights, s.rows, s.parameters, s.gradients, s.tape, s.scratch, s.numbers};
    mp_obj_t items[8];
    for (int k = 0; k < 8; k++) items[k] = mp_obj_new_int_from_uint(sizes[k]);
    return mp_obj_new_tuple(8, items);
}
static MP_DEFINE_CONST_FUN_OBJ_2(open_obj, open);

/* places(device): (parameters, gradients, end) as ppn_packed_places. */
static mp_obj_t places(mp_obj_t device) {
    ppn_packed_places p = ppn_device_places(device_of(device));
    mp_obj_t items[] = {mp_obj_new_int_from_uint(p.parameters), mp_obj_new_int_from_uint(p.gradients),
                        mp_obj_new_int_from_uint(p.end)};
    return mp_obj_new_tuple(3, items);
}
static MP_DEFINE_CONST_FUN_OBJ_1(places_obj, places);

/* microbatch(device, directions): its packed (points, cotangents, outputs) in bytes. */
static mp_obj_t microbatch(mp_obj_t device, mp_obj_t directions) {
    const ppn_device *d = device_of(device);
    uint32_t k = number(directions);
    mp_obj_t items[] = {mp_obj_new_int_from_uint(ppn_packed_points(d, k)),
                        mp_obj_new_int_from_uint(ppn_packed_cotangents(d, k)),
                        mp_obj_new_int_from_uint(ppn_packed_outputs(d, k))};
    return mp_obj_new_tuple(3, items);
}
static MP_DEFINE_CONST_FUN_OBJ_2(microbatch_obj, microbatch);

/* accumulators(device): how many exponents begin() takes and peaks gradients() gives. */
static mp_obj_t accumulators(mp_obj_t device) { return mp_obj_new_int(device_of(device)->sizes.accumulators); }
static MP_DEFINE_CONST_FUN_OBJ_1(accumulators_obj, accumulators);

/* terms(device, directions): the most that one microbatch adds to any gradient. */
static mp_obj_t terms(mp_obj_t device, mp_obj_t directions) {
    return mp_obj_new_int_from_uint(ppn_device_terms(device_of(device), number(directions)));
}
static MP_DEFINE_CONST_FUN_OBJ_2(terms_obj, terms);

/* load(device, core, weights, parameters): flags. */
static mp_obj_t load(size_t n, const mp_obj_t *a) {
    const ppn_device *d = device_of(a[0]);
    ppn_core core = core_of(d, a[1]);
    return mp_obj_new_int(ppn_device_load(d, &core, region(a[2], d->sizes.weights),
                                          region(a[3], d->sizes.parameter_blocks * 33)));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(load_obj, 4, 4, load);

/* directions(device, rows, first, packed): flags, or below 0. */
static mp_obj_t directions(size_t n, const mp_obj_t *a) {
    uint32_t bytes = size_of(a[3]);
    return mp_obj_new_int(ppn_device_directions(device_of(a[0]), region(a[1], 0), number(a[2]),
                                                memory(a[3], bytes, MP_BUFFER_READ), bytes));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(directions_obj, 4, 4, directions);

static ppn_packed packed_at(const ppn_device *d, mp_obj_t points, uint32_t k, uint32_t start, uint32_t count) {
    if (k > d->directions) mp_raise_ValueError("too many directions");
    uint32_t bytes = ppn_packed_points(d, k);
    ppn_packed batch = {memory(points, (start + count) * bytes, MP_BUFFER_READ) + start * bytes, NULL, count, 0,
                        (uint16_t)k};
    return batch;
}

/* forward(device, core, weights, rows, tapes, slot, spread, directions, points, start, count, out): flags.
 * Microbatches |start| to |start| + |count| of a batch, into their places in |out|; their tapes into slots from |slot|
 * on (|spread|), or all into that one. */
static mp_obj_t forward(size_t n, const mp_obj_t *a) {
    const ppn_device *d = device_of(a[0]);
    ppn_core core = core_of(d, a[1]);
    uint32_t k = number(a[7]), start = number(a[9]), count = number(a[10]), bytes = ppn_packed_outputs(d, k);
    use_tapes(d, &core, a[4], number(a[5]), count, mp_obj_is_true(a[6]));
    ppn_packed batch = packed_at(d, a[8], k, start, count);
    uint8_t *out = region(a[11], (start + count) * bytes) + start * bytes;
    return mp_obj_new_int(
        ppn_device_forward(d, &core, region(a[2], d->sizes.weights), region(a[3], 0), &batch, out));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(forward_obj, 12, 12, forward);

/* begin(device, core, exponents, limit): 0, or below. */
static mp_obj_t begin(size_t n, const mp_obj_t *a) {
    const ppn_device *d = device_of(a[0]);
    ppn_core core = core_of(d, a[1]);
    uint32_t bytes = size_of(a[2]);
    return mp_obj_new_int(
        ppn_device_begin(d, &core, memory(a[2], bytes, MP_BUFFER_READ), bytes, (uint8_t)number(a[3])));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(begin_obj, 4, 4, begin);

/* backward(device, core, weights, rows, tapes, slot, kept, directions, points, cotangents, start, count, first, seed,
 * step): flags. |kept|: the slots from |slot| on hold the tapes of these microbatches; else that one is used. */
static mp_obj_t backward(size_t n, const mp_obj_t *a) {
    const ppn_device *d = device_of(a[0]);
    ppn_core core = core_of(d, a[1]);
    uint32_t k = number(a[7]), start = number(a[10]), count = number(a[11]), bytes = ppn_packed_cotangents(d, k);
    int kept = mp_obj_is_true(a[6]);
    use_tapes(d, &core, a[4], number(a[5]), count, kept);
    ppn_packed batch = packed_at(d, a[8], k, start, count);
    batch.cotangents = memory(a[9], (start + count) * bytes, MP_BUFFER_READ) + start * bytes;
    batch.first = number(a[12]) + start;
    return mp_obj_new_int(ppn_device_backward(d, &core, region(a[2], d->sizes.weights), region(a[3], 0), &batch,
                                              number(a[13]), number(a[14]), kept));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(backward_obj, 15, 15, backward);

/* merge(device, core, other): add the sums of |other|. */
static mp_obj_t merge(mp_obj_t device, mp_obj_t core, mp_obj_t other) {
    const ppn_device *d = device_of(device);
    ppn_core to = core_of(d, core), from = core_of(d, other);
    ppn_device_merge(d, &to, &from);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_3(merge_obj, merge);

/* gradients(device, core, weights, parameters, peaks): flags. */
static mp_obj_t gradients(size_t n, const mp_obj_t *a) {
    const ppn_device *d = device_of(a[0]);
    ppn_core core = core_of(d, a[1]);
    uint32_t bytes = (d->sizes.parameter_blocks * 33 + 3) / 4 * 4 + d->sizes.accumulators * 4u;
    return mp_obj_new_int(ppn_device_gradients(d, &core, region(a[2], d->sizes.weights), region(a[3], bytes),
                                               region(a[4], d->sizes.accumulators * 4u)));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(gradients_obj, 5, 5, gradients);

mp_obj_t mpy_init(mp_obj_fun_bc_t *self, size_t n_args, size_t n_kw, mp_obj_t *args) {
    MP_DYNRUNTIME_INIT_ENTRY
    mp_store_global(MP_QSTR_VERSION, mp_obj_new_int(PPN_VERSION));
    mp_store_global(MP_QSTR_WIRE, mp_obj_new_int(PPN_WIRE));
    mp_store_global(MP_QSTR_WINDOW, mp_obj_new_int(PPN_WINDOW));
    mp_store_global(MP_QSTR_READ, mp_obj_new_int(PPN_ARRIVED));
    mp_store_global(MP_QSTR_receive, MP_OBJ_FROM_PTR(&receive_obj));
    mp_store_global(MP_QSTR_reply, MP_OBJ_FROM_PTR(&reply_obj));
    mp_store_global(MP_QSTR_counted, MP_OBJ_FROM_PTR(&counted_obj));
    mp_store_global(MP_QSTR_session_bytes, MP_OBJ_FROM_PTR(&session_bytes_obj));
    mp_store_global(MP_QSTR_session_open, MP_OBJ_FROM_PTR(&session_open_obj));
    mp_store_global(MP_QSTR_device_bytes, MP_OBJ_FROM_PTR(&device_bytes_obj));
    mp_store_global(MP_QSTR_open, MP_OBJ_FROM_PTR(&open_obj));
    mp_store_global(MP_QSTR_places, MP_OBJ_FROM_PTR(&places_obj));
    mp_store_global(MP_QSTR_microbatch, MP_OBJ_FROM_PTR(&microbatch_obj));
    mp_store_global(MP_QSTR_accumulators, MP_OBJ_FROM_PTR(&accumulators_obj));
    mp_store_global(MP_QSTR_terms, MP_OBJ_FROM_PTR(&terms_obj));
    mp_store_global(MP_QSTR_load, MP_OBJ_FROM_PTR(&load_obj));
    mp_store_global(MP_QSTR_directions, MP_OBJ_FROM_PTR(&directions_obj));
    mp_store_global(MP_QSTR_forward, MP_OBJ_FROM_PTR(&forward_obj));
    mp_store_global(MP_QSTR_begin, MP_OBJ_FROM_PTR(&begin_obj));
    mp_store_global(MP_QSTR_backward, MP_OBJ_FROM_PTR(&backward_obj));
    mp_store_global(MP_QSTR_merge, MP_OBJ_FROM_PTR(&merge_obj));
    mp_store_global(MP_QSTR_gradients, MP_OBJ_FROM_PTR(&gradients_obj));
    MP_DYNRUNTIME_INIT_EXIT
}
