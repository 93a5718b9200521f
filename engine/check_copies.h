// The first part of the check: that everything which is kept twice is good twice. What a copy says is not looked at
// here.
#pragma once

#include "engine/check_context.h"

namespace daxcow::checker {

// Superblocks, journal, chunk headers, and both copies of every described block. The ledger must be known: a copy that
// it lists is expected to be bad.
void check_copies(Context& context);

// What is wrong with a descriptor in itself; nullptr if nothing is.
const char* descriptor_fault(const format::BlockDescriptor& descriptor);

}  // namespace daxcow::checker
