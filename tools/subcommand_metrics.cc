// daxcow metrics.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>

#include "engine/file_descriptor.h"
#include "tools/pool_access.h"
#include "tools/subcommand.h"
#include "tools/text.h"

namespace daxcow::tools {

namespace {

// The file has either content, never a part of one: a collector may read it at any moment.
Result<> replace_file(const std::string& path, const std::string& content) {
  const auto failure = [&] { return std::unexpected(Error::from_errno(errno, path)); };
  const std::string temporary = fmt::format("{}.{}", path, ::getpid());  // not *.prom: collectors skip it
  FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file) return failure();
  const bool written = ::write(file.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size());
  if (!written || ::rename(temporary.c_str(), path.c_str()) != 0) {
    auto failed = failure();
    ::unlink(temporary.c_str());
    return failed;
  }
  return {};
}

}  // namespace

int metrics(const std::string& program, const Arguments& arguments) {
  CommandLine line(
      program, "POOL [--output FILE]",
      "Prints the figures of a pool in the text format of Prometheus: health, space, counters. With --output\n"
      "the file is replaced at once, as node_exporter's textfile collector needs it (FILE ends in .prom).");
  line.option("output,o", "FILE", "write to this file instead of standard output");
  line.positional("pool");
  if (auto exit_code = line.parse(arguments)) return *exit_code;
  auto access = PoolAccess::open(line.text("pool"), PoolAccess::Need::kRead);
  if (!access) return line.fail(access.error());
  auto reply = access->call({{"op", "metrics"}});
  if (!reply) return line.fail(reply.error());
  const std::string text = reply->at("text").get<std::string>();
  if (!line.has("output")) {
    std::cout << text;
    return kSuccess;
  }
  if (auto done = replace_file(line.text("output"), text); !done) return line.fail(done.error());
  return kSuccess;
}

}  // namespace daxcow::tools
