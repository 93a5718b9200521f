#include "test/mount/mount_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include "engine/block.h"
#include "fuse/control_client.h"

namespace daxcow::test {

using namespace std::chrono_literals;
using nlohmann::json;

namespace {

constexpr int kDaemonEndMilliseconds = 30'000;

fs::path pool_base() {
  const char* const wanted = std::getenv("DAXCOW_TEST_POOLS");
  if (wanted != nullptr) return wanted;
  return access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
}

}  // namespace

bool skipped_without_mounts() {
  const char* why = nullptr;
  if (geteuid() != 0)
    why = "mounting needs root";
  else if (const FileDescriptor device(::open("/dev/fuse", O_RDWR | O_CLOEXEC)); !device)
    why = "/dev/fuse cannot be opened";
  if (why != nullptr) std::fprintf(stderr, "SKIPPED: %s\n", why);
  return why != nullptr;
}

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

// --- the pool --------------------------------------------------------------------------------------------------------

MountedPool::MountedPool(std::uint64_t size_bytes) : directory_(pool_base()) {
  need_run(fmt::format("mkfs.daxcow --quiet --size {} $POOL", size_bytes));
}

MountedPool::~MountedPool() {
  for (auto mount = mounts_.rbegin(); mount != mounts_.rend(); ++mount)
    if (::umount2(mount->directory.c_str(), 0) != 0 && errno != EINVAL) ::umount2(mount->directory.c_str(), MNT_DETACH);
  if (daemon_process_ && !wait_for_daemon_end(kDaemonEndMilliseconds)) {
    std::fprintf(stderr, "the daemon (process %d) did not end after the last unmount: killed\n", daemon_);
    ::syscall(SYS_pidfd_send_signal, daemon_process_.get(), SIGKILL, nullptr, 0);
    wait_for_daemon_end(kDaemonEndMilliseconds);
  }
}

Outcome MountedPool::run(const std::string& command) const {
  const std::string script = path(".script");
  write_text(script,
             "cd '" + path("") + "'\nexport PATH=" DAXCOW_BIN_DIR ":$PATH POOL='" + pool() + "'\n" + command + "\n");
  const std::string whole =
      fmt::format("timeout -k 5 60 bash '{}' >'{}' 2>'{}' </dev/null", script, path(".out"), path(".err"));
  const int status = std::system(whole.c_str());
  INFO(command);
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), read_text(path(".out")), read_text(path(".err"))};
}

std::string MountedPool::need_run(const std::string& command) const {
  auto outcome = run(command);
  INFO(command << "\nprints: " << outcome.out << "\nand says: " << outcome.err);
  REQUIRE(outcome.exit_code == 0);
  return std::move(outcome.out);
}

std::string MountedPool::mount(const std::string& volume, const std::string& options) {
  const std::string directory = mount_point(volume);
  fs::create_directories(directory);
  mounts_.push_back({volume, directory});  // first: whatever happens from now on, it is unmounted
  const auto outcome = run(fmt::format("mount.daxcow $POOL '{}' -o 'volume={}{}{}'", directory, volume,
                                       options.empty() ? "" : ",", options));
  if (outcome.exit_code != 0) mounts_.pop_back();
  INFO("mounting " << volume << ": " << outcome.err);
  REQUIRE(outcome.exit_code == 0);
  if (!daemon_process_) watch_daemon();
  return directory;
}

void MountedPool::watch_daemon() {
  daemon_ = ask({{"op", "mounts"}}).at("process").get<pid_t>();
  daemon_process_ = FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, daemon_, 0)));
  REQUIRE(daemon_process_);
}

bool MountedPool::wait_for_daemon_end(int milliseconds) {
  pollfd ended{daemon_process_.get(), POLLIN, 0};
  if (::poll(&ended, 1, milliseconds) != 1) return false;
  daemon_process_.reset();
  daemon_ = 0;
  return true;
}

void MountedPool::unmount(const std::string& volume) {
  const auto mount = std::ranges::find(mounts_, volume, &Mount::volume);
  REQUIRE(mount != mounts_.end());
  const auto outcome = run(fmt::format("umount '{}'", mount->directory));
  INFO("unmounting " << volume << ": " << outcome.err);
  REQUIRE(outcome.exit_code == 0);
  mounts_.erase(mount);
  if (mounts_.empty()) REQUIRE(wait_for_daemon_end(kDaemonEndMilliseconds));
}

void MountedPool::unmount_all() {
  while (!mounts_.empty()) unmount(mounts_.back().volume);
}

json MountedPool::check_clean() {
  unmount_all();
  const auto outcome = run("fsck.daxcow --json $POOL");
  INFO("fsck.daxcow: " << outcome.out << outcome.err);
  REQUIRE(outcome.exit_code == 0);
  return json::parse(outcome.out);
}

pid_t MountedPool::daemon() const {
  REQUIRE(daemon_ != 0);
  return daemon_;
}

