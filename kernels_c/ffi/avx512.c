/* avx512.c: the kernels for x86-64 with AVX-512 (F, BW, CD, DQ, VL) and VNNI. */
#include "target.h"
#if PPN_X86
PPN_TARGET("avx2,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")
#define PPN_SIMD 3
#define PPN_VARIANT avx512
#include "variant.h"
PPN_TARGET_END
#endif
typedef int ppn_not_empty;
