// SPDX-License-Identifier: GPL-2.0-or-later
// The best known saving of a set of guests' RAM: equal pages once, then for each distinct page the
// smallest of LZ4-HC, zstd-19, and zstd-19 with each of 24 other pages of the set as prefix, the
// page (and the prefix) as it is or *transposed*: all first bytes of its 8-byte words, then all
// second ones, and so on. Offline and slow, and no store could use it: the reference of a page may
// have a reference itself, without bound, and only bytes are counted. The saving of a store is
// compared with it. Trying every other page of the set as prefix, for 40 pages and with zstd-1,
// gave pages 2 % (four guests of one image) and 4 % (four different ones) smaller than the 24 did.
//
// Sharing is counted exactly; the sizes are those of a random sample of the distinct pages, so
// every figure has a 95 % interval. `ordered` allows only prefixes that come before the page in the
// set: this much can certainly be decoded. Without `ordered`, two pages may be the prefix of each
// other.
//
// usage: bench_oracle PAGES SET_DIRECTORY   prints JSON. Threads: two.
#include <lz4hc.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>

#define ZSTD_STATIC_LINKING_ONLY  // for frames without a magic number
#include <zstd.h>

#include "base/clock.hpp"
#include "bench/guest_pages.hpp"
#include "bench/oracle_candidates.hpp"

using namespace ramfold;
using namespace ramfold::bench;

namespace {

constexpr unsigned kThreads = 2;
constexpr int kLevel = 19;
constexpr std::size_t kRoom = 2 * kPageSize;

const char* chars(const PageCopy& page) { return reinterpret_cast<const char*>(page.bytes.data()); }

PageCopy transposed(const PageCopy& page) {
  constexpr std::size_t kWord = 8, kWords = kPageSize / kWord;
  PageCopy out;
  for (std::size_t at = 0; at < kPageSize; ++at) {
    out.bytes[at % kWord * kWords + at / kWord] = page.bytes[at];
  }
  return out;
}

// What one page takes, in bytes, in each way of looking for its best form.
struct Sizes {
  std::uint16_t lz4 = 0;
  std::uint16_t zstd = 0;       // alone, as it is
  std::uint16_t alone = 0;      // the smallest without a prefix
  std::uint16_t prefix_4 = 0;   // the smallest with the first 4 candidates
  std::uint16_t prefix_16 = 0;  // ... 16
  std::uint16_t best = 0;       // ... all
  std::uint16_t ordered = 0;    // ... those that come before the page
  bool transposed_won = false;
};

class Encoder {
 public:
  Encoder()
      : context_(ZSTD_createCCtx()), lz4_state_(static_cast<std::size_t>(LZ4_sizeofStateHC())) {}
  ~Encoder() { ZSTD_freeCCtx(context_); }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  std::uint16_t lz4(const PageCopy& page) {
    const int size = LZ4_compress_HC_extStateHC(lz4_state_.data(), chars(page), out_, kPageSize,
                                                kRoom, LZ4HC_CLEVEL_MAX);
    if (size <= 0) throw std::runtime_error("LZ4 failed");
    return at_most_raw(static_cast<std::size_t>(size));
  }
  std::uint16_t zstd(const PageCopy& page, const PageCopy* prefix) {
    ZSTD_CCtx_reset(context_, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, kLevel);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_contentSizeFlag, 0);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_format, ZSTD_f_zstd1_magicless);
    if (prefix != nullptr) ZSTD_CCtx_refPrefix(context_, chars(*prefix), kPageSize);
    const std::size_t size = ZSTD_compress2(context_, out_, kRoom, chars(page), kPageSize);
    if (ZSTD_isError(size) != 0) throw std::runtime_error(ZSTD_getErrorName(size));
    return at_most_raw(size);
  }

 private:
  static std::uint16_t at_most_raw(std::size_t size) {
    return static_cast<std::uint16_t>(std::min(size, kPageSize));
  }

  ZSTD_CCtx* const context_;
  std::vector<char> lz4_state_;
  char out_[kRoom];
};

Sizes measure(Encoder& encoder, const GuestPages& set, std::uint32_t index,
              std::span<const std::uint32_t> candidates) {
  const PageCopy& page = set.pages[index];
  const PageCopy turned = transposed(page);
  Sizes sizes;
  sizes.lz4 = encoder.lz4(page);
  sizes.zstd = encoder.zstd(page, nullptr);
  const std::uint16_t turned_alone = encoder.zstd(turned, nullptr);
  sizes.alone = std::min({sizes.lz4, sizes.zstd, turned_alone});
  sizes.transposed_won = turned_alone == sizes.alone && turned_alone < sizes.zstd;
  sizes.best = sizes.ordered = sizes.prefix_4 = sizes.prefix_16 = sizes.alone;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const PageCopy& other = set.pages[candidates[i]];
    const PageCopy other_turned = transposed(other);
    const std::uint16_t as_it_is = encoder.zstd(page, &other);
    const std::uint16_t turned_size = encoder.zstd(turned, &other_turned);
    const std::uint16_t size = std::min(as_it_is, turned_size);
    if (size < sizes.best) {
      sizes.best = size;
      sizes.transposed_won = turned_size < as_it_is;
    }
    if (candidates[i] < index) sizes.ordered = std::min(sizes.ordered, size);
    if (i + 1 == 4) sizes.prefix_4 = sizes.best;
    if (i + 1 == 16) sizes.prefix_16 = sizes.best;
  }
  return sizes;
}

