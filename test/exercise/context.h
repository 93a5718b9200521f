// What all parts of one exercising process share.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

#include "test/exercise/features.h"
#include "test/exercise/operation.h"
#include "test/exercise/options.h"
#include "test/exercise/pattern.h"
#include "test/exercise/random.h"

namespace daxcow::exercise {

class Context {
 public:
  Context(const Options& given_options, const Features& given_features, unsigned given_process)
      : options(given_options),
        features(given_features),
        process(given_process),
        random(given_options.seed, given_process),
        pattern(given_options.seed, given_process, given_options.longest_bytes),
        buffer_bytes_(given_options.longest_bytes + 2 * kAlignment) {
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, buffer_bytes_ / kAlignment * kAlignment + kAlignment)));
    if (buffer_ == nullptr) throw std::bad_alloc();
  }

  const Options& options;
  const Features& features;
  const unsigned process;
  Random random;
  const Pattern pattern;
  History history;

  // Memory to read to and to write from, aligned as asked for and no better.
  std::span<std::byte> buffer(std::uint64_t length, std::uint64_t alignment) {
    const std::uint64_t shift = alignment * random.below(kAlignment / alignment);
    return {buffer_.get() + shift, length};
  }

 private:
  static constexpr std::uint64_t kAlignment = 4096;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::uint64_t buffer_bytes_;
  std::unique_ptr<std::byte, Free> buffer_;
};

}  // namespace daxcow::exercise
