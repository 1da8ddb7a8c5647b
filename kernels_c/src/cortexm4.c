/* cortexm4.c: see cortexm4.h. Empty on other machines. */
#include "cortexm4.h"

typedef int ppn_m4_not_empty; /* C wants a declaration in every file */

#if PPN_M4
#include "product.h"

#define UNUSED __attribute__((unused))
#define COPIED 16 /* right blocks copied at a time */

/* Columns of right blocks, at r2, as pairs in r8 and r9. Pairs of bytes are elements 0 and 2, 1 and 3. */
#define BYTES "ldr r9, [r2], #16\n sxtb16 r8, r9\n sxtb16 r9, r9, ror #8\n"
#define HALVES "ldrd r8, r9, [r2], #32\n"
#define ROW(a, b, sum) "smuad " a ", " a ", r8\n smlad " a ", " b ", r9, " a "\n smmlar " sum ", " a ", r7, " sum "\n"
#define BLOCK(column)                                                                                                  \
    column "ldmia r0!, {r3-r7}\n" ROW("r3", "r4", "r10")                                                               \
        ROW("r5", "r6", "r11") "ldmia r0!, {r3-r6}\n" ROW("r3", "r4", "r12") ROW("r5", "r6", "lr")

/* out += the sum over records up to |end|: one column of the output after another, its sums in r10 to lr, two blocks a
 * turn. On the stack: records, right column, out, its end, |odd| number of blocks. */
#define RUN(name, column, next)                                                                                        \
    __attribute__((naked, noinline)) static void name(const int32_t *records UNUSED, const int32_t *end UNUSED,        \
                                                      const void *right UNUSED, int32_t *out UNUSED, int odd UNUSED) { \
        __asm__(                                                                                                       \
            ".syntax unified\n ldr r12, [sp]\n push {r4-r11, lr}\n add lr, r3, #16\n"                                  \
            "sub sp, #20\n strd r0, r2, [sp]\n strd r3, lr, [sp, #8]\n str r12, [sp, #16]\n"                           \
            "1: ldrd r0, r2, [sp]\n ldr r3, [sp, #8]\n ldr r4, [sp, #16]\n"                                            \
            "ldr r10, [r3]\n ldr r11, [r3, #16]\n ldr r12, [r3, #32]\n ldr lr, [r3, #48]\n"                            \
            "add r5, r2, #" #next "\n str r5, [sp, #4]\n cmp r4, #0\n bne 3f\n"                                        \
            "2: " BLOCK(column) "3: " BLOCK(                                                                           \
                column) "cmp r0, r1\n bne 2b\n"                                                                        \
                        "ldrd r3, r4, [sp, #8]\n str r10, [r3]\n str r11, [r3, #16]\n str r12, [r3, #32]\n str lr, "   \
                        "[r3, #48]\n"                                                                                  \
                        "adds r3, #4\n str r3, [sp, #8]\n cmp r3, r4\n bne 1b\n add sp, #20\n pop {r4-r11, pc}\n");    \
    }

RUN(ppn_m4_bytes, BYTES, 4)
RUN(ppn_m4_halves, HALVES, 8)

/* A row of four elements as two pairs in the order of the right side's, times four: from two words, or from four bytes.
 */
#define TIMES_FOUR(x) "sadd16 " x ", " x ", " x "\n sadd16 " x ", " x ", " x "\n"
static inline void ppn_m4_row(const int32_t *row, int bytes, int32_t *to) {
    int32_t first = row[0], second = row[1];
    if (bytes) {
        first = (int32_t)((uint32_t)(row[0] & 0xFFFF) | (uint32_t)row[1] << 16);
        second = (int32_t)((uint32_t)row[0] >> 16 | (uint32_t)row[1] >> 16 << 16);
    }
    __asm__(TIMES_FOUR("%0") TIMES_FOUR("%1") : "+r"(first), "+r"(second));
    to[0] = first;
    to[1] = second;
}
static inline void ppn_m4_row8(const int8_t *row, int32_t *to) {
    int32_t first, second;
    memcpy(&first, row, 4);
    __asm__("sxtb16 %1, %0, ror #8\n sxtb16 %0, %0\n" TIMES_FOUR("%0") TIMES_FOUR("%1") : "+r"(first), "=&r"(second));
    to[0] = first;
    to[1] = second;
}

/* Block |k| of a run into a record. */
static inline void ppn_m4_lay_out(const ppn_run *run, int k, int bytes, int32_t *to) {
    int32_t m[8];
    if (bytes && !run->wide && !run->turned) {
        const int8_t *block = (const int8_t *)run->mantissas + 16 * k * run->step;
        for (int i = 0; i < 4; i++) ppn_m4_row8(block + 4 * i, to + 2 * i + i / 2);
        return;
    }
    ppn_load_block(run, k, (int16_t *)(void *)m);
    for (int i = 0; i < 4; i++) ppn_m4_row(m + 2 * i, bytes, to + 2 * i + i / 2);
}

/* Exponents as 16-bit lanes, in pairs 0 and 2, 1 and 3 of every four, the last four filled up with those of zero
 * blocks. */
static void ppn_m4_exps(const ppn_run *run, int n, int32_t *pairs) {
    int16_t *to = (int16_t *)(void *)pairs;
    for (int k = 0; k < (n + 3) / 4 * 4; k++) {
        int e = k < n ? run->exps[k * run->step] : PPN_ZERO_EXP;
        to[(k & ~3) | (k & 1) << 1 | (k >> 1 & 1)] = (int16_t)(e == PPN_ZERO_EXP ? PPN_M4_FAR : e);
    }
}

