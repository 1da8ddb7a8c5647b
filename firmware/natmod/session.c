/* session.c: see session.h. */
#include "session.h"

#include <string.h>

/* Behind the structure, each aligned to 4 bytes: the frame that arrives, the content that leaves, kept replies, one
 * notice, and bytes that were read ahead. */
static uint32_t padded(uint32_t bytes) { return (bytes + 3) & ~UINT32_C(3); }
static uint32_t sealed(uint32_t payload) { return padded(PPN_SEALED(PPN_HEAD + payload)); }

static uint32_t request_at(void) { return padded(sizeof(ppn_session)); }
static uint32_t answer_at(const ppn_session *s) { return request_at() + sealed(s->payload); }
static uint32_t kept_at(const ppn_session *s, uint32_t k) {
    return answer_at(s) + padded(PPN_HEAD + s->payload) + k * sealed(s->payload);
}
static uint32_t notice_at(const ppn_session *s) { return kept_at(s, PPN_WINDOW); }
static uint32_t arrived_at(const ppn_session *s) { return notice_at(s) + sealed(2); }

static uint8_t *at(ppn_session *s, uint32_t offset) { return (uint8_t *)s + offset; }

uint8_t *ppn_session_request(ppn_session *s) { return at(s, request_at() + PPN_HEAD); }
uint8_t *ppn_session_answer(ppn_session *s) { return at(s, answer_at(s) + PPN_HEAD); }
uint8_t *ppn_session_out(ppn_session *s) { return at(s, s->out); }
uint8_t *ppn_session_arrived(ppn_session *s) { return at(s, arrived_at(s)); }

uint32_t ppn_session_bytes(uint32_t payload) {
    ppn_session s;
    s.payload = payload;
    return arrived_at(&s) + PPN_ARRIVED;
}

void ppn_session_open(ppn_session *s, uint32_t payload) {
    memset(s, 0, sizeof *s);
    s->payload = payload;
    s->room = sealed(payload);
}

static void put_head(uint8_t *to, uint8_t kind, uint16_t sequence) {
    to[0] = PPN_WIRE;
    to[1] = kind;
    to[2] = (uint8_t)sequence;
    to[3] = (uint8_t)(sequence >> 8);
}

static enum ppn_event send(ppn_session *s, uint32_t out, uint32_t length) {
    s->out = out;
    s->out_length = length;
    s->bytes_out += length;
    return PPN_SEND;
}

/* Tell the host where it stands. */
static enum ppn_event notice(ppn_session *s) {
    uint8_t content[PPN_HEAD + 2];
    put_head(content, s->begun ? PPN_DAMAGED : PPN_UNKNOWN, 0);
    content[PPN_HEAD] = (uint8_t)s->due;
    content[PPN_HEAD + 1] = (uint8_t)(s->due >> 8);
    return send(s, notice_at(s), ppn_seal(content, sizeof content, at(s, notice_at(s))));
}

static void begin(ppn_session *s) {
    s->begun = 1;
    s->due = s->sequence;
    for (uint32_t k = 0; k < PPN_WINDOW; k++) s->kept[k].length = 0;
}

/* A whole frame of |n| bytes lies at request_at(). */
static enum ppn_event take_frame(ppn_session *s, uint32_t n) {
    uint8_t *content = at(s, request_at());
    int32_t bytes = n <= s->room ? ppn_unseal(content, n) : -1;
    if (bytes < PPN_HEAD || (uint32_t)bytes > PPN_HEAD + s->payload || content[0] != PPN_WIRE) {
        s->damaged++;
        return notice(s);
    }
    s->kind = content[1];
    s->sequence = (uint16_t)(content[2] | content[3] << 8);
    s->length = (uint32_t)bytes - PPN_HEAD;
    if (s->kind == PPN_INFO) begin(s);
    for (uint32_t k = 0; s->begun && k < PPN_WINDOW; k++)
        if (s->kept[k].length && s->kept[k].sequence == s->sequence) return send(s, kept_at(s, k), s->kept[k].length);
    if (!s->begun || s->sequence != s->due) return notice(s);
    s->frames++;
    return PPN_EXECUTE;
}

/* Add bytes to a frame of |length| up to its end, a zero, or as far as there is |room|; answers how many. Not inlined,
 * so that the loop has registers of its own. */
static __attribute__((noinline)) uint32_t add(uint8_t *frame, uint32_t length, uint32_t room, const uint8_t *bytes,
                                              uint32_t n) {
    const uint8_t *from = bytes, *end = bytes + (room - length < n ? room - length : n);
    for (frame += length; from < end && *from;) *frame++ = *from++;
    return (uint32_t)(from - bytes);
}

enum ppn_event ppn_session_take(ppn_session *s, const uint8_t *bytes, uint32_t n, uint32_t *used) {
    uint8_t *frame = at(s, request_at()), before = s->before;
    uint32_t room = s->room, length = s->n;
    enum ppn_event event = PPN_NOTHING;
    uint32_t k = 0;
    while (k < n && event == PPN_NOTHING) {
        if (length > 1 && length < room && frame[1] == PPN_WIRE) { /* a host's, in which no person is looked for */
            uint32_t more = add(frame, length, room, bytes + k, n - k);
            length += more;
            k += more;
            if (k == n) break;
        }
        uint8_t byte = bytes[k++];
        if (!byte) {
            if (length) event = take_frame(s, length);
            length = before = 0;
        } else {
            if (length < room) frame[length] = byte;
            length += length <= room; /* one too many is enough to know */
            if (byte == 3 && before == '\r' && frame[1] != PPN_WIRE) event = PPN_LEAVE;
            before = byte;
        }
    }
    s->n = length;
    s->before = before;
    s->bytes_in += k;
    *used = k;
    return event;
}

void ppn_session_reply(ppn_session *s, uint8_t kind, uint32_t length) {
    s->newest = (uint8_t)((s->newest + 1u) % PPN_WINDOW); /* in place of the oldest */
    put_head(at(s, answer_at(s)), kind, s->sequence);
    uint32_t to = kept_at(s, s->newest);
    s->kept[s->newest].sequence = s->sequence;
    s->kept[s->newest].length = ppn_seal(at(s, answer_at(s)), PPN_HEAD + length, at(s, to));
    s->due = (uint16_t)(s->sequence + 1);
    send(s, to, s->kept[s->newest].length);
}
