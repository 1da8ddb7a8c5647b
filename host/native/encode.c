/* encode.c: picopinn.smx.encode_blocks() and decode_blocks() in C, to the same bits. */
#include "encode.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* 2^e, -1022 <= e <= 1023 */
static double power_of_two(int e) {
    const uint64_t bits = (uint64_t)(1023 + e) << 52;
    double x;
    memcpy(&x, &bits, 8);
    return x;
}
/* e of a finite x = f 2^e, 1 <= f < 2; -1023 of 0 and of what is too small to count here */
static int exponent_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return (int)(bits >> 52 & 2047) - 1023;
}

/* m = clip(rnd_away(x 2^-e)); answers whether any is not zero. Multiplying by a power of two is exact, and so is the
 * rest that truncation leaves, whose double is 1 or more from a half on. */
static int round_block(const double *x, int e, int bits, int16_t *m) {
    const double unit = power_of_two(-e), top = (double)((1 << (bits - 1)) - 1);
    int any = 0;
    for (int l = 0; l < 16; l++) {
        double y = x[l] * unit;
        y = y < top ? y : top; /* beyond it only where e was limited */
        y = y > -top ? y : -top;
        int v = (int)y;
        v += (int)(2 * (y - v));
        any |= v;
        m[l] = (int16_t)v;
    }
    return any;
}

static int8_t encode_block(const double *x, int bits, int16_t *m) {
    double peaks[4] = {0}, peak = 0; /* four, so that they need not wait for each other */
    for (int l = 0; l < 16; l++) peaks[l % 4] = fabs(x[l]) > peaks[l % 4] ? fabs(x[l]) : peaks[l % 4];
    for (int l = 0; l < 4; l++) peak = peaks[l] > peak ? peaks[l] : peak;
    int e = exponent_of(peak) - (bits - 2);
    e = e < -127 ? -127 : e > 127 ? 127 : e;
    return (int8_t)(round_block(x, e, bits, m) ? e : -128);
}

static void decode_block(const int16_t *m, int e, const int32_t *index, double *reals) {
    const double unit = power_of_two(e);
    for (int l = 0; l < 16; l++)
        if (index[l] >= 0) reals[index[l]] = m[l] * unit;
}

void picopinn_gather(uint32_t count, const double *reals, const int32_t *index, const uint8_t *widths,
                     int16_t *mantissas, int8_t *exps, double *held) {
    for (size_t k = 0; k < count; k++, index += 16, mantissas += 16) {
        double x[16];
        for (int l = 0; l < 16; l++) x[l] = index[l] < 0 ? 0 : reals[index[l]];
        exps[k] = encode_block(x, widths[k], mantissas);
        if (held) decode_block(mantissas, exps[k], index, held);
    }
}

void picopinn_scatter(uint32_t count, const int16_t *mantissas, const int8_t *exps, const int32_t *index,
                      double *reals) {
    for (size_t k = 0; k < count; k++) decode_block(mantissas + 16 * k, exps[k], index + 16 * k, reals);
}

void picopinn_column(uint32_t count, uint32_t streams, uint32_t blocks, const int32_t *mantissas, const int16_t *exps,
                     double *reals) {
    for (size_t k = 0; k < count; k++, reals += 4 * (size_t)streams)
        for (size_t r = 0; r < streams; r++, mantissas += 16 * (size_t)blocks, exps += blocks) {
            const double unit = ldexp(1.0, *exps);
            for (size_t i = 0; i < 4; i++) reals[i * streams + r] = mantissas[4 * i] * unit;
        }
}
