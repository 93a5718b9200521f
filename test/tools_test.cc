// The tools as a user meets them, without a mount: what they make, what they say of wrong input, and their exit codes.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "engine/checksum.h"
#include "engine/medium_pmem2.h"
#include "test/catch.h"
#include "test/temporary_directory.h"

namespace daxcow::test {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string out, err;
};

// A directory in memory for pools, and the programs run in it by the shell.
class Tools {
 public:
  Tools() : directory_(access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path()) {}

  Outcome run(const std::string& command) const {
    const std::string whole =
        "cd '" + (directory_ / "") + "' && PATH=" DAXCOW_BIN_DIR ":$PATH && { " + command + "; } >out 2>err </dev/null";
    const int status = std::system(whole.c_str());
    INFO(command);
    REQUIRE(WIFEXITED(status));
    return {WEXITSTATUS(status), read_text(path("out")), read_text(path("err"))};
  }
  std::string path(const std::string& name) const { return directory_ / name; }

 private:
  TemporaryDirectory directory_;
};

// Fails with this code, prints nothing but one line on standard error, which begins with the program and contains
// `words`.
void check_refused(const Tools& tools, const std::string& command, int exit_code, const std::string& words) {
  const Outcome outcome = tools.run(command);
  INFO(command << "\nout: " << outcome.out << "\nerr: " << outcome.err);
  CHECK(outcome.exit_code == exit_code);
  CHECK(outcome.out.empty());
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(outcome.err.starts_with(command.substr(0, command.find(' ')) + (command.starts_with("daxcow ") ? " " : ": ")));
  CHECK(outcome.err.find(words) != std::string::npos);
}

void check_works(const Tools& tools, const std::string& command, const std::string& words = {}) {
  const Outcome outcome = tools.run(command);
  INFO(command << "\nout: " << outcome.out << "\nerr: " << outcome.err);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  CHECK(outcome.out.find(words) != std::string::npos);
}

TEST_CASE("mkfs.daxcow makes a pool that fsck.daxcow finds clean") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M --label shelf --volume first pool", "pool of 32 MiB");
  struct stat status {};
  REQUIRE(::stat(tools.path("pool").c_str(), &status) == 0);
  CHECK(status.st_size == 32 << 20);
  CHECK(status.st_blocks * 512 >= status.st_size);
  check_works(tools, "fsck.daxcow pool", "clean");
  check_works(tools, "fsck.daxcow -n -f -v pool", "clean");

  const auto report = nlohmann::json::parse(tools.run("fsck.daxcow --json pool").out);
  CHECK(report.at("clean") == true);
  CHECK(report.at("volumes") == 1);
  const auto statistics = nlohmann::json::parse(tools.run("daxcow stat --json pool").out);
  CHECK(statistics.at("label") == "shelf");
  CHECK(statistics.at("size_bytes") == 32 << 20);
  check_works(tools, "daxcow stat pool", "shelf");
  check_works(tools, "daxcow poison list pool", "no bad blocks");
}

TEST_CASE("mkfs.daxcow uses an existing file, and fills its holes") {
  Tools tools;
  check_works(tools, "truncate -s 20M pool && mkfs.daxcow pool", "pool of 20 MiB");
  struct stat status {};
  REQUIRE(::stat(tools.path("pool").c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 >= status.st_size);
  const auto made = nlohmann::json::parse(tools.run("mkfs.daxcow --json --force --no-volume --size 24M pool").out);
  CHECK(made.at("size_bytes") == 24 << 20);
  CHECK(made.at("volume") == "");
  CHECK(nlohmann::json::parse(tools.run("daxcow volume list --json pool").out).at("volumes").empty());
}

TEST_CASE("mkfs.daxcow refuses what would lose something or cannot work") {
  Tools tools;
  check_refused(tools, "mkfs.daxcow", 2, "POOL is missing");
  check_refused(tools, "mkfs.daxcow pool", 1, "--size");
  check_refused(tools, "mkfs.daxcow --size pool", 2, "");
  check_refused(tools, "mkfs.daxcow --size 12X pool", 2, "12X");
  check_refused(tools, "mkfs.daxcow --size 1M pool", 1, "16 MiB");
  CHECK(access(tools.path("pool").c_str(), F_OK) != 0);
  check_refused(tools, "mkfs.daxcow --size 900P pool", 1, "pool");
  CHECK(access(tools.path("pool").c_str(), F_OK) != 0);
  check_refused(tools, "mkfs.daxcow --size 32M none/pool", 1, "none/pool");
  check_refused(tools, "mkfs.daxcow .", 1, "directory");
  check_refused(tools, "mkfs.daxcow --volume x --no-volume pool", 2, "exclude");
  check_refused(tools, "mkfs.daxcow --volume a/b --size 32M pool", 1, "a/b");
  CHECK(access(tools.path("pool").c_str(), F_OK) != 0);

  REQUIRE(tools.run("truncate -s 32M letters && printf dear | dd of=letters conv=notrunc").exit_code == 0);
  check_refused(tools, "mkfs.daxcow letters", 1, "--force");
  check_works(tools, "mkfs.daxcow --force letters");
  check_refused(tools, "mkfs.daxcow letters", 1, "is a pool already");
  check_refused(tools, "mkfs.daxcow --size 64M letters", 1, "--force");
  check_works(tools, "fsck.daxcow letters", "clean");
}

TEST_CASE("A pool that is in use is refused") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  {
    auto holder = need(open_pmem2_medium(tools.path("pool"), {}));
    check_refused(tools, "mkfs.daxcow --force pool", 1, "pool");
    check_refused(tools, "fsck.daxcow pool", 8, "pool");
    check_refused(tools, "daxcow volume list pool", 1, "pool");
  }
  check_works(tools, "fsck.daxcow pool", "clean");
}

