// mount.daxcow: mounts a volume of a pool. Also the helper of mount(8): mount -t fuse.daxcow POOL DIR -o volume=NAME.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/program_options.hpp>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "engine/file_descriptor.h"
#include "fuse/daemon_process.h"
#include "fuse/mount_options.h"
#include "fuse/mounter.h"
#include "fuse/service_manager.h"
#include "version.h"

namespace daxcow {

namespace {

namespace po = boost::program_options;

// As mount(8) has them.
enum ExitCode { kSuccess = 0, kUsage = 1, kSystem = 2, kMountFailure = 32 };

constexpr const char* kProgram = "mount.daxcow";

int complain(ExitCode code, const std::string& line) {
  std::cerr << kProgram << ": " << line << '\n';
  return code;
}

struct CommandLine {
  std::string pool, directory;
  MountOptions options;
  bool foreground = false, debug = false, pretend = false;
};

po::options_description visible_options() {
  po::options_description visible("Options");
  auto add = visible.add_options();
  add("options,o", po::value<std::vector<std::string>>()->composing()->value_name("LIST"), "mount options, see below");
  add("foreground,f", "serve the pool in this process until its last mount is gone (not when called by mount(8))");
  add("debug,d", "log every request to standard error; implies --foreground");
  add("help,h", "show this help");
  add("version,V", "show the version");
  return visible;
}

po::options_description all_options() {
  po::options_description all = visible_options();
  auto add = all.add_options();
  add("pool", po::value<std::string>());
  add("directory", po::value<std::string>());
  // What mount(8) passes on.
  add("verbose,v", "");
  add("no-mtab,n", "");
  add("sloppy,s", "");
  add("type,t", po::value<std::string>(), "");
  add("namespace,N", po::value<std::string>(), "");
  return all;
}

void print_help() {
  std::cout
      << "Usage: mount.daxcow POOL DIRECTORY [-o OPTION,...]\n"
         "       mount -t fuse.daxcow POOL DIRECTORY [-o OPTION,...]\n\n"
         "Mounts a volume of a daxcow pool (a devdax device, or a file). The first mount of a pool starts its daemon,\n"
         "later ones join it, and the last umount ends it.\n\n"
      << visible_options() << "\nMount options (default):\n"
      << mount_options_help()
      << "\nIn fstab:  POOL  DIRECTORY  fuse.daxcow  volume=NAME,nofail  0  0\n"
         "Exit status: 0 mounted, 1 wrong usage or not root, 2 system error, 32 mount failure.\n"
         "See mount.daxcow(8) and daxcow(5).\n";
}

// An exit code when there is nothing to mount.
std::optional<int> parse_command_line(int argc, char** argv, CommandLine& line) {
  po::positional_options_description positional;
  positional.add("pool", 1).add("directory", 1);
  po::variables_map values;
  try {
    const auto style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv).options(all_options()).positional(positional).style(style).run(),
              values);
    po::notify(values);
  } catch (const po::error& problem) {
    return complain(kUsage, std::string(problem.what()) + " (see --help)");
  }
  if (values.count("help")) {
    print_help();
    return kSuccess;
  }
  if (values.count("version")) {
    std::cout << kProgram << ' ' << kVersion << '\n';
    return kSuccess;
  }
  if (!values.count("pool") || !values.count("directory"))
    return complain(kUsage, "a POOL and a DIRECTORY are wanted (see --help)");
  line.pool = values["pool"].as<std::string>();
  line.directory = values["directory"].as<std::string>();
  // To mount(8), -f of a helper means: do all but mount.
  const bool is_helper = std::string_view(argv[0]).ends_with("mount.fuse.daxcow");
  line.pretend = is_helper && values.count("foreground");
  line.debug = values.count("debug");
  line.foreground = line.debug || (!is_helper && values.count("foreground"));
  if (values.count("options"))
    for (const auto& list : values["options"].as<std::vector<std::string>>())
      if (const auto parsed = parse_mount_options(list, line.options, values.count("sloppy") != 0); !parsed)
        return complain(kUsage, parsed.error().message);
  return std::nullopt;
}

Result<std::string> canonical(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return std::unexpected(path_error(errno, path));
  return std::string(resolved);
}