void ppn_m4_make_ready(const ppn_run *run, const ppn_run *right, int n, int headroom, ppn_m4_factor *left) {
    int32_t *to = left->records;
    left->n = n;
    left->headroom = headroom;
    left->bytes = !right->wide && !right->turned && right->step == 1;
    for (int k = 0; k < n; k++, to += PPN_M4_WORDS) ppn_m4_lay_out(run, k, left->bytes, to);
    ppn_m4_exps(run, n, left->exps);
}

/* The exponents of a run of |n| blocks one after the other: in |room|, filled up to four, if they do not lie that way.
 */
static const uint8_t *ppn_m4_gather(const ppn_run *run, int n, uint8_t *room) {
    if (run->step == 1 && n % 4 == 0) return (const uint8_t *)run->exps;
    for (int k = 0; k < (n + 3) / 4 * 4; k++) room[k] = (uint8_t)(k < n ? run->exps[k * run->step] : PPN_ZERO_EXP);
    return room;
}

/* The exponent sums of four pairs, to |sums|: a right exponent of -128 counts PPN_M4_FAR more. |top|: the largest. */
static inline int32_t ppn_m4_add(const int32_t *left, const uint8_t *right, int32_t *sums, int32_t top) {
    int32_t a = left[0], b = left[1], e, zero, apart;
    memcpy(&e, right, 4);
    __asm__("eor %[z], %[e], #0x80808080\n usub8 %[z], %[z], %[one]\n sel %[z], %[no], %[far]\n"
            "and %[y], %[mask], %[z], lsl #8\n and %[z], %[z], %[mask]\n"
            "sxtab16 %[a], %[a], %[e]\n sadd16 %[a], %[a], %[y]\n"
            "sxtab16 %[b], %[b], %[e], ror #8\n sadd16 %[b], %[b], %[z]\n"
            "ssub16 %[z], %[a], %[top]\n sel %[top], %[a], %[top]\n"
            "ssub16 %[z], %[b], %[top]\n sel %[top], %[b], %[top]\n"
            : [a] "+&r"(a), [b] "+&r"(b), [top] "+&r"(top), [z] "=&r"(zero), [y] "=&r"(apart)
            : [e] "r"(e), [one] "r"(0x01010101), [no] "r"(0), [far] "r"(0xE0E0E0E0), [mask] "r"(0xFF00FF00));
    sums[0] = a;
    sums[1] = b;
    return top;
}

/* The factors 2^30 >> shift, 0 from 31 on, of two pairs into their records. */
static inline void ppn_m4_put_factors(int32_t top, int32_t exps, int32_t *one, int32_t *other) {
    int32_t a, b; /* in C a shift must be less than 32 */
    __asm__("ssub16 %0, %2, %3\n usat16 %0, #8, %0\n lsr %1, %0, #16\n lsr %0, %4, %0\n lsr %1, %4, %1\n"
            : "=&r"(a), "=&r"(b)
            : "r"(top), "r"(exps), "r"(1 << 30));
    one[PPN_M4_FACTOR] = a;
    other[PPN_M4_FACTOR] = b;
}

/* The factors of all pairs; answers the largest exponent, headroom included, less than PPN_M4_NONE if there is none. */
static int ppn_m4_align(const ppn_run *b, ppn_m4_factor *left) {
    int32_t sums[PPN_M4_BLOCKS / 2], top = INT32_MIN | 0x8000, *record = left->records;
    uint8_t room[PPN_M4_BLOCKS];
    const uint8_t *exps = ppn_m4_gather(b, left->n, room), *end = exps + left->n;
    int32_t *sum = sums;
    for (const int32_t *own = left->exps; exps < end; exps += 4, own += 2, sum += 2)
        top = ppn_m4_add(own, exps, sum, top);
    int most = ppn_max((int16_t)top, top >> 16) + left->headroom;
    top = (int32_t)((uint32_t)most << 16 | (uint16_t)most);
    for (const int32_t *at = sums; at < sum; at += 2, record += 4 * PPN_M4_WORDS) {
        ppn_m4_put_factors(top, at[0], record, record + 2 * PPN_M4_WORDS);
        ppn_m4_put_factors(top, at[1], record + PPN_M4_WORDS, record + 3 * PPN_M4_WORDS);
    }
    return most;
}

/* Right blocks of any other kind: part after part is copied. */
static void ppn_m4_sum(const ppn_m4_factor *left, const ppn_run *b, int32_t *out) {
    for (int from = 0, count; from < left->n; from += count) {
        _Alignas(4) int16_t right[COPIED * 16];
        const int32_t *records = left->records + from * PPN_M4_WORDS;
        count = ppn_min(left->n - from, COPIED);
        for (int k = 0; k < count; k++) ppn_load_block(b, from + k, right + 16 * k);
        ppn_m4_halves(records, records + count * PPN_M4_WORDS, right, out, count & 1);
    }
}

int ppn_m4_product(ppn_m4_factor *left, const ppn_run *b, int32_t *out) {
    int top = ppn_m4_align(b, left);
    memset(out, 0, 16 * sizeof *out);
    if (top < PPN_M4_NONE) return PPN_EMPTY_EXP;
    if (left->bytes)
        ppn_m4_bytes(left->records, left->records + left->n * PPN_M4_WORDS, b->mantissas, out, left->n & 1);
    else
        ppn_m4_sum(left, b, out);
    return top;
}

#endif
