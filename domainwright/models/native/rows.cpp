// Row-wise kernels: normalisation, rotary positions, SwiGLU, the loss of a block of logits, and a
// linear layer on few rows.
// bfloat16 in and out, float32 inside; each reads and writes its rows once.
//
// Dimension key: T tokens, D hidden size, F feed-forward size, h head size, V vocabulary; of a linear
// layer I inputs, O outputs.
#include "few_rows.h"

namespace {

inline float sum_of(__m512 x) { return _mm512_reduce_add_ps(x); }

inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

}  // namespace

extern "C" {

// out = weight · x / sqrt(mean(x²) + eps); inverse (T) keeps 1 / sqrt(…).
void dw_rms_norm(long T, long D, const bf16* x, const bf16* weight, float eps, bf16* out,
                 float* inverse) {
#pragma omp parallel for
  for (long t = 0; t < T; ++t) {
    const bf16* row = x + t * D;
    __m512 squares = _mm512_setzero_ps();
    for (long i = 0; i < D; i += LANES) {
      const __m512 a = load(row + i);
      squares = _mm512_fmadd_ps(a, a, squares);
    }
    inverse[t] = 1.0f / std::sqrt(sum_of(squares) / D + eps);
    const __m512 scale = _mm512_set1_ps(inverse[t]);
    for (long i = 0; i < D; i += LANES)
      store(out + t * D + i, _mm512_mul_ps(_mm512_mul_ps(load(row + i), scale), load(weight + i)));
  }
}

// grad += inverse · (g - x̂ · mean(g · x̂)) with g = weight · pull and x̂ = x · inverse. In place:
// `grad` (T, D) holds what reaches x past the normalisation.
void dw_rms_norm_backward(long T, long D, const bf16* x, const bf16* weight, const float* inverse,
                          const bf16* pull, bf16* grad) {
#pragma omp parallel for
  for (long t = 0; t < T; ++t) {
    const bf16 *row = x + t * D, *above = pull + t * D;
    const __m512 scale = _mm512_set1_ps(inverse[t]);
    __m512 dot = _mm512_setzero_ps();
    for (long i = 0; i < D; i += LANES)
      dot = _mm512_fmadd_ps(_mm512_mul_ps(load(above + i), load(weight + i)),
                            _mm512_mul_ps(load(row + i), scale), dot);
    const __m512 mean = _mm512_set1_ps(sum_of(dot) / D);
    for (long i = 0; i < D; i += LANES) {
      const __m512 g = _mm512_mul_ps(load(above + i), load(weight + i));
      const __m512 hat = _mm512_mul_ps(load(row + i), scale);
      bf16* to = grad + t * D + i;
      store(to, _mm512_fmadd_ps(scale, _mm512_fnmadd_ps(hat, mean, g), load(to)));
    }
  }
}

// Rotates the first `heads` heads of every row of x (T, row) in place, halves as in Llama:
// (a, b) -> (a cos - b sin, b cos + a sin). cosine, sine: float32 (T, h). direction: 1, or -1 for
// the gradient.
void dw_rotate(long T, long row, long heads, long h, const float* cosine, const float* sine,
               float direction, bf16* x) {
  const __m512 sign = _mm512_set1_ps(direction);
#pragma omp parallel for
  for (long t = 0; t < T; ++t)
    for (long a = 0; a < heads; ++a)
      for (long i = 0; i < h / 2; i += LANES) {
        bf16* low = x + t * row + a * h + i;
        bf16* high = low + h / 2;
        const __m512 c = _mm512_loadu_ps(cosine + t * h + i);
        const __m512 s = _mm512_mul_ps(sign, _mm512_loadu_ps(sine + t * h + i));
        const __m512 p = load(low), q = load(high);
        store(low, _mm512_fmsub_ps(p, c, _mm512_mul_ps(q, s)));
        store(high, _mm512_fmadd_ps(q, c, _mm512_mul_ps(p, s)));
      }
}

// out = silu(gate) · up, with gate and up side by side in (T, 2F).
void dw_swiglu(long T, long F, const bf16* gate_up, bf16* out) {
#pragma omp parallel for
  for (long t = 0; t < T; ++t)
    for (long i = 0; i < F; i += LANES) {
      const __m512 g = load(gate_up + t * 2 * F + i), u = load(gate_up + t * 2 * F + F + i);
      store(out + t * F + i, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), u));
    }
}

