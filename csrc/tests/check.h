// What the harness checks with: counts, random numbers, buffers with guards, and one call repeated on every path.
#pragma once
#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "../src/abi.h"

inline int64_t checks_passed = 0, checks_failed = 0;
inline bool brief = false;  // no long runs: a sanitizer makes the portable path some twenty times slower
inline uint64_t digest = 0xCBF29CE484222325ull;  // FNV-1a of all outputs: machines that agree print the same
inline std::string context;                      // the call in question: function, shape, path, threads

// Counts; says what is the case where it is not `right`.
__attribute__((format(printf, 2, 3))) inline void check(bool right, const char* format, ...) {
    (right ? checks_passed : checks_failed)++;
    if (right) return;
    printf("FAILED %s: ", context.c_str());
    va_list values;
    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    printf("\n");
}

// Many comparisons that count as one check.
struct Tally {
    int64_t wrong = 0, all = 0, first = 0;
    double got = 0, wanted = 0;
    void expect(bool right, int64_t place, double value, double reference) {
        if (!right && !wrong) first = place, got = value, wanted = reference;
        wrong += !right, all++;
    }
    void report(const char* what) const {
        check(!wrong, "%s: %" PRId64 " of %" PRId64 " are wrong, the first at %" PRId64 " is %.9g, by the reference %.9g", what,
              wrong, all, first, got, wanted);
    }
};

struct Random {  // splitmix64
    uint64_t state;
    uint64_t bits() {
        uint64_t x = state += 0x9E3779B97F4A7C15ull;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ x >> 27) * 0x94D049BB133111EBull;
        return x ^ x >> 31;
    }
    float within(float low, float high) { return low + (high - low) * (float)(bits() >> 40) / 16777216.0f; }
};

// bfloat16 is a uint16_t here as it is in the kernels.
inline float value(float x) { return x; }
inline float value(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
template <class T> inline T stored(float x) {
    if constexpr (sizeof(T) == 4) return x;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return (T)0x7FC0;
    return (T)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
template <class T> constexpr int32_t dtype_of() { return sizeof(T) == 4 ? DITHER_FLOAT32 : DITHER_BFLOAT16; }
template <class T> constexpr double precision() { return sizeof(T) == 4 ? 1e-6 : 1.0 / 256; }  // of what is stored so

// The buffers that one call writes to. Guard bytes lie around each, of such a length that none is aligned to a vector; under
// the address sanitizer there are none, since its own guards find reads too.
class Outputs {
    struct Buffer {
        std::vector<unsigned char> bytes;
        size_t front, size, element;
        bool number;
    };
    std::vector<Buffer> buffers;
#ifdef __SANITIZE_ADDRESS__
    static constexpr size_t GUARD = 0;
#else
    static constexpr size_t GUARD = 256;
#endif
    static constexpr unsigned char FILL = 0xA5;

  public:
    template <class T> T* make(int64_t count) {
        const size_t front = GUARD ? GUARD + sizeof(T) : 0, size = count * sizeof(T);
        const bool number = std::is_same_v<T, float> || std::is_same_v<T, uint16_t>;
        buffers.push_back({std::vector<unsigned char>(front + size + GUARD, FILL), front, size, sizeof(T), number});
        return (T*)(buffers.back().bytes.data() + front);
    }
    template <class T> T* make(const std::vector<T>& begin_with) {
        T* data = make<T>((int64_t)begin_with.size());
        if (!begin_with.empty()) memcpy(data, begin_with.data(), begin_with.size() * sizeof(T));
        return data;
    }
    template <class T> const T* get(size_t buffer) const {
        return (const T*)(buffers[buffer].bytes.data() + buffers[buffer].front);
    }
    bool guards_hold() const {
        for (const Buffer& b : buffers)
            for (size_t i = 0; i < b.bytes.size(); i++)
                if ((i < b.front || i >= b.front + b.size) && b.bytes[i] != FILL) return false;
        return true;
    }
    // The payload and sign of a NaN depend on the order of operands, which a compiler may choose: one NaN stands for all.
    void unify_nans() {
        for (Buffer& b : buffers)
            for (size_t i = 0; b.number && i < b.size; i += b.element) {
                unsigned char* at = b.bytes.data() + b.front + i;
                uint32_t bits = 0;
                memcpy((unsigned char*)&bits + 4 - b.element, at, b.element);  // little-endian: bfloat16 is the upper half
                if ((bits & 0x7FFFFFFF) <= 0x7F800000) continue;
                bits = 0x7FC00000;
                memcpy(at, (unsigned char*)&bits + 4 - b.element, b.element);
            }
    }
    void digest_all() const {
        for (const Buffer& b : buffers)
            for (size_t i = 0; i < b.size; i++) digest = (digest ^ b.bytes[b.front + i]) * 0x100000001B3ull;
    }
    // The first byte that differs, or -1.
    int64_t difference(const Outputs& other, size_t& buffer) const {
        for (buffer = 0; buffer < buffers.size(); buffer++)
            for (size_t i = 0; i < buffers[buffer].bytes.size(); i++)
                if (buffers[buffer].bytes[i] != other.buffers[buffer].bytes[i]) return (int64_t)(i - buffers[buffer].front);
        return -1;
    }
};

inline int sign(int64_t x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

// call(outputs, threads) on every path and with several numbers of threads: all must leave the bits that the portable path
// leaves with one thread, whose outputs and returned value `examine` compares with a reference.
template <class Call, class Examine> void everywhere(const std::string& what, Call call, Examine examine) {
    Outputs first;
    int64_t first_returned = 0;
    bool begun = false;
    for (const char* path : {"portable", "avx2", "avx512", "neon"}) {
        if (!dither_set_path(path)) continue;
        for (int32_t threads : {1, 2, 5}) {
            if (brief && threads == 2) continue;
            context = what + " on " + path + " with threads " + std::to_string(threads);
            Outputs own;
            const int64_t returned = call(own, threads);
            check(own.guards_hold(), "bytes outside an output were written");
            own.unify_nans();
            if (!begun) {
                examine(own, returned);
                own.digest_all();
                first = std::move(own), first_returned = returned, begun = true;
                continue;
            }
            size_t buffer;
            const int64_t byte = own.difference(first, buffer);
            check(byte < 0, "output %zu differs from portable's with one thread, from byte %" PRId64 " on", buffer, byte);
            check(sign(returned) == sign(first_returned), "returned %" PRId64 ", portable with one thread %" PRId64, returned,
                  first_returned);
        }
    }
}