// Makes the pool one of another format, with good checksums.
void make_foreign(const std::string& path) {
  auto medium = need(open_pmem2_medium(path, {}));
  format::Superblock superblock;
  const auto bytes = std::as_writable_bytes(std::span(&superblock, 1));
  need(medium->read(0, bytes));
  superblock.major = format::kFormatMajor + 1;
  superblock.crc = superblock_crc(superblock);
  need(medium->store(0, bytes));
  need(medium->store(medium->size_bytes() - kBlockBytes, bytes));
  need(medium->drain());
}

TEST_CASE("What is not a pool, or not a whole one, is refused by every tool") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  const auto check_refused_by_daxcow = [&](const std::string& file, const std::string& why) {
    for (const std::string command :
         {"daxcow stat ", "daxcow volume list ", "daxcow poison list ", "daxcow scrub ", "daxcow events "})
      check_refused(tools, command + file, 1, command == "daxcow events " ? file : file + ": " + why);
    check_refused(tools, "daxcow owners " + file + " 0", 1, file + ": " + why);
    check_refused(tools, "daxcow snapshot " + file + " main copy", 1, file + ": " + why);
  };
  SECTION("not a pool") {
    REQUIRE(
        tools.run("truncate -s 32M zeros; head -c 32M /dev/urandom >noise; head -c 99K /dev/urandom >tiny").exit_code ==
        0);
    for (const std::string file : {"zeros", "noise", "tiny"}) {
      check_refused(tools, "fsck.daxcow " + file, 8, file);
      check_refused_by_daxcow(file, "not a daxcow pool");
    }
  }
  SECTION("not a file that could be one") {
    REQUIRE(tools.run(": >empty; ln -s nowhere dangling; mkfifo pipe").exit_code == 0);
    for (const std::string file : {"empty", "missing", "dangling", "missing/pool", ".", "/dev/null", "pipe"}) {
      check_refused(tools, "fsck.daxcow " + file, 8, file);
      for (const std::string command : {"daxcow stat ", "daxcow scrub "}) check_refused(tools, command + file, 1, file);
    }
  }
  SECTION("of another version") {
    REQUIRE(tools.run("cp pool foreign").exit_code == 0);
    make_foreign(tools.path("foreign"));
    check_refused(tools, "fsck.daxcow foreign", 8, "pool format 2.");
    check_refused_by_daxcow("foreign", "pool format 2.");
    check_refused(tools, "mkfs.daxcow foreign", 1, "is a pool already");
  }
  // What was a pool is checked, and found wanting.
  SECTION("truncated") {
    REQUIRE(tools.run("cp pool short; truncate -s 20M short").exit_code == 0);
    const Outcome checked = tools.run("fsck.daxcow short");
    CHECK(checked.exit_code == 4);
    CHECK(checked.out.find("truncated") != std::string::npos);
    check_refused_by_daxcow("short", "the pool is truncated");
  }
  SECTION("without a good superblock") {
    REQUIRE(tools
                .run("cp pool damaged; for at in 0 8191; do printf damage | dd of=damaged bs=1 seek=$((at * 4096 + "
                     "100)) conv=notrunc; done")
                .exit_code == 0);
    const Outcome checked = tools.run("fsck.daxcow damaged");
    CHECK(checked.exit_code == 4);
    check_refused_by_daxcow("damaged", "both superblocks are damaged");
    check_refused(tools, "mkfs.daxcow damaged", 1, "is a pool already");
    CHECK(tools.run("fsck.daxcow -y damaged").exit_code == 1);
    check_works(tools, "fsck.daxcow damaged", "clean");
  }
}

