// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/windows.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <memory>

using namespace ramfold;
using namespace ramfold::scan;

namespace {

using Windows = std::array<Window, kChunkWindows>;

guest::PageMask page(unsigned i) { return guest::PageMask{1} << i; }

}  // namespace

TEST_CASE("pages with work are put together by window, up to the last page of each") {
  const guest::Block block{HostVirt{0}, PageIndex{0}, PageCount{200}, ByteCount{0}, 0};
  const auto into = std::make_unique<Windows>();
  WindowList list(*into);
  list.put(block, PageIndex{0}, Verdict::observe);
  list.put(block, PageIndex{31}, Verdict::fold);
  list.put(block, PageIndex{32}, Verdict::leave);
  list.put(block, PageIndex{63}, Verdict::again);
  list.put(block, PageIndex{64}, Verdict::age);
  list.put(block, PageIndex{199}, Verdict::fold);
  REQUIRE(list.count() == 3);
  const Window& first = (*into)[0];
  CHECK(first.pages.first == PageIndex{0});
  CHECK(first.pages.count == PageCount{64});
  CHECK(first.observe == page(0));
  CHECK(first.fold == page(31));
  CHECK(first.again == page(63));
  CHECK((*into)[1].age == page(0));
  CHECK((*into)[2].pages.first == PageIndex{192});
  CHECK((*into)[2].pages.count == PageCount{8});  // the block ends
  CHECK((*into)[2].fold == page(7));
}

TEST_CASE("every page of a chunk has a window, also where blocks begin and end anywhere") {
  const auto into = std::make_unique<Windows>();
  WindowList list(*into);
  std::uint64_t p = 0;
  for (std::uint64_t i = 0; i < RF_BLOCKS_MAX; ++i) {
    // The last block ends with the chunk.
    const std::uint64_t size = i + 1 == RF_BLOCKS_MAX ? guest::kChunkPages.value - p : 3;
    const guest::Block block{HostVirt{0}, PageIndex{p}, PageCount{size}, ByteCount{0}, 0};
    for (const std::uint64_t end = p + size; p < end; ++p)
      list.put(block, PageIndex{p}, Verdict::fold);
  }
  REQUIRE(p == guest::kChunkPages.value);
  unsigned pages = 0;
  for (std::size_t i = 0; i < list.count(); ++i) {
    CHECK((*into)[i].fold == guest::all_pages((*into)[i].pages.count));
    pages += static_cast<unsigned>((*into)[i].pages.count.value);
  }
  CHECK(pages == guest::kChunkPages.value);
}

TEST_CASE("of a window's pages as many leave as are allowed, the first ones first") {
  Window window{{PageIndex{0}, PageCount{64}},
                page(1),
                page(2) | page(40) | page(63),
                page(3) | page(50),
                page(5)};
  window.limit_leaving(5);
  CHECK(window.leaving() == (page(2) | page(3) | page(40) | page(50) | page(63)));
  window.limit_leaving(3);
  CHECK(window.fold == (page(2) | page(40)));
  CHECK(window.again == page(3));
  window.limit_leaving(0);
  CHECK(window.leaving() == 0);
  CHECK(window.observe == page(1));
  CHECK(window.age == page(5));
}
