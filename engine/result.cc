#include "engine/result.h"

#include <syslog.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/check.h"

namespace daxcow {

namespace {
ErrorCode code_for(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      return ErrorCode::kNotFound;
    case EEXIST:
      return ErrorCode::kExists;
    case EACCES:
    case EPERM:
      return ErrorCode::kPermission;
    case EROFS:
      return ErrorCode::kReadOnly;
    case EBUSY:
    case EWOULDBLOCK:
    case ETXTBSY:
      return ErrorCode::kBusy;
    case ENOSPC:
    case EDQUOT:
      return ErrorCode::kNoSpace;
    case EINVAL:
      return ErrorCode::kInvalid;
    case EISDIR:
      return ErrorCode::kIsDirectory;
    case ENOTDIR:
      return ErrorCode::kNotDirectory;
    case EOPNOTSUPP:
    case ENOSYS:
      return ErrorCode::kUnsupported;
    default:
      return ErrorCode::kIo;
  }
}
}  // namespace

Error Error::from_errno(int error_number, const std::string& what) {
  char text[128];
  return Error{code_for(error_number), what + ": " + strerror_r(error_number, text, sizeof text)};
}

const char* describe(ErrorCode code) {
  switch (code) {
    case ErrorCode::kNotFound: return "not found";
    case ErrorCode::kExists: return "exists already";
    case ErrorCode::kNotDirectory: return "not a directory";
    case ErrorCode::kIsDirectory: return "is a directory";
    case ErrorCode::kNotEmpty: return "directory not empty";
    case ErrorCode::kNoSpace: return "no space left in the pool";
    case ErrorCode::kNeedChunk: return "a metadata chunk is needed";
    case ErrorCode::kNameTooLong: return "name too long";
    case ErrorCode::kTooManyLinks: return "too many links";
    case ErrorCode::kFileTooBig: return "file too big";
    case ErrorCode::kInvalid: return "invalid argument";
    case ErrorCode::kReadOnly: return "read-only";
    case ErrorCode::kPoisoned: return "data lost on the medium";
    case ErrorCode::kDamaged: return "metadata is damaged";
    case ErrorCode::kBusy: return "in use";
    case ErrorCode::kPermission: return "permission denied";
    case ErrorCode::kCrossVolume: return "not in the same volume";
    case ErrorCode::kNoAttribute: return "no such attribute";
    case ErrorCode::kTooBig: return "too big";
    case ErrorCode::kRange: return "out of range";
    case ErrorCode::kStale: return "no longer exists";
    case ErrorCode::kUnsupported: return "not supported";
    case ErrorCode::kDifferent: return "contents differ";
    case ErrorCode::kNoData: return "no data";
    case ErrorCode::kNotAPool: return "not a daxcow pool";
    case ErrorCode::kVersion: return "pool of another version";
    case ErrorCode::kIo: return "input/output error";
  }
  return "unknown error";
}

std::string describe(const Error& error) { return error.message.empty() ? describe(error.code) : error.message; }

void check_failed(const char* condition, const char* file, int line) {
  constexpr const char* kFormat = "daxcow: internal error, stopping before more is written: %s (%s:%d)\n";
  std::fprintf(stderr, kFormat, condition, file, line);
  ::syslog(LOG_DAEMON | LOG_CRIT, kFormat, condition, file, line);  // a daemon has nobody who reads its standard error
  std::abort();
}

}  // namespace daxcow
