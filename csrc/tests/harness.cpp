// Runs every function of abi.h on every path that this processor has, over odd shapes, and checks that all paths and all
// numbers of threads leave the same bits, that nothing outside an output is written, and that the outputs are what a scalar
// reference, written from the documentation, says. Needs nothing but the library's own sources:
//
//     cmake -S . -B BUILD -DDITHER_TESTS=ON && cmake --build BUILD --target dither_harness && BUILD/dither_harness
//
// With the argument `brief` it leaves out what takes long under a sanitizer (sanitize.sh).
// For NEON without such a processor: configure with -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
// -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++, and run it by qemu-aarch64 -L /usr/aarch64-linux-gnu.
#include "packed_checks.h"

namespace {

// Element by element, of flat arrays.
template <class T> void check_straight_through(int64_t count, Random& random) {
    std::vector<T> gradient(count), logits(count);
    for (T& g : gradient) g = stored<T>(random.within(-3, 3));
    for (T& a : logits) a = stored<T>(logit(Fill::nan, random));
    everywhere(std::string("straight_through ") + (sizeof(T) == 4 ? "float32" : "bfloat16") + " of " + std::to_string(count),
               [&](Outputs& o, int32_t threads) {
        return dither_straight_through(gradient.data(), logits.data(), dtype_of<T>(), 1.5f, o.make<T>(count), count, threads);
    }, [&](const Outputs& o, int64_t) {
        Tally tally;
        for (int64_t i = 0; i < count; i++) {
            const double p = reference::sigmoid(value(logits[i])), g = 1.5 * value(gradient[i]), want = g * p * (1 - p);
            const double got = value(o.get<T>(0)[i]);
            tally.expect(same(got, want) || fabs(got - want) <= 2e-7 * fabs(g) + precision<T>() * fabs(want), i, got, want);
        }
        tally.report("gradients");
    });
}

void check_threshold(int64_t count, Fill fill, Random& random) {
    std::vector<float> logits(count), noise(count);
    bool nan = false;
    for (int64_t i = 0; i < count; i++) {
        logits[i] = logit(fill, random), noise[i] = random.within(1e-9f, 1);
        nan |= logits[i] != logits[i];
    }
    everywhere("threshold of " + std::to_string(count), [&](Outputs& o, int32_t threads) {
        return dither_threshold(logits.data(), noise.data(), o.make<float>(count), count, threads);
    }, [&](const Outputs& o, int64_t returned) {
        Tally tally;
        for (int64_t i = 0; i < count; i++) {
            const float a = logits[i], got = o.get<float>(0)[i];
            const bool right = a != a ? got != got : (got == 0 || got == 1) && right_sample(got == 1, noise[i], a);
            tally.expect(right, i, got, reference::sigmoid(a));
        }
        tally.report("samples");
        check((returned != 0) == nan, "returned %" PRId64 " where there is %s NaN", returned, nan ? "a" : "no");
    });
}

// For benchmarks, so a path writes as many lanes as it has.
void check_multiply_adds() {
    for (const char* path : {"portable", "avx2", "avx512", "neon"})
        for (int32_t threads : {1, 2, 5}) {
            if (!dither_set_path(path)) continue;
            context = std::string("multiply_adds on ") + path + " with threads " + std::to_string(threads);
            Outputs own;
            float* out = own.make<float>(16 * threads);
            const int64_t lanes = dither_multiply_adds(10000, out, threads);
            check(lanes == 4 || lanes == 8 || lanes == 16, "%" PRId64 " lanes", lanes);
            check(own.guards_hold(), "bytes outside the output were written");
            check(fabs(out[0] - 12) < 0.1 && out[0] == out[lanes - 1], "the sum of 12 numbers near 1 is %g", out[0]);
        }
}

// Logits from all over the floats: sigmoid, tanh and log sigmoid have the same bits on every path.
void check_sweep() {
    const int64_t count = 1 << 20, id = 3, sample = 4;
    std::vector<float> logits(count);
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)i * 4093;
        memcpy(&logits[i], &bits, 4);
    }
    const DitherRows rows{1, 1, count, &id, 0, &sample, 5, 6}, double_rows{1, 1, 2 * count, &id, 0, &sample, 5, 6};
    const DitherInput input{logits.data(), 0, 0, DITHER_FLOAT32};
    const std::vector<uint64_t> ones(count, 1);
    const auto nothing = [](const Outputs&, int64_t) {};
    everywhere("sweep of bernoulli", [&](Outputs& o, int32_t threads) {
        uint64_t* packed = o.make<uint64_t>(count / 64);
        return dither_bernoulli(&rows, &input, nullptr, 0, 1, nullptr, packed, o.make<float>(count), threads);
    }, nothing);
    everywhere("sweep of noisy_tanh", [&](Outputs& o, int32_t threads) {
        return dither_noisy_tanh(&double_rows, &input, 0, 0, o.make<float>(count), nullptr, threads);
    }, nothing);
    everywhere("sweep of packed_log_prob", [&](Outputs& o, int32_t threads) {
        return dither_packed_log_prob(ones.data(), logits.data(), o.make<float>(count), count, 1, threads);
    }, nothing);
}

