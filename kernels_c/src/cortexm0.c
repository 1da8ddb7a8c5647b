/* cortexm0.c: see cortexm0.h. Empty on other machines. */
#include "cortexm0.h"

typedef int ppn_m0_not_empty; /* C wants a declaration in every file */

#if PPN_M0
#include "pass.h"

#define UNUSED __attribute__((unused))
#define NAKED __attribute__((naked, noinline))

#define SAVE "push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r4-r7}\n"
#define LEAVE "pop {r4-r7}\n mov r8, r4\n mov r9, r5\n mov r10, r6\n mov r11, r7\n pop {r4-r7, pc}\n"
/* r7 the left records, r8 the right block, r9 its step, r12 the top. Sixteen sums begin at zero, the last two in r10
 * and r11, the others on the stack, |out| above them. */
#define ENTER                                                                                                          \
    "ldr r4, [sp, #36]\n mov r9, r4\n mov r8, r1\n mov r7, r0\n mov r12, r3\n push {r2}\n"                             \
    "movs r0, #0\n movs r1, #0\n movs r2, #0\n movs r3, #0\n movs r4, #0\n movs r5, #0\n movs r6, #0\n"                \
    "push {r0-r6}\n push {r0-r6}\n mov r10, r0\n mov r11, r0\n"
#define EXIT                                                                                                           \
    "ldr r0, [sp, #56]\n pop {r1-r7}\n stmia r0!, {r1-r7}\n pop {r1-r7}\n stmia r0!, {r1-r7}\n"                        \
    "mov r1, r10\n mov r2, r11\n stmia r0!, {r1, r2}\n add sp, #4\n" LEAVE

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
#define NARROW DOT "adds r4, r5\n adds r4, r6\n mov r5, lr\n"
#define WIDE /* halves t, u below 2^31: (t + u) >> 1 = (t >> 1) + (u >> 1) + (t & u & 1) */                            \
    DOT "adds r5, r6\n mov r6, r4\n ands r6, r5\n asrs r4, r4, #1\n asrs r5, r5, #1\n lsrs r6, r6, #1\n adcs r4, r5\n" \
        "mov r5, lr\n"
/* The last bit shifted out is in the carry: sum += (twice the product >> s + 1) + carry */
#define STACK(at) "ldr r6, [sp, #" #at "]\n asrs r4, r5\n adcs r6, r4\n str r6, [sp, #" #at "]\n"
#define HIGH(sum) "asrs r4, r5\n movs r5, #0\n adcs r4, r5\n add " sum ", r4\n"

/* lr is the pair's shift; r0 to r3 hold four elements of the right block. */
#define BACK "subs r7, #64\n"
#define COLUMNS(TERM, L0, L1, L2, L3)                                                                                  \
    L0 TERM STACK(0) TERM STACK(16) TERM STACK(32) TERM STACK(48) BACK L1 TERM STACK(4) TERM STACK(20) TERM STACK(36)  \
        TERM STACK(52) BACK L2 TERM STACK(8) TERM STACK(24) TERM STACK(40) TERM HIGH("r10") BACK L3 TERM STACK(12)     \
            TERM STACK(28) TERM STACK(44) TERM HIGH("r11")
#define RUN(name, ...)                                                                                                 \
    NAKED static void name(const int32_t *left UNUSED, const void *right UNUSED, int32_t *out UNUSED,                  \
                           int32_t top UNUSED, int32_t step UNUSED) {                                                  \
        __asm__(                                                                                                       \
            ".syntax unified\n" SAVE ENTER "b 1f\n 4: " EXIT "2: cmp r5, #0\n blt 4b\n adds r7, #64\n 3: add r8, r9\n" \
            "1: ldmia r7!, {r5}\n add r5, r12\n cmp r5, #31\n bhi 2b\n mov lr, r5\n" COLUMNS(__VA_ARGS__) "b 3b\n");   \
    }

RUN(ppn_m0_narrow8, NARROW, WORD(0), WORD(4), WORD(8), WORD(12))
RUN(ppn_m0_narrow8_turned, NARROW, BYTES(0, 4, 8, 12), BYTES(1, 5, 9, 13), BYTES(2, 6, 10, 14), BYTES(3, 7, 11, 15))
RUN(ppn_m0_narrow16, NARROW, HALVES(0, 2, 4, 6), HALVES(8, 10, 12, 14), HALVES(16, 18, 20, 22), HALVES(24, 26, 28, 30))
RUN(ppn_m0_narrow16_turned, NARROW, HALVES(0, 8, 16, 24), HALVES(2, 10, 18, 26), HALVES(4, 12, 20, 28),
    HALVES(6, 14, 22, 30))
RUN(ppn_m0_wide16, WIDE, HALVES(0, 2, 4, 6), HALVES(8, 10, 12, 14), HALVES(16, 18, 20, 22), HALVES(24, 26, 28, 30))
RUN(ppn_m0_wide16_turned, WIDE, HALVES(0, 8, 16, 24), HALVES(2, 10, 18, 26), HALVES(4, 12, 20, 28),
    HALVES(6, 14, 22, 30))

/* Packed: r7 runs through the right block, lr stands at the left one; r4 is the shift, r5 zero. Of a packed product,
 * the upper half and the carry of the lower half's sign are two products. */
