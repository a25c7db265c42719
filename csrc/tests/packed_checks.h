// Packed bits: packing, turning, products, scores.
#pragma once
#include "consumer_checks.h"

// rows x units bits, with zeros behind the last unit of a row.
struct Bits {
    int64_t units, words;
    std::vector<uint64_t> data;
    Bits(int64_t rows, int64_t units, Random& random) : units(units), words((units + 63) / 64), data(rows * words) {
        for (auto& x : data) x = random.bits();
        for (int64_t r = 0; r < rows && units % 64; r++) data[(r + 1) * words - 1] &= ~0ull >> (64 - units % 64);
    }
    bool at(int64_t row, int64_t unit) const { return data[row * words + unit / 64] >> (unit % 64) & 1; }
};

inline std::vector<float> numbers(int64_t count, Random& random) {
    std::vector<float> x(count);
    for (float& each : x) each = random.within(-1, 1);
    return x;
}

inline std::string sizes(const char* function, int64_t a, int64_t b, int64_t c = -1) {
    const std::string two = std::string(function) + " of " + std::to_string(a) + " x " + std::to_string(b);
    return c < 0 ? two : two + " x " + std::to_string(c);
}

template <class T> void check_packing(int64_t rows, int64_t units, Random& random) {
    const Bits bits(rows, units, random);
    std::vector<T> values(rows * units);
    const float on[] = {1, -2, 1e-40f, NAN, INFINITY}, off[] = {0, -0.0f};  // minus zero is zero too
    for (int64_t i = 0; i < rows * units; i++) values[i] = stored<T>(bits.at(i / units, i % units) ? on[i % 5] : off[i % 2]);
    everywhere(sizes(sizeof(T) == 4 ? "pack float32" : "pack bfloat16", rows, units), [&](Outputs& o, int32_t threads) {
        return dither_pack(values.data(), dtype_of<T>(), o.make<uint64_t>(rows * bits.words), rows, units, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < rows * bits.words; i++) tally.expect(o.get<uint64_t>(0)[i] == bits.data[i], i, NAN, NAN);
        tally.report("words");
    });
    everywhere(sizes(sizeof(T) == 4 ? "unpack float32" : "unpack bfloat16", rows, units), [&](Outputs& o, int32_t threads) {
        return dither_unpack(bits.data.data(), -1, 3, dtype_of<T>(), o.make<T>(rows * units), rows, units, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < rows * units; i++) {
            const double want = bits.at(i / units, i % units) ? 3 : -1, got = value(o.get<T>(0)[i]);
            tally.expect(got == want, i, got, want);
        }
        tally.report("values");
    });
}

inline void check_turning(int64_t rows, int64_t columns, Random& random) {
    const Bits bits(rows, columns, random);
    const int64_t words = (rows + 63) / 64;
    everywhere(sizes("turn_bits", rows, columns), [&](Outputs& o, int32_t threads) {
        return dither_turn_bits(bits.data.data(), o.make<uint64_t>(columns * words), rows, columns, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t c = 0; c < columns; c++)
            for (int64_t r = 0; r < 64 * words; r++) {
                const bool got = o.get<uint64_t>(0)[c * words + r / 64] >> (r % 64) & 1, want = r < rows && bits.at(r, c);
                tally.expect(got == want, c * 64 * words + r, got, want);
            }
        tally.report("bits");
    });
}

// Whether a float sum of `terms` numbers, with the absolute values `size` in all, may be that.
inline bool near_sum(double got, double want, double size, int64_t terms) { return fabs(got - want) <= 6e-8 * terms * size; }

inline void check_linear(int64_t rows, int64_t inputs, int64_t outputs, bool biased, Random& random) {
    const Bits bits(rows, inputs, random);
    const std::vector<float> weight = numbers(outputs * inputs, random), bias = numbers(outputs, random);
    everywhere(sizes("packed_linear", rows, inputs, outputs) + (biased ? ", bias" : ""), [&](Outputs& o, int32_t threads) {
        return dither_packed_linear(bits.data.data(), weight.data(), biased ? bias.data() : nullptr,
                                    o.make<float>(rows * outputs), rows, inputs, outputs, threads);
    }, [&](const Outputs& o, int64_t returned) {
        Tally tally;
        for (int64_t m = 0; m < rows; m++)
            for (int64_t n = 0; n < outputs; n++) {
                double sum = biased ? bias[n] : 0, size = fabs(sum);
                for (int64_t k = 0; k < inputs; k++)
                    if (bits.at(m, k)) sum += weight[n * inputs + k], size += fabs(weight[n * inputs + k]);
                const double got = o.get<float>(0)[m * outputs + n];
                tally.expect(near_sum(got, sum, size, inputs + 1), m * outputs + n, got, sum);
            }
        tally.report("sums");
        check(returned == 0, "returned %" PRId64, returned);
    });
}

