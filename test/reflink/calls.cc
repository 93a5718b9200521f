// Makes every kind of FICLONE, FICLONERANGE and FIDEDUPERANGE call, right and wrong, in a directory, and prints what each
// answers: the same on XFS as on daxcow under daxcow run. A static program, and from two threads, on purpose.
//
//   daxcow-reflink-calls DIRECTORY
//   daxcow-reflink-calls --clone SOURCE TARGET [--i386]      one FICLONE, from a thread; also by the system call of 32-bit programs
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

std::string answer(int result) { return result >= 0 ? std::to_string(result) : strerrorname_np(errno); }

std::string clone(int source, int target) { return answer(::ioctl(target, FICLONE, source)); }

std::string clone_range(int source, int target, std::uint64_t from, std::uint64_t length, std::uint64_t to) {
  file_clone_range range{source, from, length, to};
  return answer(::ioctl(target, FICLONERANGE, &range));
}

struct Target {
  int file;
  std::uint64_t offset;
};
std::string dedupe(int source, std::uint64_t from, std::uint64_t length, const std::vector<Target>& targets, int reserved = 0) {
  std::vector<std::uint64_t> memory((sizeof(file_dedupe_range) + targets.size() * sizeof(file_dedupe_range_info)) / 8);
  auto* const call = reinterpret_cast<file_dedupe_range*>(memory.data());
  call->src_offset = from;
  call->src_length = length;
  call->dest_count = static_cast<std::uint16_t>(targets.size());
  call->reserved2 = static_cast<std::uint32_t>(reserved);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    call->info[i].dest_fd = targets[i].file;
    call->info[i].dest_offset = targets[i].offset;
  }
  std::string text = answer(::ioctl(source, FIDEDUPERANGE, call));
  if (text == "0")
    for (std::size_t i = 0; i < targets.size() && i < 9; ++i) {
      const int status = call->info[i].status;
      text += " [" + std::to_string(call->info[i].bytes_deduped) + " " +
              (status == FILE_DEDUPE_RANGE_DIFFERS ? "differs" : status == 0 ? "same" : strerrorname_np(-status)) + "]";
    }
  return text;
}

std::string directory;
int open_file(const char* name, int flags) {
  const int file = ::open((directory + "/" + name).c_str(), flags, 0644);
  if (file < 0) std::perror(name), std::exit(2);
  return file;
}
int make(const char* name, const std::string& content) {
  const int file = open_file(name, O_RDWR | O_CREAT | O_TRUNC);
  if (::write(file, content.data(), content.size()) != static_cast<ssize_t>(content.size())) std::exit(2);
  return file;
}
std::string size_of(int file) {
  struct stat status {};
  ::fstat(file, &status);
  return "size " + std::to_string(status.st_size);
}
void say(const char* what, const std::string& answers) { std::printf("%-28s %s\n", what, answers.c_str()); }

