/* memory.c: what a compiler may call, for programs without a library. */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t bytes) {
    uint8_t *t = to;
    const uint8_t *f = from;
    if (!(((uintptr_t)t | (uintptr_t)f) & 3))
        for (; bytes >= 4; bytes -= 4, t += 4, f += 4) *(uint32_t *)(void *)t = *(const uint32_t *)(const void *)f;
    for (; bytes; bytes--) *t++ = *f++;
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    uint8_t *t = to;
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; bytes && ((uintptr_t)t & 3); bytes--) *t++ = (uint8_t)value;
    for (; bytes >= 4; bytes -= 4, t += 4) *(uint32_t *)(void *)t = word;
    for (; bytes; bytes--) *t++ = (uint8_t)value;
    return to;
}
