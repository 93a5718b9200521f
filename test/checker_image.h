// Images of pools with damage made by hand, and what the checker says of them.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/checker.h"
#include "engine/checksum.h"
#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/metadata.h"
#include "test/catch.h"

namespace daxcow::test {

inline constexpr std::uint64_t kPoolBytes = 32ull << 20;

using Image = std::vector<std::byte>;

inline CheckReport check_image(const Image& image, const std::function<void(DramMedium&)>& prepare = {}) {
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  if (prepare) prepare(**medium);
  auto report = check(std::move(*medium), CheckOptions{});
  REQUIRE(report);
  return *report;
}

template <class T>
T& at(Image& image, BlockNumber block) {
  return *reinterpret_cast<T*>(image.data() + byte_offset(block));
}

inline std::string listing(const CheckReport& report) {
  std::string text;
  for (const Finding& f : report.findings)
    text += std::string(name_of(f.kind)) + " " + std::to_string(static_cast<int>(f.severity)) + " block " +
            std::to_string(f.block.value) + " [" + f.where + "] " + f.what + "\n";
  return text;
}

inline std::size_t count_of(const CheckReport& report, FindingKind kind) {
  return static_cast<std::size_t>(std::ranges::count(report.findings, kind, &Finding::kind));
}

// Makes the block's checksum right again, in both copies and the chunk's header.
inline void seal(Image& image, BlockNumber block) {
  const BlockNumber base = Metadata::chunk_base(block);
  auto& header = at<format::ChunkHeader>(image, base);
  auto& descriptor = header.blocks[block - base - 1];
  descriptor.crc = block_crc(block, descriptor, at<Block>(image, block));
  header.crc = chunk_header_crc(header);
  for (const BlockNumber from : {block, base}) at<Block>(image, Metadata::mirror_of(from)) = at<Block>(image, from);
}

}  // namespace daxcow::test
