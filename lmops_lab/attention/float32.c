/* What encoding computes in float32 beside the weights' products: causal attention (`causal.py`) and the elementwise
 * steps of Llama-like layers (`fused.py`). Plain C whose loops the compiler turns into vector
 * instructions; a number's result does not depend on where in a vector it stands. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x for x <= 0, within 2e-7 of its size: 2^n times a polynomial for what is left, which is at most ln 2 / 2. */
static inline float exp_of(float x) {
    float n = rintf(x * 1.44269504f), f = x - n * 0.693359375f + n * 2.12194440e-4f, power, y;
    n = n < -126 ? -126 : n;
    int32_t bits = ((int32_t)n + 127) << 23;
    memcpy(&power, &bits, 4);
    y = 1.9875691500e-4f;
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1;
    return x < -87 ? 0 : y * power;
}

/* Causal attention of some hundred tokens to themselves in float32, with its log-sum-exp.
 *
 * ROWS queries go together. Their scores against all keys that they see fit the cache, so that the softmax needs neither
 * blocks of keys nor a running maximum, and nothing is computed that lies far above the diagonal:
 *
 *   S = Q K^T      P = exp(c S - m)      O = P V      out = O / l      lse = m + ln l
 *
 * Both products are one small kernel: rows of the left side, number by number, times a panel of the right side that is
 * two vectors wide. Keys (turned) and values are laid out in such panels first. */

#ifdef __AVX512F__
#define LANES 16
#define ROWS 12 /* with two vectors each they fill 24 of 32 registers */
#else
#define LANES 8
#define ROWS 6 /* 12 of 16 */
#endif
#define PANEL (2 * LANES)
#define LONGEST 2048 /* tokens; causal.py keeps to both */
#define WIDEST 256 /* head width */
#define UNSEEN -1e30f /* finite: infinity minus infinity is no number */
#define ALIGNED __attribute__((aligned(64)))

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));

