// One look over texts before the filters have theirs: `_glance.py` says what each fact means. A
// fact may be too careful ("look at it"), never too bold. T texts, R rows of one text or more.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

enum Bit : int32_t {
  STRANGE = 1, BROKEN = 2, MARKUP = 4, FURNITURE = 8, WORDLESS = 16, PERSONAL = 32
};
enum Fact { BITS, TOKENS, DIFFERENT, UNKNOWN, UNKNOWN_LONG, LONG, FUNCTION, WORDS, FACTS };
const int64_t LANGUAGE_CHARS = 2000, LARGEST = 1 << 20;
const uint64_t BASE = 0x9E3779B97F4A7C15ull;

inline bool digit(uint8_t b) { return b >= '0' && b <= '9'; }
inline bool upper(uint8_t b) { return b >= 'A' && b <= 'Z'; }
inline bool letter(uint8_t b) { return uint8_t((b | 32) - 'a') < 26; }
inline bool alnum(uint8_t b) { return digit(b) || letter(b); }
inline uint8_t low(uint8_t b) { return upper(b) ? b + 32 : b; }

inline uint64_t mixed(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9ull;
  v = (v ^ (v >> 27)) * 0x94D049BB133111EBull;
  v ^= v >> 31;
  return v ? v : 1;  // 0 is an empty place
}

// Hashes in places of their own; at most half of the places are filled.
struct Set {
  std::vector<uint64_t> place = std::vector<uint64_t>(1024);
  size_t count = 0;

  bool has(uint64_t hash) const {
    for (size_t at = hash & (place.size() - 1);; at = (at + 1) & (place.size() - 1)) {
      if (place[at] == hash) return true;
      if (!place[at]) return false;
    }
  }
  void put(uint64_t hash) {
    size_t at = hash & (place.size() - 1);
    while (place[at] && place[at] != hash) at = (at + 1) & (place.size() - 1);
    if (place[at]) return;
    place[at] = hash;
    if (2 * ++count < place.size()) return;
    std::vector<uint64_t> old(2 * place.size());
    old.swap(place);
    count = 0;
    for (uint64_t own : old)
      if (own) put(own);
  }
};

// How many of the hashes given since `clear` were different.
struct Different {
  std::vector<uint64_t> place;
  std::vector<uint32_t> round;
  uint32_t now = 0;
  int32_t count = 0;

  void clear(int64_t most) {
    size_t wanted = 64;
    while (wanted < size_t(2 * most)) wanted *= 2;
    if (place.size() < wanted || ++now == 0)
      place.assign(wanted, 0), round.assign(wanted, 0), now = 1;
    count = 0;
  }
  void add(uint64_t hash) {
    size_t at = hash & (place.size() - 1);
    for (; round[at] == now; at = (at + 1) & (place.size() - 1))
      if (place[at] == hash) return;
    place[at] = hash, round[at] = now, ++count;
  }
};

struct Glance {
  Set plain, function_words;
  size_t most;
  Different different;
};

uint64_t hash_of(const uint8_t* text, int64_t bytes, bool lower = false) {
  uint64_t hash = 0;
  for (int64_t i = 0; i < bytes; ++i) hash = hash * BASE + (lower ? low(text[i]) : text[i]) + 1;
  return mixed(hash + uint64_t(bytes));
}

// The character at a byte of at least 0x80, and its length; 0 where the bytes are none.
struct Character {
  uint32_t point = 0;
  int length = 1;
  Character(const uint8_t* at, const uint8_t* end) {
    int more = *at >= 0xF0 ? 3 : *at >= 0xE0 ? 2 : *at >= 0xC0 ? 1 : 0;
    if (!more || end - at <= more) return;
    length = more + 1;
    point = *at & (0x3F >> more);
    for (int k = 1; k <= more; ++k) point = point << 6 | (at[k] & 0x3F);
  }
  // Letters and signs of European text. Everything else has rules that are not known here: other
  // digits, marks that combine, capitals that are two letters in lower case.
  bool usual() const {
    if (point == 0x130 || point == 0x17F || point == 0x212A) return false;
    return (point >= 0xA0 && point < 0x250) || (point >= 0x370 && point < 0x400) ||
           (point >= 0x2000 && point < 0x2300) || (point >= 0x2500 && point < 0x2600);
  }
  bool space() const {
    return point == 0xA0 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 ||
           point == 0x2029 || point == 0x202F || point == 0x205F;
  }
  bool mark() const { return point >= 0x2000 && point < 0x2070; }
};

inline bool space(uint8_t b) { return b == ' ' || (b >= 9 && b <= 13) || (b >= 28 && b <= 31); }

