/* avx512_in_c.h: the AVX-512 intrinsics of kernels_c/src/lanes_x86.h in plain C, as Intel's manual defines them, so
 * that the code written with them runs, slowly, on a processor that has AVX2 alone. For gcc's -include. */
#pragma GCC system_header /* no warnings: gcc has vectors of 64 bytes without AVX-512, and says how it passes them */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef union {
    __m512i all;
    __m256i half[2];
    __m128i quarter[4];
    int64_t q[8];
    int32_t d[16];
    uint32_t u[16];
    int16_t w[32];
    uint16_t uw[32];
    int8_t b[64];
} c512;

static inline c512 c_of(__m512i x) {
    c512 out = {x};
    return out;
}

/* ---- element by element: what is written as x[i] and y[i] of a field makes that of r ---- */

#define C_UNARY(name, field, count, value)                                                                             \
    static inline __m512i c_##name(__m512i x_) {                                                                       \
        c512 x = c_of(x_), r;                                                                                          \
        for (int i = 0; i < count; i++) r.field[i] = value;                                                            \
        return r.all;                                                                                                  \
    }
#define C_BINARY(name, field, count, value)                                                                            \
    static inline __m512i c_##name(__m512i x_, __m512i y_) {                                                           \
        c512 x = c_of(x_), y = c_of(y_), r;                                                                            \
        for (int i = 0; i < count; i++) r.field[i] = value;                                                            \
        return r.all;                                                                                                  \
    }
#define C_SHIFT(name, field, count, value)                                                                             \
    static inline __m512i c_##name(__m512i x_, __m128i by) {                                                           \
        c512 x = c_of(x_), r;                                                                                          \
        uint64_t s = (uint64_t)_mm_cvtsi128_si64(by);                                                                  \
        for (int i = 0; i < count; i++) r.field[i] = value;                                                            \
        return r.all;                                                                                                  \
    }
#define C_SATURATED(x, most) ((x) > (most) ? (most) : (x) < -(most) - 1 ? -(most) - 1 : (x))

C_UNARY(abs_epi32, u, 16, x.d[i] < 0 ? 0u - x.u[i] : x.u[i])
C_UNARY(lzcnt_epi32, d, 16, x.d[i] ? __builtin_clz(x.u[i]) : 32)
C_BINARY(add_epi32, u, 16, x.u[i] + y.u[i])
C_BINARY(sub_epi32, u, 16, x.u[i] - y.u[i])
C_BINARY(mullo_epi32, u, 16, x.u[i] * y.u[i])
C_BINARY(min_epi32, d, 16, x.d[i] < y.d[i] ? x.d[i] : y.d[i])
C_BINARY(max_epi32, d, 16, x.d[i] > y.d[i] ? x.d[i] : y.d[i])
C_BINARY(and_si512, q, 8, x.q[i] & y.q[i])
C_BINARY(or_si512, q, 8, x.q[i] | y.q[i])
C_BINARY(xor_si512, q, 8, x.q[i] ^ y.q[i])
C_BINARY(add_epi16, uw, 32, (uint16_t)(x.uw[i] + y.uw[i]))
C_BINARY(add_epi64, q, 8, (int64_t)((uint64_t)x.q[i] + (uint64_t)y.q[i]))
C_BINARY(madd_epi16, u, 16, (uint32_t)(x.w[2 * i] * y.w[2 * i]) + (uint32_t)(x.w[2 * i + 1] * y.w[2 * i + 1]))
C_BINARY(sllv_epi32, u, 16, y.u[i] > 31 ? 0 : x.u[i] << y.u[i])
C_BINARY(srlv_epi32, u, 16, y.u[i] > 31 ? 0 : x.u[i] >> y.u[i])
C_BINARY(srav_epi32, d, 16, x.d[i] >> (y.u[i] > 31 ? 31 : y.u[i]))
C_BINARY(rolv_epi32, u, 16, x.u[i] << (y.u[i] & 31) | x.u[i] >> (-y.u[i] & 31))
C_SHIFT(sll_epi32, u, 16, s > 31 ? 0 : x.u[i] << s)
C_SHIFT(srl_epi32, u, 16, s > 31 ? 0 : x.u[i] >> s)
C_SHIFT(sra_epi32, d, 16, x.d[i] >> (s > 31 ? 31 : s))
C_SHIFT(sll_epi16, uw, 32, s > 15 ? 0 : (uint16_t)(x.uw[i] << s))
C_SHIFT(sra_epi64, q, 8, x.q[i] >> (s > 63 ? 63 : s))

