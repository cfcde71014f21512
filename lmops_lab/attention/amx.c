/* Attention of many queries to one set of keys on processors with AMX and AVX512-BF16, with its log-sum-exp.
 *
 * Everything is transposed: a score tile holds 16 keys x 16 queries, so that maxima, sums and exponentials of a query
 * run down a column, one vector instruction for 16 queries, and no sum ever crosses a vector. Two blocks of 16 queries
 * go together, so that each tile of keys and values is used twice.
 *
 *   S^T = K Q^T      P^T = exp2(c S^T - m)      O^T = V^T P^T      out = O / l      lse = m ln 2 + ln l
 *
 * m need not be the maximum, which only guards against overflow: it is raised where the exponentials of 32 keys add up
 * to more than OUTGROWN, after the first keys hardly ever.
 *
 * Products take bfloat16 and add up in float32; maxima, sums and exponentials are float32. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAITING 8 /* tiles of 32 keys whose exponentials wait for one pass over the values */
#define WIDEST 256 /* head width */
#define OUTGROWN 65536.0f
#define LOW -1e30f /* finite: infinity minus infinity is no number */
#define ALIGNED __attribute__((aligned(64)))
/* Compilers do not see which memory the tile instructions read and write. */
#define FENCE __asm__ volatile("" ::: "memory")

/* Ask the kernel for the tile registers (Linux hands them out on demand); 0 if it agrees. */
int lmops_permit(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }

static void configure(void) {
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } ALIGNED tiles = {0};
    tiles.palette = 1;
    for (int i = 0; i < 8; i++) { tiles.bytes[i] = 64; tiles.rows[i] = 16; }
    _tile_loadconfig(&tiles);
}

/* 2^x, within 3e-6 of its size: a polynomial for the fraction above the next lower whole number. */
static inline __m512 exp2_of(__m512 x) {
    __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 y = _mm512_set1_ps(1.35341700e-02f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.20114600e-02f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.41442750e-01f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.93003840e-01f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.00000259e+00f));
    return _mm512_scalef_ps(y, x); /* which rounds x down itself */
}

/* Scores of 32 keys, of which `keys` are there, for two blocks of queries: [2][32][16]. */
static inline void score(const uint16_t *k, long stride, long keys, const uint32_t *q0, const uint32_t *q1, long dim,
                         float scores[2][32][16]) {
    uint16_t last[32 * WIDEST] ALIGNED; /* the last keys, filled up to whole tiles */
    if (keys < 32) {
        memset(last, 0, sizeof(uint16_t) * 32 * dim);
        for (long i = 0; i < keys; i++) memcpy(last + i * dim, k + i * stride, sizeof(uint16_t) * dim);
        k = last, stride = dim;
    }
    FENCE;
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (long j = 0; j < dim; j += 32) {
        _tile_loadd(4, q0 + 8 * j, 64);
        _tile_loadd(5, q1 + 8 * j, 64);
        _tile_loadd(6, k + j, 2 * stride);
        _tile_loadd(7, k + 16 * stride + j, 2 * stride);
        _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 7, 4); _tile_dpbf16ps(2, 6, 5); _tile_dpbf16ps(3, 7, 5);
    }
    _tile_stored(0, scores[0][0], 64); _tile_stored(1, scores[0][16], 64);
    _tile_stored(2, scores[1][0], 64); _tile_stored(3, scores[1][16], 64);
    FENCE;
    for (long t = keys; t < 32; t++)
        for (int b = 0; b < 2; b++) _mm512_store_ps(scores[b][t], _mm512_set1_ps(LOW));
}

/* The largest score of each of 16 queries. */
static inline __m512 largest(float scores[32][16]) {
    __m512 a = _mm512_load_ps(scores[0]), b = _mm512_load_ps(scores[1]);
    __m512 c = _mm512_load_ps(scores[2]), d = _mm512_load_ps(scores[3]);
    for (long t = 4; t < 32; t += 4) {
        a = _mm512_max_ps(a, _mm512_load_ps(scores[t])), b = _mm512_max_ps(b, _mm512_load_ps(scores[t + 1]));
        c = _mm512_max_ps(c, _mm512_load_ps(scores[t + 2])), d = _mm512_max_ps(d, _mm512_load_ps(scores[t + 3]));
    }
    return _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
}

/* Exponentials of a block's scores over its queries' references, as pairs of bfloat16 [16][16]; returns their sums. */
static inline __m512 soften(float scores[32][16], __m512 scale, __m512i zip, __m512 reference, uint32_t pairs[16][16]) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (long t = 0; t < 32; t += 2) {
        __m512 p = exp2_of(_mm512_fmsub_ps(scale, _mm512_load_ps(scores[t]), reference));
        __m512 r = exp2_of(_mm512_fmsub_ps(scale, _mm512_load_ps(scores[t + 1]), reference));
        even = _mm512_add_ps(even, p), odd = _mm512_add_ps(odd, r);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(r, p);
        _mm512_store_si512(pairs[t / 2], _mm512_permutexvar_epi16(zip, both));
    }
    return _mm512_add_ps(even, odd);
}

