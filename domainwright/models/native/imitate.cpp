// The loss of a student that imitates a teacher, a row at a time: train/distillation.py has the
// formulas. bfloat16 logits in, their gradient out over them; float32 inside.
//
// Dimension key: V vocabulary, K tokens of which the teacher's probability is known.
#include "common.h"

namespace {

struct Row {
  bf16* logits;
  long V;
  const int* known;
  long K;
  float top, colder;

  long whole() const { return V / LANES * LANES; }
  float over(long i) const { return number(logits[i]) - top; }
  void put(long i, float x) const {
    bf16 one[LANES];
    store(one, _mm512_set1_ps(x));
    logits[i] = one[0];
  }

  // log Σ e^((z - top) / T) over all tokens that are not known, however small it is.
  float far_log() const {
    std::vector<char> inside(V);
    for (long k = 0; k < K; ++k) inside[known[k]] = 1;
    float second = -INFINITY;
    for (long i = 0; i < V; ++i)
      if (!inside[i]) second = std::max(second, over(i));
    double sum = 0.0;
    for (long i = 0; i < V; ++i)
      if (!inside[i]) sum += std::exp((over(i) - second) * colder);
    return second * colder + (float)std::log(sum);
  }
};

float top_of(const bf16* row, long V) {
  const long whole = V / LANES * LANES;
  __m512 tops = _mm512_set1_ps(-INFINITY);
  for (long i = 0; i < whole; i += LANES) tops = _mm512_max_ps(tops, load(row + i));
  float top = _mm512_reduce_max_ps(tops);
  for (long i = whole; i < V; ++i) top = std::max(top, number(row[i]));
  return top;
}

// share = e^((z - top) / T); returns Σ e^(z - top) where that is asked for.
float exponentials(const Row& row, bool plain, float* share) {
  const __m512 top = _mm512_set1_ps(row.top), colder = _mm512_set1_ps(row.colder);
  __m512 sums = _mm512_setzero_ps();
  for (long i = 0; i < row.whole(); i += LANES) {
    const __m512 x = _mm512_sub_ps(load(row.logits + i), top);
    _mm512_storeu_ps(share + i, exponential(_mm512_mul_ps(x, colder)));
    if (plain) sums = _mm512_add_ps(sums, exponential(x));
  }
  float sum = _mm512_reduce_add_ps(sums);
  for (long i = row.whole(); i < row.V; ++i) {
    share[i] = std::exp(row.over(i) * row.colder);
    if (plain) sum += std::exp(row.over(i));
  }
  return sum;
}

}  // namespace

extern "C" {

// ids, logs (rows, K): the teacher's likeliest tokens and their log-probabilities; rest: that of all
// others together, -inf where there are none. weight: the share of the loss that imitates.
void dw_imitate(long rows, long V, long K, bf16* logits, const long* labels, const int* ids,
                const float* logs, const float* rest, float weight, float temperature, float* loss,
                long gradient) {
  const float pull = weight * temperature, own = 1.0f - weight;
  const bool labelled = own > 0.0f;
#pragma omp parallel
  {
    std::vector<float> share(V), mine(K);
#pragma omp for schedule(dynamic, 1)
    for (long r = 0; r < rows; ++r) {
      const float* said = logs + r * K;
      const long label = labels[r];
      const Row row{logits + r * V, V, ids + r * K, K, top_of(logits + r * V, V), 1.0f / temperature};
      const float plain_log = std::log(exponentials(row, labelled, share.data()));
      // The known ones are taken out: the others' sum must not be a difference of near numbers.
      double inside = 0.0;
      for (long k = 0; k < K; ++k) {
        inside += share[row.known[k]];
        share[row.known[k]] = 0.0f;
      }
      __m512 sums = _mm512_setzero_ps();
      for (long i = 0; i < row.whole(); i += LANES)
        sums = _mm512_add_ps(sums, _mm512_loadu_ps(&share[i]));
      float outside = _mm512_reduce_add_ps(sums);
      for (long i = row.whole(); i < V; ++i) outside += share[i];
      const float all_log = (float)std::log(inside + outside);
      const bool has_rest = rest[r] > -INFINITY;
      const float outside_log = outside < 1e-30f && has_rest ? row.far_log() : std::log(outside);
      const float apart = has_rest ? rest[r] - (outside_log - all_log) : 0.0f;
      float found = has_rest ? std::exp(rest[r]) * apart : 0.0f;
      for (long k = 0; k < K; ++k)
        found += std::exp(said[k]) * (said[k] - (row.over(row.known[k]) * row.colder - all_log));
      found *= weight * temperature * temperature;
      if (labelled) found += own * (plain_log - row.over(label));
      loss[r] = found;
      if (!gradient) continue;

      // Beyond what is known  T w p_T (1 - q_r / p_r); that ratio may be beyond any number.
      const bool wide = has_rest && apart > 80.0f;
      const float factor = has_rest && !wide ? 1.0f - std::exp(apart) : 1.0f;
      const float scale = pull * factor * std::exp(-all_log), lift = apart - all_log;
      const auto beyond = [&](long i) {
        float out = share[i] * scale;
        if (wide) out -= pull * std::exp(row.over(i) * row.colder + lift);
        return labelled ? out + own * std::exp(row.over(i) - plain_log) : out;
      };
      // Read before anything is written.
      const float at_label = beyond(label) - own;
      bool label_known = false;
      for (long k = 0; k < K; ++k) {
        const float over = row.over(row.known[k]);
        mine[k] = pull * (std::exp(over * row.colder - all_log) - std::exp(said[k]));
        if (labelled) mine[k] += own * std::exp(over - plain_log);
        if (row.known[k] == label) {
          label_known = true;
          mine[k] -= own;
        }
      }
      const __m512 top = _mm512_set1_ps(row.top), colder = _mm512_set1_ps(row.colder);
      for (long i = 0; i < row.whole(); i += LANES) {
        const __m512 x = _mm512_sub_ps(load(row.logits + i), top);
        __m512 out = _mm512_mul_ps(_mm512_loadu_ps(&share[i]), _mm512_set1_ps(scale));
        if (wide) {
          const __m512 z = _mm512_fmadd_ps(x, colder, _mm512_set1_ps(lift));
          out = _mm512_fnmadd_ps(_mm512_set1_ps(pull), exponential(z), out);
        }
        if (labelled) {
          const __m512 p = exponential(_mm512_sub_ps(x, _mm512_set1_ps(plain_log)));
          out = _mm512_fmadd_ps(_mm512_set1_ps(own), p, out);
        }
        store(row.logits + i, out);
      }
      for (long i = row.whole(); i < V; ++i) row.put(i, beyond(i));
      for (long k = 0; k < K; ++k) row.put(row.known[k], mine[k]);
      if (labelled && !label_known) row.put(label, at_label);
    }
  }
}
}