static inline __m512i c_dpwssd_epi32(__m512i sum, __m512i x, __m512i y) { return c_add_epi32(sum, c_madd_epi16(x, y)); }
static inline __m512i c_slli_epi32(__m512i x, unsigned s) { return c_sll_epi32(x, _mm_cvtsi32_si128((int)s)); }

/* ---- elements that move; in each quarter, four lanes, where it is said ---- */

C_BINARY(permutexvar_epi32, d, 16, y.d[x.d[i] & 15])
C_BINARY(permutexvar_epi16, w, 32, y.w[x.w[i] & 31])
C_BINARY(shuffle_epi8, b, 64, y.b[i] < 0 ? 0 : x.b[i / 16 * 16 + (y.b[i] & 15)]) /* in each quarter, as those below */
C_BINARY(unpacklo_epi32, d, 16, (i % 2 ? y : x).d[i / 4 * 4 + i % 4 / 2])
C_BINARY(unpackhi_epi32, d, 16, (i % 2 ? y : x).d[i / 4 * 4 + i % 4 / 2 + 2])
C_BINARY(unpacklo_epi64, q, 8, (i % 2 ? y : x).q[i / 2 * 2])
C_BINARY(unpackhi_epi64, q, 8, (i % 2 ? y : x).q[i / 2 * 2 + 1])
C_BINARY(packs_epi32, w, 32, C_SATURATED((i % 8 < 4 ? x : y).d[i / 8 * 4 + i % 4], 32767))
C_BINARY(packs_epi16, b, 64, C_SATURATED((i % 16 < 8 ? x : y).w[i / 16 * 8 + i % 8], 127))

static inline __m512i c_shuffle_i32x4(__m512i x_, __m512i y_, int code) {
    c512 x = c_of(x_), y = c_of(y_), r;
    for (int i = 0; i < 4; i++) r.quarter[i] = (i < 2 ? x : y).quarter[code >> 2 * i & 3];
    return r.all;
}
static inline __m512i c_i32gather_epi32(__m512i index_, const void *from, int scale) {
    c512 index = c_of(index_), r;
    for (int i = 0; i < 16; i++) memcpy(&r.d[i], (const char *)from + (int64_t)index.d[i] * scale, 4);
    return r.all;
}

/* ---- masks ---- */

#define C_MASK(name, condition)                                                                                        \
    static inline uint32_t c_##name(__m512i x_, __m512i y_) {                                                          \
        c512 x = c_of(x_), y = c_of(y_);                                                                               \
        uint32_t mask = 0;                                                                                             \
        for (int i = 0; i < 16; i++) mask |= (uint32_t)(condition) << i;                                               \
        return mask;                                                                                                   \
    }
C_MASK(cmpgt_epi32_mask, x.d[i] > y.d[i])
C_MASK(cmplt_epi32_mask, x.d[i] < y.d[i])

static inline uint32_t c_movepi32_mask(__m512i x) {
    c512 zero = {0};
    return c_cmplt_epi32_mask(x, zero.all);
}
static inline __m512i c_mask_mov_epi32(__m512i other, uint32_t mask, __m512i x_) {
    c512 x = c_of(x_), r = c_of(other);
    for (int i = 0; i < 16; i++) r.d[i] = mask >> i & 1 ? x.d[i] : r.d[i];
    return r.all;
}
static inline __m512i c_mask_sub_epi32(__m512i other, uint32_t mask, __m512i x, __m512i y) {
    return c_mask_mov_epi32(other, mask, c_sub_epi32(x, y));
}
static inline __m512i c_mask_blend_epi16(uint32_t mask, __m512i x_, __m512i y_) {
    c512 y = c_of(y_), r = c_of(x_);
    for (int i = 0; i < 32; i++) r.w[i] = mask >> i & 1 ? y.w[i] : r.w[i];
    return r.all;
}
#define C_MASK_LOAD(name, vector, element)                                                                             \
    static inline vector c_##name(vector other, uint32_t mask, const void *from) {                                     \
        element r[16];                                                                                                 \
        memcpy(r, &other, sizeof r);                                                                                   \
        for (int i = 0; i < 16; i++)                                                                                   \
            if (mask >> i & 1) r[i] = ((const element *)from)[i];                                                      \
        memcpy(&other, r, sizeof r);                                                                                   \
        return other;                                                                                                  \
    }
C_MASK_LOAD(mask_loadu_epi8, __m128i, int8_t)
C_MASK_LOAD(mask_loadu_epi16, __m256i, int16_t)

