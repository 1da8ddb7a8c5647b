/* session.h: the device's half of a session with a host (docs/spec.md, "wire" 1 and 2): frames in, each request once.
 *
 * Feed ppn_session_take() the bytes that arrive; it says when there is a request to execute, or something to send.
 * After executing, seal the answer with ppn_session_reply() and send that. Damaged frames, requests that come twice or
 * too early, and hosts that begin anew are its business.
 *
 * No malloc, no globals, no pointers: a session is one piece of memory of ppn_session_bytes(), aligned to 4 bytes.
 */
#ifndef PPN_SESSION_H
#define PPN_SESSION_H

#include "frame.h"

#define PPN_HEAD 4      /* bytes of a content before its payload: version, kind, sequence number */
#define PPN_WINDOW 2    /* requests that a host may have under way, and replies kept */
#define PPN_ARRIVED 256 /* bytes read from a stream at a time */

#define PPN_REPLY 0x80 /* added to the kind of the request that is answered */

enum { PPN_INFO = 1, PPN_UNKNOWN = 0xFD, PPN_DAMAGED = 0xFE }; /* kinds that a session knows */

enum ppn_event {
    PPN_NOTHING, /* all bytes are used up */
    PPN_EXECUTE, /* |kind| with |length| bytes of payload at ppn_session_request() */
    PPN_SEND,    /* |out_length| bytes at ppn_session_out() */
    PPN_LEAVE    /* a person's Ctrl-C */
};

typedef struct {
    uint32_t payload, room;                        /* bytes of the longest payload, either way, and of its frame */
    uint32_t length;                               /* of the request's payload */
    uint32_t out, out_length;                      /* what is to be sent */
    uint32_t frames, damaged, bytes_in, bytes_out; /* counted since ppn_session_open() */
    uint32_t busy, kernel;   /* ... in the caller's unit of time: executing and answering, and of that computing */
    uint32_t n;              /* bytes of the frame under way */
    uint32_t first, arrived; /* bytes at ppn_session_arrived() not yet used */
    struct {
        uint32_t length; /* 0: none */
        uint16_t sequence;
    } kept[PPN_WINDOW];
    uint16_t due, sequence;              /* the number that is executed next, or now */
    uint8_t begun, kind, newest, before; /* ...; the latest of |kept|; the last byte */
} ppn_session;

/* Bytes of a session with payloads up to |payload|. */
uint32_t ppn_session_bytes(uint32_t payload);

void ppn_session_open(ppn_session *s, uint32_t payload);

/* Use bytes until there is an event; |*used| says how many. */
enum ppn_event ppn_session_take(ppn_session *s, const uint8_t *bytes, uint32_t n, uint32_t *used);

/* Seal the answer to the request: its payload are the |length| bytes at ppn_session_answer(). Sets |out|. */
void ppn_session_reply(ppn_session *s, uint8_t kind, uint32_t length);

uint8_t *ppn_session_request(ppn_session *s); /* payload of the request */
uint8_t *ppn_session_answer(ppn_session *s);  /* room for |payload| bytes */
uint8_t *ppn_session_out(ppn_session *s);     /* a sealed frame */
uint8_t *ppn_session_arrived(ppn_session *s); /* room for PPN_ARRIVED bytes, for who reads a stream */

#endif
