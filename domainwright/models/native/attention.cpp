// Causal attention over packed documents, forward and backward, bfloat16 with float32 sums.
//
// A segment attends to its ancestors whole and to itself causally. All key rows that a segment
// sees are gathered into packed panels once per key/value head, so that every product is the
// same register tile. A thread takes one (segment, key/value head) at a time.
//
// Dimension key: T tokens, S keys a segment sees, P of them of ancestors, h head size.
#include "common.h"

namespace {

struct View {  // (token, head) -> row of h numbers
  const bf16* data;
  long row, head;
  const bf16* at(long t, long a) const { return data + t * row + a * head; }
};

struct Batch {
  long segments, heads, key_heads, size, window;
  float scale;
  const long *start, *end, *first_ancestor, *ancestors;

  long own(long s) const { return end[s] - start[s]; }

  long before(long s) const {
    long sum = 0;
    for (long i = first_ancestor[s]; i < first_ancestor[s + 1]; ++i) sum += own(ancestors[i]);
    return sum;
  }

  // Token of every key that segment `s` sees, in the order of its positions.
  void keys(long s, std::vector<long>& tokens) const {
    tokens.clear();
    for (long i = first_ancestor[s]; i < first_ancestor[s + 1]; ++i)
      for (long t = start[ancestors[i]]; t < end[ancestors[i]]; ++t) tokens.push_back(t);
    for (long t = start[s]; t < end[s]; ++t) tokens.push_back(t);
  }

  long lowest(long seen) const { return window > 0 ? std::max(0L, seen - window) : 0; }

  // Longest tasks first, so that no thread starts a long one when the others are done.
  std::vector<long> order() const {
    std::vector<long> order(segments);
    std::vector<long> cost(segments);
    for (long s = 0; s < segments; ++s) {
      order[s] = s;
      cost[s] = own(s) * (before(s) + own(s));
    }
    std::stable_sort(order.begin(), order.end(), [&](long a, long b) { return cost[a] > cost[b]; });
    return order;
  }
};

// Rows as columns, pairs along h: out[k][j] = (row_j[2k], row_j[2k+1]).
void pack_columns(const View& rows, long head, const std::vector<long>& tokens, long size,
                  long width, pair* out) {
  const long count = tokens.size();
  for (long j = 0; j < count; ++j) {
    const pair* row = (const pair*)rows.at(tokens[j], head);
    for (long k = 0; k < size / 2; ++k) out[k * width + j] = row[k];
  }
  for (long k = 0; k < size / 2; ++k)
    std::memset(out + k * width + count, 0, (width - count) * sizeof(pair));
}

// Pairs along the rows: out[k][i] = (row_2k[i], row_2k+1[i]); an odd end is paired with zeros.
template <class Row>
void pack_rows(long count, long size, pair* out, Row row) {
  for (long k = 0; k < (count + 1) / 2; ++k) {
    const bf16* even = row(2 * k);
    const bf16* odd = 2 * k + 1 < count ? row(2 * k + 1) : nullptr;
    for (long i = 0; i < size; i += LANES) {
      const __m256i a = _mm256_loadu_si256((const __m256i*)(even + i));
      const __m256i b = odd ? _mm256_loadu_si256((const __m256i*)(odd + i)) : _mm256_setzero_si256();
      _mm512_storeu_si512(out + k * size + i, paired(a, b));
    }
  }
}

// Softmax of scale · scores over [low, seen), in place; returns log Σ exp.
float softmax(float* score, long low, long seen, float scale) {
  __m512 top = _mm512_set1_ps(-INFINITY);
  const auto mask = [&](long j) {
    __mmask16 on = 0xffff;
    if (j + LANES > seen) on &= (__mmask16)((1u << (seen - j)) - 1);
    if (j < low) on &= (__mmask16)(0xffffu << std::min(LANES, low - j));
    return on;
  };
  const long from = low / LANES * LANES;
  for (long j = from; j < seen; j += LANES)
    top = _mm512_mask_max_ps(top, mask(j), top, _mm512_loadu_ps(score + j));
  const float most = _mm512_reduce_max_ps(top) * scale;
  __m512 total = _mm512_setzero_ps();
  for (long j = from; j < seen; j += LANES) {
    const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(score + j), _mm512_set1_ps(scale),
                                     _mm512_set1_ps(most));
    const __m512 e = _mm512_maskz_mov_ps(mask(j), exponential(x));
    total = _mm512_add_ps(total, e);
    _mm512_storeu_ps(score + j, e);
  }
  const float sum = _mm512_reduce_add_ps(total);
  const __m512 share = _mm512_set1_ps(1.0f / sum);
  for (long j = from; j < seen; j += LANES)
    _mm512_storeu_ps(score + j, _mm512_mul_ps(_mm512_loadu_ps(score + j), share));
  return most + std::log(sum);
}