void MountedPool::end_daemon(int signal) {
  REQUIRE(::syscall(SYS_pidfd_send_signal, daemon_process_.get(), signal, nullptr, 0) == 0);
  REQUIRE(wait_for_daemon_end(kDaemonEndMilliseconds));
  if (signal != SIGKILL) mounts_.clear();
}

void MountedPool::kill_daemon() {
  end_daemon(SIGKILL);
  for (const auto& mount : mounts_) CHECK(::umount2(mount.directory.c_str(), MNT_DETACH) == 0);
  mounts_.clear();
}

json MountedPool::ask(const json& request) const {
  auto client = need(ControlClient::connect(pool()));
  INFO(request);
  return need(client.call(request));
}

std::vector<json> MountedPool::events(std::uint64_t after) const {
  std::vector<json> all;
  for (;;) {
    const auto reply = ask({{"op", "events"}, {"after", after}});
    if (reply.at("events").empty()) return all;
    for (const auto& event : reply.at("events")) {
      all.push_back(event);
      after = event.at("sequence");
    }
  }
}

std::uint64_t MountedPool::last_event() const { return ask({{"op", "events"}, {"limit", 1}}).at("last"); }

std::vector<json> MountedPool::events_of(const std::string& kind, std::uint64_t after) const {
  auto list = events(after);
  std::erase_if(list, [&](const json& event) { return event.at("kind") != kind; });
  return list;
}

std::uint64_t MountedPool::pool_offset(const std::string& file, std::uint64_t offset) const {
  const auto map = need_json(fmt::format("daxcow map --json '{}'", file));
  for (const auto& extent : map.at("extents")) {
    const std::uint64_t start = extent.at("offset_bytes"), length = extent.at("length_bytes");
    if (offset >= start && offset - start < length && extent.contains("pool_offset_bytes"))
      return extent.at("pool_offset_bytes").get<std::uint64_t>() + (offset - start);
  }
  FAIL(file << " has no data at " << offset << ": " << map);
  return 0;
}

void MountedPool::poison(std::uint64_t pool_offset, bool latent) const {
  need_run(
      fmt::format("daxcow inject-error $POOL --block {} --count 8{}", pool_offset / 512, latent ? " --no-notify" : ""));
}

bool MountedPool::nothing_is_bad() const {
  for (const char* list : {".badblocks", ".injected"})
    if (const auto text = read_text(pool() + list); !text.empty()) {
      UNSCOPED_INFO(list << ": " << text);
      return false;
    }
  const auto ledger = ask({{"op", "poison-list"}}).at("blocks");
  UNSCOPED_INFO("ledger: " << ledger);
  return ledger.empty();
}

std::multiset<std::string> ranges_of(const json& list) {
  std::multiset<std::string> ranges;
  for (const auto& item : list)
    ranges.insert(fmt::format("{}:{}@{}+{}", item.at("volume").get<std::string>(), item.at("path").get<std::string>(),
                              item.at("offset_bytes").get<std::uint64_t>(),
                              item.at("length_bytes").get<std::uint64_t>()));
  return ranges;
}

// --- files -----------------------------------------------------------------------------------------------------------

FileDescriptor need_open(const std::string& path, int flags, mode_t mode) {
  FileDescriptor file(::open(path.c_str(), flags | O_CLOEXEC, mode));
  INFO(path << ": " << std::strerror(errno));
  REQUIRE(file);
  return file;
}

std::string pattern(std::uint64_t seed, std::uint64_t blocks) {
  std::string text(blocks * kBlockBytes, '\0');
  for (std::uint64_t word = 0; word < text.size() / 8; ++word) {
    std::uint64_t value = (seed << 32) + word + 1;  // splitmix64
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    value ^= value >> 31;
    std::memcpy(text.data() + word * 8, &value, 8);
  }
  return text;
}