TEST_CASE("fsck.daxcow repairs what it is told to") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  check_works(tools, "fsck.daxcow -y pool", "clean");
  check_works(tools, "fsck.daxcow -p pool", "clean");
  const auto lose = [&](const std::string& file, const std::string& blocks) {
    REQUIRE(tools.run("cp pool " + file + "; for at in " + blocks + "; do head -c 4096 /dev/urandom | dd of=" + file +
                      " bs=4096 seek=$at conv=notrunc; done").exit_code == 0);
  };
  SECTION("one copy: with -p") {
    lose("damaged", "0 1025 1284");
    const Outcome checked = tools.run("fsck.daxcow damaged");
    CHECK(checked.exit_code == 4);
    CHECK(checked.out.find("fsck.daxcow -y") != std::string::npos);
    const Outcome repaired = tools.run("fsck.daxcow -p damaged");
    INFO(repaired.out << repaired.err);
    CHECK(repaired.exit_code == 1);
    check_works(tools, "fsck.daxcow damaged", "clean");
  }
  SECTION("both copies: with -y only") {
    lose("damaged", "1028 1284");
    check_works(tools, "cp damaged before");
    const Outcome preened = tools.run("fsck.daxcow -a damaged");
    CHECK(preened.exit_code == 4);
    CHECK(preened.out.find("nothing was changed") != std::string::npos);
    check_works(tools, "cmp damaged before");
    const Outcome repaired = tools.run("fsck.daxcow --json -y damaged");
    CHECK(repaired.exit_code == 1);
    const auto report = nlohmann::json::parse(repaired.out);
    CHECK(report.at("clean") == true);
    CHECK(report.at("found_count") > 0);
    CHECK(report.at("found").at(0).at("remedy") == "rebuild");
    CHECK(report.at("actions").size() == report.at("action_count"));
    check_works(tools, "fsck.daxcow -y damaged", "clean");
  }
  SECTION("what is no pool stays what it is") {
    REQUIRE(tools.run("head -c 32M /dev/urandom >noise; cp noise before").exit_code == 0);
    check_refused(tools, "fsck.daxcow -y noise", 8, "not a daxcow pool");
    check_works(tools, "cmp noise before");
    check_refused(tools, "fsck.daxcow -y -p pool", 16, "excludes");
  }
  SECTION("a pool that is in use") {
    auto holder = need(open_pmem2_medium(tools.path("pool"), {}));
    check_refused(tools, "fsck.daxcow -y pool", 8, "pool");
  }
}

TEST_CASE("Volumes are made, snapshot, rolled back and deleted without a mount") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  check_works(tools, "daxcow volume create pool second");
  check_works(tools, "daxcow snapshot --read-only pool main kept");
  check_works(tools, "daxcow snapshot pool main branch");
  check_works(tools, "daxcow volume list pool", "kept");
  auto volumes = nlohmann::json::parse(tools.run("daxcow volume list --json pool").out).at("volumes");
  REQUIRE(volumes.size() == 4);
  for (const auto& volume : volumes) {
    const bool snapshot = volume.at("name") == "kept" || volume.at("name") == "branch";
    CHECK(volume.at("snapshot") == snapshot);
    CHECK(volume.at("read_only") == (volume.at("name") == "kept"));
    if (snapshot) CHECK(volume.at("origin") == "main");
  }
  check_works(tools, "daxcow volume rollback pool main kept");
  check_works(tools, "daxcow volume delete pool second branch");
  check_refused(tools, "daxcow volume create pool main", 1, "main");
  check_refused(tools, "daxcow volume create pool a/b", 1, "a/b");
  check_refused(tools, "daxcow volume delete pool none", 1, "none");
  check_refused(tools, "daxcow volume rollback pool main none", 1, "none");
  check_refused(tools, "daxcow volume rollback pool none kept", 1, "none");
  check_refused(tools, "daxcow snapshot pool none copy", 1, "none");
  check_refused(tools, "daxcow snapshot pool main kept", 1, "kept");
  volumes = nlohmann::json::parse(tools.run("daxcow volume list --json pool").out).at("volumes");
  CHECK(volumes.size() == 2);
  check_works(tools, "fsck.daxcow pool", "clean");
}

