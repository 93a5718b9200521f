// daxcow owners, poison list, inject-error.
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <iostream>
#include <tuple>
#include <vector>

#include "engine/emulated_badblocks.h"
#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

std::uint64_t number_in(const json& object, const char* field) { return object.value(field, std::uint64_t{0}); }

// "sectors 0-7 bad", for a mask of the eight sectors of a block.
std::string bad_sectors(const json& block) {
  const auto mask = number_in(block, "bad_sectors");
  if (mask == 0xff) return "all";
  std::string text;
  for (unsigned first = 0; first < 8; ++first) {
    if (!(mask >> first & 1)) continue;
    unsigned last = first;
    while (last + 1 < 8 && mask >> (last + 1) & 1) ++last;
    text += (text.empty() ? "" : ",") + (first == last ? std::to_string(first) : fmt::format("{}-{}", first, last));
    first = last;
  }
  return text.empty() ? "-" : text;
}

// The owners of a block in the order in which people look for them.
std::vector<json> sorted_owners(const json& block) {
  std::vector<json> owners = block.at("owners").get<std::vector<json>>();
  const auto key = [](const json& owner) {
    return std::tuple(owner.value("volume", ""), owner.value("path", ""), number_in(owner, "offset_bytes"));
  };
  std::ranges::sort(owners, {}, key);
  return owners;
}

void add_owner(Table& table, std::vector<std::string> row, const json& owner) {
  row.insert(row.end(),
             {owner.value("volume", ""), owner.value("path", ""), std::to_string(number_in(owner, "offset_bytes")),
              std::to_string(number_in(owner, "length_bytes")), owner.value("role", "")});
  table.add(std::move(row));
}

// An owner of a bad block: a row for each range that it cannot read.
void add_loss(Table& table, std::vector<std::string> row, json owner) {
  if (!owner.contains("lost")) return add_owner(table, std::move(row), owner);
  for (const json& range : json(owner["lost"])) {
    owner["offset_bytes"] = range.at("offset_bytes");
    owner["length_bytes"] = range.at("length_bytes");
    add_owner(table, row, owner);
    row = {"", "", ""};
  }
}

}  // namespace

int owners(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL OFFSET [--json]",
      "Tells what the block at this offset of the pool is, and every volume, file and range that it belongs to.\n"
      "The block itself is not read.");
  line.flag("block", "OFFSET is the number of a 4 KiB block, not in bytes");
  line.flag("json", "print JSON");
  line.positional("pool");
  line.positional("offset");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto offset =
      line.text("offset").starts_with("0x") ? parse_number(line.text("offset")) : parse_size(line.text("offset"));
  if (!offset) return line.fail_usage(describe(offset.error()));
  if (line.has("block") && __builtin_mul_overflow(*offset, kBlockBytes, &*offset))
    return line.fail_usage("OFFSET is too large");
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kRead);
  if (!access) return line.fail(access.error());
  auto reply = access->call({{"op", "owners"}, {"offset_bytes", *offset}});
  if (!reply) return line.fail(reply.error());
  if (line.has("json")) {
    print_json(*reply);
    return kSuccess;
  }
  const json& owners = reply->at("owners");
  const std::string detail = reply->value("detail", "");
  std::cout << fmt::format("block {} at {}: {}{}{}, {}{}\n", number_in(*reply, "block"),
                           number_in(*reply, "offset_bytes"), reply->value("use", ""), detail.empty() ? "" : " ",
                           printable(detail), counted(owners.size(), "owner"),
                           reply->value("in_ledger", false) ? ", bad (sectors: " + bad_sectors(*reply) + ")" : "");
  if (!owners.empty()) {
    using enum Table::Align;
    Table table({{"VOLUME"}, {"PATH"}, {"OFFSET", kRight}, {"LENGTH", kRight}, {"AS"}});
    for (const json& owner : sorted_owners(*reply)) add_owner(table, {}, owner);
    table.print();
  }
  if (reply->value("owners_truncated", false)) std::cout << "... and more\n";
  return kSuccess;
}

