#include "test/explore/history.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

namespace daxcow::test {

// --- units -----------------------------------------------------------------------------------------------------------

void fill(std::span<std::byte> bytes, std::uint64_t write) {
  for (std::uint64_t at = 0; at + sizeof(Unit) <= bytes.size(); at += sizeof(Unit)) {
    const Unit unit = unit_of(write, at / kUnitBytes);
    std::memcpy(bytes.data() + at, &unit, sizeof unit);
  }
}

Units decode(std::span<const std::byte> bytes, std::uint64_t piece) {
  Units units;
  for (std::uint64_t at = 0; at < bytes.size(); at += piece) {
    Unit unit = kTorn;
    if (bytes.size() - at >= piece) {
      std::memcpy(&unit, bytes.data() + at, sizeof unit);
      // All the same word: equal to itself, shifted by one.
      if (std::memcmp(bytes.data() + at, bytes.data() + at + sizeof unit, piece - sizeof unit) != 0) unit = kTorn;
    }
    units.push_back(unit);
  }
  return units;
}

namespace {
std::string text_of(Unit unit) {
  if (unit == kTorn) return "torn";
  if (unit == kAny) return "?";
  if (unit == 0) return "0";
  return std::to_string(unit / kMaximumUnits) + "." + std::to_string(unit % kMaximumUnits);
}
}  // namespace

std::string text(const Units& units) {
  std::string all = "[";
  for (const Unit unit : units) all += (all.size() > 1 ? " " : "") + text_of(unit);
  return all + "]";
}

// --- calls -----------------------------------------------------------------------------------------------------------

const char* name_of(CallKind kind) {
  static const char* const kNames[] = {"write",    "append",   "read",   "read-zeros",       "lease",
                                       "truncate", "punch",    "zero",   "zero-keep",        "allocate",
                                       "clone",    "reflink",  "dedupe", "attributes",       "sync",
                                       "create",   "unlink",   "rename", "rename-noreplace", "exchange",
                                       "link",     "lookup",   "list",   "forget",           "snapshot",
                                       "delete",   "rollback", "verify", "sync-all",         "settle",
                                       "scrub",    "patrol",   "poison"};
  return kNames[static_cast<unsigned>(kind)];
}

std::string Call::text() const {
  std::string all = "[" + std::to_string(begin) + "-" + (end == 0 ? std::string("...") : std::to_string(end)) + "] thread " +
                    std::to_string(thread) + ": " + name_of(kind) + " " + volume;
  if (number != 0) all += " #" + std::to_string(number);
  if (!name.empty()) all += " " + name;
  if (!to_name.empty()) all += " -> " + to_name;
  if (count != 0 || first != 0) all += " units " + std::to_string(first) + "+" + std::to_string(count);
  if (to_number != 0) all += " -> " + to_volume + " #" + std::to_string(to_number) + " at " + std::to_string(to_first);
  if (write != 0) all += " with " + std::to_string(write);
  all += " = ";
  if (error) return all + describe(Error{*error, message});
  all += wrong.empty() ? "done" : wrong;
  if (kind == CallKind::kRead || kind == CallKind::kReadZeros || kind == CallKind::kLease)
    all += " " + test::text(units);
  if (kind == CallKind::kAttributes || kind == CallKind::kLookup) all += " size " + std::to_string(size) + ", links " + std::to_string(links);
  if (is_clone(kind)) all += " " + std::to_string(got);
  if (got_number != 0) all += " #" + std::to_string(got_number) + " generation " + std::to_string(got_generation);
  for (const auto& [entry, inode] : listing) all += " " + entry + "#" + std::to_string(inode);
  return all;
}

// --- the model -------------------------------------------------------------------------------------------------------

ModelVolume model_of(const DumpedVolume& volume) {
  ModelVolume model;
  for (const auto& [path, inode] : volume.names) {
    if (!S_ISREG(inode.mode)) continue;
    model.names[path.substr(1)] = inode.generation;
    model.by_number[inode.number] = inode.generation;
    ModelFile& file = model.files[inode.generation];
    if (inode.size_bytes > kLargestFile) continue;  // the one that fills the pool
    file.units.assign(inode.size_bytes / kUnitBytes, 0);
    for (const auto& [block, content] : inode.blocks) {
      const Units units = decode(std::as_bytes(std::span(content)));
      for (std::size_t i = 0; i < units.size() && block * kUnitsPerBlock + i < file.units.size(); ++i)
        file.units[block * kUnitsPerBlock + i] = units[i];
    }
    for (const std::uint64_t block : inode.lost)
      for (std::uint64_t i = block * kUnitsPerBlock; i < std::min<std::uint64_t>((block + 1) * kUnitsPerBlock, file.units.size()); ++i)
        file.units[i] = kAny;
  }
  return model;
}

namespace {

bool same(const Units& a, const Units& b) {
  return a.size() == b.size() &&
         std::ranges::equal(a, b, [](Unit x, Unit y) { return x == y || x == kAny || y == kAny; });
}

}  // namespace

std::string compare(const ModelVolume& model, const ModelVolume& seen) {
  for (const auto& [name, file] : model.names) {
    const auto other = seen.names.find(name);
    if (other == seen.names.end()) return name + " is missing";
    if (other->second != file) return name + " is another file";
    const ModelFile &expected = model.files.at(file), &found = seen.files.at(file);
    if (!expected.any_size && !same(expected.units, found.units))
      return name + " has " + text(found.units) + " instead of " + text(expected.units);
  }
  for (const auto& [name, file] : seen.names)
    if (!model.names.contains(name)) return name + " should not be there";
  return "";
}

namespace {

// Done in several transactions. The inode's lock hides that from who reads; sizes are looked up without it.
bool in_steps(CallKind kind) {
  return kind == CallKind::kPunch || kind == CallKind::kZero || kind == CallKind::kZeroKeep ||
         kind == CallKind::kAllocate || kind == CallKind::kClone || kind == CallKind::kReflink;
}

class Applying {
 public:
  // `any_size`: the call may have met another one between its steps.
  Applying(ModelState& state, const Rules& rules, bool any_size = false) : state_(state), rules_(rules), any_size_(any_size) {}

