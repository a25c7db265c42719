// Products with packed bits. Four bits index one of the sixteen sums of four rows, so a table of those sums, computed once for
// all rows of bits, turns four multiply-adds into one load and add: a quarter of a dense product's work, for as many rows as
// make up for the tables.
#pragma once
#include <cstdlib>

#include "rows.h"

namespace {

constexpr int COLUMNS = 16, VECTORS = COLUMNS / W;  // of a panel
constexpr int DEPTH = 64, NIBBLES = DEPTH / 4;      // terms summed by one set of tables
using Sums = float[NIBBLES][16][COLUMNS];           // 16 KiB: half of a first cache

// All sums of each four of DEPTH rows of COLUMNS numbers.
inline void prepare(const float* rows, int64_t stride, Sums& sums) {
    for (int n = 0; n < NIBBLES; n++)
        for (int v = 0; v < COLUMNS; v += W) {
            F s[16];
            s[0] = set(0.0f);
            for (int bit = 0; bit < 4; bit++) {
                const F row = load(rows + (4 * n + bit) * stride + v);
                for (int i = 0; i < 1 << bit; i++) s[(1 << bit) + i] = add(s[i], row);
            }
            for (int i = 0; i < 16; i++) store(sums[n][i] + v, s[i]);
        }
}

// total[m] += the sums that the 64 bits packed[m * stride] index. Two partial totals, so that an addition need not wait for
// the one before.
inline void accumulate(const uint64_t* packed, int64_t stride, const Sums& sums, float* total, int64_t rows) {
    for (int64_t m = 0; m < rows; m++) {
        const uint64_t bits = packed[m * stride];
        F even[VECTORS], odd[VECTORS];
        for (int v = 0; v < VECTORS; v++) even[v] = load(total + m * COLUMNS + v * W), odd[v] = set(0.0f);
#pragma GCC unroll 8
        for (int n = 0; n < NIBBLES; n += 2) {
            const float *a = sums[n][bits >> (4 * n) & 15], *b = sums[n + 1][bits >> (4 * n + 4) & 15];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) even[v] = add(even[v], load(a + v * W)), odd[v] = add(odd[v], load(b + v * W));
        }
        for (int v = 0; v < VECTORS; v++) store(total + m * COLUMNS + v * W, add(even[v], odd[v]));
    }
}