/* ---- other widths: |count| elements of a shorter vector to a longer one, or back ---- */

#define C_WIDER(name, from, element, field, count)                                                                     \
    static inline __m512i c_##name(from x_) {                                                                          \
        element x[count];                                                                                              \
        c512 r;                                                                                                        \
        memcpy(x, &x_, sizeof x);                                                                                      \
        for (int i = 0; i < count; i++) r.field[i] = x[i];                                                             \
        return r.all;                                                                                                  \
    }
#define C_NARROWER(name, to, element, field, count)                                                                    \
    static inline to c_##name(__m512i x_) {                                                                            \
        element r[count];                                                                                              \
        c512 x = c_of(x_);                                                                                             \
        to out;                                                                                                        \
        for (int i = 0; i < count; i++) r[i] = (element)x.field[i];                                                    \
        memcpy(&out, r, sizeof out);                                                                                   \
        return out;                                                                                                    \
    }
C_WIDER(cvtepi8_epi32, __m128i, int8_t, d, 16)
C_WIDER(cvtepi16_epi32, __m256i, int16_t, d, 16)
C_WIDER(cvtepu16_epi32, __m256i, uint16_t, d, 16)
C_WIDER(cvtepi32_epi64, __m256i, int32_t, q, 8)
C_NARROWER(cvtepi32_epi8, __m128i, int8_t, d, 16)
C_NARROWER(cvtepi32_epi16, __m256i, int16_t, d, 16)
C_NARROWER(cvtepi64_epi32, __m256i, int32_t, q, 8)

/* ---- in, out and parts ---- */

#define C_SET(name, type, field, count)                                                                                \
    static inline __m512i c_##name(type x) {                                                                           \
        c512 r = {0};                                                                                                  \
        for (int i = 0; i < count; i++) r.field[i] = x;                                                                \
        return r.all;                                                                                                  \
    }
C_SET(set1_epi16, int16_t, w, 32)
C_SET(set1_epi32, int32_t, d, 16)
C_SET(set1_epi64, int64_t, q, 8)
C_SET(broadcast_i32x4, __m128i, quarter, 4)
C_SET(broadcast_i64x4, __m256i, half, 2)
C_SET(castsi128_si512, __m128i, quarter, 1)
C_SET(castsi256_si512, __m256i, half, 1)

static inline __m512i c_loadu(const void *from) {
    c512 r;
    memcpy(&r, from, 64);
    return r.all;
}
static inline void c_storeu(void *to, __m512i x) { memcpy(to, &x, 64); }
static inline __m512i c_with_quarter(__m512i x, __m128i part, int i) {
    c512 r = c_of(x);
    r.quarter[i] = part;
    return r.all;
}
static inline __m512i c_with_half(__m512i x, __m256i part, int i) {
    c512 r = c_of(x);
    r.half[i] = part;
    return r.all;
}

/* ---- their names ---- */

