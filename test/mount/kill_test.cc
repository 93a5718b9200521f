// The daemon is killed while processes write: whatever a process was told is durable must be there afterwards, and the
// checker must find nothing.
//
// Each writer has a directory of its own. Before an operation it notes in memory that it shares with the test what it
// is going to do, and afterwards, when fsync has returned, that it is done. After the kill the directory must be what
// the operations noted as done make it, with the one that was under way done or not.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <random>
#include <thread>

#include <fmt/format.h>

#include "fuse/control_client.h"
#include "test/mount/mount_fixture.h"
#include "test/seed.h"

namespace daxcow::test {
namespace {

constexpr unsigned kWriters = 4;
constexpr unsigned kRounds = 10;
constexpr unsigned kFiles = 6;              // of each writer
constexpr unsigned kRecords = 16;           // blocks of the file that is overwritten in place
constexpr int kMaximumMilliseconds = 1200;  // before the kill

enum class Operation { kNone, kReplace, kUnlink, kRename, kAppend, kOverwrite };

// What a writer's directory holds. Version 0: no such file.
struct State {
  std::array<std::uint64_t, kFiles> files{};      // the version of each; see content_of()
  std::uint64_t log_records = 0;                  // appended
  std::array<std::uint64_t, kRecords> records{};  // version of each block of the file "records"
};

// Shared by the test and a writer.
struct Progress {
  State done;
  Operation operation = Operation::kNone;  // under way
  unsigned from = 0, to = 0;
  std::uint64_t version = 0;
  std::atomic<std::uint64_t> completed{0};
  std::atomic<int> failure{0};  // an errno that the death of the daemon does not explain
};

constexpr std::uint64_t kLogRecordBytes = 100;

std::string content_of(unsigned writer, std::uint64_t version) {
  std::string content = pattern(version * kWriters + writer + 1, 1 + version % 5);
  content.resize(content.size() - version * 97 % 4096);
  return content;
}
std::string log_record(unsigned writer, std::uint64_t number) {
  return pattern(1'000'000 + number * kWriters + writer, 1).substr(0, kLogRecordBytes);
}
std::string record_block(unsigned writer, unsigned record, std::uint64_t version) {
  return pattern(2'000'000 + (version * kRecords + record) * kWriters + writer, 1);
}
std::string file_name(unsigned file) { return fmt::format("file{}", file); }

// A writer. Ends with 0 when the daemon is gone.
class Writer {
 public:
  Writer(unsigned number, std::string directory, Progress& progress, std::uint64_t seed)
      : number_(number), directory_(std::move(directory)), progress_(progress), random_(seed) {}

  int run() {
    directory_file_ = FileDescriptor(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY));
    for (std::uint64_t version = 1 + progress_.completed;; ++version)
      if (!step(version)) {
        const int error = errno;
        if (error == ENOTCONN || error == ECONNABORTED || error == EIO || error == ENODEV) return 0;
        progress_.failure = error;
        return 1;
      }
  }

 private:
  bool step(std::uint64_t version) {
    State next = progress_.done;
    progress_.from = pick(kFiles);
    progress_.to = pick(kFiles);
    progress_.version = version;
    auto& from = next.files[progress_.from];
    auto& to = next.files[progress_.to];
    const auto chance = pick(10);
    bool works = true;
    if (chance < 4) {
      progress_.operation = Operation::kReplace;
      works = replace(version);
      to = version;
    } else if (chance < 5 && from != 0) {
      progress_.operation = Operation::kUnlink;
      works = ::unlink(path(file_name(progress_.from)).c_str()) == 0 && sync_directory();
      from = 0;
    } else if (chance < 6 && from != 0 && progress_.from != progress_.to) {
      progress_.operation = Operation::kRename;
      works = ::rename(path(file_name(progress_.from)).c_str(), path(file_name(progress_.to)).c_str()) == 0 &&
              sync_directory();
      to = std::exchange(from, 0);
    } else if (chance < 8) {
      progress_.operation = Operation::kAppend;
      works = write_to("log", O_APPEND, 0, log_record(number_, next.log_records));
      next.log_records += 1;
    } else {
      progress_.operation = Operation::kOverwrite;
      progress_.to = pick(kRecords);
      works = write_to("records", 0, progress_.to * kBlockBytes, record_block(number_, progress_.to, version));
      next.records[progress_.to] = version;
    }
    if (!works) return false;
    progress_.done = next;
    progress_.operation = Operation::kNone;
    progress_.completed = version;
    return true;
  }

