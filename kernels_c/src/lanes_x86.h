/* lanes_x86.h: what simd.h wants of a processor, for x86-64 with AVX2 or AVX-512. Internal. */
#ifndef PPN_LANES_X86_H
#define PPN_LANES_X86_H

#include <immintrin.h>
#include <string.h>

/* ---- lanes ----------------------------------------------------------------------------------------------------- */

PPN_EACH __m256i ppn_repeat_half(const int32_t *p, uint32_t count) {
    int64_t two;
    memcpy(&two, p, count > 1 ? 8 : 4);
    return count == 8   ? _mm256_loadu_si256((const __m256i *)(const void *)p)
           : count == 4 ? _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p))
           : count == 2 ? _mm256_set1_epi64x(two)
                        : _mm256_set1_epi32((int32_t)two);
}

#if PPN_SIMD >= 3

typedef __m512i ppn_lanes;

#define PPN_LANES_BINARY(name, op)                                                                                     \
    static inline ppn_lanes ppn_##name##_simd(ppn_lanes x, ppn_lanes y) { return _mm512_##op(x, y); }
#define PPN_LANES_SHIFT(name, op)                                                                                      \
    static inline ppn_lanes ppn_##name##_simd(ppn_lanes x, int s) { return _mm512_##op(x, _mm_cvtsi32_si128(s)); }

PPN_LANES_BINARY(or, or_si512)
PPN_LANES_BINARY(and, and_si512)
PPN_LANES_BINARY(xor, xor_si512)