void all_calls() {
  std::string content(20000, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + i / 256);
  std::string almost = content;
  almost[8192] = static_cast<char>(almost[8192] + 1);
  make("source", content);
  const int source = open_file("source", O_RDONLY), write_only = open_file("source", O_WRONLY), path = open_file("source", O_PATH);
  const int same = make("same", content), different = make("different", almost), large = make("large", std::string(40000, 'z'));
  const int empty = make("empty", ""), appending = open_file("empty", O_RDWR | O_APPEND), read_only = open_file("same", O_RDONLY);
  const int folder = ::open(directory.c_str(), O_RDONLY), null = ::open("/dev/null", O_RDWR);
  ::mkfifo((directory + "/pipe").c_str(), 0644);
  const int pipe = open_file("pipe", O_RDWR);
  const int elsewhere = ::open("/tmp", O_RDWR | O_TMPFILE, 0600);

  say("directory", clone(folder, empty) + " " + clone(source, folder));
  say("fifo", clone(source, pipe) + " " + clone(pipe, empty));
  say("open for something else", clone(large, source) + " " + clone(write_only, empty) + " " + clone(source, appending));
  say("O_PATH", clone(path, empty) + " " + clone(source, path));
  say("not open", clone(999, empty) + " " + clone(source, 999));
  say("another filesystem", clone(source, elsewhere) + " " + clone(elsewhere, empty) + " " + clone(source, null) + " " + clone(null, empty));
  say("unaligned", clone_range(source, empty, 100, 4096, 0) + " " + clone_range(source, empty, 0, 4096, 100) + " " +
                       clone_range(source, empty, 0, 5000, 0));
  say("beyond the end", clone_range(source, empty, 0, 40960, 0) + " " + clone_range(source, empty, 20480, 0, 0) + " " +
                            clone_range(source, empty, 20480, 4096, 0));
  say("negative", clone_range(source, empty, -4096ull, 4096, 0) + " " + clone_range(source, empty, 0, 4096, (1ull << 63) - 4096));
  say("to the end", clone_range(source, empty, 4096, 0, 0));
  say("", size_of(empty));
  say("a part into the middle", clone(source, large) + " " + clone_range(source, large, 16384, 3616, 0));
  say("within one file", clone_range(large, large, 0, 8192, 4096) + " " + clone(large, large) + " " +
                             clone_range(large, large, 0, 4096, 40960));
  say("", size_of(large));
  say("no such memory", answer(::ioctl(empty, FICLONERANGE, 16)) + " " + answer(::ioctl(source, FIDEDUPERANGE, 16)));
  const int whole = make("whole", "short");
  say("whole", clone(source, whole));
  say("", size_of(whole));
  say("nothing", clone(make("nothing", ""), make("nothing2", "")));
  say("dedupe", dedupe(source, 0, 20000, {{same, 0}, {different, 0}, {large, 0}, {999, 0}, {folder, 0}, {elsewhere, 0}, {read_only, 0},
                                          {same, 100}, {path, 0}}));
  say("dedupe a part", dedupe(source, 0, 8192, {{same, 0}, {different, 0}, {different, 8192}}) + ", " + dedupe(source, 0, 10000, {{same, 0}}));
  say("dedupe nothing", dedupe(source, 0, 0, {{same, 0}}));
  say("dedupe beyond the end", dedupe(source, 0, 20001, {{same, 0}}) + " " + dedupe(source, 0, 4096, {{same, 20480}}));
  say("dedupe from", dedupe(write_only, 0, 4096, {{same, 0}}) + " " + dedupe(folder, 0, 4096, {{same, 0}}) + " " +
                         dedupe(pipe, 0, 4096, {{same, 0}}) + " " + dedupe(path, 0, 4096, {{same, 0}}));
  say("dedupe, reserved", dedupe(source, 0, 4096, {{same, 0}}, 1));
  say("dedupe within one file", dedupe(large, 0, 8192, {{large, 4096}, {large, 8192}, {large, 0}}));
  say("dedupe many", dedupe(source, 0, 4096, std::vector<Target>(126, {same, 0})).substr(0, 15) + " " +
                         dedupe(source, 0, 4096, std::vector<Target>(128, {same, 0})));
  ::signal(SIGXFSZ, [](int) { (void)!::write(1, "SIGXFSZ\n", 8); });
  const rlimit limit{8192, RLIM_INFINITY};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const int limited = make("limited", "");
  std::fflush(stdout);
  say("RLIMIT_FSIZE", clone(source, limited) + " " + clone_range(source, limited, 0, 4096, 8192) + " " +
                          clone_range(source, limited, 0, 8192, 0));
}

int one_clone(const char* source_path, const char* target_path, bool as_32_bit) {
  const int source = ::open(source_path, O_RDONLY), target = ::open(target_path, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (source < 0 || target < 0) return std::perror("open"), 2;
#ifdef __x86_64__
  if (as_32_bit) {
    long result;
    asm volatile("int $0x80" : "=a"(result) : "a"(54), "b"(target), "c"(FICLONE), "d"(source) : "memory", "r8", "r9", "r10", "r11");
    std::printf("%ld\n", result);
    return result != 0;
  }
#endif
  (void)as_32_bit;
  std::string text;
  std::thread([&] { text = clone(source, target); }).join();
  std::puts(text.c_str());
  return text != "0";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 4 && std::strcmp(argv[1], "--clone") == 0) return one_clone(argv[2], argv[3], argc > 4);
  if (argc != 2) return std::fprintf(stderr, "usage: %s DIRECTORY | --clone SOURCE TARGET\n", argv[0]), 2;
  directory = argv[1];
  std::thread(all_calls).join();
  return 0;
}
