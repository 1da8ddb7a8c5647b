/* neon.c: the kernels for Arm64 with NEON. */
#include "target.h"
#if PPN_ARM64
#define PPN_SIMD 1
#define PPN_VARIANT neon
#include "variant.h"
#endif
typedef int ppn_not_empty;