#define PACKED "ldmia r7!, {r2, r3}\n muls r2, r0\n muls r3, r1\n"
#define HALF(sum, x) "asrs " x ", " x ", #16\n adcs " sum ", " x "\n"
#define TWO_HALVES "asrs r2, r2, #16\n adcs r2, r5\n" HALF("r2", "r3")
#define PAIR_SHIFT(at) PACKED TWO_HALVES "ldr r6, [sp, #" #at "]\n asrs r2, r4\n adcs r6, r2\n str r6, [sp, #" #at "]\n"
#define PAIR_SHIFT_HIGH(sum) PACKED TWO_HALVES "asrs r2, r4\n adcs r2, r5\n add " sum ", r2\n"
#define PAIR_ADD(at) PACKED "ldr r6, [sp, #" #at "]\n" HALF("r6", "r2") HALF("r6", "r3") "str r6, [sp, #" #at "]\n"
#define PAIR_ADD_HIGH(sum) PACKED TWO_HALVES "add " sum ", r2\n"
#define SHIFT_ROW(at) "mov r7, r8\n mov r1, lr\n ldr r0, [r1, #" #at "]\n ldr r1, [r1, #" #at " + 4]\n"
#define ADD_ROW "mov r7, r8\n ldmia r4!, {r0, r1}\n" /* no shift; r4 runs through the left block */
#define FOUR_TIMES(TERM, a, b, c, d) TERM(a) TERM(b) TERM(c) TERM(d)
#define ROWS(NEXT, TERM, LAST)                                                                                         \
    NEXT(0)                                                                                                            \
    FOUR_TIMES(TERM, 0, 4, 8, 12)                                                                                      \
    NEXT(8) FOUR_TIMES(TERM, 16, 20, 24, 28) NEXT(16) FOUR_TIMES(TERM, 32, 36, 40, 44) NEXT(24) TERM(48) TERM(52) LAST
#define SAME_ROW(at) ADD_ROW
#define PAIRS_SHIFTED ROWS(SHIFT_ROW, PAIR_SHIFT, PAIR_SHIFT_HIGH("r10") PAIR_SHIFT_HIGH("r11"))
#define PAIRS_ADDED ROWS(SAME_ROW, PAIR_ADD, PAIR_ADD_HIGH("r10") PAIR_ADD_HIGH("r11"))

NAKED static void ppn_m0_pairs8(const int32_t *left UNUSED, const void *right UNUSED, int32_t *out UNUSED,
                                int32_t top UNUSED, int32_t step UNUSED) {
    __asm__(".syntax unified\n" SAVE ENTER "mov lr, r7\n movs r5, #0\n b 1f\n"
            "5: " EXIT "2: cmp r4, #0\n blt 5b\n beq 6f\n movs r4, #32\n b 4f\n"
            "6: mov r4, lr\n" PAIRS_ADDED "mov lr, r4\n add r8, r9\n"
            "1: mov r6, lr\n ldmia r6!, {r4}\n mov lr, r6\n add r4, r12\n"
            "subs r3, r4, #1\n cmp r3, #30\n bls 3f\n b 2b\n"
            "3: " PAIRS_SHIFTED "movs r4, #32\n 4: add lr, r4\n add r8, r9\n b 1b\n");
}

/* One right block, r7, after another against one left block, whose columns come from [sp, #16 i]: r8 the sums, r9 the
 * shift, r10 |low|, r11 |span|. Above them [sp, #64] exponents, count, peak, top, the row, single, safe.
 * The last bit shifted out is in the carry: sum += (the product >> s) + carry. */
#define TERM(at)                                                                                                       \
    DOT "adds r4, r5\n adds r4, r6\n mov r5, r9\n asrs r4, r5\n mov r5, r8\n ldr r6, [r5, #" #at "]\n adcs r6, r4\n"
#define SAFE(at) TERM(at) "str r6, [r5, #" #at "]\n"
#define WATCHED(at, slow) TERM(at) "add r4, r10\n cmp r4, r11\n bhs " #slow "f\n" #slow "0: str r6, [r5, #" #at "]\n"
#define SLOW(at, slow) #slow ": ldr r4, [r5, #" #at "]\n subs r4, r6, r4\n bl 9b\n b " #slow "0b\n"
#define LEFT(at) "add r3, sp, #" #at "\n ldmia r3, {r0-r3}\n"
#define SAFE_TERMS(at, row, a, b, c, d) LEFT(at) SAFE(a) SAFE(b) SAFE(c) SAFE(d) row
#define WATCHED_TERMS(at, row, a, b, c, d)                                                                             \
    LEFT(at)                                                                                                           \
    WATCHED(a, 1)                                                                                                      \
    WATCHED(b, 2) WATCHED(c, 3) WATCHED(d, 4) row "b 5f\n" SLOW(a, 1) SLOW(b, 2) SLOW(c, 3) SLOW(d, 4) "5:\n"
