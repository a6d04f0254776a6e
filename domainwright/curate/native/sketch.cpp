// One-permutation MinHash and its candidates; `_sketch.py` and `_shingles.py` say what is computed
// and do the same in numpy. T texts, K bins, W words.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

namespace {

const uint64_t BASE = 0x9E3779B97F4A7C15ull;
const uint32_t EMPTY = 0xFFFFFFFFu;
const int64_t MOST_LETTERS = 64;

inline uint64_t mixed(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9ull;
  v = (v ^ (v >> 27)) * 0x94D049BB133111EBull;
  return v ^ (v >> 31);
}

// A byte in lower case, or 0 where no word goes on.
struct Letters {
  uint8_t of[256];
  Letters() {
    for (int b = 0; b < 256; ++b) {
      int low = b >= 'A' && b <= 'Z' ? b + 32 : b;
      bool in = (low >= 'a' && low <= 'z') || (low >= '0' && low <= '9') || b >= 0x80;
      of[b] = in ? low : 0;
    }
  }
};
const Letters LETTERS;

void words_of(const uint8_t* text, int64_t bytes, std::vector<uint64_t>& found) {
  int64_t at = 0;
  while (at < bytes) {
    while (at < bytes && !LETTERS.of[text[at]]) ++at;
    if (at == bytes) break;
    uint64_t hash = 0;
    int64_t begin = at, most = std::min(bytes, begin + MOST_LETTERS);
    for (; at < most && LETTERS.of[text[at]]; ++at) hash = hash * BASE + LETTERS.of[text[at]] + 1;
    while (at < bytes && LETTERS.of[text[at]]) ++at;
    found.push_back(mixed(hash + uint64_t(at - begin)));
  }
}

// What characters beyond ASCII become, for those of two or three bytes: `_shingles.fold_table`.
struct Folds {
  const int32_t* bounds;  // of the characters from 0x80 on
  const uint8_t* bytes;
  int64_t count;
};
const int32_t UNKNOWN_FOLD = -1;

// The text in which words are looked for; false where Python has to fold it.
bool folded(const uint8_t* text, int64_t bytes, const Folds& folds, std::vector<uint8_t>& out) {
  out.clear();
  for (int64_t at = 0; at < bytes;) {
    int64_t begin = at;
    while (at < bytes && text[at] < 0x80) ++at;
    out.insert(out.end(), text + begin, text + at);
    if (at == bytes) break;
    int more = text[at] >= 0xF0 ? 3 : text[at] >= 0xE0 ? 2 : 1;
    if (more == 3 || at + more >= bytes) return false;
    int64_t point = text[at] & (0x3F >> more);
    for (int k = 1; k <= more; ++k) point = point << 6 | (text[at + k] & 0x3F);
    int64_t place = point - 0x80;
    if (place < 0 || place >= folds.count || folds.bounds[2 * place] == UNKNOWN_FOLD) return false;
    out.insert(out.end(), folds.bytes + folds.bounds[2 * place],
               folds.bytes + folds.bounds[2 * place + 1]);
    at += more + 1;
  }
  return true;
}

struct Word {
  uint64_t hash;
  bool number;  // begins with a digit
  bool operator==(const Word& other) const { return hash == other.hash; }
  bool operator<(const Word& other) const { return hash < other.hash; }
};

// Words of an ASCII text as `copies._words` has them: 130,000 is one.
std::vector<Word> said(const uint8_t* text, int64_t bytes) {
  auto digit = [&](int64_t at) {
    return at >= 0 && at < bytes && text[at] >= '0' && text[at] <= '9';
  };
  auto letter = [&](int64_t at) { return text[at] == '_' || LETTERS.of[text[at]]; };
  auto joins = [&](int64_t at) {
    return text[at] == ',' && digit(at - 1) && digit(at + 1) && digit(at + 2) && digit(at + 3) &&
           !digit(at + 4);
  };
  std::vector<Word> found;
  for (int64_t at = 0; at < bytes;) {
    if (!letter(at)) {
      ++at;
      continue;
    }
    uint64_t hash = 0, letters = 0;
    bool number = digit(at);
    for (; at < bytes && (letter(at) || joins(at)); ++at)
      if (letter(at)) {
        hash = hash * BASE + (text[at] == '_' ? '_' : LETTERS.of[text[at]]) + 1;
        ++letters;
      }
    found.push_back({mixed(hash + letters), number});
  }
  return found;
}

std::vector<uint64_t> runs_of(const std::vector<Word>& words, size_t each) {
  std::vector<uint64_t> found;
  for (size_t first = 0; first + each <= words.size(); ++first) {
    uint64_t hash = words[first].hash;
    for (size_t k = 1; k < each; ++k) hash = hash * BASE + words[first + k].hash;
    found.push_back(mixed(hash));
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

// Of two sorted lists of words: does a number stand more often in the first?
bool more_numbers(const std::vector<Word>& one, const std::vector<Word>& other) {
  auto there = other.begin();
  for (const Word& word : one) {
    while (there != other.end() && *there < word) ++there;
    if (there != other.end() && *there == word) ++there;
    else if (word.number) return true;
  }
  return false;
}

}  // namespace

extern "C" {

// What `copies.similarity` says of two ASCII texts; -1 for None.
double dw_similarity(const uint8_t* a, int64_t a_bytes, const uint8_t* b, int64_t b_bytes,
                     int64_t words_each, int64_t short_words, double short_share, double near) {
  std::vector<Word> left = said(a, a_bytes), right = said(b, b_bytes);
  if (left == right) return 1.0;
  if (int64_t(std::min(left.size(), right.size())) < short_words) {
    if (left.size() > right.size()) left.swap(right);
    double share = double(left.size()) / double(right.size());
    bool only_before =
        !left.empty() && std::equal(left.begin(), left.end(), right.end() - left.size());
    return only_before && share >= short_share ? share : -1.0;
  }
  std::vector<uint64_t> mine = runs_of(left, words_each), other = runs_of(right, words_each), both;
  std::set_intersection(mine.begin(), mine.end(), other.begin(), other.end(),
                        std::back_inserter(both));
  double share = double(both.size()) / double(mine.size() + other.size() - both.size());
  if (share < near) return -1.0;
  std::sort(left.begin(), left.end());
  std::sort(right.begin(), right.end());
  bool exchanged = more_numbers(left, right) && more_numbers(right, left);
  return left == right || exchanged ? -1.0 : share;
}

// bounds: T + 1 offsets into bytes. out (T, K) is filled. folds: of F characters; 0: the texts are
// folded. unread (T) is 1 for a text that Python has to fold.
void dw_sketch(const uint8_t* bytes, const int64_t* bounds, int64_t T, int64_t words_each,
               int64_t K, uint32_t* out, const int32_t* fold_bounds, const uint8_t* fold_bytes,
               int64_t F, uint8_t* unread) {
  std::vector<uint64_t> words;
  std::vector<uint8_t> plain;
  const Folds folds{fold_bounds, fold_bytes, F};
  for (int64_t t = 0; t < T; ++t) {
    words.clear();
    const uint8_t* text = bytes + bounds[t];
    int64_t size = bounds[t + 1] - bounds[t];
    bool ascii = !F || std::none_of(text, text + size, [](uint8_t b) { return b >= 0x80; });
    unread[t] = !ascii && !folded(text, size, folds, plain);
    if (unread[t]) continue;
    if (ascii) words_of(text, size, words);
    else words_of(plain.data(), plain.size(), words);
    uint32_t* row = out + t * K;
    std::fill(row, row + K, EMPTY);
    int64_t W = words.size(), runs = W == 0 ? 0 : std::max<int64_t>(W - words_each + 1, 1);
    for (int64_t first = 0; first < runs; ++first) {
      uint64_t hash = words[first];
      for (int64_t k = 1; k < words_each && first + k < W; ++k)
        hash = hash * BASE + words[first + k];
      hash = mixed(hash);
      uint64_t bin = ((hash >> 32) * uint64_t(K)) >> 32;
      row[bin] = std::min(row[bin], uint32_t(hash & 0x7FFFFFFFu));
    }
    if (!runs) continue;
    // From the right: an empty bin takes the nearest filled one's entry, beyond the last that of
    // the first.
    int64_t first = 0;
    while (row[first] == EMPTY) ++first;
    uint32_t entry = row[first];
    int64_t nearest = first + K;
    for (int64_t place = K - 1; place >= 0; --place) {
      if (row[place] != EMPTY) {
        nearest = place;
        entry = row[place];
      } else {
        row[place] = entry + uint32_t(nearest - place) * 0x9E3779B1u;
      }
    }
  }
}

// equal (Q): in how many of the K entries the two rows of each pair agree.
void dw_agreement(const uint32_t* signatures, const int64_t* pairs, int64_t Q, int64_t K,
                  int32_t* equal) {
  for (int64_t q = 0; q < Q; ++q) {
    const uint32_t* a = signatures + pairs[2 * q] * K;
    const uint32_t* b = signatures + pairs[2 * q + 1] * K;
    int32_t count = 0;
    for (int64_t k = 0; k < K; ++k) count += a[k] == b[k];
    equal[q] = count;
  }
}

// For one band: n keys with their rows, equal keys near each other: the highest BITS of the key
// rise. Rows of equal keys, in the order given, become pairs: each with the `most` before it, and
// with the first. Returns how many pairs (late, early) there are; they are written to out while
// there is room for them.
int64_t dw_band_pairs(const uint64_t* keys, const int64_t* rows, int64_t n, int64_t bits,
                      int64_t most, int64_t* out, int64_t room) {
  std::vector<std::pair<uint64_t, int64_t>> bucket;
  int64_t count = 0;
  for (int64_t begin = 0, end; begin < n; begin = end) {
    bucket.clear();
    for (end = begin; end < n && keys[end] >> (64 - bits) == keys[begin] >> (64 - bits); ++end)
      bucket.emplace_back(keys[end], rows[end]);
    if (end - begin == 1) continue;
    std::stable_sort(bucket.begin(), bucket.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    int64_t first = 0;
    for (int64_t late = 1; late < int64_t(bucket.size()); ++late) {
      if (bucket[late].first != bucket[first].first) {
        first = late;
        continue;
      }
      int64_t last = std::max(first, late - most);
      for (int64_t early = late - 1; early >= last; --early, ++count)
        if (count < room) out[2 * count] = bucket[late].second, out[2 * count + 1] = bucket[early].second;
      if (last == first) continue;
      if (count < room) out[2 * count] = bucket[late].second, out[2 * count + 1] = bucket[first].second;
      ++count;
    }
  }
  return count;
}
}
