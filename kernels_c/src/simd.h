/* simd.h: sixteen int32 lanes, one block, in vector registers. Internal.
 *
 * PPN_SIMD: 0 none, 1 NEON of Arm64, 2 AVX2, 3 AVX-512 with VNNI. lanes_*.h has the instructions of a processor, each
 * explained where lanes_x86.h first has it. What is written with these has a plain C twin with the same bits. */
#ifndef PPN_SIMD_H
#define PPN_SIMD_H

#include "ppn/ppn.h"

#ifndef PPN_SIMD
#define PPN_SIMD 0
#endif
#define PPN_ROWS 5                         /* rows of blocks that are worked on at once */
#define PPN_SUMMED (PPN_SIMD == 3 ? 4 : 1) /* rows of a block whose sums over a chunk the registers hold at once */
#define PPN_GROUP 40 /* rows that go through a stage together, so that its matrix is unpacked once for all */
#if PPN_SIMD

/* A function whose callers give it sizes as constants: each call is compiled for its own. */
#define PPN_EACH static inline __attribute__((always_inline))

/* A loop whose counter is a constant in each turn, so that arrays it indexes may be registers. */
#define PPN_UNROLLED _Pragma("GCC unroll 16") for

/* A run of blocks as an operand of products. The inner index k runs along a block's rows as stored, or, if |turned|,
 * along its columns. */
typedef struct {
    const void *mantissas;
    int wide, turned;
} ppn_operand;

#if PPN_SIMD == 1
#include "lanes_neon.h"
#else
#include "lanes_x86.h"
#endif

#if PPN_SIMD < 3 /* AVX-512 has an instruction for each */
PPN_EACH ppn_lanes ppn_madd_onto_simd(ppn_lanes acc, ppn_lanes x, ppn_lanes y) {
    return ppn_add_simd(acc, ppn_madd_simd(x, y));
}
PPN_EACH ppn_lanes ppn_get16_first_simd(const int16_t *p, uint32_t count, int16_t rest) {
    int16_t all[16];
    for (uint32_t k = count; k < 16; k++) all[k] = rest;
    return ppn_get16_simd(count == 16 ? p : memcpy(all, p, count * sizeof *p));
}
#endif

/* ppn_rnd() for 0 <= s <= 30 */
static inline ppn_lanes ppn_rnd_simd(ppn_lanes x, int s) {
    return ppn_asr_simd(ppn_add_simd(x, ppn_all_simd((1 << s) >> 1)), s);
}
/* the same of ppn_madd_simd(x, y) */
static inline ppn_lanes ppn_rnd_madd_simd(ppn_lanes x, ppn_lanes y, int s) {
    return ppn_asr_simd(ppn_madd_onto_simd(ppn_all_simd((1 << s) >> 1), x, y), s);
}
/* ppn_mix() */
static inline ppn_lanes ppn_mix_simd(ppn_lanes x) {
    x = ppn_mul_simd(ppn_xor_simd(x, ppn_high16_simd(x)), ppn_all_simd(0x7FEB352D));
    x = ppn_mul_simd(ppn_xor_simd(x, ppn_down_simd(x, 15)), ppn_all_simd((int32_t)0x846CA68Bu));
    return ppn_xor_simd(x, ppn_high16_simd(x));
}

/* ---- turning sixteen blocks, so that each has a lane, and back ------------------------------------------------- */

/* Lane j of x[i] to lane i of x[j], in each quarter. */
static inline void ppn_turn_four_simd(ppn_lanes *x) {
    ppn_lanes a = ppn_low32_simd(x[0], x[1]), b = ppn_high32_simd(x[0], x[1]);
    ppn_lanes c = ppn_low32_simd(x[2], x[3]), d = ppn_high32_simd(x[2], x[3]);
    x[0] = ppn_low64_simd(a, c);
    x[1] = ppn_high64_simd(a, c);
    x[2] = ppn_low64_simd(b, d);
    x[3] = ppn_high64_simd(b, d);
}
/* Lane j of x[i] to lane i of x[j], for sixteen. */
PPN_EACH void ppn_turn_simd(ppn_lanes x[16]) {
    for (int k = 0; k < 16; k += 4) ppn_turn_four_simd(x + k);
    for (int k = 0; k < 4; k++) ppn_turn_quarters_simd(x + k);
}
/* Sixteen blocks of int16, their elements 2 k and 2 k + 1 as the halves of x[k]. */
static inline void ppn_get_turned16_simd(const int16_t *m, ppn_lanes x[8]) {
    for (int k = 0; k < 4; k++)
        for (int side = 0; side < 2; side++) x[4 * side + k] = ppn_get_quarters_simd(m + 16 * k + 8 * side, 128);
    ppn_turn_four_simd(x);
    ppn_turn_four_simd(x + 4);
}
/* Sixteen blocks, element k in x[k], as int16; as int8. */
static inline void ppn_put_turned16_simd(int16_t *m, const ppn_lanes x[16]) {
    ppn_lanes y[8];
    for (int k = 0; k < 8; k++) y[k] = ppn_pair_simd(x[2 * k], x[2 * k + 1]);
    ppn_turn_four_simd(y);
    ppn_turn_four_simd(y + 4);
    for (int k = 0; k < 4; k++)
        for (int side = 0; side < 2; side++) ppn_put_quarters_simd(m + 16 * k + 8 * side, 128, y[4 * side + k]);
}
static inline void ppn_put_turned8_simd(int8_t *m, const ppn_lanes x[16]) {
    ppn_lanes y[4];
    for (int k = 0; k < 4; k++, x += 4) {
        y[k] = ppn_packs16_simd(ppn_packs32_simd(x[0], x[1]), ppn_packs32_simd(x[2], x[3]));
        y[k] = ppn_turn_bytes_simd(y[k]);
    }
    ppn_turn_four_simd(y);
    for (int k = 0; k < 4; k++) ppn_put_quarters_simd(m + 16 * k, 64, y[k]);
}

#endif
#endif
