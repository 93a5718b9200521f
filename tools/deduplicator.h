// Finds blocks of files that are equal, and has the daemon share them. What is equal is suspected by hashes, found out by reading,
// and shared by the daemon only if it is so while both files are locked: whatever else happens to the files meanwhile, no content
// changes.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "engine/file_descriptor.h"
#include "engine/result.h"
#include "tools/block_index.h"

namespace daxcow::tools {

struct DeduplicationOptions {
  std::uint64_t memory_bytes = 256ull << 20;
  bool dry_run = false;
  std::function<void(std::uint64_t bytes)> progress;   // read so far; may be empty
  std::function<void(const Error&)> complain;          // what had to be left out
};

struct DeduplicationReport {
  std::uint64_t files = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t equal_bytes = 0;   // of blocks that were found a second time
  std::uint64_t shared_bytes = 0;  // of those that had been apart, and are not now (or would not be)
  std::uint64_t failed = 0;        // files left out
};

class Deduplicator {
 public:
  explicit Deduplicator(DeduplicationOptions options) : options_(std::move(options)), index_(options_.memory_bytes) {}
  // Reads a regular file and shares what was seen before, in it or in an earlier one. Others are passed over.
  void add(const std::string& path);
  const DeduplicationReport& report() const { return report_; }
  std::uint64_t interval() const { return index_.interval(); }

 private:
  struct Match {
    std::uint64_t from = 0, to = 0, length = 0;  // bytes
  };
  void scan(const std::string& path, int file, std::uint64_t size);
  Match extend(int source, std::uint64_t source_block, int target, std::uint64_t target_block, std::uint64_t shared_to,
               bool same_file) const;
  void share(int source, int target, const Match& match, const std::string& path);
  int open_source(std::uint32_t number);
  void fail_at(const std::string& path, int error);
  void fail_reading(const std::string& path, int error);  // once for each file

  DeduplicationOptions options_;
  BlockIndex index_;
  std::string lost_in_;  // the last file that could not be read as a whole
  DeduplicationReport report_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen_;  // files with several names
  std::uint32_t source_number_ = ~0u;                       // the file that was opened last to compare with
  FileDescriptor source_;
};

}  // namespace daxcow::tools
