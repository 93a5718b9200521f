#include "test/exercise/world.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "test/exercise/daxcow_tools.h"
#include "test/exercise/failure.h"

namespace daxcow::exercise {

namespace {

constexpr std::array<const char*, 3> kDirectories = {"", "a/", "b/"};
constexpr const char* kSharedName = "../shared";
constexpr std::uint64_t kPage = 4096;
// Stripes of the shared file.
constexpr std::uint64_t kStripeOfBytes = 1000, kStripeOfPages = 3 * kPage;

FileDescriptor open_directory(int base, const std::string& path) {
  FileDescriptor directory(openat(base, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) fail_call("opening " + path);
  return directory;
}

Territory shared_territory(const Context& context) {
  const auto& options = context.options;
  return Territory(options.maximum_bytes, options.sharing == Sharing::kBytes ? kStripeOfBytes : kStripeOfPages, options.processes,
                   context.process);
}

}  // namespace

World::World(Context& context, const std::string& directory) : context_(context), directory_(directory), number_(0) {
  const auto& options = context.options;
  if (mkdir(directory.c_str(), 0755) != 0) fail_call("making " + directory);
  root_ = open_directory(AT_FDCWD, directory);
  for (const char* sub : kDirectories)
    if (*sub != 0 && mkdirat(root_.get(), sub, 0755) != 0) fail_call(fmt::format("making {}", sub));
  const FileModel nothing(options.maximum_bytes, context.features.block_bytes);
  for (unsigned i = 0; i < options.files; ++i) {
    files_.push_back(std::make_unique<ExercisedFile>(context_, root_.get(), number_, i, nothing, Territory(options.maximum_bytes)));
    current_ = i;
    files_.back()->create(fresh_name());
  }
  if (options.sharing == Sharing::kNone) return;
  current_ = options.files;
  auto zeros = nothing;
  zeros.truncate(options.maximum_bytes);
  files_.push_back(std::make_unique<ExercisedFile>(context_, root_.get(), number_, current_, std::move(zeros), shared_territory(context_)));
  files_.back()->open(kSharedName);
}

World::World(Context& context, const std::string& directory, unsigned number, const Memory& memory, bool read_only)
    : context_(context), directory_(directory), number_(number), root_(open_directory(AT_FDCWD, directory)), names_made_(memory.names_made) {
  for (const auto& file : memory.files) {
    files_.push_back(std::make_unique<ExercisedFile>(context_, root_.get(), number_, file.number, file.model, file.territory));
    current_ = file.number;
    files_.back()->names() = file.names;
    files_.back()->open(*file.names.begin(), read_only);
  }
}

Memory World::remember() const {
  Memory memory{.files = {}, .names_made = names_made_};
  for (const auto& file : files_)
    if (!file->names().empty()) memory.files.push_back({file->number(), file->names(), file->model(), file->territory()});
  return memory;
}

void World::write_stores() {
  for (const auto& file : files_) file->write_stores();
}

ExercisedFile& World::any_file() {
  // What is shared comes as often as two of the others.
  const auto choice = context_.random.below(files_.size() + (files_.back()->territory().is_whole() ? 0 : 1));
  auto& file = *files_[std::min<std::size_t>(choice, files_.size() - 1)];
  current_ = file.number();
  return file;
}

std::string World::fresh_name() {
  return fmt::format("{}file-{}-{}", kDirectories[context_.random.below(kDirectories.size())], current_, names_made_++);
}

void World::note(Kind kind, const ExercisedFile& file, const ExercisedFile* other) {
  Operation operation{.kind = kind, .world = number_, .file = file.number()};
  operation.size_before = file.model().size();
  if (other != nullptr) operation.other_file = other->number();
  context_.history.add(operation);
}

void World::step(Kind kind) {
  if (files_.empty()) return;  // a snapshot in which nothing had a name
  auto& file = any_file();
  if (!file.territory().is_whole()) {
    const bool on_pages = kind == Kind::kWriteDirect || kind == Kind::kPunch || kind == Kind::kZeroKeep ||
                          kind == Kind::kCopyWithin || kind == Kind::kCopyBetween;
    if (!about(kind).keeps_size || (on_pages && context_.options.sharing == Sharing::kBytes)) kind = Kind::kRead;
  }
  switch (kind) {
    case Kind::kRead:
    case Kind::kReadVector:
    case Kind::kReadDirect:
      return file.read(kind);
    case Kind::kReadMapped:
      return file.read_mapped();
    case Kind::kStorePrivate:
      return file.store_private();
    case Kind::kTouchBehindEnd:
      return file.touch_behind_end();
    case Kind::kWrite:
    case Kind::kWriteVector:
    case Kind::kWriteDirect:
    case Kind::kWriteSync:
    case Kind::kAppend:
      return file.write(kind);
    case Kind::kStoreMapped:
      return file.store_mapped();
    case Kind::kTruncate:
      return file.truncate();
    case Kind::kPunch:
    case Kind::kZero:
    case Kind::kZeroKeep:
    case Kind::kAllocate:
    case Kind::kAllocateKeep:
      return file.allocate(kind);
    case Kind::kCopyWithin:
      return file.copy_from(file, kind);
    case Kind::kCopyBetween:
      return file.copy_from(*files_[context_.random.below(files_.size())], kind);
    case Kind::kCopyOverlapping:
      return file.copy_overlapping();
    case Kind::kSync:
      return file.sync();
    case Kind::kUnmap:
      return file.unmap();
    case Kind::kDropPages:
      return file.drop_pages();
    case Kind::kReopen:
      return file.reopen();
    case Kind::kSparse:
      return file.check_sparse();
    case Kind::kAttributes:
      return file.check_attributes();
    case Kind::kSetTimes:
      return file.set_times();
    case Kind::kSetMode:
      return file.set_mode();
    case Kind::kCompare:
      return file.compare_all(kind);
    case Kind::kRename:
      return rename(file);
    case Kind::kRenameOver:
      return rename_over(file);
    case Kind::kExchange:
      return exchange(file);
    case Kind::kLink:
      return link(file);
    case Kind::kUnlink:
      return unlink(file);
    case Kind::kReplace:
      return replace(file);
    case Kind::kList:
      return list();
    case Kind::kClone:
      return clone(file);
    case Kind::kSnapshot:
    case Kind::kSnapshotCompare:
    case Kind::kCount:
      break;
  }
}

void World::compare(Kind way) {
  list();
  for (const auto& file : files_) {
    current_ = file->number();
    file->check_attributes();
    if (context_.options.sparse && context_.features.sparse) file->check_sparse();
    file->compare_all(way);
  }
}

// --- names -------------------------------------------------------------------------------------------------------------

void World::rename(ExercisedFile& file) {
  if (!has_names(file)) return replace(file);
  const auto from = file.a_name(), to = fresh_name();
  note(Kind::kRename, file);
  file.names_change_begins();
  if (renameat(root_.get(), from.c_str(), root_.get(), to.c_str()) != 0) fail_call(fmt::format("renaming {} to {}", from, to));
  file.names().erase(from);
  file.names().insert(to);
  file.link_changed(false);
}

// Another file loses that name, and goes on without it; two names of one file both stay.
void World::rename_over(ExercisedFile& file) {
  auto& other = *files_[context_.random.below(files_.size())];
  if (!has_names(file) || !has_names(other)) return rename(file);
  const auto from = file.a_name(), to = other.a_name();
  note(Kind::kRenameOver, file, &other);
  file.names_change_begins();
  other.names_change_begins();
  if (renameat(root_.get(), from.c_str(), root_.get(), to.c_str()) != 0) fail_call(fmt::format("renaming {} to {}", from, to));
  file.link_changed(false);
  if (&file == &other) return;
  file.names().erase(from);
  file.names().insert(to);
  other.names().erase(to);
  other.link_changed(true);
}

void World::exchange(ExercisedFile& file) {
  auto& other = *files_[context_.random.below(files_.size())];
  if (!context_.features.exchange || !has_names(file) || !has_names(other)) return rename(file);
  const auto one = file.a_name(), two = other.a_name();
  note(Kind::kExchange, file, &other);
  if (renameat2(root_.get(), one.c_str(), root_.get(), two.c_str(), RENAME_EXCHANGE) != 0)
    fail_call(fmt::format("exchanging {} and {}", one, two));
  file.link_changed(false);
  other.link_changed(false);
  if (&file == &other) return;
  file.names().erase(one);
  other.names().erase(two);
  file.names().insert(two);
  other.names().insert(one);
}

void World::link(ExercisedFile& file) {
  constexpr std::size_t kMostNames = 5;
  if (!has_names(file)) return replace(file);
  if (file.names().size() >= kMostNames) return unlink(file);
  const auto from = file.a_name(), to = fresh_name();
  note(Kind::kLink, file);
  file.names_change_begins();
  if (linkat(root_.get(), from.c_str(), root_.get(), to.c_str(), 0) != 0) fail_call(fmt::format("linking {} to {}", from, to));
  file.names().insert(to);
  file.link_changed(true);
}

void World::unlink(ExercisedFile& file) {
  if (!has_names(file)) return replace(file);
  const auto name = file.a_name();
  note(Kind::kUnlink, file);
  file.names_change_begins();
  if (unlinkat(root_.get(), name.c_str(), 0) != 0) fail_call("unlinking " + name);
  file.names().erase(name);
  file.link_changed(true);
}

// A file without names is closed, which frees it, and a new one takes its place. One with names goes on as it is.
void World::replace(ExercisedFile& file) {
  if (!file.names().empty()) return file.reopen();
  note(Kind::kReplace, file);
  const auto number = file.number();
  auto& place = *std::ranges::find(files_, &file, &std::unique_ptr<ExercisedFile>::get);
  place.reset();
  const auto maximum = context_.options.maximum_bytes;
  place = std::make_unique<ExercisedFile>(context_, root_.get(), number_, number,
                                          FileModel(maximum, context_.features.block_bytes), Territory(maximum));
  place->create(fresh_name());
}

void World::list() {
  context_.history.add({.kind = Kind::kList, .world = number_});
  std::set<std::string> expected, found;
  for (const auto& file : files_)
    if (file->territory().is_whole()) expected.insert(file->names().begin(), file->names().end());
  for (const std::string sub : kDirectories) {
    const auto directory = open_directory(root_.get(), sub.empty() ? "." : sub);
    DIR* const stream = fdopendir(dup(directory.get()));
    if (stream == nullptr) fail_call("fdopendir");
    const struct Close {
      DIR* stream;
      ~Close() { closedir(stream); }
    } close{stream};
    while (const dirent* const entry = readdir(stream)) {
      if (entry->d_type == DT_DIR) continue;
      if (!found.insert(sub + entry->d_name).second) fail("{}{} is listed twice", sub, entry->d_name);
    }
  }
  for (const auto& name : found)
    if (!expected.contains(name)) fail("{} is listed, and should not be there", name);
  for (const auto& name : expected)
    if (!found.contains(name)) fail("{} is not listed", name);
}

void World::clone(ExercisedFile& file) {
  auto& source = *files_[context_.random.below(files_.size())];
  if (!has_names(file) || !has_names(source) || &file == &source) return file.compare_all(Kind::kCompare);
  const auto from = source.a_name(), to = file.a_name();
  note(Kind::kClone, file, &source);
  DaxcowTools(context_.options).clone(directory_ + "/" + from, directory_ + "/" + to);
  file.become_clone_of(source);
}

}  // namespace daxcow::exercise
