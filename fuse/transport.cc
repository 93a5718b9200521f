#include "fuse/transport.h"

#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "fuse/remap_request.h"
#include "fuse/statx_request.h"
#include "fuse/uncancelled.h"

namespace daxcow {

namespace {

constexpr std::uint32_t kWantedFlags = FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2;
#ifdef DAXCOW_FUSE_REMAP
constexpr bool kWantsRemap = true;
#else
constexpr bool kWantsRemap = false;  // see fuse/remap_request.h
#endif

// INIT is the first request of a session and is handled by the thread that read it, as every request.
thread_local std::uint64_t init_request = 0;  // its `unique`; 0: this thread handles no INIT
thread_local std::uint32_t init_offered = 0, init_offered2 = 0;
thread_local bool kills_set_id = false, is_unnamed = false;

template <class T>
T load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void look_at_request(char* request, std::size_t length) {
  kills_set_id = false;
  is_unnamed = false;
  init_request = 0;
  if (length < sizeof(fuse_in_header)) return;
  auto header = load<fuse_in_header>(request);
  const char* body = request + sizeof header;
  const std::size_t body_bytes = length - sizeof header;
  const auto field = [&](std::size_t offset) {
    return body_bytes >= offset + sizeof(std::uint32_t) ? load<std::uint32_t>(body + offset) : 0;
  };
  switch (header.opcode) {
    case FUSE_INIT:
      init_request = header.unique;
      init_offered = field(offsetof(fuse_init_in, flags));
      init_offered2 = (init_offered & FUSE_INIT_EXT) != 0 ? field(offsetof(fuse_init_in, flags2)) : 0;
      break;
    case FUSE_TMPFILE:
      is_unnamed = true;
      header.opcode = FUSE_CREATE;
      std::memcpy(request, &header, sizeof header);
      break;
    case FUSE_WRITE:
      kills_set_id = (field(offsetof(fuse_write_in, write_flags)) & FUSE_WRITE_KILL_SUIDGID) != 0;
      break;
    default:
      break;
  }
}

// The reply to a request that libfuse does not know; nothing to all others.
std::vector<char> answer_unknown(MountContext& mount, std::span<const char> request) {
  if (mount.volume == nullptr) return {};
  if (is_statx_request(request)) return answer_statx_request(mount, request);
  if (kWantsRemap && is_remap_request(request)) return answer_remap_request(mount, request);
  return {};
}

ssize_t read_request(int device, void* buffer, std::size_t length, void* userdata) {
  for (;;) {
    const ssize_t got = ::read(device, buffer, length);
    if (got <= 0) return got;
    const std::span request(static_cast<const char*>(buffer), static_cast<std::size_t>(got));
    const Uncancelled whole;
    if (const auto reply = answer_unknown(*static_cast<MountContext*>(userdata), request); !reply.empty()) {
      (void)!::write(device, reply.data(), reply.size());  // ENOENT: nobody waits for it any more
      continue;
    }
    look_at_request(static_cast<char*>(buffer), request.size());
    return got;
  }
}

// The reply to INIT is a header and a fuse_init_out, in two pieces.
bool is_init_reply(const iovec* pieces, int count) {
  if (init_request == 0 || count != 2 || pieces[0].iov_len != sizeof(fuse_out_header)) return false;
  if (pieces[1].iov_len < offsetof(fuse_init_out, flags) + sizeof(std::uint32_t)) return false;
  const auto header = load<fuse_out_header>(static_cast<const char*>(pieces[0].iov_base));
  return header.unique == init_request && header.error == 0;
}

ssize_t write_reply(int device, iovec* pieces, int count, void*) {
  if (is_init_reply(pieces, count)) {
    char* flags_at = static_cast<char*>(pieces[1].iov_base) + offsetof(fuse_init_out, flags);
    const std::uint32_t flags = load<std::uint32_t>(flags_at) | (kWantedFlags & init_offered);
    std::memcpy(flags_at, &flags, sizeof flags);
    if (kWantsRemap && (init_offered2 & kRemapInitFlag2) != 0 &&
        pieces[1].iov_len >= offsetof(fuse_init_out, flags2) + sizeof(std::uint32_t)) {
      char* flags2_at = static_cast<char*>(pieces[1].iov_base) + offsetof(fuse_init_out, flags2);
      const std::uint32_t flags2 = load<std::uint32_t>(flags2_at) | kRemapInitFlag2, extended = flags | FUSE_INIT_EXT;
      std::memcpy(flags2_at, &flags2, sizeof flags2);
      std::memcpy(flags_at, &extended, sizeof extended);
    }
    init_request = 0;
  }
  return ::writev(device, pieces, count);
}

// What else the kernel puts into the buffers of a ring: a name and a value of 64 KiB.
constexpr std::uint32_t kLeastRingBytes = 128 << 10;

// A template, since versions before 3.18.3 have no such member.
template <class Info>
bool kills_set_id_in(const Info& info) {
  if constexpr (TellsWhatWriteClears<Info>) return info.kill_suidgid != 0;
  return false;
}

}  // namespace

Result<> attach_transport(fuse_session* session, int device) {
  if (!kLibraryIsComplete || kWantsRemap) {
    fuse_custom_io io{};
    io.read = read_request;
    io.writev = write_reply;
    const int result = fuse_session_custom_io(session, &io, device);
    if (result == 0) return {};
    // 3.18.3, in place of the version that daxcow was built with, refuses. It serves without what is said above.
    if (result != -ENOTSUP)
      return std::unexpected(Error::from_errno(result < 0 ? -result : EINVAL, "fuse_session_custom_io"));
  }
  if (fuse_session_mount(session, fmt::format("/dev/fd/{}", device).c_str()) != 0)
    return fail(ErrorCode::kIo, "libfuse does not take /dev/fuse from who has opened it");
  return {};
}

bool request_is_unnamed() { return is_unnamed; }

bool library_is_complete() {
  unsigned major_version = 0, minor_version = 0, patch = 0;
  std::sscanf(fuse_pkgversion(), "%u.%u.%u", &major_version, &minor_version, &patch);
  return kLibraryIsComplete && major_version * 1'000'000 + minor_version * 1'000 + patch >= 3'018'003;
}

bool write_kills_set_id(const fuse_file_info& file) { return kills_set_id || kills_set_id_in(file); }

std::optional<std::string> no_io_uring_because(const MountBehaviour& behaviour) {
  if (!library_is_complete())
    return fmt::format("libfuse 3.18.3 or later is needed; daxcow was built with {}.{}, and {} runs", FUSE_MAJOR_VERSION, FUSE_MINOR_VERSION,
                       fuse_pkgversion());
  if (kWantsRemap) return "daxcow was built with DAXCOW_FUSE_REMAP, which needs /dev/fuse";
  if (behaviour.writeback_cache) return "not with writeback_cache, where SEEK_DATA must wait for pages";
  if (behaviour.maximum_write_bytes < kLeastRingBytes) return "not with max_write below 128K: other requests are as long";
  constexpr const char* kParameter = "/sys/module/fuse/parameters/enable_uring";
  char enabled = 0;
  std::ifstream parameter(kParameter);
  if (!(parameter >> enabled)) return "the kernel does not know it; Linux 6.14 and later do";
  if (enabled != 'Y') return fmt::format("the kernel does not offer it: echo Y > {}", kParameter);
  return std::nullopt;
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 18)
bool came_by_ring(fuse_req_t request) { return fuse_req_is_uring(request); }

std::span<std::byte> ring_buffer(fuse_req_t request) {
  char* buffer = nullptr;
  std::size_t bytes = 0;
  if (!came_by_ring(request) || fuse_req_get_payload(request, &buffer, &bytes, nullptr) != 0) return {};
  return std::as_writable_bytes(std::span(buffer, bytes));
}
#else
bool came_by_ring(fuse_req_t) { return false; }
std::span<std::byte> ring_buffer(fuse_req_t) { return {}; }
#endif

}  // namespace daxcow
