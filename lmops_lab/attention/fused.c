/* What stands between the matrix products of a Llama-like layer, each in one pass over its numbers. Compiled once for
 * float32 and once, with BFLOAT16 defined, for bfloat16, which is widened to compute and rounded once. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef BFLOAT16
typedef uint16_t number;
static inline float wide(number x) {
    uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
static inline number narrow(float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (number)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float number;
static inline float wide(number x) { return x; }
static inline number narrow(float x) { return x; }
#endif

/* Root-mean-square normalisation of rows: out = w x / sqrt(mean(x^2) + epsilon). */
void lmops_rms_norm(const number *x, const number *weight, number *out, long rows, long width, float epsilon) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        const number *in = x + r * width;
        number *to = out + r * width;
        float squares = 0;
        for (long i = 0; i < width; i++) squares += wide(in[i]) * wide(in[i]);
        float factor = 1.0f / sqrtf(squares / (float)width + epsilon);
        for (long i = 0; i < width; i++) to[i] = narrow(wide(weight[i]) * (wide(in[i]) * factor));
    }
}

/* Rotary positions: out = x cos + (-second half of x, first half of x) sin. x [B, T, H, D] with the given steps,
 * out [B, T, H, D] packed, cosines and sines [B, T, D], one for all B if `shared`. */
void lmops_rotate(const number *x, long step_b, long step_t, long step_h, const number *cosine, const number *sine,
                  number *out, long batch, long tokens, long heads, long dim, int shared) {
    long half = dim / 2;
#pragma omp parallel for schedule(static)
    for (long r = 0; r < batch * tokens; r++) {
        long b = r / tokens, t = r % tokens;
        const number *c = cosine + (shared ? t : r) * dim, *s = sine + (shared ? t : r) * dim;
        for (long h = 0; h < heads; h++) {
            const number *in = x + b * step_b + t * step_t + h * step_h;
            number *restrict to = out + (r * heads + h) * dim;
            for (long i = 0; i < half; i++) {
                float first = wide(in[i]), second = wide(in[i + half]);
                to[i] = narrow(first * wide(c[i]) - second * wide(s[i]));
                to[i + half] = narrow(second * wide(c[i + half]) + first * wide(s[i + half]));
            }
        }
    }
}

/* The gate of SwiGLU: out = up * gate / (1 + exp(-gate)). */
void lmops_swiglu(const number *gate, const number *up, number *out, long count) {
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < count; i++) {
        float x = wide(gate[i]);
        out[i] = narrow(x / (1.0f + expf(-x)) * wide(up[i]));
    }
}