#undef _mm512_abs_epi32
#define _mm512_abs_epi32 c_abs_epi32
#undef _mm512_lzcnt_epi32
#define _mm512_lzcnt_epi32 c_lzcnt_epi32
#undef _mm512_add_epi32
#define _mm512_add_epi32 c_add_epi32
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 c_sub_epi32
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 c_mullo_epi32
#undef _mm512_min_epi32
#define _mm512_min_epi32 c_min_epi32
#undef _mm512_max_epi32
#define _mm512_max_epi32 c_max_epi32
#undef _mm512_and_si512
#define _mm512_and_si512 c_and_si512
#undef _mm512_or_si512
#define _mm512_or_si512 c_or_si512
#undef _mm512_xor_si512
#define _mm512_xor_si512 c_xor_si512
#undef _mm512_add_epi16
#define _mm512_add_epi16 c_add_epi16
#undef _mm512_add_epi64
#define _mm512_add_epi64 c_add_epi64
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 c_madd_epi16
#undef _mm512_sllv_epi32
#define _mm512_sllv_epi32 c_sllv_epi32
#undef _mm512_srlv_epi32
#define _mm512_srlv_epi32 c_srlv_epi32
#undef _mm512_srav_epi32
#define _mm512_srav_epi32 c_srav_epi32
#undef _mm512_rolv_epi32
#define _mm512_rolv_epi32 c_rolv_epi32
#undef _mm512_sll_epi32
#define _mm512_sll_epi32 c_sll_epi32
#undef _mm512_srl_epi32
#define _mm512_srl_epi32 c_srl_epi32
#undef _mm512_sra_epi32
#define _mm512_sra_epi32 c_sra_epi32
#undef _mm512_sll_epi16
#define _mm512_sll_epi16 c_sll_epi16
#undef _mm512_sra_epi64
#define _mm512_sra_epi64 c_sra_epi64
#undef _mm512_permutexvar_epi32
#define _mm512_permutexvar_epi32 c_permutexvar_epi32
#undef _mm512_permutexvar_epi16
#define _mm512_permutexvar_epi16 c_permutexvar_epi16
#undef _mm512_shuffle_epi8
#define _mm512_shuffle_epi8 c_shuffle_epi8
#undef _mm512_unpacklo_epi32
#define _mm512_unpacklo_epi32 c_unpacklo_epi32
#undef _mm512_unpackhi_epi32
#define _mm512_unpackhi_epi32 c_unpackhi_epi32
#undef _mm512_unpacklo_epi64
#define _mm512_unpacklo_epi64 c_unpacklo_epi64
#undef _mm512_unpackhi_epi64
#define _mm512_unpackhi_epi64 c_unpackhi_epi64
#undef _mm512_packs_epi32
#define _mm512_packs_epi32 c_packs_epi32
#undef _mm512_packs_epi16
#define _mm512_packs_epi16 c_packs_epi16
#undef _mm512_cmpgt_epi32_mask
#define _mm512_cmpgt_epi32_mask c_cmpgt_epi32_mask
#undef _mm512_cmplt_epi32_mask
#define _mm512_cmplt_epi32_mask c_cmplt_epi32_mask
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 c_cvtepi8_epi32
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32 c_cvtepi16_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 c_cvtepu16_epi32
#undef _mm512_cvtepi32_epi64
#define _mm512_cvtepi32_epi64 c_cvtepi32_epi64
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 c_cvtepi32_epi8
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 c_cvtepi32_epi16
#undef _mm512_cvtepi64_epi32
#define _mm512_cvtepi64_epi32 c_cvtepi64_epi32
#undef _mm512_set1_epi16
#define _mm512_set1_epi16 c_set1_epi16
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 c_set1_epi32
#undef _mm512_set1_epi64
#define _mm512_set1_epi64 c_set1_epi64
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 c_broadcast_i32x4
#undef _mm512_broadcast_i64x4
#define _mm512_broadcast_i64x4 c_broadcast_i64x4
#undef _mm512_castsi128_si512
#define _mm512_castsi128_si512 c_castsi128_si512
#undef _mm512_castsi256_si512
#define _mm512_castsi256_si512 c_castsi256_si512
#undef _mm512_dpwssd_epi32
#define _mm512_dpwssd_epi32 c_dpwssd_epi32
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 c_slli_epi32
#undef _mm512_shuffle_i32x4
#define _mm512_shuffle_i32x4 c_shuffle_i32x4
#undef _mm512_i32gather_epi32
#define _mm512_i32gather_epi32 c_i32gather_epi32
#undef _mm512_movepi32_mask
#define _mm512_movepi32_mask c_movepi32_mask
#undef _mm512_mask_mov_epi32
#define _mm512_mask_mov_epi32 c_mask_mov_epi32
#undef _mm512_mask_sub_epi32
#define _mm512_mask_sub_epi32 c_mask_sub_epi32
#undef _mm512_mask_blend_epi16
#define _mm512_mask_blend_epi16 c_mask_blend_epi16
#undef _mm512_shuffle_i64x2
#define _mm512_shuffle_i64x2 c_shuffle_i32x4
#undef _mm512_setzero_si512
#define _mm512_setzero_si512() c_set1_epi32(0)
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 c_loadu
#undef _mm512_storeu_si512
#define _mm512_storeu_si512 c_storeu
#undef _mm512_inserti32x4
#define _mm512_inserti32x4 c_with_quarter
#undef _mm512_inserti64x4
#define _mm512_inserti64x4 c_with_half
#undef _mm512_extracti32x4_epi32
#define _mm512_extracti32x4_epi32(x, i) (c_of(x).quarter[i])
#undef _mm512_extracti64x4_epi64
#define _mm512_extracti64x4_epi64(x, i) (c_of(x).half[i])
#undef _mm512_castsi512_si128
#define _mm512_castsi512_si128(x) (c_of(x).quarter[0])
#undef _mm512_castsi512_si256
#define _mm512_castsi512_si256(x) (c_of(x).half[0])
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) c_loadu((const int32_t[]){__VA_ARGS__})
#define _mm_mask_loadu_epi8 c_mask_loadu_epi8
#define _mm256_mask_loadu_epi16 c_mask_loadu_epi16
