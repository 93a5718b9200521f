#include "test/exercise/daxcow_tools.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string_view>
#include <thread>

#include "engine/file_descriptor.h"
#include "test/exercise/failure.h"

namespace daxcow::exercise {

void DaxcowTools::clone(const std::string& from, const std::string& to) const { run("daxcow", {"clone", from, to}); }

void DaxcowTools::snapshot(const std::string& name, bool read_only) const {
  std::vector<std::string> arguments = {"snapshot", options_.directory, options_.volume, name};
  if (read_only) arguments.insert(arguments.begin() + 1, "--read-only");
  run("daxcow", arguments);
}

void DaxcowTools::delete_volume(const std::string& pool, const std::string& name) const {
  // An unmount returns before the daemon has heard of it.
  for (int left = 500;; --left) {
    try {
      return run("daxcow", {"volume", "delete", pool, name});
    } catch (const Failure& failure) {
      if (left == 0 || std::string_view(failure.what()).find("is mounted") == std::string_view::npos) throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void DaxcowTools::mount(const std::string& pool, const std::string& volume, const std::string& directory, bool read_only) const {
  run("mount.daxcow", {pool, directory, "-o", "volume=" + volume + (read_only ? ",ro" : "")});
}

void DaxcowTools::unmount(const std::string& directory) const {
  if (umount2(directory.c_str(), 0) != 0) fail_call("unmounting " + directory);
}

void DaxcowTools::run(const std::string& program, std::vector<std::string> arguments) const {
  const std::string path = options_.tools + "/" + program;
  arguments.insert(arguments.begin(), program);
  std::string line;
  std::vector<char*> pointers;
  for (auto& argument : arguments) {
    line += (line.empty() ? "" : " ") + argument;
    pointers.push_back(argument.data());
  }
  pointers.push_back(nullptr);

  // A daemon that the command starts keeps what it inherits: a file, unlike a pipe, has no end to be waited for.
  const FileDescriptor output(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!output) fail_call("making a temporary file");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.get(), STDERR_FILENO);
  pid_t process = 0;
  const int error = posix_spawn(&process, path.c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) fail("{} cannot be started: {}", path, std::strerror(error));
  int status = 0;
  if (waitpid(process, &status, 0) != process) fail_call("waitpid");
  if (status == 0) return;
  std::array<char, 2000> said{};
  const auto length = pread(output.get(), said.data(), said.size(), 0);
  fail("{} ends with status {:#x}: {}", line, status, std::string(said.data(), length > 0 ? static_cast<std::size_t>(length) : 0));
}

}  // namespace daxcow::exercise
