/* lanes_neon.h: what simd.h wants of a processor, for Arm64 with NEON, which every one has. Internal.
 *
 * Shifts by lanes take counts of 0 .. 127: the instruction looks at eight signed bits. All is PPN_EACH, as a call would
 * put lanes into memory. */
#ifndef PPN_LANES_NEON_H
#define PPN_LANES_NEON_H

#include <arm_neon.h>
#include <string.h>

typedef struct {
    int32x4_t q[4];
} ppn_lanes;

/* ---- lanes ----------------------------------------------------------------------------------------------------- */

/* |value| of each quarter i */
#define PPN_QUARTERS(value)                                                                                            \
    ppn_lanes out;                                                                                                     \
    for (int i = 0; i < 4; i++) out.q[i] = value;                                                                      \
    return out
#define PPN_LANES_UNARY(name, value)                                                                                   \
    PPN_EACH ppn_lanes ppn_##name##_simd(ppn_lanes x) { PPN_QUARTERS(value); }
#define PPN_LANES_BINARY(name, value)                                                                                  \
    PPN_EACH ppn_lanes ppn_##name##_simd(ppn_lanes x, ppn_lanes y) { PPN_QUARTERS(value); }
#define PPN_LANES_SHIFT(name, value)                                                                                   \
    PPN_EACH ppn_lanes ppn_##name##_simd(ppn_lanes x, int s) { PPN_QUARTERS(value); }

/* of unsigned numbers, as sums and products may wrap around */
#define PPN_WRAPPING(op, x, y) vreinterpretq_s32_u32(op(vreinterpretq_u32_s32(x), vreinterpretq_u32_s32(y)))

PPN_EACH int32x4_t ppn_down_quarter(int32x4_t x, int32x4_t s) { /* logical */
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), vnegq_s32(s)));
}
/* the sums of two products of int16 in each lane */
PPN_EACH int32x4_t ppn_madd_quarter(int32x4_t x, int32x4_t y) {
    int16x8_t a = vreinterpretq_s16_s32(x), b = vreinterpretq_s16_s32(y);
    return vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}
PPN_EACH int32x4_t ppn_packs32_quarter(int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s16(vqmovn_high_s32(vqmovn_s32(x), y));
}
PPN_EACH int32x4_t ppn_packs16_quarter(int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s8(vqmovn_high_s16(vqmovn_s16(vreinterpretq_s16_s32(x)), vreinterpretq_s16_s32(y)));
}
PPN_EACH int32x4_t ppn_low64_quarter(int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y)));
}
PPN_EACH int32x4_t ppn_high64_quarter(int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y)));
}

