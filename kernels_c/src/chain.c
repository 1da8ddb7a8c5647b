/* chain.c: TT half-chains (spec 8). A factor F_k has shape (r_k, n_k ... n_{d-1}); F_{d-1} is the last core. */
#include "chain.h"

#include "product.h"

static uint32_t ppn_up(uint32_t size) { return (size + 3) / 4; }
static uint32_t ppn_smx16_bytes(uint32_t blocks) { return (blocks * 33 + 3) & ~(uint32_t)3; }

/* n_k ... n_{d-1} */
static uint32_t ppn_rest(const ppn_chain *c, uint32_t k) {
    uint32_t product = 1;
    for (; k < c->modes; k++) product *= c->mode[k];
    return product;
}

/* The matrix core k travels as. */
static uint32_t ppn_core_rows(const ppn_chain *c, uint32_t k) {
    return k + 1 < c->modes ? (uint32_t)c->rank[k] * c->mode[k] : c->rank[k];
}
static uint32_t ppn_core_cols(const ppn_chain *c, uint32_t k) { return k + 1 < c->modes ? c->rank[k + 1] : c->mode[k]; }
static uint32_t ppn_core_blocks(const ppn_chain *c, uint32_t k) {
    return ppn_up(ppn_core_rows(c, k)) * ppn_up(ppn_core_cols(c, k));
}

/* Partial product F_k, 0 < k < d - 1, is kept behind the cores. */
static uint32_t ppn_partial_blocks(const ppn_chain *c, uint32_t k) {
    return ppn_up(c->rank[k]) * ppn_up(ppn_rest(c, k));
}

PPN_SMALL int ppn_check_chain(const ppn_chain *c, uint32_t rows, uint32_t cols) {
    if (c->modes < 1 || c->modes > PPN_MODES || c->rank[0] != rows || c->rank[c->modes] != 1) return 0;
    uint64_t width = 1;
    for (uint32_t k = 0; k < c->modes; k++) {
        if (c->mode[k] < 1 || c->mode[k] > PPN_INNER || c->rank[k] < 1 || c->rank[k] > PPN_INNER) return 0;
        if (ppn_core_rows(c, k) > 4 * PPN_INNER) return 0;
        width *= c->mode[k];
    }
    return width == cols;
}

uint32_t ppn_chain_blocks(const ppn_chain *c) {
    uint32_t blocks = 0;
    for (uint32_t k = 0; k < c->modes; k++) blocks += ppn_core_blocks(c, k);
    return blocks;
}

/* Offset of core k (|partial| 0) or of F_k (1) in what the chain keeps; k = d asks for the end. */
PPN_SMALL static uint32_t ppn_kept_at(const ppn_chain *c, uint32_t k, int partial) {
    uint32_t at = 0, cores = partial ? c->modes : k;
    for (uint32_t i = 0; i < cores; i++) at += ppn_smx16_bytes(ppn_core_blocks(c, i));
    for (uint32_t i = 1; partial && i < k && i + 1 < c->modes; i++) at += ppn_smx16_bytes(ppn_partial_blocks(c, i));
    return at;
}
uint32_t ppn_chain_bytes(const ppn_chain *c) { return ppn_kept_at(c, c->modes, 1); }

static ppn_view ppn_view_at(const uint8_t *at, uint32_t rows, uint32_t cols) {
    uint32_t blocks = ppn_up(rows) * ppn_up(cols);
    ppn_view view = {{at, (const int8_t *)at + blocks * 32, 1, 1, 0, 16}, ppn_up(rows), ppn_up(cols), 0};
    return view;
}
static ppn_view ppn_core(const ppn_chain *c, const uint8_t *at, uint32_t k) {
    return ppn_view_at(at + ppn_kept_at(c, k, 0), ppn_core_rows(c, k), ppn_core_cols(c, k));
}
static ppn_view ppn_partial(const ppn_chain *c, const uint8_t *at, uint32_t k) {
    if (k + 1 == c->modes) return ppn_core(c, at, k);
    return ppn_view_at(at + ppn_kept_at(c, k, 1), c->rank[k], ppn_rest(c, k));
}