constexpr long BLOCK = 60;  // query rows at a time: ten tiles, and an even number

// Products of a block of rows with every key it sees. Column by column: a panel of 64 keys stays in
// the first cache while all rows of the block pass it.
void scores(const View& rows, long head, long first, long count, long before, const pair* columns,
            long width, long size, float* out) {
  const long last = round_up(before + count, LANES);
  for (long j = 0; j < last; j += 64)
    for (long r = 0; r < count; r += TILE_ROWS) {
      const int few = (int)std::min<long>(TILE_ROWS, count - r);
      const long stop = std::min(j + 64, round_up(before + r + few, LANES));
      if (stop > j)
        strip(few, stop - j, (const pair*)rows.at(first + r, head), rows.row / 2, 1, columns + j,
              width, size / 2, out + r * width + j, width, false);
    }
}

struct ForwardScratch {
  std::vector<long> tokens;
  std::vector<pair> keys, values;
  std::vector<float> score, out;
  std::vector<bf16> weight;
};

void forward_task(const Batch& b, const View& q, const View& k, const View& v, bf16* out,
                  float* normaliser, long total, long s, long kv, ForwardScratch& my) {
  const long P = b.before(s), S = P + b.own(s), h = b.size, width = round_up(S, LANES);
  b.keys(s, my.tokens);
  my.keys.resize(h / 2 * width);
  my.values.resize((S + 1) / 2 * h);
  my.score.resize(BLOCK * width);
  my.weight.resize(TILE_ROWS * width);
  my.out.resize(TILE_ROWS * h);
  pack_columns(k, kv, my.tokens, h, width, my.keys.data());
  pack_rows(S, h, my.values.data(), [&](long j) { return v.at(my.tokens[j], kv); });
  const long group = b.heads / b.key_heads;
  for (long head = kv * group; head < (kv + 1) * group; ++head)
    for (long i = 0; i < b.own(s); i += BLOCK) {
      const long count = std::min(BLOCK, b.own(s) - i), first = b.start[s] + i;
      scores(q, head, first, count, P + i, my.keys.data(), width, h, my.score.data());
      for (long r = 0; r < count; r += TILE_ROWS) {
        const int rows = (int)std::min<long>(TILE_ROWS, count - r);
        const long most = P + i + r + rows, columns = round_up(most, LANES);
        for (int m = 0; m < rows; ++m) {
          const long seen = P + i + r + m + 1, low = b.lowest(seen);
          float* score = &my.score[(r + m) * width];
          normaliser[head * total + first + r + m] = softmax(score, low, seen, b.scale);
          bf16* weight = &my.weight[m * width];
          const long from = low / LANES * LANES, stop = round_up(seen, LANES);
          std::memset(weight, 0, from * sizeof(bf16));
          for (long j = from; j < stop; j += LANES) store(weight + j, _mm512_loadu_ps(score + j));
          std::memset(weight + stop, 0, (columns - stop) * sizeof(bf16));
        }
        strip(rows, h, (const pair*)my.weight.data(), width / 2, 1, my.values.data(), h,
              (most + 1) / 2, my.out.data(), h, false);
        for (int m = 0; m < rows; ++m)
          for (long c = 0; c < h; c += LANES)
            store(out + ((first + r + m) * b.heads + head) * h + c,
                  _mm512_loadu_ps(&my.out[m * h + c]));
      }
    }
}

struct BackwardScratch {
  std::vector<long> tokens;
  std::vector<pair> key_columns, value_columns, key_rows, query_rows, pull_rows, weight_pairs,
      change_pairs;
  std::vector<float> score, pull, query_out, key_sum, value_sum;
  std::vector<bf16> change;
};

struct Gradients {
  bf16 *q, *k, *v;
  long q_row, q_head, k_row, k_head;
  float *key_sums, *value_sums;  // (key_heads, T, h), only where segments have ancestors
  float* lent;                   // what each segment adds to its ancestors' rows
  const long* lent_at;           // offset of each segment's part in rows
};