#define BLOCK(TERMS) /* one right block; back to 7 or 8 */                                                             \
    TERMS(0, BACK, 0, 4, 8, 12)                                                                                        \
    "ldr r4, [sp, #84]\n cmp r4, #0\n beq 13f\n b 7b\n 13:" TERMS(16, BACK, 16, 20, 24, 28)                            \
        TERMS(32, BACK, 32, 36, 40, 44) TERMS(48, "", 48, 52, 56, 60) "b 8b\n"

NAKED void ppn_m0_outer(ppn_m0_row *row UNUSED) {
    __asm__(".syntax unified\n" SAVE "sub sp, #92\n str r0, [sp, #80]\n"
            "ldr r1, [r0, #4]\n mov r8, r1\n ldr r1, [r0, #20]\n mov r10, r1\n ldr r1, [r0, #24]\n mov r11, r1\n"
            "ldr r1, [r0, #8]\n str r1, [sp, #64]\n ldr r1, [r0, #12]\n str r1, [sp, #68]\n"
            "ldr r1, [r0, #28]\n str r1, [sp, #72]\n ldr r1, [r0, #32]\n str r1, [sp, #76]\n"
            "ldr r1, [r0, #36]\n str r1, [sp, #84]\n ldr r1, [r0, #40]\n str r1, [sp, #88]\n"
            "ldr r7, [r0, #0]\n ldr r1, [r0, #16]\n mov r2, sp\n"
            "ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n"
            "ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n ldmia r1!, {r3-r6}\n stmia r2!, {r3-r6}\n"
            "b 6f\n"
            /* the uncommon term r4: into the peak */
            "9: mov r12, r6\n asrs r6, r4, #31\n adds r4, r6\n eors r4, r6\n ldr r6, [sp, #72]\n orrs r4, r6\n"
            "str r4, [sp, #72]\n mov r6, r12\n bx lr\n"
            "10: ldr r0, [sp, #80]\n ldr r1, [sp, #72]\n str r1, [r0, #28]\n add sp, #92\n" LEAVE "7: adds r7, #64\n"
            "8: movs r5, #64\n add r8, r5\n ldr r4, [sp, #68]\n subs r4, #1\n str r4, [sp, #68]\n beq 10b\n"
            "6: ldr r4, [sp, #64]\n ldmia r4!, {r5}\n str r4, [sp, #64]\n ldr r4, [sp, #76]\n subs r5, r4, r5\n"
            "subs r4, r5, #1\n cmp r4, #30\n bhi 7b\n"
            "mov r9, r5\n ldr r4, [sp, #88]\n cmp r5, r4\n bge 11f\n b 12f\n 11:" BLOCK(SAFE_TERMS) "12:" BLOCK(
                WATCHED_TERMS));
}

/* ---- 16 lanes -------------------------------------------------------------------------------------------------- */

#define EACH(DO)                                                                                                       \
    DO(0, 0)                                                                                                           \
    DO(2, 4)                                                                                                           \
    DO(4, 8)                                                                                                           \
    DO(6, 12)                                                                                                          \
    DO(8, 16)                                                                                                          \
    DO(10, 20)                                                                                                         \
    DO(12, 24) DO(14, 28) DO(16, 32) DO(18, 36) DO(20, 40) DO(22, 44) DO(24, 48) DO(26, 52) DO(28, 56) DO(30, 60)
#define PAIR(DO, at, to, next) /* two lanes of aligned x and y: products in r6 and r4 */                               \
    "ldr r4, [r0, #" #at "]\n ldr r5, [r1, #" #at "]\n sxth r6, r4\n sxth r7, r5\n muls r6, r7\n"                      \
    "asrs r4, r4, #16\n asrs r5, r5, #16\n muls r4, r5\n" DO("r6", to) DO("r4", next)
#define EACH_PAIR(DO)                                                                                                  \
    PAIR(DO, 0, 0, 4)                                                                                                  \
    PAIR(DO, 4, 8, 12)                                                                                                 \
    PAIR(DO, 8, 16, 20)                                                                                                \
    PAIR(DO, 12, 24, 28) PAIR(DO, 16, 32, 36) PAIR(DO, 20, 40, 44) PAIR(DO, 24, 48, 52) PAIR(DO, 28, 56, 60)
#define SET(x, to) "str " x ", [r2, #" #to "]\n"
#define KEPT(x, to) "asrs " x ", " x ", #15\n adcs " x ", r3\n strh " x ", [r2, #" #to " / 2]\n"
#define SHIFT(x, to) "asrs " x ", r3\n movs r7, #0\n adcs " x ", r7\n str " x ", [r2, #" #to "]\n"
#define SHIFT_ADD(x, to) "asrs " x ", r3\n ldr r7, [r2, #" #to "]\n adcs r7, " x "\n str r7, [r2, #" #to "]\n"
#define KEEP(at, to) "ldr r2, [r0, #" #to "]\n asrs r2, r2, #15\n adcs r2, r3\n strh r2, [r1, #" #at "]\n"
#define SQUARE(at, to)                                                                                                 \
    "ldrh r2, [r0, #" #at "]\n sxth r2, r2\n muls r2, r2\n lsrs r2, r2, #15\n adcs r2, r3\n strh r2, [r1, #" #at "]\n"

