// Many threads and processes on one file, and on one directory.
#include <fmt/core.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <iostream>
#include <random>
#include <string_view>
#include <thread>

#include "test/applications/large_steps.h"

namespace daxcow::large {

namespace {

// Runs `body` in so many processes of so many threads each; a failure in any is one of all.
void in_parallel(unsigned processes, unsigned threads, const std::function<void(unsigned)>& body) {
  std::vector<pid_t> children;
  for (unsigned process = 0; process < processes; ++process) {
    const pid_t child = fork();
    if (child < 0) fail_call("fork");
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    std::atomic<bool> good{true};
    std::vector<std::thread> workers;
    for (unsigned thread = 0; thread < threads; ++thread)
      workers.emplace_back([&, thread] {
        try {
          body(process * threads + thread);
        } catch (const std::exception& error) {
          std::cerr << fmt::format("worker {}: {}\n", process * threads + thread, error.what());
          good = false;
        }
      });
    for (auto& worker : workers) worker.join();
    _exit(good ? 0 : 1);
  }
  bool good = true;
  for (const pid_t child : children) {
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) good = false;
  }
  require(good, "a worker failed");
}

constexpr std::size_t kRecord = 100;
std::string record(unsigned worker, std::uint64_t count) {
  auto text = fmt::format("worker {} record {} ", worker, count);
  text.resize(kRecord - 1, static_cast<char>('a' + (worker + count) % 26));
  return text + "\n";
}

}  // namespace

void one_file(const Arguments& arguments) {
  const auto& path = arguments.at(0);
  const auto processes = static_cast<unsigned>(number(arguments, 1)), threads = static_cast<unsigned>(number(arguments, 2));
  const auto rounds = number(arguments, 3);
  const unsigned workers = processes * threads;
  Figures figures;
  (void)open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL);
  // Each its own records, side by side in the same blocks.
  in_parallel(processes, threads, [&](unsigned worker) {
    const auto file = open_at(AT_FDCWD, path, O_RDWR);
    std::string found(kRecord, 0);
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const auto at = (round * workers + worker) * kRecord;
      write_at(file.get(), at, record(worker, round));
      read_at(file.get(), at, found);
      require(found == record(worker, round), fmt::format("record {} is not what was written", round));
      if (round % 64 == 0 && fdatasync(file.get()) != 0) fail_call("fdatasync");
    }
  });
  {
    const auto file = open_at(AT_FDCWD, path, O_RDONLY);
    std::string found(kRecord, 0);
    for (std::uint64_t at = 0; at < rounds * workers; ++at) {
      read_at(file.get(), at * kRecord, found);
      require(found == record(static_cast<unsigned>(at % workers), at / workers), fmt::format("record {} is not what was written", at));
    }
  }
  figures.add("write and read", rounds * workers);
  // All append: no record is lost, torn or there twice, and those of one worker are in order.
  if (truncate(path.c_str(), 0) != 0) fail_call("truncate");
  in_parallel(processes, threads, [&](unsigned worker) {
    const auto file = open_at(AT_FDCWD, path, O_WRONLY | O_APPEND);
    for (std::uint64_t round = 0; round < rounds; ++round)
      if (::write(file.get(), record(worker, round).data(), kRecord) != static_cast<ssize_t>(kRecord)) fail_call("write");
  });
  const auto file = open_at(AT_FDCWD, path, O_RDONLY);
  std::vector<std::uint64_t> next(workers);
  std::string found(kRecord, 0);
  for (std::uint64_t at = 0; at < rounds * workers; ++at) {
    read_at(file.get(), at * kRecord, found);
    const auto worker = static_cast<unsigned>(std::stoul(found.substr(std::strlen("worker "))));
    require(worker < workers && found == record(worker, next[worker]), fmt::format("appended record {} is wrong", at));
    ++next[worker];
  }
  require(read(file.get(), found.data(), 1) >= 0 && lseek(file.get(), 0, SEEK_END) == static_cast<off_t>(rounds * workers * kRecord), "another size");
  figures.add("append", rounds * workers);
  if (unlink(path.c_str()) != 0) fail_call("unlink");
  figures.print();
}

