// Volume::reflink(), the tickets that lead to it, and the request of the proposed protocol extension, on DRAM.
#include <linux/fuse.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "engine/format.h"
#include "engine/medium_dram.h"
#include "engine/pool.h"
#include "engine/space_usage.h"
#include "fuse/reflink_sources.h"
#include "fuse/remap_request.h"
#include "test/catch.h"
#include "tools/block_index.h"

namespace daxcow {
namespace {

struct Bench {
  Bench() {
    auto medium = DramMedium::create(64 << 20);
    REQUIRE(medium.has_value());
    dram = static_cast<DramMedium*>(medium->get());
    REQUIRE(Pool::format(**medium, {.label = {}, .progress = {}}).has_value());
    auto opened = Pool::open(std::move(*medium), {.background = false, .log = {}});
    REQUIRE(opened.has_value());
    pool = std::move(*opened);
    volume = *pool->mount("main", false);
  }
  ReflinkFile file(const std::string& name, const std::string& content) {
    const auto made = volume->create(format::kRootInode, name, {.mode = S_IFREG | 0644, .symlink_target = {}});
    REQUIRE(made.has_value());
    if (!content.empty()) REQUIRE(volume->write(made->inode, 0, std::as_bytes(std::span(content))).has_value());
    return {made->inode, made->generation};
  }
  std::string read(InodeNumber inode) {
    std::string data(volume->attributes(inode)->size_bytes, '?');
    REQUIRE(volume->read(inode, 0, std::as_writable_bytes(std::span(data))).has_value());
    return data;
  }
  ErrorCode error_of(const ReflinkFile& from, const ReflinkFile& to, const ReflinkRange& range, ReflinkMode mode) {
    const auto done = volume->reflink(from, *volume, to.inode, range, mode);
    REQUIRE_FALSE(done.has_value());
    return done.error().code;
  }
  std::uint64_t exclusive(InodeNumber inode) { return space_of_trees(*pool, *volume, {&inode, 1})->exclusive_data_blocks; }