/* Blocks of the largest product that contracting forms, either way. */
PPN_SMALL static uint32_t ppn_widest(const ppn_chain *c) {
    uint32_t most = ppn_up(c->rank[0]) * ppn_up(ppn_rest(c, 0));
    for (uint32_t k = 0; k + 1 < c->modes; k++) {
        uint32_t blocks = ppn_up(ppn_core_rows(c, k)) * ppn_up(ppn_rest(c, k + 1));
        most = blocks > most ? blocks : most;
        most = ppn_core_blocks(c, k) > most ? ppn_core_blocks(c, k) : most; /* their exponents */
        most = ppn_partial_blocks(c, k + 1) > most ? ppn_partial_blocks(c, k + 1) : most;
    }
    return most;
}

/* A product (int32, exponents) and, going back, the factor's gradient in SMX(16). */
uint32_t ppn_chain_scratch(const ppn_chain *c) {
    uint32_t blocks = ppn_widest(c);
    return ((blocks * 66 + 3) & ~(uint32_t)3) + ppn_smx16_bytes(blocks);
}

/* ---- flattening ------------------------------------------------------------------------------------------------ */

/* Bring all blocks to the largest exponent, which is answered; 0 if there is none. */
static int ppn_flatten(uint32_t blocks, int32_t *x, const int16_t *exps) {
    int top = PPN_EMPTY_EXP;
    for (uint32_t k = 0; k < blocks; k++) top = ppn_max(top, exps[k]);
    if (top == PPN_EMPTY_EXP) return 0;
    for (uint32_t k = 0; k < blocks; k++)
        LANES x[16 * k + (uint32_t)l] = ppn_rnd(x[16 * k + (uint32_t)l], top - exps[k]);
    return top;
}

/* A place in the row-major order of a matrix of |cols| columns stored in blocks. */
typedef struct {
    uint32_t row, col;
} ppn_place_in;

/* |count| elements from |at| on, which moves behind them. */
static void ppn_elements(const int32_t *x, ppn_place_in *at, uint32_t count, uint32_t cols, int32_t *to) {
    uint32_t row = at->row, col = at->col, wide = ppn_up(cols);
    if (count == 4 && cols % 4 == 0 && col % 4 == 0) { /* a row of one block */
        memcpy(to, x + (row / 4 * wide + col / 4) * 16 + row % 4 * 4, 16);
        col += 4;
        count = 0;
    }
    for (uint32_t l = 0; l < count; l++, col++) {
        if (col == cols) col = 0, row++;
        to[l] = x[(row / 4 * wide + col / 4) * 16 + row % 4 * 4 + col % 4];
    }
    if (col == cols) col = 0, row++;
    at->row = row;
    at->col = col;
}

/* Encode flat integers, stored in blocks of a matrix of |from| columns, as a |rows| x |cols| matrix in SMX(bits). */
static int ppn_reshape(const int32_t *x, int exp, uint32_t from, uint32_t rows, uint32_t cols, uint8_t *to, int bits) {
    uint32_t wide = ppn_up(cols), blocks = ppn_up(rows) * wide, b = 0;
    int flags = 0;
    for (uint32_t top = 0; top < rows; top += 4) {
        uint32_t high = rows - top < 4 ? rows - top : 4;
        ppn_place_in at[4];
        for (uint32_t i = 0, first = top * cols; i < high; i++, first += cols) {
            at[i].row = first / from; /* the only divisions */
            at[i].col = first - at[i].row * from;
        }
        for (uint32_t left = 0; left < cols; left += 4, b++) {
            int32_t block[16] = {0};
            uint32_t count = cols - left < 4 ? cols - left : 4;
            for (uint32_t i = 0; i < high; i++) ppn_elements(x, &at[i], count, from, block + 4 * i);
            ppn_encode_to(block, exp, bits, PPN_NEAREST, to, blocks, bits > 8, b, &flags);
        }
    }
    return flags;
}

/* ---- contraction ----------------------------------------------------------------------------------------------- */

PPN_SMALL void ppn_chain_load(const ppn_chain *c, uint8_t *at, const int16_t *mantissas, const int8_t *exps) {
    for (uint32_t k = 0; k < c->modes; k++) {
        uint32_t blocks = ppn_core_blocks(c, k);
        uint8_t *to = at + ppn_kept_at(c, k, 0);
        memcpy(to, mantissas, blocks * (size_t)32);
        memcpy(to + blocks * 32, exps, blocks);
        mantissas += blocks * 16;
        exps += blocks;
    }
}

/* The only core, re-encoded. */
PPN_SMALL static int ppn_contract_one(const ppn_view *core, uint8_t *matrix, int bits) {
    int flags = 0;
    for (uint32_t k = 0; k < core->rows * core->cols; k++) {
        int32_t x[16];
        int16_t m[16];
        ppn_load_block(&core->run, (int)k, m);
        LANES x[l] = m[l];
        int e = ppn_encode16(x, core->run.exps[k], bits, PPN_NEAREST, m, &flags);
        ppn_store(matrix, core->rows * core->cols, bits > 8, k, m, e);
    }
    return flags;
}

PPN_SMALL int ppn_chain_contract(const ppn_chain *c, uint8_t *at, uint8_t *scratch, uint8_t *matrix, int bits) {
    int flags = 0;
    ppn_view core = ppn_core(c, at, 0);
    if (c->modes == 1) return ppn_contract_one(&core, matrix, bits);
    for (uint32_t k = c->modes - 1u; k-- > 0;) {
        uint32_t rest = ppn_rest(c, k + 1), rows = ppn_core_rows(c, k), blocks = ppn_up(rows) * ppn_up(rest);
        int32_t *x = (int32_t *)(void *)scratch;
        int16_t *exps = (int16_t *)(void *)(scratch + blocks * 64);
        ppn_view factor = ppn_partial(c, at, k + 1);
        core = ppn_core(c, at, k);
        ppn_product(&core, &factor, x, exps);
        int e = ppn_flatten(blocks, x, exps);
        uint8_t *to = k ? at + ppn_kept_at(c, k, 1) : matrix;
        flags |= ppn_reshape(x, e, rest, c->rank[k], ppn_rest(c, k), to, k ? 16 : bits);
    }
    return flags;
}

PPN_SMALL int ppn_chain_return(const ppn_chain *c, const uint8_t *at, uint8_t *scratch, const int32_t *sums,
                               int16_t exp, int16_t *mantissas, int8_t *exps) {
    uint32_t widest = ppn_widest(c), last = c->modes - 1u;
    int32_t *x = (int32_t *)(void *)scratch;
    int16_t *x_exps = (int16_t *)(void *)(scratch + widest * 64);
    uint8_t *factor = scratch + ((widest * 66 + 3) & ~(uint32_t)3);
    int flags = 0, flat = exp;
    for (uint32_t k = 0; k < last; k++) {
        uint32_t rest = ppn_rest(c, k + 1), rows = ppn_core_rows(c, k), blocks = ppn_core_blocks(c, k);
        flags |= ppn_reshape(k ? x : sums, flat, ppn_rest(c, k), rows, rest, factor, 16);
        ppn_view d = ppn_view_at(factor, rows, rest), next = ppn_partial(c, at, k + 1), core = ppn_core(c, at, k);
        next.transposed = 1;
        ppn_product(&d, &next, x, x_exps);
        flags |= ppn_encode_blocks(blocks, x, x_exps, 1, 16, mantissas, exps);
        mantissas += blocks * 16;
        exps += blocks;
        core.transposed = 1;
        ppn_product(&core, &d, x, x_exps);
        if (k + 1 < last) flat = ppn_flatten(ppn_partial_blocks(c, k + 1), x, x_exps);
    }
    if (last) return flags | ppn_encode_blocks(ppn_core_blocks(c, last), x, x_exps, 1, 16, mantissas, exps);
    return ppn_encode_blocks(ppn_core_blocks(c, 0), sums, &exp, 0, 16, mantissas, exps);
}