void one_directory(const Arguments& arguments) {
  const auto& path = arguments.at(0);
  const auto processes = static_cast<unsigned>(number(arguments, 1)), threads = static_cast<unsigned>(number(arguments, 2));
  const auto rounds = number(arguments, 3);
  Figures figures;
  if (mkdir(path.c_str(), 0755) != 0) fail_call("mkdir");
  // Names of one's own, which nobody else touches, and a few that all fight for.
  in_parallel(processes, threads, [&](unsigned worker) {
    const auto directory = open_directory(path);
    const int at = directory.get();
    std::mt19937_64 random(worker);
    struct stat status {};
    const auto allow = [](int result, std::initializer_list<int> errors, const char* what) {
      if (result != 0 && std::ranges::find(errors, errno) == errors.end()) fail_call(what);
    };
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const auto own = fmt::format("own-{}-{}", worker, round), moved = fmt::format("moved-{}-{}", worker, round);
      (void)open_at(at, own, O_WRONLY | O_CREAT | O_EXCL);
      if (linkat(at, own.c_str(), at, (own + "-link").c_str(), 0) != 0) fail_call("linkat");
      if (renameat(at, own.c_str(), at, moved.c_str()) != 0) fail_call("renameat");
      require(fstatat(at, own.c_str(), &status, 0) == -1 && errno == ENOENT, "the old name is still there");
      if (fstatat(at, moved.c_str(), &status, 0) != 0) fail_call("fstatat");
      require(status.st_nlink == 2, fmt::format("{} links", status.st_nlink));
      if (round % 2 == 0 && unlinkat(at, moved.c_str(), 0) != 0) fail_call("unlinkat");
      if (unlinkat(at, (own + "-link").c_str(), 0) != 0) fail_call("unlinkat");
      if (mkdirat(at, own.c_str(), 0755) != 0) fail_call("mkdirat");
      if (unlinkat(at, own.c_str(), AT_REMOVEDIR) != 0) fail_call("rmdir");

      const auto any = [&] { return fmt::format("any-{}", random() % 8); };
      if (const FileDescriptor file(openat(at, any().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)); !file)
        allow(-1, {EISDIR, ENOENT}, "open");
      allow(renameat(at, any().c_str(), at, any().c_str()), {ENOENT, EISDIR, ENOTDIR, ENOTEMPTY, EEXIST, EINVAL}, "rename of any");
      allow(unlinkat(at, any().c_str(), 0), {ENOENT, EISDIR, EPERM}, "unlink of any");
      allow(mkdirat(at, any().c_str(), 0755), {EEXIST}, "mkdir of any");
      allow(unlinkat(at, any().c_str(), AT_REMOVEDIR), {ENOENT, ENOTDIR, ENOTEMPTY}, "rmdir of any");
      allow(linkat(at, any().c_str(), at, any().c_str(), 0), {ENOENT, EEXIST, EPERM}, "link of any");
    }
  });
  const auto directory = open_directory(path);
  std::uint64_t moved = 0;
  std::vector<std::string> rest;
  list(directory.get(), [&](const dirent& entry) {
    const std::string name = entry.d_name;
    require(name.starts_with("moved-") || name.starts_with("any-"), "left: " + name);
    if (name.starts_with("moved-")) ++moved;
    rest.push_back(name);
  });
  std::ranges::sort(rest);
  require(std::ranges::adjacent_find(rest) == rest.end(), "a name is listed twice");
  require(moved == rounds / 2 * processes * threads, fmt::format("{} names are left", moved));
  figures.add("names", rounds * processes * threads);
  for (const auto& name : rest)
    if (unlinkat(directory.get(), name.c_str(), 0) != 0 && unlinkat(directory.get(), name.c_str(), AT_REMOVEDIR) != 0) fail_call("removing " + name);
  if (rmdir(path.c_str()) != 0) fail_call("rmdir");
  figures.print();
}

}  // namespace daxcow::large