NAKED void ppn_m0_times(const int16_t *x UNUSED, const int16_t *y UNUSED, int32_t *out UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n" EACH_PAIR(SET) "pop {r4-r7, pc}\n");
}
NAKED void ppn_m0_times_kept(const int16_t *x UNUSED, const int16_t *y UNUSED, int16_t *m UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n movs r3, #0\n" EACH_PAIR(KEPT) "pop {r4-r7, pc}\n");
}
NAKED void ppn_m0_multiply(const int16_t *x UNUSED, const int16_t *y UNUSED, int32_t *out UNUSED, int shift UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n" EACH_PAIR(SHIFT) "pop {r4-r7, pc}\n");
}
NAKED void ppn_m0_multiply_add(const int16_t *x UNUSED, const int16_t *y UNUSED, int32_t *out UNUSED,
                               int shift UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n" EACH_PAIR(SHIFT_ADD) "pop {r4-r7, pc}\n");
}
#define BIAS(x, at) "ldr r4, [r0, #" #at "]\n add r4, r12\n asrs r4, r2\n adds r4, " x "\n str r4, [r0, #" #at "]\n"
NAKED void ppn_m0_bias(int32_t *acc UNUSED, const int32_t *add UNUSED, int down UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n movs r4, #1\n lsls r4, r2\n lsrs r4, r4, #1\n mov r12, r4\n"
            "ldmia r1!, {r3, r5, r6, r7}\n movs r1, #4\n"
            "1: " BIAS("r3", 0) BIAS("r5", 4) BIAS("r6", 8)
                BIAS("r7", 12) "adds r0, #16\n subs r1, #1\n bne 1b\n pop {r4-r7, pc}\n");
}
NAKED void ppn_m0_keep(const int32_t *x UNUSED, int16_t *m UNUSED) {
    __asm__(".syntax unified\n movs r3, #0\n" EACH(KEEP) "bx lr\n");
}
NAKED void ppn_m0_square(const int16_t *a UNUSED, int16_t *q UNUSED) {
    __asm__(".syntax unified\n movs r3, #0\n" EACH(SQUARE) "bx lr\n");
}

/* r0 runs through m, r1 through h and p1, r9 through p2 and p3; r5 the shift, r8 the table, r11 2^30 + 2^15, r12 2^13.
 */
#define TANH(at)                                                                                                       \
    "ldrh r3, [r0, #" #at "]\n sxth r3, r3\n asrs r4, r3, #31\n adds r3, r4\n eors r3, r4\n lsls r3, r5\n"             \
    "lsls r6, r3, #17\n lsrs r6, r6, #17\n lsrs r3, r3, #15\n lsls r3, r3, #1\n add r3, r8\n"                          \
    "ldrh r7, [r3, #2]\n ldrh r3, [r3, #0]\n subs r7, r3\n muls r7, r6\n asrs r7, r7, #15\n adcs r3, r7\n"             \
    "eors r3, r4\n subs r3, r4\n strh r3, [r1, #" #at "]\n"                                                            \
    "mov r4, r3\n muls r4, r4\n rsbs r4, r4, #0\n add r4, r11\n asrs r4, r4, #16\n strh r4, [r1, #" #at " + 32]\n"     \
    "mov r6, r3\n muls r6, r4\n rsbs r6, r6, #0\n add r6, r12\n asrs r6, r6, #14\n mov r7, r9\n"                       \
    "strh r6, [r7, #" #at "]\n muls r3, r6\n muls r4, r4\n lsls r4, r4, #1\n adds r3, r4\n rsbs r3, r3, #0\n"          \
    "add r3, r12\n asrs r3, r3, #14\n strh r3, [r7, #" #at " + 32]\n"
