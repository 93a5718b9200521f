// Where the checker puts what it finds: bounded, worst first, each with a place that a person recognises.
#pragma once

#include <optional>
#include <string>

#include "engine/check_paths.h"
#include "engine/checker.h"
#include "engine/types.h"

namespace daxcow::checker {

// Whose block it is: the first owner that the check came by.
struct Place {
  VolumeNumber volume;
  std::optional<InodeNumber> inode;  // none: the volume's inode table
  std::optional<std::uint64_t> offset_bytes;
};

class Findings {
 public:
  Findings(CheckReport& report, Paths& paths) : report_(report), paths_(paths) {}

  // Without a remedy: the usual one.
  void add(FindingKind kind, Severity severity, BlockNumber block, std::string where, std::string what,
           std::optional<Remedy> remedy = {});
  // Looks up the place's path only if the finding is kept.
  void add(FindingKind kind, Severity severity, BlockNumber block, const Place& place, std::string what,
           std::optional<Remedy> remedy = {});

 private:
  // A place in the report for a finding; null when it is full of findings that matter as much.
  Finding* make_room(FindingKind kind, Severity severity);

  CheckReport& report_;
  Paths& paths_;
  std::size_t first_harmless_ = 0;  // no finding before it may be given up for one that matters more
};

// False for notes and for losses that the ledger knows of: a pool with only these is consistent.
constexpr bool is_inconsistency(FindingKind kind, Severity severity) {
  return severity != Severity::kNote && !(kind == FindingKind::kPoisoned && severity == Severity::kLoss);
}

}  // namespace daxcow::checker