// Weights and score gradients of one block of query rows, in the three forms that are needed.
void backward_block(const Batch& b, const View& q, const View& o, const View& pull,
                    const float* normaliser, long total, long s, long head, long i, long count,
                    long P, long width, BackwardScratch& my) {
  const long h = b.size, block_columns = round_up(P + i + count, LANES);
  const long first = b.start[s] + i;
  scores(q, head, first, count, P + i, my.key_columns.data(), width, h, my.score.data());
  scores(pull, head, first, count, P + i, my.value_columns.data(), width, h, my.pull.data());
  for (long r = 0; r < count; r += 2) {
    float shift[2] = {0, 0}, dot[2] = {0, 0};
    long seen[2] = {0, 0};
    const int rows = r + 1 < count ? 2 : 1;
    for (int m = 0; m < rows; ++m) {
      const long t = b.start[s] + i + r + m;
      shift[m] = normaliser[head * total + t];
      __m512 sum = _mm512_setzero_ps();
      for (long c = 0; c < h; c += LANES)
        sum = _mm512_fmadd_ps(load(o.at(t, head) + c), load(pull.at(t, head) + c), sum);
      dot[m] = _mm512_reduce_add_ps(sum);
      seen[m] = P + i + r + m + 1;
    }
    for (long j = 0; j < block_columns; j += LANES) {
      __m256i weight[2], change[2];
      for (int m = 0; m < 2; ++m) {
        weight[m] = change[m] = _mm256_setzero_si256();
        const long low = m < rows ? b.lowest(seen[m]) : 0;
        if (m < rows && j < seen[m] && j + LANES > low) {
          __mmask16 on = 0xffff;
          if (j + LANES > seen[m]) on &= (__mmask16)((1u << (seen[m] - j)) - 1);
          if (j < low) on &= (__mmask16)(0xffffu << (low - j));
          const float* score = &my.score[(r + m) * width + j];
          const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(score), _mm512_set1_ps(b.scale),
                                           _mm512_set1_ps(shift[m]));
          const __m512 p = _mm512_maskz_mov_ps(on, exponential(x));
          const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(&my.pull[(r + m) * width + j]),
                                         _mm512_set1_ps(dot[m]));
          weight[m] = rounded(p);
          change[m] = rounded(_mm512_maskz_mul_ps(
              on, _mm512_mul_ps(p, d), _mm512_set1_ps(b.scale)));
        }
        if (m < rows) _mm256_storeu_si256((__m256i*)&my.change[(r + m) * width + j], change[m]);
      }
      _mm512_storeu_si512(&my.weight_pairs[r / 2 * width + j], paired(weight[0], weight[1]));
      _mm512_storeu_si512(&my.change_pairs[r / 2 * width + j], paired(change[0], change[1]));
    }
  }
}

void backward_task(const Batch& b, const View& q, const View& k, const View& v, const View& o,
                   const View& pull, const float* normaliser, long total, const Gradients& g,
                   long s, long kv, BackwardScratch& my) {
  const long P = b.before(s), own = b.own(s), S = P + own, h = b.size;
  const long width = round_up(S, LANES);
  b.keys(s, my.tokens);
  my.key_columns.resize(h / 2 * width);
  my.value_columns.resize(h / 2 * width);
  my.key_rows.resize((S + 1) / 2 * h);
  my.query_rows.resize(BLOCK / 2 * h);
  my.pull_rows.resize(BLOCK / 2 * h);
  my.weight_pairs.resize(BLOCK / 2 * width);
  my.change_pairs.resize(BLOCK / 2 * width);
  my.change.resize(BLOCK * width);
  my.score.resize(BLOCK * width);
  my.pull.resize(BLOCK * width);
  my.query_out.resize(TILE_ROWS * h);
  my.key_sum.assign(S * h, 0.0f);
  my.value_sum.assign(S * h, 0.0f);
  pack_columns(k, kv, my.tokens, h, width, my.key_columns.data());
  pack_columns(v, kv, my.tokens, h, width, my.value_columns.data());
  pack_rows(S, h, my.key_rows.data(), [&](long j) { return k.at(my.tokens[j], kv); });
  const long group = b.heads / b.key_heads;
  for (long head = kv * group; head < (kv + 1) * group; ++head)
    for (long i = 0; i < own; i += BLOCK) {
      const long count = std::min(BLOCK, own - i), most = P + i + count, first = b.start[s] + i;
      backward_block(b, q, o, pull, normaliser, total, s, head, i, count, P, width, my);
      pack_rows(count, h, my.query_rows.data(), [&](long r) { return q.at(first + r, head); });
      pack_rows(count, h, my.pull_rows.data(), [&](long r) { return pull.at(first + r, head); });
      for (long j = 0; j < most; j += TILE_ROWS) {
        const int rows = (int)std::min<long>(TILE_ROWS, most - j);
        // Query rows before key j do not see it.
        const long skip = std::max(0L, (j - P - i) / 2), depth = (count + 1) / 2 - skip;
        strip(rows, h, &my.weight_pairs[skip * width + j], 1, width, &my.pull_rows[skip * h], h,
              depth, &my.value_sum[j * h], h, true);
        strip(rows, h, &my.change_pairs[skip * width + j], 1, width, &my.query_rows[skip * h], h,
              depth, &my.key_sum[j * h], h, true);
      }
      for (long r = 0; r < count; r += TILE_ROWS) {
        const int rows = (int)std::min<long>(TILE_ROWS, count - r);
        strip(rows, h, (const pair*)&my.change[r * width], width / 2, 1, my.key_rows.data(), h,
              (P + i + r + rows + 1) / 2, my.query_out.data(), h, false);
        for (int m = 0; m < rows; ++m)
          for (long c = 0; c < h; c += LANES)
            store(g.q + (first + r + m) * g.q_row + head * g.q_head + c,
                  _mm512_loadu_ps(&my.query_out[m * h + c]));
      }
    }
  if (g.key_sums == nullptr) {
    for (long j = 0; j < S; ++j)
      for (long c = 0; c < h; c += LANES) {
        const long at = my.tokens[j] * g.k_row + kv * g.k_head + c;
        store(g.k + at, _mm512_loadu_ps(&my.key_sum[j * h + c]));
        store(g.v + at, _mm512_loadu_ps(&my.value_sum[j * h + c]));
      }
    return;
  }
  const long at = (kv * total + b.start[s]) * h;
  std::memcpy(g.key_sums + at, &my.key_sum[P * h], own * h * sizeof(float));
  std::memcpy(g.value_sums + at, &my.value_sum[P * h], own * h * sizeof(float));
  float* lent = g.lent + 2 * (g.lent_at[s] * b.key_heads + kv * P) * h;
  std::memcpy(lent, my.key_sum.data(), P * h * sizeof(float));
  std::memcpy(lent + P * h, my.value_sum.data(), P * h * sizeof(float));
}

