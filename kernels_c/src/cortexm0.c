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
