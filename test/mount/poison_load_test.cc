// Poison under load: bad blocks arrive while processes read, write, map, sync and unmount the files that have them. A
// watchdog sees to it that everybody gets on, no reader ever sees a byte that nobody wrote there, and who maps only
// pages that never went bad is never signalled.
//
// Every 64 bytes of a file tell which file and which place they are of, so a reader can tell any mixture of versions
// from anything wrong. Of each file the first half is written to and goes bad ("hot"); the second half and the
// bystanders' file are written once and have their blocks for good.
//
// DAXCOW_POISON_SECONDS: how long each runs (5).
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <new>
#include <random>
#include <thread>

#include <fmt/format.h>

#include "engine/block.h"
#include "engine/emulated_badblocks.h"
#include "test/mount/mount_fixture.h"
#include "test/seed.h"

namespace daxcow::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Random = std::mt19937_64;

constexpr std::uint64_t kFiles = 4;   // in each of two volumes; those of the second begin as clones
constexpr std::uint64_t kPages = 64;  // of each
constexpr std::uint64_t kHotPages = 32;
constexpr std::uint64_t kBystander = 100;  // the number of the file that nothing happens to
constexpr auto kPatience = 60s;            // of the watchdog, on a machine that has much else to do

using Word = std::uint64_t;
constexpr std::uint64_t kWordsOfPage = kBlockBytes / sizeof(Word);

// Number of the file (7 bits, from 1), of the word in it (20), version (16), and a check of these (20).
Word make_word(std::uint64_t file, std::uint64_t position, std::uint64_t version) {
  const Word what = (file + 1) << 56 | (position & 0xfffff) << 36 | (version & 0xffff) << 20;
  return what | (what * 0x9e3779b97f4a7c15ull) >> 44;
}
std::string make_pages(std::uint64_t file, std::uint64_t first_page, std::uint64_t pages, std::uint64_t version) {
  std::vector<Word> words;
  for (std::uint64_t at = first_page * kWordsOfPage; at < (first_page + pages) * kWordsOfPage; ++at)
    words.push_back(make_word(file, at, version));
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(Word)};
}
// Whether these are bytes of that place of the file; hot pages may have been punched.
bool is_right(const char* content, std::uint64_t length, std::uint64_t file, std::uint64_t offset, bool may_be_zero) {
  for (std::uint64_t at = 0; at < length; at += sizeof(Word)) {
    Word word;
    std::memcpy(&word, content + at, sizeof word);
    if (may_be_zero && word == 0) continue;
    if (word != make_word(file, (offset + at) / sizeof(Word), word >> 20 & 0xffff)) return false;
  }
  return true;
}

// What the processes share with the test.
struct Shared {
  static constexpr std::size_t kMaximum = 32;
  std::atomic<bool> stop{false};
  std::array<std::atomic<std::uint64_t>, kMaximum> beats{};
  std::array<std::atomic<std::uint64_t>, kMaximum> refused{};  // EIO and SIGBUS, which are in order
  std::atomic<bool> failed{false};
  char what[512] = {};
};

struct Victim {
  std::string path;
  std::uint64_t number;  // that its words carry: clones carry their source's
  std::string volume = {};
  std::uint64_t inode = 0;
};

// A process's guard for accesses to mappings, and what it does about signals that are sent.
struct Guard {
  static inline thread_local sigjmp_buf after_fault;
  static inline volatile std::sig_atomic_t in_access = 0;
  static inline volatile std::sig_atomic_t sent = 0;
  static void install() {
    struct sigaction action {};
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
      if (info->si_code < 0) {
        sent = sent + 1;
        return;
      }
      if (in_access == 0) ::_exit(99);
      in_access = 0;
      siglongjmp(after_fault, 1);
    };
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigaction(SIGBUS, &action, nullptr);
  }
  static bool copy(void* to, const void* from, std::size_t length) {
    if (sigsetjmp(after_fault, 1) != 0) return false;
    in_access = 1;
    std::memcpy(to, from, length);
    in_access = 0;
    return true;
  }
};

