// The noise under TestU01's SmallCrush: dither_stream SEED..., by smallcrush.sh. Three streams of 32-bit words:
//
//     words   one example's raw words
//     units   what dither_uniform makes one example's uniforms of: sixteen bits each of two raw words
//     rows    the same of rows of 100 units, example after example, as a batch takes them
//
// Prints every p-value; the exit code says whether one is outside [1e-4, 1 - 1e-4].
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../src/abi.h"
#include "reference.h"

extern "C" {
#include <bbattery.h>
#include <swrite.h>
#include <unif01.h>
}

namespace {

constexpr int64_t SITE = 7, SAMPLE = 3, GROUP = 16;  // blocks of a group
constexpr double MIN_P = 1e-4;

enum class Kind { words, units, rows } kind;
uint64_t seed;
uint64_t turn;  // how often the buffer was filled
std::vector<uint32_t> buffer;
size_t used;

// The words of the first `units` units of `groups` groups of an example.
void append_units(int64_t example, uint32_t group, int64_t groups, int64_t units) {
    std::vector<uint32_t> high(64 * groups), low(64 * groups);
    dither_words(seed, SITE, reference::HIGH, example, SAMPLE, group * GROUP, groups * GROUP, high.data());
    dither_words(seed, SITE, reference::LOW, example, SAMPLE, group * GROUP, groups * GROUP, low.data());
    for (int64_t i = 0; i < units; i++) {
        const uint32_t h = high[i / 128 * 64 + i % 64], l = low[i / 128 * 64 + i % 64];
        buffer.push_back(i % 128 < 64 ? h << 16 | (l & 0xFFFF) : (h & 0xFFFF0000u) | l >> 16);
    }
}

void refill() {
    buffer.clear();
    if (kind == Kind::words) {
        buffer.resize(4 * 2048);
        dither_words(seed, SITE, reference::HIGH, 0, SAMPLE, (uint32_t)turn * 2048, 2048, buffer.data());
    } else if (kind == Kind::units) {
        append_units(0, (uint32_t)turn * 128, 128, 128 * 128);
    } else {
        for (int64_t row = 0; row < 64; row++) append_units((int64_t)turn * 64 + row, 0, 1, 100);
    }
    turn++, used = 0;
}

unsigned int next() {
    if (used == buffer.size()) refill();
    return buffer[used++];
}

void begin() { turn = 0, refill(); }

// Whether the first words are those that dither_uniform has for the same rows.
bool are_uniforms() {
    const int64_t batch = kind == Kind::rows ? 64 : 1, units = (int64_t)buffer.size() / batch;
    std::vector<int64_t> ids(batch);
    for (int64_t i = 0; i < batch; i++) ids[i] = i;
    const DitherRows rows{1, batch, units, ids.data(), 0, &SAMPLE, seed, SITE};
    std::vector<float> uniforms(buffer.size());
    dither_uniform(&rows, uniforms.data(), 1);
    for (size_t i = 0; i < buffer.size(); i++)
        if (uniforms[i] != ldexpf(reference::scaled_uniform(buffer[i]), -32)) return false;
    return true;
}

}  // namespace

int main(int count, char** seeds) {
    swrite_Basic = FALSE;
    int all = 0, outside = 0;
    const char* const names[] = {"words", "units", "rows"};
    for (int s = 1; s < count; s++)
        for (int k = 0; k < 3; k++) {
            kind = (Kind)k, seed = strtoull(seeds[s], nullptr, 0);
            begin();
            if (kind != Kind::words && !are_uniforms()) return printf("%s are not dither_uniform's\n", names[k]), 1;
            char name[16];
            strcpy(name, names[k]);
            unif01_Gen* generator = unif01_CreateExternGenBits(name, next);
            bbattery_SmallCrush(generator);
            unif01_DeleteExternGenBits(generator);
            for (int t = 0; t < bbattery_NTests; t++, all++) {
                const double p = bbattery_pVal[t];
                const bool far = !(p >= MIN_P && p <= 1 - MIN_P);
                outside += far;
                printf("%s, seed %s, %s: p = %.6f%s\n", names[k], seeds[s], bbattery_TestNames[t], p, far ? "  OUTSIDE" : "");
            }
            fflush(stdout);
        }
    printf("%d p-values, %d outside [1e-4, 1 - 1e-4]\n", all, outside);
    return outside != 0;
}