/* out [ROWS, PANEL] = left [ROWS, count] right [count, PANEL]. */
static inline void product(const float *left, long left_step, const float *right, long count, float *out,
                           long out_step) {
    vector sums[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = (vector){0};
    for (long k = 0; k < count; k++) {
        vector a = *(const vector *)(right + k * PANEL), b = *(const vector *)(right + k * PANEL + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            float x = left[r * left_step + k];
            sums[r][0] += x * a;
            sums[r][1] += x * b;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        *(vector *)(out + r * out_step) = sums[r][0];
        *(vector *)(out + r * out_step + LANES) = sums[r][1];
    }
}

int lmops_panel(void) { return PANEL; }

/* ROWS queries from token `start` on: query [T, D] with a step, keys in panels [T / PANEL, D, PANEL], values in panels
 * [D / PANEL, T, PANEL]; out [T, D] with a step, lse [T]. */
static void rows(const float *query, long query_step, const float *keys, const float *values, float *out,
                 long out_step, float *lse, long start, long tokens, long dim, float scale) {
    float asked[ROWS * WIDEST] ALIGNED, scores[ROWS * (LONGEST + LANES)] ALIGNED, found[ROWS * WIDEST] ALIGNED;
    long last = start + ROWS < tokens ? start + ROWS : tokens, wide_dim = (dim + PANEL - 1) / PANEL * PANEL;
    long length = (tokens + PANEL - 1) / PANEL * PANEL;
    long step = length + LANES; /* no power of two, whose rows would push each other out of the cache */
    for (long r = 0; r < ROWS; r++)
        for (long i = 0; i < dim; i++)
            asked[r * dim + i] = start + r < last ? query[(start + r) * query_step + i] * scale : 0;
    for (long k = 0; k < last; k += PANEL) product(asked, dim, keys + k * dim, dim, scores + k, step);
    float sums[ROWS];
    for (long r = 0; r < ROWS; r++) {
        float *row = scores + r * step, most = row[0], sum = 0;
        long seen = start + r < last ? start + r + 1 : last, count = (last + PANEL - 1) / PANEL * PANEL;
        for (long k = seen; k < count; k++) row[k] = UNSEEN;
#pragma omp simd reduction(max : most)
        for (long k = 0; k < count; k++) most = row[k] > most ? row[k] : most;
#pragma omp simd reduction(+ : sum)
        for (long k = 0; k < count; k++) sum += row[k] = exp_of(row[k] - most);
        sums[r] = sum;
        if (start + r < last) lse[start + r] = most + logf(sum);
    }
    for (long i = 0; i < dim; i += PANEL) product(scores, step, values + i * length, last, found + i, wide_dim);
    for (long r = 0; start + r < last; r++)
        for (long i = 0; i < dim; i++) out[(start + r) * out_step + i] = found[r * wide_dim + i] / sums[r];
}

/* query [B, H, T, D], key and value [B, K, T, D] with the steps of their first three axes; out [B, T, H, D] packed,
 * lse [B, H, T]; keys and values [B, K, T and D filled up to whole panels] are scratch. */
void lmops_causal(const float *query, const long *query_steps, const float *key, const long *key_steps,
                  const float *value, const long *value_steps, float *keys, float *values, float *out, float *lse,
                  long batch, long heads, long kv_heads, long tokens, long dim, float scale) {
    long length = (tokens + PANEL - 1) / PANEL * PANEL, wide_dim = (dim + PANEL - 1) / PANEL * PANEL;
    long blocks = (tokens + ROWS - 1) / ROWS, shared = heads / kv_heads;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (long n = 0; n < batch * kv_heads; n++) {
            const float *k = key + n / kv_heads * key_steps[0] + n % kv_heads * key_steps[1];
            const float *v = value + n / kv_heads * value_steps[0] + n % kv_heads * value_steps[1];
            float *to = keys + n * length * dim, *to_v = values + n * length * wide_dim;
            for (long t = 0; t < length; t++)
                for (long i = 0; i < dim; i++)
                    to[t / PANEL * PANEL * dim + i * PANEL + t % PANEL] = t < tokens ? k[t * key_steps[2] + i] : 0;
            for (long i = 0; i < wide_dim; i += PANEL)
                for (long t = 0; t < tokens; t++)
                    for (long j = 0; j < PANEL; j++)
                        to_v[i * length + t * PANEL + j] = i + j < dim ? v[t * value_steps[2] + i + j] : 0;
        }
        /* The last blocks see the most keys and go first, so that the threads end together. */
#pragma omp for schedule(dynamic, 4)
        for (long n = 0; n < batch * heads * blocks; n++) {
            long block = blocks - 1 - n / (batch * heads), b = n % (batch * heads) / heads, h = n % heads;
            long kv = b * kv_heads + h / shared;
            rows(query + b * query_steps[0] + h * query_steps[1], query_steps[2], keys + kv * length * dim,
                 values + kv * length * wide_dim, out + (b * tokens * heads + h) * dim, heads * dim,
                 lse + (b * heads + h) * tokens, block * ROWS, tokens, dim, scale);
        }
    }
}

/* Root-mean-square normalisation of rows: out = w x / sqrt(mean(x^2) + epsilon). */
void lmops_rms_norm(const float *x, const float *weight, float *out, long rows, long width, float epsilon) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        const float *in = x + r * width;
        float *to = out + r * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (long i = 0; i < width; i++) squares += in[i] * in[i];
        float factor = 1.0f / sqrtf(squares / (float)width + epsilon);
        for (long i = 0; i < width; i++) to[i] = weight[i] * (in[i] * factor);
    }
}

/* Rotary positions: out = x cos + (-second half of x, first half of x) sin. x [B, T, H, D] with the given steps,
 * out [B, T, H, D] packed, cosines and sines [B, T, D], one for all B if `shared`. */
void lmops_rotate(const float *x, long step_b, long step_t, long step_h, const float *cosine, const float *sine,
                  float *out, long batch, long tokens, long heads, long dim, int shared) {
    long half = dim / 2;
#pragma omp parallel for schedule(static)
    for (long r = 0; r < batch * tokens; r++) {
        long b = r / tokens, t = r % tokens;
        const float *c = cosine + (shared ? t : r) * dim, *s = sine + (shared ? t : r) * dim;
        for (long h = 0; h < heads; h++) {
            const float *in = x + b * step_b + t * step_t + h * step_h;
            float *restrict to = out + (r * heads + h) * dim;
            for (long i = 0; i < half; i++) {
                float first = in[i], second = in[i + half];
                to[i] = first * c[i] - second * s[i];
                to[i + half] = second * c[i + half] + first * s[i + half];
            }
        }
    }
}

/* The gate of SwiGLU: out = up * gate / (1 + exp(-gate)). */
void lmops_swiglu(const float *gate, const float *up, float *out, long count) {
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < count; i++) {
        float x = gate[i], small = exp_of(-fabsf(x));
        out[i] = x * (x < 0 ? small : 1) / (1 + small) * up[i];
    }
}
