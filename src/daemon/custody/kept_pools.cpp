// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/kept_pools.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "base/test_points.hpp"

namespace ramfold::daemon {
namespace {

template <typename Number>
bool parse_number(std::string_view text, int base, Number& number) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number, base);
  return error == std::errc{} && at == end;
}

}  // namespace

std::string KeptPools::name_of(const store::PoolFile& pool) {
  return fmt::format("{}{}.{:016x}", kPrefix, pool.group.value, pool.id);
}

std::optional<store::PoolFile> KeptPools::parse(std::string_view name, sys::Fd file) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view rest = name.substr(kPrefix.size());
  const std::size_t dot = rest.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  store::PoolFile pool{{}, std::move(file), 0};
  if (!parse_number(rest.substr(0, dot), 10, pool.group.value) ||
      !parse_number(rest.substr(dot + 1), 16, pool.id) || name_of(pool) != name) {
    return std::nullopt;
  }
  return pool;
}

void KeptPools::new_connection() noexcept {
  for (auto& [name, pool] : pools_) pool.kept = false;
}

Status KeptPools::note_kept(const store::PoolFile& pool, uid_t account) {
  auto file = pool.file.duplicate();
  if (!file) return std::unexpected(file.error());
  pools_[name_of(pool)] = {std::move(*file), places_of(pool, account), true};
  return {};
}

void KeptPools::set_account(const store::PoolFile& pool, uid_t account) {
  const auto found = pools_.find(name_of(pool));
  if (found != pools_.end()) found->second.places.account = account;
}

KeeperPlaces KeptPools::places_of(const store::PoolFile& pool, uid_t account) const {
  return {1, stored_bytes(name_of(pool)), account};
}

Status KeptPools::keep(keeper::Client& client, const store::PoolFile& pool, uid_t account) {
  const std::string name = name_of(pool);
  const auto found = pools_.find(name);
  if (found != pools_.end() && found->second.kept) return {};
  if (Status kept = client.keep(name, pool.file); !kept) return kept;
  TEST_POINT("keeper.pool");
  return note_kept(pool, account);
}

Status KeptPools::keep_all(keeper::Client& client) {
  for (auto& [name, pool] : pools_) {
    if (pool.kept) continue;
    if (Status kept = client.keep(name, pool.file); !kept) return kept;
    pool.kept = true;
  }
  return {};
}

Status KeptPools::forget_but(keeper::Client& client, std::span<const store::PoolFile> pools) {
  std::set<std::string, std::less<>> wanted;
  for (const store::PoolFile& pool : pools) wanted.insert(name_of(pool));
  for (auto pool = pools_.begin(); pool != pools_.end();) {
    if (wanted.contains(pool->first)) {
      ++pool;
      continue;
    }
    if (Status dropped = client.drop(pool->first); !dropped) return dropped;
    pool = pools_.erase(pool);
  }
  return {};
}

Status KeptPools::drop(keeper::Client& client) {
  if (Status dropped = client.drop_prefix(kPrefix); !dropped) return dropped;
  pools_.clear();
  return {};
}

}  // namespace ramfold::daemon
