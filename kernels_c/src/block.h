/* block.h: arithmetic on one 4x4 block (spec 1 to 3). Internal; everything is inline.
 *
 * Plain C for any machine; what is hot on x86-64 has a twin in simd.h, with the same bits. */
#ifndef PPN_BLOCK_H
#define PPN_BLOCK_H

#include "ppn/ppn.h"
#include "simd.h"

#include <string.h>

#if defined(__ARM_ARCH_6M__) /* Cortex-M0, M0+: cortexm0.c */
#define PPN_M0 1
#define PPN_APART __attribute__((noinline)) /* so that its stack is not its caller's */
#define PPN_SMALL __attribute__((cold))     /* small rather than fast */
/* Copy a block of 16-bit mantissas that is word-aligned at both ends (others need not be). */
#define PPN_COPY(to, from) __builtin_memcpy(__builtin_assume_aligned(to, 4), __builtin_assume_aligned(from, 4), 32)
#else
#define PPN_M0 0
#define PPN_APART
#define PPN_SMALL
#define PPN_COPY(to, from) memcpy(to, from, 32)
#endif

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_ARCH_PROFILE) /* Cortex-M4, M7, M33: cortexm4.c */
#define PPN_M4 (__ARM_ARCH_PROFILE == 'M')
#else
#define PPN_M4 0
#endif

#define PPN_M0_PAIRS 2 /* |turned| of a matrix packed by ppn_m0_pack() */
#define LANES for (int l = 0; l < 16; l++)
#define UNUSED_TERM INT16_MIN /* exponent of a term left out of an aligned sum */

static inline int ppn_min(int a, int b) { return a < b ? a : b; }
static inline int ppn_max(int a, int b) { return a > b ? a : b; }
static inline int32_t ppn_clip(int32_t x, int32_t m) { return x > m ? m : x < -m ? -m : x; }
static inline int32_t ppn_abs(int32_t x) { return x < 0 ? (int32_t)(0u - (uint32_t)x) : x; } /* -2^31 stays */
static inline int32_t ppn_largest(int bits) { return (1 << (bits - 1)) - 1; }

/* Number of bits of x. */
static inline int ppn_length(uint32_t x) {
#if PPN_SIMD
    return x ? 32 - __builtin_clz(x) : 0;
#else
    int n = 0;
    if (x >> 16) x >>= 16, n += 16;
    if (x >> 8) x >>= 8, n += 8;
    if (x >> 4) x >>= 4, n += 4;
    if (x >> 2) x >>= 2, n += 2;
    return n + (int)(x < 2 ? x : 2);
#endif
}

/* round(x / 2^s), halves up, 0 <= s; |x| <= 2^30, so x + 2^(s-1) <= 2^30 + 2^29 for s <= 30 fits; 0 beyond. */
static inline int32_t ppn_rnd(int32_t x, int s) {
    if (s > 30) return 0;
    return (x + ((1 << s) >> 1)) >> s;
}

/* m 2^(e + fraction) as fixed point limited to +-limit; |m| < 2^15, limit < 2^26. */
static inline int32_t ppn_fix(int32_t m, int e, int fraction, int32_t limit) {
    int s = e + fraction;
    /* |m| 2^15 < 2^30; multiply: shifting a negative number left is undefined */
    return ppn_clip(s >= 0 ? m * (1 << ppn_min(s, 15)) : ppn_rnd(m, -s), limit);
}

static inline uint32_t ppn_mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* How a block is rounded when encoded: to nearest, or by the random numbers key, index .. index + 15. */
typedef struct {
    uint32_t key, index;
    int stochastic;
} ppn_rounding;

static const ppn_rounding PPN_NEAREST = {0, 0, 0};

/* The scale of an encoding (spec 2.2): mantissas are x / 2^shift, the block's exponent is e. */
typedef struct {
    int shift, e;
} ppn_scaling;

/* For a block whose magnitudes OR to |all|, not 0, with exponent e; shift 32 stands for a zero block. */
static inline ppn_scaling ppn_scaling_of(uint32_t all, int e, int bits) {
    int s = ppn_length(all) - (bits - 1), under = ppn_max(0, -127 - (e + s));
    ppn_scaling out = {ppn_min(s + under, 32), e + s + under};
    return out;
}

