// A process that works in a directory of its own, and notes in memory that it shares with the test what it was told is
// durable. After the daemon was killed the directory must be what the notes make it, with the operation that was under way
// done or not done.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string>

namespace daxcow::test {

inline constexpr unsigned kFiles = 6;      // that are replaced, cloned, renamed, unlinked
inline constexpr unsigned kRecords = 16;   // blocks of the files that are overwritten in place

enum class Operation : int {
  kNone, kReplace, kClone, kUnlink, kRename, kAppend, kOverwrite, kStoreMapped, kCopyRecords, kTree, kTruncate, kAttribute
};

// What a writer's directory holds. Version 0: no such file, block or attribute.
struct DirectoryState {
  std::array<std::uint64_t, kFiles> files{};        // the version of each
  std::uint64_t log_records = 0;                    // appended
  std::array<std::uint64_t, kRecords> records{};    // the version of each block of "records", written in place
  std::array<std::uint64_t, kRecords> mapped{};     // of "mapped", stored to through a mapping
  std::array<std::uint64_t, kRecords> copied{};     // of "copied", a clone of "records"
  std::uint64_t tree = 0;                           // directories four deep
  std::uint64_t cut = 0, cut_bytes = 0, cut_valid_bytes = 0;  // a file that shrinks and grows: its bytes, then zeros
  std::uint64_t attribute = 0;
};

struct Progress {
  DirectoryState done, next;
  Operation operation = Operation::kNone;  // under way: leads from done to next
  unsigned block = 0;                      // kOverwrite, kStoreMapped
  std::atomic<std::uint64_t> completed{0};
  std::atomic<std::uint64_t> refused{0};  // for want of space
  std::atomic<int> failure{0};            // an errno that the death of the daemon does not explain
  std::atomic<int> failed_operation{0};
};

struct WriterOptions {
  unsigned number = 0;
  std::string directory;
  std::uint64_t seed = 0;
  bool full = false;  // the pool is: operations may fail with ENOSPC, and must then have done nothing
};

// What calls fail with once the daemon is gone.
constexpr bool is_end_of_daemon(int error) {
  return error == ENOTCONN || error == ECONNABORTED || error == EIO || error == ENODEV;
}

// In a process of its own. Returns when the daemon is gone: 0 if nothing else went wrong.
int run_writer(const WriterOptions& options, Progress& progress);

// Requires that the directory is as noted; what of the operation under way is there counts as done from then on.
void check_directory(unsigned writer, const std::string& directory, Progress& progress);

}  // namespace daxcow::test