  unsigned pick(unsigned below) { return static_cast<unsigned>(random_() % below); }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  bool sync_directory() { return ::fsync(directory_file_.get()) == 0; }

  bool write_to(const std::string& name, int flags, std::uint64_t offset, const std::string& content) {
    const FileDescriptor file(::open(path(name).c_str(), O_WRONLY | O_CREAT | flags, 0644));
    if (!file) return false;
    for (std::uint64_t done = 0; done < content.size();) {  // the end of the daemon may cut one short
      const auto at = static_cast<off_t>(offset + done);
      const auto written = ::pwrite(file.get(), content.data() + done, content.size() - done, at);
      if (written <= 0) return false;
      done += static_cast<std::uint64_t>(written);
    }
    return ::fsync(file.get()) == 0 && sync_directory();
  }
  // As editors save: a new file takes the place of the old one.
  bool replace(std::uint64_t version) {
    return write_to("new", O_TRUNC, 0, content_of(number_, version)) &&
           ::rename(path("new").c_str(), path(file_name(progress_.to)).c_str()) == 0 && sync_directory();
  }

  const unsigned number_;
  const std::string directory_;
  Progress& progress_;
  std::mt19937_64 random_;
  FileDescriptor directory_file_;
};

std::string content_at(const std::string& path) {
  std::error_code missing;
  return fs::exists(path, missing) ? read_range(path, 0, 1 << 24) : std::string();
}

bool is_file(unsigned writer, const std::string& path, std::uint64_t version) {
  if (version == 0) return !fs::exists(path);
  return content_at(path) == content_of(writer, version);
}

// Checks the directory, and notes as done what of the operation under way is there.
void check_directory(unsigned writer, const std::string& directory, Progress& progress) {
  INFO("writer " << writer << ", operation " << static_cast<int>(progress.operation) << " (" << progress.from << " to "
                 << progress.to << ", version " << progress.version << ")");
  State& done = progress.done;
  const auto path = [&](const std::string& name) { return directory + "/" + name; };
  const auto is = [&](unsigned file, std::uint64_t version) { return is_file(writer, path(file_name(file)), version); };
  const auto operation = progress.operation;
  // Which of the two states of the operation under way is it?
  if (operation == Operation::kReplace && is(progress.to, progress.version)) {
    done.files[progress.to] = progress.version;
  } else if (operation == Operation::kUnlink && is(progress.from, 0)) {
    done.files[progress.from] = 0;
  } else if (operation == Operation::kRename && is(progress.from, 0)) {
    done.files[progress.to] = std::exchange(done.files[progress.from], 0);
  }
  for (unsigned file = 0; file < kFiles; ++file) {
    INFO(file_name(file) << " should be of version " << done.files[file]);
    CHECK(is(file, done.files[file]));
  }

  std::string log = content_at(path("log"));
  INFO("log of " << log.size() << " bytes, " << done.log_records << " records were acknowledged");
  if (operation == Operation::kAppend && log.size() % kLogRecordBytes != 0) {
    // The kernel sends a write that crosses a page in two parts: the second may be missing.
    const std::uint64_t torn_bytes = log.size() % kLogRecordBytes;
    CHECK(log.size() % kBlockBytes == 0);
    CHECK(log.substr(log.size() - torn_bytes) == log_record(writer, done.log_records).substr(0, torn_bytes));
    log.resize(log.size() - torn_bytes);
    REQUIRE(::truncate(path("log").c_str(), static_cast<off_t>(log.size())) == 0);
  }
  const std::uint64_t records = log.size() / kLogRecordBytes;
  CHECK(log.size() % kLogRecordBytes == 0);
  CHECK((records == done.log_records || (operation == Operation::kAppend && records == done.log_records + 1)));
  for (std::uint64_t i = 0; i < records; ++i) {
    if (log.substr(i * kLogRecordBytes, kLogRecordBytes) == log_record(writer, i)) continue;
    FAIL_CHECK("record " << i << " of the log is wrong");
    break;
  }
  done.log_records = records;

  const std::string blocks = content_at(path("records"));
  for (unsigned record = 0; record < kRecords; ++record) {
    const std::string block =
        blocks.size() > record * kBlockBytes ? blocks.substr(record * kBlockBytes, kBlockBytes) : "";
    const bool under_way = operation == Operation::kOverwrite && progress.to == record;
    if (under_way) {
      // Overwriting in place may have got half way. The next rounds start from a whole one.
      if (!block.empty())
        overwrite(path("records"), record * kBlockBytes, record_block(writer, record, progress.version));
      if (!block.empty()) done.records[record] = progress.version;
      continue;
    }
    INFO("block " << record << " of version " << done.records[record]);
    if (done.records[record] == 0)
      CHECK(block.find_first_not_of('\0') == std::string::npos);
    else
      CHECK(block == record_block(writer, record, done.records[record]));
  }
  progress.operation = Operation::kNone;
  ::unlink(path("new").c_str());
}

// Snapshots, clones and deletions beside the writers: they share blocks, so writers copy. Ends when the daemon is gone.
int share_blocks(const MountedPool& pool, unsigned round) {
  for (unsigned i = 0;; ++i) {
    auto client = ControlClient::connect(pool.pool());
    if (!client) return 0;
    const auto name = fmt::format("snapshot-{}-{}", round, i);
    if (!client->call({{"op", "snapshot"}, {"volume", "main"}, {"name", name}})) return 0;
    if (i % 3 == 2 && !client->call({{"op", "volume-delete"}, {"name", fmt::format("snapshot-{}-{}", round, i - 1)}}))
      return 0;
    ::usleep(30'000);
  }
}

TEST_CASE("What was fsynced survives a kill of the daemon, and the checker finds nothing") {
  if (skipped_without_mounts()) return;
  const auto seed = random_seed();
  std::printf("kill test: %s\n", describe_seed(seed).c_str());
  INFO(describe_seed(seed));
  std::mt19937_64 random(seed);

  void* const memory =
      ::mmap(nullptr, kWriters * sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto* const progress = static_cast<Progress*>(memory);
  for (unsigned i = 0; i < kWriters; ++i) new (&progress[i]) Progress;

  MountedPool pool(256ull << 20);
  std::uint64_t operations = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    INFO("round " << round);
    const std::string main = pool.mount("main");
    for (unsigned i = 0; i < kWriters; ++i) {
      const std::string directory = fmt::format("{}/writer{}", main, i);
      fs::create_directories(directory);
      check_directory(i, directory, progress[i]);
    }
    {
      std::vector<Child> children;
      for (unsigned i = 0; i < kWriters; ++i) {
        const auto writer_seed = random();
        children.emplace_back(
            [&, i] { return Writer(i, fmt::format("{}/writer{}", main, i), progress[i], writer_seed).run(); });
      }
      Child sharer([&] { return share_blocks(pool, round); });
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % kMaximumMilliseconds));
      pool.kill_daemon();
      for (unsigned i = 0; i < kWriters; ++i) {
        INFO("writer " << i << " failed with " << std::strerror(progress[i].failure));
        CHECK(children[i].wait() == 0);
      }
      CHECK(sharer.wait() == 0);
    }
    pool.check_clean();
  }
  const std::string main = pool.mount("main");
  for (unsigned i = 0; i < kWriters; ++i) {
    check_directory(i, fmt::format("{}/writer{}", main, i), progress[i]);
    operations += progress[i].completed;
  }
  std::printf("kill test: %lu operations in %u rounds\n", static_cast<unsigned long>(operations), kRounds);
  CHECK(operations > kRounds);
  // The snapshots of all rounds can be deleted, and their space comes back.
  pool.need_run(
      "daxcow volume list --json $POOL | grep -o 'snapshot-[0-9-]*' | sort -u | xargs -r daxcow volume delete $POOL");
  pool.settle();
  pool.check_clean();
  ::munmap(memory, kWriters * sizeof(Progress));
}

}  // namespace
}  // namespace daxcow::test