// ---- Words of a token, for the language ------------------------------------------------------

struct Counted {
  int32_t function = 0, words = 0;
};

// At least so many function words, at most so many words.
Counted counted(const Glance& g, const uint8_t* token, int64_t bytes) {
  auto joins = [](uint8_t b) { return alnum(b) || b == '_' || (b && std::strchr("#$%&*@", b)); };
  Counted found;
  for (int64_t i = 0; i < bytes;) {
    if (token[i] >= 0x80) {
      Character c(token + i, token + bytes);
      found.words += !c.mark();
      i += c.length;
      continue;
    }
    if (!letter(token[i])) {
      ++i;
      continue;
    }
    int64_t begin = i;
    while (i < bytes && letter(token[i])) ++i;
    if ((begin && joins(token[begin - 1])) || (i < bytes && joins(token[i]))) continue;
    ++found.words;
    bool sure = i == bytes || token[i] < 0x80 || Character(token + i, token + bytes).mark();
    // The last byte of a character tells little: of U+2000 to U+206F the first two are E2 80 or 81.
    if (begin && token[begin - 1] >= 0x80)
      sure &= begin >= 3 && token[begin - 3] == 0xE2 && (token[begin - 2] & 0xFE) == 0x80 &&
              (token[begin - 2] == 0x80 || token[begin - 1] < 0xB0);
    if (sure) found.function += g.function_words.has(hash_of(token + begin, i - begin, true));
  }
  return found;
}

struct Long {
  int32_t least = 0, most = 0;
};

// Words of three letters or more in a token. What is beyond ASCII may be a letter, or part two.
Long long_words(const uint8_t* token, int64_t bytes) {
  Long found;
  int64_t length = 0;
  bool plain = true;
  for (int64_t i = 0; i <= bytes;) {
    Character c(token + std::min(i, bytes - 1), token + bytes);
    bool beyond = i < bytes && token[i] >= 0x80 && !c.mark();
    if (beyond || (i < bytes && letter(token[i]))) {
      ++length, plain &= !beyond;
    } else {
      if (length >= 3) found.least += plain, found.most += plain ? 1 : (length + 1) / 4;
      length = 0, plain = true;
    }
    i += i < bytes && token[i] >= 0x80 ? c.length : 1;
  }
  return found;
}

// ---- Signs of personal data, and of the furniture of pages -----------------------------------

bool said(const uint8_t* at, const uint8_t* end, const char* word) {
  for (; *word; ++word, ++at)
    if (at == end || low(*at) != uint8_t(*word)) return false;
  return true;
}

// Behind a word such as "account": "no.", "id", "#", ":", "is".
bool numbered(const uint8_t* at, const uint8_t* end) {
  if (at < end && *at == '.') ++at;
  if (at < end && space(*at)) ++at;
  if (at == end) return false;
  if (*at >= 0x80 || *at == '#' || *at == ':' || *at == '=') return true;
  for (const char* word : {"is", "id", "no", "nu"})
    if (said(at, end, word)) return true;
  return false;
}

// Words that must stand where something is found, by their first letter.
enum Kind { NUMBERED, NUMBER, BIRTH, CALL, FURNITURE_WORD };
struct Said {
  const char* text;
  Kind kind;
};
struct Sayings {
  std::vector<Said> of[26];
  Sayings() {
    for (const char* text : {"account", "acct", "routing", "sort code", "policy", "member", "case",
                             "docket", "matter", "file", "medical record", "patient", "chart",
                             "hospital"})
      put({text, NUMBERED});
    for (const char* text : {"mrn", "passport", "driver"}) put({text, NUMBER});
    for (const char* text : {"date of birth", "birthdate", "birth date", "dob", "d.o", "do.b"})
      put({text, BIRTH});
    for (const char* text : {"phone", "tel", "mobile", "cell", "fax", "call"}) put({text, CALL});
    for (const char* text : {"skip to", "all rights", "cookie", "preferences", "newsletter",
                             "updates", "mailing list", "share ", "follow us", "back to top",
                             "click here", "print this", "log in", "login", "javascript",
                             "advertisement", "loading...", "read more", "see also",
                             "related article", "table of contents", "copyright"})
      put({text, FURNITURE_WORD});
  }
  void put(Said own) { of[*own.text - 'a'].push_back(own); }
};
const Sayings SAYINGS;

struct Named {
  bool number = false, birth = false, call = false, furniture = false;
};

