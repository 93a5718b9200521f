// Repair under random damage, and stopped at any point.
#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "engine/borrowed_medium.h"
#include "engine/reverse_leaf.h"
#include "test/catch.h"
#include "test/repair_case.h"
#include "test/seed.h"

using namespace daxcow;
using namespace daxcow::test;
using format::BlockType;

namespace {

// Lets a number of drains pass; then the machine has stopped: of what was stored since the last one a random part, line
// by line, has reached the medium, and nothing later does.
class StoppingMedium final : public Medium {
 public:
  StoppingMedium(Medium& base, std::uint64_t drains, std::uint64_t seed) : base_(base), left_(drains), random_(seed) {
    info_ = base.info();
    mapping_ = const_cast<std::byte*>(base.mapping());
    size_bytes_ = base.size_bytes();
  }
  bool stopped() const { return stopped_; }
  std::uint64_t drains() const { return drains_; }

  Result<> read(std::uint64_t offset, std::span<std::byte> to) override { return base_.read(offset, to); }
  Result<> store(std::uint64_t offset, std::span<const std::byte> from) override {
    if (stopped_) return fail(ErrorCode::kIo, "stopped");
    // What was there, for those lines that do not make it.
    for (std::uint64_t at = offset / kLineBytes; at * kLineBytes < offset + from.size(); ++at)
      if (!before_.contains(at)) (void)base_.read(at * kLineBytes, before_[at].bytes);
    return base_.store(offset, from);
  }
  Result<> store_zeros(std::uint64_t offset, std::uint64_t length) override {
    const std::vector<std::byte> zeros(length);
    return store(offset, zeros);
  }
  Result<> drain() override {
    if (stopped_) return fail(ErrorCode::kIo, "stopped");
    ++drains_;
    if (left_-- == 0) {
      stopped_ = true;
      for (const auto& [line, content] : before_)
        if (random_() % 2) (void)base_.store(line * kLineBytes, content.bytes);
      return fail(ErrorCode::kIo, "stopped");
    }
    before_.clear();
    return base_.drain();
  }
  Result<std::vector<BadRange>> bad_ranges() override { return base_.bad_ranges(); }
  Result<> clear_bad(BlockRun run) override { return base_.clear_bad(run); }
  Result<bool> wait_bad_change(int stop_fd) override { return base_.wait_bad_change(stop_fd); }
  void note_fault(BlockNumber block) override { base_.note_fault(block); }
  Result<Identity> identity() override { return base_.identity(); }

 private:
  struct Line {
    std::byte bytes[kLineBytes] = {};
  };
  Medium& base_;
  std::uint64_t left_, drains_ = 0;
  std::mt19937_64 random_;
  bool stopped_ = false;
  std::map<std::uint64_t, Line> before_;
};

// Repairs, stopped at the n-th drain. Returns what is on the medium then, and whether it was stopped at all.
std::pair<Image, bool> stopped_repair(const Image& image, std::uint64_t drains, std::uint64_t seed) {
  auto medium = DramMedium::from_image(image);
  REQUIRE(medium);
  auto stopping = std::make_unique<StoppingMedium>(**medium, drains, seed);
  const StoppingMedium& state = *stopping;
  bool stopped = false;
  {
    auto keep = std::make_unique<BorrowedMedium>(*stopping);
    (void)repair(std::move(keep), {});
    stopped = state.stopped();
  }
  return {(*medium)->snapshot(), stopped};
}

// Stopped at every drain in turn, repaired again: as good as a repair that was never stopped.
void require_crash_safe(const Image& damaged, const Allowed& allowed, std::uint64_t step = 1) {
  const std::uint64_t seed = random_seed();
  INFO(describe_seed(seed));
  const Repaired whole = repair_of(damaged);
  REQUIRE(whole.report);
  REQUIRE(whole.report->clean());
  const Contents wanted = contents_of(whole.image);
  for (std::uint64_t drains = 0;; drains += step) {
    const auto [image, stopped] = stopped_repair(damaged, drains, seed + drains);
    if (!stopped) {
      CHECK(drains > 1);
      break;
    }
    CAPTURE(drains);
    const Repaired again = repair_of(image);
    if (!again.report) FAIL(describe(again.report.error()));
    INFO(listing(*again.report));
    REQUIRE(again.report->clean());
    REQUIRE(unexpected_part(difference(wanted, contents_of(again.image)), allowed) == "");
  }
}

std::vector<BlockNumber> used_blocks(const Image& image) {
  std::vector<BlockNumber> used;
  for (std::uint8_t type = 1; type < format::kBlockTypeCount; ++type)
    for (const BlockNumber block : blocks_of_type(image, static_cast<BlockType>(type))) used.push_back(block);
  return used;
}

}  // namespace

