#include "test/mount/kill_writer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include <fmt/format.h>

#include "engine/types.h"
#include "test/mount/mount_fixture.h"

namespace daxcow::test {

namespace {

constexpr std::uint64_t kLogRecordBytes = 100;
constexpr std::uint64_t kCutBytes = 90'000;
constexpr std::uint64_t kRecordsBytes = kRecords * kBlockBytes;

std::string content_of(unsigned writer, std::uint64_t version) {
  std::string content = pattern(version * 64 + writer + 1, 1 + version % 5);
  content.resize(content.size() - version * 97 % 4096);
  return content;
}
std::string log_record(unsigned writer, std::uint64_t number) {
  return pattern(1'000'000 + number * 64 + writer, 1).substr(0, kLogRecordBytes);
}
std::string record_block(unsigned writer, unsigned record, std::uint64_t version) {
  if (version == 0) return std::string(kBlockBytes, '\0');
  return pattern(2'000'000 + (version * kRecords + record) * 64 + writer, 1);
}
std::string records_content(unsigned writer, const std::array<std::uint64_t, kRecords>& versions) {
  std::string content;
  for (unsigned record = 0; record < kRecords; ++record) content += record_block(writer, record, versions[record]);
  return content;
}
std::string cut_content(unsigned writer, const DirectoryState& state) {
  if (state.cut == 0) return {};
  std::string content = pattern(3'000'000 + state.cut * 64 + writer, kCutBytes / kBlockBytes + 1).substr(0, state.cut_valid_bytes);
  content.resize(state.cut_bytes, '\0');
  return content;
}
std::string attribute_value(unsigned writer, std::uint64_t version) {
  return version == 0 ? std::string() : pattern(4'000'000 + version * 64 + writer, 1).substr(0, 10 + version * 131 % 3000);
}
std::string file_name(unsigned file) { return fmt::format("file{}", file); }

const std::array<std::string, 4> kTreeFolders{"", "/a", "/a/b", "/a/b/c"};
std::string tree_file(unsigned writer, std::uint64_t version, std::size_t depth) {
  return pattern(5'000'000 + (version * 8 + depth) * 64 + writer, 1).substr(0, 1000);
}

class Writer {
 public:
  Writer(const WriterOptions& options, Progress& progress) : options_(options), progress_(progress), random_(options.seed) {}

  int run() {
    // The pages of a mapping are gone with the daemon.
    ::signal(SIGBUS, [](int) { ::_exit(0); });
    directory_ = FileDescriptor(::open(options_.directory.c_str(), O_RDONLY | O_DIRECTORY));
    for (std::uint64_t version = 1 + progress_.completed + progress_.refused;; ++version) {
      if (step(version)) continue;
      const int error = errno;
      if (is_end_of_daemon(error)) return 0;
      // A write that was cut short, or a path that is gone since the mount was detached: the open directory knows.
      if (!sync_directory() && errno != ENOSPC) return 0;
      if (options_.full && error == ENOSPC) {
        progress_.operation = Operation::kNone;
        ++progress_.refused;
        continue;
      }
      progress_.failed_operation = static_cast<int>(progress_.operation);
      progress_.failure = error;
      return 1;
    }
  }