/* The rare ends of an encoding: everything rounds to zero, or the exponent saturates. */
static inline PPN_SMALL int ppn_encode_rare(const int32_t *x, ppn_scaling to, int bits, int16_t *m, int *flags) {
    int32_t top = ppn_largest(bits);
    memset(m, 0, 16 * sizeof *m);
    if (to.shift == 32) return PPN_ZERO_EXP;
    *flags |= PPN_OVERFLOW;
    LANES m[l] = (int16_t)(x[l] > 0 ? top : x[l] < 0 ? -top : 0);
    return 127;
}

static inline uint32_t ppn_random(ppn_rounding how, int l) {
    return ppn_mix(how.key + (how.index + (uint32_t)l) * 0x9E3779B9u);
}

static inline PPN_SMALL int ppn_encode_plain(const int32_t *x, int e, int bits, ppn_rounding how, int16_t *m,
                                             int *flags) {
    uint32_t all = 0;
    LANES all |= (uint32_t)ppn_abs(x[l]);
    ppn_scaling to = {32, 0};
    if (all) to = ppn_scaling_of(all, e, bits);
    if (to.shift == 32 || to.e > 127) return ppn_encode_rare(x, to, bits, m, flags);
    if (to.shift <= 0) {
        LANES m[l] = (int16_t)(x[l] * (1 << -to.shift)); /* |x| < 2^(bits-1+shift): exact */
        return to.e;
    }
    /* |x| + r <= 2^31 - 1 + 2^31 - 1 < 2^32 */
    uint32_t mask = (1u << to.shift) - 1u, half = 1u << (to.shift - 1), any = 0;
    int32_t top = ppn_largest(bits);
    LANES {
        uint32_t r = how.stochastic ? ppn_random(how, l) & mask : half;
        int32_t v = ppn_min((int32_t)(((uint32_t)ppn_abs(x[l]) + r) >> to.shift), top);
        any |= (uint32_t)v;
        m[l] = (int16_t)(x[l] < 0 ? -v : v);
    }
    return any ? to.e : PPN_ZERO_EXP;
}

#if PPN_M0
/* The same; |m| is int16, or int8 if not |wide|; no |random|: nearest. */
int ppn_m0_encode(const int32_t *x, int e, int bits, const ppn_rounding *random, void *m, int wide, int *flags);

/* out = x y; out = rnd(x y, shift); out += rnd(x y, shift); shift >= 1. x, y and m, q below are word-aligned. */
void ppn_m0_times(const int16_t *x, const int16_t *y, int32_t *out);
void ppn_m0_times_kept(const int16_t *x, const int16_t *y, int16_t *m); /* m = rnd(x y, 15) */
void ppn_m0_multiply(const int16_t *x, const int16_t *y, int32_t *out, int shift);
void ppn_m0_multiply_add(const int16_t *x, const int16_t *y, int32_t *out, int shift);

/* tanh of z = m 2^(s - 22), 0 <= s <= 10: h, then p1, p2, p3, as ppn_curve has them. */
void ppn_m0_tanh(const int16_t *m, int s, int16_t *curve, const int16_t *table);

/* words = 2^up m */
void ppn_m0_spread16(const void *m, int32_t *words, int up);

/* acc = rnd(acc, down) + add of the column. */
void ppn_m0_bias(int32_t *acc, const int32_t *add, int down);

/* m = rnd(x, 15); q = rnd(a a, 15). */
void ppn_m0_keep(const int32_t *x, int16_t *m);
void ppn_m0_square(const int16_t *a, int16_t *q);
#endif

/* Encode x (exponent e) to SMX(bits): mantissas to m, answers the exponent (spec 2.2). |x| <= 2^31 - 1. */
static inline int ppn_encode16(const int32_t *x, int e, int bits, ppn_rounding how, int16_t *m, int *flags) {
#if PPN_M0
    return ppn_m0_encode(x, e, bits, how.stochastic ? &how : NULL, m, 1, flags);
#else
    return ppn_encode_plain(x, e, bits, how, m, flags);
#endif
}