// What the word that begins here says.
inline void named(const uint8_t* at, const uint8_t* end, Named& found) {
  for (const Said& own : SAYINGS.of[low(*at) - 'a']) {
    if (!said(at, end, own.text)) continue;
    if (own.kind == NUMBERED) found.number |= numbered(at + std::strlen(own.text), end);
    found.number |= own.kind == NUMBER;
    found.birth |= own.kind == BIRTH;
    found.call |= own.kind == CALL;
    found.furniture |= own.kind == FURNITURE_WORD;
  }
}

const char* const STREETS[] = {
    "Street", "St", "Avenue", "Ave", "Road", "Rd", "Lane", "Ln", "Drive", "Dr", "Boulevard",
    "Blvd", "Court", "Ct", "Place", "Pl", "Way", "Terrace", "Ter", "Circle", "Cir", "Parkway",
    "Pkwy", "Square", "Sq", "Highway", "Hwy", "Trail", "Crescent", "Close", "Mews", "Row", "Alley"};

// Behind the digits of a house number: words with capitals, one of them "Road".
bool street(const uint8_t* at, const uint8_t* end) {
  if (at < end && upper(*at)) ++at;
  for (int word = 0; word < 7; ++word) {
    if (end - at < 3 || *at != ' ' || !upper(at[1])) return false;
    const uint8_t* begin = ++at;
    while (at < end && (letter(*at) || *at >= 0x80)) ++at;
    for (const char* name : STREETS)
      if (word && at - begin == int64_t(std::strlen(name)) && !std::memcmp(begin, name, at - begin))
        return true;
    while (at < end && *at != ' ' && *at != '\n') ++at;
  }
  return false;
}

// Two capitals and two digits before `at`, as an IBAN begins: six signs more?
bool account(const uint8_t* at, const uint8_t* end) {
  int signs = 0;
  for (; at < end && signs < 6; ++at) {
    if (digit(*at) || upper(*at)) ++signs;
    else if (*at != ' ' && *at != '-') break;
  }
  return signs == 6;
}

// PERSONAL and FURNITURE, or neither.
int32_t named_in(const uint8_t* text, int64_t bytes) {
  const uint8_t* end = text + bytes;
  int64_t digits = 0, signs = 0;
  bool three = false, seven = false, sure = false, at_sign = false, begins = false, lines = false;
  Named name;
  for (const uint8_t* at = text; at < end;) {
    uint8_t b = *at;
    if (letter(b)) {
      named(at, end, name);
      while (at < end && (letter(*at) || *at == '_')) ++at;
      continue;
    }
    if (digit(b)) {
      // Groups of digits with one sign between two of them.
      const uint8_t *begin = at, *last = at;
      int64_t own = 0, dots = 0;
      for (bool first = true;; first = false) {
        const uint8_t* group = at;
        while (at < end && digit(*at)) ++at;
        own += at - group, last = at;
        three |= at - group >= 3;
        bool free = group == text || !(alnum(group[-1]) || std::strchr("_.-", group[-1]));
        if (free && at - group <= 5) sure |= street(at, end);
        if (first && at - group >= 2 && begin - text >= 2 && upper(begin[-1]) && upper(begin[-2]))
          begins |= account(group + 2, end);
        if (end - at < 2 || !*at || !std::strchr(" .-", *at) || !digit(at[1])) break;
        dots += *at++ == '.';
      }
      digits += own;
      bool behind = begin > text && (begin[-1] == ')' || (begin[-1] == ' ' && begin - text > 1 &&
                                                          begin[-2] == ')'));
      sure |= own >= 9 || dots >= 3 || (own >= 7 && behind);
      sure |= begin > text && begin[-1] == '+';
      seven |= own >= 7;
      at = last;
      continue;
    }
    if (b == ':') {
      const uint8_t* next = at + 1;
      auto hexadecimal = [](uint8_t b) { return digit(b) || (low(b) >= 'a' && low(b) <= 'f'); };
      while (next < end && next - at <= 4 && hexadecimal(*next)) ++next;
      sure |= next < end && *next == ':';
    }
    at_sign |= b == '@';
    lines |= b == '\n';
    // What stands between the items of a menu; five of them are beyond ASCII.
    signs += b == '|' || b == '/' || b == '>' || b == '\t';
    signs += b == ' ' && end - at > 1 && at[1] == ' ';
    if (b == '(') name.furniture |= said(at, end, "(c)");
    if (b >= 0xC2) {
      Character c(at, end);
      signs += c.point == 0xA0 || c.point == 0xB7 || c.point == 0xBB || c.point == 0x2022 ||
               c.point == 0x203A;
      name.furniture |= c.point == 0xA9;
    }
    ++at;
  }
  bool personal = digits && (sure || (begins && digits >= 7) || (three && name.number) ||
                             (digits >= 4 && name.birth) || (seven && name.call));
  return (at_sign || personal ? PERSONAL : 0) |
         (lines && (signs >= 2 || name.furniture) ? FURNITURE : 0);
}

