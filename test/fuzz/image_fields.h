// Where the fields of the medium's structures are, as tables that edits choose from.
#pragma once

#include <cstdint>
#include <span>

#include "test/fuzz/input.h"

namespace daxcow::fuzz {

struct Field {
  std::uint16_t offset;
  std::uint8_t bytes;  // 1, 2, 4 or 8
};

// A block as an array of equal elements.
struct Layout {
  std::uint16_t first = 0;      // offset of the first element
  std::uint16_t stride = 0;
  std::uint16_t elements = 0;
  std::span<const Field> fields;  // of an element
};

// For edits of fields; not for kBlockCopy, kBadBlock, kBadCopies, kName.
const Layout& layout_of(Target target);

}  // namespace daxcow::fuzz
