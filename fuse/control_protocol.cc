#include "fuse/control_protocol.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace daxcow {

namespace {
constexpr std::size_t kPieceBytes = 64 << 10;
union ControlBuffer {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};
}  // namespace

Result<> LineChannel::send(std::string line, int descriptor) {
  line += '\n';
  const char* from = line.data();
  std::size_t left = line.size();
  while (left != 0) {
    iovec piece{const_cast<char*>(from), left};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    ControlBuffer control{};
    if (descriptor >= 0) {
      message.msg_control = control.bytes;
      message.msg_controllen = sizeof control.bytes;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      return fail(ErrorCode::kIo, "the other end of the control socket is gone");
    }
    descriptor = -1;  // it travels with the first byte
    from += sent;
    left -= static_cast<std::size_t>(sent);
  }
  return {};
}

Result<std::optional<std::string>> LineChannel::receive(FileDescriptor* descriptor) {
  for (;;) {
    if (const auto end = received_.find('\n', scanned_); end != std::string::npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      scanned_ = 0;
      return line;
    }
    scanned_ = received_.size();
    if (scanned_ > maximum_) return fail(ErrorCode::kTooBig, "a line on the control socket is too long");

    received_.resize(scanned_ + kPieceBytes);
    iovec piece{received_.data() + scanned_, kPieceBytes};
    ControlBuffer control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    ssize_t got;
    do got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    received_.resize(scanned_ + static_cast<std::size_t>(got > 0 ? got : 0));
    if (got < 0) return fail(ErrorCode::kIo, "the other end of the control socket is gone");
    if (got == 0) return std::optional<std::string>();
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      int passed;
      std::memcpy(&passed, CMSG_DATA(header), sizeof passed);
      FileDescriptor owned(passed);
      if (descriptor != nullptr) *descriptor = std::move(owned);
    }
  }
}

}  // namespace daxcow
