// SPDX-License-Identifier: GPL-2.0-or-later
// Reads from a content's header (docs/store-format.md) how it is stored, and estimates as the
// chooser of forms does how long reading it takes: decoding it, and before that its reference.
// Threads: as the store's files.
#pragma once

#include <unistd.h>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "store/contents.hpp"
#include "store/layout.hpp"
#include "store/reform/cost_model.hpp"

namespace ramfold::bench {

template <typename T>
T read_at(const store::Contents& store, std::uint64_t offset) {
  T value;
  if (::pread(store.files().contents.get(), &value, sizeof value, static_cast<off_t>(offset)) !=
      sizeof value) {
    throw std::runtime_error("a header cannot be read");
  }
  return value;
}

inline store::ContentsLayout layout_of(const store::Contents& store) {
  return store::ContentsLayout(
      read_at<std::uint32_t>(store, offsetof(store::Superblock, contents_max)));
}

inline store::Where where_of(const store::Contents& store, ContentId id) {
  return store::Where(read_at<std::uint64_t>(store, layout_of(store).headers +
                                                        id.value * sizeof(store::Header) +
                                                        offsetof(store::Header, where)));
}

// REQUIRES: it has one.
inline ContentId reference_of(const store::Contents& store, ContentId id) {
  return ContentId{read_at<std::uint32_t>(
      store, layout_of(store).references + id.value * sizeof(std::uint32_t))};
}

inline double believed_us(const store::CostModel::Figures& costs, const store::Contents& store,
                          ContentId id) {
  const auto decode_us = [&](store::Where where) {
    return costs.decode_ns_of({where.form(), where.transpose()}) / 1e3;
  };
  const store::Where where = where_of(store, id);
  return decode_us(where) +
         (where.has_reference() ? decode_us(where_of(store, reference_of(store, id))) : 0);
}

}  // namespace ramfold::bench