// ---- One text --------------------------------------------------------------------------------

// `room`: characters of the row that are still read for its language.
void glanced(Glance& g, const uint8_t* text, int64_t bytes, int32_t* fact, int32_t* row,
             int64_t& room) {
  if (bytes > LARGEST) {
    fact[BITS] = STRANGE;
    return;
  }
  const uint8_t* end = text + bytes;
  int32_t bits = named_in(text, bytes);
  bool wordless = true, entity = false;
  int64_t chars = 0, tokens = 0;
  g.different.clear(bytes / 2 + 1);
  for (const uint8_t* at = text; at < end;) {
    const uint8_t* begin = at;
    int64_t from = chars, gap = 0;
    bool letters = false;
    while (at < end) {
      uint8_t b = *at;
      if (b < 0x80) {
        if (space(b)) {
          gap = 1;
          break;
        }
        letters |= letter(b);
        wordless &= !alnum(b);
        if (b == '&') entity = true;
        if (b == ';' && entity) bits |= MARKUP;
        if (b == '<' && end - at > 1 && (letter(at[1]) || at[1] == '/' || at[1] == '!'))
          bits |= MARKUP;
        ++at, ++chars;
        continue;
      }
      Character c(at, end);
      if (!c.usual()) bits |= STRANGE;
      if (c.space()) {
        gap = c.length;
        break;
      }
      if (c.point >= 0xC2 && c.point <= 0xF4 && end - at > c.length && at[c.length] >= 0x80)
        bits |= BROKEN;
      letters = true;
      at += c.length, ++chars;
    }
    if (at > begin) {
      int64_t length = at - begin;
      uint64_t hash = hash_of(begin, length);
      ++tokens;
      g.different.add(hash);
      // Without letters nothing is odd about a token.
      if (letters) {
        Long own = long_words(begin, length);
        bool odd = !g.plain.has(hash);
        fact[LONG] += own.least, fact[UNKNOWN] += odd, fact[UNKNOWN_LONG] += odd * own.most;
      }
      if (from < LANGUAGE_CHARS || from < room) {
        Counted own = counted(g, begin, length);
        // Of a token that is cut at the end, the words alone count.
        if (from < LANGUAGE_CHARS) fact[WORDS] += own.words;
        if (chars <= LANGUAGE_CHARS) fact[FUNCTION] += own.function;
        if (from < room) row[1] += own.words;
        if (chars <= room) row[0] += own.function;
      }
    }
    at += gap, chars += gap > 0;
  }
  if (wordless) bits |= WORDLESS;
  fact[BITS] = bits, fact[TOKENS] = tokens, fact[DIFFERENT] = g.different.count;
  room -= chars + 1;  // and the line end between two texts
}

}  // namespace

extern "C" {

// function words: W + 1 bounds into bytes. most: tokens that are known at a time.
void* dw_glance_new(const uint8_t* bytes, const int64_t* bounds, int64_t W, int64_t most) {
  Glance* made = new Glance;
  made->most = most;
  for (int64_t w = 0; w < W; ++w)
    made->function_words.put(hash_of(bytes + bounds[w], bounds[w + 1] - bounds[w]));
  return made;
}

void dw_glance_free(void* glance) { delete static_cast<Glance*>(glance); }

// W tokens of which nothing is odd.
void dw_glance_learn(void* glance, const uint8_t* bytes, const int64_t* bounds, int64_t W) {
  Glance& g = *static_cast<Glance*>(glance);
  if (g.plain.count + W > g.most) g.plain = Set();
  for (int64_t w = 0; w < W; ++w)
    g.plain.put(hash_of(bytes + bounds[w], bounds[w + 1] - bounds[w]));
}

// bounds: T + 1 offsets into bytes; first: R + 1 numbers of texts. facts (T, 8) and rows (R, 2:
// function words and words of the whole row) are filled.
void dw_glance(void* glance, const uint8_t* bytes, const int64_t* bounds, const int64_t* first,
               int64_t R, int32_t* facts, int32_t* rows) {
  Glance& g = *static_cast<Glance*>(glance);
  std::fill(facts + first[0] * FACTS, facts + first[R] * FACTS, 0);
  std::fill(rows, rows + 2 * R, 0);
  for (int64_t r = 0; r < R; ++r) {
    int64_t room = LANGUAGE_CHARS;
    for (int64_t t = first[r]; t < first[r + 1]; ++t)
      glanced(g, bytes + bounds[t], bounds[t + 1] - bounds[t], facts + t * FACTS, rows + 2 * r,
              room);
  }
}
}
