// A pool on a medium in DRAM, without FUSE and without background threads, for the engine-only benchmark.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>

#include "engine/borrowed_medium.h"
#include "engine/check.h"
#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/pool.h"
#include "engine/volume.h"

namespace daxcow::bench {

// The value, or the end of the program with the error: a benchmark that goes on after a failure measures nothing.
template <class T>
T must(Result<T> result) {
  CHECK(result.has_value());
  return std::move(*result);
}
inline void must(Result<> result) { CHECK(result.has_value()); }

class EnginePool {
 public:
  explicit EnginePool(std::uint64_t size_bytes) : medium_(must(DramMedium::create(size_bytes))) {
    must(Pool::format(*medium_, {.label = {}, .progress = {}}));
    open();
  }
  ~EnginePool() { close(); }
  EnginePool(const EnginePool&) = delete;
  EnginePool& operator=(const EnginePool&) = delete;

  // As after a restart: the medium keeps what is in it.
  void open() {
    PoolOptions options;
    options.background = false;
    options.cache_bytes = 4ull << 30;  // nothing is evicted: what is measured is not the cache's size
    options.directory_bytes = 4ull << 30;
    pool_ = must(Pool::open(std::make_unique<BorrowedMedium>(*medium_), std::move(options)));
  }
  void mount() { volume_ = must(pool_->mount("main", false)); }
  void close() {
    volume_.reset();
    pool_.reset();
  }

  Pool& pool() { return *pool_; }
  Volume& volume() { return *volume_; }
  Medium& medium() { return *medium_; }

  Attributes create(InodeNumber directory, const std::string& name, std::uint32_t mode = S_IFREG | 0644) {
    return must(volume_->create(directory, name, {.mode = mode, .symlink_target = {}}));
  }
  Attributes create(const std::string& name, std::uint32_t mode = S_IFREG | 0644) {
    return create(format::kRootInode, name, mode);
  }

 private:
  std::unique_ptr<DramMedium> medium_;
  std::unique_ptr<Pool> pool_;
  std::shared_ptr<Volume> volume_;
};

}  // namespace daxcow::bench
