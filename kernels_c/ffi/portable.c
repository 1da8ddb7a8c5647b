/* portable.c: the kernels as any C11 compiler builds them. */
#define PPN_VARIANT portable
#include "variant.h"
