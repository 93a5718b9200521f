// The entry points that libFuzzer calls. See test/fuzz/run.
#include <cstddef>
#include <cstdint>

#include "test/fuzz/base_images.h"
#include "test/fuzz/fuzz_image.h"
#include "test/fuzz/image_mutator.h"
#include "test/fuzz/input.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t maximum_size);

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  for (std::size_t kind = 0; kind < daxcow::fuzz::kBaseKinds; ++kind) daxcow::fuzz::base_image(static_cast<daxcow::fuzz::BaseKind>(kind));
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  daxcow::fuzz::fuzz_image({data, size});
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t maximum_size, unsigned seed) {
  const auto any = [](std::span<std::uint8_t> bytes) { LLVMFuzzerMutate(bytes.data(), bytes.size(), bytes.size()); };
  return encode(daxcow::fuzz::mutate(daxcow::fuzz::decode({data, size}), seed, any), {data, maximum_size});
}

extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* one, std::size_t one_size, const std::uint8_t* other, std::size_t other_size,
                                                 std::uint8_t* to, std::size_t maximum_size, unsigned seed) {
  using daxcow::fuzz::decode;
  return encode(daxcow::fuzz::cross(decode({one, one_size}), decode({other, other_size}), seed), {to, maximum_size});
}
