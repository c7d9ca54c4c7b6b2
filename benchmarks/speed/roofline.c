/* What one core can do: multiply-adds from registers, and reads from each level of memory. */
#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define CHAINS 12 /* independent sums, enough to hide the latency of one */

typedef float vec __attribute__((vector_size(4 * LANES)));

/* No sum may be reordered, so no compiler can shorten these loops. */

/* Make `count` rounds of CHAINS multiply-adds; returns the operations, to divide by the time. */
double multiply_adds(int64_t count, float factor, float *result) {
    vec sum[CHAINS] = {{0}}, by = {0};
    for (int q = 0; q < CHAINS; q++) sum[q] += (float)q;
    by += factor;
    for (int64_t i = 0; i < count; i++)
        for (int q = 0; q < CHAINS; q++) sum[q] = sum[q] * by + by;
    for (int q = 0; q < CHAINS; q++) result[q] = sum[q][0];
    return 2.0 * LANES * CHAINS * count;
}

/* Sum `size` floats, a multiple of 8 vectors, `count` times; returns the bytes read. */
double read_floats(const float *x, int64_t size, int64_t count, float *result) {
    vec sum[8] = {{0}};
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < size; j += 8 * LANES)
            for (int q = 0; q < 8; q++) sum[q] += *(const vec *)(x + j + q * LANES);
    for (int q = 0; q < 8; q++) result[q] = sum[q][0];
    return 4.0 * size * count;
}
