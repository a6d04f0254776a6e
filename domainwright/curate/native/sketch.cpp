// One-permutation MinHash and its candidates; `_sketch.py` and `_shingles.py` say what is computed
// and do the same in numpy. T texts, K bins, W words.
#include <algorithm>
#include <cstdint>
#include <cstring>
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
inline uint8_t letter(uint8_t b) {
  uint8_t low = b + (b >= 'A' && b <= 'Z' ? 32 : 0);
  return (low >= 'a' && low <= 'z') | (low >= '0' && low <= '9') | (low >= 0x80) ? low : 0;
}

struct Powers {
  uint64_t of[9];
  Powers() {
    of[0] = 1;
    for (int k = 1; k < 9; ++k) of[k] = of[k - 1] * BASE;
  }
};
const Powers POWERS;

// Of n letters, 1 to 8, what they add to a word's hash: products that do not wait for each other.
// Eight bytes are read. Little-endian machines only, as everywhere here.
inline uint64_t polynomial(const uint8_t* letters, int64_t n) {
  uint64_t eight, sum = 0;
  std::memcpy(&eight, letters, 8);
  eight = (eight + 0x0101010101010101ull) << (64 - 8 * n);  // no byte of UTF-8 is 255
  for (int k = 0; k < 8; ++k) sum += (eight >> (56 - 8 * k) & 0xFF) * POWERS.of[k];
  return sum;
}

// Bit k is set where byte k of eight is not 0.
inline uint64_t filled(const uint8_t* bytes) {
  const uint64_t LOW = 0x7F7F7F7F7F7F7F7Full;
  uint64_t eight;
  std::memcpy(&eight, bytes, 8);
  return ((((eight & LOW) + LOW) | eight) & ~LOW) / 128 * 0x0102040810204080ull >> 56;
}

// What is read of a text, and room to work in.
struct Reading {
  std::vector<uint8_t> letters;  // small ones, 0 where no word goes on, and zeros behind
  std::vector<int64_t> edges;    // where words begin and end, turn about
  std::vector<uint64_t> words;   // their hashes
};

