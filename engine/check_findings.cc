#include "engine/check_findings.h"

#include <algorithm>
#include <utility>

namespace daxcow {

const char* name_of(FindingKind kind) {
  switch (kind) {
    case FindingKind::kSuperblock:
      return "superblock";
    case FindingKind::kChunk:
      return "chunk";
    case FindingKind::kChecksum:
      return "checksum";
    case FindingKind::kCopy:
      return "copy";
    case FindingKind::kType:
      return "type";
    case FindingKind::kUnreachable:
      return "unreachable";
    case FindingKind::kUnused:
      return "unused";
    case FindingKind::kOutOfRange:
      return "out of range";
    case FindingKind::kMissingRecord:
      return "missing record";
    case FindingKind::kExtraRecord:
      return "extra record";
    case FindingKind::kRecordOrder:
      return "record order";
    case FindingKind::kMapShape:
      return "map shape";
    case FindingKind::kInode:
      return "inode";
    case FindingKind::kBlockCount:
      return "block count";
    case FindingKind::kLinkCount:
      return "link count";
    case FindingKind::kDirectory:
      return "directory";
    case FindingKind::kParent:
      return "parent";
    case FindingKind::kOrphan:
      return "orphan";
    case FindingKind::kFullHint:
      return "full hint";
    case FindingKind::kAttributes:
      return "attributes";
    case FindingKind::kVolume:
      return "volume";
    case FindingKind::kPoisoned:
      return "poisoned";
  }
  return "unknown";
}

bool CheckReport::clean() const {
  return std::ranges::none_of(findings, [](const Finding& f) { return checker::is_inconsistency(f.kind, f.severity); });
}

namespace checker {

// Notes and known losses must not crowd out an inconsistency: clean() looks at what is kept.
Finding* Findings::make_room(FindingKind kind, Severity severity) {
  ++report_.finding_count;
  auto& kept = report_.findings;
  if (kept.size() < CheckReport::kMaximumFindings) return &kept.emplace_back();
  if (!is_inconsistency(kind, severity)) return nullptr;
  while (first_harmless_ < kept.size() && is_inconsistency(kept[first_harmless_].kind, kept[first_harmless_].severity))
    ++first_harmless_;
  return first_harmless_ < kept.size() ? &kept[first_harmless_] : nullptr;
}

void Findings::add(FindingKind kind, Severity severity, BlockNumber block, std::string where, std::string what) {
  if (Finding* finding = make_room(kind, severity))
    *finding = {kind, severity, block, std::move(where), std::move(what)};
}

void Findings::add(FindingKind kind, Severity severity, BlockNumber block, const Place& place, std::string what) {
  Finding* finding = make_room(kind, severity);
  if (finding == nullptr) return;
  std::string where =
      place.inode ? paths_.describe(place.volume, *place.inode) : paths_.describe(place.volume) + ", inode table";
  if (place.offset_bytes) where += ", offset " + std::to_string(*place.offset_bytes);
  *finding = {kind, severity, block, std::move(where), std::move(what)};
}

}  // namespace checker
}  // namespace daxcow
