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

const char* name_of(Remedy remedy) {
  switch (remedy) {
    case Remedy::kNone:
      return "none";
    case Remedy::kCopy:
      return "copy";
    case Remedy::kCorrect:
      return "correct";
    case Remedy::kRecords:
      return "records";
    case Remedy::kLedger:
      return "ledger";
    case Remedy::kLostAndFound:
      return "lost+found";
    case Remedy::kRebuild:
      return "rebuild";
    case Remedy::kFree:
      return "free";
    case Remedy::kRemove:
      return "remove";
    case Remedy::kUnrepairable:
      return "unrepairable";
  }
  return "unknown";
}

const char* describe(Remedy remedy) {
  switch (remedy) {
    case Remedy::kNone:
      return "nothing to repair";
    case Remedy::kCopy:
      return "repair writes it again from its other copy";
    case Remedy::kCorrect:
      return "repair corrects it";
    case Remedy::kRecords:
      return "repair makes the reverse map say what the trees say";
    case Remedy::kLedger:
      return "repair enters the block into the ledger; reads of it fail until it is overwritten";
    case Remedy::kLostAndFound:
      return "repair gives it a name in lost+found";
    case Remedy::kRebuild:
      return "repair rebuilds it from what refers to it and from the reverse map; what neither says is lost";
    case Remedy::kFree:
      return "repair gives the block back";
    case Remedy::kRemove:
      return "repair removes it; what it led to is lost";
    case Remedy::kUnrepairable:
      return "cannot be repaired";
  }
  return "unknown";
}

bool is_safe(Remedy remedy) {
  switch (remedy) {
    case Remedy::kNone:
    case Remedy::kCopy:
    case Remedy::kCorrect:
    case Remedy::kRecords:
    case Remedy::kLedger:
    case Remedy::kLostAndFound:
      return true;
    case Remedy::kRebuild:
    case Remedy::kFree:
    case Remedy::kRemove:
    case Remedy::kUnrepairable:
      return false;
  }
  return false;
}

Remedy usual_remedy(FindingKind kind, Severity severity) {
  if (severity == Severity::kNote) return Remedy::kNone;
  const bool loss = severity == Severity::kLoss;
  switch (kind) {
    case FindingKind::kSuperblock:
    case FindingKind::kChunk:
      return loss ? Remedy::kRebuild : Remedy::kCopy;
    case FindingKind::kCopy:
      return Remedy::kCopy;
    case FindingKind::kChecksum:
      return Remedy::kRebuild;
    case FindingKind::kType:
    case FindingKind::kUnused:
    case FindingKind::kOutOfRange:
      return Remedy::kRemove;
    case FindingKind::kMapShape:
      return loss ? Remedy::kRemove : Remedy::kCorrect;
    case FindingKind::kUnreachable:
      return Remedy::kFree;
    case FindingKind::kMissingRecord:
    case FindingKind::kExtraRecord:
    case FindingKind::kRecordOrder:
      return Remedy::kRecords;
    case FindingKind::kInode:
    case FindingKind::kBlockCount:
    case FindingKind::kLinkCount:
    case FindingKind::kDirectory:
    case FindingKind::kParent:
    case FindingKind::kFullHint:
    case FindingKind::kAttributes:
    case FindingKind::kVolume:
    case FindingKind::kOrphan:
      return Remedy::kCorrect;
    case FindingKind::kPoisoned:
      return loss ? Remedy::kNone : Remedy::kLedger;
  }
  return Remedy::kUnrepairable;
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

void Findings::add(FindingKind kind, Severity severity, BlockNumber block, std::string where, std::string what,
                   std::optional<Remedy> remedy) {
  if (Finding* finding = make_room(kind, severity))
    *finding = {
        kind, severity, block, std::move(where), std::move(what), remedy.value_or(usual_remedy(kind, severity))};
}

void Findings::add(FindingKind kind, Severity severity, BlockNumber block, const Place& place, std::string what,
                   std::optional<Remedy> remedy) {
  Finding* finding = make_room(kind, severity);
  if (finding == nullptr) return;
  std::string where =
      place.inode ? paths_.describe(place.volume, *place.inode) : paths_.describe(place.volume) + ", inode table";
  if (place.offset_bytes) where += ", offset " + std::to_string(*place.offset_bytes);
  *finding = {kind, severity, block, std::move(where), std::move(what), remedy.value_or(usual_remedy(kind, severity))};
}

}  // namespace checker
}  // namespace daxcow
