// Errors are values. A Result holds what was asked for or an Error that says why not; TRY passes errors upwards.
// errno appears only where FUSE replies (fuse/errno.h) and where a system call is wrapped (Error::from_errno).
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace daxcow {

enum class ErrorCode {
  kNotFound,        // no such name, inode, volume
  kExists,          // the name is taken
  kNotDirectory,    //
  kIsDirectory,     //
  kNotEmpty,        // directory has entries
  kNoSpace,         // no block left, nothing was changed
  kNeedChunk,       // inside the engine only: the transaction wants a metadata chunk first
  kNameTooLong,     //
  kTooManyLinks,    //
  kFileTooBig,      // beyond the format's or the caller's limit
  kInvalid,         // an argument makes no sense
  kReadOnly,        // volume, snapshot or pool is read-only
  kPoisoned,        // the data asked for is lost on the medium
  kDamaged,         // metadata is damaged in every copy, or an image is inconsistent
  kBusy,            // in use: mounted, locked by another process
  kPermission,      // the system refuses
  kCrossVolume,     // both ends must be in one volume
  kNoAttribute,     // no such extended attribute
  kTooBig,          // extended attribute larger than the format takes
  kRange,           // the caller's buffer is too small
  kStale,           // the inode was removed
  kUnsupported,     //
  kDifferent,       // contents that were to be shared are not equal
  kNoData,          // SEEK_DATA/SEEK_HOLE beyond the last
  kNotAPool,        // no superblock
  kVersion,         // a pool of another version or with unknown features
  kIo,              // the system reports an I/O error
};

struct Error {
  ErrorCode code;
  std::string message;  // for people: what, where, what to do; empty where only a program looks

  // Wraps a failed system call; `what` names the action and the object. Keeps strerror's text.
  static Error from_errno(int error_number, const std::string& what);
};

// A short English phrase for the code, for messages that have no text of their own.
const char* describe(ErrorCode code);
// The message, or the phrase for its code when there is none.
std::string describe(const Error& error);

template <class T = void>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(ErrorCode code) { return std::unexpected<Error>(Error{code, {}}); }
inline std::unexpected<Error> fail(ErrorCode code, std::string message) {
  return std::unexpected<Error>(Error{code, std::move(message)});
}

}  // namespace daxcow

// Evaluates a Result; on an error returns it from the enclosing function, else yields the value. Not within an expression
// that has made an object which owns something by then (an argument, a list's element): the return would leak it.
#define TRY(expression)                                                              \
  ({                                                                                 \
    auto&& try_result_ = (expression);                                               \
    if (!try_result_) [[unlikely]]                                                   \
      return std::unexpected<::daxcow::Error>(std::move(try_result_).error());       \
    *std::move(try_result_);                                                         \
  })