#if PPN_SIMD
/* The same for lanes in registers. No branch depends on the shift: its sign changes from block to block. */
static inline int ppn_encode_simd(ppn_lanes x, int e, int bits, ppn_rounding how, ppn_lanes *m, int *flags) {
    ppn_lanes size = ppn_abs_simd(x);
    uint32_t all = ppn_fold_simd(size);
    if (!all) {
        *m = x;
        return PPN_ZERO_EXP;
    }
    int s = 32 - __builtin_clz(all) - (bits - 1);
    if (e + s < -126 || e + s > 127) { /* near an end of the exponents */
        int32_t lanes[16];
        int16_t mantissas[16];
        ppn_put_simd(lanes, x);
        e = ppn_encode16(lanes, e, bits, how, mantissas, flags);
        *m = ppn_get16_simd(mantissas);
        return e;
    }
    int down = ppn_max(s, 0); /* then r is 0 for s <= 0 */
    ppn_lanes r = ppn_all_simd((1 << down) >> 1);
    if (how.stochastic) {
        ppn_lanes step = ppn_mul_simd(ppn_iota_simd(), ppn_all_simd((int32_t)0x9E3779B9u));
        r = ppn_mix_simd(ppn_add_simd(step, ppn_all_simd((int32_t)(how.key + how.index * 0x9E3779B9u))));
        r = ppn_and_simd(r, ppn_all_simd((1 << down) - 1)); /* down <= 28 */
    }
    size = ppn_down_simd(ppn_add_simd(ppn_left_simd(size, ppn_max(-s, 0)), r), down);
    *m = ppn_signed_simd(ppn_min_simd(size, ppn_all_simd(ppn_largest(bits))), x);
    return e + s;
}
#endif

/* An aligned sum of |count| terms (spec 3): open it, offer every exponent, then add every term, then close it. */
typedef struct {
    int top, headroom;
} ppn_sum;

static inline ppn_sum ppn_sum_open(uint32_t count) {
    ppn_sum s = {UNUSED_TERM, ppn_length(count - 1)};
    return s;
}
static inline void ppn_sum_offer(ppn_sum *s, int e) { s->top = ppn_max(s->top, e); }

/* acc += term; with 2^headroom >= count terms of |x| <= 2^30 each rounded up at most by one, |acc| <= 2^30 + count. */
static inline void ppn_sum_add(const ppn_sum *s, const int32_t *x, int e, int32_t *acc) {
    if (e == UNUSED_TERM) return;
    int shift = s->top - e + s->headroom;
    if (shift > 30) return;
    int32_t half = (1 << shift) >> 1;
    LANES acc[l] += (x[l] + half) >> shift;
}

/* acc += x y, aligned, or = if |fresh|; |x y| <= 2^30. Answers whether |acc| is still to be set. */
static inline int ppn_sum_product(const ppn_sum *s, const int16_t *x, const int16_t *y, int e, int fresh,
                                  int32_t *acc) {
    int shift = s->top - e + s->headroom;
    if (e == UNUSED_TERM || shift > 30) return fresh;
#if PPN_M0
    if (!shift) /* the only term */
        ppn_m0_times(x, y, acc);
    else if (fresh)
        ppn_m0_multiply(x, y, acc, shift);
    else
        ppn_m0_multiply_add(x, y, acc, shift);
#else
    int32_t half = (1 << shift) >> 1;
    LANES acc[l] = (fresh ? 0 : acc[l]) + ((x[l] * y[l] + half) >> shift);
#endif
    return 0;
}
static inline void ppn_sum_close(int fresh, int32_t *acc) {
    if (fresh) memset(acc, 0, 16 * sizeof *acc);
}
static inline int ppn_sum_exp(const ppn_sum *s) { return s->top == UNUSED_TERM ? PPN_EMPTY_EXP : s->top + s->headroom; }

/* The two-term aligned sum. */
static inline int ppn_sum2(const int32_t *x, int ex, const int32_t *y, int ey, int32_t *out) {
    ppn_sum s = ppn_sum_open(2);
    ppn_sum_offer(&s, ex);
    ppn_sum_offer(&s, ey);
    memset(out, 0, 16 * sizeof *out);
    ppn_sum_add(&s, x, ex, out);
    ppn_sum_add(&s, y, ey, out);
    return ppn_sum_exp(&s);
}

/* The same of products x p and y q. */
static inline int ppn_sum2_products(const int16_t *x, const int16_t *p, int ex, const int16_t *y, const int16_t *q,
                                    int ey, int32_t *out) {
    ppn_sum s = ppn_sum_open(2);
    ppn_sum_offer(&s, ex);
    ppn_sum_offer(&s, ey);
    int fresh = ppn_sum_product(&s, x, p, ex, 1, out);
    ppn_sum_close(ppn_sum_product(&s, y, q, ey, fresh, out), out);
    return ppn_sum_exp(&s);
}

