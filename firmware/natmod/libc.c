/* libc.c: memcpy and memset, which compilers call for C that never names them; a native module has no C library.
 *
 * Compiled with -fno-tree-loop-distribute-patterns, lest a compiler makes these loops call themselves. */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);

static int aligned(const void *at) { return ((uintptr_t)at & 3) == 0; }

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    uint8_t *t = to;
    const uint8_t *f = from;
    if (aligned(t) && aligned(f))
        for (; n >= 4; n -= 4, t += 4, f += 4) *(uint32_t *)(void *)t = *(const uint32_t *)(const void *)f;
    while (n--) *t++ = *f++;
    return to;
}

void *memset(void *to, int byte, size_t n) {
    uint8_t *t = to;
    uint32_t word = (uint8_t)byte * UINT32_C(0x01010101);
    if (aligned(t))
        for (; n >= 4; n -= 4, t += 4) *(uint32_t *)(void *)t = word;
    while (n--) *t++ = (uint8_t)byte;
    return to;
}
