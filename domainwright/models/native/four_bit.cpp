// Weights from 4-bit codes: 16 of them are one lookup in a register.
//
// Dimension key: N weights, blocks of 64 with one scale each, 256 scales with one of their own; of a
// linear layer T rows, I inputs, O outputs.
#include "few_rows.h"

namespace {

constexpr long BLOCK = 64, NESTED = 256;

// Sixteen codes of eight bytes, the high half of each first, as their values.
inline __m512 values(const uint8_t* p, __m512 book) {
  const __m128i bytes = _mm_loadl_epi64((const __m128i*)p), low = _mm_set1_epi8(15);
  const __m128i first = _mm_and_si128(_mm_srli_epi16(bytes, 4), low);
  const __m128i codes = _mm_unpacklo_epi8(first, _mm_and_si128(bytes, low));
  return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), book);
}

struct Codes {
  const float* book;
  const uint8_t* packed;
  const void* absmax;  // float32, or with `nested` uint8 codes of map · nested + offset
  const float *nested, *map;
  float offset;

  float scale(long block) const {
    if (!nested) return ((const float*)absmax)[block];
    // volatile, so that the product is rounded before the sum: the compiler would fuse the
    // two, and the last bit would be another than PyTorch's.
    const volatile float product = map[((const uint8_t*)absmax)[block]] * nested[block / NESTED];
    return product + offset;
  }
};

}  // namespace

extern "C" {

// out[n] = book[code n] · scale of its block; see `Codes`. bytes: 2 writes bfloat16, 4 float32.
void dw_dequantise(long N, const float* book, const uint8_t* packed, const void* absmax,
                   const float* nested, const float* map, float offset, long bytes, void* out) {
  const Codes codes{book, packed, absmax, nested, map, offset};
  const __m512 table = _mm512_loadu_ps(book);
  const long blocks = (N + BLOCK - 1) / BLOCK;
#pragma omp parallel for
  for (long j = 0; j < blocks; ++j) {
    const __m512 scales = _mm512_set1_ps(codes.scale(j));
    const long count = std::min(BLOCK, N - j * BLOCK);
    for (long i = 0; i < count; i += LANES) {
      const long begin = j * BLOCK + i;
      const long left = std::min(LANES, count - i);
      if (left == LANES) {
        const __m512 x = _mm512_mul_ps(values(packed + begin / 2, table), scales);
        if (bytes == 2)
          store((bf16*)out + begin, x);
        else
          _mm512_storeu_ps((float*)out + begin, x);
        continue;
      }
      uint8_t rest[LANES / 2] = {0};
      std::memcpy(rest, packed + begin / 2, (left + 1) / 2);
      const __m512 x = _mm512_mul_ps(values(rest, table), scales);
      const __mmask16 mask = (__mmask16)((1u << left) - 1);
      if (bytes == 2)
        _mm256_mask_storeu_epi16((bf16*)out + begin, mask, rounded(x));
      else
        _mm512_mask_storeu_ps((float*)out + begin, mask, x);
    }
  }
}

// out (T, O of `out_row`) = x Wᵀ + bias + residual with the weight (O, I) as codes: 4 of its rows are
// unpacked at a time, and are still in the first cache when x passes them. bias (O) and residual, of
// out's layout, may be null. I is a multiple of 64, O of 4.
void dw_few_rows_four_bit(long T, long I, long O, const bf16* x, long row, const float* book,
                          const uint8_t* packed, const void* absmax, const float* nested,
                          const float* map, float offset, const bf16* bias, const bf16* residual,
                          bf16* out, long out_row) {
  const Codes codes{book, packed, absmax, nested, map, offset};
  const __m512 table = _mm512_loadu_ps(book);
#pragma omp parallel
  {
    static thread_local std::vector<bf16> rows;
    rows.resize(OUTPUTS * I);
#pragma omp for
    for (long o = 0; o < O; o += OUTPUTS) {
      for (long i = 0; i < OUTPUTS * I; i += BLOCK) {
        const __m512 scale = _mm512_set1_ps(codes.scale((o * I + i) / BLOCK));
        for (long c = i; c < i + BLOCK; c += LANES)
          store(&rows[c], _mm512_mul_ps(values(packed + (o * I + c) / 2, table), scale));
      }
      outputs_of(T, I, x, row, rows.data(), bias ? bias + o : nullptr,
                 residual ? residual + o : nullptr, out + o, out_row);
    }
  }
}
}