// to[j][i] = from[i][j] for `rows` x `columns` numbers.
inline void transposed(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t j = 0;
        for (; j + W <= columns; j += W) {
            I w[4];
            for (int r = 0; r < 4; r++) w[r] = bits(load(from + (i + r) * from_stride + j));
            in_order(w);
            for (int c = 0; c < 4; c++) {
                alignas(64) uint32_t four[W];
                storei(four, w[c]);  // columns c, c + 4, c + 8, ... of the four rows
                for (int q = 0; q < W / 4; q++) memcpy(to + (j + 4 * q + c) * to_stride + i, four + 4 * q, 16);
            }
        }
        for (; j < columns; j++)
            for (int r = 0; r < 4; r++) to[j * to_stride + i + r] = from[(i + r) * from_stride + j];
    }
    for (; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

// Which panel and which rows a thread works on: panels by themselves where there are enough, else each in `parts` pieces.
struct Share {
    int64_t panels, pieces;
    Range own;
    Share(int64_t columns, int part, int parts)
        : panels(divided_up(columns, COLUMNS)), pieces(panels % parts == 0 || panels >= 4 * parts ? 1 : parts),
          own(panels * pieces, part, parts) {}
    Range rows(int64_t task, int64_t count) const { return Range(count, (int)(task % pieces), (int)pieces); }
};

// out[m][n] = bias[n] + sum_k bit[m][k] weight[n][k]. False if there was no memory.
inline bool packed_linear(const uint64_t* packed, const float* weight, const float* bias, float* out, int64_t rows,
                          int64_t depth, int64_t columns, int part, int parts) {
    const Share share(columns, part, parts);
    float* total = (float*)aligned_alloc(64, divided_up(rows, 16) * 16 * COLUMNS * sizeof(float));
    if (!total) return false;
    const int64_t words = divided_up(depth, 64);
    alignas(64) Sums sums;
    alignas(64) float block[DEPTH * COLUMNS];
    for (int64_t task = share.own.begin; task < share.own.end; task++) {
        const int64_t n0 = task / share.pieces * COLUMNS, width = smaller(COLUMNS, columns - n0);
        const Range own = share.rows(task, rows);
        alignas(64) float start[COLUMNS] = {};
        if (bias) memcpy(start, bias + n0, width * sizeof(float));
        for (int64_t m = 0; m < own.end - own.begin; m++) memcpy(total + m * COLUMNS, start, sizeof start);
        for (int64_t k = 0; k < depth; k += DEPTH) {
            const int64_t deep = smaller(DEPTH, depth - k);
            if (deep < DEPTH || width < COLUMNS) memset(block, 0, sizeof block);
            transposed(weight + n0 * depth + k, depth, block, COLUMNS, width, deep);
            prepare(block, COLUMNS, sums);
            accumulate(packed + own.begin * words + k / DEPTH, words, sums, total, own.end - own.begin);
        }
        for (int64_t m = own.begin; m < own.end; m++)
            memcpy(out + m * columns + n0, total + (m - own.begin) * COLUMNS, width * sizeof(float));
    }
    free(total);
    return true;
}

// out[n][m] (+)= sum_k gradient[k][n] bit[m][k]: the gradient of `packed_linear` with respect to the weight, for bits that are
// packed along the batch k. False if there was no memory.
inline bool packed_outer(const uint64_t* packed, const float* gradient, float* out, int64_t inputs, int64_t batch,
                         int64_t outputs, bool added, int part, int parts) {
    const Share share(outputs, part, parts);
    float* total = (float*)aligned_alloc(64, divided_up(inputs, 16) * 16 * COLUMNS * sizeof(float));
    float* turned = (float*)aligned_alloc(64, divided_up(inputs, 16) * 16 * COLUMNS * sizeof(float));
    const bool enough = total && turned;
    const int64_t words = divided_up(batch, 64);
    alignas(64) Sums sums;
    alignas(64) float block[DEPTH * COLUMNS];
    for (int64_t task = enough ? share.own.begin : share.own.end; task < share.own.end; task++) {
        const int64_t n0 = task / share.pieces * COLUMNS, width = smaller(COLUMNS, outputs - n0);
        const Range own = share.rows(task, inputs);
        const int64_t count = own.end - own.begin;
        memset(total, 0, count * COLUMNS * sizeof(float));
        for (int64_t k = 0; k < batch; k += DEPTH) {
            const int64_t deep = smaller(DEPTH, batch - k);
            const float* from = gradient + k * outputs + n0;
            if (deep == DEPTH && width == COLUMNS) {
                prepare(from, outputs, sums);
            } else {
                memset(block, 0, sizeof block);
                for (int64_t i = 0; i < deep; i++) memcpy(block + i * COLUMNS, from + i * outputs, width * sizeof(float));
                prepare(block, COLUMNS, sums);
            }
            accumulate(packed + own.begin * words + k / DEPTH, words, sums, total, count);
        }
        transposed(total, COLUMNS, turned, count, count, COLUMNS);
        for (int64_t n = 0; n < width; n++)
            in_steps(turned + n * count, out + (n0 + n) * inputs + own.begin, count, [&](int64_t, const float* x, float* to) {
                store(to, added ? add(load(to), load(x)) : load(x));
            });
    }
    free(total), free(turned);
    return enough;
}

// 64 x 64 bits turned (Warren, "Hacker's delight", Sec. 7-3), bit 0 first.
inline void turn_block(uint64_t x[64]) {
    uint64_t mask = 0x00000000FFFFFFFFull;
    for (int j = 32; j; j >>= 1, mask ^= mask << j)
        for (int k = 0; k < 64; k = ((k | j) + 1) & ~j) {
            const uint64_t t = ((x[k] >> j) ^ x[k | j]) & mask;
            x[k] ^= t << j;
            x[k | j] ^= t;
        }
}

// rows x columns bits -> columns x rows; the words of columns [64 begin, 64 end).
inline void turn_bits(const uint64_t* packed, uint64_t* out, int64_t rows, int64_t columns, int64_t begin, int64_t end) {
    const int64_t words = divided_up(columns, 64), out_words = divided_up(rows, 64);
    for (int64_t c = begin; c < end; c++)
        for (int64_t r = 0; r < out_words; r++) {
            uint64_t block[64] = {};
            const int64_t high = smaller(64, rows - 64 * r), wide = smaller(64, columns - 64 * c);
            for (int64_t i = 0; i < high; i++) block[i] = packed[(64 * r + i) * words + c];
            turn_block(block);
            for (int64_t i = 0; i < wide; i++) out[(64 * c + i) * out_words + r] = block[i];
        }
}

}  // namespace