  // Does what the call did, if its answer can be the answer of this state.
  bool run(const Call& call) {
    if (!call.wrong.empty()) return false;
    if (call.error) {
      if (*call.error == ErrorCode::kNoSpace) return rules_.may_be_full && apply_stopped(call);
      if (*call.error == ErrorCode::kPoisoned) return rules_.may_be_poisoned && apply_poisoned(call);
    }
    switch (call.kind) {
      case CallKind::kSyncAll:
      case CallKind::kSettle:
      case CallKind::kPoison:
        return !call.error;
      case CallKind::kScrub:
        return !call.error || (*call.error == ErrorCode::kBusy && rules_.may_patrol);
      case CallKind::kPatrol:
        return !call.error || *call.error == ErrorCode::kBusy || *call.error == ErrorCode::kInvalid;
      case CallKind::kSnapshot:
      case CallKind::kDelete:
      case CallKind::kRollback:
      case CallKind::kVerify:
        return apply_volume(call);
      default:
        break;
    }
    ModelVolume& volume = state_.volumes.at(call.volume);
    switch (call.kind) {
      case CallKind::kCreate:
      case CallKind::kUnlink:
      case CallKind::kRename:
      case CallKind::kRenameNoReplace:
      case CallKind::kExchange:
      case CallKind::kLink:
      case CallKind::kLookup:
      case CallKind::kList:
        return apply_name(call, volume);
      case CallKind::kForget: {
        ModelFile* file = find(call.volume, call.number);
        if (file != nullptr && file->held != 0) --file->held;
        return true;
      }
      default:
        return apply_file(call, volume);
    }
  }

  // Was under way in a crash: did it, or a part of it. Several ways; false if there is no such way.
  bool run_pending(const Call& call, unsigned way) {
    if (way == 0) return changes(call) && run(call);  // its answer came later, but it is known
    if (way > 1) return false;
    ModelFile* file = target_of(call);
    if (file == nullptr) return false;
    switch (call.kind) {
      case CallKind::kWrite:
        blur(*file, call.first, call.count);
        return true;
      case CallKind::kPunch:
      case CallKind::kZero:
      case CallKind::kZeroKeep:
      case CallKind::kAllocate:
      case CallKind::kClone:
      case CallKind::kReflink:
        file->any_size = true;
        return true;
      default:
        return false;
    }
  }

 private:
  static bool changes(const Call& call) {
    switch (call.kind) {
      case CallKind::kRead:
      case CallKind::kReadZeros:
      case CallKind::kLease:
      case CallKind::kDedupe:
      case CallKind::kAttributes:
      case CallKind::kSync:
      case CallKind::kLookup:
      case CallKind::kList: case CallKind::kVerify: case CallKind::kSyncAll: case CallKind::kSettle: case CallKind::kScrub:
      case CallKind::kPatrol:
      case CallKind::kPoison:
      case CallKind::kForget:
        return false;
      default:
        return true;
    }
  }

