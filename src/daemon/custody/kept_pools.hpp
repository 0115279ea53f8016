// SPDX-License-Identifier: GPL-2.0-or-later
// The pools (store/pool/pool.hpp) that the keeper holds or should hold, and their names:
// "pool.<group>.<id of the pool>". The id makes the name of every pool different, also when the
// number of a group is used again. Keeps a duplicate of each pool, for a keeper that has lost it.
// Threads: one at a time; Keeping orders the calls.
// Invariant: a pool that the keeper has acknowledged once stays here until forget_but() or drop().
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "keeper/client.hpp"
#include "store/files.hpp"

namespace ramfold::daemon {

// Places of the keeper: descriptors, and bytes of their names.
struct KeeperPlaces {
  std::size_t descriptors = 0;
  std::size_t bytes = 0;
  uid_t account = 0;
};
// The bytes of a name, as the keeper counts them (keeper/table.cpp): kind, dot, name, colon.
inline std::size_t stored_bytes(std::string_view name) noexcept { return name.size() + 3; }

class KeptPools {
 public:
  static constexpr std::string_view kPrefix = "pool.";
  static std::string name_of(const store::PoolFile& pool);
  // The pool of which the keeper holds `file` under this name. Empty: it is not the name of a pool.
  static std::optional<store::PoolFile> parse(std::string_view name, sys::Fd file);

  // The keeper of a new connection: nothing is known of what it holds.
  void new_connection() noexcept;
  // The keeper of this connection holds this pool.
  Status note_kept(const store::PoolFile& pool, uid_t account);
  bool has(const store::PoolFile& pool) const { return pools_.contains(name_of(pool)); }
  // Notes on whose account the places of this pool are.
  void set_account(const store::PoolFile& pool, uid_t account);
  KeeperPlaces places_of(const store::PoolFile& pool, uid_t account) const;
  template <typename F>
  void each_places(F f) const {
    for (const auto& [name, pool] : pools_) f(pool.places);
  }
  std::size_t size() const noexcept { return pools_.size(); }

  // Gives the keeper this pool, unless it has it.
  Status keep(keeper::Client& client, const store::PoolFile& pool, uid_t account);
  // Gives the keeper every pool of this list that it has not.
  Status keep_all(keeper::Client& client);
  // The keeper forgets the pools that are not among these. Those that it could not be told of stay
  // here, for the next call.
  Status forget_but(keeper::Client& client, std::span<const store::PoolFile> pools);
  // The keeper forgets all pools.
  Status drop(keeper::Client& client);

 private:
  struct Pool {
    sys::Fd file;
    KeeperPlaces places;
    bool kept = false;  // by the keeper of this connection
  };
  std::map<std::string, Pool, std::less<>> pools_;
};

}  // namespace ramfold::daemon