// The gradient of gate_up, written over it, and the product itself once more, written over pull.
void dw_swiglu_backward(long T, long F, bf16* gate_up, bf16* pull) {
  const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for
  for (long t = 0; t < T; ++t)
    for (long i = 0; i < F; i += LANES) {
      bf16 *gate = gate_up + t * 2 * F + i, *up = gate + F, *above = pull + t * F + i;
      const __m512 g = load(gate), u = load(up), d = load(above), s = sigmoid(g);
      const __m512 silu = _mm512_mul_ps(g, s);
      const __m512 slope =
          _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
      store(above, _mm512_mul_ps(silu, u));
      store(gate, _mm512_mul_ps(_mm512_mul_ps(d, u), slope));
      store(up, _mm512_mul_ps(d, silu));
    }
}

// Per row: loss = log Σ exp(logits) - logits[label], best = the first largest; and, where asked
// for, the logits become their gradient softmax - onehot. V may be any number.
void dw_cross_entropy(long rows, long V, bf16* logits, const long* labels, float* loss, long* best,
                      long gradient) {
#pragma omp parallel for schedule(dynamic, 1)
  for (long r = 0; r < rows; ++r) {
    bf16* row = logits + r * V;
    const long whole = V / LANES * LANES;
    __m512 tops = _mm512_set1_ps(-INFINITY);
    for (long i = 0; i < whole; i += LANES) tops = _mm512_max_ps(tops, load(row + i));
    float top = _mm512_reduce_max_ps(tops);
    for (long i = whole; i < V; ++i) top = std::max(top, number(row[i]));
    const __m512 most = _mm512_set1_ps(top);
    __m512 sums = _mm512_setzero_ps();
    long first = V;
    for (long i = 0; i < whole; i += LANES) {
      const __m512 x = load(row + i);
      sums = _mm512_add_ps(sums, exponential(_mm512_sub_ps(x, most)));
      if (first == V) {
        const __mmask16 here = _mm512_cmp_ps_mask(x, most, _CMP_EQ_OQ);
        if (here) first = i + __builtin_ctz(here);
      }
    }
    float sum = sum_of(sums);
    for (long i = whole; i < V; ++i) {
      sum += std::exp(number(row[i]) - top);
      if (first == V && number(row[i]) == top) first = i;
    }
    const float normaliser = top + std::log(sum);
    loss[r] = normaliser - number(row[labels[r]]);
    best[r] = first;
    if (!gradient) continue;
    const float chosen = std::exp(number(row[labels[r]]) - normaliser) - 1.0f;
    const __m512 shift = _mm512_set1_ps(normaliser);
    for (long i = 0; i < whole; i += LANES)
      store(row + i, exponential(_mm512_sub_ps(load(row + i), shift)));
    for (long i = whole; i < V; ++i) {
      bf16 one[LANES];
      store(one, _mm512_set1_ps(std::exp(number(row[i]) - normaliser)));
      row[i] = one[0];
    }
    bf16 one[LANES];
    store(one, _mm512_set1_ps(chosen));
    row[labels[r]] = one[0];
  }
}

// out (T, O) = x Wᵀ + bias + residual; bias (O) and residual (T, O) may be null. I is a multiple of
// 32, O of 4; `row` numbers lie between rows of x.
void dw_few_rows(long T, long I, long O, const bf16* x, long row, const bf16* W, const bf16* bias,
                 const bf16* residual, bf16* out) {
#pragma omp parallel for
  for (long o = 0; o < O; o += OUTPUTS)
    outputs_of(T, I, x, row, W + o * I, bias ? bias + o : nullptr,
               residual ? residual + o : nullptr, out + o, O);
}
}
