/* chain.h: contraction of a TT half-chain to its factor, and of the factor's gradient back (spec 8). */
#ifndef PPN_CHAIN_H
#define PPN_CHAIN_H

#include "ppn/ppn.h"

/* Does the chain multiply out to a rows x cols factor? */
int ppn_check_chain(const ppn_chain *c, uint32_t rows, uint32_t cols);

/* Blocks of all its cores as they travel. */
uint32_t ppn_chain_blocks(const ppn_chain *c);

/* Bytes it keeps in the weights: cores and, for three modes or more, the partial products. */
uint32_t ppn_chain_bytes(const ppn_chain *c);

/* Bytes of scratch that contracting it takes, either way. */
uint32_t ppn_chain_scratch(const ppn_chain *c);

/* Keep the cores at |at|. */
void ppn_chain_load(const ppn_chain *c, uint8_t *at, const int16_t *mantissas, const int8_t *exps);

/* Contract them into |matrix|, stored in SMX(bits). Answers flags. */
int ppn_chain_contract(const ppn_chain *c, uint8_t *at, uint8_t *scratch, uint8_t *matrix, int bits);

/* Core gradients in SMX(16) from the factor's gradient |sums| (blocks, exponent |exp|). Answers flags. */
int ppn_chain_return(const ppn_chain *c, const uint8_t *at, uint8_t *scratch, const int32_t *sums, int16_t exp,
                     int16_t *mantissas, int8_t *exps);

#endif