class Worker {
 public:
  Worker(Shared& shared, std::size_t index, std::uint64_t seed, std::vector<Victim> victims)
      : shared_(shared), index_(index), random_(seed), victims_(std::move(victims)) {}

  // Repeats `step` until the test is over or something was wrong.
  template <class Step>
  int run(const char* role, Step step) {
    role_ = role;
    Guard::install();
    while (!shared_.stop && !shared_.failed) {
      step(*this);
      ++shared_.beats[index_];
    }
    return shared_.failed ? 1 : 0;
  }

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  const Victim& victim() { return victims_[below(victims_.size())]; }
  FileDescriptor open(const std::string& path, int flags) {
    FileDescriptor file(::open(path.c_str(), flags | O_CLOEXEC));
    if (!file) fail("cannot open " + path + ": " + std::strerror(errno));
    return file;
  }
  void refused() { ++shared_.refused[index_]; }
  void fail(const std::string& what) {
    if (!shared_.failed.exchange(true)) std::snprintf(shared_.what, sizeof shared_.what, "%s: %s", role_, what.c_str());
  }
  // What a system call on a hot range may answer.
  void judge_error(const std::string& what, bool hot) {
    if (errno == EIO && hot) return refused();
    fail(what + ": " + std::strerror(errno));
  }

  // --- steps ---------------------------------------------------------------------------------------------------------

  void read(int flags) {
    const auto& [path, number, volume, inode] = victim();
    const auto file = open(path, O_RDONLY | flags);
    if (!file) return;
    const std::uint64_t first = below(kPages), count = 1 + below(std::min<std::uint64_t>(8, kPages - first));
    alignas(4096) static char buffer[8 * kBlockBytes];
    const ssize_t got = ::pread(file.get(), buffer, count * kBlockBytes, static_cast<off_t>(first * kBlockBytes));
    if (got < 0) return judge_error(fmt::format("read {} pages {}+{}", path, first, count), first < kHotPages);
    if (!is_right(buffer, static_cast<std::uint64_t>(got), number, first * kBlockBytes, first < kHotPages))
      fail(fmt::format("wrong bytes in {} pages {}+{}", path, first, count));
  }

  void write() {
    const auto& [path, number, volume, inode] = victim();
    const auto file = open(path, O_RDWR);
    if (!file) return;
    const std::uint64_t first = below(kHotPages), count = 1 + below(std::min<std::uint64_t>(4, kHotPages - first));
    const bool whole = below(4) != 0;
    std::string content = make_pages(number, first, count, random_());
    if (!whole) content.resize(kSectorBytes);
    const ssize_t put = ::pwrite(file.get(), content.data(), content.size(), static_cast<off_t>(first * kBlockBytes));
    // A whole page never needs what it was.
    if (put < 0) judge_error(fmt::format("write {} pages {}+{}", path, first, count), !whole);
    if (below(8) == 0 && ::fsync(file.get()) != 0) judge_error("fsync " + path, true);
  }

  void heal() {
    const auto& [path, number, volume, inode] = victim();
    const auto file = open(path, O_RDWR);
    if (!file) return;
    const auto offset = static_cast<off_t>(below(kHotPages) * kBlockBytes);
    const int mode = below(2) != 0 ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    if (::fallocate(file.get(), mode | FALLOC_FL_KEEP_SIZE, offset, kBlockBytes) != 0)
      judge_error("punch " + path, false);
    std::this_thread::sleep_for(5ms);
  }

