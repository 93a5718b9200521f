// One run of the fuzzer: an image made hostile as the input says is checked, opened, walked, changed, checked again and
// repaired. Whatever the image says, every call returns, with an error at worst.
//
// More is demanded of images that the checker finds nothing wrong with: they must still be clean after the changes.
#pragma once

#include <cstdint>
#include <span>

namespace daxcow::fuzz {

void fuzz_image(std::span<const std::uint8_t> bytes);

}  // namespace daxcow::fuzz