PPN_LANES_BINARY(or, vorrq_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(and, vandq_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(xor, veorq_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(add, PPN_WRAPPING(vaddq_u32, x.q[i], y.q[i]))
PPN_LANES_BINARY(sub, PPN_WRAPPING(vsubq_u32, x.q[i], y.q[i]))
PPN_LANES_BINARY(mul, PPN_WRAPPING(vmulq_u32, x.q[i], y.q[i]))
PPN_LANES_BINARY(min, vminq_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(max, vmaxq_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(madd, ppn_madd_quarter(x.q[i], y.q[i]))
PPN_LANES_BINARY(left_by, vshlq_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(down_by, ppn_down_quarter(x.q[i], y.q[i]))
PPN_LANES_BINARY(asr_by, vshlq_s32(x.q[i], vnegq_s32(y.q[i])))
PPN_LANES_BINARY(packs32, ppn_packs32_quarter(x.q[i], y.q[i]))
PPN_LANES_BINARY(packs16, ppn_packs16_quarter(x.q[i], y.q[i]))
PPN_LANES_BINARY(low32, vzip1q_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(high32, vzip2q_s32(x.q[i], y.q[i]))
PPN_LANES_BINARY(low64, ppn_low64_quarter(x.q[i], y.q[i]))
PPN_LANES_BINARY(high64, ppn_high64_quarter(x.q[i], y.q[i]))
PPN_LANES_BINARY(signed, vbslq_s32(vcltzq_s32(y.q[i]), vnegq_s32(x.q[i]), x.q[i]))
PPN_LANES_BINARY(pair, vsliq_n_s32(x.q[i], y.q[i], 16))
PPN_LANES_SHIFT(left, vshlq_s32(x.q[i], vdupq_n_s32(s)))
PPN_LANES_SHIFT(down, ppn_down_quarter(x.q[i], vdupq_n_s32(s)))
PPN_LANES_SHIFT(asr, vshlq_s32(x.q[i], vdupq_n_s32(-s)))
PPN_LANES_UNARY(abs, vabsq_s32(x.q[i]))
PPN_LANES_UNARY(high16, vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x.q[i]), 16)))
PPN_LANES_UNARY(lengths, vsubq_s32(vdupq_n_s32(32), vclzq_s32(x.q[i])))

PPN_EACH ppn_lanes ppn_all_simd(int32_t x) { PPN_QUARTERS(vdupq_n_s32(x)); }
PPN_EACH ppn_lanes ppn_get_simd(const int32_t *p) { PPN_QUARTERS(vld1q_s32(p + 4 * i)); }
PPN_EACH void ppn_put_simd(int32_t *p, ppn_lanes x) {
    for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, x.q[i]);
}
PPN_EACH ppn_lanes ppn_get16_simd(const int16_t *p) { PPN_QUARTERS(vmovl_s16(vld1_s16(p + 4 * i))); }
PPN_EACH ppn_lanes ppn_get_low16_simd(const int16_t *p) {
    PPN_QUARTERS(vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_s16(vld1_s16(p + 4 * i)))));
}
PPN_EACH ppn_lanes ppn_get8_simd(const int8_t *p, uint32_t count, int8_t rest) {
    int8_t all[16];
    for (uint32_t k = count; k < 16; k++) all[k] = rest;
    int8x16_t x = vld1q_s8(count == 16 ? p : memcpy(all, p, count));
    int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
    ppn_lanes out = {
        {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}};
    return out;
}
PPN_EACH int32x4_t ppn_folded_quarters(ppn_lanes x) {
    return vorrq_s32(vorrq_s32(x.q[0], x.q[1]), vorrq_s32(x.q[2], x.q[3]));
}
PPN_EACH int ppn_negative_simd(ppn_lanes x) { return vminvq_s32(ppn_folded_quarters(x)) < 0; }
PPN_EACH uint32_t ppn_fold_simd(ppn_lanes x) {
    uint64x2_t two = vreinterpretq_u64_s32(ppn_folded_quarters(x));
    uint64_t one = vgetq_lane_u64(two, 0) | vgetq_lane_u64(two, 1);
    return (uint32_t)one | (uint32_t)(one >> 32);
}
PPN_EACH int16x8_t ppn_narrow_half(ppn_lanes x, int half) {
    return vmovn_high_s32(vmovn_s32(x.q[2 * half]), x.q[2 * half + 1]);
}
PPN_EACH void ppn_put16_simd(int16_t *p, ppn_lanes x) {
    for (int half = 0; half < 2; half++) vst1q_s16(p + 8 * half, ppn_narrow_half(x, half));
}
PPN_EACH void ppn_put_low16_simd(int16_t *p, ppn_lanes x) { ppn_put16_simd(p, x); }
PPN_EACH void ppn_put8_simd(int8_t *p, ppn_lanes x) {
    vst1q_s8(p, vmovn_high_s16(vmovn_s16(ppn_narrow_half(x, 0)), ppn_narrow_half(x, 1)));
}
PPN_EACH ppn_lanes ppn_get_rows8_simd(const int8_t *p) { PPN_QUARTERS(vdupq_n_s32(p[i])); }
PPN_EACH int32x4_t ppn_largest_quarter(ppn_lanes x) {
    return vmaxq_s32(vmaxq_s32(x.q[0], x.q[1]), vmaxq_s32(x.q[2], x.q[3]));
}
PPN_EACH ppn_lanes ppn_largest_simd(const ppn_lanes x[16]) {
    int32x4_t y[16];
    for (int i = 0; i < 16; i++) y[i] = ppn_largest_quarter(x[i]);
    PPN_QUARTERS(vpmaxq_s32(vpmaxq_s32(y[4 * i], y[4 * i + 1]), vpmaxq_s32(y[4 * i + 2], y[4 * i + 3])));
}
PPN_EACH int32x4_t ppn_columns_quarter(const int16_t *m) {
    int16x8_t top = vld1q_s16(m), end = vld1q_s16(m + 8);
    return vaddq_s32(vaddl_s16(vget_low_s16(top), vget_low_s16(end)), vaddl_high_s16(top, end));
}
PPN_EACH ppn_lanes ppn_columns_simd(const int16_t *m) { PPN_QUARTERS(ppn_columns_quarter(m + 16 * i)); }
PPN_EACH ppn_lanes ppn_above_simd(ppn_lanes a, ppn_lanes b, ppn_lanes x, ppn_lanes y) {
    PPN_QUARTERS(vbslq_s32(vcgtq_s32(a.q[i], b.q[i]), x.q[i], y.q[i]));
}
PPN_EACH ppn_lanes ppn_pairs_simd(const int16_t *table, ppn_lanes index) {
    int32_t at[16], out[16];
    ppn_put_simd(at, index);
    for (int l = 0; l < 16; l++) memcpy(&out[l], table + at[l], sizeof *out);
    return ppn_get_simd(out);
}
PPN_EACH ppn_lanes ppn_iota_simd(void) {
    static const int32_t all[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return ppn_get_simd(all);
}
PPN_EACH ppn_lanes ppn_repeat_simd(const int32_t *p, uint32_t count) {
    int32_t all[16];
    for (uint32_t l = 0; l < 16; l++) all[l] = p[l % count];
    return ppn_get_simd(all);
}
PPN_EACH ppn_lanes ppn_turn_bytes_simd(ppn_lanes x) {
    static const uint8_t turned[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    PPN_QUARTERS(vreinterpretq_s32_s8(vqtbl1q_s8(vreinterpretq_s8_s32(x.q[i]), vld1q_u8(turned))));
}
PPN_EACH ppn_lanes ppn_get_quarters_simd(const void *p, size_t apart) {
    PPN_QUARTERS(vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p + (size_t)i * apart)));
}
PPN_EACH void ppn_put_quarters_simd(void *p, size_t apart, ppn_lanes x) {
    for (size_t i = 0; i < 4; i++) vst1q_u8((uint8_t *)p + i * apart, vreinterpretq_u8_s32(x.q[i]));
}
PPN_EACH void ppn_turn_quarters_simd(ppn_lanes *x) {
    ppn_lanes from[4] = {x[0], x[4], x[8], x[12]};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) x[4 * i].q[j] = from[j].q[i];
}

