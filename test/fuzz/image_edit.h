// Plants the edits of an input into an image and makes the checksums right again, where the input does not say otherwise.
#pragma once

#include "test/fuzz/base_images.h"
#include "test/fuzz/input.h"

namespace daxcow::fuzz {

// The base's working image must have been reset.
void apply_edits(BaseImage& base, const Input& input);

// Replaces the tree and system records of the reverse map by those that follow from the metadata blocks of the image, which
// may be anything; the ledger stays. Seals what it writes. Gives up when there is not enough room for leaves.
void rebuild_reverse_map(BaseImage& base);

}  // namespace daxcow::fuzz