  DramMedium* dram = nullptr;
  std::unique_ptr<Pool> pool;
  std::shared_ptr<Volume> volume;
};

std::string text(std::size_t bytes, unsigned seed) {
  std::string content(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) content[i] = static_cast<char>((i / 4096 + 1) * (seed + 7) + i % 251);
  return content;
}

}  // namespace

TEST_CASE("A whole file takes the place of another in one step, whatever that has") {
  Bench bench;
  const std::string content = text(50'000, 1);
  const auto from = bench.file("from", content);
  for (const std::size_t size : {0u, 10u, 50'000u, 49'999u}) {
    const auto to = bench.file("clone" + std::to_string(size), text(size, 2));
    const auto before = bench.pool->statistics()->transactions;
    REQUIRE(bench.volume->reflink(from, *bench.volume, to.inode, {}, ReflinkMode::kClone)->bytes == 50'000);
    CHECK(bench.pool->statistics()->transactions <= before + 2);
    CHECK(bench.read(to.inode) == content);
  }
  const auto larger = bench.file("larger", text(100'000, 3));
  CHECK(bench.error_of(from, larger, {}, ReflinkMode::kClone) == ErrorCode::kInvalid);
  REQUIRE(bench.volume->reflink(from, *bench.volume, larger.inode, {}, ReflinkMode::kReplace)->bytes == 50'000);
  CHECK(bench.read(larger.inode) == content);
  CHECK(bench.error_of(from, from, {}, ReflinkMode::kReplace) == ErrorCode::kInvalid);
}

TEST_CASE("What a file has of itself twice stays apart, whatever of it was copied and what shared") {
  Bench bench;
  const auto bytes_of = [](const std::string& content) { return std::as_bytes(std::span(content)); };
  for (const std::size_t size : {4'196u, 4'096u, 5'000u, 8'292u, 12'388u}) {
    for (const std::size_t from : {0u, 1u, 100u, 4'000u, 4'096u, 4'196u}) {
      for (const std::size_t distance : {4'096u, 8'192u, 12'288u}) {
        if (from >= size) continue;
        const std::size_t length = std::min<std::size_t>(size - from, distance), to = from + distance;
        std::string model = text(size, 5);
        const auto file = bench.file("twice", model);
        INFO(size << " bytes, " << length << " of them from " << from << " to " << to);
        REQUIRE(bench.volume->write(file.inode, 0, bytes_of(model.substr(0, 1))).has_value());  // its memo
        for (std::size_t done = 0; done < length;) {
          const auto step = bench.volume->clone_range(file.inode, from + done, file.inode, to + done, length - done);
          REQUIRE((step.has_value() && *step != 0));
          done += *step;
        }
        model.resize(std::max(model.size(), to + length), '\0');
        std::memmove(model.data() + to, model.data() + from, length);
        REQUIRE(bench.read(file.inode) == model);
        for (std::size_t at = 10; at < model.size(); at += 4'096) {
          model[at] = '!';
          REQUIRE(bench.volume->write(file.inode, at, bytes_of("!")).has_value());
          REQUIRE(bench.read(file.inode) == model);
        }
        REQUIRE(bench.volume->unlink(format::kRootInode, "twice").has_value());
      }
    }
  }
}

TEST_CASE("A source that loses its last reference while it is cloned stays until the end") {
  Bench bench;
  constexpr std::uint64_t kPiece = 4 << 20, kPieces = 128;  // half a gibibyte of the same blocks: hundreds of transactions
  const auto seed = bench.file("seed", std::string(kPiece, 'A'));
  int whole = 0;
  for (int round = 0; round < 12; ++round) {
    const auto from = bench.file("from", {}), to = bench.file("to", {});
    for (std::uint64_t i = 0; i < kPieces; ++i)
      REQUIRE(bench.volume->clone_range(seed.inode, 0, from.inode, i * kPiece, kPiece).value_or(0) == kPiece);
    bench.volume->remember(from.inode);
    REQUIRE(bench.volume->unlink(format::kRootInode, "from").has_value());
    std::atomic<bool> begun = false;
    std::thread other([&] {
      while (!begun) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
      bench.volume->forget(from.inode, 1);
      bench.file("next", std::string(kPiece, 'S'));  // it may get the number
    });
    begun = true;
    const auto done = bench.volume->reflink(from, *bench.volume, to.inode, {0, 4096, kPieces * kPiece}, ReflinkMode::kClone);
    other.join();
    int strange = 0;
    for (std::uint64_t at = 4096; done && at < kPieces * kPiece; at += kPiece / 2) {
      char byte = 0;
      REQUIRE(bench.volume->read(to.inode, at, std::as_writable_bytes(std::span(&byte, 1))).has_value());
      strange += byte != 'A';
    }
    CHECK(strange == 0);
    whole += done.has_value();
    if (!done) CHECK(done.error().code == ErrorCode::kStale);  // it was forgotten before
    for (const char* name : {"to", "next"}) REQUIRE(bench.volume->unlink(format::kRootInode, name).has_value());
    bench.pool->settle();
    CHECK_FALSE(bench.volume->attributes(from.inode).has_value());
  }
  CHECK(whole > 0);
}

TEST_CASE("A source that has become another file is not cloned") {
  Bench bench;
  auto from = bench.file("from", text(5000, 1));
  const auto to = bench.file("to", "");
  ++from.generation;
  CHECK(bench.error_of(from, to, {}, ReflinkMode::kClone) == ErrorCode::kStale);
  CHECK(bench.read(to.inode).empty());
}

TEST_CASE("Deduplication shares what is equal, leaves alone what is not, and moves no time") {
  Bench bench;
  const std::string content = text(40'000, 1);
  std::string other = content;
  other[20'000] ^= 1;
  const auto one = bench.file("one", content), twin = bench.file("twin", content), differs = bench.file("differs", other);
  const auto before = bench.volume->attributes(twin.inode);
  CHECK(bench.exclusive(twin.inode) == 10);
  const auto compared = bench.volume->reflink(one, *bench.volume, twin.inode, {0, 0, 40'000}, ReflinkMode::kCompare);
  CHECK(compared->new_bytes == 40'000);
  CHECK(bench.exclusive(twin.inode) == 10);
  CHECK(bench.volume->reflink(one, *bench.volume, twin.inode, {0, 0, 40'000}, ReflinkMode::kDedupe)->new_bytes == 40'000);
  CHECK(bench.volume->reflink(one, *bench.volume, twin.inode, {0, 0, 40'000}, ReflinkMode::kDedupe)->new_bytes == 0);
  CHECK(bench.exclusive(twin.inode) == 0);
  CHECK(bench.read(twin.inode) == content);
  const auto after = bench.volume->attributes(twin.inode);
  CHECK(after->modification == before->modification);
  CHECK(after->change == before->change);
  CHECK(bench.error_of(one, differs, {0, 0, 40'000}, ReflinkMode::kDedupe) == ErrorCode::kDifferent);
  CHECK(bench.read(differs.inode) == other);
  // A part that does not reach the end of both ends at a whole block.
  CHECK(bench.volume->reflink(one, *bench.volume, differs.inode, {0, 0, 10'000}, ReflinkMode::kDedupe)->bytes == 8192);
  CHECK(bench.exclusive(differs.inode) == 8);
}

TEST_CASE("What files share only with each other is exclusive to both together") {
  Bench bench;
  const auto a = bench.file("a", text(40'960, 1)), b = bench.file("b", ""), c = bench.file("c", text(8192, 2));
  REQUIRE(bench.volume->reflink(a, *bench.volume, b.inode, {}, ReflinkMode::kClone).has_value());
  const InodeNumber both[] = {a.inode, b.inode}, all[] = {a.inode, b.inode, c.inode};
  CHECK(bench.exclusive(a.inode) == 0);
  CHECK(bench.exclusive(c.inode) == 2);
  const auto pair = space_of_trees(*bench.pool, *bench.volume, both);
  CHECK((pair->data_blocks == 10 && pair->exclusive_data_blocks == 10 && pair->files == 2));
  CHECK(space_of_trees(*bench.pool, *bench.volume, all)->exclusive_data_blocks == 12);
  const InodeNumber root = format::kRootInode;
  CHECK(space_of_trees(*bench.pool, *bench.volume, {&root, 1})->exclusive_data_blocks == 12);
  CHECK(space_of_volume(*bench.pool, bench.volume->number())->exclusive_data_blocks == 12);
  // A further name outside of the set, and a snapshot.
  REQUIRE(bench.volume->link(c.inode, format::kRootInode, "c2").has_value());
  CHECK(bench.exclusive(c.inode) == 0);
  CHECK(space_of_trees(*bench.pool, *bench.volume, {&root, 1})->exclusive_data_blocks == 12);
  REQUIRE(bench.pool->snapshot("main", "kept", true).has_value());
  CHECK(space_of_trees(*bench.pool, *bench.volume, all)->exclusive_data_blocks == 0);
  CHECK(space_of_volume(*bench.pool, bench.volume->number())->data_blocks == 12);
  CHECK(space_of_volume(*bench.pool, bench.volume->number())->exclusive_data_blocks == 0);
  const std::string fresh = text(4096, 9);
  REQUIRE(bench.volume->write(c.inode, 0, std::as_bytes(std::span(fresh))).has_value());
  CHECK(space_of_volume(*bench.pool, bench.volume->number())->exclusive_data_blocks == 1);
}

TEST_CASE("A ticket serves once, for its thread and user, at its daemon, as long as the volume is there") {
  Bench bench;
  const auto from = bench.file("from", "content");
  ReflinkSources sources, others;
  const ReflinkSource source{bench.volume, from.inode, from.generation};
  const ReflinkCaller caller{.thread = 10, .uid = 1000};
  auto ticket = sources.offer(source, caller);
  CHECK(others.take(ticket, caller).error().code == ErrorCode::kCrossVolume);
  CHECK(sources.take(ticket, {.thread = 11, .uid = 1000}).error().code == ErrorCode::kBusy);
  CHECK(sources.take(ticket, {.thread = 10, .uid = 0}).error().code == ErrorCode::kBusy);
  auto forged = ticket;
  ++forged.secret[1];
  CHECK(sources.take(forged, caller).error().code == ErrorCode::kBusy);
  forged = ticket;
  forged.slot = 1 << 20;
  CHECK(sources.take(forged, caller).error().code == ErrorCode::kBusy);
  CHECK(sources.take(ticket, caller)->inode == from.inode);
  CHECK(sources.take(ticket, caller).error().code == ErrorCode::kBusy);
  // Displaced by a flood of others.
  ticket = sources.offer(source, caller);
  for (int i = 0; i < 20'000; ++i) (void)sources.offer(source, {.thread = 12, .uid = 1});
  CHECK(sources.take(ticket, caller).error().code == ErrorCode::kBusy);
  ticket = sources.offer(source, caller);
  const_cast<ReflinkSource&>(source).volume.reset();
  bench.volume.reset();
  CHECK(sources.take(ticket, caller).error().code == ErrorCode::kStale);
}

TEST_CASE("A call whose answer comes later is asked for again, by its caller alone, until it is there") {
  Bench bench;
  const auto from = bench.file("from", "content");
  ReflinkSources sources;
  const ReflinkCaller caller{.thread = 10, .uid = 1000}, other{.thread = 11, .uid = 1000};
  auto ticket = sources.offer({bench.volume, from.inode, from.generation}, caller);
  CHECK(sources.ask_again(ticket, caller).error().code == ErrorCode::kNotFound);  // it stands for no call yet
  CHECK(sources.take(ticket, caller, true)->inode == from.inode);
  CHECK(sources.take(ticket, caller, true).error().code == ErrorCode::kBusy);
  CHECK(sources.take(ticket, caller).error().code == ErrorCode::kBusy);
  CHECK_FALSE(sources.ask_again(ticket, caller).value().has_value());
  CHECK(sources.ask_again(ticket, other).error().code == ErrorCode::kNotFound);
  ReflinkAnswer answer;
  answer.call.done_bytes = 7;
  sources.answer(ticket, answer);
  CHECK(sources.ask_again(ticket, other).error().code == ErrorCode::kNotFound);
  CHECK(sources.ask_again(ticket, caller).value()->call.done_bytes == 7);
  CHECK(sources.ask_again(ticket, caller).error().code == ErrorCode::kNotFound);  // once
  // Displaced meanwhile, by as many offers as there are slots: the caller begins anew, and the answer goes to nobody.
  ticket = sources.offer({bench.volume, from.inode, from.generation}, caller);
  REQUIRE(sources.take(ticket, caller, true).has_value());
  for (int i = 0; i < 20'000; ++i) (void)sources.offer({bench.volume, from.inode, from.generation}, other);
  sources.answer(ticket, answer);
  CHECK(sources.ask_again(ticket, caller).error().code == ErrorCode::kNotFound);
  CHECK(sources.take(ticket, caller, true).error().code == ErrorCode::kBusy);
}

TEST_CASE("The request of the proposed protocol extension clones and deduplicates") {
  Bench bench;
  const std::string content = text(20'000, 1);
  const auto from = bench.file("from", content), to = bench.file("to", ""), twin = bench.file("twin", content);
  MountContext mount;
  mount.volume = bench.volume;
  const auto ask = [&](std::uint64_t source, RemapFileRangeIn in, std::size_t cut = 0) {
    fuse_in_header header{};
    header.opcode = kRemapFileRange;
    header.unique = 77;
    header.nodeid = source;
    std::vector<char> request(sizeof header + sizeof in - cut);
    header.len = static_cast<std::uint32_t>(request.size());
    std::memcpy(request.data(), &header, sizeof header);
    std::memcpy(request.data() + sizeof header, &in, sizeof in - cut);
    REQUIRE(is_remap_request(request));
    const auto reply = answer_remap_request(mount, request);
    fuse_out_header answer;
    REQUIRE(reply.size() >= sizeof answer);
    std::memcpy(&answer, reply.data(), sizeof answer);
    CHECK(answer.len == reply.size());
    CHECK(answer.unique == 77);
    if (answer.error != 0) {
      CHECK(reply.size() == sizeof answer);
      return static_cast<std::int64_t>(answer.error);
    }
    RemapFileRangeOut out;
    REQUIRE(reply.size() == sizeof answer + sizeof out);
    std::memcpy(&out, reply.data() + sizeof answer, sizeof out);
    return static_cast<std::int64_t>(out.bytes);
  };
  RemapFileRangeIn in{};
  in.nodeid_out = to.inode.value;
  CHECK(ask(from.inode.value, in) == 20'000);
  CHECK(bench.read(to.inode) == content);
  in.off_in = 100;
  CHECK(ask(from.inode.value, in) == -EINVAL);
  CHECK(ask(1'000'000, in) == -ESTALE);
  CHECK(ask(from.inode.value, in, 1) == -EINVAL);
  in = {};
  in.nodeid_out = twin.inode.value;
  in.len = 20'000;
  in.flags = kRemapDedupe | kRemapCanShorten;
  CHECK(ask(from.inode.value, in) == 20'000);
  CHECK(bench.exclusive(twin.inode) == 0);
  REQUIRE(bench.volume->write(twin.inode, 5, std::as_bytes(std::span("x", 1))).has_value());
  CHECK(ask(from.inode.value, in) == -EBADE);
  in.flags = 8;
  CHECK(ask(from.inode.value, in) == -EINVAL);
  CHECK_FALSE(is_remap_request({}));
}

TEST_CASE("An index of blocks keeps to its memory, and knows what it says it wants") {
  tools::BlockIndex index(1 << 20);
  constexpr std::uint64_t kBlocks = 300'000;
  std::uint32_t file = 0;
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    if (i % 100 == 0) {
      if (i != 0) index.end_file(file);
      file = index.add_file("file" + std::to_string(i / 100));
    }
    index.add(i * 0x9e3779b97f4a7c15ull ^ i << 7, {file, i});
  }
  CHECK(index.interval() >= 8);
  CHECK(index.interval() <= 64);
  std::uint64_t wanted = 0;
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    const std::uint64_t hash = i * 0x9e3779b97f4a7c15ull ^ i << 7;
    const auto found = index.find(hash);
    REQUIRE(found.has_value() == index.wants(hash));
    if (!found) continue;
    ++wanted;
    REQUIRE(found->block == i);
    REQUIRE(index.path(found->file) == "file" + std::to_string(i / 100));
  }
  CHECK(wanted > 2000);
}

}  // namespace daxcow