void read_words(const uint8_t* text, int64_t bytes, Reading& found) {
  if (int64_t(found.letters.size()) < bytes + 128) found.letters.resize(bytes + 128);
  if (int64_t(found.edges.size()) < bytes + 2) found.edges.resize(bytes + 2);
  uint8_t* letters = found.letters.data();
  int64_t *edges = found.edges.data(), count = 0;
  for (int64_t at = 0; at < bytes; ++at) letters[at] = letter(text[at]);
  std::memset(letters + bytes, 0, 128);
  // No branch for each letter: where a word ends cannot be foretold.
  uint64_t before = 0;
  for (int64_t at = 0; at <= bytes; at += 64) {
    uint64_t in = 0;
    for (int k = 0; k < 64; k += 8) in |= filled(letters + at + k) << k;
    for (uint64_t edge = in ^ (in << 1 | before); edge; edge &= edge - 1)
      edges[count++] = at + __builtin_ctzll(edge);
    before = in >> 63;
  }
  found.words.clear();
  for (int64_t edge = 0; edge < count; edge += 2) {
    const uint8_t* word = letters + edges[edge];
    int64_t length = edges[edge + 1] - edges[edge], most = std::min(length, MOST_LETTERS);
    int64_t n = (most - 1) % 8 + 1;
    uint64_t hash = polynomial(word, n);
    for (; n < most; n += 8) hash = hash * POWERS.of[8] + polynomial(word + n, 8);
    found.words.push_back(mixed(hash + uint64_t(length)));
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
  auto said = [&](int64_t at) { return text[at] == '_' ? '_' : letter(text[at]); };
  auto joins = [&](int64_t at) {
    return text[at] == ',' && digit(at - 1) && digit(at + 1) && digit(at + 2) && digit(at + 3) &&
           !digit(at + 4);
  };
  std::vector<Word> found;
  for (int64_t at = 0; at < bytes;) {
    if (!said(at)) {
      ++at;
      continue;
    }
    uint64_t hash = 0, letters = 0;
    bool number = digit(at);
    for (; at < bytes && (said(at) || joins(at)); ++at)
      if (said(at)) {
        hash = hash * BASE + said(at) + 1;
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
  std::vector<uint8_t> plain;
  Reading reading;
  const Folds folds{fold_bounds, fold_bytes, F};
  for (int64_t t = 0; t < T; ++t) {
    const uint8_t* text = bytes + bounds[t];
    int64_t size = bounds[t + 1] - bounds[t];
    uint8_t all = 0;
    for (int64_t b = 0; b < size; ++b) all |= text[b];
    bool ascii = !F || all < 0x80;
    unread[t] = !ascii && !folded(text, size, folds, plain);
    if (unread[t]) continue;
    if (ascii) read_words(text, size, reading);
    else read_words(plain.data(), plain.size(), reading);
    const std::vector<uint64_t>& words = reading.words;
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

// keys (bands, T) from signatures (T, K): `_sketch.band_keys`.
void dw_band_keys(const uint32_t* signatures, int64_t T, int64_t K, int64_t band, uint64_t* keys,
                  int64_t stride) {
  const int64_t TILE = 64;
  for (int64_t begin = 0; begin < T; begin += TILE) {
    int64_t end = std::min(T, begin + TILE);
    for (int64_t b = 0; b < K / band; ++b)
      for (int64_t t = begin; t < end; ++t) {
        const uint32_t* row = signatures + t * K;
        uint64_t key = 0;
        for (int64_t k = b * band; k < (b + 1) * band; ++k) {
          key = (key ^ row[k]) * BASE;
          key ^= key >> 29;
        }
        keys[b * stride + t] = row[0] == EMPTY ? 0 : key | 1;
      }
  }
}

// For one band: the pairs of n rows with equal keys, rows rising; 0 is no key. Each row is paired
// with the `most` before it that have its key, and with the first; left out are pairs whose
// signatures (of all T rows, K entries) agree in fewer than `least`. Returns how many pairs there
// are: late * T + early, written to out while there is room.
int64_t dw_band_pairs(const uint64_t* keys, const int64_t* rows, int64_t n, int64_t T,
                      int64_t most, const uint32_t* signatures, int64_t K, int64_t least,
                      int64_t* out, int64_t room) {
  struct Keyed {
    uint64_t key;
    int64_t row;
  };
  // Buckets by the highest bits, about one row in each: what follows stays in the cache.
  int bits = 1;
  while (bits < 16 && (int64_t(1) << bits) < n) ++bits;
  std::vector<int64_t> end((size_t(1) << bits) + 1, 0);
  for (int64_t t = 0; t < n; ++t)
    if (keys[t]) ++end[(keys[t] >> (64 - bits)) + 1];
  for (size_t b = 1; b < end.size(); ++b) end[b] += end[b - 1];
  std::vector<Keyed> held(end.back());
  for (int64_t t = 0; t < n; ++t)
    if (keys[t]) held[end[keys[t] >> (64 - bits)]++] = {keys[t], rows[t]};

  int64_t count = 0;
  auto pair = [&](int64_t late, int64_t early) {
    if (least) {
      const uint32_t *a = signatures + late * K, *b = signatures + early * K;
      int32_t equal = 0;
      for (int64_t k = 0; k < K; ++k) equal += a[k] == b[k];
      if (equal < least) return;
    }
    if (count < room) out[count] = late * T + early;
    ++count;
  };
  int64_t begin = 0;
  for (size_t bucket = 0; bucket + 1 < end.size(); begin = end[bucket], ++bucket) {
    if (end[bucket] - begin < 2) continue;
    std::stable_sort(held.begin() + begin, held.begin() + end[bucket],
                     [](const Keyed& a, const Keyed& b) { return a.key < b.key; });
    int64_t first = begin;
    for (int64_t late = begin + 1; late < end[bucket]; ++late) {
      if (held[late].key != held[first].key) {
        first = late;
        continue;
      }
      int64_t last = std::max(first, late - most);
      for (int64_t early = late - 1; early >= last; --early) pair(held[late].row, held[early].row);
      if (last > first) pair(held[late].row, held[first].row);
    }
  }
  return count;
}

// Sort n numbers from 0 on and keep one of each; how many are left. other: room for n.
int64_t dw_distinct(int64_t* values, int64_t* other, int64_t n) {
  const int BITS = 11;
  int64_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, values[i]);
  int64_t *from = values, *to = other;
  for (int shift = 0; shift < 63 && most >> shift; shift += BITS) {
    int64_t place[1 << BITS] = {0}, sum = 0;
    for (int64_t i = 0; i < n; ++i) ++place[from[i] >> shift & ((1 << BITS) - 1)];
    for (int64_t& p : place) sum += std::exchange(p, sum);
    for (int64_t i = 0; i < n; ++i) to[place[from[i] >> shift & ((1 << BITS) - 1)]++] = from[i];
    std::swap(from, to);
  }
  return std::unique_copy(from, from + n, values) - values;
}
}
