// A directory of many entries, a tree of many files, a path of many levels.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>

#include "test/applications/large_steps.h"

namespace daxcow::large {

namespace {

std::string entry_name(std::uint64_t index) { return fmt::format("entry-{}", index); }

// Every wanted entry exactly once, and no other.
void require_entries(int directory, const std::vector<bool>& wanted) {
  std::vector<bool> seen(wanted.size());
  std::uint64_t count = 0;
  list(directory, [&](const dirent& entry) {
    const auto index = std::strtoull(entry.d_name + std::strlen("entry-"), nullptr, 10);
    require(index < wanted.size() && entry_name(index) == entry.d_name, std::string("unknown entry ") + entry.d_name);
    require(!seen[index], std::string("listed twice: ") + entry.d_name);
    require(wanted[index], std::string("listed, though removed: ") + entry.d_name);
    seen[index] = true;
    ++count;
  });
  require(count == static_cast<std::uint64_t>(std::ranges::count(wanted, true)), fmt::format("{} entries are listed", count));
}

constexpr std::uint64_t kFanOut = 100;

std::string tree_content(std::uint64_t index) { return index % 10 == 0 ? fmt::format("file {}\n", index) : ""; }

}  // namespace

void entries(const Arguments& arguments) {
  const auto path = arguments.at(0);
  const auto count = number(arguments, 1);
  std::mt19937_64 random(1);
  Figures figures;
  if (mkdir(path.c_str(), 0755) != 0) fail_call("mkdir");
  const auto directory = open_directory(path);
  for (std::uint64_t i = 0; i < count; ++i) (void)open_at(directory.get(), entry_name(i), O_WRONLY | O_CREAT | O_EXCL);
  figures.add("create", count);
  std::vector<bool> wanted(count, true);
  require_entries(directory.get(), wanted);
  figures.add("list", count);
  const auto looks = std::min<std::uint64_t>(count, 200'000);
  struct stat status {};
  for (std::uint64_t i = 0; i < looks; ++i)
    if (fstatat(directory.get(), entry_name(random() % count).c_str(), &status, 0) != 0) fail_call("fstatat");
  figures.add("stat", looks);
  for (std::uint64_t i = 0; i < looks; ++i)
    if (fstatat(directory.get(), fmt::format("none-{}", random()).c_str(), &status, 0) == 0 || errno != ENOENT) fail("found what is not there");
  figures.add("stat nothing", looks);
  // Half of it goes while it is listed: what stays must come exactly once, what goes at most once.
  std::vector<bool> seen(count);
  std::uint64_t removed = 0;
  list(directory.get(), [&](const dirent& entry) {
    const auto index = std::strtoull(entry.d_name + std::strlen("entry-"), nullptr, 10);
    require(index < count && !seen[index], std::string("while removing, listed twice: ") + entry.d_name);
    seen[index] = true;
    // This one, or another one anywhere.
    for (const std::uint64_t victim : {std::uint64_t{index}, random() % count}) {
      if (removed >= count / 2 || !wanted[victim] || random() % 2 == 0) continue;
      if (unlinkat(directory.get(), entry_name(victim).c_str(), 0) != 0) fail_call("unlinkat");
      wanted[victim] = false;
      ++removed;
    }
  });
  for (std::uint64_t i = 0; i < count; ++i) require(seen[i] || !wanted[i], fmt::format("{} was not listed", entry_name(i)));
  figures.add("list and remove some", count);
  require_entries(directory.get(), wanted);
  if (fstat(directory.get(), &status) != 0) fail_call("fstat");
  figures.note(fmt::format("{} KiB", status.st_blocks / 2));
  for (std::uint64_t i = 0; i < count; ++i)
    if (wanted[i] && unlinkat(directory.get(), entry_name(i).c_str(), 0) != 0) fail_call("unlinkat");
  figures.add("remove the rest", count - removed);
  require_entries(directory.get(), std::vector<bool>(count));
  if (rmdir(path.c_str()) != 0) fail_call("rmdir");
  figures.print();
}

void make_tree(const Arguments& arguments) {
  const auto count = number(arguments, 1);
  Figures figures;
  if (mkdir(arguments[0].c_str(), 0755) != 0) fail_call("mkdir");
  const auto root = open_directory(arguments[0]);
  FileDescriptor middle, leaf;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (i % (kFanOut * kFanOut) == 0) {
      const auto name = std::to_string(i / (kFanOut * kFanOut));
      if (mkdirat(root.get(), name.c_str(), 0755) != 0) fail_call("mkdirat");
      middle = open_directory(name, root.get());
    }
    if (i % kFanOut == 0) {
      const auto name = std::to_string(i / kFanOut % kFanOut);
      if (mkdirat(middle.get(), name.c_str(), 0755) != 0) fail_call("mkdirat");
      leaf = open_directory(name, middle.get());
    }
    const auto file = open_at(leaf.get(), std::to_string(i), O_WRONLY | O_CREAT | O_EXCL);
    if (const auto content = tree_content(i); !content.empty()) write_at(file.get(), 0, content);
  }
  figures.add("create", count);
  figures.print();
}

// Walks the tree, looks at every file, and removes it if asked to.
void walk_tree(const Arguments& arguments) {
  const auto count = number(arguments, 1);
  const bool remove = arguments.at(2) == "remove";
  Figures figures;
  std::vector<bool> seen(count);
  const std::function<void(int, int)> walk = [&](int directory, int depth) {
    std::vector<std::string> names;
    list(directory, [&](const dirent& entry) { names.emplace_back(entry.d_name); });
    for (const auto& name : names) {
      if (depth < 2) {
        walk(open_directory(name, directory).get(), depth + 1);
        if (remove && unlinkat(directory, name.c_str(), AT_REMOVEDIR) != 0) fail_call("rmdir");
        continue;
      }
      const auto index = std::stoull(name);
      require(index < count && !seen[index], "unknown file " + name);
      seen[index] = true;
      const auto content = tree_content(index);
      struct stat status {};
      if (fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) fail_call("fstatat");
      require(static_cast<std::size_t>(status.st_size) == content.size() && status.st_nlink == 1, "another size: " + name);
      if (!content.empty()) {
        std::string found(content.size(), 0);
        read_at(open_at(directory, name, O_RDONLY).get(), 0, found);
        require(found == content, "another content: " + name);
      }
      if (remove && unlinkat(directory, name.c_str(), 0) != 0) fail_call("unlinkat");
    }
  };
  walk(open_directory(arguments[0]).get(), 0);
  require(std::ranges::count(seen, false) == 0, "files are missing");
  if (remove && rmdir(arguments[0].c_str()) != 0) fail_call("rmdir");
  figures.add(remove ? "look and remove" : "look", count);
  figures.print();
}

void deep(const Arguments& arguments) {
  const auto& path = arguments.at(0);
  const auto levels = number(arguments, 1);
  Figures figures;
  const auto start = open_directory(".");
  if (mkdir(path.c_str(), 0755) != 0) fail_call("mkdir");
  const auto top = open_directory(path);
  const auto name = [](std::uint64_t level) { return fmt::format("level-{}", level); };
  std::vector<ino_t> inodes;
  struct stat status {};
  auto at = open_directory(".", top.get());
  for (std::uint64_t level = 0; level < levels; ++level) {
    if (mkdirat(at.get(), name(level).c_str(), 0755) != 0) fail_call("mkdirat");
    at = open_directory(name(level), at.get());
    if (fstat(at.get(), &status) != 0) fail_call("fstat");
    inodes.push_back(status.st_ino);
  }
  write_at(open_at(at.get(), "bottom", O_RDWR | O_CREAT | O_EXCL).get(), 0, std::string("bottom"));
  figures.add("make", levels);
  // Down again, and up by "..".
  at = open_directory(".", top.get());
  for (std::uint64_t level = 0; level < levels; ++level) at = open_directory(name(level), at.get());
  figures.add("go down", levels);
  for (std::uint64_t level = levels; level-- > 1;) {
    at = open_directory("..", at.get());
    if (fstat(at.get(), &status) != 0) fail_call("fstat");
    require(status.st_ino == inodes[level - 1], fmt::format("\"..\" of level {} leads elsewhere", level));
  }
  figures.add("go up", levels);
  // A path of PATH_MAX - 1 bytes is the longest.
  const auto path_of = [&](std::size_t length) {
    std::string text;
    for (std::uint64_t level = 0; level < levels && text.size() + name(level).size() < length; ++level) text += name(level) + "/";
    while (text.size() < length) text += text.size() % 2 == 0 ? '.' : '/';
    return text;
  };
  if (levels > 1000) {
    if (fstatat(top.get(), path_of(PATH_MAX - 1).c_str(), &status, 0) != 0) fail_call("a path of PATH_MAX - 1 bytes");
    require(fstatat(top.get(), path_of(PATH_MAX).c_str(), &status, 0) == -1 && errno == ENAMETOOLONG, "a path of PATH_MAX bytes");
  }
  // The whole chain moves by one rename; what is below does not notice. It cannot move into itself.
  at = open_directory(name(0), top.get());
  at = open_directory(name(1), at.get());
  require(renameat(top.get(), name(0).c_str(), at.get(), "within") == -1 && errno == EINVAL, "a directory moves into itself");
  if (renameat(top.get(), name(0).c_str(), top.get(), "moved") != 0) fail_call("renameat");
  // A process whose working directory is the bottom.
  if (fchdir(top.get()) != 0 || chdir("moved") != 0) fail_call("chdir");
  for (std::uint64_t level = 1; level < levels; ++level)
    if (chdir(name(level).c_str()) != 0) fail_call("chdir");
  std::array<char, 6> content{};
  read_at(open_at(AT_FDCWD, "bottom", O_RDONLY).get(), 0, content);
  require(std::string_view(content.data(), content.size()) == "bottom", "wrong content at the bottom");
  figures.add("rename and go down", levels);
  if (unlink("bottom") != 0) fail_call("unlink");
  for (std::uint64_t level = levels; level-- > 1;) {
    if (chdir("..") != 0) fail_call("chdir");
    if (rmdir(name(level).c_str()) != 0) fail_call("rmdir");
  }
  if (fchdir(top.get()) != 0 || rmdir("moved") != 0) fail_call("rmdir");
  figures.add("remove", levels);
  if (fchdir(start.get()) != 0 || rmdir(path.c_str()) != 0) fail_call("rmdir");
  figures.print();
}

}  // namespace daxcow::large
