#include "fuse/errno.h"

#include <cerrno>

namespace daxcow {

int errno_of(ErrorCode code) {
  // clang-format off
  switch (code) {
    case ErrorCode::kNotFound: return ENOENT;
    case ErrorCode::kExists: return EEXIST;
    case ErrorCode::kNotDirectory: return ENOTDIR;
    case ErrorCode::kIsDirectory: return EISDIR;
    case ErrorCode::kNotEmpty: return ENOTEMPTY;
    case ErrorCode::kNoSpace: return ENOSPC;
    case ErrorCode::kNeedChunk: return ENOSPC;
    case ErrorCode::kNameTooLong: return ENAMETOOLONG;
    case ErrorCode::kTooManyLinks: return EMLINK;
    case ErrorCode::kFileTooBig: return EFBIG;
    case ErrorCode::kInvalid: return EINVAL;
    case ErrorCode::kReadOnly: return EROFS;
    case ErrorCode::kPoisoned: return EIO;
    case ErrorCode::kDamaged: return EIO;
    case ErrorCode::kBusy: return EBUSY;
    case ErrorCode::kPermission: return EPERM;
    case ErrorCode::kCrossVolume: return EXDEV;
    case ErrorCode::kNoAttribute: return ENODATA;
    case ErrorCode::kTooBig: return E2BIG;
    case ErrorCode::kRange: return ERANGE;
    case ErrorCode::kStale: return ESTALE;
    case ErrorCode::kUnsupported: return EOPNOTSUPP;
    case ErrorCode::kDifferent: return EBADE;
    case ErrorCode::kNoData: return ENXIO;
    case ErrorCode::kNotAPool: return EIO;
    case ErrorCode::kVersion: return EIO;
    case ErrorCode::kIo: return EIO;
  }
  // clang-format on
  return EIO;
}

}  // namespace daxcow
