/* frame.h: frames on a byte stream (docs/spec.md, "wire" 1): COBS stuffing and CRC-32. Twin of firmware/ppn/frames.py.
 *
 * A frame is some bytes and their CRC-32, little-endian, stuffed so that no byte is 0, then one byte 0. */
#ifndef PPN_FRAME_H
#define PPN_FRAME_H

#include <stdint.h>

#define PPN_WIRE 2 /* version of frames and messages, the first byte sealed in */

/* Bytes that sealing may add to |n|: a CRC, a code at the start and one every 254 bytes, the 0 at the end. */
#define PPN_SEALED(n) ((n) + 4 + ((n) + 4) / 254 + 2)

/* CRC-32 (IEEE 802.3, as zlib has it) of |n| bytes. */
uint32_t ppn_crc32(const uint8_t *bytes, uint32_t n);

/* Seal the |n| bytes at |bytes| into |frame|, which has PPN_SEALED(n) bytes and does not overlap. Answers the frame's
 * length, the 0 included. */
uint32_t ppn_seal(const uint8_t *bytes, uint32_t n, uint8_t *frame);

/* Open the |n| bytes of a frame, without its 0, in place. Answers how many bytes were sealed in, or -1 if the frame
 * is damaged; |frame| is then garbage. */
int32_t ppn_unseal(uint8_t *frame, uint32_t n);

#endif
