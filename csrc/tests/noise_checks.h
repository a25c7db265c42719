// The functions that make noise for rows: against the reference, and the same on every path.
#pragma once
#include "check.h"
#include "reference.h"

constexpr int64_t UNITS[] = {1, 3, 63, 64, 65, 127, 128, 129, 200, 1023, 1024, 1025, 16384 + 5};

// Rows with odd ids and samples, and what the reference has for them.
struct Shape {
    int64_t lead, batch, units, ids_lead;
    uint64_t seed, site;
    std::vector<int64_t> ids, samples;
    std::vector<uint32_t> words;  // of all units of all rows

    Shape(int64_t lead, int64_t batch, int64_t units, Random& random)
        : lead(lead), batch(batch), units(units), ids_lead(lead == 1 ? 0 : batch + 2), seed(random.bits()),
          site(random.bits()) {
        const int64_t odd[] = {0, 0xFFFFFFFF, 0x100000000, 0xFFFFFFFFFFFF, (int64_t)(random.bits() >> 16), 5};
        for (int64_t i = 0; i < (lead - 1) * ids_lead + batch; i++) ids.push_back(odd[i % 6] ^ (i / 6 << 20));
        for (int64_t l = 0; l < lead; l++) samples.push_back(l == 0 ? 0 : l == 1 ? 65535 : 77);
        words.reserve(count());
        for (int64_t r = 0; r < lead * batch; r++) {
            const reference::Row row = at(r);
            for (int64_t i = 0; i < units; i++) words.push_back(row.unit_word(i));
        }
    }
    int64_t count() const { return lead * batch * units; }
    DitherRows rows(int64_t each = 1) const {
        return {lead, batch, units * each, ids.data(), ids_lead, samples.data(), seed, site};
    }
    reference::Row at(int64_t row) const {
        return {seed, site, ids[row / batch * ids_lead + row % batch], samples[row / batch]};
    }
    double uniform(int64_t i) const { return (double)ldexpf(reference::scaled_uniform(words[i]), -32); }
    std::string name(const char* function, const char* more = "") const {
        return std::string(function) + more + " of lead " + std::to_string(lead) + ", batch " + std::to_string(batch) +
               ", units " + std::to_string(units);
    }
};

enum class Fill { extreme, nan };  // half of each is ordinary

inline float logit(Fill fill, Random& random) {
    const float extremes[] = {INFINITY, -INFINITY, -0.0f, 1e-40f, -1e-45f, 88, -88, 1e30f, -1e30f, 0, 87, -87, 88.5f, NAN};
    const uint64_t choice = random.bits() % (fill == Fill::nan ? 27 : 26);
    return choice < 13 ? random.within(-8, 8) : extremes[choice - 13];
}

// Logits whose rows lie apart; between them are NaNs, which nothing may look at.
template <class T> struct Logits {
    std::vector<T> data;
    DitherInput input;
    int64_t batch, units;

    Logits(const Shape& shape, Fill fill, int64_t gap, Random& random) : batch(shape.batch), units(shape.units) {
        const int64_t row = units + gap, lead = batch * row + gap;
        const int64_t size = batch ? (shape.lead - 1) * lead + (batch - 1) * row + units : 0;
        data.assign(size, stored<T>(NAN));
        for (int64_t i = 0; i < shape.count(); i++) data[i / units / batch * lead + i / units % batch * row + i % units] =
            stored<T>(logit(fill, random));
        input = {data.data(), lead, row, dtype_of<T>()};
    }
    T& operator[](int64_t i) { return data[i / units / batch * input.lead + i / units % batch * input.row + i % units]; }
    float at(int64_t i) { return value((*this)[i]); }
};

inline void check_words() {
    const reference::Block zeros = reference::philox({0, 0, 0, 0}, 0, 0);  // a known answer of the authors' Random123
    check(zeros == reference::Block{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}, "the reference is not Philox4x32-10");
    for (uint32_t block : {0u, 16u, 4096u, 0xFFFFFFF0u})
        for (int64_t blocks : {16, 48, 2048})
            for (uint32_t stream : {0u, 1u, 2u, 9u}) {
                const uint64_t seed = 0x0123456789ABCDEFull * (stream + 1), site = ~seed;
                const int64_t example = 0x123456789ABC, sample = 0xBEEF;
                const std::string name = "words from block " + std::to_string(block) + " for " + std::to_string(blocks);
                everywhere(name, [&](Outputs& o, int32_t) {
                    dither_words(seed, site, stream, example, sample, block, blocks, o.make<uint32_t>(4 * blocks));
                    return 0;
                }, [&](const Outputs& o, int64_t) {
                    Tally tally;
                    const reference::Row row(seed, site, example, sample);
                    for (int64_t i = 0; i < 4 * blocks; i++) {
                        const uint32_t want = row.word(stream, (uint64_t)block * 4 + i), got = o.get<uint32_t>(0)[i];
                        tally.expect(got == want, i, got, want);
                    }
                    tally.report("words");
                });
            }
}

inline void check_noise(const Shape& shape) {
    const DitherRows rows = shape.rows();
    everywhere(shape.name("uniform"), [&](Outputs& o, int32_t threads) {
        return dither_uniform(&rows, o.make<float>(shape.count()), threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < shape.count(); i++) {
            const double got = o.get<float>(0)[i];
            tally.expect(got == shape.uniform(i), i, got, shape.uniform(i));
        }
        tally.report("uniforms");
    });
    everywhere(shape.name("normal"), [&](Outputs& o, int32_t threads) {
        return dither_normal(&rows, o.make<float>(shape.count()), threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < shape.count(); i++) {
            const double got = o.get<float>(0)[i], want = shape.at(i / shape.units).normal(i % shape.units);
            tally.expect(fabs(got - want) < 4e-6, i, got, want);
        }
        tally.report("normals");
    });
}

