/* cortexm0.c: see cortexm0.h. Empty on other machines. */
#include "cortexm0.h"

typedef int ppn_m0_not_empty; /* C wants a declaration in every file */

#if PPN_M0
#include "product.h"

#define NAKED __attribute__((naked, noinline))

/* r7 runs through the spread blocks, r8 stands at the right block, r9 is its step, r10 counts, r11 runs through the
 * shifts, lr holds the pair's; the 16 sums lie on the stack. r0 to r3 hold four elements of the right block. */
#define ENTER                                                                                                          \
    "push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r4-r7}\n"                          \
    "sub sp, #68\n"                                                                                                    \
    "ldmia r0!, {r1-r6}\n mov r7, r1\n mov r8, r2\n mov r9, r3\n mov r11, r4\n mov r10, r5\n str r6, [sp, #64]\n"      \
    "movs r0, #0\n movs r1, #0\n movs r2, #0\n movs r3, #0\n mov r4, sp\n"                                             \
    "stmia r4!, {r0-r3}\n stmia r4!, {r0-r3}\n stmia r4!, {r0-r3}\n stmia r4!, {r0-r3}\n"                              \
    "b 1f\n"                                                                                                           \
    "2: adds r7, #64\n"                                                                                                \
    "3: add r8, r9\n mov r4, r10\n subs r4, #1\n mov r10, r4\n beq 4f\n"                                               \
    "1: mov r4, r11\n ldrb r5, [r4]\n adds r4, #1\n mov r11, r4\n cmp r5, #255\n beq 2b\n mov lr, r5\n b 5f\n"         \
    "4: ldr r0, [sp, #64]\n mov r1, sp\n"                                                                              \
    "ldmia r1!, {r4-r7}\n stmia r0!, {r4-r7}\n ldmia r1!, {r4-r7}\n stmia r0!, {r4-r7}\n"                              \
    "ldmia r1!, {r4-r7}\n stmia r0!, {r4-r7}\n ldmia r1!, {r4-r7}\n stmia r0!, {r4-r7}\n"                              \
    "add sp, #68\n" LEAVE "5:\n"
#define LEAVE "pop {r4-r7}\n mov r8, r4\n mov r9, r5\n mov r10, r6\n mov r11, r7\n pop {r4-r7, pc}\n"

/* Elements at byte offsets a, b, c, d of the right block. */
#define BYTES(a, b, c, d)                                                                                              \
    "mov r3, r8\n ldrb r0, [r3, #" #a "]\n ldrb r1, [r3, #" #b "]\n ldrb r2, [r3, #" #c "]\n ldrb r3, [r3, #" #d "]\n" \
    "sxtb r0, r0\n sxtb r1, r1\n sxtb r2, r2\n sxtb r3, r3\n"
#define HALVES(a, b, c, d)                                                                                             \
    "mov r3, r8\n ldrh r0, [r3, #" #a "]\n ldrh r1, [r3, #" #b "]\n ldrh r2, [r3, #" #c "]\n ldrh r3, [r3, #" #d "]\n" \
    "sxth r0, r0\n sxth r1, r1\n sxth r2, r2\n sxth r3, r3\n"
#define WORD(at) /* of four bytes, aligned */                                                                          \
    "mov r3, r8\n ldr r3, [r3, #" #at "]\n"                                                                            \
    "sxtb r0, r3\n asrs r1, r3, #8\n sxtb r1, r1\n asrs r2, r3, #16\n sxtb r2, r2\n asrs r3, r3, #24\n"

#define DOT                                                                                                            \
    "ldmia r7!, {r4, r5}\n muls r4, r0\n muls r5, r1\n adds r4, r5\n"                                                  \
    "ldmia r7!, {r5, r6}\n muls r5, r2\n muls r6, r3\n"
#define NARROW(at) /* the last bit shifted out is in the carry: sum += (twice the product >> s + 1) + carry */         \
    DOT "adds r4, r5\n adds r4, r6\n mov r5, lr\n ldr r6, [sp, #" #at "]\n"                                            \
        "asrs r4, r5\n adcs r6, r4\n str r6, [sp, #" #at "]\n"
#define WIDE(at) /* halves t, u below 2^31: (t + u) >> 1 = (t >> 1) + (u >> 1) + (t & u & 1) */                        \
    DOT "adds r5, r6\n mov r6, r4\n ands r6, r5\n asrs r4, r4, #1\n asrs r5, r5, #1\n lsrs r6, r6, #1\n adcs r4, r5\n" \
        "mov r5, lr\n ldr r6, [sp, #" #at "]\n asrs r4, r5\n adcs r6, r4\n str r6, [sp, #" #at "]\n"

