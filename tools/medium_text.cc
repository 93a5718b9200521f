#include "tools/medium_text.h"

namespace daxcow::tools {

std::string describe_kind(MediumKind kind) {
  switch (kind) {
    case MediumKind::kDeviceDax:
      return "devdax device";
    case MediumKind::kFsdaxFile:
      return "file on an fsdax filesystem";
    case MediumKind::kEmulatedFile:
      return "regular file (emulated persistent memory)";
    case MediumKind::kDram:
      return "memory of the process";
  }
  return "unknown";
}

std::string describe_durability(const MediumInfo& info) {
  switch (info.durability) {
    case Durability::kPowerFail:
      return info.granularity == StoreGranularity::kByte
                 ? "stores are durable at once (the platform flushes CPU caches)"
                 : "stores become durable by CPU cache flush";
    case Durability::kSync:
      return "stores become durable by msync (slow; mount with -o relaxed to survive only the daemon's end)";
    case Durability::kProcess:
      return "nothing to lose: the file is in memory";
  }
  return "unknown";
}

}  // namespace daxcow::tools