// Whether a sample is right; either is within the rounding of e^-a.
inline bool right_sample(bool h, double u, double a) {
    if (std::isinf(a)) return h == (a > 0);
    const double side = u * (1 + exp(-a));
    return fabs(side - 1) < 1e-6 || h == (side < 1);
}

template <class T> void check_bernoulli(const Shape& shape, Fill fill, int64_t gap, Random& random) {
    Logits<T> logits(shape, fill, gap, random);
    const DitherRows rows = shape.rows();
    const int64_t row_words = (shape.units + 63) / 64, count = shape.count();
    const bool biased = shape.batch % 2;
    std::vector<float> biases(biased ? shape.units : 0);
    for (float& b : biases) b = random.within(-2, 2);
    const float* bias = biased ? biases.data() : nullptr;
    const char* type = sizeof(T) == 4 ? " float32" : " bfloat16";
    const std::string name = shape.name("bernoulli", type) + ", gap " + std::to_string(gap) + (biased ? ", bias" : "");
    const auto examine = [&](const Outputs& o, int64_t returned) {
        const T *values = o.get<T>(0), *probabilities = o.get<T>(2);
        const uint64_t* packed = o.get<uint64_t>(1);
        Tally units, bits, sigmoids;
        bool nan = false;
        for (int64_t i = 0; i < count; i++) {
            const float a = biased ? logits.at(i) + bias[i % shape.units] : logits.at(i);
            const float v = value(values[i]), p = value(probabilities[i]);
            const bool h = packed[i / shape.units * row_words + i % shape.units / 64] >> (i % shape.units % 64) & 1;
            bits.expect(v == (h ? 2.0f : -1.0f), i, v, h);
            if (a != a) {
                nan = true;
                sigmoids.expect(p != p, i, p, a);
                continue;
            }
            units.expect(right_sample(h, shape.uniform(i), a), i, h, reference::sigmoid(a));
            const double want = reference::sigmoid(a);
            sigmoids.expect(fabs(p - want) <= precision<T>() * want + 1e-36, i, p, want);
        }
        for (int64_t r = 0; r < shape.lead * shape.batch && shape.units % 64; r++) {
            const uint64_t behind = packed[(r + 1) * row_words - 1] >> (shape.units % 64);
            bits.expect(!behind, r, (double)behind, 0);
        }
        units.report("samples"), bits.report("packed bits against values, or behind them"), sigmoids.report("sigmoids");
        check((returned != 0) == nan, "returned %" PRId64 " where there is %s NaN", returned, nan ? "a" : "no");
    };
    everywhere(name, [&](Outputs& o, int32_t threads) {
        T* values = o.make<T>(count);
        uint64_t* packed = o.make<uint64_t>(shape.lead * shape.batch * row_words);
        return dither_bernoulli(&rows, &logits.input, bias, -1, 2, values, packed, o.make<T>(count), threads);
    }, examine);
    everywhere(name + ", packed alone", [&](Outputs& o, int32_t threads) {
        uint64_t* packed = o.make<uint64_t>(shape.lead * shape.batch * row_words);
        return dither_bernoulli(&rows, &logits.input, bias, -1, 2, nullptr, packed, nullptr, threads);
    }, [](const Outputs&, int64_t) {});
    if (fill == Fill::nan || !count) return;
    for (int64_t place : {(int64_t)0, count / 2, count - 1}) {  // a single NaN is seen wherever it is
        const T before = logits[place];
        logits[place] = stored<T>(NAN);
        everywhere(name + ", NaN at " + std::to_string(place), [&](Outputs& o, int32_t threads) {
            return dither_bernoulli(&rows, &logits.input, bias, 0, 1, o.make<T>(count), nullptr, nullptr, threads);
        }, [](const Outputs&, int64_t returned) { check(returned > 0, "the NaN was not reported"); });
        logits[place] = before;
    }
}

// Millions of samples, so that each value of the high bits meets each infinity.
inline void check_infinities(Random& random) {
    const int64_t units = 163845, words = (units + 63) / 64;
    const Shape shape(1, 1, units, random);
    const std::vector<int64_t> ids{1, 2, 3, 4, 5, 6, 7};
    const std::vector<int64_t> samples{0, 1, 2};
    const DitherRows rows{3, 7, units, ids.data(), 0, samples.data(), shape.seed, shape.site};
    std::vector<float> logits(units);
    for (int64_t i = 0; i < units; i++) logits[i] = i % 2 ? INFINITY : -INFINITY;
    const DitherInput input{logits.data(), 0, 0, DITHER_FLOAT32};  // the same logits for all rows
    everywhere("bernoulli of infinite logits", [&](Outputs& o, int32_t threads) {
        return dither_bernoulli(&rows, &input, nullptr, 0, 1, nullptr, o.make<uint64_t>(21 * words), nullptr, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < 21 * units; i++) {
            const bool h = o.get<uint64_t>(0)[i / units * words + i % units / 64] >> (i % units % 64) & 1;
            tally.expect(h == i % units % 2, i, h, i % units % 2);
        }
        tally.report("samples");
    });
}