/* The values of two blocks of queries: out [2][dim][16] += V^T [dim][32 tiles] P^T [32 tiles][16]. */
static void gather(const uint16_t *vt, long padded, uint32_t pairs[2][16 * WAITING][16], long dim, long tiles,
                   float out[2][WIDEST][16]) {
    FENCE;
    for (long d = 0; d < dim; d += 32) {
        _tile_loadd(0, out[0][d], 64); _tile_loadd(1, out[0][d + 16], 64);
        _tile_loadd(2, out[1][d], 64); _tile_loadd(3, out[1][d + 16], 64);
        for (long t = 0; t < tiles; t++) {
            _tile_loadd(4, pairs[0][16 * t], 64);
            _tile_loadd(5, pairs[1][16 * t], 64);
            _tile_loadd(6, vt + d * padded + 32 * t, 2 * padded);
            _tile_loadd(7, vt + (d + 16) * padded + 32 * t, 2 * padded);
            _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 7, 4); _tile_dpbf16ps(2, 6, 5); _tile_dpbf16ps(3, 7, 5);
        }
        _tile_stored(0, out[0][d], 64); _tile_stored(1, out[0][d + 16], 64);
        _tile_stored(2, out[1][d], 64); _tile_stored(3, out[1][d + 16], 64);
    }
    FENCE;
}

/* Raise a block's references where its scores have outgrown them, and shrink what was summed over the old ones. */
static void raise(__m512 to, __mmask16 grown, long dim, __m512 *reference, __m512 *sum, float out[WIDEST][16]) {
    /* The others keep theirs by exactly 1: the polynomial's 2^0 is not, and its error would grow with every call. */
    __m512 shrink = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), grown, exp2_of(_mm512_sub_ps(*reference, to)));
    *reference = _mm512_mask_mov_ps(*reference, grown, to), *sum = _mm512_mul_ps(*sum, shrink);
    for (long i = 0; i < dim; i++) _mm512_store_ps(out[i], _mm512_mul_ps(shrink, _mm512_load_ps(out[i])));
}

/* Pairs of neighbouring numbers of 16 rows, one pair of all rows after the other: [dim / 2][16]. */
static void pack(const uint32_t *query, __m512i rows, long dim, uint32_t *pairs) {
    for (long i = 0; i < dim / 2; i++) _mm512_store_si512(pairs + 16 * i, _mm512_i32gather_epi32(rows, query + i, 4));
}

