/* frame.c: see frame.h. */
#include "frame.h"

/* CRC of four bits; a table of sixteen words is as fast as flash on a Cortex-M0+ allows, and small. */
static const uint32_t nibbles[16] = {0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
                                     0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
                                     0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};

uint32_t ppn_crc32(const uint8_t *bytes, uint32_t n) {
    uint32_t crc = 0xFFFFFFFF;
#pragma GCC unroll 4 /* the loop itself is a sixth of the work */
    while (n--) {
        crc ^= *bytes++;
        crc = (crc >> 4) ^ nibbles[crc & 15];
        crc = (crc >> 4) ^ nibbles[crc & 15];
    }
    return ~crc;
}

/* Stuff |n| more bytes: they go to |to|, the open run's code to |*code|. Answers where the next byte goes. */
static uint8_t *stuff(uint8_t **code, uint8_t *to, const uint8_t *bytes, uint32_t n) {
    uint8_t *open = *code;
    for (const uint8_t *end = bytes + n; bytes < end; bytes++) {
        if (*bytes) {
            *to++ = *bytes;
            if (to - open < 255) continue;
        }
        *open = (uint8_t)(to - open); /* a run's code: its length and one */
        open = to++;
    }
    *code = open;
    return to;
}

uint32_t ppn_seal(const uint8_t *bytes, uint32_t n, uint8_t *frame) {
    uint32_t crc = ppn_crc32(bytes, n);
    uint8_t tail[4], *code = frame;
    for (int k = 0; k < 4; k++) tail[k] = (uint8_t)(crc >> (8 * k));
    uint8_t *to = stuff(&code, frame + 1, bytes, n);
    to = stuff(&code, to, tail, 4);
    *code = (uint8_t)(to - code);
    *to++ = 0;
    return (uint32_t)(to - frame);
}

/* Undo the stuffing in place: what is written never passes what is read. */
static int32_t unstuff(uint8_t *frame, uint32_t n) {
    uint32_t to = 0, at = 0;
    while (at < n) {
        uint32_t code = frame[at++];
        if (code == 0 || code - 1 > n - at) return -1;
        for (uint32_t k = 1; k < code; k++) {
            if (frame[at] == 0) return -1;
            frame[to++] = frame[at++];
        }
        if (code < 255 && at < n) frame[to++] = 0;
    }
    return (int32_t)to;
}

int32_t ppn_unseal(uint8_t *frame, uint32_t n) {
    int32_t length = unstuff(frame, n);
    if (length < 4) return -1;
    uint32_t bytes = (uint32_t)length - 4, crc = 0;
    for (int k = 3; k >= 0; k--) crc = crc << 8 | frame[bytes + (uint32_t)k];
    return crc == ppn_crc32(frame, bytes) ? (int32_t)bytes : -1;
}