// Adds what descendants lent to the rows of one key/value head, in the order of the segments: the
// sum does not depend on which thread finished first.
void settle(const Batch& b, const Gradients& g, long total, long kv) {
  const long h = b.size;
  for (long s = 0; s < b.segments; ++s) {
    const long P = b.before(s);
    const float* lent = g.lent + 2 * (g.lent_at[s] * b.key_heads + kv * P) * h;
    for (long i = b.first_ancestor[s]; i < b.first_ancestor[s + 1]; ++i) {
      const long a = b.ancestors[i], count = b.own(a) * h, at = (kv * total + b.start[a]) * h;
      for (long c = 0; c < count; ++c) g.key_sums[at + c] += lent[c];
      for (long c = 0; c < count; ++c) g.value_sums[at + c] += lent[P * h + c];
      lent += count;
    }
  }
  for (long t = 0; t < total; ++t)
    for (long c = 0; c < h; c += LANES) {
      const long at = t * g.k_row + kv * g.k_head + c;
      store(g.k + at, _mm512_loadu_ps(g.key_sums + (kv * total + t) * h + c));
      store(g.v + at, _mm512_loadu_ps(g.value_sums + (kv * total + t) * h + c));
    }
}

struct DecodeScratch {
  std::vector<float> score;
};

// One query token of one row: each key and value is read once for all heads that share it.
void decode_task(const bf16* q, const bf16* keys, const bf16* values, long row, long seen,
                 long group, long h, float scale, bf16* out, DecodeScratch& my) {
  const long width = round_up(seen, LANES);
  my.score.resize(group * width);
  for (long j = 0; j < seen; ++j)
    for (long g = 0; g < group; ++g) {
      __m512 sum = _mm512_setzero_ps();
      for (long c = 0; c < h; c += 2 * LANES)
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(keys + j * row + c),
                               (__m512bh)_mm512_loadu_si512(q + g * h + c));
      my.score[g * width + j] = _mm512_reduce_add_ps(sum);
    }
  for (long g = 0; g < group; ++g) softmax(&my.score[g * width], 0, seen, scale);
  for (long c = 0; c < h; c += 2 * LANES)
    for (long g = 0; g < group; g += 4) {
      const int heads = (int)std::min(4L, group - g);
      __m512 sum[4][2];
      for (int m = 0; m < 4; ++m) sum[m][0] = sum[m][1] = _mm512_setzero_ps();
      for (long j = 0; j < seen; ++j) {
        const __m512 low = load(values + j * row + c), high = load(values + j * row + c + LANES);
        for (int m = 0; m < heads; ++m) {
          const __m512 weight = _mm512_set1_ps(my.score[(g + m) * width + j]);
          sum[m][0] = _mm512_fmadd_ps(weight, low, sum[m][0]);
          sum[m][1] = _mm512_fmadd_ps(weight, high, sum[m][1]);
        }
      }
      for (int m = 0; m < heads; ++m) {
        store(out + (g + m) * h + c, sum[m][0]);
        store(out + (g + m) * h + c + LANES, sum[m][1]);
      }
    }
}

}  // namespace