inline void check_outer(int64_t inputs, int64_t batch, int64_t outputs, bool added, Random& random) {
    const Bits bits(inputs, batch, random);
    const std::vector<float> gradient = numbers(batch * outputs, random), before = numbers(outputs * inputs, random);
    everywhere(sizes("packed_outer", inputs, batch, outputs) + (added ? ", added" : ""), [&](Outputs& o, int32_t threads) {
        float* out = added ? o.make(before) : o.make<float>(outputs * inputs);
        return dither_packed_outer(bits.data.data(), gradient.data(), out, inputs, batch, outputs, added, threads);
    }, [&](const Outputs& o, int64_t returned) {
        Tally tally;
        for (int64_t n = 0; n < outputs; n++)
            for (int64_t m = 0; m < inputs; m++) {
                double sum = added ? before[n * inputs + m] : 0, size = fabs(sum);
                for (int64_t k = 0; k < batch; k++)
                    if (bits.at(m, k)) sum += gradient[k * outputs + n], size += fabs(gradient[k * outputs + n]);
                const double got = o.get<float>(0)[n * inputs + m];
                tally.expect(near_sum(got, sum, size, batch + 1), n * inputs + m, got, sum);
            }
        tally.report("sums");
        check(returned == 0, "returned %" PRId64, returned);
    });
}

inline void check_scores(int64_t rows, int64_t units, Random& random) {
    const Bits bits(rows, units, random);
    std::vector<float> logits(rows * units);
    for (float& a : logits) a = logit(rows % 2 ? Fill::nan : Fill::extreme, random);
    const std::vector<float> advantage = numbers(rows * (units + 3), random);
    for (int64_t each : {0, 1}) {  // one advantage a row, or one a unit
        const int64_t row = each ? units + 3 : 1;
        everywhere(sizes("packed_score", rows, units) + (each ? ", of units" : ""), [&](Outputs& o, int32_t threads) {
            return dither_packed_score(bits.data.data(), logits.data(), advantage.data(), row, each,
                                       o.make<float>(rows * units), rows, units, threads);
        }, [&](const Outputs& o, int64_t) {
            Tally tally;
            for (int64_t i = 0; i < rows * units; i++) {
                const double weight = advantage[i / units * row + i % units * each], got = o.get<float>(0)[i];
                const double want = (bits.at(i / units, i % units) - reference::sigmoid(logits[i])) * weight;
                tally.expect(same(got, want) || fabs(got - want) <= 1e-6 * fabs(weight), i, got, want);
            }
            tally.report("scores");
        });
    }
    const int64_t repeat = rows % 3 ? 1 : 3;
    std::vector<float> grey = numbers(rows / repeat * units, random);
    for (float& x : grey) x = x < 0 ? 0 : x > 1 ? 1 : x;
    everywhere(sizes("log_prob", rows, units), [&](Outputs& o, int32_t threads) {
        return dither_log_prob(logits.data(), grey.data(), repeat, o.make<float>(rows), rows, units, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t r = 0; r < rows; r++) {
            double want = 0, got = o.get<float>(0)[r];
            for (int64_t i = 0; i < units; i++) {
                const double a = logits[r * units + i], x = grey[r / repeat * units + i];
                want += (x == 0 && a == a ? 0 : x * reference::log_sigmoid(a)) +
                        (x == 1 && a == a ? 0 : (1 - x) * reference::log_sigmoid(-a));
            }
            tally.expect(same(got, want) || fabs(got - want) <= 1e-6 * fabs(want) + 1e-6, r, got, want);
        }
        tally.report("sums");
    });
    everywhere(sizes("log_prob_gradient", rows, units), [&](Outputs& o, int32_t threads) {
        return dither_log_prob_gradient(advantage.data(), logits.data(), grey.data(), repeat, o.make<float>(rows * units), rows,
                                        units, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < rows * units; i++) {
            const double weight = advantage[i / units], got = o.get<float>(0)[i];
            const double want = (grey[i / units / repeat * units + i % units] - reference::sigmoid(logits[i])) * weight;
            tally.expect(same(got, want) || fabs(got - want) <= 1e-6 * fabs(weight), i, got, want);
        }
        tally.report("gradients");
    });
    everywhere(sizes("packed_log_prob", rows, units), [&](Outputs& o, int32_t threads) {
        return dither_packed_log_prob(bits.data.data(), logits.data(), o.make<float>(rows), rows, units, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t r = 0; r < rows; r++) {
            double want = 0, got = o.get<float>(0)[r];
            for (int64_t i = 0; i < units; i++)
                want += reference::log_sigmoid(bits.at(r, i) ? logits[r * units + i] : -(double)logits[r * units + i]);
            tally.expect(same(got, want) || fabs(got - want) <= 1e-6 * fabs(want) + 1e-37, r, got, want);
        }
        tally.report("sums");
    });
}