TEST_CASE("daxcow owners tells what a block is") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  check_works(tools, "daxcow owners pool 0", "block 0 ");
  check_works(tools, "daxcow owners --block pool 0x400", "block 1024 ");
  CHECK(nlohmann::json::parse(tools.run("daxcow owners --json pool 4M").out).at("block") == 1024);
  check_refused(tools, "daxcow owners pool 32M", 1, "beyond the end");
  check_refused(tools, "daxcow owners --block pool 18446744073709551615", 2, "too large");
  check_refused(tools, "daxcow owners pool here", 2, "here");
  check_refused(tools, "daxcow owners pool", 2, "OFFSET is missing");
}

TEST_CASE("daxcow inject-error takes ndctl's options") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  check_works(tools, "daxcow inject-error pool -t", "nothing");
  check_works(tools, "daxcow inject-error pool -B 40000 -n 8");
  check_works(tools, "daxcow inject-error pool --block=50000 --no-notify");
  auto status = nlohmann::json::parse(tools.run("daxcow inject-error pool --status --json").out).at("badblocks");
  CHECK(status == nlohmann::json::parse(R"([{"block":40000,"count":8},{"block":50000,"count":1}])"));
  CHECK(read_text(tools.path("pool.badblocks")) == "40000 8\n");
  check_works(tools, "daxcow inject-error pool -d -B 50000 -n 1");
  CHECK(nlohmann::json::parse(tools.run("daxcow inject-error pool -t --json").out).at("badblocks").size() == 1);
  check_refused(tools, "daxcow inject-error pool", 2, "--block is missing");
  check_refused(tools, "daxcow inject-error pool -B 65536", 1, "beyond the end");
  check_refused(tools, "daxcow inject-error pool -B 0 -n 65537", 1, "beyond the end");
  check_refused(tools, "daxcow inject-error pool -B x", 2, "x");
  check_refused(tools, "daxcow inject-error pool -B 0 -n 0", 2, "--count");
  check_refused(tools, "daxcow inject-error pool -t -B 0", 2, "--status");
  check_refused(tools, "daxcow inject-error none -B 0", 1, "none");
}

TEST_CASE("Poison in free space is cleared by the next program that may write") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  check_works(tools, "daxcow inject-error pool -B 40000 -n 8");
  CHECK(tools.run("daxcow settle pool").exit_code == 0);  // and says what it did
  check_works(tools, "daxcow inject-error pool -t", "nothing");
  check_works(tools, "daxcow poison list pool", "no bad blocks");
  check_works(tools, "fsck.daxcow pool", "clean");
}

TEST_CASE("daxcow explains itself") {
  Tools tools;
  check_works(tools, "daxcow --help", "inject-error");
  check_works(tools, "daxcow --version", "daxcow ");
  check_works(tools, "mkfs.daxcow --help", "--size");
  check_works(tools, "fsck.daxcow --version", "fsck.daxcow");
  for (const std::string name :
       {"volume create", "volume list", "volume delete", "volume rollback", "snapshot", "clone", "map", "owners",
        "poison list", "rescue", "scrub", "inject-error", "events", "stat", "metrics", "settle"})
    check_works(tools, "daxcow " + name + " --help", "Usage: daxcow " + name);
  CHECK(tools.run("daxcow").exit_code == 2);
  CHECK(tools.run("daxcow frobnicate").exit_code == 2);
  CHECK(tools.run("daxcow volume").exit_code == 2);
  CHECK(tools.run("daxcow volume frobnicate").exit_code == 2);
  check_refused(tools, "fsck.daxcow", 16, "POOL is missing");
  check_refused(tools, "fsck.daxcow -n -y pool", 16, "excludes");
}

TEST_CASE("What needs a mount says so") {
  Tools tools;
  check_works(tools, "mkfs.daxcow --size 32M pool");
  REQUIRE(tools.run("echo text >file").exit_code == 0);
  check_refused(tools, "daxcow events pool", 1, "not mounted");
  check_refused(tools, "daxcow map file", 1, "not on a daxcow mount");
  check_refused(tools, "daxcow map missing", 1, "missing");
  check_refused(tools, "daxcow clone file copy", 1, "not on a daxcow mount");
  check_refused(tools, "daxcow clone missing copy", 1, "missing");
  CHECK(access(tools.path("copy").c_str(), F_OK) != 0);
}

}  // namespace
}  // namespace daxcow::test
