// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/pin_loader.hpp"

#include "daemon/log.hpp"
#include "sys/capabilities.hpp"

namespace ramfold::daemon {
namespace {

void give_up_capabilities() {
  if (Status dropped = sys::drop_capabilities(sys::PinTest::kCapabilities); !dropped)
    log::error("the capabilities for BPF are kept: {}", dropped.error().text());
}

}  // namespace

std::unique_ptr<PinLoader> PinLoader::begin() {
  auto loader = std::make_unique<PinLoader>();
  auto thread = sys::Thread::start("rf-pins", [self = loader.get()] { self->load(); });
  if (thread) {
    loader->thread_ = std::move(*thread);
    give_up_capabilities();
  } else {
    loader->load();
  }
  return loader;
}

void PinLoader::load() {
  loaded_.emplace(sys::PinTest::load(sys::Procfs()));
  private_pins_.emplace(sys::PrivatePins::load(sys::Procfs()));
  give_up_capabilities();
}

const sys::LoadedPinTest& PinLoader::loaded() {
  thread_.join();
  return *loaded_;
}

const sys::LoadedPrivatePins& PinLoader::private_pins() {
  thread_.join();
  return *private_pins_;
}

}  // namespace ramfold::daemon
