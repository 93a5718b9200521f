// The daemon's end of the control socket: accepts connections of root's programs and serves each in a thread.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "engine/file_descriptor.h"
#include "engine/result.h"
#include "fuse/control_protocol.h"

namespace daxcow {

class ControlServer {
 public:
  // Serves one connection, and returns when it has ended.
  using Serve = std::function<void(LineChannel&)>;

  // Makes the socket and its directory, for root only. A socket that is there is a dead daemon's: the caller holds the
  // pool.
  static Result<std::unique_ptr<ControlServer>> create(const std::string& path, Serve serve);
  // Removes the socket, cuts every connection, and waits for the requests under way.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  struct Connection {
    int socket;
    bool done = false;
    std::thread thread;
  };

  ControlServer(std::string path, FileDescriptor listener, Serve serve);
  void accept_connections();
  void join_finished();

  std::string path_;
  FileDescriptor listener_;
  Serve serve_;
  std::mutex mutex_;
  std::list<Connection> connections_;
  std::thread accepting_;
};

}  // namespace daxcow