/* Sums [dim][16] times each column's share, as bfloat16 into the 16 rows. */
static void unpack(float sums[WIDEST][16], __m512 share, __m512i rows, __m512i zip, long dim, uint32_t *out) {
    for (long i = 0; i < dim / 2; i++) {
        __m512 even = _mm512_mul_ps(share, _mm512_load_ps(sums[2 * i]));
        __m512 odd = _mm512_mul_ps(share, _mm512_load_ps(sums[2 * i + 1]));
        __m512i both = _mm512_permutexvar_epi16(zip, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
        _mm512_i32scatter_epi32(out + i, rows, both, 4);
    }
}

/* Up to 32 rows of values, `keys` of which are there, as columns [dim][32] of a matrix; the others are zero. */
static void turn(const uint16_t *values, long stride, long keys, long dim, uint16_t *columns, long padded) {
    uint16_t rows[32][32] ALIGNED;
    for (long d = 0; d < dim; d += 32) {
        for (long t = 0; t < 32; t++)
            if (t < keys) memcpy(rows[t], values + t * stride + d, sizeof rows[t]);
            else memset(rows[t], 0, sizeof rows[t]);
        for (long i = 0; i < 32; i++)
            for (long t = 0; t < 32; t++) columns[(d + i) * padded + t] = rows[t][i];
    }
}

/* Attention of every head's rows to that head's keys. Rows go in blocks of 32; the last block repeats its last row.
 *
 *   q    bfloat16, anywhere; row r of head h begins `from[h][r]` pairs of numbers after q
 *   k    [heads][keys][dim] bfloat16, rows `stride` and heads `head_stride` elements apart
 *   v    like k, with its own steps
 *   vt   room for [heads][dim][padded] bfloat16; padded is a multiple of 32, at least keys
 *   out  [...][dim] bfloat16, lse [...] float32: row r of head h is row `to[h][r]` of both
 *   from, to [heads][rows]; rows is a multiple of 32
 */
void lmops_attend(const uint32_t *q, const int32_t *from, const uint16_t *k, long stride, long head_stride,
                  const uint16_t *v, long v_stride, long v_head_stride, uint16_t *vt, long padded, uint32_t *out, float *lse, const int32_t *to, long heads, long rows,
                  long keys, long dim, float factor) {
    const __m512 scale = _mm512_set1_ps(factor * 1.44269504f);
    uint16_t order[32] ALIGNED; /* 0 16 1 17 ...: two numbers of a column side by side */
    for (int i = 0; i < 32; i++) order[i] = (uint16_t)(i / 2 + 16 * (i % 2));
    const __m512i zip = _mm512_load_si512(order);
#pragma omp parallel
    {
        float scores[2][2][32][16] ALIGNED, sums[2][WIDEST][16] ALIGNED;
        uint32_t queries[2][WIDEST / 2][16] ALIGNED, pairs[2][16 * WAITING][16] ALIGNED;
        configure();
#pragma omp for schedule(static)
        for (long tile = 0; tile < heads * ((keys + 31) / 32); tile++) {
            long head = tile / ((keys + 31) / 32), at = 32 * (tile % ((keys + 31) / 32));
            turn(v + head * v_head_stride + at * v_stride, v_stride, keys - at, dim, vt + head * dim * padded + at,
                 padded);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < heads * (rows / 32); task++) {
            long head = task / (rows / 32), tiles = (keys + 31) / 32, waiting = 0;
            const uint16_t *of_head = k + head * head_stride, *values = vt + head * dim * padded;
            const __m512 none = _mm512_set1_ps(LOW);
            __m512 most[2] = {none, none}, sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
            memset(sums, 0, sizeof sums);
            for (int b = 0; b < 2; b++)
                pack(q, _mm512_loadu_si512(from + 32 * task + 16 * b), dim, queries[b][0]);
            score(of_head, stride, keys, queries[0][0], queries[1][0], dim, scores[0]);
            for (long t = 0; t < tiles; t++) {
                /* The tile unit works on the next keys while the exponentials of these are taken. */
                if (t + 1 < tiles)
                    score(of_head + 32 * (t + 1) * stride, stride, keys - 32 * (t + 1), queries[0][0], queries[1][0],
                          dim, scores[(t + 1) % 2]);
                __m512 more[2];
                __mmask16 grown[2];
                for (int b = 0; b < 2; b++) {
                    more[b] = soften(scores[t % 2][b], scale, zip, most[b], pairs[b] + 16 * waiting);
                    /* "Not at most" is also true of infinity minus infinity. */
                    grown[b] = _mm512_cmp_ps_mask(more[b], _mm512_set1_ps(OUTGROWN), _CMP_NLE_UQ);
                }
                if (grown[0] | grown[1]) {
                    gather(values + 32 * (t - waiting), padded, pairs, dim, waiting, sums);
                    waiting = 0;
                    for (int b = 0; b < 2; b++) {
                        raise(_mm512_mul_ps(scale, largest(scores[t % 2][b])), grown[b], dim, &most[b], &sum[b], sums[b]);
                        more[b] = soften(scores[t % 2][b], scale, zip, most[b], pairs[b]);
                    }
                }
                for (int b = 0; b < 2; b++) sum[b] = _mm512_add_ps(sum[b], more[b]);
                if (++waiting == WAITING || t + 1 == tiles) {
                    gather(values + 32 * (t + 1 - waiting), padded, pairs, dim, waiting, sums);
                    waiting = 0;
                }
            }
            for (int b = 0; b < 2; b++) {
                float total[16] ALIGNED, high[16] ALIGNED;
                _mm512_store_ps(total, sum[b]), _mm512_store_ps(high, most[b]);
                const int32_t *rows_to = to + 32 * task + 16 * b;
                for (int i = 0; i < 16; i++) lse[rows_to[i]] = high[i] * 0.69314718f + logf(total[i]);
                __m512i places = _mm512_mullo_epi32(_mm512_loadu_si512(rows_to), _mm512_set1_epi32((int)(dim / 2)));
                unpack(sums[b], _mm512_div_ps(_mm512_set1_ps(1.0f), sum[b]), places, zip, dim, out);
            }
        }
        _tile_release();
    }
}

static inline __m512 wide(const uint16_t *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

/* Two partial attentions as one, the right one's exponentials scaled by exp(weight): out and lse of their union.
 *
 *   left, right, out [batch][heads][tokens][dim] bfloat16, whose first three steps stand in strides [3][3]
 *   left_lse, right_lse, lse [batch][heads][tokens] float32; dim is a multiple of 16
 */
void lmops_merge(const uint16_t *left, const float *left_lse, const uint16_t *right, const float *right_lse,
                 uint16_t *out, float *lse, const long strides[3][3], long batch, long heads, long tokens, long dim,
                 float weight) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < batch * heads * tokens; row++) {
        long at[3] = {row / (heads * tokens), row / tokens % heads, row % tokens}, starts[3] = {0, 0, 0};
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) starts[i] += at[j] * strides[i][j];
        float x = left_lse[row], y = right_lse[row] + weight;
        float small = expf(-fabsf(x - y)), share = 1.0f / (1.0f + small);
        lse[row] = fmaxf(x, y) + log1pf(small);
        __m512 of_right = _mm512_set1_ps(y > x ? share : small * share);
        for (long i = 0; i < dim; i += 16) {
            __m512 a = wide(left + starts[0] + i), b = wide(right + starts[1] + i);
            __m512 merged = _mm512_fmadd_ps(of_right, _mm512_sub_ps(b, a), a);
            _mm256_storeu_si256((__m256i *)(out + starts[2] + i), (__m256i)_mm512_cvtneps_pbh(merged));
        }
    }
}