NAKED void ppn_m0_tanh(const int16_t *m UNUSED, int s UNUSED, int16_t *curve UNUSED, const int16_t *table UNUSED) {
    __asm__(
        ".syntax unified\n push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r4-r7}\n"
        "mov r5, r1\n mov r1, r2\n mov r8, r3\n adds r2, #64\n mov r9, r2\n movs r3, #1\n lsls r4, r3, #13\n"
        "mov r12, r4\n lsls r4, r3, #30\n lsls r3, r3, #15\n adds r4, r3\n mov r11, r4\n mov r3, r0\n adds r3, #32\n"
        "mov r10, r3\n 1:" TANH(0) TANH(2) TANH(4)
            TANH(6) "movs r3, #8\n add r9, r3\n adds r1, r3\n adds r0, r3\n cmp r0, r10\n beq 2f\n b 1b\n 2:" LEAVE);
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

/* What an encoding answers: an exponent, perhaps less or plus one of these. */
#define SPECIAL 1024 /* less: the shift is to the left; plus: a mantissa came out as 2^width */
#define UNUSUAL 4096 /* the exponent is near its limits, or beyond */
#define NOTHING 8192 /* all are zero */

/* x at r0, m, exponent, width = bits - 1. Finds the length of the OR of all magnitudes, then r4 the shift, r0 the
 * exponent; r7 runs through x up to r12, r6 through m, lr is the width. 7 to 9: the special ends. */
#define SIZE(x) "asrs r7, " x ", #31\n adds " x ", r7\n eors " x ", r7\n orrs r5, " x "\n"
#define SIZES "ldmia r0!, {r1, r2, r4, r6}\n" SIZE("r1") SIZE("r2") SIZE("r4") SIZE("r6")
#define LENGTH(bits, at) "lsrs r1, r5, #" #bits "\n beq " #at "f\n mov r5, r1\n adds r4, #" #bits "\n " #at ":"
#define ENCODE                                                                                                         \
    "mov lr, r1\n mov r12, r2\n movs r5, #0\n" SIZES SIZES SIZES SIZES                                                 \
    "cmp r5, #0\n beq 8f\n mov r7, r0\n subs r7, #64\n movs r4, #1\n" LENGTH(16, 1) LENGTH(8, 2) LENGTH(4, 3)          \
        LENGTH(2, 4) "lsrs r5, r5, #1\n adds r4, r5\n subs r4, r3\n mov r0, r12\n adds r0, r4\n"                       \
                     "movs r1, #126\n adds r1, r0\n cmp r1, #253\n bhi 9f\n cmp r4, #0\n ble 7f\n"                     \
                     "mov r6, lr\n mov lr, r3\n push {r0}\n mov r0, r7\n adds r0, #64\n mov r12, r0\n b 5f\n"          \
                     "8: movs r0, #1\n lsls r0, r0, #13\n b 6f\n"                                                      \
                     "9: movs r0, #1\n lsls r0, r0, #12\n b 6f\n"                                                      \
                     "7: movs r1, #1\n lsls r1, r1, #10\n subs r0, r1\n 6:"
/* |magnitudes| holds the OR of all. */
#define ENCODED(magnitudes)                                                                                            \
    "cmp r7, r12\n bne 1b\n pop {r0}\n mov r1, lr\n lsrs " magnitudes ", r1\n beq 6b\n"                                \
    "movs r1, #1\n lsls r1, r1, #10\n adds r0, r1\n b 6b\n"
/* A number x in place, its sign in r1: |x| + addend < 2^32. */
#define ROUND(x, addend, magnitudes, store)                                                                            \
    "asrs r1, " x ", #31\n adds " x ", r1\n eors " x ", r1\n adds " x ", " addend "\n lsrs " x ", r4\n"                \
    "orrs " magnitudes ", " x "\n eors " x ", r1\n subs " x ", r1\n" store " " x
#define TWO(store, a, b)                                                                                               \
    "ldmia r7!, {r0, r2}\n" ROUND("r0", "r3", "r5", store) ", [r6, #" #a                                               \
                                                           "]\n" ROUND("r2", "r3", "r5", store) ", [r6, #" #b "]\n"
#define NEAREST(...) /* r3 half a unit */                                                                              \
    ".syntax unified\n push {r4-r7, lr}\n" ENCODE "pop {r4-r7, pc}\n"                                                  \
    "5: movs r3, #1\n lsls r3, r4\n lsrs r3, r3, #1\n movs r5, #0\n 1:" __VA_ARGS__ ENCODED("r5")
#define RANDOM(at) /* spec 9: the state is r9, its step r10, the factors r11 and r5; r8 masks as many bits as leave */ \
    "mov r2, r9\n add r9, r10\n lsrs r0, r2, #16\n eors r2, r0\n mov r0, r11\n muls r2, r0\n"                          \
    "lsrs r0, r2, #15\n eors r2, r0\n muls r2, r5\n lsrs r0, r2, #16\n eors r2, r0\n mov r0, r8\n ands r2, r0\n"       \
    "ldmia r7!, {r0}\n" ROUND("r0", "r2", "r3", "strh") ", [r6, #" #at "]\n"

NAKED static int ppn_m0_nearest16(const int32_t *x UNUSED, void *m UNUSED, int e UNUSED, int width UNUSED,
                                  const ppn_rounding *random UNUSED) {
    __asm__(NEAREST(TWO("strh", 0, 2) TWO("strh", 4, 6) TWO("strh", 8, 10) TWO("strh", 12, 14) "adds r6, #16\n"));
}
NAKED static int ppn_m0_nearest8(const int32_t *x UNUSED, void *m UNUSED, int e UNUSED, int width UNUSED,
                                 const ppn_rounding *random UNUSED) {
    __asm__(NEAREST(TWO("strb", 0, 1) TWO("strb", 2, 3) TWO("strb", 4, 5) TWO("strb", 6, 7) "adds r6, #8\n"));
}
NAKED static int ppn_m0_random16(const int32_t *x UNUSED, void *m UNUSED, int e UNUSED, int width UNUSED,
                                 const ppn_rounding *random UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push "
            "{r4-r7}\n" ENCODE LEAVE
            "5: ldr r1, [sp, #40]\n ldr r2, [r1, #0]\n ldr r1, [r1, #4]\n ldr r3, 2f\n mov r10, r3\n muls r1, r3\n"
            "adds r2, r1\n mov r9, r2\n movs r1, #1\n lsls r1, r4\n subs r1, #1\n mov r8, r1\n"
            "ldr r2, 3f\n mov r11, r2\n ldr r5, 4f\n movs r3, #0\n"
            "1:" RANDOM(0) RANDOM(2) RANDOM(4) RANDOM(6) "adds r6, #8\n" ENCODED(
                "r3") ".p2align 2\n2: .word 0x9E3779B9\n3: .word 0x7FEB352D\n4: .word 0x846CA68B\n");
}

