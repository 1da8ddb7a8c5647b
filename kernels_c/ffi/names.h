/* names.h: gives every external name of the kernels the suffix PPN_VARIANT, so that one wheel can hold the same
 * sources compiled for several instruction sets. */
#define PPN_PASTE(name, suffix) name##_##suffix
#define PPN_EXPAND(name, suffix) PPN_PASTE(name, suffix)
#define PPN_NAMED(name) PPN_EXPAND(name, PPN_VARIANT)

#define ppn_plan PPN_NAMED(ppn_plan)
#define ppn_load PPN_NAMED(ppn_load)
#define ppn_forward PPN_NAMED(ppn_forward)
#define ppn_begin PPN_NAMED(ppn_begin)
#define ppn_backward PPN_NAMED(ppn_backward)
#define ppn_merge PPN_NAMED(ppn_merge)
#define ppn_gradients PPN_NAMED(ppn_gradients)
#define ppn_matmul PPN_NAMED(ppn_matmul)
#define ppn_encode PPN_NAMED(ppn_encode)
#define ppn_activate PPN_NAMED(ppn_activate)
#define ppn_check_chain PPN_NAMED(ppn_check_chain)
#define ppn_chain_blocks PPN_NAMED(ppn_chain_blocks)
#define ppn_chain_bytes PPN_NAMED(ppn_chain_bytes)
#define ppn_chain_scratch PPN_NAMED(ppn_chain_scratch)
#define ppn_chain_load PPN_NAMED(ppn_chain_load)
#define ppn_chain_contract PPN_NAMED(ppn_chain_contract)
#define ppn_chain_return PPN_NAMED(ppn_chain_return)
