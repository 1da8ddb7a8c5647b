/* variant.h: the kernels, and their entry in the host's table, as PPN_VARIANT. */
#include "names.h"

#include "../src/backward.c"
#include "../src/chain.c"
#include "../src/forward.c"
#include "../src/parameters.c"
#include "../src/plan.c"
#include "../src/smx.c"

#include "packed.h"

/* This variant's entry in the host's table. */
const ppn_kernels PPN_NAMED(ppn_kernels) = {ppn_plan,     ppn_load,     ppn_forward,   ppn_begin,
                                            ppn_backward, ppn_merge,    ppn_gradients, ppn_matmul,
                                            ppn_encode,   ppn_activate, ppn_pack,      ppn_times_packed};
