/* encode.h: reals to SMX and back on the host (spec 2.1). The kernels themselves know no floating point. */
#ifndef PICOPINN_ENCODE_H
#define PICOPINN_ENCODE_H

#include <stdint.h>

/* Encode |count| blocks, block k to widths[k] bits (4 to 16): 16 mantissas and an exponent each. Lane l of a block is
 * the finite reals[index[16 k + l]], or 0 where the index is negative. |held|, if given, is filled with what the blocks
 * now hold, as picopinn_scatter() does. */
void picopinn_gather(uint32_t count, const double *reals, const int32_t *index, const uint8_t *widths,
                     int16_t *mantissas, int8_t *exps, double *held);

/* Decode |count| blocks, each lane to reals[index[lane]], or nowhere. */
void picopinn_scatter(uint32_t count, const int16_t *mantissas, const int8_t *exps, const int32_t *index,
                      double *reals);

/* Decode |count| microbatches of |streams| rows of |blocks| blocks, of each row the first column alone: four reals a
 * microbatch and stream, point after point. */
void picopinn_column(uint32_t count, uint32_t streams, uint32_t blocks, const int32_t *mantissas, const int16_t *exps,
                     double *reals);

#endif