 private:
  bool step(std::uint64_t version) {
    DirectoryState& next = progress_.next;
    next = progress_.done;
    const unsigned one = pick(kFiles), other = pick(kFiles), block = pick(kRecords);
    const auto chance = pick(24);
    bool works = true;
    if (chance < 5) {
      next.files[one] = version;
      works = begin(Operation::kReplace) && replace(file_name(one), content_of(options_.number, version));
    } else if (chance < 8 && next.files[other] != 0) {
      next.files[one] = next.files[other];
      works = begin(Operation::kClone) && clone(file_name(other), file_name(one));
    } else if (chance < 9 && next.files[one] != 0) {
      next.files[one] = 0;
      works = begin(Operation::kUnlink) && ::unlink(path(file_name(one)).c_str()) == 0 && sync_directory();
    } else if (chance < 10 && next.files[one] != 0 && one != other) {
      next.files[other] = std::exchange(next.files[one], 0);
      works = begin(Operation::kRename) && move(file_name(one), file_name(other));
    } else if (chance < 13) {
      ++next.log_records;
      works = begin(Operation::kAppend) && append(log_record(options_.number, progress_.done.log_records));
    } else if (chance < 16) {
      next.records[block] = version;
      progress_.block = block;
      works = begin(Operation::kOverwrite) && store("records", block * kBlockBytes, record_block(options_.number, block, version));
    } else if (chance < 18 && !options_.full) {  // a store that fails for want of space leaves the kernel's page as it likes
      next.mapped[block] = version;
      progress_.block = block;
      works = begin(Operation::kStoreMapped) && store_mapped(block, record_block(options_.number, block, version));
    } else if (chance < 19 && next.records != std::array<std::uint64_t, kRecords>{}) {
      next.copied = next.records;
      works = begin(Operation::kCopyRecords) && clone("records", "copied");
    } else if (chance < 20) {
      next.tree = next.tree == 0 ? version : 0;
      works = begin(Operation::kTree) && (next.tree != 0 ? make_tree(version) : remove_tree());
    } else if (chance < 22) {
      works = cut(version);
    } else {
      next.attribute = version;
      works = begin(Operation::kAttribute) && set_attribute(attribute_value(options_.number, version));
    }
    if (!works) return false;
    progress_.done = next;
    progress_.operation = Operation::kNone;
    ++progress_.completed;
    return true;
  }

  bool begin(Operation operation) {
    progress_.operation = operation;
    return true;
  }
  unsigned pick(unsigned below) { return static_cast<unsigned>(random_() % below); }
  std::string path(const std::string& name) const { return options_.directory + "/" + name; }
  bool sync_directory() { return ::fsync(directory_.get()) == 0; }