int poison_list(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL [--json]",
      "Lists the blocks of the poison ledger, and what is lost with each: every volume, file and range. A range is\n"
      "healed by overwriting it, punching a hole or deleting the file.");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kRead);
  if (!access) return line.fail(access.error());
  auto reply = access->call({{"op", "poison-list"}});
  if (!reply) return line.fail(reply.error());
  if (line.has("json")) {
    print_json(*reply);
    return kSuccess;
  }
  const json& blocks = reply->at("blocks");
  if (blocks.empty()) {
    std::cout << "no bad blocks\n";
    return kSuccess;
  }
  using enum Table::Align;
  Table table({{"BLOCK", kRight},
               {"USE"},
               {"BAD SECTORS"},
               {"VOLUME"},
               {"PATH"},
               {"OFFSET", kRight},
               {"LENGTH", kRight},
               {"AS"}});
  bool truncated = false;
  for (const json& block : blocks) {
    std::vector<std::string> row{std::to_string(number_in(block, "block")), block.value("use", ""), bad_sectors(block)};
    truncated = truncated || block.value("owners_truncated", false);
    if (block.at("owners").empty()) {
      row.insert(row.end(), {"-", "-", "-", "-", "-"});
      table.add(row);
    }
    for (const json& owner : sorted_owners(block)) {
      add_loss(table, row, owner);
      row = {"", "", ""};
    }
  }
  table.print();
  if (truncated)
    std::cout << "Some blocks have more owners than are listed; daxcow owners POOL BLOCK --block lists more.\n";
  return kSuccess;
}

int inject_error(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL -B BLOCK [-n COUNT] [-d] [-N] | POOL -t",
      "Makes sectors of an emulated pool bad, mounted or not: reading them faults as on hardware. Options and units\n"
      "(512 bytes) are those of ndctl inject-error, which is the command for real persistent memory. What is\n"
      "injected with --no-notify stays unknown to everybody until it is read or scrubbed. --uninject takes back\n"
      "the injection; what the device lists already stays bad until it is cleared.");
  line.option("block,B", "N", "first sector, from the start of the pool");
  line.option("count,n", "N", "number of sectors (default: 1)");
  line.flag("uninject,d", "take back what was injected");
  line.flag("status,t", "list what is injected");
  line.flag("no-notify,N", "do not tell anybody: latent until touched");
  line.flag("json", "print JSON");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  if (line.has("status") && (line.has("block") || line.has("uninject") || line.has("no-notify")))
    return line.fail_usage("--status goes with no other option");
  if (line.has("uninject") && line.has("no-notify"))
    return line.fail_usage("--uninject and --no-notify exclude each other");
  if (!line.has("status") && !line.has("block")) return line.fail_usage("--block is missing");
  auto block = parse_number(line.text("block", "0"));
  if (!block) return line.fail_usage("--block: " + describe(block.error()));
  auto count = parse_number(line.text("count", "1"));
  if (!count || *count == 0) return line.fail_usage("--count: not a positive number");

  auto path = resolve_pool(line.text("pool"));
  if (!path) return line.fail(path.error());
  if (!line.has("status")) {
    struct ::stat status {};
    const bool regular = ::stat(path->c_str(), &status) == 0 && S_ISREG(status.st_mode);
    const std::uint64_t sectors = static_cast<std::uint64_t>(status.st_size) / kSectorBytes;
    if (regular && (*block >= sectors || *count > sectors - *block))
      return line.fail(fmt::format("{}: sectors {}+{} are beyond the end; it has {}", *path, *block, *count, sectors));
    auto done = line.has("uninject") ? emulated_device::uninject(*path, *block, *count)
                                     : emulated_device::inject(*path, *block, *count, !line.has("no-notify"));
    if (!done) return line.fail(done.error());
    // As on hardware, the sectors are bad when this returns: a daemon would hear of them only in a moment.
    if (auto daemon = ControlClient::connect(*path)) (void)daemon->call({{"op", "badblocks"}});
  }
  if (!line.has("status") && !line.has("json")) return kSuccess;
  auto injected = emulated_device::injected(*path);
  if (!injected) return line.fail(injected.error());
  json ranges = json::array();
  Table table({{"BLOCK", Table::Align::kRight}, {"COUNT", Table::Align::kRight}});
  for (const BadRange& range : *injected) {
    const std::uint64_t first = range.offset_bytes / kSectorBytes, sectors = range.length_bytes / kSectorBytes;
    ranges.push_back({{"block", first}, {"count", sectors}});
    table.add({std::to_string(first), std::to_string(sectors)});
  }
  if (line.has("json")) {
    print_json({{"badblocks", ranges}});
  } else if (table.empty()) {
    std::cout << "nothing is injected\n";
  } else {
    table.print();
  }
  return kSuccess;
}

}  // namespace daxcow::tools