  // The file that a call changes, if it changes one.
  ModelFile* target_of(const Call& call) {
    return is_clone(call.kind) ? find(call.to_volume, call.to_number) : find(call.volume, call.number);
  }
  ModelFile* find(const std::string& volume, std::uint64_t number) {
    ModelVolume& in = state_.volumes.at(volume);
    const auto at = in.by_number.find(number);
    return at == in.by_number.end() ? nullptr : &in.files.at(at->second);
  }
  static std::uint64_t links(const ModelVolume& volume, std::uint64_t file) {
    return static_cast<std::uint64_t>(std::ranges::count_if(volume.names, [&](const auto& name) { return name.second == file; }));
  }
  // Whether nothing keeps it any more.
  bool gone(const ModelVolume& volume, std::uint64_t number) {
    const auto at = volume.by_number.find(number);
    return at == volume.by_number.end() || (volume.files.at(at->second).held == 0 && links(volume, at->second) == 0);
  }
  static void blur(ModelFile& file, std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = first; i < std::min<std::uint64_t>(first + count, file.units.size()); ++i) file.units[i] = kAny;
  }
  static void clear(ModelFile& file, std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = first; i < std::min<std::uint64_t>(first + count, file.units.size()); ++i) file.units[i] = 0;
  }
  static void grow(ModelFile& file, std::uint64_t size) {
    if (file.units.size() < size) file.units.resize(size, 0);
  }

  // What is done in several steps may have ended between them.
  bool apply_stopped(const Call& call) {
    if (!in_steps(call.kind)) return true;
    if (ModelFile* file = target_of(call)) file->any_size = true;
    return true;
  }

  bool apply_poisoned(const Call& call) {
    if (!changes(call)) return true;
    const bool clone = is_clone(call.kind);
    if (call.volume.empty() || (call.number == 0 && !clone)) return false;
    ModelFile* file = target_of(call);
    if (file == nullptr) return false;
    // Where several steps are allowed, some may have been done.
    if (clone || call.kind == CallKind::kPunch || call.kind == CallKind::kZero || call.kind == CallKind::kZeroKeep) file->any_size = true;
    if (call.kind == CallKind::kWrite) blur(*file, call.first, call.count);
    return true;
  }

  bool apply_file(const Call& call, ModelVolume& volume) {
    if (call.error && (call.kind == CallKind::kReflink || call.kind == CallKind::kDedupe) &&
        *call.error != ErrorCode::kStale)
      return apply_refused(call);
    if (call.error) {
      if (*call.error != ErrorCode::kStale) return false;
      return (gone(volume, call.number) ||
              (is_clone(call.kind) && gone(state_.volumes.at(call.to_volume), call.to_number))) &&
             apply_stopped(call);
    }
    ModelFile* const file = find(call.volume, call.number);
    if (file == nullptr) return false;
    switch (call.kind) {
      case CallKind::kWrite:
      case CallKind::kAppend: {
        const std::uint64_t first = call.kind == CallKind::kAppend ? file->units.size() : call.first;
        grow(*file, first + call.count);
        for (std::uint64_t i = 0; i < call.count; ++i) file->units[first + i] = unit_of(call.write, i);
        return true;
      }
      case CallKind::kRead:
      case CallKind::kLease: {
        if (file->any_size) return true;
        const std::uint64_t first = std::min<std::uint64_t>(call.first, file->units.size());
        const std::uint64_t last = std::min<std::uint64_t>(call.first + call.count, file->units.size());
        return same(Units(file->units.begin() + static_cast<std::ptrdiff_t>(first), file->units.begin() + static_cast<std::ptrdiff_t>(last)), call.units);
      }
      case CallKind::kReadZeros: {
        if (file->any_size) return true;
        const std::uint64_t first = std::min<std::uint64_t>(call.first, file->units.size());
        const std::uint64_t last = std::min<std::uint64_t>(call.first + call.count, file->units.size());
        if (call.units.size() != (last - first) * kSectorsPerUnit) return false;
        for (std::uint64_t i = 0; i < call.units.size(); ++i) {
          const Unit got = call.units[i], there = file->units[first + i / kSectorsPerUnit];
          if (got != there && there != kAny && !(got == 0 && rules_.may_be_poisoned)) return false;
        }
        return true;
      }
      case CallKind::kTruncate:
        file->units.resize(call.count, 0);
        return true;
      case CallKind::kPunch:
        clear(*file, call.first, call.count);
        return true;
      case CallKind::kZero:
        clear(*file, call.first, call.count);
        grow(*file, call.first + call.count);
        return true;
      case CallKind::kZeroKeep:
        clear(*file, call.first, call.count);
        return true;
      case CallKind::kAllocate:
        grow(*file, call.first + call.count);
        return true;
      case CallKind::kAttributes:
        return (any_size_ || file->any_size || call.size == file->units.size()) && call.links == links(volume, volume.by_number.at(call.number));
      case CallKind::kSync:
        return true;
      case CallKind::kClone:
        return apply_clone(call, *file);
      case CallKind::kReflink:
      case CallKind::kDedupe:
        return apply_reflink(call, *file);
      default:
        return false;
    }
  }

  bool apply_clone(const Call& call, ModelFile& from) {
    ModelFile* const to = find(call.to_volume, call.to_number);
    if (to == nullptr) return false;
    if (from.any_size || to->any_size) {
      to->any_size = true;
      return true;
    }
    const std::uint64_t want = call.first >= from.units.size() ? 0 : std::min<std::uint64_t>(call.count, from.units.size() - call.first);
    if (call.got > want || (call.got < want && !rules_.may_be_full && !rules_.may_be_poisoned)) return false;
    const Units source(from.units.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(call.first, from.units.size())), from.units.end());
    if (call.got != 0) grow(*to, call.to_first + call.got);
    for (std::uint64_t i = 0; i < call.got; ++i) to->units[call.to_first + i] = source[i];
    return true;
  }

  // How many units a clone or a deduplication of this range is about, by the kernel's rules; nothing: it is refused.
  static std::optional<std::uint64_t> length_by_rule(const Call& call, const ModelFile& from, const ModelFile& to) {
    const bool dedupe = call.kind == CallKind::kDedupe;
    const std::uint64_t from_end = call.first + call.count, to_end = call.to_first + call.count;
    if (call.first % kUnitsPerBlock != 0 || call.to_first % kUnitsPerBlock != 0 || from_end > from.units.size())
      return std::nullopt;
    if (dedupe && to_end > to.units.size()) return std::nullopt;
    std::uint64_t length = call.count;
    if (length % kUnitsPerBlock != 0 &&
        !(from_end == from.units.size() && (dedupe ? to_end == to.units.size() : to_end >= to.units.size()))) {
      if (!dedupe) return std::nullopt;
      length -= length % kUnitsPerBlock;
    }
    const std::uint64_t covered = (length + kUnitsPerBlock - 1) / kUnitsPerBlock * kUnitsPerBlock;
    if (&from == &to && call.first < call.to_first + covered && call.to_first < call.first + covered)
      return std::nullopt;
    return length;
  }
  static bool is_equal(const Call& call, const ModelFile& from, const ModelFile& to, std::uint64_t length,
                       bool surely) {
    for (std::uint64_t i = 0; i < length; ++i) {
      const Unit a = from.units[call.first + i], b = to.units[call.to_first + i];
      if (a == kAny || b == kAny ? surely : a != b) return false;
    }
    return true;
  }

  bool apply_reflink(const Call& call, ModelFile& from) {
    ModelFile* const to = target_of(call);
    if (to == nullptr) return false;
    if (from.any_size || to->any_size) {
      to->any_size = to->any_size || call.kind == CallKind::kReflink;
      return true;
    }
    const auto length = length_by_rule(call, from, *to);
    if (!length || call.got != *length) return false;
    if (call.kind == CallKind::kDedupe) return is_equal(call, from, *to, *length, false);
    grow(*to, call.to_first + *length);
    for (std::uint64_t i = 0; i < *length; ++i) to->units[call.to_first + i] = from.units[call.first + i];
    return true;
  }

  bool apply_refused(const Call& call) {
    const ModelFile *from = find(call.volume, call.number), *to = target_of(call);
    if (from == nullptr || to == nullptr) return false;
    if (from->any_size || to->any_size) return true;
    const auto length = length_by_rule(call, *from, *to);
    if (*call.error == ErrorCode::kInvalid) return !length;
    return *call.error == ErrorCode::kDifferent && length && !is_equal(call, *from, *to, *length, true);
  }

  bool apply_name(const Call& call, ModelVolume& volume) {
    const auto at = volume.names.find(call.name);
    const bool there = at != volume.names.end();
    switch (call.kind) {
      case CallKind::kCreate:
        if (call.error) return *call.error == ErrorCode::kExists && there;
        if (there || !gone(volume, call.got_number)) return false;
        volume.names[call.name] = call.got_generation;
        volume.files[call.got_generation] = {{}, call.name.starts_with("p") ? 1u : 0u, false};
        volume.by_number[call.got_number] = call.got_generation;
        return true;
      case CallKind::kUnlink:
        if (call.error) return *call.error == ErrorCode::kNotFound && !there;
        if (!there) return false;
        volume.names.erase(at);
        return true;
      case CallKind::kLink: {
        if (call.error) {
          if (*call.error == ErrorCode::kExists) return there;
          const auto file = volume.by_number.find(call.number);
          const bool nameless = file == volume.by_number.end() || links(volume, file->second) == 0;
          return nameless && (*call.error == ErrorCode::kStale || (!there && *call.error == ErrorCode::kNotFound));
        }
        const auto file = volume.by_number.find(call.number);
        if (there || file == volume.by_number.end() || links(volume, file->second) == 0) return false;
        volume.names[call.name] = file->second;
        return true;
      }
      case CallKind::kLookup: {
        if (call.error) return *call.error == ErrorCode::kNotFound && !there;
        if (!there || at->second != call.got_generation) return false;
        const ModelFile& file = volume.files.at(at->second);
        return (any_size_ || file.any_size || call.size == file.units.size()) && call.links == links(volume, at->second);
      }
      case CallKind::kList: {
        if (call.error) return false;
        std::map<std::string, std::uint64_t> expected;
        for (const auto& [number, file] : volume.by_number)
          for (const auto& [name, other] : volume.names)
            if (other == file && in_directory(name, call.name)) expected[name] = number;
        return expected == call.listing;
      }
      default:
        return apply_rename(call, volume);
    }
  }

  static bool in_directory(const std::string& name, const std::string& directory) {
    return directory.empty() ? name.find('/') == name.npos : name.starts_with(directory + "/");
  }

  bool apply_rename(const Call& call, ModelVolume& volume) {
    const auto from = volume.names.find(call.name);
    const auto to = volume.names.find(call.to_name);
    const bool has_from = from != volume.names.end(), has_to = to != volume.names.end();
    if (call.error) {
      if (*call.error == ErrorCode::kNotFound) return !has_from || (call.kind == CallKind::kExchange && !has_to);
      return *call.error == ErrorCode::kExists && call.kind == CallKind::kRenameNoReplace && has_from && has_to;
    }
    if (!has_from || (call.kind == CallKind::kExchange && !has_to) || (call.kind == CallKind::kRenameNoReplace && has_to)) return false;
    const std::uint64_t file = from->second;
    if (call.kind == CallKind::kExchange) {
      std::swap(from->second, to->second);
      return true;
    }
    if (has_to && to->second == file) return true;
    volume.names[call.to_name] = file;
    volume.names.erase(call.name);
    return true;
  }

  bool apply_volume(const Call& call) {
    const auto at = state_.volumes.find(call.name);
    const bool there = at != state_.volumes.end();
    if (call.error && *call.error == ErrorCode::kBusy) return call.kind != CallKind::kSnapshot;
    switch (call.kind) {
      case CallKind::kSnapshot: {
        if (call.error) return *call.error == ErrorCode::kExists && there;
        if (there) return false;
        ModelVolume frozen = state_.volumes.at(call.volume);
        for (auto& [id, file] : frozen.files) file.held = 0;
        std::erase_if(frozen.files, [&](const auto& file) { return links(frozen, file.first) == 0; });
        state_.volumes[call.name] = std::move(frozen);
        return true;
      }
      case CallKind::kDelete:
        if (call.error) return *call.error == ErrorCode::kNotFound && !there;
        if (!there) return false;
        state_.volumes.erase(at);
        return true;
      case CallKind::kRollback: {
        const auto to = state_.volumes.find(call.to_name);
        if (call.error) return *call.error == ErrorCode::kNotFound && (!there || to == state_.volumes.end());
        if (!there || to == state_.volumes.end()) return false;
        ModelVolume frozen = to->second;
        for (auto& [id, file] : frozen.files) file.held = 0;
        std::erase_if(frozen.files, [&](const auto& file) { return links(frozen, file.first) == 0; });
        at->second = std::move(frozen);
        return true;
      }
      default:  // verify
        if (call.error) return *call.error == ErrorCode::kNotFound && !there;
        return there && call.content && compare(at->second, *call.content).empty();
    }
  }

  ModelState& state_;
  const Rules& rules_;
  const bool any_size_;
};

void serialise(std::string& to, const ModelState& state) {
  const auto number = [&](std::uint64_t value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const auto& [name, volume] : state.volumes) {
    to += name + '\n';
    for (const auto& [path, file] : volume.names) to += path + '\n', number(file);
    for (const auto& [id, file] : volume.files) {
      number(id);
      number(file.held * 2 + (file.any_size ? 1 : 0));
      to.append(reinterpret_cast<const char*>(file.units.data()), file.units.size() * sizeof(Unit));
    }
    for (const auto& [inode, file] : volume.by_number) number(inode), number(file);
  }
}

class Search {
 public:
  Search(const std::vector<const Call*>& done, const std::vector<const Call*>& pending, const Observation& end, const Rules& rules)
      : end_(end), rules_(rules), calls_(done) {
    done_count_ = done.size();
    calls_.insert(calls_.end(), pending.begin(), pending.end());
    for (const Call* call : calls_)
      any_size_.push_back((call->kind == CallKind::kAttributes || call->kind == CallKind::kLookup) && std::ranges::any_of(calls_, [&](const Call* other) {
        return in_steps(other->kind) && other->begin < call->end && call->begin < other->end;
      }));
  }

  bool run(const ModelState& state) { return visit(state, 0); }
  std::string furthest() const { return furthest_; }

 private:
  bool visit(const ModelState& state, std::uint64_t taken) {
    std::string key(reinterpret_cast<const char*>(&taken), sizeof taken);
    serialise(key, state);
    if (!seen_.insert(std::move(key)).second) return false;
    const auto is_taken = [&](std::size_t i) { return (taken >> i & 1) != 0; };
    bool all = true;
    std::uint64_t first_end = ~std::uint64_t{0};
    for (std::size_t i = 0; i < done_count_; ++i)
      if (!is_taken(i)) all = false, first_end = std::min(first_end, calls_[i]->end);
    if (all && at_end(state)) return true;
    std::string unexplained;
    std::size_t explained = 0;
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      if (is_taken(i)) continue;
      if (calls_[i]->begin > first_end) continue;  // one that is not explained yet had ended before
      if (i < done_count_) {
        ModelState next = state;
        if (!Applying(next, rules_, any_size_[i]).run(*calls_[i])) {
          unexplained += "\n      " + calls_[i]->text();
          continue;
        }
        ++explained;
        if (visit(next, taken | 1ull << i)) return true;
      } else {
        for (unsigned way = 0; way < 2; ++way) {
          ModelState next = state;
          if (Applying(next, rules_).run_pending(*calls_[i], way) && visit(next, taken | 1ull << i)) return true;
        }
      }
    }
    if (!all && explained == 0) note(taken, "none of these can come next:" + unexplained);
    return false;
  }

  bool at_end(const ModelState& state) {
    std::string wrong;
    for (const auto& [name, volume] : state.volumes) {
      const auto seen = end_.volumes.find(name);
      if (seen == end_.volumes.end()) wrong = "volume " + name + " is missing";
      if (wrong.empty()) wrong = compare(volume, seen->second);
      if (!wrong.empty()) {
        wrong = name + ": " + wrong;
        break;
      }
    }
    for (const auto& [name, volume] : end_.volumes)
      if (wrong.empty() && !state.volumes.contains(name)) wrong = "volume " + name + " should not be there";
    if (wrong.empty()) return true;
    note(~0ull, "at the end: " + wrong);
    return false;
  }

  // What was wrong where most had been explained.
  void note(std::uint64_t taken, std::string what) {
    const int count = __builtin_popcountll(taken);
    if (count <= most_) return;
    most_ = count;
    furthest_ = std::move(what);
  }

  const Observation& end_;
  const Rules& rules_;
  std::vector<const Call*> calls_;
  std::vector<bool> any_size_;  // of calls_
  std::size_t done_count_ = 0;
  std::unordered_set<std::string> seen_;
  int most_ = -1;
  std::string furthest_;
};

}  // namespace

std::string explain(const ModelState& start, const std::vector<const Call*>& done, const std::vector<const Call*>& pending,
                    const Observation& end, const Rules& rules) {
  Search search(done, pending, end, rules);
  if (search.run(start)) return "";
  return "no order explains it; " + search.furthest();
}

}  // namespace daxcow::test
