/* host.h: the kernels of every instruction set this host can run, chosen at run time. */
#ifndef PPN_HOST_H
#define PPN_HOST_H

#include "ppn/ppn.h"

/* The right side op(B) of products, |inner| x |cols| blocks of SMX(bits), arranged once for many of them, in a way of
 * the variant's own. */
typedef struct {
    const uint8_t *blocks; /* PPN_PACKED_BYTES each, 4-byte aligned */
    uint16_t inner, cols;
    uint8_t bits;
} ppn_factor;

#define PPN_PACKED_BYTES 36
#define PPN_PACKED_BITS 30 /* of both sides together, at most */

/* The functions of ppn.h in one variant, and two more: arrange a right side; ppn_matmul() of one, for widths of at most
 * PPN_PACKED_BITS together, a share of its rows. Both answer what ppn_matmul() does. */
typedef struct {
    int (*plan)(ppn_network *, uint16_t, ppn_sizes *);
    int (*load)(const ppn_network *, uint8_t *, uint8_t *, const int16_t *, const int8_t *, ppn_share);
    int (*forward)(const ppn_network *, const uint8_t *, uint8_t *, const ppn_batch *, int32_t *, int16_t *);
    void (*begin)(const ppn_network *, uint8_t *, const int16_t *, uint8_t);
    int (*backward)(const ppn_network *, const uint8_t *, uint8_t *, uint8_t *, const ppn_batch *, const int16_t *,
                    const int8_t *, ppn_counter);
    void (*merge)(const ppn_network *, uint8_t *, const uint8_t *);
    int (*gradients)(const ppn_network *, const uint8_t *, const uint8_t *, uint8_t *, int16_t *, int8_t *, uint32_t *,
                     ppn_share);
    int (*matmul)(const ppn_matrix *, const ppn_matrix *, int32_t *, int16_t *);
    int (*encode)(uint32_t, const int32_t *, const int16_t *, uint8_t, int16_t *, int8_t *);
    void (*activate)(uint32_t, const int16_t *, const int8_t *, uint8_t, int16_t *, int16_t *);
    int (*pack)(const ppn_matrix *, uint8_t *);
    int (*times_packed)(const ppn_matrix *, const ppn_factor *, int32_t *, int16_t *, ppn_share);
} ppn_kernels;

enum ppn_variant { PPN_PORTABLE, PPN_NEON, PPN_AVX2, PPN_AVX512, PPN_VARIANTS };

/* The kernels of a variant, or NULL where this machine or this build cannot run it. */
const ppn_kernels *ppn_variant_kernels(int variant);

#endif
