// Which noise the units of a row get, and which thread makes it. A row is one example under one sample.
//
// Uniforms: units are taken in groups of 128. Unit i of a group has 16 high bits from stream HIGH and 16 low bits from stream
// LOW, in word i mod 64 of the group's 64 words: the lower half for i < 64, the upper half above. A sample needs the low bits
// once in 2^16, so that it costs half a word.
// Normals: in stream PAIRS the words 2 j and 2 j + 1 are turned into the normals 2 j and 2 j + 1.
#pragma once
#include <cmath>
#include <cstring>

#include "abi.h"
#include "philox.h"

namespace {

constexpr uint32_t HIGH = 0, LOW = 1, PAIRS = 2;
constexpr int64_t GROUP_UNITS = 128, GROUP_WORDS = 64, GROUP_BLOCKS = 16, GROUP_SETS = GROUP_WORDS / SET;
constexpr int64_t TILE_GROUPS = TABLE_BLOCKS / GROUP_BLOCKS;
constexpr int64_t RUN_GROUPS = 8;  // as many at a time as stay in the first cache

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Part `part` of `parts` nearly equal ones of [0, count).
struct Range {
    int64_t begin, end;
    Range(int64_t count, int part, int parts) : begin(count * part / parts), end(count * (part + 1) / parts) {}
};

// The noise of a run of groups of one row. `main` holds 64 words a group: the high bits, or the normals.
struct Noise {
    const Key& key;
    const Example& example;
    Table& low_table;
    int64_t& low_tile;  // the tile that low_table is prepared for
    int64_t tile, tile_groups, group;
    const uint32_t* main;

    // The low bits of `groups` groups of the run, from its group `from` on; computed only when asked for.
    void low(int64_t from, int64_t groups, uint32_t* out) const {
        if (low_tile != tile) low_table.prepare(key, LOW, (uint32_t)(tile * GROUP_BLOCKS), tile_groups * GROUP_BLOCKS);
        low_tile = tile;
        fill<Words>(key, low_table.words + 3 * (group + from) * GROUP_BLOCKS, example, groups * GROUP_SETS, out);
    }
};

// body(row, first unit, units, noise) for runs of at most RUN_GROUPS groups of `Kind::UNITS` units, in this thread's part of
// all rows. With `whole`, a thread has whole rows, and ends one before it begins the next.
template <class Kind, class Body>
inline void over_rows(const DitherRows& rows, int part, int parts, Body body, bool whole = false) {
    const Key key(rows.seed, rows.site);
    const int64_t count = rows.lead * rows.batch, groups = divided_up(rows.units, Kind::UNITS);
    const bool by_rows = whole || count >= parts;
    const Range own_rows(count, by_rows ? part : 0, by_rows ? parts : 1);
    const Range own_groups(groups, by_rows ? 0 : part, by_rows ? 1 : parts);
    Table table, low_table;
    int64_t low_tile = -1;
    alignas(64) uint32_t words[RUN_GROUPS * GROUP_WORDS];
    const int64_t rows_at_once = whole && groups > TILE_GROUPS ? 1 : own_rows.end - own_rows.begin;
    for (int64_t row0 = own_rows.begin; row0 < own_rows.end; row0 += rows_at_once)
        for (int64_t tile = own_groups.begin; tile < own_groups.end; tile += TILE_GROUPS) {
            const int64_t tile_groups = smaller(TILE_GROUPS, own_groups.end - tile);
            table.prepare(key, Kind::STREAM, (uint32_t)(tile * GROUP_BLOCKS), tile_groups * GROUP_BLOCKS);
            for (int64_t row = row0; row < row0 + rows_at_once; row++) {
                const int64_t lead = row / rows.batch;
                const Example example(key, rows.ids[lead * rows.ids_lead + row % rows.batch], rows.samples[lead]);
                for (int64_t g = 0; g < tile_groups; g += RUN_GROUPS) {
                    const int64_t run = smaller(RUN_GROUPS, tile_groups - g);
                    fill<Kind>(key, table.words + 3 * g * GROUP_BLOCKS, example, run * GROUP_SETS, words);
                    const int64_t first = (tile + g) * Kind::UNITS;
                    const Noise noise{key, example, low_table, low_tile, tile, tile_groups, g, words};
                    body(row, first, smaller(run * Kind::UNITS, rows.units - first), noise);
                }
            }
        }
}

struct HighBits : Words {
    static constexpr uint32_t STREAM = HIGH;
    static constexpr int64_t UNITS = GROUP_UNITS;
};

// The 32-bit words of both halves of a group at word v: units v ... and 64 + v ...
inline void join_halves(const uint32_t* high, const uint32_t* low, I& first, I& second) {
    const I h = loadi(high), l = loadi(low);
    first = xori(left<16>(h), andi(l, seti(0xFFFF)));
    second = xori(andi(h, seti(0xFFFF0000u)), right<16>(l));
}

// 2^32 times the uniform of a word: truncated, so that u < p has exactly the probability p; and never 0.
inline F scaled_uniform(I word) { return add(from_unsigned(word), set(0.5f)); }

// The words of the units of a run, in order; `words` holds RUN_GROUPS groups.
inline void unit_words(const Noise& noise, int64_t units, uint32_t* words) {
    const int64_t groups = divided_up(units, GROUP_UNITS);
    alignas(64) uint32_t low[RUN_GROUPS * GROUP_WORDS];
    noise.low(0, groups, low);
    for (int64_t g = 0; g < groups; g++)
        for (int v = 0; v < GROUP_WORDS; v += W) {
            I first, second;
            join_halves(noise.main + g * GROUP_WORDS + v, low + g * GROUP_WORDS + v, first, second);
            storei(words + g * GROUP_UNITS + v, first);
            storei(words + g * GROUP_UNITS + 64 + v, second);
        }
}

// Numbers as they are stored: float, or bfloat16 in a uint16_t.
template <class T> struct Type;
template <> struct Type<float> {
    static inline F get(const float* p) { return load(p); }
    static inline void put(float* p, F x) { store(p, x); }
};
template <> struct Type<uint16_t> {
    static inline F get(const uint16_t* p) { return load_bf16(p); }
    static inline void put(uint16_t* p, F x) {  // to nearest, ties to even; a NaN stays one
        const I b = bits(x);
        const I up = addi(addi(b, seti(0x7FFF)), andi(right<16>(b), seti(1)));
        store_bf16_exact(p, choose(is_nan(x), set(NAN), real(up)));
    }
};

inline int64_t offset_of(const DitherRows& rows, const DitherInput& input, int64_t row) {
    return row / rows.batch * input.lead + row % rows.batch * input.row;
}

// f(i) for i = 0, W, 2 W, ... on `count` numbers of `in` and `out`, the last few by way of buffers.
template <class T, class U, class Step> inline void in_steps(const T* in, U* out, int64_t count, Step step) {
    int64_t i = 0;
    for (; i + W <= count; i += W) step(i, in + i, out + i);
    if (i == count) return;
    T last_in[W] = {};
    U last_out[W] = {};
    memcpy(last_in, in + i, (count - i) * sizeof(T));
    memcpy(last_out, out + i, (count - i) * sizeof(U));
    step(i, last_in, last_out);
    memcpy(out + i, last_out, (count - i) * sizeof(U));
}

}  // namespace