  void use_mapping(bool writing) {
    const auto& [path, number, volume, inode] = victim();
    const auto file = open(path, writing ? O_RDWR : O_RDONLY);
    if (!file) return;
    const int protection = writing ? PROT_READ | PROT_WRITE : PROT_READ;
    void* const mapping = ::mmap(nullptr, kPages * kBlockBytes, protection, MAP_SHARED, file.get(), 0);
    if (mapping == MAP_FAILED) return fail("mmap: " + std::string(std::strerror(errno)));
    char* const base = static_cast<char*>(mapping);
    for (unsigned i = 0; i < 32; ++i) {
      const std::uint64_t page = below(kPages);
      char content[kBlockBytes];
      if (!Guard::copy(content, base + page * kBlockBytes, kBlockBytes)) {
        refused();
        if (page >= kHotPages) fail(fmt::format("SIGBUS in {} page {}", path, page));
      } else if (!is_right(content, kBlockBytes, number, page * kBlockBytes, page < kHotPages)) {
        fail(fmt::format("wrong bytes in a mapping of {} page {}", path, page));
      }
      if (!writing) continue;
      const std::uint64_t at = below(kHotPages * kWordsOfPage);
      const Word word = make_word(number, at, random_());
      if (!Guard::copy(base + at * sizeof word, &word, sizeof word)) refused();
      // (What could not be written is said here, and lost: it is in order for a page that went bad meanwhile.)
      if (i % 8 == 0 && ::msync(mapping, kHotPages * kBlockBytes, MS_SYNC) != 0) judge_error("msync " + path, true);
    }
    ::munmap(mapping, kPages * kBlockBytes);
  }

  void sync_all() {
    for (const auto& [path, number, volume, inode] : victims_) {
      const auto file = open(path, O_RDWR);
      if (file && ::fsync(file.get()) != 0) judge_error("fsync " + path, true);
    }
  }

 private:
  Shared& shared_;
  std::size_t index_;
  Random random_;
  std::vector<Victim> victims_;
  const char* role_ = "";
};

// Maps what never goes bad, and looks at it again and again: nobody may signal it.
int stand_by(Worker& worker, const std::vector<Victim>& victims, const std::string& bystander) {
  std::vector<std::pair<const char*, Victim>> mappings;
  const auto map = [&](const Victim& file, std::uint64_t first_page) {
    const FileDescriptor descriptor(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC));
    void* const mapping = ::mmap(nullptr, (kPages - first_page) * kBlockBytes, PROT_READ, MAP_SHARED, descriptor.get(),
                                 static_cast<off_t>(first_page * kBlockBytes));
    if (mapping == MAP_FAILED) return worker.fail("cannot map " + file.path);
    mappings.emplace_back(static_cast<const char*>(mapping) - first_page * kBlockBytes, file);
  };
  for (const auto& victim : victims) map(victim, kHotPages);
  map({bystander, kBystander}, kHotPages);
  return worker.run("bystander", [&](Worker& self) {
    const auto& [base, file] = mappings[self.below(mappings.size())];
    const std::uint64_t page = kHotPages + self.below(kPages - kHotPages);
    char content[kBlockBytes];
    if (!Guard::copy(content, base + page * kBlockBytes, kBlockBytes))
      self.fail(fmt::format("SIGBUS in {} page {}", file.path, page));
    else if (!is_right(content, kBlockBytes, file.number, page * kBlockBytes, false))
      self.fail(fmt::format("wrong bytes in {} page {}", file.path, page));
    if (Guard::sent != 0) self.fail("was sent a signal");
    std::this_thread::sleep_for(1ms);
  });
}

// Mounts a volume, uses it, and unmounts it in the middle of that.
void come_and_go(Worker& worker, const MountedPool& pool, const std::string& directory,
                 const std::vector<Victim>& victims) {
  const std::string mount =
      fmt::format("{}/mount.daxcow {} {} -o volume=third 2>/dev/null", DAXCOW_BIN_DIR, pool.pool(), directory);
  if (std::system(mount.c_str()) != 0) return worker.fail("cannot mount");
  {
    const Child reader([&] {
      ::signal(SIGBUS, SIG_IGN);
      for (;;)
        for (const auto& [path, number, volume, inode] : victims) {
          std::string content(kPages * kBlockBytes, '\0');
          const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
          if (file && ::read(file.get(), content.data(), content.size()) < 0 && errno != EIO) return 1;
        }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(worker.below(50)));
    ::umount2(directory.c_str(), MNT_DETACH);
  }
}

// Has the kernel end every request of a mount, so that what waits for one can be ended.
void abort_mount(const std::string& directory) {
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) return;
  write_text(fmt::format("/sys/fs/fuse/connections/{}/abort", minor(status.st_dev)), "1");
}