std::vector<Sizes> measure_sample(const GuestPages& set, std::size_t wanted) {
  const CandidateIndex index(set);
  std::vector<std::uint32_t> order(set.pages.size());
  for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  order.resize(std::min(wanted, order.size()));
  std::vector<Sizes> sizes(order.size());
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    Encoder encoder;
    CandidateIndex::Votes votes(index);
    for (std::size_t i; (i = next++) < order.size();) {
      try {
        sizes[i] = measure(encoder, set, order[i], index.candidates(order[i], votes));
      } catch (const std::exception&) {
        failed = true;
        return;
      }
      if (i % 256 == 0) std::fprintf(stderr, "oracle: %zu of %zu pages\n", i, order.size());
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (failed) throw std::runtime_error("a page could not be encoded");
  return sizes;
}

// Saved share of the RAM that is not zero, when the distinct pages take as much as the sample says.
void print_saving(const char* name, const GuestPages& set, const std::vector<Sizes>& sample,
                  std::uint16_t Sizes::* size, const char* end) {
  double sum = 0, squares = 0;
  for (const Sizes& sizes : sample) {
    sum += sizes.*size;
    squares += static_cast<double>(sizes.*size) * (sizes.*size);
  }
  const auto n = static_cast<double>(sample.size());
  const auto distinct = static_cast<double>(set.pages.size());
  const double mean = sum / n;
  const double unseen = 1 - n / distinct;  // a sample of everything has no error
  const double error = std::sqrt(std::max(0.0, squares / n - mean * mean) / n * unseen) * 1.96;
  const double all = static_cast<double>(set.nonzero_count) * kPageSize;
  std::printf("  \"%s\": {\"saved_percent\": %.2f, \"plus_minus\": %.2f, \"saved_mib\": %.1f}%s\n",
              name, 100 * (1 - mean * distinct / all), 100 * error * distinct / all,
              (all - mean * distinct) / (1 << 20), end);
}

void run(std::size_t wanted, const std::string& directory) {
  const GuestPages set = load_set(directory);
  const std::vector<Sizes> sample = measure_sample(set, wanted);
  double turned = 0;
  for (const Sizes& sizes : sample) turned += sizes.transposed_won ? 1 : 0;
  const auto all = static_cast<double>(set.nonzero_count);
  const auto distinct = static_cast<double>(set.pages.size());
  std::printf("{\"guests\": %zu, \"nonzero_pages\": %llu, \"distinct_pages\": %zu,\n",
              set.guests.size(), static_cast<unsigned long long>(set.nonzero_count),
              set.pages.size());
  std::printf("  \"sampled_pages\": %zu, \"candidates\": %zu, \"cpu_seconds\": %.0f,\n",
              sample.size(), CandidateIndex::kCandidates,
              static_cast<double>(process_cpu_ns()) / 1e9);
  std::printf("  \"transposed_percent\": %.1f,\n",
              100 * turned / static_cast<double>(sample.size()));
  std::printf("  \"sharing\": {\"saved_percent\": %.2f, \"plus_minus\": 0, \"saved_mib\": %.1f},\n",
              100 * (1 - distinct / all), (all - distinct) * kPageSize / (1 << 20));
  print_saving("sharing_lz4hc", set, sample, &Sizes::lz4, ",");
  print_saving("sharing_zstd19", set, sample, &Sizes::zstd, ",");
  print_saving("no_prefix", set, sample, &Sizes::alone, ",");
  print_saving("prefix_of_4", set, sample, &Sizes::prefix_4, ",");
  print_saving("prefix_of_16", set, sample, &Sizes::prefix_16, ",");
  print_saving("ordered", set, sample, &Sizes::ordered, ",");
  print_saving("oracle", set, sample, &Sizes::best, "}");
}

}  // namespace

int main(int argc, char** argv) {
  const long wanted = argc == 3 ? std::atol(argv[1]) : 0;
  if (wanted <= 0) {
    std::fprintf(stderr, "usage: %s PAGES SET_DIRECTORY\n", argv[0]);
    return 2;
  }
  try {
    run(static_cast<std::size_t>(wanted), argv[2]);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "bench_oracle: %s\n", problem.what());
    return 2;
  }
  return 0;
}