static inline ppn_lanes ppn_all_simd(int32_t x) { return _mm512_set1_epi32(x); }
static inline ppn_lanes ppn_abs_simd(ppn_lanes x) { return _mm512_abs_epi32(x); }
static inline ppn_lanes ppn_get_simd(const int32_t *p) { return _mm512_loadu_si512(p); }
static inline void ppn_put_simd(int32_t *p, ppn_lanes x) { _mm512_storeu_si512(p, x); }
static inline ppn_lanes ppn_get16_simd(const int16_t *p) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* the low halves alone: with one such factor ppn_madd_simd() is the product of two int16 */
static inline ppn_lanes ppn_get_low16_simd(const int16_t *p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* the first |count| of up to 16 numbers; the others are |rest| */
static inline ppn_lanes ppn_get8_simd(const int8_t *p, uint32_t count, int8_t rest) {
    return _mm512_cvtepi8_epi32(_mm_mask_loadu_epi8(_mm_set1_epi8(rest), (__mmask16)((1u << count) - 1), p));
}
static inline ppn_lanes ppn_get16_first_simd(const int16_t *p, uint32_t count, int16_t rest) {
    return _mm512_cvtepi16_epi32(_mm256_mask_loadu_epi16(_mm256_set1_epi16(rest), (__mmask16)((1u << count) - 1), p));
}
/* acc + the sums of two products of int16 in each lane */
static inline ppn_lanes ppn_madd_onto_simd(ppn_lanes acc, ppn_lanes x, ppn_lanes y) {
    return _mm512_dpwssd_epi32(acc, x, y);
}
/* is any lane negative? */
static inline int ppn_negative_simd(ppn_lanes x) { return _mm512_movepi32_mask(x) != 0; }
static inline void ppn_put16_simd(int16_t *p, ppn_lanes x) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(x));
}
/* lanes whose low halves count alone */
static inline void ppn_put_low16_simd(int16_t *p, ppn_lanes x) { ppn_put16_simd(p, x); }
static inline void ppn_put8_simd(int8_t *p, ppn_lanes x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(x));
}
static inline uint32_t ppn_fold_simd(ppn_lanes x) {
    __m256i y = _mm256_or_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    __m128i z = _mm_or_si128(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    z = _mm_or_si128(z, _mm_unpackhi_epi64(z, z));
    return (uint32_t)_mm_cvtsi128_si32(z) | (uint32_t)_mm_extract_epi32(z, 1);
}
/* four int8, each in the four lanes of a row */
static inline ppn_lanes ppn_get_rows8_simd(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    const __m128i each = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_cvtepi8_epi32(_mm_shuffle_epi8(_mm_cvtsi32_si128(four), each));
}
/* Lane by lane the number of bits of x >= 0. */
static inline ppn_lanes ppn_lengths_simd(ppn_lanes x) {
    return _mm512_sub_epi32(_mm512_set1_epi32(32), _mm512_lzcnt_epi32(x));
}
/* Lane i: the largest lane of x[i]. Vectors are folded side by side, halving each. */
static inline ppn_lanes ppn_largest_simd(const ppn_lanes x[16]) {
    __m512i y[8], z[4];
    for (int i = 0; i < 8; i++)
        y[i] = _mm512_max_epi32(_mm512_shuffle_i64x2(x[2 * i], x[2 * i + 1], 0x44),
                                _mm512_shuffle_i64x2(x[2 * i], x[2 * i + 1], 0xEE));
    for (int i = 0; i < 4; i++)
        z[i] = _mm512_max_epi32(_mm512_shuffle_i64x2(y[2 * i], y[2 * i + 1], 0x88),
                                _mm512_shuffle_i64x2(y[2 * i], y[2 * i + 1], 0xDD));
    for (int i = 0; i < 2; i++)
        y[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(z[2 * i], z[2 * i + 1]),
                                _mm512_unpackhi_epi32(z[2 * i], z[2 * i + 1]));
    y[0] = _mm512_max_epi32(_mm512_unpacklo_epi64(y[0], y[1]), _mm512_unpackhi_epi64(y[0], y[1]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, y[0]); /* vector 4 i + j is in lane 4 j + i */
}
/* Lane 4 i + j: the sum of column j of block i, for four blocks of int16. */
static inline ppn_lanes ppn_columns_simd(const int16_t *m) {
    __m512i x[4], y[2];
    for (int i = 0; i < 4; i++) x[i] = ppn_get16_simd(m + 16 * i);
    for (int i = 0; i < 2; i++)
        y[i] = _mm512_add_epi32(_mm512_shuffle_i64x2(x[2 * i], x[2 * i + 1], 0x44),
                                _mm512_shuffle_i64x2(x[2 * i], x[2 * i + 1], 0xEE));
    return _mm512_add_epi32(_mm512_shuffle_i64x2(y[0], y[1], 0x88), _mm512_shuffle_i64x2(y[0], y[1], 0xDD));
}
/* x where a > b, else y */
static inline ppn_lanes ppn_above_simd(ppn_lanes a, ppn_lanes b, ppn_lanes x, ppn_lanes y) {
    return _mm512_mask_mov_epi32(y, _mm512_cmpgt_epi32_mask(a, b), x);
}
/* x, or -x where sign is negative; x is 0 where sign is */
static inline ppn_lanes ppn_signed_simd(ppn_lanes x, ppn_lanes sign) {
    ppn_lanes zero = _mm512_setzero_si512();
    return _mm512_mask_sub_epi32(x, _mm512_cmplt_epi32_mask(sign, zero), zero, x);
}
/* the high halves; a shuffle, as one port alone shifts and multiplies and it is the busier one */
static inline ppn_lanes ppn_high16_simd(ppn_lanes x) {
    const __m128i high = _mm_setr_epi8(2, 3, -1, -1, 6, 7, -1, -1, 10, 11, -1, -1, 14, 15, -1, -1);
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(high));
}
/* 32 bits at table + index, an element and its successor */
static inline ppn_lanes ppn_pairs_simd(const int16_t *table, ppn_lanes index) {
    return _mm512_i32gather_epi32(index, table, 2);
}
static inline ppn_lanes ppn_iota_simd(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
/* lane l: number l % count of |count| 1, 2, 4 or 8 */
PPN_EACH ppn_lanes ppn_repeat_simd(const int32_t *p, uint32_t count) {
    return _mm512_broadcast_i64x4(ppn_repeat_half(p, count));
}
/* low halves of x, then of y */
static inline ppn_lanes ppn_pair_simd(ppn_lanes x, ppn_lanes y) {
    return _mm512_mask_blend_epi16(0xAAAAAAAAu, x, _mm512_slli_epi32(y, 16));
}
/* byte j of lane i to byte i of lane j, in each quarter */
static inline ppn_lanes ppn_turn_bytes_simd(ppn_lanes x) {
    const __m128i turned = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(turned));
}
/* quarters, each |apart| bytes behind the last */
static inline ppn_lanes ppn_get_quarters_simd(const void *p, size_t apart) {
    const uint8_t *from = p;
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)from));
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(const void *)(from + apart)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(const void *)(from + 2 * apart)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(const void *)(from + 3 * apart)), 3);
}
static inline void ppn_put_quarters_simd(void *p, size_t apart, ppn_lanes x) {
    uint8_t *to = p;
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_castsi512_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(to + apart), _mm512_extracti32x4_epi32(x, 1));
    _mm_storeu_si128((__m128i *)(void *)(to + 2 * apart), _mm512_extracti32x4_epi32(x, 2));
    _mm_storeu_si128((__m128i *)(void *)(to + 3 * apart), _mm512_extracti32x4_epi32(x, 3));
}
/* quarter j of x[i] to quarter i of x[j], for the vectors x[0], x[4], x[8], x[12] */
static inline void ppn_turn_quarters_simd(ppn_lanes *x) {
    __m512i a = _mm512_shuffle_i32x4(x[0], x[4], 0x44), b = _mm512_shuffle_i32x4(x[0], x[4], 0xEE);
    __m512i c = _mm512_shuffle_i32x4(x[8], x[12], 0x44), d = _mm512_shuffle_i32x4(x[8], x[12], 0xEE);
    x[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[4] = _mm512_shuffle_i32x4(a, c, 0xDD);
    x[8] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[12] = _mm512_shuffle_i32x4(b, d, 0xDD);
}

#else

typedef struct {
    __m256i low, high;
} ppn_lanes;

#define PPN_LANES_BINARY(name, op)                                                                                     \
    static inline ppn_lanes ppn_##name##_simd(ppn_lanes x, ppn_lanes y) {                                              \
        ppn_lanes out = {_mm256_##op(x.low, y.low), _mm256_##op(x.high, y.high)};                                      \
        return out;                                                                                                    \
    }
#define PPN_LANES_SHIFT(name, op)                                                                                      \
    static inline ppn_lanes ppn_##name##_simd(ppn_lanes x, int s) {                                                    \
        __m128i by = _mm_cvtsi32_si128(s);                                                                             \
        ppn_lanes out = {_mm256_##op(x.low, by), _mm256_##op(x.high, by)};                                             \
        return out;                                                                                                    \
    }
PPN_LANES_BINARY(or, or_si256)
PPN_LANES_BINARY(and, and_si256)
PPN_LANES_BINARY(xor, xor_si256)

static inline ppn_lanes ppn_all_simd(int32_t x) {
    ppn_lanes out = {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
    return out;
}
static inline ppn_lanes ppn_abs_simd(ppn_lanes x) {
    ppn_lanes out = {_mm256_abs_epi32(x.low), _mm256_abs_epi32(x.high)};
    return out;
}
static inline ppn_lanes ppn_get_simd(const int32_t *p) {
    ppn_lanes out = {_mm256_loadu_si256((const __m256i *)(const void *)p),
                     _mm256_loadu_si256((const __m256i *)(const void *)(p + 8))};
    return out;
}
static inline void ppn_put_simd(int32_t *p, ppn_lanes x) {
    _mm256_storeu_si256((__m256i *)(void *)p, x.low);
    _mm256_storeu_si256((__m256i *)(void *)(p + 8), x.high);
}
static inline ppn_lanes ppn_get16_simd(const int16_t *p) {
    ppn_lanes out = {_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)),
                     _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
    return out;
}
static inline ppn_lanes ppn_get_low16_simd(const int16_t *p) {
    ppn_lanes out = {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)),
                     _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
    return out;
}
static inline ppn_lanes ppn_get8_simd(const int8_t *p, uint32_t count, int8_t rest) {
    int8_t all[16];
    for (uint32_t k = count; k < 16; k++) all[k] = rest;
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(count == 16 ? p : memcpy(all, p, count)));
    ppn_lanes out = {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x))};
    return out;
}
static inline int ppn_negative_simd(ppn_lanes x) {
    return _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_or_si256(x.low, x.high))) != 0;
}
static inline __m256i ppn_narrow_simd(ppn_lanes x) { /* all lanes fit int16 */
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xD8);
}
static inline void ppn_put16_simd(int16_t *p, ppn_lanes x) {
    _mm256_storeu_si256((__m256i *)(void *)p, ppn_narrow_simd(x));
}
static inline void ppn_put_low16_simd(int16_t *p, ppn_lanes x) { /* 0 .. 65535 */
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(x.low, x.high), 0xD8));
}
static inline void ppn_put8_simd(int8_t *p, ppn_lanes x) {
    __m256i y = ppn_narrow_simd(x);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packs_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1)));
}
static inline uint32_t ppn_fold_simd(ppn_lanes x) {
    __m256i y = _mm256_or_si256(x.low, x.high);
    __m128i z = _mm_or_si128(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    z = _mm_or_si128(z, _mm_unpackhi_epi64(z, z));
    return (uint32_t)_mm_cvtsi128_si32(z) | (uint32_t)_mm_extract_epi32(z, 1);
}
static inline __m256i
ppn_half_lengths(__m256i x) { /* the exponent of a float; of two set bits side by side one is left */
    __m256 y = _mm256_cvtepi32_ps(_mm256_andnot_si256(_mm256_srli_epi32(x, 1), x));
    __m256i e = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(y), 23), _mm256_set1_epi32(126));
    return _mm256_max_epi32(e, _mm256_setzero_si256());
}
static inline ppn_lanes ppn_lengths_simd(ppn_lanes x) {
    ppn_lanes out = {ppn_half_lengths(x.low), ppn_half_lengths(x.high)};
    return out;
}
static inline ppn_lanes ppn_largest_simd(const ppn_lanes x[16]) {
    int32_t out[16];
    for (int i = 0; i < 16; i++) {
        __m256i y = _mm256_max_epi32(x[i].low, x[i].high);
        __m128i z = _mm_max_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
        z = _mm_max_epi32(z, _mm_unpackhi_epi64(z, z));
        out[i] = _mm_cvtsi128_si32(_mm_max_epi32(z, _mm_shuffle_epi32(z, 1)));
    }
    return ppn_get_simd(out);
}
static inline ppn_lanes ppn_get_rows8_simd(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    const __m128i each = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m128i x = _mm_shuffle_epi8(_mm_cvtsi32_si128(four), each);
    ppn_lanes out = {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x))};
    return out;
}
static inline ppn_lanes ppn_columns_simd(const int16_t *m) {
    __m128i sums[4];
    for (int i = 0; i < 4; i++) {
        ppn_lanes x = ppn_get16_simd(m + 16 * i);
        __m256i y = _mm256_add_epi32(x.low, x.high);
        sums[i] = _mm_add_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    }
    ppn_lanes out = {_mm256_set_m128i(sums[1], sums[0]), _mm256_set_m128i(sums[3], sums[2])};
    return out;
}
static inline ppn_lanes ppn_above_simd(ppn_lanes a, ppn_lanes b, ppn_lanes x, ppn_lanes y) {
    ppn_lanes out = {_mm256_blendv_epi8(y.low, x.low, _mm256_cmpgt_epi32(a.low, b.low)),
                     _mm256_blendv_epi8(y.high, x.high, _mm256_cmpgt_epi32(a.high, b.high))};
    return out;
}
static inline ppn_lanes ppn_signed_simd(ppn_lanes x, ppn_lanes sign) {
    ppn_lanes out = {_mm256_sign_epi32(x.low, sign.low), _mm256_sign_epi32(x.high, sign.high)};
    return out;
}
static inline ppn_lanes ppn_pairs_simd(const int16_t *table, ppn_lanes index) {
    ppn_lanes out = {_mm256_i32gather_epi32((const int *)(const void *)table, index.low, 2),
                     _mm256_i32gather_epi32((const int *)(const void *)table, index.high, 2)};
    return out;
}
static inline ppn_lanes ppn_iota_simd(void) {
    ppn_lanes out = {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
    return out;
}
PPN_EACH ppn_lanes ppn_repeat_simd(const int32_t *p, uint32_t count) {
    __m256i half = ppn_repeat_half(p, count);
    ppn_lanes out = {half, half};
    return out;
}
static inline ppn_lanes ppn_pair_simd(ppn_lanes x, ppn_lanes y) {
    ppn_lanes out = {_mm256_blend_epi16(x.low, _mm256_slli_epi32(y.low, 16), 0xAA),
                     _mm256_blend_epi16(x.high, _mm256_slli_epi32(y.high, 16), 0xAA)};
    return out;
}
static inline ppn_lanes ppn_turn_bytes_simd(ppn_lanes x) {
    const __m128i turned = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i both = _mm256_broadcastsi128_si256(turned);
    ppn_lanes out = {_mm256_shuffle_epi8(x.low, both), _mm256_shuffle_epi8(x.high, both)};
    return out;
}
static inline ppn_lanes ppn_get_quarters_simd(const void *p, size_t apart) {
    const uint8_t *from = p;
    const __m128i *x = (const void *)from, *y = (const void *)(from + apart);
    const __m128i *z = (const void *)(from + 2 * apart), *w = (const void *)(from + 3 * apart);
    ppn_lanes out = {_mm256_loadu2_m128i(y, x), _mm256_loadu2_m128i(w, z)};
    return out;
}
static inline void ppn_put_quarters_simd(void *p, size_t apart, ppn_lanes x) {
    uint8_t *to = p;
    _mm256_storeu2_m128i((void *)(to + apart), (void *)to, x.low);
    _mm256_storeu2_m128i((void *)(to + 3 * apart), (void *)(to + 2 * apart), x.high);
}
static inline void ppn_turn_quarters_simd(ppn_lanes *x) {
    ppn_lanes a = x[0], b = x[4], c = x[8], d = x[12];
    x[0].low = _mm256_permute2x128_si256(a.low, b.low, 0x20);
    x[0].high = _mm256_permute2x128_si256(c.low, d.low, 0x20);
    x[4].low = _mm256_permute2x128_si256(a.low, b.low, 0x31);
    x[4].high = _mm256_permute2x128_si256(c.low, d.low, 0x31);
    x[8].low = _mm256_permute2x128_si256(a.high, b.high, 0x20);
    x[8].high = _mm256_permute2x128_si256(c.high, d.high, 0x20);
    x[12].low = _mm256_permute2x128_si256(a.high, b.high, 0x31);
    x[12].high = _mm256_permute2x128_si256(c.high, d.high, 0x31);
}

#endif

PPN_LANES_BINARY(add, add_epi32)
PPN_LANES_BINARY(sub, sub_epi32)
PPN_LANES_BINARY(mul, mullo_epi32)
PPN_LANES_BINARY(min, min_epi32)
PPN_LANES_BINARY(max, max_epi32)
PPN_LANES_BINARY(madd, madd_epi16)
PPN_LANES_BINARY(left_by, sllv_epi32)
PPN_LANES_BINARY(down_by, srlv_epi32)  /* logical */
PPN_LANES_BINARY(asr_by, srav_epi32)   /* arithmetic */
PPN_LANES_BINARY(packs32, packs_epi32) /* this and those below: in each quarter, four lanes */
PPN_LANES_BINARY(packs16, packs_epi16)
PPN_LANES_BINARY(low32, unpacklo_epi32)
PPN_LANES_BINARY(high32, unpackhi_epi32)
PPN_LANES_BINARY(low64, unpacklo_epi64)
PPN_LANES_BINARY(high64, unpackhi_epi64)
PPN_LANES_SHIFT(left, sll_epi32)
PPN_LANES_SHIFT(down, srl_epi32) /* logical */
PPN_LANES_SHIFT(asr, sra_epi32)  /* arithmetic */
#if PPN_SIMD < 3
static inline ppn_lanes ppn_high16_simd(ppn_lanes x) { return ppn_down_simd(x, 16); }
#endif

/* ---- products of 4x4 blocks ------------------------------------------------------------------------------------ */

/* A left operand, its rows spread over the lanes once for many right operands: row i in lanes 4 i .. 4 i + 3, its
 * elements k = 0, 1 (low) and k = 2, 3 (high) as pairs of int16. */
typedef struct {
    ppn_lanes low, high;
} ppn_left;

/* A right operand: row j in lane 4 i + j of every i. */
typedef struct {
#if PPN_SIMD >= 3
    __m512i low, high;
#else
    __m256i low, high;
#endif
} ppn_right;

static inline __m256i ppn_load_simd(const ppn_operand *o, ptrdiff_t block) {
    if (o->wide) return _mm256_loadu_si256((const __m256i *)(const void *)((const int16_t *)o->mantissas + 16 * block));
    const int8_t *from = (const int8_t *)o->mantissas + 16 * block;
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)from));
}