/* m = x 2^up */
#define LEFT_SHIFT(at, to) "ldr r3, [r0, #" #to "]\n lsls r3, r2\n strh r3, [r1, #" #at "]\n"
NAKED static void ppn_m0_left(const int32_t *x UNUSED, int16_t *m UNUSED, int up UNUSED) {
    __asm__(".syntax unified\n" EACH(LEFT_SHIFT) "bx lr\n");
}

PPN_SMALL static int ppn_m0_encode_plain(const int32_t *x, int e, int bits, const ppn_rounding *random, void *m,
                                         int wide, int *flags) {
    int16_t block[16];
    e = ppn_encode_plain(x, e, bits, random ? *random : PPN_NEAREST, block, flags);
    if (wide)
        memcpy(m, block, sizeof block);
    else
        LANES((int8_t *)m)[l] = (int8_t)block[l];
    return e;
}

/* Mantissas beyond +-|top|, or that wrapped there, to it. */
PPN_SMALL static void ppn_m0_limit(const int32_t *x, int top, void *m, int wide) {
    LANES {
        int found = wide ? ((int16_t *)m)[l] : ((int8_t *)m)[l], limit = x[l] < 0 ? -top : top;
        if (found <= top && found >= -top) continue;
        if (wide)
            ((int16_t *)m)[l] = (int16_t)limit;
        else
            ((int8_t *)m)[l] = (int8_t)limit;
    }
}

/* To 16 or to 8 bits; the latter to nearest. */
typedef int ppn_m0_encoding(const int32_t *x, void *m, int e, int width, const ppn_rounding *random);
static ppn_m0_encoding *ppn_m0_encoding_of(const ppn_rounding *random, int wide) {
    return random ? ppn_m0_random16 : wide ? ppn_m0_nearest16 : ppn_m0_nearest8;
}
static int ppn_m0_usual(int to) { return (unsigned)(to + 127) <= 254; }

/* What an encoding leaves to do, that answered |to|. */
static int ppn_m0_special(int to, const int32_t *x, int e, int bits, const ppn_rounding *random, void *m, int wide,
                          int *flags) {
    if (to == NOTHING) {
        memset(m, 0, wide ? 32 : 16);
        return PPN_ZERO_EXP;
    }
    if (to == UNUSUAL || (to < 0 && !wide)) return ppn_m0_encode_plain(x, e, bits, random, m, wide, flags);
    if (to < 0) {
        ppn_m0_left(x, m, e - (to + SPECIAL));
        return to + SPECIAL;
    }
    ppn_m0_limit(x, (int)ppn_largest(bits), m, wide);
    return to - SPECIAL;
}

int ppn_m0_encode(const int32_t *x, int e, int bits, const ppn_rounding *random, void *m, int wide, int *flags) {
    int to = random && !wide ? UNUSUAL : ppn_m0_encoding_of(random, wide)(x, m, e, bits - 1, random);
    return ppn_m0_usual(to) ? to : ppn_m0_special(to, x, e, bits, random, m, wide, flags);
}

/* ---- in C: spreading, shifts ----------------------------------------------------------------------------------- */

/* Four words of a block at byte offsets a, b, c, d from r0, shifted left by r2, to r1. */
#define AT(...) __VA_ARGS__
#define FOUR(...) FOUR_(__VA_ARGS__)
#define FOUR_(load, sign, a, b, c, d)                                                                                  \
    load " r3, [r0, #" #a "]\n" load " r4, [r0, #" #b "]\n" load " r5, [r0, #" #c "]\n" load " r6, [r0, #" #d          \
         "]\n" sign " r3, r3\n" sign " r4, r4\n" sign " r5, r5\n" sign " r6, r6\n"                                     \
         "lsls r3, r2\n lsls r4, r2\n lsls r5, r2\n lsls r6, r2\n stmia r1!, {r3-r6}\n"
#define SPREAD(linkage, name, load, sign, ONE, TWO, THREE, LAST)                                                       \
    NAKED linkage void name(const void *block UNUSED, int32_t *words UNUSED, int up UNUSED) {                          \
        __asm__(".syntax unified\n push {r4-r6, lr}\n" FOUR(load, sign, ONE) FOUR(load, sign, TWO)                     \
                    FOUR(load, sign, THREE) FOUR(load, sign, LAST) "pop {r4-r6, pc}\n");                               \
    }

SPREAD(static, ppn_m0_spread8, "ldrb", "sxtb", AT(0, 1, 2, 3), AT(4, 5, 6, 7), AT(8, 9, 10, 11), AT(12, 13, 14, 15))
SPREAD(static, ppn_m0_spread8_turned, "ldrb", "sxtb", AT(0, 4, 8, 12), AT(1, 5, 9, 13), AT(2, 6, 10, 14),
       AT(3, 7, 11, 15))
SPREAD(extern, ppn_m0_spread16, "ldrh", "sxth", AT(0, 2, 4, 6), AT(8, 10, 12, 14), AT(16, 18, 20, 22),
       AT(24, 26, 28, 30))
SPREAD(static, ppn_m0_spread16_turned, "ldrh", "sxth", AT(0, 8, 16, 24), AT(2, 10, 18, 26), AT(4, 12, 20, 28),
       AT(6, 14, 22, 30))