class Load {
 public:
  explicit Load(std::uint64_t seed) : seed_(seed), shared_(new (share_memory()) Shared) {
    pool_.mount("main");
    for (const char* volume : {"second", "third"}) pool_.need_run(fmt::format("daxcow volume create $POOL {}", volume));
    pool_.mount("second");
    for (std::uint64_t file = 0; file < kFiles; ++file) {
      const std::string name = fmt::format("/victim-{}", file);
      write_file(pool_.mount_point("main") + name, make_pages(file, 0, kPages, 0));
      add_victim("main", file);
      pool_.need_run(fmt::format("daxcow clone main{0} second{0}", name));
      add_victim("second", file);
    }
    pool_.mount("third");
    pool_.need_run(
        fmt::format("for i in $(seq 0 {}); do daxcow clone main/victim-$i third/victim-$i; done", kFiles - 1));
    pool_.unmount("third");
    write_file(bystander_file(), make_pages(kBystander, 0, kPages, 0));
  }
  ~Load() {
    shared_->stop = true;
    processes_.clear();
    ::umount2(third().c_str(), MNT_DETACH);
    ::munmap(shared_, sizeof(Shared));
  }

  void run(std::chrono::milliseconds between, std::chrono::seconds how_long) {
    start("reader", [](Worker& worker) { worker.read(0); });
    start("reader past the cache", [](Worker& worker) { worker.read(O_DIRECT); });
    start("writer", [](Worker& worker) { worker.write(); });
    start("another writer", [](Worker& worker) { worker.write(); });
    start("healer", [](Worker& worker) { worker.heal(); });
    start("reader of a mapping", [](Worker& worker) { worker.use_mapping(false); });
    start("writer to a mapping", [](Worker& worker) { worker.use_mapping(true); });
    start("syncer", [](Worker& worker) { worker.sync_all(); });
    fs::create_directories(third());
    std::vector<Victim> thirds;
    for (std::uint64_t file = 0; file < kFiles; ++file)
      thirds.push_back({fmt::format("{}/victim-{}", third(), file), file});
    start("mounter", [this, thirds](Worker& worker) { come_and_go(worker, pool_, third(), thirds); });
    roles_.push_back("bystander");
    processes_.emplace_back([this, index = roles_.size() - 1] {
      Worker worker(*shared_, index, seed_, {});
      Guard::install();
      return stand_by(worker, victims_, bystander_file());
    });
    poison(between, how_long);
    finish();
  }

 private:
  static void* share_memory() {
    void* const memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    return memory;
  }
  void add_victim(const std::string& volume, std::uint64_t file) {
    const std::string path = fmt::format("{}/victim-{}", pool_.mount_point(volume), file);
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    victims_.push_back({path, file, volume, status.st_ino});
  }
  std::string third() const { return pool_.mount_point("third"); }
  std::string bystander_file() const { return pool_.mount_point("main") + "/bystander"; }

  template <class Step>
  void start(const char* role, Step step) {
    const std::size_t index = roles_.size();
    roles_.push_back(role);
    processes_.emplace_back([=, this] { return Worker(*shared_, index, seed_ + index, victims_).run(role, step); });
  }

  // Makes hot pages bad, one after the other, while everybody gets on.
  void poison(std::chrono::milliseconds between, std::chrono::seconds how_long) {
    Random random(seed_ + 1000);
    std::map<std::size_t, std::pair<std::uint64_t, Clock::time_point>> last_seen;
    const auto end = Clock::now() + how_long;
    for (auto next = Clock::now(); Clock::now() < end && !shared_->failed; next += between) {
      std::this_thread::sleep_until(next);
      poison_page(victims_[random() % victims_.size()], random() % kHotPages);
      for (std::size_t index = 0; index < roles_.size(); ++index) {
        auto& [beats, when] = last_seen.try_emplace(index, 0, Clock::now()).first->second;
        if (const std::uint64_t now = shared_->beats[index]; now != beats) {
          beats = now;
          when = Clock::now();
        } else if (Clock::now() - when > kPatience) {
          give_up(roles_[index]);
        }
      }
    }
  }

