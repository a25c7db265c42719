// The consumers of rows' noise: categorical samples, noisy rectifier and tanh, salt-and-pepper corruption.
#pragma once
#include "noise_checks.h"

inline bool same(double a, double b) { return a == b || (a != a && b != b); }

// The normals of rows, from the portable path: `check_noise` compares those with the reference.
inline std::vector<float> normals_of(const DitherRows& rows) {
    std::vector<float> z(rows.lead * rows.batch * rows.units);
    dither_set_path("portable");
    dither_normal(&rows, z.data(), 1);
    return z;
}

// Whether category `sampled` of a unit is right, -1 standing for none: the greatest a + g, by the rounding of a float.
inline bool right_category(const std::vector<double>& a, const std::vector<double>& gumbels, int64_t sampled) {
    double best = -INFINITY, best_infinite = -INFINITY;
    bool nan = false, infinite = false;
    for (size_t k = 0; k < a.size(); k++) {
        nan |= a[k] != a[k];
        infinite |= a[k] == INFINITY;
        best = fmax(best, a[k] + gumbels[k]);
        if (a[k] == INFINITY) best_infinite = fmax(best_infinite, gumbels[k]);
    }
    if (nan || best == -INFINITY) return sampled == -1;
    if (sampled < 0) return false;
    if (infinite) return a[sampled] == INFINITY && gumbels[sampled] >= best_infinite - 1e-5;
    return a[sampled] + gumbels[sampled] >= best - 1e-5 - 1e-6 * fabs(best);
}

template <class T> void check_categorical(const Shape& shape, int64_t categories, Fill fill, int64_t gap, Random& random) {
    Logits<T> logits(shape, fill, gap, random);
    const DitherRows rows = shape.rows();
    if (fill == Fill::nan && shape.count())
        for (int64_t k = 0; k < categories; k++) logits[k] = stored<T>(-INFINITY);  // a unit that nothing can win
    const char* type = sizeof(T) == 4 ? " float32" : " bfloat16";
    const std::string name = shape.name("categorical", type) + ", categories " + std::to_string(categories);
    everywhere(name, [&](Outputs& o, int32_t threads) {
        return dither_categorical(&rows, &logits.input, categories, o.make<T>(shape.count()), threads);
    }, [&](const Outputs& o, int64_t returned) {
        Tally tally;
        int64_t none = 0;
        std::vector<double> a(categories), gumbels(categories);
        for (int64_t unit = 0; unit < shape.count(); unit += categories) {
            int64_t sampled = -1, ones = 0, nans = 0, zeros = 0;
            for (int64_t k = 0; k < categories; k++) {
                a[k] = logits.at(unit + k), gumbels[k] = -log(-log1p(-shape.uniform(unit + k)));
                const float v = value(o.get<T>(0)[unit + k]);
                if (v == 1) sampled = k;
                ones += v == 1, nans += v != v, zeros += v == 0;
            }
            const bool whole = (ones == 1 && zeros == categories - 1) || nans == categories;
            tally.expect(whole && right_category(a, gumbels, sampled), unit, (double)sampled, NAN);
            none += nans == categories;
        }
        tally.report("units");
        check(returned == none, "returned %" PRId64 ", %" PRId64 " units have no winner", returned, none);
    });
}

template <class T> void check_noisy(const Shape& shape, Fill fill, int64_t gap, Random& random) {
    Logits<T> logits(shape, fill, gap, random);
    const DitherRows rows = shape.rows(), double_rows = shape.rows(2);
    const std::vector<float> z = normals_of(rows), pairs = normals_of(double_rows);
    const int64_t count = shape.count();
    const char* type = sizeof(T) == 4 ? " float32" : " bfloat16";
    everywhere(shape.name("noisy_relu", type), [&](Outputs& o, int32_t threads) {
        return dither_noisy_relu(&rows, &logits.input, 0.7f, o.make<T>(count), threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < count; i++) {
            const float x = logits.at(i) + 0.7f * z[i], want = value(stored<T>(x < 0 ? 0 : x)), got = value(o.get<T>(0)[i]);
            tally.expect(same(got, want), i, got, want);
        }
        tally.report("values");
    });
    for (bool inner : {true, false})
        everywhere(shape.name("noisy_tanh", type) + (inner ? "" : ", no inner"), [&](Outputs& o, int32_t threads) {
            T* out = o.make<T>(count);
            return dither_noisy_tanh(&double_rows, &logits.input, 0.5f, 0.3f, out, inner ? o.make<T>(count) : nullptr, threads);
        }, [&](const Outputs& o, int64_t) {
            Tally outer, tanhs;
            for (int64_t i = 0; i < count; i++) {
                const float x = logits.at(i) + 0.5f * pairs[2 * i];
                const double t = tanh((double)x), want = t + (double)(0.3f * pairs[2 * i + 1]), got = value(o.get<T>(0)[i]);
                outer.expect(same(got, want) || fabs(got - want) <= 1e-6 + precision<T>() * fabs(want), i, got, want);
                if (!inner) continue;
                const double own = value(o.get<T>(1)[i]);
                tanhs.expect(same(own, t) || fabs(own - t) <= precision<T>() * fabs(t) + 1e-44, i, own, t);
            }
            outer.report("values"), tanhs.report("tanhs");
        });
    everywhere(shape.name("salt_and_pepper", type), [&](Outputs& o, int32_t threads) {
        return dither_salt_and_pepper(&rows, &logits.input, 0.3f, -2, 3, o.make<T>(count), threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < count; i++) {
            const double u = shape.uniform(i), rate = 0.3f;
            const float want = u < rate / 2 ? -2 : u < rate ? 3 : logits.at(i), got = value(o.get<T>(0)[i]);
            tally.expect(same(got, want), i, got, want);
        }
        tally.report("values");
    });
}