typedef void ppn_m0_spreading(const void *block, int32_t *words, int up);
static ppn_m0_spreading *ppn_m0_spreading_of(const ppn_run *run) {
    if (run->wide) return run->turned ? ppn_m0_spread16_turned : ppn_m0_spread16;
    return run->turned ? ppn_m0_spread8_turned : ppn_m0_spread8;
}

static void ppn_m0_spread_blocks(const ppn_run *run, int from, int count, int up, ppn_m0_spreading *spread,
                                 int32_t *words, int stride) {
    int step = run->step * (run->wide ? 32 : 16);
    const int8_t *at = (const int8_t *)run->mantissas + from * step;
    for (; count; count--, at += step, words += stride) spread(at, words, up);
}

void ppn_m0_spread_block(const ppn_run *run, int block, int up, int32_t *words) {
    ppn_m0_spread_blocks(run, block, 1, up, ppn_m0_spreading_of(run), words, 0);
}

/* a0 + a1 2^16, a2 + a3 2^16 of every four bytes, aligned. */
#define PAIRS                                                                                                          \
    "ldmia r0!, {r2}\n sxtb r3, r2\n lsls r4, r2, #16\n asrs r4, r4, #24\n lsls r4, r4, #16\n adds r3, r4\n"           \
    "asrs r4, r2, #16\n sxtb r4, r4\n asrs r2, r2, #24\n lsls r2, r2, #16\n adds r4, r2\n stmia r1!, {r3, r4}\n"
NAKED static void ppn_m0_pair_left(const void *block UNUSED, int32_t *words UNUSED, int up UNUSED) {
    __asm__(".syntax unified\n push {r4, lr}\n" PAIRS PAIRS PAIRS PAIRS "pop {r4, pc}\n");
}

void ppn_m0_pack(const uint8_t *matrix, uint32_t blocks, int turned, uint8_t *pairs) {
    int32_t *to = (int32_t *)(void *)pairs;
    ppn_run run = {matrix, (const int8_t *)matrix, 1, 0, (uint8_t)turned, 8};
    for (uint32_t k = 0; k < blocks; k++) {
        int32_t b[16];
        ppn_m0_spread_block(&run, (int)k, 0, b);
        for (int l = 0; l < 16; l += 2) *to++ = b[l + 1] + b[l] * (1 << 16);
    }
}

static int ppn_m0_exp(int e) { return e == PPN_ZERO_EXP ? PPN_M0_NONE : e; }

void ppn_m0_spread(const ppn_run *run, int from, int count, int up, ppn_m0_side *side) {
    ppn_m0_spread_blocks(run, from, count, up, ppn_m0_spreading_of(run), side->words, 16);
    const int8_t *e = run->exps + from * run->step;
    side->most = PPN_M0_NONE;
    for (int k = 0; k < count; k++, e += run->step) {
        side->exps[k] = ppn_m0_exp(*e);
        side->most = ppn_max(side->most, side->exps[k]);
    }
}

/* Into each of the records, |stride| bytes apart: left[k] - 128 - right[k step], the exponent sum turned over, for left
 * up to |end|; answers the least. */
NAKED static int32_t ppn_m0_align(const int32_t *left UNUSED, const int8_t *right UNUSED, int32_t *records UNUSED,
                                  const int32_t *end UNUSED, int32_t step UNUSED, int32_t stride UNUSED) {
    __asm__(".syntax unified\n push {r4-r7, lr}\n ldr r7, [sp, #20]\n ldr r4, [sp, #24]\n mov r12, r4\n"
            "movs r6, #1\n lsls r6, r6, #30\n mov lr, r6\n movs r6, #0\n"
            "1: ldmia r0!, {r4}\n ldrsb r5, [r1, r6]\n adds r6, r7\n adds r5, #128\n beq 2f\n subs r4, r5\n"
            "3: str r4, [r2]\n add r2, r12\n cmp r4, lr\n bge 4f\n mov lr, r4\n"
            "4: cmp r0, r3\n bne 1b\n mov r0, lr\n pop {r4-r7, pc}\n"
            "2: movs r4, #1\n lsls r4, r4, #14\n b 3b\n");
}

/* Blocks |from| to |from| + |count| of a run into records. */
static void ppn_m0_lay_out(const ppn_run *run, int from, int count, ppn_m0_factor *left) {
    ppn_m0_spreading *spread = left->sum == ppn_m0_pairs8 ? ppn_m0_pair_left : ppn_m0_spreading_of(run);
    const int8_t *e = run->exps + from * run->step;
    for (int k = 0; k < count; k++, e += run->step) left->exps[k] = 128 - ppn_m0_exp(*e);
    ppn_m0_spread_blocks(run, from, count, left->up, spread, left->records + 1, left->stride);
    left->records[count * left->stride] = PPN_M0_END;
}

