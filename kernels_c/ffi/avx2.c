/* avx2.c: the kernels for x86-64 with AVX2, BMI and LZCNT. */
#include "target.h"
#if PPN_X86
PPN_TARGET("avx2,bmi,bmi2,lzcnt")
#define PPN_SIMD 2
#define PPN_VARIANT avx2
#include "variant.h"
PPN_TARGET_END
#endif
typedef int ppn_not_empty;