#define BACK "subs r7, #64\n"
#define COLUMN(SUM, a, b, c, d) SUM(a) SUM(b) SUM(c) SUM(d)
#define COLUMNS(SUM, L0, L1, L2, L3)                                                                                   \
    L0 COLUMN(SUM, 0, 16, 32, 48) BACK L1 COLUMN(SUM, 4, 20, 36, 52) BACK L2 COLUMN(SUM, 8, 24, 40, 56)                \
        BACK L3 COLUMN(SUM, 12, 28, 44, 60) "b 3b\n"
#define RUN(name, ...)                                                                                                 \
    NAKED void name(const ppn_m0_run *run __attribute__((unused))) {                                                   \
        __asm__(".syntax unified\n" ENTER COLUMNS(__VA_ARGS__));                                                       \
    }

RUN(ppn_m0_narrow8, NARROW, WORD(0), WORD(4), WORD(8), WORD(12))
RUN(ppn_m0_narrow8_turned, NARROW, BYTES(0, 4, 8, 12), BYTES(1, 5, 9, 13), BYTES(2, 6, 10, 14), BYTES(3, 7, 11, 15))
RUN(ppn_m0_narrow16, NARROW, HALVES(0, 2, 4, 6), HALVES(8, 10, 12, 14), HALVES(16, 18, 20, 22), HALVES(24, 26, 28, 30))
RUN(ppn_m0_narrow16_turned, NARROW, HALVES(0, 8, 16, 24), HALVES(2, 10, 18, 26), HALVES(4, 12, 20, 28),
    HALVES(6, 14, 22, 30))
RUN(ppn_m0_wide16, WIDE, HALVES(0, 2, 4, 6), HALVES(8, 10, 12, 14), HALVES(16, 18, 20, 22), HALVES(24, 26, 28, 30))
RUN(ppn_m0_wide16_turned, WIDE, HALVES(0, 8, 16, 24), HALVES(2, 10, 18, 26), HALVES(4, 12, 20, 28),
    HALVES(6, 14, 22, 30))

/* One right block, r7, after another against one left block, whose columns come from [sp, #16 i]: r8 the sums, r9 the
 * shift, r10 |low|, r11 |span|, r12 half a unit. Below them [sp, #64] shifts, count, peak, top. */
#define TERM(at, slow)                                                                                                 \
    DOT "adds r4, r5\n adds r4, r6\n add r4, r12\n mov r5, r9\n asrs r4, r5\n"                                         \
        "mov r6, r10\n adds r6, r4\n cmp r6, r11\n bhs " #slow "f\n" #slow "0: mov r5, r8\n ldr r6, [r5, #" #at        \
        "]\n adds r6, r4\n str r6, [r5, #" #at "]\n"
#define SLOW(slow) #slow ": bl 9b\n b " #slow "0b\n"
#define LEFT(at) "add r3, sp, #" #at "\n ldmia r3!, {r0, r1, r2}\n ldr r3, [r3]\n"
#define TERMS(at, row, a, b, c, d)                                                                                     \
    LEFT(at) TERM(a, 1) TERM(b, 2) TERM(c, 3) TERM(d, 4) row "b 5f\n" SLOW(1) SLOW(2) SLOW(3) SLOW(4) "5:\n"

