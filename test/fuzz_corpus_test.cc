// Every input that the fuzzer has kept, among them all that ever failed, through the same function again.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "test/catch.h"
#include "test/fuzz/base_images.h"
#include "test/fuzz/fuzz_image.h"
#include "engine/checker.h"

namespace daxcow::fuzz {
namespace {

TEST_CASE("The images that hostile ones are made from are clean") {
  for (std::size_t kind = 0; kind < kBaseKinds; ++kind) {
    CAPTURE(kind);
    BaseImage& base = base_image(static_cast<BaseKind>(kind));
    base.work->reset();
    const auto report = check(base.work->medium(true), {});
    REQUIRE(report);
    for (const Finding& finding : report->findings) INFO(name_of(finding.kind) << " " << finding.where << ": " << finding.what);
    CHECK(report->clean());
  }
}

TEST_CASE("No image of the corpus of hostile ones does harm") {
  std::vector<std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(DAXCOW_SOURCE_DIR "/test/fuzz/corpus")) files.push_back(file.path());
  std::ranges::sort(files);
  REQUIRE(!files.empty());
  for (const std::string& file : files) {
    INFO(file);
    std::ifstream in(file, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
    UNSCOPED_INFO(file);
    fuzz_image({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
  }
  SUCCEED(files.size() << " images");
}

}  // namespace
}  // namespace daxcow::fuzz
