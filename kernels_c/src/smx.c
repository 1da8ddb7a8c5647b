/* smx.c: products, encoding and activations of whole arrays of blocks, for callers outside a network. */
#include "activation.h"
#include "chunk_simd.h"
#include "product.h"

static int ppn_matrix_ok(const ppn_matrix *m) { return m->bits >= 4 && m->bits <= 16; }

static ppn_view ppn_matrix_view(const ppn_matrix *m) {
    ppn_view view = {{m->mantissas, m->exps, 1, 1, 0, m->bits}, m->rows, m->cols, m->transposed};
    return view;
}

int ppn_matmul(const ppn_matrix *a, const ppn_matrix *b, int32_t *out, int16_t *out_exps) {
    if (!ppn_matrix_ok(a) || !ppn_matrix_ok(b)) return PPN_BAD_WIDTH;
    ppn_view x = ppn_matrix_view(a), y = ppn_matrix_view(b);
    if (ppn_view_cols(&x) != ppn_view_rows(&y) || ppn_view_cols(&x) > PPN_INNER / 4) return PPN_BAD_SHAPE;
    ppn_product(&x, &y, out, out_exps);
    return PPN_OK;
}

int ppn_encode(uint32_t count, const int32_t *x, const int16_t *x_exps, uint8_t bits, int16_t *mantissas,
               int8_t *exps) {
    int flags = 0;
#if PPN_SIMD
    for (; count >= PPN_CHUNK; count -= PPN_CHUNK) {
        ppn_chunk chunk;
        for (uint32_t k = 0; k < PPN_CHUNK; k++, x += 16) chunk.x[k] = ppn_get_simd(x);
        chunk.e = ppn_get16_simd(x_exps);
        ppn_turn_simd(chunk.x);
        ppn_encode_chunk(&chunk, PPN_CHUNK, ppn_all_simd(bits), NULL, &flags);
        ppn_put16_chunk(mantissas, chunk.x, PPN_CHUNK);
        ppn_put8_simd(exps, chunk.e);
        x_exps += PPN_CHUNK, mantissas += PPN_CHUNK * 16, exps += PPN_CHUNK;
    }
#endif
    return flags | ppn_encode_blocks(count, x, x_exps, 1, bits, mantissas, exps);
}

void ppn_activate(uint32_t count, const int16_t *z, const int8_t *z_exps, uint8_t activation, int16_t *value,
                  int16_t *slope) {
    for (uint32_t k = 0; k < count; k++) {
        ppn_block block;
        ppn_curve curve;
        memcpy(block.m, z + 16 * k, 32);
        block.e = z_exps[k];
        ppn_curve_at(activation, &block, &curve);
        memcpy(value + 16 * k, curve.h, 32);
        memcpy(slope + 16 * k, curve.p1, 32);
    }
}
