// Products of few rows with rows of a weight, both read along the summed dimension.
//
// A library's product first copies the weight into an order of its own, which costs more than few
// rows do. Here 4 outputs of up to 6 rows are made at a time; the sums of a register's lanes are
// added at the end.
//
// Dimension key: T rows, I inputs, O outputs.
#pragma once

#include "common.h"

constexpr int OUTPUTS = 4;
constexpr long STEP = 2 * LANES;  // bfloat16 in a register

static inline __m128 four(const bf16* p) {
  const __m128i bits = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)p));
  return _mm_castsi128_ps(_mm_slli_epi32(bits, 16));
}

// The sums over all lanes of four registers.
static inline __m128 sums_of(const __m512* x) {
  const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// out (ROWS x OUTPUTS): rows of x times OUTPUTS rows of W.
template <int ROWS>
static inline void products(const bf16* x, long row, const bf16* W, long I, __m128* out) {
  __m512 sum[ROWS][OUTPUTS];
  for (int m = 0; m < ROWS; ++m)
    for (int n = 0; n < OUTPUTS; ++n) sum[m][n] = _mm512_setzero_ps();
  for (long i = 0; i < I; i += STEP) {
    __m512bh w[OUTPUTS];
    for (int n = 0; n < OUTPUTS; ++n) {
      w[n] = (__m512bh)_mm512_loadu_si512(W + n * I + i);
      // The next outputs' weights: the processor alone fetches them too late.
      _mm_prefetch((const char*)(W + (n + OUTPUTS) * I + i), _MM_HINT_T0);
    }
    for (int m = 0; m < ROWS; ++m) {
      const __m512bh a = (__m512bh)_mm512_loadu_si512(x + m * row + i);
      for (int n = 0; n < OUTPUTS; ++n) sum[m][n] = _mm512_dpbf16_ps(sum[m][n], a, w[n]);
    }
  }
  for (int m = 0; m < ROWS; ++m) out[m] = sums_of(sum[m]);
}

static inline void products_of(int rows, const bf16* x, long row, const bf16* W, long I,
                               __m128* out) {
  switch (rows) {
    case 6: return products<6>(x, row, W, I, out);
    case 5: return products<5>(x, row, W, I, out);
    case 4: return products<4>(x, row, W, I, out);
    case 3: return products<3>(x, row, W, I, out);
    case 2: return products<2>(x, row, W, I, out);
    default: return products<1>(x, row, W, I, out);
  }
}

// OUTPUTS columns of out (T, …) = x Wᵀ + bias + residual, `out_row` numbers between rows; `bias` and
// `residual` begin at these columns too, or are null.
static inline void outputs_of(long T, long I, const bf16* x, long row, const bf16* W,
                              const bf16* bias, const bf16* residual, bf16* out, long out_row) {
  for (long t = 0; t < T; t += TILE_ROWS) {
    const int rows = (int)std::min<long>(TILE_ROWS, T - t);
    __m128 found[TILE_ROWS];
    products_of(rows, x + t * row, row, W, I, found);
    for (int m = 0; m < rows; ++m) {
      const long at = (t + m) * out_row;
      if (bias) found[m] = _mm_add_ps(found[m], four(bias));
      if (residual) found[m] = _mm_add_ps(found[m], four(residual + at));
      _mm_storel_epi64((__m128i*)(out + at), (__m128i)_mm_cvtneps_pbh(found[m]));
    }
  }
}
