/* dispatch.c: which variants this machine runs. */
#include "host.h"
#include "target.h"

extern const ppn_kernels ppn_kernels_portable;
#if PPN_X86
extern const ppn_kernels ppn_kernels_avx2, ppn_kernels_avx512;

static int ppn_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("lzcnt");
}
static int ppn_has_avx512(void) {
    return ppn_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#endif
#if PPN_ARM64
extern const ppn_kernels ppn_kernels_neon;
#endif

const ppn_kernels *ppn_variant_kernels(int variant) {
#if PPN_X86
    if (variant == PPN_AVX2) return ppn_has_avx2() ? &ppn_kernels_avx2 : NULL;
    if (variant == PPN_AVX512) return ppn_has_avx512() ? &ppn_kernels_avx512 : NULL;
#endif
#if PPN_ARM64
    if (variant == PPN_NEON) return &ppn_kernels_neon;
#endif
    return variant == PPN_PORTABLE ? &ppn_kernels_portable : NULL;
}