/* ---- stored blocks -------------------------------------------------------------------------------------------- */

/* A run of SMX blocks in memory: int8 or int16 mantissas, |step| blocks apart, each read turned over or not. */
typedef struct {
    const void *mantissas;
    const int8_t *exps;
    int step;
    uint8_t wide, turned, bits;
} ppn_run;

static inline void ppn_move(ppn_run *run, int blocks) {
    run->mantissas = (const int8_t *)run->mantissas + (ptrdiff_t)blocks * (run->wide ? 32 : 16);
    run->exps += blocks;
}
static inline ppn_run ppn_run_at(ppn_run run, int block) {
    ppn_move(&run, block);
    return run;
}

/* Write one block of a row or matrix of |blocks| blocks, stored as all mantissas (int16 if |wide|), then all exponents.
 */
static inline void ppn_store(uint8_t *at, uint32_t blocks, int wide, uint32_t block, const int16_t *m, int e) {
    if (wide) {
        memcpy(at + block * 32, m, 32);
        at[blocks * 32 + block] = (uint8_t)e;
    } else {
        int8_t *to = (int8_t *)at + block * 16;
        LANES to[l] = (int8_t)m[l];
        at[blocks * 16 + block] = (uint8_t)e;
    }
}

#if PPN_SIMD
static inline void ppn_store_simd(uint8_t *at, uint32_t blocks, int wide, uint32_t block, ppn_lanes m, int e) {
    if (wide)
        ppn_put16_simd((int16_t *)(void *)(at + block * 32), m);
    else
        ppn_put8_simd((int8_t *)at + block * 16, m);
    at[blocks * (wide ? 32 : 16) + block] = (uint8_t)e;
}
#endif

/* Sum of the exponents of a pair, or UNUSED_TERM if one block is zero. */
static inline int ppn_pair_exp(int ea, int eb) {
    return ea == PPN_ZERO_EXP || eb == PPN_ZERO_EXP ? UNUSED_TERM : ea + eb;
}

/* Least h with n (floor(4 M(p) M(q) / 2^h) + 1) <= 2^30 (spec 3). */
static inline int ppn_headroom(int n, int p, int q) {
    uint64_t bound = 4u * (uint64_t)ppn_largest(p) * (uint64_t)ppn_largest(q); /* < 2^32 */
    int h = 0;
    while ((uint64_t)n * ((bound >> h) + 1) > (1u << 30)) h++;
    return h;
}

/* Encode x (exponent e) into block |block| of a stored row or matrix of |blocks| blocks, int16 if |wide|. */
static inline void ppn_encode_to(const int32_t *x, int e, int bits, ppn_rounding how, uint8_t *at, uint32_t blocks,
                                 int wide, uint32_t block, int *flags) {
#if PPN_SIMD
    ppn_lanes m;
    e = ppn_encode_simd(ppn_get_simd(x), e, bits, how, &m, flags);
    ppn_store_simd(at, blocks, wide, block, m, e);
#elif PPN_M0
    uint32_t size = wide ? 32 : 16;
    const ppn_rounding *random = how.stochastic ? &how : NULL;
    at[blocks * size + block] = (uint8_t)ppn_m0_encode(x, e, bits, random, at + block * size, wide, flags);
#else
    int16_t m[16];
    e = ppn_encode16(x, e, bits, how, m, flags);
    ppn_store(at, blocks, wide, block, m, e);
#endif
}

/* Encode |count| blocks to SMX(bits), nearest; the exponent of block k is x_exps[k * step]. Answers flags. */
static inline int ppn_encode_blocks(uint32_t count, const int32_t *x, const int16_t *x_exps, uint32_t step, int bits,
                                    int16_t *m, int8_t *exps) {
    int flags = 0;
    for (uint32_t k = 0; k < count; k++) {
#if PPN_SIMD
        ppn_lanes out;
        exps[k] = (int8_t)ppn_encode_simd(ppn_get_simd(x + 16 * k), x_exps[k * step], bits, PPN_NEAREST, &out, &flags);
        ppn_put16_simd(m + 16 * k, out);
#else
        exps[k] = (int8_t)ppn_encode16(x + 16 * k, x_exps[k * step], bits, PPN_NEAREST, m + 16 * k, &flags);
#endif
    }
    return flags;
}

#endif
