// What every kernel here needs: bfloat16 in and out of 512-bit registers, exp, a tile product.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using bf16 = uint16_t;
using pair = uint32_t;  // two bfloat16 that are neighbours along the summed dimension

constexpr long LANES = 16;

static inline __m512 load(const bf16* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

static inline float number(bf16 x) {
  const uint32_t bits = (uint32_t)x << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

static inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

static inline void store(bf16* p, __m512 x) { _mm256_storeu_si256((__m256i*)p, rounded(x)); }

// Neighbouring rows as pairs: the low half of each lane holds `even`, the high half `odd`.
static inline __m512i paired(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// e^x to 2 units in the last place of float32: 2^n · polynomial on [-ln 2 / 2, ln 2 / 2].
static inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-103.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// C (rows x 16·V) (+)= A · B over `depth` pairs. A's pair (m, k) is A[m·am + k·ak]; B's row k is
// B[k·bk ...]. float32 sums in registers.
template <int ROWS, int V>
static inline void tile(const pair* A, long am, long ak, const pair* B, long bk, long depth,
                        float* C, long cm, bool add) {
  __m512 sum[ROWS][V];
  for (int m = 0; m < ROWS; ++m)
    for (int v = 0; v < V; ++v)
      sum[m][v] = add ? _mm512_loadu_ps(C + m * cm + v * LANES) : _mm512_setzero_ps();
  for (long k = 0; k < depth; ++k) {
    __m512bh b[V];
    for (int v = 0; v < V; ++v) b[v] = (__m512bh)_mm512_loadu_si512(B + k * bk + v * LANES);
    for (int m = 0; m < ROWS; ++m) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32((int)A[m * am + k * ak]);
      for (int v = 0; v < V; ++v) sum[m][v] = _mm512_dpbf16_ps(sum[m][v], a, b[v]);
    }
  }
  for (int m = 0; m < ROWS; ++m)
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(C + m * cm + v * LANES, sum[m][v]);
}

constexpr int TILE_ROWS = 6;  // 6 x 4 sums, 4 of B and 1 of A: 29 of the 32 registers

template <int V>
static inline void tile_rows(int rows, const pair* A, long am, long ak, const pair* B, long bk,
                             long depth, float* C, long cm, bool add) {
  switch (rows) {
    case 6: return tile<6, V>(A, am, ak, B, bk, depth, C, cm, add);
    case 5: return tile<5, V>(A, am, ak, B, bk, depth, C, cm, add);
    case 4: return tile<4, V>(A, am, ak, B, bk, depth, C, cm, add);
    case 3: return tile<3, V>(A, am, ak, B, bk, depth, C, cm, add);
    case 2: return tile<2, V>(A, am, ak, B, bk, depth, C, cm, add);
    default: return tile<1, V>(A, am, ak, B, bk, depth, C, cm, add);
  }
}

// At most TILE_ROWS rows, any number of columns that is a multiple of 16.
static inline void strip(int rows, long columns, const pair* A, long am, long ak, const pair* B,
                         long bk, long depth, float* C, long cm, bool add) {
  long n = 0;
  for (; n + 64 <= columns; n += 64)
    tile_rows<4>(rows, A, am, ak, B + n, bk, depth, C + n, cm, add);
  switch ((columns - n) / LANES) {
    case 3: return tile_rows<3>(rows, A, am, ak, B + n, bk, depth, C + n, cm, add);
    case 2: return tile_rows<2>(rows, A, am, ak, B + n, bk, depth, C + n, cm, add);
    case 1: return tile_rows<1>(rows, A, am, ak, B + n, bk, depth, C + n, cm, add);
  }
}

static inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }
