#include "fuse/control_json.h"

#include <array>
#include <bit>
#include <string_view>
#include <utility>

#include "fuse/control_commands.h"

namespace daxcow {

using nlohmann::json;

namespace {

constexpr std::array kErrorNames = std::to_array<std::pair<ErrorCode, const char*>>({
    {ErrorCode::kNotFound, "not-found"},
    {ErrorCode::kExists, "exists"},
    {ErrorCode::kNotDirectory, "not-directory"},
    {ErrorCode::kIsDirectory, "is-directory"},
    {ErrorCode::kNotEmpty, "not-empty"},
    {ErrorCode::kNoSpace, "no-space"},
    {ErrorCode::kNeedChunk, "need-chunk"},
    {ErrorCode::kNameTooLong, "name-too-long"},
    {ErrorCode::kTooManyLinks, "too-many-links"},
    {ErrorCode::kFileTooBig, "file-too-big"},
    {ErrorCode::kInvalid, "invalid"},
    {ErrorCode::kReadOnly, "read-only"},
    {ErrorCode::kPoisoned, "poisoned"},
    {ErrorCode::kDamaged, "damaged"},
    {ErrorCode::kBusy, "busy"},
    {ErrorCode::kPermission, "permission"},
    {ErrorCode::kCrossVolume, "cross-volume"},
    {ErrorCode::kNoAttribute, "no-attribute"},
    {ErrorCode::kTooBig, "too-big"},
    {ErrorCode::kRange, "range"},
    {ErrorCode::kStale, "stale"},
    {ErrorCode::kUnsupported, "unsupported"},
    {ErrorCode::kDifferent, "different"},
    {ErrorCode::kNoData, "no-data"},
    {ErrorCode::kNotAPool, "not-a-pool"},
    {ErrorCode::kVersion, "version"},
    {ErrorCode::kIo, "io"},
});

const char* name_of(MediumKind kind) {
  switch (kind) {
    case MediumKind::kDeviceDax:
      return "devdax";
    case MediumKind::kFsdaxFile:
      return "fsdax";
    case MediumKind::kEmulatedFile:
      return "emulated";
    case MediumKind::kDram:
      return "dram";
  }
  return "unknown";
}

const char* name_of(StoreGranularity granularity) {
  switch (granularity) {
    case StoreGranularity::kByte:
      return "byte";
    case StoreGranularity::kCacheLine:
      return "cache-line";
    case StoreGranularity::kPage:
      return "page";
  }
  return "unknown";
}

const char* name_of(Durability durability) {
  switch (durability) {
    case Durability::kPowerFail:
      return "power-fail";
    case Durability::kSync:
      return "sync";
    case Durability::kProcess:
      return "process";
  }
  return "unknown";
}

const char* name_of(ExtentState state) {
  switch (state) {
    case ExtentState::kHole:
      return "hole";
    case ExtentState::kUnwritten:
      return "unwritten";
    case ExtentState::kWritten:
      return "data";
  }
  return "unknown";
}

// The stretches of bad sectors, where they are in the owner's file.
json lost_ranges(const Owner& owner, std::uint8_t sectors) {
  json ranges = json::array();
  for (unsigned first = 0; first < kSectorsPerBlock; ++first) {
    if (!(sectors >> first & 1)) continue;
    const auto count = static_cast<unsigned>(std::countr_one(static_cast<unsigned>(sectors >> first)));
    ranges.push_back(
        {{"offset_bytes", owner.offset_bytes + first * kSectorBytes}, {"length_bytes", count * kSectorBytes}});
    first += count;
  }
  return ranges;
}

}  // namespace

const char* error_name(ErrorCode code) {
  for (const auto& [known, name] : kErrorNames)
    if (known == code) return name;
  return "io";
}

ErrorCode error_code_named(std::string_view name) {
  for (const auto& [code, known] : kErrorNames)
    if (name == known) return code;
  return ErrorCode::kIo;
}

json error_reply(const Error& error) {
  return {{"error", {{"code", error_name(error.code)}, {"message", describe(error)}}}};
}

Result<json> checked_reply(json reply) {
  if (!reply.is_object()) return fail(ErrorCode::kIo, "a reply that is not an object");
  const auto error = reply.find("error");
  if (error == reply.end()) return reply;
  if (!error->is_object()) return fail(ErrorCode::kIo, "an error that is not an object");
  return fail(error_code_named(error->value("code", "io")), error->value("message", ""));
}

json to_json(const Timestamp& time) { return {{"seconds", time.seconds}, {"nanoseconds", time.nanoseconds}}; }

json to_json(const VolumeInfo& volume) {
  return {{"number", volume.number.value},     {"name", volume.name},     {"read_only", volume.read_only},
          {"snapshot", volume.snapshot},       {"origin", volume.origin}, {"mounted", volume.mounted},
          {"created", to_json(volume.created)}};
}

json to_json(const Owner& owner) {
  return {{"volume_number", owner.volume.value},
          {"volume", owner.volume_name},
          {"inode", owner.inode.value},
          {"path", owner.path},
          {"offset_bytes", owner.offset_bytes},
          {"length_bytes", owner.length_bytes},
          {"role", owner.role}};
}

json to_json(const BlockReport& report) {
  json owners = json::array();
  for (const auto& owner : report.owners) {
    owners.push_back(to_json(owner));
    if (report.in_ledger && owner.role == "data") owners.back()["lost"] = lost_ranges(owner, report.bad_sectors);
  }
  return {{"block", report.block.value},   {"offset_bytes", byte_offset(report.block)},
          {"use", name_of(report.use)},    {"detail", report.detail},
          {"in_ledger", report.in_ledger}, {"bad_sectors", report.bad_sectors},
          {"owners", std::move(owners)},   {"owners_truncated", report.owners_truncated}};
}

json to_json(const MediumInfo& medium) {
  return {{"kind", name_of(medium.kind)},
          {"granularity", name_of(medium.granularity)},
          {"durability", name_of(medium.durability)},
          {"path", medium.path},
          {"badblocks_source", medium.badblocks_source},
          {"read_only", medium.read_only}};
}

json to_json(const ShutdownReport& shutdown) {
  json object{{"last", name_of(shutdown.last)}, {"device_changed", shutdown.device_changed}};
  if (shutdown.unsafe_shutdowns_known) {
    object["unsafe_shutdowns"] = shutdown.unsafe_shutdowns;
    object["unsafe_shutdowns_new"] = shutdown.unsafe_shutdowns_new;
  }
  return object;
}

json to_json(const PoolStatistics& s) {
  return {{"path", s.path},
          {"label", s.label},
          {"uuid", s.uuid},
          {"size_bytes", s.size_bytes},
          {"data_free_blocks", s.data_free_blocks},
          {"metadata_blocks", s.metadata_blocks},
          {"metadata_free_blocks", s.metadata_free_blocks},
          {"chunks", s.chunks},
          {"reverse_records", s.reverse_records},
          {"reverse_leaves", s.reverse_leaves},
          {"ledger_blocks", s.ledger_blocks},
          {"transactions", s.transactions},
          {"journal_bytes", s.journal_bytes},
          {"metadata_repaired", s.metadata_repaired},
          {"blocks_lost", s.blocks_lost},
          {"blocks_healed", s.blocks_healed},
          {"blocks_cleared", s.blocks_cleared},
          {"cache_bytes", s.cache_bytes},
          {"volumes", s.volumes},
          {"shutdown", to_json(s.shutdown)},
          {"medium", to_json(s.medium)}};
}

json to_json(const PoolHealth& health) {
  return {{"state", name_of(health.state)},    {"lost_bytes", health.lost_bytes},
          {"lost_blocks", health.lost_blocks}, {"quarantined_blocks", health.quarantined_blocks},
          {"bad_copies", health.bad_copies},   {"metadata_lost", health.metadata_lost},
          {"power_lost", health.power_lost}};
}

json to_json(const ScrubStatus& status) {
  json object{{"state", name_of(status.state)},
              {"bytes_per_second", status.bytes_per_second},
              {"place", status.place},
              {"done_bytes", status.done_bytes},
              {"total_bytes", status.total_bytes},
              {"found_blocks", status.found_blocks},
              {"started_seconds", status.started_seconds},
              {"finished_seconds", status.finished_seconds},
              {"passes", status.passes},
              {"rest_seconds", nullptr},
              {"next_seconds", nullptr}};
  if (status.rest_seconds) object["rest_seconds"] = *status.rest_seconds;
  if (status.next_seconds) object["next_seconds"] = *status.next_seconds;
  return object;
}

json to_json(const PoolSurvey& survey) {
  json kinds = json::array(), cells = json::array(), bad = json::array(), healed = json::array();
  json surroundings = json::array();
  for (std::size_t kind = 0; kind < kSurveyKinds; ++kind) kinds.push_back(name_of(static_cast<SurveyKind>(kind)));
  for (const auto& cell : survey.cells)
    cells.push_back({{"blocks", cell.blocks}, {"bad", cell.bad}, {"healed", cell.healed}});
  for (const auto& one : survey.bad)
    bad.push_back({{"block", one.block.value}, {"offset_bytes", byte_offset(one.block)}, {"bad_sectors", one.sectors}});
  for (const auto block : survey.healed) healed.push_back(block.value);
  for (const auto& spans : survey.surroundings) {
    json list = json::array();
    for (const auto& span : spans)
      list.push_back({{"block", span.run.first.value},
                      {"count", span.run.count},
                      {"kind", name_of(span.kind)},
                      {"owners", span.owners}});
    surroundings.push_back(std::move(list));
  }
  return {{"pool_blocks", survey.pool_blocks},
          {"cell_blocks", survey.cell_blocks},
          {"kinds", std::move(kinds)},
          {"cells", std::move(cells)},
          {"bad", std::move(bad)},
          {"healed", std::move(healed)},
          {"surroundings", std::move(surroundings)}};
}

json to_json(const Event& event) {
  return {{"sequence", event.sequence},
          {"time", to_json(event.time)},
          {"kind", name_of(event.kind)},
          {"block", event.block.value},
          {"pool_offset_bytes", byte_offset(event.block)},
          {"volume", event.volume},
          {"inode", event.inode.value},
          {"path", event.path},
          {"offset_bytes", event.offset_bytes},
          {"length_bytes", event.length_bytes},
          {"process", event.process},
          {"text", event.text}};
}

json to_json(const SpaceUsage& usage) {
  return {{"files", usage.files},
          {"data_bytes", usage.data_blocks * kBlockBytes},
          {"exclusive_bytes", usage.exclusive_data_blocks * kBlockBytes},
          {"shared_bytes", (usage.data_blocks - usage.exclusive_data_blocks) * kBlockBytes},
          {"metadata_bytes", usage.metadata_blocks * kBlockBytes},
          {"exclusive_metadata_bytes", usage.exclusive_metadata_blocks * kBlockBytes}};
}

json to_json(const FileExtent& extent) {
  json object{{"offset_bytes", byte_offset(extent.start)},
              {"length_bytes", extent.count * kBlockBytes},
              {"state", name_of(extent.state)}};
  if (extent.state != ExtentState::kHole) {
    object["pool_offset_bytes"] = byte_offset(extent.block);
    object["owners"] = extent.owners;
    object["shared"] = extent.owners > 1;
    object["bad"] = extent.bad;
  }
  return object;
}

}  // namespace daxcow
