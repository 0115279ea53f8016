// SPDX-License-Identifier: GPL-2.0-or-later
// Patches of real guest pages: size, encode and decode, beside xdelta3, LZ4 with the reference as
// dictionary and zstd with it as prefix, over the same pairs in one run. A pair is a page and the
// most similar other page of its set (bench/guest_pages.hpp), chosen by what zstd-1 makes of it, so
// not by our own measure. It is *useful* when that is at most three quarters of zstd-1 alone. Times
// are CPU a page, the mean over pairs that lie in memory in random order: each comes from outside
// of L2. usage: bench_patch_codec NAME SET_DIRECTORY [NAME SET_DIRECTORY]...
#include <fcntl.h>
#include <lz4.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>

#define ZSTD_STATIC_LINKING_ONLY  // for frames without a magic number
#include <zstd.h>

#include "bench/guest_pages.hpp"
#include "bench/on_sets.hpp"
#include "bench/report.hpp"
#include "store/patch/patch.hpp"
#include "sys/fd.hpp"

using namespace ramfold;
using namespace ramfold::bench;

namespace {

constexpr std::size_t kPairs = 4000;       // of a set, both kinds
constexpr std::size_t kXdeltaPairs = 600;  // a process each
constexpr int kRepeats = 7;
constexpr std::size_t kRoom = 2 * kPageSize;
using Blob = std::vector<char>;

void require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(what);
}

std::uint64_t cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

struct Pair {
  PageCopy page;
  PageCopy reference;
};

// One way to tell a page by a reference.
struct Codec {
  std::string name;
  std::function<std::size_t(const Pair&, char* out)> encode;
  std::function<bool(const Blob&, const Pair&, char* out)> decode;
};

const char* chars(const PageCopy& page) { return reinterpret_cast<const char*>(page.bytes.data()); }

Codec ours() {
  return {"patch",
          [](const Pair& pair, char* out) {
            return std::size_t{store::patch::encode(pair.page, pair.reference,
                                                    {reinterpret_cast<std::byte*>(out), kRoom})};
          },
          [](const Blob& blob, const Pair& pair, char* out) {
            return store::patch::decode(std::as_bytes(std::span(blob)), pair.reference.bytes.data(),
                                        reinterpret_cast<std::byte*>(out));
          }};
}

Codec lz4() {
  static LZ4_stream_t stream;
  return {"LZ4",
          [](const Pair& pair, char* out) {
            LZ4_initStream(&stream, sizeof stream);
            LZ4_loadDict(&stream, chars(pair.reference), kPageSize);
            return static_cast<std::size_t>(
                LZ4_compress_fast_continue(&stream, chars(pair.page), out, kPageSize, kRoom, 1));
          },
          [](const Blob& blob, const Pair& pair, char* out) {
            return LZ4_decompress_safe_usingDict(blob.data(), out, static_cast<int>(blob.size()),
                                                 kPageSize, chars(pair.reference),
                                                 kPageSize) == kPageSize;
          }};
}

std::size_t zstd_size(int level, const PageCopy& page, const PageCopy* prefix, char* out) {
  static ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  ZSTD_CCtx_setParameter(context, ZSTD_c_format, ZSTD_f_zstd1_magicless);
  if (prefix != nullptr) ZSTD_CCtx_refPrefix(context, chars(*prefix), kPageSize);
  return ZSTD_compress2(context, out, kRoom, chars(page), kPageSize);
}

Codec zstd(int level) {
  static ZSTD_DCtx* const context = ZSTD_createDCtx();
  return {"zstd-" + std::to_string(level),
          [level](const Pair& pair, char* out) {
            return zstd_size(level, pair.page, &pair.reference, out);
          },
          [](const Blob& blob, const Pair& pair, char* out) {
            ZSTD_DCtx_reset(context, ZSTD_reset_session_and_parameters);
            ZSTD_DCtx_setParameter(context, ZSTD_d_format, ZSTD_f_zstd1_magicless);
            ZSTD_DCtx_refPrefix(context, chars(pair.reference), kPageSize);
            return ZSTD_decompressDCtx(context, out, kPageSize, blob.data(), blob.size()) ==
                   kPageSize;
          }};
}

struct Pairs {
  std::vector<Pair> useful;
  std::vector<Pair> any;  // the best of all candidates, useful or not
  double useful_percent = 0;
};

