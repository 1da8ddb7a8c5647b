/* cortex_m4.c: starts run_case.c on a Cortex-M4 in QEMU (mps2-an386); files and output go through semihosting. */
#include <stdint.h>

extern void _start(void); /* of newlib */

static void reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* CPACR: floating point registers hold integers, too */
    __asm__ volatile("dsb\nisb");
    _start();
}

static void fault(void) {
    for (;;) __asm__ volatile("udf #0"); /* in a handler: QEMU stops */
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))0x20400000, reset, fault, fault, fault, fault, fault};
