#include "engine/leaf_index.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <random>

#include "test/catch.h"
#include "test/seed.h"

namespace daxcow {
namespace {

using Model = std::map<RecordKey, LeafSummary>;

std::optional<LeafSummary> value(const Model& model, Model::const_iterator at) {
  return at == model.end() ? std::nullopt : std::optional(at->second);
}
std::optional<LeafSummary> previous(const Model& model, Model::const_iterator at) {
  return at == model.begin() ? std::nullopt : std::optional(std::prev(at)->second);
}

// Keys with few different first blocks: many leaves then differ in the source only.
RecordKey random_key(std::mt19937_64& random) {
  return {.first = random() % 500, .source = random() % 500, .slot = static_cast<std::uint16_t>(random() % 4)};
}

void compare(const LeafIndex& index, const Model& model, std::mt19937_64& random) {
  REQUIRE(index.size() == model.size());
  for (int i = 0; i < 20; ++i) {
    const RecordKey key = random_key(random);
    const auto owner = previous(model, model.upper_bound(key));
    REQUIRE(index.owner(key) == (owner ? owner : value(model, model.begin())));
    REQUIRE(index.before(key) == previous(model, model.lower_bound(key)));
    REQUIRE(index.after(key) == value(model, model.upper_bound(key)));

    const std::uint64_t low = random() % 520;
    const std::uint64_t high = low + random() % 20;
    std::optional<RecordKey> after;
    if (random() % 2 == 0) after = random_key(random);
    for (int steps = 0; steps < 5; ++steps) {
      const auto expected =
          std::find_if(after ? model.upper_bound(*after) : model.begin(), model.end(),
                       [&](const auto& item) { return item.second.end > low && item.first.first < high; });
      REQUIRE(index.next_reaching(after, low, high) == value(model, expected));
      if (expected == model.end()) break;
      after = expected->first;
    }
  }
}

TEST_CASE("leaf index: nothing is found in an empty one") {
  LeafIndex index;
  CHECK_FALSE(index.owner({}));
  CHECK_FALSE(index.before({.first = 1}));
  CHECK_FALSE(index.after({}));
  CHECK_FALSE(index.next_reaching({}, 0, 100));
  index.verify();
}

TEST_CASE("leaf index: a dropped first leaf leaves an empty index") {
  LeafIndex index;
  index.insert({.smallest = {.first = 5}, .end = 9, .leaf = BlockNumber(1), .count = 1, .last_slot = 0});
  CHECK(index.owner({}));
  index.drop();
  CHECK_FALSE(index.owner({}));
  CHECK(index.size() == 0);
}

TEST_CASE("leaf index: behaves as an ordered map under random use, with changes kept and dropped") {
  const std::uint64_t seed = test::random_seed();
  INFO(test::describe_seed(seed));
  std::mt19937_64 random(seed);
  LeafIndex index;
  Model model;
  std::uint64_t next_block = 1;
  for (int transaction = 0; transaction < 600; ++transaction) {
    const bool grows = transaction / 150 % 2 == 0;  // up to three levels and down again, twice
    Model changed = model;
    const int changes = 1 + static_cast<int>(random() % 250);
    for (int i = 0; i < changes; ++i) {
      const RecordKey key = random_key(random);
      const auto at = changed.lower_bound(key);
      const unsigned dice = random() % 10;
      if (dice < (grows ? 7u : 1u)) {
        if (at != changed.end() && at->first == key) continue;
        const LeafSummary leaf{.smallest = key,
                               .end = key.first + 1 + (random() % 50 == 0 ? random() % 300 : random() % 4),
                               .leaf = BlockNumber(next_block++),
                               .count = static_cast<std::uint16_t>(random() % 126),
                               .last_slot = 3};
        index.insert(leaf);
        changed.emplace(key, leaf);
      } else if (at == changed.end()) {
        continue;
      } else if (dice < 8) {
        index.erase(at->second);
        changed.erase(at);
      } else {
        const LeafSummary from = at->second;
        LeafSummary to = from;
        to.end = key.first + 1 + random() % 10;
        ++to.count;
        // A smaller key, or a larger one short of the next leaf's.
        const RecordKey larger = {.first = from.smallest.first, .source = from.smallest.source, .slot = 100};
        const auto next = std::next(at);
        if (random() % 2 == 0)
          to.smallest = key;
        else if (next == changed.end() || larger < next->first)
          to.smallest = larger;
        index.update(from, to);
        changed.erase(at);
        changed.emplace(to.smallest, to);
      }
    }
    if (random() % 3 == 0) {
      index.drop();
    } else {
      index.keep();
      model = changed;
    }
    index.verify();
    compare(index, model, random);
  }
}

}  // namespace
}  // namespace daxcow