Pairs find_pairs(const GuestPages& set) {
  const Resemblance resemblance(set.pages);
  std::vector<std::uint32_t> order(set.pages.size());
  for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  Pairs pairs;
  char out[kRoom];
  std::size_t seen = 0;
  for (const std::uint32_t page : order) {
    if (pairs.useful.size() == kPairs) break;
    ++seen;
    std::size_t best = ~std::size_t{0};
    std::uint32_t reference = 0;
    for (const std::uint32_t candidate : resemblance.candidates(page)) {
      const std::size_t size = zstd_size(1, set.pages[page], &set.pages[candidate], out);
      if (size >= best) continue;
      best = size;
      reference = candidate;
    }
    if (best == ~std::size_t{0}) continue;
    const Pair pair{set.pages[page], set.pages[reference]};
    if (pairs.any.size() < kPairs) pairs.any.push_back(pair);
    if (best * 4 <= zstd_size(1, pair.page, nullptr, out) * 3) pairs.useful.push_back(pair);
  }
  require(!pairs.useful.empty(), "no page of the set resembles another");
  pairs.useful_percent =
      100.0 * static_cast<double>(pairs.useful.size()) / static_cast<double>(seen);
  return pairs;
}

double mean_size(const Codec& codec, const std::vector<Pair>& pairs,
                 std::vector<Blob>* blobs = nullptr) {
  std::size_t sum = 0;
  char out[kRoom];
  for (const Pair& pair : pairs) {
    const std::size_t size = codec.encode(pair, out);
    require(size > 0 && size < kRoom, "a page was not encoded");
    sum += size;
    if (blobs != nullptr) blobs->emplace_back(out, out + size);
  }
  return static_cast<double>(sum) / static_cast<double>(pairs.size());
}

std::vector<double> repeated(std::size_t pages, const std::function<void()>& pass) {
  std::vector<double> us;
  for (int i = 0; i < kRepeats; ++i) {
    const std::uint64_t before = cpu_ns();
    pass();
    us.push_back(static_cast<double>(cpu_ns() - before) / 1e3 / static_cast<double>(pages));
  }
  return us;
}

std::vector<double> encode_us(const Codec& codec, const std::vector<Pair>& pairs) {
  char out[kRoom];
  return repeated(pairs.size(), [&] {
    for (const Pair& pair : pairs) require(codec.encode(pair, out) > 0, "a page was not encoded");
  });
}

std::vector<double> decode_us(const Codec& codec, const std::vector<Pair>& pairs,
                              const std::vector<Blob>& blobs) {
  alignas(64) char out[kPageSize];
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    require(codec.decode(blobs[i], pairs[i], out) &&
                std::memcmp(out, chars(pairs[i].page), kPageSize) == 0,
            "a page came back wrong");
  }
  return repeated(pairs.size(), [&] {
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      require(codec.decode(blobs[i], pairs[i], out), "a page did not come back");
    }
  });
}

// What nobody can do without: both pages are read and compared.
std::vector<double> compare_us(const std::vector<Pair>& pairs) {
  std::uint64_t sum = 0;
  auto us = repeated(pairs.size(), [&] {
    for (const Pair& pair : pairs) {
      for (std::size_t i = 0; i < kPageSize; ++i)
        sum += pair.page.bytes[i] != pair.reference.bytes[i];
    }
  });
  require(sum != 0, "all pairs are equal");
  return us;
}
std::vector<double> copy_us(const std::vector<Pair>& pairs) {
  PageCopy out;
  return repeated(pairs.size(), [&] {
    for (const Pair& pair : pairs) {
      out = pair.reference;
      asm volatile("" ::"r"(&out) : "memory");
    }
  });
}

// The command's output without the header of its file: magic and version (4 bytes), an indicator,
// and the id of the secondary compressor where there is one.
class Xdelta {
 public:
  explicit Xdelta(std::string secondary) : secondary_(std::move(secondary)) {}

  double mean_size(const std::vector<Pair>& pairs) const {
    std::size_t sum = 0, count = 0;
    const std::size_t step = std::max<std::size_t>(1, pairs.size() / kXdeltaPairs);
    for (std::size_t i = 0; i < pairs.size(); i += step, ++count) sum += size(pairs[i]);
    return static_cast<double>(sum) / static_cast<double>(count);
  }
  // Ours over the same pairs.
  static std::vector<Pair> sample(const std::vector<Pair>& pairs) {
    std::vector<Pair> some;
    const std::size_t step = std::max<std::size_t>(1, pairs.size() / kXdeltaPairs);
    for (std::size_t i = 0; i < pairs.size(); i += step) some.push_back(pairs[i]);
    return some;
  }