  // Asks the daemon by inode number: the watchdog must not wait for a mount itself.
  void poison_page(const Victim& victim, std::uint64_t page) {
    const auto map = pool_.ask(
        {{"op", "map"}, {"volume", victim.volume}, {"inode", victim.inode}, {"from_bytes", page * kBlockBytes}});
    for (const auto& extent : map.at("extents")) {
      const std::uint64_t start = extent.at("offset_bytes"), length = extent.at("length_bytes");
      if (page * kBlockBytes < start || page * kBlockBytes - start >= length || !extent.contains("pool_offset_bytes"))
        continue;
      const std::uint64_t offset = extent.at("pool_offset_bytes").get<std::uint64_t>() + (page * kBlockBytes - start);
      ++injected_;
      REQUIRE(emulated_device::inject(pool_.pool(), offset / kSectorBytes, kSectorsPerBlock, true));
      return;
    }
  }

  void give_up(const std::string& who) {
    std::system(
        fmt::format("for task in /proc/{}/task/*; do cat $task/wchan; echo; cat $task/stack; done 2>/dev/null >&2",
                    pool_.daemon())
            .c_str());
    for (const char* volume : {"main", "second", "third"}) abort_mount(pool_.mount_point(volume));
    FAIL("nothing moves any more: " << who);
  }

  void finish() {
    shared_->stop = true;
    const pid_t bystander = processes_.back().process();
    std::vector<int> results;
    for (auto& process : processes_) results.push_back(process.wait());
    INFO(shared_->what);  // also of what failed meanwhile
    CHECK_FALSE(shared_->failed);
    CHECK(results == std::vector<int>(roles_.size(), 0));
    std::string told = fmt::format("{} bad blocks", injected_);
    for (std::size_t index = 0; index < roles_.size(); ++index)
      told += fmt::format("; {}: {} ({} refused)", roles_[index], shared_->beats[index].load(),
                          shared_->refused[index].load());
    std::printf("%s\n", told.c_str());
    ::umount2(third().c_str(), MNT_DETACH);
    pool_.settle();
    for (const auto& event : pool_.events_of("process-signalled")) CHECK(event.at("process").get<pid_t>() != bystander);
    CHECK(pool_.events_of("metadata-lost").empty());
    // Everything can be healed, and is right then.
    pool_.mount("third");
    for (std::uint64_t file = 0; file < kFiles; ++file) add_victim("third", file);
    for (const auto& [path, number, volume, inode] : victims_) {
      drop_pages(path);
      overwrite(path, 0, make_pages(number, 0, kHotPages, 7));
      const std::string content = read_range(path, 0, kPages * kBlockBytes);
      CHECK(content.size() == kPages * kBlockBytes);
      CHECK(is_right(content.data(), content.size(), number, 0, false));
    }
    const bool mended = wait_until([&] {
      pool_.settle();
      return pool_.nothing_is_bad();
    });
    CHECK(mended);
    pool_.check_clean();
  }

  std::uint64_t seed_;
  MountedPool pool_;
  std::vector<Victim> victims_;
  Shared* shared_;
  std::vector<std::string> roles_;
  std::deque<Child> processes_;
  std::uint64_t injected_ = 0;
};

std::chrono::seconds how_long() {
  const char* const given = std::getenv("DAXCOW_POISON_SECONDS");
  return std::chrono::seconds(given != nullptr ? std::strtoul(given, nullptr, 0) : 5);
}

TEST_CASE("Poison every 50 ms under readers, writers and mappings harms nobody but its owners", "[poison-load]") {
  if (skipped_without_mounts()) return;
  const auto seed = random_seed();
  INFO(describe_seed(seed));
  Load(seed).run(50ms, how_long());
}

TEST_CASE("Invalidation runs against everything that a mount can do, and nothing gets stuck", "[poison-load]") {
  if (skipped_without_mounts()) return;
  const auto seed = random_seed();
  INFO(describe_seed(seed));
  Load(seed).run(3ms, how_long());
}

}  // namespace
}  // namespace daxcow::test