  static bool write_all(int file, std::uint64_t offset, const std::string& content) {
    for (std::uint64_t done = 0; done < content.size();) {  // the end of the daemon or of the space may cut one short
      const auto written = ::pwrite(file, content.data() + done, content.size() - done, static_cast<off_t>(offset + done));
      if (written < 0) return false;
      if (written == 0) return errno = ENOSPC, false;
      done += static_cast<std::uint64_t>(written);
    }
    return true;
  }
  bool move(const std::string& from, const std::string& to) {
    return ::rename(path(from).c_str(), path(to).c_str()) == 0 && sync_directory();
  }
  // As editors save: a new file takes the place of the old one.
  bool replace(const std::string& name, const std::string& content) {
    const FileDescriptor file(::open(path("new").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    return file && write_all(file.get(), 0, content) && ::fsync(file.get()) == 0 && move("new", name);
  }
  bool clone(const std::string& from, const std::string& to) {
    const FileDescriptor source(::open(path(from).c_str(), O_RDONLY));
    const FileDescriptor target(::open(path("new").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    if (!source || !target) return false;
    for (;;) {
      const auto copied = ::copy_file_range(source.get(), nullptr, target.get(), nullptr, 1 << 20, 0);
      if (copied < 0) return false;
      if (copied == 0) break;
    }
    return ::fsync(target.get()) == 0 && move("new", to);
  }
  bool append(const std::string& record) {
    const FileDescriptor file(::open(path("log").c_str(), O_WRONLY | O_CREAT, 0644));
    if (!file) return false;
    const std::uint64_t end = progress_.done.log_records * kLogRecordBytes;
    if (write_all(file.get(), end, record)) return ::fsync(file.get()) == 0 && sync_directory();
    const int error = errno;
    if (error == ENOSPC && ::ftruncate(file.get(), static_cast<off_t>(end)) != 0 && errno != ENOSPC) return false;
    return errno = error, false;
  }
  bool store(const std::string& name, std::uint64_t offset, const std::string& block) {
    const FileDescriptor file(::open(path(name).c_str(), O_WRONLY | O_CREAT, 0644));
    return file && write_all(file.get(), offset, block) && ::fsync(file.get()) == 0 && sync_directory();
  }
  bool store_mapped(unsigned block, const std::string& content) {
    const FileDescriptor file(::open(path("mapped").c_str(), O_RDWR | O_CREAT, 0644));
    struct stat status {};
    if (!file || ::fstat(file.get(), &status) != 0) return false;
    if (status.st_size < static_cast<off_t>(kRecordsBytes) && (::ftruncate(file.get(), kRecordsBytes) != 0 || !sync_directory())) return false;
    void* const mapping = ::mmap(nullptr, kRecordsBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (mapping == MAP_FAILED) return false;
    std::memcpy(static_cast<char*>(mapping) + block * kBlockBytes, content.data(), kBlockBytes);
    const bool stored = ::msync(mapping, kRecordsBytes, MS_SYNC) == 0;
    const int error = errno;
    ::munmap(mapping, kRecordsBytes);
    return errno = error, stored;
  }
  bool make_tree(std::uint64_t version) {
    discard("building");
    for (std::size_t depth = 0; depth < kTreeFolders.size(); ++depth) {
      const std::string folder = path("building") + kTreeFolders[depth];
      if (::mkdir(folder.c_str(), 0755) != 0) return false;
      const FileDescriptor file(::open((folder + "/leaf").c_str(), O_WRONLY | O_CREAT, 0644));
      if (!file || !write_all(file.get(), 0, tree_file(options_.number, version, depth)) || ::fsync(file.get()) != 0) return false;
    }
    return move("building", "tree");
  }
  bool remove_tree() {
    discard("building");
    if (!move("tree", "building")) return false;
    discard("building");
    return true;
  }
  void discard(const std::string& name) const {
    std::error_code ignored;
    fs::remove_all(path(name), ignored);
  }
  // Now longer, now shorter, now new.
  bool cut(std::uint64_t version) {
    DirectoryState& next = progress_.next;
    if (next.cut == 0 || next.cut_bytes == 0 || pick(4) == 0) {
      next.cut = version;
      next.cut_bytes = next.cut_valid_bytes = kCutBytes;
      return begin(Operation::kTruncate) && replace("cut", cut_content(options_.number, next));
    }
    next.cut_bytes = pick(kCutBytes);
    next.cut_valid_bytes = std::min(next.cut_valid_bytes, next.cut_bytes);
    begin(Operation::kTruncate);
    const FileDescriptor file(::open(path("cut").c_str(), O_WRONLY));
    return file && ::ftruncate(file.get(), static_cast<off_t>(next.cut_bytes)) == 0 && ::fsync(file.get()) == 0;
  }
  bool set_attribute(const std::string& value) {
    return ::fsetxattr(directory_.get(), "user.kill-test", value.data(), value.size(), 0) == 0 && sync_directory();
  }

  const WriterOptions& options_;
  Progress& progress_;
  std::mt19937_64 random_;
  FileDescriptor directory_;
};

// --- checking ----------------------------------------------------------------------------------------------------------

std::string content_at(const std::string& path) {
  std::error_code missing;
  return fs::exists(path, missing) ? read_range(path, 0, 1 << 24) : std::string();
}

std::string attribute_at(const std::string& path) {
  std::string value(8192, '\0');
  const auto length = ::getxattr(path.c_str(), "user.kill-test", value.data(), value.size());
  value.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
  return value;
}

// What of the directory differs from the state: everything that changes as a whole. Empty if nothing does.
std::string difference(unsigned writer, const std::string& directory, const DirectoryState& state) {
  const auto path = [&](const std::string& name) { return directory + "/" + name; };
  for (unsigned file = 0; file < kFiles; ++file) {
    const std::string name = file_name(file);
    const std::uint64_t version = state.files[file];
    if (fs::exists(path(name)) != (version != 0)) return name + (version != 0 ? " is missing" : " is there");
    if (version != 0 && content_at(path(name)) != content_of(writer, version)) return fmt::format("{} is not of version {}", name, version);
  }
  if (fs::exists(path("tree")) != (state.tree != 0)) return state.tree != 0 ? "the tree is missing" : "the tree is there";
  for (std::size_t depth = 0; state.tree != 0 && depth < kTreeFolders.size(); ++depth)
    if (content_at(path("tree") + kTreeFolders[depth] + "/leaf") != tree_file(writer, state.tree, depth))
      return fmt::format("the tree is wrong at depth {}", depth);
  if (content_at(path("cut")) != cut_content(writer, state)) return "cut has another length or content";
  if (attribute_at(directory) != attribute_value(writer, state.attribute)) return "the attribute has another value";
  std::string copied = content_at(path("copied"));
  copied.resize(kRecordsBytes, '\0');
  if (copied != records_content(writer, state.copied)) return "the clone of the records differs";
  return {};
}

void check_log(unsigned writer, const std::string& path, Progress& progress) {
  std::string log = content_at(path);
  const bool under_way = progress.operation == Operation::kAppend;
  INFO("log of " << log.size() << " bytes, " << progress.done.log_records << " records were acknowledged");
  if (under_way && log.size() % kLogRecordBytes != 0) {
    // The kernel sends a write that crosses a page in two parts: the second may be missing.
    const std::uint64_t torn_bytes = log.size() % kLogRecordBytes;
    CHECK(log.size() % kBlockBytes == 0);
    CHECK(log.substr(log.size() - torn_bytes) == log_record(writer, progress.done.log_records).substr(0, torn_bytes));
    log.resize(log.size() - torn_bytes);
    REQUIRE(::truncate(path.c_str(), static_cast<off_t>(log.size())) == 0);
  }
  const std::uint64_t records = log.size() / kLogRecordBytes;
  CHECK(log.size() % kLogRecordBytes == 0);
  CHECK((records == progress.done.log_records || (under_way && records == progress.done.log_records + 1)));
  for (std::uint64_t i = 0; i < records; ++i) {
    if (log.substr(i * kLogRecordBytes, kLogRecordBytes) == log_record(writer, i)) continue;
    FAIL_CHECK("record " << i << " of the log is wrong");
    break;
  }
  progress.done.log_records = records;
}

// A file that is overwritten in place, block by block. The one under way may have got half way.
void check_blocks(unsigned writer, const std::string& path, std::array<std::uint64_t, kRecords>& versions, const Progress& progress, bool under_way) {
  std::string blocks = content_at(path);
  blocks.resize(kRecordsBytes, '\0');
  for (unsigned record = 0; record < kRecords; ++record) {
    const std::string block = blocks.substr(record * kBlockBytes, kBlockBytes);
    if (block == record_block(writer, record, versions[record])) continue;
    if (!under_way || record != progress.block) {
      FAIL_CHECK(path << ": block " << record << " is not of version " << versions[record]);
      continue;
    }
    // The next rounds start from a whole one.
    versions[record] = 1'000'000'000 + progress.completed;
    overwrite(path, record * kBlockBytes, record_block(writer, record, versions[record]));
  }
}

}  // namespace

int run_writer(const WriterOptions& options, Progress& progress) { return Writer(options, progress).run(); }

void check_directory(unsigned writer, const std::string& directory, Progress& progress) {
  INFO("writer " << writer << ", operation under way " << static_cast<int>(progress.operation) << ", " << progress.completed << " completed");
  const bool in_place = progress.operation == Operation::kOverwrite || progress.operation == Operation::kStoreMapped ||
                        progress.operation == Operation::kAppend;
  std::string differs = difference(writer, directory, progress.done);
  if (!differs.empty() && progress.operation != Operation::kNone && !in_place) {
    const std::string also = difference(writer, directory, progress.next);
    if (also.empty()) {
      progress.done = progress.next;
      differs.clear();
    } else {
      differs += "; and of what was under way: " + also;
    }
  }
  CHECK(differs == "");
  check_log(writer, directory + "/log", progress);
  check_blocks(writer, directory + "/records", progress.done.records, progress, progress.operation == Operation::kOverwrite);
  check_blocks(writer, directory + "/mapped", progress.done.mapped, progress, progress.operation == Operation::kStoreMapped);
  progress.operation = Operation::kNone;
  ::unlink((directory + "/new").c_str());
}

}  // namespace daxcow::test