NAKED void ppn_m0_outer(ppn_m0_row *row __attribute__((unused))) {
    __asm__(
        ".syntax unified\n"
        "push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r4-r7}\n"
        "sub sp, #84\n str r0, [sp, #80]\n"
        "ldr r1, [r0, #4]\n mov r8, r1\n ldr r1, [r0, #20]\n mov r10, r1\n ldr r1, [r0, #24]\n mov r11, r1\n"
        "ldr r1, [r0, #8]\n str r1, [sp, #64]\n ldr r1, [r0, #12]\n str r1, [sp, #68]\n"
        "ldr r1, [r0, #28]\n str r1, [sp, #72]\n ldr r1, [r0, #32]\n str r1, [sp, #76]\n"
        "ldr r7, [r0, #0]\n ldr r1, [r0, #16]\n mov r2, sp\n"
        "ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n"
        "ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n"
        "b 6f\n"
        "7: adds r7, #64\n"
        "8: movs r5, #64\n add r8, r5\n ldr r4, [sp, #68]\n subs r4, #1\n str r4, [sp, #68]\n beq 10f\n"
        "6: ldr r4, [sp, #64]\n ldrb r5, [r4]\n adds r4, #1\n str r4, [sp, #64]\n cmp r5, #255\n beq 7b\n"
        "mov r9, r5\n movs r6, #1\n lsls r6, r5\n lsrs r6, r6, #1\n mov r12, r6\n b 11f\n"
        /* the uncommon term r4: into the peak, limited */
        "9: asrs r5, r4, #31\n adds r6, r4, r5\n eors r6, r5\n ldr r5, [sp, #72]\n orrs r5, r6\n str r5, [sp, #72]\n"
        "ldr r5, [sp, #76]\n cmp r6, r5\n bls 12f\n cmp r4, #0\n mov r4, r5\n bge 12f\n rsbs r4, r5, #0\n"
        "12: bx lr\n"
        "10: ldr r0, [sp, #80]\n ldr r1, [sp, #72]\n str r1, [r0, #28]\n add sp, #84\n" LEAVE "11:\n" /* */
        TERMS(0, BACK, 0, 4, 8, 12) TERMS(16, BACK, 16, 20, 24, 28) TERMS(32, BACK, 32, 36, 40, 44)
            TERMS(48, "", 48, 52, 56, 60) "b 8b\n");
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

typedef struct {
    const int32_t *x;
    void *m;
    int32_t shift, width; /* bits - 1 */
    uint32_t half, state; /* nearest; stochastic: of the first random number */
    uint32_t mask;
} ppn_m0_rounded;

/* OR of the magnitudes of 16 numbers. */
NAKED static uint32_t ppn_m0_sizes(const int32_t *x __attribute__((unused))) {
#define SIZE(x) "asrs r6, " x ", #31\n adds " x ", r6\n eors " x ", r6\n orrs r1, " x "\n"
#define SIZES "ldmia r0!, {r2-r5}\n" SIZE("r2") SIZE("r3") SIZE("r4") SIZE("r5")
    __asm__(".syntax unified\n push {r4-r6, lr}\n movs r1, #0\n" SIZES SIZES SIZES SIZES
            "mov r0, r1\n pop {r4-r6, pc}\n");
}

/* r7 runs through the numbers up to r12, r6 through the mantissas; r4 the shift, r5 bits - 1, r3 the OR of all, which
 * is answered. |x| + addend < 2^32. A magnitude rounded up to 2^(bits - 1) loses 1 by its own top bit. */
#define ROUND_ENTER                                                                                                    \
    "push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r4-r7}\n"                          \
    "mov r1, r0\n ldr r7, [r1, #0]\n ldr r6, [r1, #4]\n ldr r4, [r1, #8]\n ldr r5, [r1, #12]\n movs r3, #64\n"         \
    "adds r3, r7\n mov r12, r3\n movs r3, #0\n"
#define ROUND(add, store)                                                                                              \
    "ldmia r7!, {r0}\n asrs r1, r0, #31\n adds r0, r1\n eors r0, r1\n" add                                             \
    "lsrs r0, r4\n mov r2, r0\n lsrs r2, r5\n subs r0, r2\n orrs r3, r0\n eors r0, r1\n subs r0, r1\n" store "\n"
#define ROUND_LEAVE "cmp r7, r12\n bne 1b\n mov r0, r3\n" LEAVE
#define NEAREST "add r0, r8\n"
#define RANDOM /* spec 9: the state is r9, its step r10, the factors r11 and lr; r8 the mask */                        \
    "mov r2, r9\n add r9, r10\n lsrs r0, r2, #16\n eors r2, r0\n mov r0, r11\n muls r2, r0\n"                          \
    "lsrs r0, r2, #15\n eors r2, r0\n mov r0, lr\n muls r2, r0\n lsrs r0, r2, #16\n eors r2, r0\n"                     \
    "mov r0, r8\n ands r2, r0\n"

NAKED static uint32_t ppn_m0_nearest16(const ppn_m0_rounded *r __attribute__((unused))) {
    __asm__(".syntax unified\n" ROUND_ENTER "ldr r1, [r1, #16]\n mov r8, r1\n"
            "1:" ROUND(NEAREST, "strh r0, [r6, #0]") ROUND(NEAREST, "strh r0, [r6, #2]")
                ROUND(NEAREST, "strh r0, [r6, #4]") ROUND(NEAREST, "strh r0, [r6, #6]") "adds r6, #8\n" ROUND_LEAVE);
}
NAKED static uint32_t ppn_m0_nearest8(const ppn_m0_rounded *r __attribute__((unused))) {
    __asm__(".syntax unified\n" ROUND_ENTER "ldr r1, [r1, #16]\n mov r8, r1\n"
            "1:" ROUND(NEAREST, "strb r0, [r6, #0]") ROUND(NEAREST, "strb r0, [r6, #1]")
                ROUND(NEAREST, "strb r0, [r6, #2]") ROUND(NEAREST, "strb r0, [r6, #3]") "adds r6, #4\n" ROUND_LEAVE);
}
NAKED static uint32_t ppn_m0_random16(const ppn_m0_rounded *r __attribute__((unused))) {
    __asm__(".syntax unified\n" ROUND_ENTER "ldr r2, [r1, #20]\n mov r9, r2\n ldr r2, [r1, #24]\n mov r8, r2\n"
            "ldr r2, 2f\n mov r10, r2\n ldr r2, 3f\n mov r11, r2\n ldr r2, 4f\n mov lr, r2\n"
            "1:" RANDOM ROUND("adds r0, r2\n", "strh r0, [r6, #0]") RANDOM ROUND(
                "adds r0, r2\n",
                "strh r0, [r6, #2]") "adds r6, #4\n" ROUND_LEAVE
                                     ".p2align 2\n2: .word 0x9E3779B9\n3: .word 0x7FEB352D\n4: .word 0x846CA68B\n");
}

/* ---- 16 lanes -------------------------------------------------------------------------------------------------- */

#define EACH(DO)                                                                                                       \
    DO(0, 0)                                                                                                           \
    DO(2, 4) DO(4, 8) DO(6, 12) DO(8, 16) DO(10, 20) DO(12, 24) DO(14, 28) DO(16, 32) DO(18, 36) DO(20, 40) DO(22, 44) \
        DO(24, 48) DO(26, 52) DO(28, 56) DO(30, 60)
#define TIMES(at) "ldrh r4, [r0, #" #at "]\n ldrh r5, [r1, #" #at "]\n sxth r4, r4\n sxth r5, r5\n muls r4, r5\n"
#define SET(at, to) TIMES(at) "str r4, [r2, #" #to "]\n"
#define SHIFT(at, to) TIMES(at) "asrs r4, r3\n adcs r4, r6\n str r4, [r2, #" #to "]\n"
#define SHIFT_ADD(at, to) TIMES(at) "asrs r4, r3\n ldr r5, [r2, #" #to "]\n adcs r5, r4\n str r5, [r2, #" #to "]\n"
#define KEEP(at, to) "ldr r2, [r0, #" #to "]\n asrs r2, r2, #15\n adcs r2, r3\n strh r2, [r1, #" #at "]\n"
#define SQUARE(at, to)                                                                                                 \
    "ldrh r2, [r0, #" #at "]\n sxth r2, r2\n muls r2, r2\n lsrs r2, r2, #15\n adcs r2, r3\n strh r2, [r1, #" #at "]\n"
#define UNUSED __attribute__((unused))

NAKED void ppn_m0_times(const int16_t *x UNUSED, const int16_t *y UNUSED, int32_t *out UNUSED) {
    __asm__(".syntax unified\n push {r4, r5, lr}\n" EACH(SET) "pop {r4, r5, pc}\n");
}
NAKED void ppn_m0_multiply(const int16_t *x UNUSED, const int16_t *y UNUSED, int32_t *out UNUSED, int shift UNUSED) {
    __asm__(".syntax unified\n push {r4-r6, lr}\n movs r6, #0\n" EACH(SHIFT) "pop {r4-r6, pc}\n");
}
NAKED void ppn_m0_multiply_add(const int16_t *x UNUSED, const int16_t *y UNUSED, int32_t *out UNUSED,
                               int shift UNUSED) {
    __asm__(".syntax unified\n push {r4, r5, lr}\n" EACH(SHIFT_ADD) "pop {r4, r5, pc}\n");
}
NAKED void ppn_m0_keep(const int32_t *x UNUSED, int16_t *m UNUSED) {
    __asm__(".syntax unified\n movs r3, #0\n" EACH(KEEP) "bx lr\n");
}
NAKED void ppn_m0_square(const int16_t *a UNUSED, int16_t *q UNUSED) {
    __asm__(".syntax unified\n movs r3, #0\n" EACH(SQUARE) "bx lr\n");
}

static int ppn_m0_encode_rare(const int32_t *x, int e, int bits, const ppn_rounding *how, void *m, int wide,
                              int *flags) {
    int16_t block[16];
    e = ppn_encode_plain(x, e, bits, *how, block, flags);
    if (wide)
        memcpy(m, block, sizeof block);
    else
        LANES((int8_t *)m)[l] = (int8_t)block[l];
    return e;
}

int ppn_m0_encode(const int32_t *x, int e, int bits, const ppn_rounding *how, void *m, int wide, int *flags) {
    uint32_t all = ppn_m0_sizes(x), any;
    ppn_scaling to = {32, 0};
    if (all) to = ppn_scaling_of(all, e, bits);
    if (to.shift < 1 || to.shift == 32 || to.e > 127 || (how->stochastic && !wide))
        return ppn_m0_encode_rare(x, e, bits, how, m, wide, flags);
    ppn_m0_rounded r = {
        x, m, to.shift, bits - 1, 1u << (to.shift - 1), how->key + how->index * 0x9E3779B9u, (1u << to.shift) - 1u};
    if (how->stochastic)
        any = ppn_m0_random16(&r);
    else
        any = wide ? ppn_m0_nearest16(&r) : ppn_m0_nearest8(&r);
    return any ? to.e : PPN_ZERO_EXP;
}

/* ---- in C: spreading, shifts ----------------------------------------------------------------------------------- */

#define SPREAD(from, at, stride)                                                                                       \
    for (int l = 0; l < 16; l++) words[l] = (from)[l % 4 * (stride) + l / 4 * (at)] * by

void ppn_m0_spread(const ppn_run *run, int from, int count, int by, int32_t *words) {
    for (int k = from; k < from + count; k++, words += 16) {
        ptrdiff_t at = (ptrdiff_t)k * run->step * 16;
        const int8_t *narrow = (const int8_t *)run->mantissas + at;
        const int16_t *wide = (const int16_t *)run->mantissas + at;
        if (!run->wide && !run->turned)
            SPREAD(narrow, 4, 1);
        else if (!run->wide)
            SPREAD(narrow, 1, 4);
        else if (!run->turned)
            SPREAD(wide, 4, 1);
        else
            SPREAD(wide, 1, 4);
    }
}

static void ppn_m0_sum(const ppn_run *b, int wide, const ppn_m0_run *run) {
    if (wide)
        b->turned ? ppn_m0_wide16_turned(run) : ppn_m0_wide16(run);
    else if (b->wide)
        b->turned ? ppn_m0_narrow16_turned(run) : ppn_m0_narrow16(run);
    else
        b->turned ? ppn_m0_narrow8_turned(run) : ppn_m0_narrow8(run);
}

/* The kernels' shifts for pairs from |from| on, of exponents within |top|, to which the headroom is added already. */
static void ppn_m0_shifts(const ppn_run *a, const ppn_run *b, int from, int count, int top, int wide, uint8_t *shifts) {
    const int8_t *ea = a->exps + from * a->step, *eb = b->exps + from * b->step;
    for (int k = 0; k < count; k++, ea += a->step, eb += b->step) {
        /* a zero block adds zeros at any shift; one out of range, either way, belongs to it or vanishes */
        unsigned shift = (unsigned)(top - *ea - *eb);
        shifts[k] = shift > (wide ? 40 : 30) ? PPN_M0_SKIP : (uint8_t)(wide ? shift - 1 : shift + 1);
    }
}

int ppn_m0_product(const ppn_run *a, const ppn_run *b, int n, int headroom, int32_t *left, int32_t *out) {
    int top = ppn_run_top(a, b, n), wide = a->bits + b->bits > 30;
    if (top == UNUSED_TERM) {
        memset(out, 0, 16 * sizeof *out);
        return PPN_EMPTY_EXP;
    }
    for (int from = 0; from < n; from += PPN_M0_BLOCKS) {
        int32_t part[16];
        uint8_t shifts[PPN_M0_BLOCKS];
        ppn_run right = ppn_run_at(*b, from * b->step);
        int count = ppn_min(n - from, PPN_M0_BLOCKS), size = b->wide ? 32 : 16;
        if (n > PPN_M0_BLOCKS) ppn_m0_spread(a, from, count, wide ? 1 : 2, left);
        ppn_m0_shifts(a, b, from, count, top + headroom, wide, shifts);
        ppn_m0_run run = {left, right.mantissas, b->step * size, shifts, (uint32_t)count, from ? part : out};
        ppn_m0_sum(b, wide, &run);
        if (from) LANES out[l] += part[l];
    }
    return top + headroom;
}

#endif