/* ---- products of 4x4 blocks ------------------------------------------------------------------------------------ */

/* Rows 0, 1 (low) and 2, 3 (high) of a block: of a left operand with k along its rows, of a right one with k from row
 * to row. */
typedef struct {
    int16x8_t low, high;
} ppn_left;
typedef ppn_left ppn_right;

/* The block as stored. */
PPN_EACH ppn_left ppn_load_simd(const ppn_operand *o, ptrdiff_t block) {
    ppn_left out;
    if (o->wide) {
        const int16_t *from = (const int16_t *)o->mantissas + 16 * block;
        out.low = vld1q_s16(from), out.high = vld1q_s16(from + 8);
    } else {
        int8x16_t x = vld1q_s8((const int8_t *)o->mantissas + 16 * block);
        out.low = vmovl_s8(vget_low_s8(x)), out.high = vmovl_high_s8(x);
    }
    return out;
}
PPN_EACH ppn_left ppn_turned_block(ppn_left x) {
    int16x8_t even = vzip1q_s16(x.low, x.high), odd = vzip2q_s16(x.low, x.high); /* of rows 0, 2 and 1, 3 */
    ppn_left out = {vzip1q_s16(even, odd), vzip2q_s16(even, odd)};
    return out;
}
PPN_EACH ppn_left ppn_spread_simd(const ppn_operand *o, ptrdiff_t block) {
    ppn_left x = ppn_load_simd(o, block);
    return o->turned ? ppn_turned_block(x) : x;
}
PPN_EACH ppn_right ppn_right_simd(const ppn_operand *o, ptrdiff_t block) {
    ppn_left x = ppn_load_simd(o, block);
    return o->turned ? x : ppn_turned_block(x);
}
PPN_EACH void ppn_put_right_simd(int16_t *to, ppn_right b) { vst1q_s16(to, b.low), vst1q_s16(to + 8, b.high); }
PPN_EACH ppn_right ppn_get_right_simd(const int16_t *p) {
    ppn_right out = {vld1q_s16(p), vld1q_s16(p + 8)};
    return out;
}
PPN_EACH void ppn_put_rows_simd(int16_t *to, const ppn_operand *o, ptrdiff_t block) {
    ppn_put_right_simd(to, ppn_spread_simd(o, block));
}
PPN_EACH ppn_left ppn_lifted_simd(ppn_left a, int by) {
    int16x8_t s = vdupq_n_s16((int16_t)by);
    ppn_left out = {vshlq_s16(a.low, s), vshlq_s16(a.high, s)};
    return out;
}
/* Onto row i of the product: rows k of b times elements k of row i of a, which start at |at| in a's half. */
#define PPN_DOT_ROW(acc, half, at, b)                                                                                  \
    acc = vmlal_laneq_s16(acc, vget_low_s16(b.low), half, at);                                                         \
    acc = vmlal_high_laneq_s16(acc, b.low, half, at + 1);                                                              \
    acc = vmlal_laneq_s16(acc, vget_low_s16(b.high), half, at + 2);                                                    \
    acc = vmlal_high_laneq_s16(acc, b.high, half, at + 3)

PPN_EACH ppn_lanes ppn_dot_onto_simd(ppn_lanes acc, ppn_left a, ppn_right b) {
    PPN_DOT_ROW(acc.q[0], a.low, 0, b);
    PPN_DOT_ROW(acc.q[1], a.low, 4, b);
    PPN_DOT_ROW(acc.q[2], a.high, 0, b);
    PPN_DOT_ROW(acc.q[3], a.high, 4, b);
    return acc;
}
PPN_EACH ppn_lanes ppn_dot_simd(ppn_left a, ppn_right b) { return ppn_dot_onto_simd(ppn_all_simd(0), a, b); }

#endif
