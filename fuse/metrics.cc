#include "fuse/metrics.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace daxcow {

namespace {

// Of a label's value: backslash, quote and line feed.
std::string escaped(std::string_view value) {
  std::string text;
  for (const char character : value) {
    if (character == '\\' || character == '"') text += '\\';
    if (character == '\n')
      text += "\\n";
    else
      text += character;
  }
  return text;
}

class Exposition {
 public:
  explicit Exposition(std::string_view pool) : pool_(fmt::format("pool=\"{}\"", escaped(pool))) {}

  void gauge(std::string_view name, std::string_view help, std::uint64_t value) { single(name, help, "gauge", value); }
  void counter(std::string_view name, std::string_view help, std::uint64_t value) {
    single(name, help, "counter", value);
  }
  void family(std::string_view name, std::string_view help, std::string_view type) {
    text_ += fmt::format("# HELP daxcow_{0} {1}\n# TYPE daxcow_{0} {2}\n", name, help, type);
  }
  void sample(std::string_view name, std::string_view label, std::string_view label_value, std::uint64_t value) {
    text_ += fmt::format("daxcow_{}{{{},{}=\"{}\"}} {}\n", name, pool_, label, escaped(label_value), value);
  }
  std::string take() { return std::move(text_); }

 private:
  void single(std::string_view name, std::string_view help, std::string_view type, std::uint64_t value) {
    family(name, help, type);
    text_ += fmt::format("daxcow_{}{{{}}} {}\n", name, pool_, value);
  }

  std::string pool_;
  std::string text_;
};

}  // namespace

std::string metrics_text(const PoolStatistics& statistics, const PoolHealth& health, const ScrubStatus& scrub,
                         const std::map<EventKind, std::uint64_t>& events) {
  Exposition out(statistics.path);
  out.family("pool_info", "What the pool is; always 1.", "gauge");
  out.sample("pool_info", "uuid", statistics.uuid, 1);
  out.family("health", "1 for the state that the pool is in.", "gauge");
  for (const auto state :
       {HealthState::kGood, HealthState::kDegraded, HealthState::kDataLost, HealthState::kMetadataLost})
    out.sample("health", "state", name_of(state), state == health.state);
  out.gauge("lost_bytes", "Data in use that cannot be read, until it is replaced or removed.", health.lost_bytes);
  out.gauge("lost_blocks", "Blocks of data in use with bytes that cannot be read.", health.lost_blocks);
  out.gauge("quarantined_blocks", "Bad blocks that are out of use.", health.quarantined_blocks);
  out.gauge("reserved_bad_blocks", "Bad blocks in space that files have only reserved.", health.reserved_blocks);
  out.gauge("bad_copies", "Bad copies of metadata whose other copy serves.", health.bad_copies);
  out.gauge("metadata_lost_blocks", "Metadata blocks found lost in both copies since the pool was opened.",
            health.metadata_lost);
  out.gauge("power_lost", "1 if the platform lost power without flushing during the last use.", health.power_lost);
  out.gauge("ledger_blocks", "Blocks of the poison ledger.", statistics.ledger_blocks);

  out.gauge("size_bytes", "Size of the pool.", statistics.size_bytes);
  out.gauge("free_bytes", "Free for data.", statistics.data_free_blocks * kBlockBytes);
  out.gauge("metadata_bytes", "Metadata, mirrors not counted.", statistics.metadata_blocks * kBlockBytes);
  out.gauge("metadata_free_bytes", "Metadata blocks that are not used.", statistics.metadata_free_blocks * kBlockBytes);
  out.gauge("cache_bytes", "Memory used for metadata.", statistics.cache_bytes);
  out.gauge("volumes", "Volumes and snapshots.", statistics.volumes);
  out.gauge("reverse_records", "Records of the reverse map.", statistics.reverse_records);

  out.gauge("scrub_running", "1 while a scrub is running in the background.", scrub.state == ScrubState::kRunning);
  out.gauge("scrub_done_bytes", "Read by the scrub that is under way.", scrub.done_bytes);
  out.gauge("scrub_total_bytes", "What a scrub has to read.", scrub.total_bytes);
  out.gauge("scrub_found_blocks", "Bad blocks that nobody knew of, found by the scrub under way or the last one.",
            scrub.found_blocks);
  out.gauge("scrub_finished_timestamp_seconds", "When a scrub was last finished; 0 for never.",
            static_cast<std::uint64_t>(std::max<std::int64_t>(scrub.finished_seconds, 0)));

  out.counter("blocks_lost_total", "Blocks of data that were lost, ever.", statistics.blocks_lost);
  out.counter("blocks_healed_total", "Bad blocks whose content was rescued, and lost ranges that an owner replaced, ever.", statistics.blocks_healed);
  out.counter("blocks_cleared_total", "Blocks that were cleared on the device, ever.", statistics.blocks_cleared);
  out.counter("metadata_repaired_total", "Copies of metadata rewritten from the other one, ever.",
              statistics.metadata_repaired);
  out.counter("transactions_total", "Transactions since the pool was opened.", statistics.transactions);
  out.counter("journal_bytes_total", "Written to the journal since the pool was opened.", statistics.journal_bytes);
  out.family("events_total", "Events since the pool was opened, by kind.", "counter");
  // Kinds that did not occur are left out but for those that alerts are made of: a rule needs the 0 before the 1.
  auto counted = events;
  for (const auto kind : {EventKind::kPoisonFound, EventKind::kDataLost, EventKind::kDataHealed,
                          EventKind::kClearFailed, EventKind::kMetadataRepaired, EventKind::kMetadataLost})
    counted.try_emplace(kind, 0);
  for (const auto& [kind, count] : counted) out.sample("events_total", "kind", name_of(kind), count);
  return out.take();
}

}  // namespace daxcow
