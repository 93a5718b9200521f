// What tools ask of a pool: one function from a request to a reply, both JSON. The daemon calls it for requests that
// arrive at its socket; a tool calls it on a pool that it opened itself when no daemon serves that pool.
//
// Requests are objects with "op" and the fields below ([x]: optional). Offsets and lengths are bytes, and multiples of
// 4096 where they name pool space. Replies are objects; a failure is {"error": {"code": NAME, "message": LINE}} with
// the names of error_name(). BLOCK, OWNER and the like are spelled out at the end.
//
// clang-format off
//   op               request                               reply
//   volume-list      [space: false]                        volumes: [VOLUME], with space: USAGE where asked for, which
//                                                          reads all maps
//   volume-create    name                                  number
//   volume-delete    name                                  {}
//   volume-rollback  volume, snapshot                      {}       `volume` becomes what `snapshot` is
//   snapshot         volume, name, [read_only: true]       number
//   owners           offset_bytes, [limit: 10000]          BLOCK    of any byte of the block
//   poison-list      [limit: 1000]                         blocks: [BLOCK]
//   stat                                                   STATISTICS; from a daemon also daemon: {process, mounts}
//   metrics                                                text: what `stat` says in the text format of Prometheus
//   survey           [cells: 2048, at most 65536]          pool_blocks, cell_blocks, kinds: [name_of(SurveyKind)],
//                                                          cells: [{blocks: [as many of each kind], bad, healed}],
//                                                          bad: [{block, offset_bytes, bad_sectors}], healed: [block],
//                                                          surroundings: [[{block, count, kind, owners}]]
//   events           [after: 0], [limit: 1000],            events: [EVENT], last: the newest sequence. Go on with
//                    [wait_milliseconds: 0, at most 1000]  that of the last event received; they are counted per
//                                                          opening of the pool
//   map              FILE, [from_bytes: 0],                inode, path, size_bytes, block_count, generation,
//                    [owners: true],                       extents: [EXTENT],
//                    [limit: 10000 extents]                next_bytes: number or null (go on there)
//   du               volume, inodes: [number]              trees: [USAGE] of each file or tree; total: USAGE of all together
//   scrub            [bytes_per_second: no bound]          found: bad blocks that nobody knew of; before the reply come
//                                                          lines {"progress": {done, total}}
//   patrol           action: "status", "begin", "pause",   SCRUB. `begin` also goes on with what is paused, and needs a
//                    "resume" or "stop",                   daemon, as does `resume`; `resume` with a rate also changes
//                    [bytes_per_second: 0 for no bound]    that of a pass that is running
//   badblocks                                              ranges: [{offset_bytes, length_bytes}], what the device lists
//                                                          now; an emulated one is as its lists say after this
//   settle                                                 {}       after the poison and reclaim threads have done all
//   mounts           (a daemon only)                       process, pool, mounts: [MOUNT]
//   open-for-writing major, minor: of a mount (a daemon only)   files: [[inode, generation]]
//
//   FILE        volume (a name) and inode (st_ino) or path (from the volume's root)
//   VOLUME      number, name, read_only, snapshot, origin, mounted, created: TIME
//   TIME        seconds, nanoseconds
//   BLOCK       block, offset_bytes, use (name_of(BlockUse): "free", "data", ...), detail, in_ledger,
//               bad_sectors (mask), owners: [OWNER], owners_truncated
//   OWNER       volume_number, volume, inode, path, offset_bytes, length_bytes, role ("reserved" for data
//               that was never written); of data in a bad block lost:
//               [{offset_bytes, length_bytes}], the sectors that the owner cannot read
//   EXTENT      offset_bytes, length_bytes, state ("hole", "unwritten", "data"); not for holes: pool_offset_bytes,
//               owners (0 when not asked for), shared, bad
//   USAGE       files, data_bytes, exclusive_bytes (free without it), shared_bytes, metadata_bytes,
//               exclusive_metadata_bytes; each block once
//   EVENT       sequence, time: TIME, kind (name_of(EventKind)), block, pool_offset_bytes, volume, inode, path,
//               offset_bytes, length_bytes, process, text
//   STATISTICS  the fields of PoolStatistics by name, and medium: {kind, granularity, durability, path,
//               badblocks_source, read_only}, health: HEALTH
//   HEALTH      state (name_of(HealthState): "good", "degraded", "data-lost", "metadata-lost"), lost_bytes, lost_blocks,
//               quarantined_blocks, reserved_blocks, bad_copies, metadata_lost, power_lost
//   SCRUB       the fields of ScrubStatus by name; what it has no value for is null
//   MOUNT       volume, number, mount_point, major, minor (st_dev of its files), read_only
// clang-format on
//
// Names and paths that are not UTF-8 arrive with replacement characters; address such files by inode.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engine/function_ref.h"
#include "engine/pool.h"

namespace daxcow {

// The volumes that have a mount, as far as commands need them: a mounted volume cannot be mounted a second time, and
// the kernel caches what is in it. A daemon implements this; a tool that has the pool to itself needs none.
class MountedVolumes {
 public:
  virtual ~MountedVolumes() = default;
  // The mounted volume of that name, or null.
  virtual std::shared_ptr<Volume> find(std::string_view name) = 0;
  // Whether the kernel still has a mount of that name. One that it has given up keeps its volume for a moment longer.
  virtual bool is_connected(std::string_view name) = 0;
};

// Tries again while the volume is busy (kBusy) with a mount that the kernel has given up, for at most 20 seconds: umount(8)
// returns before the daemon has noticed. Thread-safe.
Result<> when_free(MountedVolumes& mounted, const std::string& volume, FunctionRef<Result<>()> attempt);

using CommandProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;  // may be empty

// Never throws, whatever the request is; an unknown or malformed request is kInvalid. Blocks until done. Thread-safe.
nlohmann::json execute(Pool& pool, const nlohmann::json& request, MountedVolumes* mounted = nullptr,
                       const CommandProgress& progress = {});

// "not-found", "busy", ...: stable names for programs.
const char* error_name(ErrorCode code);
// kIo for a name that this version does not know.
ErrorCode error_code_named(std::string_view name);
nlohmann::json error_reply(const Error& error);
// The reply, or the error that it carries.
Result<nlohmann::json> checked_reply(nlohmann::json reply);

}  // namespace daxcow
