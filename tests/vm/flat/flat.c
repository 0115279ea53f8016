// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest without an operating system: it fills memory with pages that say what they should hold,
 * reads them back round after round, changes a few, and reports on the first serial port.
 *
 * It runs in 32-bit protected mode without paging and uses plain integer instructions only, so that
 * it works wherever /dev/kvm opens, also where KVM has to interpret the guest.
 *
 * What a page holds follows from (page, version) alone:
 *   zero        nothing but zero bytes
 *   duplicate   the same bytes as all duplicates of its family and version: exact sharing
 *   text        repeating records with counters, and words of its own: compresses well
 *   random      a window of a pseudo random sequence, and words of its own: does not compress
 * One page in kChangeEvery is *live* and gets a new version every round; all others keep their
 * bytes for ever. Live pages are verified every round, still pages once in kSegments rounds, a
 * segment at a time, so that most of them are left alone long enough to fold. Every kFullEvery
 * rounds everything is.
 *
 * Options on the multiboot command line (decimal): mib=64 pace_ms=20 rounds=0 (0: run for ever).
 * Output: "FLAT ready pages=N", "ROUND n ok pages=N", "ROUND n BAD page=P word=W got=… want=…",
 * "FLAT done".
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum {
  kPageSize = 4096,
  kWords = kPageSize / 4,
  kBase = 16 << 20,  // well above the loader's and our own memory
  kSegments = 8,
  kChangeEvery = 32,
  kFullEvery = 32,
  kPagesMax = 2048 * (1048576 / kPageSize),
  kSourceWords = 16384,
  kSerial = 0x3f8,
};

static u32 versions[kPagesMax];
static u32 page_count;
static u32 text_source[kSourceWords], random_source[kSourceWords], zero_source[kWords];