 private:
  std::size_t size(const Pair& pair) const {
    const sys::Fd page = file_of(pair.page), reference = file_of(pair.reference);
    const sys::Fd out(memfd_create("out", MFD_CLOEXEC));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, page.get(), 100);
    posix_spawn_file_actions_adddup2(&actions, reference.get(), 101);
    posix_spawn_file_actions_adddup2(&actions, out.get(), 1);
    // -D: a page may look like a compressed file. -B: its least, for speed; the patches are the
    // same without.
    const char* const argv[] = {"xdelta3",
                                "-9",
                                "-n",
                                "-A",
                                "-D",
                                "-B",
                                "524288",
                                "-S",
                                secondary_.c_str(),
                                "-e",
                                "-c",
                                "-s",
                                "/proc/self/fd/101",
                                "/proc/self/fd/100",
                                nullptr};
    pid_t child = 0;
    int status = 1;
    const int error =
        posix_spawnp(&child, argv[0], &actions, nullptr, const_cast<char* const*>(argv), environ);
    posix_spawn_file_actions_destroy(&actions);
    require(error == 0 && waitpid(child, &status, 0) == child && status == 0, "xdelta3 failed");
    const off_t length = lseek(out.get(), 0, SEEK_END);
    unsigned char head[5] = {};
    require(pread(out.get(), head, sizeof head, 0) == sizeof head && head[0] == 0xd6,
            "xdelta3 wrote no patch");
    constexpr unsigned char kSecondary = 1;
    return static_cast<std::size_t>(length) - sizeof head - ((head[4] & kSecondary) != 0 ? 1 : 0);
  }
  static sys::Fd file_of(const PageCopy& page) {
    sys::Fd fd(memfd_create("page", MFD_CLOEXEC));
    require(pwrite(fd.get(), page.bytes.data(), kPageSize, 0) == kPageSize, "no memory for a page");
    return fd;
  }
  std::string secondary_;
};

void measure(Report& report, const std::string& name, const std::string& directory) {
  const Pairs found = find_pairs(load_set(directory));
  const std::vector<Pair>& pairs = found.useful;
  const std::vector<Pair> some = Xdelta::sample(pairs), any = Xdelta::sample(found.any);
  const Codec patch = ours();
  const std::string pre = name + ": ";
  report.add(
      {pre + "distinct pages with a useful reference", "%", {}, {found.useful_percent}, {}, ""});

  const double small = mean_size(patch, some), xdelta = Xdelta("none").mean_size(pairs);
  report.add({pre + "size, xdelta3 -S none",
              "B",
              {},
              {small},
              {xdelta},
              "<= the peer's payload",
              small <= xdelta});
  report.add({pre + "size of zstd-3 with prefix, xdelta3 -S djw",
              "B",
              {},
              {mean_size(zstd(3), some)},
              {Xdelta("djw").mean_size(pairs)},
              ""});
  const double loose = mean_size(patch, any), loose_xdelta = Xdelta("none").mean_size(found.any);
  report.add({pre + "size, useful or not, xdelta3 -S none", "B", {}, {loose}, {loose_xdelta}, ""});

  std::vector<Blob> blobs;
  const double size = mean_size(patch, pairs, &blobs);
  const auto encode = encode_us(patch, pairs), decode = decode_us(patch, pairs, blobs);
  const auto compare = compare_us(pairs), copy = copy_us(pairs);
  bool first = true;
  for (const Codec& peer : {lz4(), zstd(1), zstd(3)}) {
    std::vector<Blob> theirs;
    const double their_size = mean_size(peer, pairs, &theirs);
    report.add({pre + "size, " + peer.name, "B", {}, {size}, {their_size}, ""});
    Row encoding{pre + "encode, " + peer.name, "us", compare, encode, encode_us(peer, pairs), ""};
    Row decoding{pre + "decode, " + peer.name,   "us", copy, decode,
                 decode_us(peer, pairs, theirs), ""};
    if (first) {
      encoding.goal = "<= 10";
      encoding.ok = median(encode) <= 10;
      decoding.goal = "<= 1.5";
      decoding.ok = median(decode) <= 1.5;
    }
    first = false;
    report.add(std::move(encoding));
    report.add(std::move(decoding));
  }
}

}  // namespace

int main(int argc, char** argv) {
  return run_on_sets(argc, argv, [](const std::vector<NamedSet>& sets) {
    Report report("patch-codec");
    for (const NamedSet& set : sets) measure(report, set.name, set.directory);
    return report.print();
  });
}