void write_file(const std::string& path, const std::string& content) {
  const auto file = need_open(path, O_WRONLY | O_CREAT | O_TRUNC);
  INFO(path << ": " << std::strerror(errno));
  REQUIRE(::pwrite(file.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
}

void overwrite(const std::string& path, std::uint64_t offset, const std::string& content) {
  const auto file = need_open(path, O_WRONLY);
  const auto written = ::pwrite(file.get(), content.data(), content.size(), static_cast<off_t>(offset));
  INFO(path << ": " << std::strerror(errno));
  REQUIRE(written == static_cast<ssize_t>(content.size()));
}

std::string read_range(const std::string& path, std::uint64_t offset, std::uint64_t length) {
  const auto file = need_open(path, O_RDONLY);
  std::string text(length, '\0');
  const auto got = ::pread(file.get(), text.data(), length, static_cast<off_t>(offset));
  INFO(path << " at " << offset << ": " << std::strerror(errno));
  REQUIRE(got >= 0);
  text.resize(static_cast<std::size_t>(got));
  return text;
}

int read_error(const std::string& path, std::uint64_t offset) {
  const auto file = need_open(path, O_RDONLY);
  std::array<char, kBlockBytes> block;
  return ::pread(file.get(), block.data(), block.size(), static_cast<off_t>(offset)) < 0 ? errno : 0;
}

std::set<std::uint64_t> unreadable_blocks(const std::string& path) {
  std::set<std::uint64_t> bad;
  for (std::uint64_t block = 0; block < blocks_for(fs::file_size(path)); ++block) {
    const int error = read_error(path, block * kBlockBytes);
    if (error == 0) continue;
    INFO(path << ", block " << block);
    CHECK(error == EIO);
    bad.insert(block);
  }
  return bad;
}

void drop_pages(const std::string& path) {
  const auto file = need_open(path, O_RDONLY);
  ::fsync(file.get());
  REQUIRE(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
}

// --- processes -------------------------------------------------------------------------------------------------------

Child::Child(const std::function<int()>& body) {
  std::fflush(nullptr);
  process_ = ::fork();
  REQUIRE(process_ >= 0);
  if (process_ != 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal : {SIGINT, SIGTERM, SIGSEGV, SIGABRT, SIGBUS}) ::signal(signal, SIG_DFL);  // not the test's
  ::_exit(body());
}

Child::~Child() {
  if (process_ <= 0) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

int Child::wait() {
  int status = 0;
  REQUIRE(::waitpid(process_, &status, 0) == process_);
  process_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Memory of both processes. The child answers each order by setting it back to kNoOrder.
struct Mapper::Shared {
  static constexpr std::uint64_t kNoOrder = ~0ull;
  static constexpr unsigned kMaximumEarly = 16;
  std::atomic<int> ready{0};  // 1: mapped; -1: could not
  std::atomic<std::uint64_t> order{kNoOrder};
  std::atomic<unsigned> early_count{0};
  std::array<Fault, kMaximumEarly> early{};
  std::atomic<bool> faulted{false};
  Fault fault;

  // Of the child only: where its mapping is, and where an access that fails goes on.
  std::uint64_t address = 0, offset = 0;
  sigjmp_buf after_fault;
};

int Mapper::serve(const std::string& path, bool touch) {
  static Shared* shared;
  shared = shared_;
  const int file = ::open(path.c_str(), O_RDONLY);
  void* const mapping = ::mmap(nullptr, length_, PROT_READ, MAP_SHARED, file, static_cast<off_t>(offset_));
  if (file < 0 || mapping == MAP_FAILED) {
    shared_->ready = -1;
    return 1;
  }
  const volatile char* const bytes = static_cast<const volatile char*>(mapping);
  shared_->address = reinterpret_cast<std::uint64_t>(mapping);
  shared_->offset = offset_;
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    const Fault fault{info->si_code, reinterpret_cast<std::uint64_t>(info->si_addr) - shared->address + shared->offset,
                      info->si_addr_lsb};
    if (info->si_code > 0) {  // by an access of this process
      shared->fault = fault;
      shared->faulted = true;
      siglongjmp(shared->after_fault, 1);
    }
    if (const unsigned count = shared->early_count; count < Shared::kMaximumEarly) {
      shared->early[count] = fault;
      shared->early_count = count + 1;
    }
  };
  ::sigaction(SIGBUS, &action, nullptr);
  if (touch && sigsetjmp(shared_->after_fault, 0) == 0)
    for (std::uint64_t offset = 0; offset < length_; offset += kBlockBytes) (void)bytes[offset];
  shared_->ready = 1;
  for (;;) {
    const std::uint64_t order = shared_->order;
    if (order != Shared::kNoOrder) {
      if (sigsetjmp(shared_->after_fault, 0) == 0) (void)bytes[order - offset_];
      shared_->order = Shared::kNoOrder;
    }
    ::usleep(1000);
  }
}

Mapper::Mapper(const std::string& path, std::uint64_t offset, std::uint64_t length, bool touch)
    : offset_(offset), length_(length) {
  void* const memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  shared_ = new (memory) Shared;
  child_ = std::make_unique<Child>([&] { return serve(path, touch); });
  REQUIRE(wait_until([&] { return shared_->ready != 0; }));
  REQUIRE(shared_->ready == 1);
}

Mapper::~Mapper() {
  child_.reset();
  ::munmap(shared_, sizeof(Shared));
}

std::vector<Mapper::Fault> Mapper::early_signals(int milliseconds) const {
  for (int waited = 0; waited < milliseconds && shared_->early_count == 0; waited += 5)
    std::this_thread::sleep_for(5ms);
  return {shared_->early.begin(), shared_->early.begin() + shared_->early_count};
}

std::optional<Mapper::Fault> Mapper::access(std::uint64_t file_offset) {
  REQUIRE(file_offset >= offset_);
  REQUIRE(file_offset < offset_ + length_);
  shared_->faulted = false;
  shared_->order = file_offset;
  REQUIRE(wait_until([&] { return shared_->order == Shared::kNoOrder; }));
  if (!shared_->faulted) return std::nullopt;
  return shared_->fault;
}

}  // namespace daxcow::test
