#include "fuse/control_commands.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "engine/function_ref.h"
#include "engine/health.h"
#include "engine/patrol.h"
#include "engine/space_usage.h"
#include "engine/survey.h"
#include "fuse/control_json.h"
#include "fuse/metrics.h"

namespace daxcow {

namespace {

using nlohmann::json;

constexpr auto kUnmountTime = std::chrono::seconds(20);

// What a command works with.
struct Command {
  Pool& pool;
  const json& request;
  MountedVolumes* mounted;
  const CommandProgress& progress;

  std::string text(const char* field) const { return request.at(field).get<std::string>(); }
  std::uint64_t number(const char* field, std::uint64_t otherwise) const { return request.value(field, otherwise); }
};

// A file that a request names, and its volume, which stays usable as long as this.
struct OpenFile {
  std::shared_ptr<Volume> volume;
  Attributes attributes;
};

// Does what cannot be done while somebody else has the volume: waits for one who is letting go of it.
Result<> alone_with(const Command& command, const std::string& name, FunctionRef<Result<>()> attempt) {
  return command.mounted != nullptr ? when_free(*command.mounted, name, attempt) : attempt();
}

Result<std::shared_ptr<Volume>> find_volume(const Command& command, const std::string& name, bool read_only) {
  std::shared_ptr<Volume> volume;
  // Between the two it may have been mounted, and unmounted; or another command is using it.
  TRY(alone_with(command, name, [&]() -> Result<> {
    if (command.mounted != nullptr) volume = command.mounted->find(name);
    if (volume == nullptr) volume = TRY(command.pool.mount(name, read_only));
    return {};
  }));
  return volume;
}

Result<OpenFile> open_file(const Command& command, const json& file, bool read_only) {
  OpenFile opened;
  opened.volume = TRY(find_volume(command, file.at("volume").get<std::string>(), read_only));
  if (file.contains("inode"))
    opened.attributes = TRY(opened.volume->attributes(InodeNumber(file.at("inode").get<std::uint64_t>())));
  else
    opened.attributes = TRY(opened.volume->find(file.at("path").get<std::string>()));
  return opened;
}

Result<json> volume_list(const Command& command) {
  json list = json::array();
  const bool space = command.request.value("space", false);
  for (const auto& volume : TRY(command.pool.volumes())) {
    json item = to_json(volume);
    if (space) item["space"] = to_json(TRY(space_of_volume(command.pool, volume.number)));
    list.push_back(std::move(item));
  }
  return json{{"volumes", std::move(list)}};
}

Result<json> volume_create(const Command& command) {
  const VolumeNumber made = TRY(command.pool.create_volume(command.text("name")));
  return json{{"number", made.value}};
}

Result<json> volume_delete(const Command& command) {
  const std::string name = command.text("name");
  TRY(alone_with(command, name, [&] { return command.pool.delete_volume(name); }));
  return json::object();
}

Result<json> volume_rollback(const Command& command) {
  const std::string name = command.text("volume");
  TRY(alone_with(command, name, [&] { return command.pool.rollback(name, command.text("snapshot")); }));
  return json::object();
}

Result<json> snapshot(const Command& command) {
  const bool read_only = command.request.value("read_only", true);
  const VolumeNumber made = TRY(command.pool.snapshot(command.text("volume"), command.text("name"), read_only));
  return json{{"number", made.value}};
}

Result<json> owners(const Command& command) {
  const auto offset = command.request.at("offset_bytes").get<std::uint64_t>();
  const auto size = TRY(command.pool.statistics()).size_bytes;
  if (offset >= size)
    return fail(ErrorCode::kInvalid, fmt::format("offset {} is beyond the end of the pool ({} bytes)", offset, size));
  return to_json(TRY(command.pool.report(BlockNumber(offset / kBlockBytes), command.number("limit", 10'000))));
}

Result<json> poison_list(const Command& command) {
  json blocks = json::array();
  for (const auto& report : TRY(command.pool.poison_list(command.number("limit", 1000))))
    blocks.push_back(to_json(report));
  return json{{"blocks", std::move(blocks)}};
}

Result<json> stat(const Command& command) {
  json reply = to_json(TRY(command.pool.statistics()));
  reply["health"] = to_json(TRY(command.pool.health()));
  return reply;
}

Result<json> metrics(const Command& command) {
  Pool& pool = command.pool;
  return json{{"text", metrics_text(TRY(pool.statistics()), TRY(pool.health()), pool.patrol().status(),
                                    pool.events().counts())}};
}

Result<json> survey(const Command& command) {
  const auto cells = std::clamp<std::uint64_t>(command.number("cells", 2048), 1, 65'536);
  return to_json(TRY(command.pool.survey(cells)));
}

Result<json> events(const Command& command) {
  const auto wait = std::min<std::uint64_t>(command.number("wait_milliseconds", 0), 1000);
  auto& log = command.pool.events();
  json list = json::array();
  for (const auto& event :
       log.after(command.number("after", 0), command.number("limit", 1000), static_cast<unsigned>(wait)))
    list.push_back(to_json(event));
  return json{{"events", std::move(list)}, {"last", log.last_sequence()}};
}

Result<json> map(const Command& command) {
  const auto file = TRY(open_file(command, command.request, true));
  const auto& attributes = file.attributes;
  const auto limit = std::max<std::uint64_t>(command.number("limit", 10'000), 1);
  const FileBlock from(command.number("from_bytes", 0) / kBlockBytes);
  json extents = json::array();
  json next = nullptr;
  TRY(file.volume->for_each_extent(attributes.inode, from, command.request.value("owners", true),
                                   [&](const FileExtent& extent) {
                                     if (extents.size() == limit) {
                                       next = byte_offset(extent.start);
                                       return false;
                                     }
                                     extents.push_back(to_json(extent));
                                     return true;
                                   }));
  auto path = file.volume->path_of(attributes.inode);
  return json{{"inode", attributes.inode.value},     {"path", path ? *path : std::string()},
              {"size_bytes", attributes.size_bytes}, {"block_count", attributes.block_count},
              {"generation", attributes.generation}, {"extents", std::move(extents)},
              {"next_bytes", std::move(next)}};
}

Result<json> du(const Command& command) {
  const auto volume = TRY(find_volume(command, command.text("volume"), true));
  json list = json::array();
  std::vector<InodeNumber> tops;
  for (const json& inode : command.request.at("inodes")) tops.emplace_back(inode.get<std::uint64_t>());
  for (const InodeNumber& top : tops) list.push_back(to_json(TRY(space_of_trees(command.pool, *volume, {&top, 1}))));
  json total = tops.size() == 1 ? list.front() : to_json(TRY(space_of_trees(command.pool, *volume, tops)));
  return json{{"trees", std::move(list)}, {"total", std::move(total)}};
}

Result<json> scrub(const Command& command) {
  const std::uint64_t found = TRY(command.pool.scrub(command.progress, command.number("bytes_per_second", 0)));
  return json{{"found", found}};
}

Result<json> patrol(const Command& command) {
  Patrol& patrol = command.pool.patrol();
  const auto action = command.text("action");
  std::optional<std::uint64_t> rate;
  if (command.request.contains("bytes_per_second")) rate = command.number("bytes_per_second", 0);
  if (action == "begin")
    TRY(patrol.begin(rate.value_or(Patrol::kUsualBytesPerSecond)));
  else if (action == "pause")
    TRY(patrol.pause());
  else if (action == "resume")
    TRY(patrol.resume(rate));
  else if (action == "stop")
    TRY(patrol.stop());
  else if (action != "status")
    return fail(ErrorCode::kInvalid, fmt::format("unknown action \"{}\"", action));
  return to_json(patrol.status());
}

Result<json> badblocks(const Command& command) {
  json ranges = json::array();
  for (const BadRange& range : TRY(command.pool.bad_ranges()))
    ranges.push_back({{"offset_bytes", range.offset_bytes}, {"length_bytes", range.length_bytes}});
  return json{{"ranges", std::move(ranges)}};
}

Result<json> settle(const Command& command) {
  command.pool.settle();
  return json::object();
}

struct Operation {
  const char* name;
  Result<json> (*run)(const Command&);
};
constexpr Operation kOperations[] = {
    {"volume-list", volume_list},
    {"volume-create", volume_create},
    {"volume-delete", volume_delete},
    {"volume-rollback", volume_rollback},
    {"snapshot", snapshot},
    {"owners", owners},
    {"poison-list", poison_list},
    {"stat", stat},
    {"metrics", metrics},
    {"survey", survey},
    {"events", events},
    {"map", map},
    {"du", du},
    {"scrub", scrub},
    {"patrol", patrol},
    {"badblocks", badblocks},
    {"settle", settle},
};

Result<json> run(const Command& command) {
  const auto name = command.text("op");
  const auto found = std::ranges::find_if(kOperations, [&](const Operation& o) { return name == o.name; });
  if (found == std::end(kOperations)) return fail(ErrorCode::kInvalid, fmt::format("unknown request \"{}\"", name));
  return found->run(command);
}

}  // namespace

Result<> when_free(MountedVolumes& mounted, const std::string& volume, FunctionRef<Result<>()> attempt) {
  const auto deadline = std::chrono::steady_clock::now() + kUnmountTime;
  for (;;) {
    auto done = attempt();
    if (done || done.error().code != ErrorCode::kBusy || mounted.is_connected(volume)) return done;
    if (std::chrono::steady_clock::now() >= deadline) return done;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

nlohmann::json execute(Pool& pool, const nlohmann::json& request, MountedVolumes* mounted,
                       const CommandProgress& progress) {
  try {
    auto reply = run(Command{pool, request, mounted, progress});
    return reply ? *std::move(reply) : error_reply(reply.error());
  } catch (const nlohmann::json::exception& problem) {
    return error_reply(Error{ErrorCode::kInvalid, fmt::format("malformed request: {}", problem.what())});
  } catch (const std::bad_alloc&) {
    return error_reply(Error{ErrorCode::kIo, "out of memory"});
  }
}

}  // namespace daxcow