static void ppn_m0_choose(const ppn_run *b, int wide, ppn_m0_factor *left) {
    int pairs = b->turned == PPN_M0_PAIRS;
    left->room = pairs ? PPN_M0_PACKED : PPN_M0_BLOCKS;
    left->stride = pairs ? 9 : 17;
    left->up = !pairs && !wide;
    left->fewer = pairs ? 0 : wide ? 1 : -1;
    if (pairs)
        left->sum = ppn_m0_pairs8;
    else if (wide)
        left->sum = b->turned ? ppn_m0_wide16_turned : ppn_m0_wide16;
    else if (b->wide)
        left->sum = b->turned ? ppn_m0_narrow16_turned : ppn_m0_narrow16;
    else
        left->sum = b->turned ? ppn_m0_narrow8_turned : ppn_m0_narrow8;
}

void ppn_m0_make_ready(const ppn_run *run, const ppn_run *right, int n, int headroom, ppn_m0_factor *left) {
    ppn_m0_choose(right, run->bits + right->bits > 30, left);
    left->step = right->step * (right->wide ? 32 : 16);
    left->n = n;
    left->headroom = headroom;
    if (n <= left->room) ppn_m0_lay_out(run, 0, n, left);
}

/* The exponent sums of |count| pairs, turned over, into the records; answers the least. */
static int ppn_m0_pairs(ppn_m0_factor *left, const ppn_run *b, int from, int count) {
    const int32_t *exps = left->exps;
    return ppn_m0_align(exps, b->exps + from * b->step, left->records, exps + count, b->step, left->stride * 4);
}

/* The sum over those pairs whose right blocks begin at |mantissas|; |top|: the largest exponent, headroom included. */
static void ppn_m0_sum(const ppn_m0_factor *left, const void *mantissas, int top, int32_t *out) {
    left->sum(left->records, mantissas, out, top - left->fewer, left->step);
}

/* Runs longer than what is laid out at a time: part after part. */
PPN_SMALL static int ppn_m0_long_product(const ppn_run *a, ppn_m0_factor *left, const ppn_run *b, int32_t *out) {
    int32_t part[16];
    int top = ppn_run_top(a, b, left->n);
    memset(out, 0, sizeof part);
    if (top == UNUSED_TERM) return PPN_EMPTY_EXP;
    top += left->headroom;
    for (int from = 0, count; from < left->n; from += count) {
        count = ppn_min(left->n - from, left->room);
        ppn_m0_lay_out(a, from, count, left);
        ppn_m0_pairs(left, b, from, count);
        ppn_m0_sum(left, (const int8_t *)b->mantissas + from * left->step, top, part);
        LANES out[l] += part[l];
    }
    return top;
}

int ppn_m0_product(const ppn_run *a, ppn_m0_factor *left, const ppn_run *b, int32_t *out) {
    if (left->n > left->room) return ppn_m0_long_product(a, left, b, out);
    int top = -ppn_m0_pairs(left, b, 0, left->n);
    if (top < PPN_M0_NONE / 2) {
        memset(out, 0, 16 * sizeof *out);
        return PPN_EMPTY_EXP;
    }
    top += left->headroom;
    ppn_m0_sum(left, b->mantissas, top, out);
    return top;
}

PPN_SMALL int ppn_m0_rare_product(const ppn_run *a, const ppn_run *b, int n, int headroom, int32_t *out) {
    return ppn_run_product(a, b, n, headroom, out);
}

/* Put products |x| into the rows of |sink| that are not encoded. */
static void ppn_m0_put_values(const ppn_sink *sink, uint32_t column, const int32_t *x, int e) {
    memcpy(sink->values + column * 16, x, 64);
    sink->exps[column] = (int16_t)e;
}

void ppn_row_times(ppn_pass *p, const ppn_stage *s, ppn_run row, ppn_run matrix, int over_rows, ppn_sink sink) {
    uint32_t high = ppn_blocks(s->rows), wide = ppn_blocks(s->cols), size = sink.wide ? 32 : 16;
    uint32_t inner = over_rows ? high : wide, outer = over_rows ? wide : high, blocks = s->panels * outer;
    const ppn_rounding *random = sink.how.stochastic ? &sink.how : NULL;
    ppn_m0_encoding *encode = ppn_m0_encoding_of(random, sink.wide);
    ppn_ready left;
    matrix.step = over_rows ? (int)wide : 1;
    if (matrix.turned != PPN_M0_PAIRS) matrix.turned = (uint8_t)over_rows;
    for (uint32_t column = 0, panel = 0; panel < s->panels; panel++) {
        ppn_run m = matrix;
        ppn_make_ready(&left, row, (int)inner, &matrix);
        for (uint32_t k = 0; k < outer; k++, column++, ppn_move(&m, over_rows ? 1 : (int)inner)) {
            int32_t x[16];
            int e = ppn_ready_product(&left, &m, x);
            if (sink.bias) e = ppn_add_bias(sink.bias, blocks, column, x, e);
            if (sink.values) {
                ppn_m0_put_values(&sink, column, x, e);
                continue;
            }
            uint8_t *to = sink.at + column * size;
            sink.how.index = column * 16;
            int exp = encode(x, to, e, sink.bits - 1, random);
            if (!ppn_m0_usual(exp)) exp = ppn_m0_special(exp, x, e, sink.bits, random, to, sink.wide, &p->flags);
            sink.at[blocks * size + column] = (uint8_t)exp;
        }
        if (row.exps) row = ppn_run_at(row, (int)inner);
    }
}

#endif