TEST_CASE("repair: stopped at any point", "[repair]") {
  const Image& good = repair_image().image;
  Image image = good;
  // What is made anew has times and generations of its own.
  Allowed allowed;
  std::uint64_t step = 1;
  SECTION("copies and nodes") {
    for (const BlockNumber block : blocks_of_type(good, BlockType::kMapNode)) lose(image, block);
    image[3] ^= std::byte{1};
  }
  SECTION("the reverse map") {
    for (const BlockNumber block : blocks_of_type(good, BlockType::kReverseLeaf)) lose(image, block);
    step = 7;
  }
  SECTION("inode blocks") {
    lose(image, find_inode(good, "main", repair_image().file).block);
    allowed = {"main:", "before:"};
    step = 3;
  }
  SECTION("a directory") {
    const InodeAt where = find_inode(good, "main", repair_image().directory);
    lose(image, leaf_of(good, data_fork(where.record, format::LeafKind::kDirectory), FileBlock(0)));
    allowed = {"main:", "before:"};
    step = 9;
  }
  SECTION("a chunk") { lose(image, format::kFirstChunk); }
  SECTION("both superblocks") {
    lose(image, format::kRootsBlock);
    std::memset(image.data(), 0, kBlockBytes);
    std::memset(image.data() + image.size() - kBlockBytes, 0, kBlockBytes);
    allowed = {"main:/lost", "main:"};
  }
  require_crash_safe(image, allowed, step);
}

TEST_CASE("repair: random damage", "[repair]") {
  const std::uint64_t seed = random_seed();
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);
  const Image& good = repair_image().image;
  const std::vector<BlockNumber> used = used_blocks(good);
  int rounds = 60;
  if (const char* given = std::getenv("DAXCOW_ROUNDS")) rounds = std::atoi(given);
  for (int round = 0; round < rounds; ++round) {
    Image image = good;
    const int damages = 1 + static_cast<int>(random() % (random() % 8 == 0 ? 60 : 6));
    for (int i = 0; i < damages; ++i) {
      const BlockNumber block = used[random() % used.size()];
      auto* words = reinterpret_cast<std::uint64_t*>(image.data() + byte_offset(block));
      const std::uint64_t word = random() % 512;
      const BlockNumber base = Metadata::chunk_base(block);
      auto& header = at<format::ChunkHeader>(image, base);
      switch (random() % 10) {
        case 0:
        case 1:
        case 2:  // fields that look like fields lead further than noise
          words[word] = random() % 2 ? random() : words[random() % 512] ^ (1ull << random() % 64);
          seal(image, block);
          break;
        case 3:
        case 4: {  // a word of some other block
          const auto* other =
              reinterpret_cast<const std::uint64_t*>(good.data() + byte_offset(used[random() % used.size()]));
          words[word] = other[random() % 512];
          seal(image, block);
          break;
        }
        case 5:
          lose(image, block);
          break;
        case 6:  // a descriptor
          reinterpret_cast<std::byte*>(&header.blocks[block - base - 1])[random() % 8] ^=
              std::byte{static_cast<std::uint8_t>(1 + random() % 255)};
          header.crc = chunk_header_crc(header);
          at<Block>(image, Metadata::mirror_of(base)) = at<Block>(image, base);
          break;
        case 7:  // a block of another place, with a checksum that fits
          at<Block>(image, block) = at<Block>(image, used[random() % used.size()]);
          seal(image, block);
          break;
        case 8:  // bytes, in one copy or in both
          image[byte_offset(block) + random() % kBlockBytes] ^= std::byte{1};
          if (random() % 2) image[byte_offset(Metadata::mirror_of(block)) + random() % kBlockBytes] ^= std::byte{1};
          break;
        case 9:  // a header
          if (random() % 4 == 0) lose(image, base);
          break;
      }
    }
    CAPTURE(round);
    const Repaired repaired = repair_of(image);
    if (!repaired.report) {
      const Error& error = repaired.report.error();
      INFO(describe(error));
      // Without the roots of everything; or a directory came out twice, and the pool is too small for a second name of
      // each file.
      const bool lost = error.code == ErrorCode::kDamaged && error.message.find("backup") != std::string::npos;
      CHECK((lost || error.code == ErrorCode::kNoSpace));
      continue;
    }
    if (!repaired.report->clean()) FAIL_CHECK(listing(*repaired.report));
    const CheckReport again = check_image(repaired.image);
    if (again.finding_count != 0) FAIL_CHECK("again: " << listing(again));
    (void)contents_of(repaired.image);
  }
}
