// Changes inputs by their records, so that most results reach deep into the engine.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "test/fuzz/input.h"

namespace daxcow::fuzz {

// `any` changes some bytes at will and returns their new number (libFuzzer's own mutations).
Input mutate(Input input, std::uint64_t seed, const std::function<void(std::span<std::uint8_t>)>& any);
// Records of both.
Input cross(const Input& one, const Input& other, std::uint64_t seed);

}  // namespace daxcow::fuzz
