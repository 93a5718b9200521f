// Lines and file descriptors over a Unix stream socket: the framing that both ends of the control socket share.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "engine/file_descriptor.h"
#include "engine/result.h"

namespace daxcow {

class LineChannel {
 public:
  // Takes the socket. A line longer than `maximum_bytes` is kTooBig.
  LineChannel(FileDescriptor socket, std::size_t maximum_bytes) : socket_(std::move(socket)), maximum_(maximum_bytes) {}

  // Sends `line` (without its end, which is added) and a copy of `descriptor` unless negative. kIo when the other end
  // is gone.
  Result<> send(std::string line, int descriptor = -1);
  // The next line, or nothing when the other end has closed. A descriptor that came along is put into `descriptor` if
  // that is not null, closed otherwise.
  Result<std::optional<std::string>> receive(FileDescriptor* descriptor = nullptr);
  int socket() const { return socket_.get(); }

 private:
  FileDescriptor socket_;
  std::size_t maximum_;
  std::string received_;     // beyond the last line
  std::size_t scanned_ = 0;  // bytes of received_ that hold no end of line
};

}  // namespace daxcow