/* The block with k running along its rows. */
static inline __m256i ppn_rows_simd(const ppn_operand *o, ptrdiff_t block) {
    __m256i m = ppn_load_simd(o, block);
    if (!o->turned) return m;
    /* interleave rows 0, 1 and 2, 3 within 128-bit halves, then gather the dwords of each column */
    const __m256i pairs = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8, 9, 2, 3, 10,
                                           11, 4, 5, 12, 13, 6, 7, 14, 15);
    return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(m, pairs), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
static inline void ppn_put_rows_simd(int16_t *to, const ppn_operand *o, ptrdiff_t block) {
    _mm256_storeu_si256((__m256i *)(void *)to, ppn_rows_simd(o, block));
}

#if PPN_SIMD >= 3

/* Which two of a block's 16 mantissas go to lane 4 i + j, for k = 0, 1: [side][turned]. A left operand gives its row i,
 * a right one its row j. For k = 2, 3 add 2, or 8 if turned. */
static const int16_t PPN_PAIR_INDEX[2][2][32] = {
    {{0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5, 8, 9, 8, 9, 8, 9, 8, 9, 12, 13, 12, 13, 12, 13, 12, 13},
     {0, 4, 0, 4, 0, 4, 0, 4, 1, 5, 1, 5, 1, 5, 1, 5, 2, 6, 2, 6, 2, 6, 2, 6, 3, 7, 3, 7, 3, 7, 3, 7}},
    {{0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13},
     {0, 4, 1, 5, 2, 6, 3, 7, 0, 4, 1, 5, 2, 6, 3, 7, 0, 4, 1, 5, 2, 6, 3, 7, 0, 4, 1, 5, 2, 6, 3, 7}},
};