extern "C" {

// One token of each of B rows. shape: B, heads, key heads, head size (a multiple of 32), window,
// column: the last one seen. strides: q row, then row, head and column of keys and values alike.
// begins: the first column of each row. out: (B, heads, h).
void dw_attention_decode(const long* shape, const long* strides, float scale, const long* begins,
                         const bf16* q, const bf16* keys, const bf16* values, bf16* out) {
  const long rows = shape[0], heads = shape[1], key_heads = shape[2], h = shape[3];
  const long window = shape[4], end = shape[5] + 1, group = heads / key_heads;
#pragma omp parallel
  {
    static thread_local DecodeScratch mine;
#pragma omp for schedule(dynamic, 1)
    for (long task = 0; task < rows * key_heads; ++task) {
      const long b = task / key_heads, kv = task % key_heads;
      const long begin = window > 0 ? std::max(begins[b], end - window) : begins[b];
      const long at = b * strides[1] + kv * strides[2] + begin * strides[3];
      decode_task(q + b * strides[0] + kv * group * h, keys + at, values + at, strides[3],
                  end - begin, group, h, scale, out + (b * heads + kv * group) * h, mine);
    }
  }
}

// shape: segments, heads, key heads, head size, window (0: none), T.
// strides: q row, q head, k row, k head, v row, v head. out: (T, heads, h). normaliser: (heads, T).
void dw_attention_forward(const long* shape, const long* strides, float scale, const long* segments,
                          const bf16* q, const bf16* k, const bf16* v, bf16* out,
                          float* normaliser) {
  const long n = shape[0], total = shape[5];
  const Batch b{n, shape[1], shape[2], shape[3], shape[4], scale,
                segments, segments + n, segments + 2 * n, segments + 3 * n + 1};
  const View Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
  const std::vector<long> order = b.order();
#pragma omp parallel
  {
    static thread_local ForwardScratch mine;
#pragma omp for schedule(dynamic, 1)
    for (long task = 0; task < n * b.key_heads; ++task)
      forward_task(b, Q, K, V, out, normaliser, total, order[task / b.key_heads],
                   task % b.key_heads, mine);
  }
}

// The gradients' strides follow: grad q row, head; grad k and v row, head. `pull` is the gradient
// of out, with out's layout. `room` holds the float32 sums where segments have ancestors: twice
// (key heads · T · h), then twice (key heads · Σ P · h); else null.
void dw_attention_backward(const long* shape, const long* strides, float scale,
                           const long* segments, const bf16* q, const bf16* k, const bf16* v,
                           const bf16* out, const bf16* pull, const float* normaliser,
                           bf16* grad_q, bf16* grad_k, bf16* grad_v, float* room) {
  const long n = shape[0], h = shape[3], total = shape[5];
  const Batch b{n, shape[1], shape[2], h, shape[4], scale,
                segments, segments + n, segments + 2 * n, segments + 3 * n + 1};
  const View Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
  const View O{out, b.heads * h, h}, D{pull, b.heads * h, h};
  std::vector<long> lent_at(n, 0);
  for (long s = 1; s < n; ++s) lent_at[s] = lent_at[s - 1] + b.before(s - 1);
  const long sums = b.key_heads * total * h;
  const Gradients g{grad_q, grad_k, grad_v, strides[6], strides[7], strides[8], strides[9], room,
                    room ? room + sums : nullptr, room ? room + 2 * sums : nullptr,
                    lent_at.data()};
  const std::vector<long> order = b.order();
#pragma omp parallel
  {
    static thread_local BackwardScratch mine;
#pragma omp for schedule(dynamic, 1)
    for (long task = 0; task < n * b.key_heads; ++task)
      backward_task(b, Q, K, V, O, D, normaliser, total, g, order[task / b.key_heads],
                    task % b.key_heads, mine);
#pragma omp for schedule(dynamic, 1)
    for (long kv = 0; kv < (room ? b.key_heads : 0); ++kv) settle(b, g, total, kv);
  }
}
}
