/* The forward selective scan, as fast as this processor can be made to run it:

     h[n] = exp(dt * A[n]) * h[n] + dt * x * B[n],   y = sum_n C[n] * h[n]

   in float32. A vector holds as many channels as the processor's registers do;
   its states stay in registers and the first cache, and a thread takes one
   (batch, vector of channels) at a time. Nothing is left out of the recurrence
   and nothing else is computed: no checks, masks, gate or state to return.

   x, dt, y are (b, l, d), A is transposed, (n, d), B and C are (b, l, n); d is
   a multiple of `scan_lanes()`, n at most 64. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define MAX(a, b) _mm512_max_ps(a, b)
#elif defined(__AVX__)
#include <immintrin.h>
#define LANES 8
#define MAX(a, b) _mm256_max_ps(a, b)
#else
#define LANES 4
/* Vectors have no `?:` in C: bits are selected by the mask of a comparison. */
#define MAX(a, b) (vector)(((a > b) & (integers)a) | (~(a > b) & (integers)b))
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));


int scan_lanes(void) { return LANES; }

static inline vector load(const float *from) {
  vector v;
  memcpy(&v, from, sizeof v); /* an unaligned load */
  return v;
}

/* 2^t for t <= 0: of the integer nearest to t by its exponent bits, of the
   rest, in [-1/2, 1/2], by a polynomial that is exact to float32. */
static inline vector exp2_of(vector t) {
  const vector lowest = (vector){0} - 126.0f;
  t = MAX(t, lowest);
  /* Added to 1.5 * 2^23, a float32 has no bits left for a fraction. */
  vector shifted = t + 12582912.0f;
  vector f = t - (shifted - 12582912.0f);
  vector p = 1.54035304e-4f * f + 1.33335581e-3f;
  p = p * f + 9.61812911e-3f;
  p = p * f + 5.55041087e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147181e-1f;
  p = p * f + 1.0f;
  return (vector)((integers)p + ((integers)shifted << 23));
}

void scan(const float *x, const float *dt, const float *A, const float *B,
          const float *C, float *y, int64_t b, int64_t l, int64_t d, int64_t n) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t row = 0; row < b; row++)
    for (int64_t channel = 0; channel < d; channel += LANES) {
      vector h[64] = {{0}}, a[64];
      for (int64_t i = 0; i < n; i++)
        a[i] = load(A + i * d + channel) * 1.44269504f; /* 1 / log(2) */
      for (int64_t t = row * l; t < (row + 1) * l; t++) {
        const int64_t at = t * d + channel;
        const vector step = load(dt + at), u = step * load(x + at);
        vector sum = {0};
        for (int64_t i = 0; i < n; i++) {
          h[i] = exp2_of(step * a[i]) * h[i] + u * B[t * n + i];
          sum += h[i] * C[t * n + i];
        }
        memcpy(y + at, &sum, sizeof sum);
      }
    }
}