static inline void out8(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 in8(u16 port) {
  u8 v;
  __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}

static void put_char(char c) {
  while (!(in8(kSerial + 5) & 0x20)) {
  }
  out8(kSerial, (u8)c);
}
static void put(const char* s) {
  for (; *s; s++) put_char(*s);
}
static void put_dec(u32 v) {
  char digits[10];
  int n = 0;
  do digits[n++] = (char)('0' + v % 10);
  while (v /= 10);
  while (n) put_char(digits[--n]);
}
static void put_hex(u32 v) {
  for (int shift = 28; shift >= 0; shift -= 4) put_char("0123456789abcdef"[(v >> shift) & 15]);
}

// Counts down in the timer chip's second channel: no interrupts, no calibration.
static void pause_ms(u32 ms) {
  for (; ms; ms--) {
    const u32 ticks = 1193;
    out8(0x61, (u8)((in8(0x61) & ~2) | 1));
    out8(0x43, 0xb0);
    out8(0x42, ticks & 0xff);
    out8(0x42, ticks >> 8);
    while (!(in8(0x61) & 0x20)) {
    }
  }
}

static u32 mix(u32 x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

enum Kind { kZero, kDuplicate, kText, kRandom };
static enum Kind kind_of(u32 page) { return (enum Kind)(mix(page) & 3); }
static int is_live(u32 page) { return mix(page + 0x5bd1e995u) % kChangeEvery == 0; }

// What a page holds: a window of a source, and for all but zeros and duplicates its own words
// around it.
struct Pattern {
  const u32* body;
  u32 tag;
  int own_words;
};
static struct Pattern pattern_of(u32 page, u32 version) {
  enum Kind kind = kind_of(page);
  // A live page of kind zero turns into text and back, so zero pages come and go as well.
  if (kind == kZero && (version & 1)) kind = kText;
  const u32 family = kind == kDuplicate ? (page >> 4) & 7 : page;
  const u32 tag = mix(family * 0x9e3779b9u + version);
  struct Pattern p = {zero_source, tag, 0};
  if (kind == kDuplicate) p.body = text_source + tag % (kSourceWords - kWords);
  if (kind == kText) p.body = text_source + tag % (kSourceWords - kWords), p.own_words = 1;
  if (kind == kRandom) p.body = random_source + tag % (kSourceWords - kWords), p.own_words = 1;
  return p;
}

static void fill_sources(void) {
  u32 state = 0x2545f491u;
  for (u32 i = 0; i < kSourceWords; i++) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    random_source[i] = state;
    text_source[i] = (i & 15) ? 0x20202020u + (i & 15) * 0x01030205u : i;
  }
}

static u32* address_of(u32 page) { return (u32*)(kBase + page * kPageSize); }

// String instructions, because an interpreting KVM decodes them once for a whole run of words.
static void copy_words(u32* to, const u32* from, u32 count) {
  __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}
// The first index at which the two differ, or count.
static u32 compare_words(const u32* a, const u32* b, u32 count) {
  u32 left = count;
  u8 same;
  __asm__ volatile("cmpl %%ecx, %%ecx\n\trepe cmpsl\n\tsete %3"
                   : "+D"(a), "+S"(b), "+c"(left), "=qm"(same)
                   :
                   : "memory", "cc");
  return same ? count : count - left - 1;
}

static void write_page(u32 page) {
  const struct Pattern p = pattern_of(page, versions[page]);
  u32* words = address_of(page);
  copy_words(words, p.body, kWords);
  if (!p.own_words) return;
  words[0] = page;
  words[1] = versions[page];
  words[kWords - 1] = p.tag;
}

static u32 bad_count;
static void verify_word(u32 round, u32 page, u32 word, u32 want) {
  const u32 got = ((volatile u32*)address_of(page))[word];
  if (got == want) return;
  put("ROUND "), put_dec(round), put(" BAD page="), put_dec(page), put(" word="), put_dec(word);
  put(" got="), put_hex(got), put(" want="), put_hex(want), put("\n");
  bad_count++;
}
static void verify_page(u32 round, u32 page) {
  const struct Pattern p = pattern_of(page, versions[page]);
  const u32* words = address_of(page);
  const u32 from = p.own_words ? 2 : 0, count = p.own_words ? kWords - 3 : kWords;
  const u32 same = compare_words(words + from, p.body + from, count);
  if (same < count) {
    verify_word(round, page, from + same, p.body[from + same]);
    return;
  }
  if (!p.own_words) return;
  verify_word(round, page, 0, page);
  verify_word(round, page, 1, versions[page]);
  verify_word(round, page, kWords - 1, p.tag);
}

static u32 option(const char* line, const char* name, u32 otherwise) {
  for (; *line; line++) {
    const char *l = line, *n = name;
    while (*n && *l == *n) l++, n++;
    if (*n || *l != '=') continue;
    u32 v = 0;
    for (l++; *l >= '0' && *l <= '9'; l++) v = v * 10 + (u32)(*l - '0');
    return v;
  }
  return otherwise;
}

struct MultibootInfo {  // the part of it that we use
  u32 flags, mem_lower_kib, mem_upper_kib, boot_device, command_line;
};

void flat_main(u32 magic, const struct MultibootInfo* info);
void flat_main(u32 magic, const struct MultibootInfo* info) {
  out8(kSerial + 1, 0);  // no interrupts
  out8(kSerial + 3, 3);  // 8 bits, no parity
  if (magic != 0x2BADB002u || (info->flags & 5) != 5) {
    put("FLAT cannot start: not loaded by a multiboot loader\n");
    return;
  }
  const char* line = (const char*)info->command_line;
  const u32 mib = option(line, "mib", 64), pace_ms = option(line, "pace_ms", 20);
  const u32 rounds = option(line, "rounds", 0);
  page_count = mib * (1048576 / kPageSize);
  if (mib > 2048 || 16 + mib > info->mem_upper_kib / 1024 + 1) {
    put("FLAT cannot start: not enough memory\n");
    return;
  }
  put("FLAT start\n");
  fill_sources();
  for (u32 page = 0; page < page_count; page++) write_page(page);
  put("FLAT ready pages="), put_dec(page_count), put("\n");

  for (u32 round = 1; rounds == 0 || round <= rounds; round++) {
    const int full = round % kFullEvery == 0;
    u32 seen = 0;
    bad_count = 0;
    for (u32 page = 0; page < page_count; page++) {
      const int live = is_live(page);
      if (!full && !live && (page / 64) % kSegments != round % kSegments) continue;
      verify_page(round, page);
      seen++;
      if (!live) continue;
      versions[page]++;
      write_page(page);
    }
    put("ROUND "), put_dec(round), put(bad_count ? " BAD pages=" : " ok pages=");
    put_dec(bad_count ? bad_count : seen), put("\n");
    pause_ms(pace_ms);
  }
  put("FLAT done\n");
}