Result<MountRequest> make_request(const CommandLine& line) {
  MountRequest request;
  request.pool_path = TRY(canonical(line.pool));
  request.directory = TRY(canonical(line.directory));
  request.options = line.options;
  request.debug = line.debug;
  struct stat status;
  if (::stat(request.directory.c_str(), &status) != 0) return std::unexpected(path_error(errno, line.directory));
  struct statfs filesystem;  // of a mount whose daemon is gone the kernel may still know the root
  if (::statfs(request.directory.c_str(), &filesystem) != 0) return std::unexpected(path_error(errno, line.directory));
  if (!S_ISDIR(status.st_mode)) return fail(ErrorCode::kNotDirectory, line.directory + " is not a directory");
  return request;
}

DaemonOptions daemon_options(const MountRequest& request) {
  return {.pool_path = request.pool_path,
          .cache_bytes = request.options.cache_bytes,
          .relaxed = request.options.relaxed,
          .read_only = request.options.read_only,
          .hooks_directory = request.options.hooks_directory,
          .scrub_bytes_per_second = request.options.scrub_bytes_per_second};
}

int report(const Result<std::vector<std::string>>& mounted) {
  if (!mounted) return complain(kMountFailure, describe(mounted.error()));
  for (const auto& note : *mounted) std::cerr << kProgram << ": note: " << note << '\n';
  return kSuccess;
}

int mount_in_background(const MountRequest& request) {
  return report(mount_pool(request, [&] { return start_daemon(daemon_options(request)); }));
}

// Mounts when `ready` can be read from; in a child of the process that serves the mount.
[[noreturn]] void mount_when_ready(const MountRequest& request, int ready) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  char byte;
  if (::read(ready, &byte, 1) != 1) ::_exit(kMountFailure);  // there will be no daemon, and it says why
  const auto no_daemon = [] { return Result<>(fail(ErrorCode::kIo, "the daemon has ended")); };
  const int exit_code = report(mount_pool(request, no_daemon));
  if (exit_code == kSuccess) tell_service_manager("READY=1");
  ::_exit(exit_code);
}

// Serves until the last mount is gone. Waits for another daemon's end as mount_pool() does.
Result<> serve(const MountRequest& request, int ready) {
  const auto tell = [&] { (void)!::write(ready, "", 1); };
  const auto deadline = std::chrono::steady_clock::now() + kDaemonEndTime;
  for (;;) {
    const auto served = run_daemon_here(daemon_options(request), request.debug, tell);
    if (served) return {};
    if (served.error().code != ErrorCode::kBusy || std::chrono::steady_clock::now() >= deadline)
      return std::unexpected(served.error());
    ::usleep(20'000);
  }
}

int mount_in_foreground(const MountRequest& request) {
  if (const auto daemon = call_daemon(request.pool_path, {{"op", "mounts"}}); daemon && *daemon)
    return complain(kMountFailure,
                    request.pool_path + " is served by a daemon already: --foreground is for the pool's first mount");
  int ends[2];
  if (::pipe(ends) != 0) return complain(kSystem, Error::from_errno(errno, "pipe").message);
  FileDescriptor ready(ends[0]), tell_ready(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return complain(kSystem, Error::from_errno(errno, "fork").message);
  if (child == 0) {
    tell_ready.reset();
    mount_when_ready(request, ready.get());
  }
  const auto served = serve(request, tell_ready.get());
  tell_ready.reset();
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!served) return complain(kMountFailure, describe(served.error()));
  return WIFEXITED(status) ? WEXITSTATUS(status) : kSystem;
}

int run(int argc, char** argv) {
  // A libfuse that came after the one that daxcow was built with would serve by rings all the same; see fuse/transport.h.
  if (!kLibraryIsComplete) ::unsetenv("FUSE_URING_ENABLE");
  CommandLine line;
  if (const auto exit_code = parse_command_line(argc, argv, line)) return *exit_code;
  if (::geteuid() != 0) return complain(kUsage, "only root can mount, also what fstab lets users mount");
  const auto request = make_request(line);
  if (!request) return complain(kMountFailure, describe(request.error()));
  if (line.pretend) return kSuccess;
  if (line.options.remount) {
    const auto changed = remount(*request);
    return changed ? int{kSuccess} : complain(kMountFailure, describe(changed.error()));
  }
  return line.foreground ? mount_in_foreground(*request) : mount_in_background(*request);
}

}  // namespace

}  // namespace daxcow

int main(int argc, char** argv) { return daxcow::run(argc, argv); }