static inline __m512i ppn_pairs_of(const int16_t *index, int by, __m256i block) {
    __m512i at = _mm512_add_epi16(_mm512_loadu_si512(index), _mm512_set1_epi16((int16_t)by));
    return _mm512_permutexvar_epi16(at, _mm512_castsi256_si512(block));
}
static inline ppn_left ppn_spread_simd(const ppn_operand *o, ptrdiff_t block) {
    __m256i a = ppn_load_simd(o, block);
    const int16_t *index = PPN_PAIR_INDEX[0][o->turned];
    ppn_left out = {ppn_pairs_of(index, 0, a), ppn_pairs_of(index, o->turned ? 8 : 2, a)};
    return out;
}
/* The operand with its mantissas shifted up; they keep within int16. */
static inline ppn_left ppn_lifted_simd(ppn_left a, int by) {
    __m128i s = _mm_cvtsi32_si128(by);
    ppn_left out = {_mm512_sll_epi16(a.low, s), _mm512_sll_epi16(a.high, s)};
    return out;
}
static inline ppn_right ppn_right_simd(const ppn_operand *o, ptrdiff_t block) {
    __m256i b = ppn_load_simd(o, block);
    const int16_t *index = PPN_PAIR_INDEX[1][o->turned];
    ppn_right out = {ppn_pairs_of(index, 0, b), ppn_pairs_of(index, o->turned ? 8 : 2, b)};
    return out;
}
/* A right operand as 16 int16, for products to come. */
static inline void ppn_put_right_simd(int16_t *to, ppn_right b) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_castsi512_si128(b.low));
    _mm_storeu_si128((__m128i *)(void *)(to + 8), _mm512_castsi512_si128(b.high));
}
static inline ppn_right ppn_get_right_simd(const int16_t *p) {
    ppn_right out = {_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p)),
                     _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
    return out;
}
/* out[i][j] = sum over k of a[i][k] b[j][k] */
static inline ppn_lanes ppn_dot_simd(ppn_left a, ppn_right b) {
    return _mm512_dpwssd_epi32(_mm512_madd_epi16(a.low, b.low), a.high, b.high);
}