template <class T> void check_rows(const Shape& shape, Random& random) {
    for (Fill fill : {Fill::extreme, Fill::nan}) {
        const int64_t gap = fill == Fill::extreme ? 0 : 5;
        check_bernoulli<T>(shape, fill, gap, random);
        int64_t divisor = 3;
        while (divisor < shape.units && shape.units % divisor) divisor++;
        check_categorical<T>(shape, shape.units < 3 ? 1 : divisor, fill, gap, random);
    }
    check_categorical<T>(shape, shape.units, Fill::extreme, 0, random);
    check_noisy<T>(shape, Fill::nan, 5, random);
}

void check_shape(int64_t lead, int64_t batch, int64_t units, Random& random) {
    const Shape shape(lead, batch, units, random);
    check_noise(shape);
    check_rows<float>(shape, random);
    check_rows<uint16_t>(shape, random);
}

}  // namespace

int main(int count, char** arguments) {
    brief = count > 1 && !strcmp(arguments[1], "brief");
    Random random{1};
    check(dither_abi() == 3, "this harness is for interface 3");
    check(!dither_set_path("none"), "a path that there is not was set");
    printf("paths:");
    for (const char* path : {"portable", "avx2", "avx512", "neon"})
        if (dither_set_path(path)) {
            check(!strcmp(dither_path(), path), "the path is %s", dither_path());
            printf(" %s", path);
        }
    printf("\n");

    check_multiply_adds();
    check_words();
    for (int64_t units : UNITS)
        for (int64_t lead : {1, 3})
            for (int64_t batch : {0, 1, 2, 7})
                if (!brief || units < 2000 || (lead == 3 && batch == 2)) check_shape(lead, batch, units, random);
    check_shape(1, 1, brief ? 65541 : 163845, random);  // one row for several threads
    if (!brief) check_infinities(random), check_sweep();
    for (int64_t count : UNITS) {
        for (Fill fill : {Fill::extreme, Fill::nan}) check_threshold(count, fill, random);
        check_straight_through<float>(count, random);
        check_straight_through<uint16_t>(count, random);
        for (int64_t rows : {0, 1, 2, 11}) {
            check_packing<float>(rows, count, random);
            check_packing<uint16_t>(rows, count, random);
            check_turning(rows, count, random);
            check_turning(count, rows, random);
            check_scores(rows, count, random);
        }
    }
    check_threshold(200003, Fill::nan, random);
    check_straight_through<float>(200003, random);
    check_straight_through<uint16_t>(200003, random);
    check_turning(1025, 1500, random);
    const int64_t products[][3] = {{0, 5, 3}, {3, 0, 5}, {3, 5, 0}, {1, 1, 1}, {3, 5, 2}, {4, 64, 32}, {5, 63, 33}, {7, 65, 31},
                                   {64, 128, 64}, {66, 130, 97}, {257, 321, 129}, {1025, 320, 33}, {65, 257, 700}};
    for (const auto& p : products)
        for (bool more : {false, true}) {
            check_linear(p[0], p[1], p[2], more, random);
            check_outer(p[0], p[1], p[2], more, random);
        }
    printf("digest of all outputs: %016" PRIx64 "\n", digest);
    printf("%" PRId64 " passed, %" PRId64 " failed\n", checks_passed, checks_failed);
    return checks_failed != 0;
}
