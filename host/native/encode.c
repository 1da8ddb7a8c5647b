/* encode.c: picopinn.smx.encode_blocks() in C, to the same bits. */
#include "encode.h"

#include <math.h>
#include <stddef.h>

/* m = clip(rnd_away(x 2^-e)); answers whether any is not zero. Multiplying by a power of two is exact. */
static int round_block(const double *x, int e, int bits, int16_t *m) {
    const double unit = ldexp(1.0, -e), top = (double)((1 << (bits - 1)) - 1);
    int any = 0;
    for (int l = 0; l < 16; l++) {
        double size = fabs(x[l]) * unit;
        size = size < top ? size : top; /* beyond it only where e was limited */
        int v = (int)size;
        v += size - v >= 0.5;
        any |= v;
        m[l] = (int16_t)(x[l] < 0 ? -v : v);
    }
    return any;
}

void picopinn_encode(uint32_t count, const double *reals, const uint8_t *widths, int16_t *mantissas, int8_t *exps) {
    for (uint32_t k = 0; k < count; k++) {
        const double *x = reals + 16 * (size_t)k;
        double peak = 0;
        int power;
        for (int l = 0; l < 16; l++) peak = fabs(x[l]) > peak ? fabs(x[l]) : peak;
        frexp(peak, &power); /* peak = f 2^power, 1/2 <= f < 1 */
        int e = power - 1 - (widths[k] - 2);
        e = e < -127 ? -127 : e > 127 ? 127 : e;
        exps[k] = (int8_t)(round_block(x, e, widths[k], mantissas + 16 * (size_t)k) ? e : -128);
    }
}