static inline ppn_lanes ppn_dot_onto_simd(ppn_lanes acc, ppn_left a, ppn_right b) {
    return _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(acc, a.low, b.low), a.high, b.high);
}

/* Eight lanes of the sum of two int32 in 64 bits, rounded. */
static inline __m256i ppn_rnd_wide_simd(__m256i x, __m256i y, int s) {
    __m512i sum = _mm512_add_epi64(_mm512_cvtepi32_epi64(x), _mm512_cvtepi32_epi64(y));
    sum = _mm512_add_epi64(sum, _mm512_set1_epi64((INT64_C(1) << s) >> 1));
    return _mm512_cvtepi64_epi32(_mm512_sra_epi64(sum, _mm_cvtsi32_si128(s)));
}
/* The product for widths that need 64 bits, rounded by 2^s, 0 < s <= 40: its two halves still fit 32,
 * 2 (2^15 - 1)^2 < 2^31. */
static inline ppn_lanes ppn_dot_wide_simd(ppn_left a, ppn_right b, int s) {
    __m512i x = _mm512_madd_epi16(a.low, b.low), y = _mm512_madd_epi16(a.high, b.high);
    __m256i low = ppn_rnd_wide_simd(_mm512_castsi512_si256(x), _mm512_castsi512_si256(y), s);
    __m256i high = ppn_rnd_wide_simd(_mm512_extracti64x4_epi64(x, 1), _mm512_extracti64x4_epi64(y, 1), s);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

#else

static inline ppn_left ppn_spread_simd(const ppn_operand *o, ptrdiff_t block) {
    __m256i a = ppn_rows_simd(o, block);
    ppn_left out = {{_mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2)),
                     _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6))},
                    {_mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3)),
                     _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(5, 5, 5, 5, 7, 7, 7, 7))}};
    return out;
}
static inline ppn_left ppn_lifted_simd(ppn_left a, int by) {
    __m128i s = _mm_cvtsi32_si128(by);
    ppn_left out = {{_mm256_sll_epi16(a.low.low, s), _mm256_sll_epi16(a.low.high, s)},
                    {_mm256_sll_epi16(a.high.low, s), _mm256_sll_epi16(a.high.high, s)}};
    return out;
}
static inline ppn_right ppn_right_simd(const ppn_operand *o, ptrdiff_t block) {
    __m256i b = ppn_rows_simd(o, block);
    ppn_right out = {_mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)),
                     _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(1, 3, 5, 7, 1, 3, 5, 7))};
    return out;
}
static inline void ppn_put_right_simd(int16_t *to, ppn_right b) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(b.low));
    _mm_storeu_si128((__m128i *)(void *)(to + 8), _mm256_castsi256_si128(b.high));
}
static inline ppn_right ppn_get_right_simd(const int16_t *p) {
    ppn_right out = {_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p)),
                     _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
    return out;
}
static inline ppn_lanes ppn_dot_simd(ppn_left a, ppn_right b) {
    ppn_lanes out = {_mm256_add_epi32(_mm256_madd_epi16(a.low.low, b.low), _mm256_madd_epi16(a.high.low, b.high)),
                     _mm256_add_epi32(_mm256_madd_epi16(a.low.high, b.low), _mm256_madd_epi16(a.high.high, b.high))};
    return out;
}
static inline ppn_lanes ppn_dot_onto_simd(ppn_lanes acc, ppn_left a, ppn_right b) {
    return ppn_add_simd(acc, ppn_dot_simd(a, b));
}

#endif

#endif
