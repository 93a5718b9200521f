#include "engine/leaf_index.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "engine/check.h"

namespace daxcow {

namespace {
constexpr unsigned kFanout = 64;
constexpr unsigned kMergedSize = kFanout / 2;   // neighbours that fit into so much become one node
constexpr std::size_t kLogCapacityKept = 4096;  // a larger undo log is given back to the heap
}  // namespace

// An entry stands for a leaf (in a bottom node) or for a child node and everything below it.
struct LeafIndex::Entry {
  RecordKey smallest;
  std::uint64_t end = 0;
  BlockNumber leaf;
  std::uint16_t count = 0;
  std::uint16_t last_slot = 0;
  std::unique_ptr<Node> child;

  static Entry of(const LeafSummary& leaf);
  static Entry of(std::unique_ptr<Node> child);
};

// Entries are kept by column: a search reads keys only, and the search for what reaches beyond a block reads ends only,
// eight to a cache line.
struct LeafIndex::Node {
  explicit Node(bool is_bottom) : bottom(is_bottom) {}

  struct Target {
    std::unique_ptr<Node> child;
    BlockNumber leaf;
    std::uint16_t count = 0;
    std::uint16_t last_slot = 0;
  };

  bool bottom;
  unsigned size = 0;
  std::array<std::uint64_t, kFanout> ends;
  std::array<RecordKey, kFanout> keys;
  std::array<Target, kFanout> targets;

  // Entries whose smallest key is not above `key`, and those below it.
  unsigned count_up_to(const RecordKey& key) const {
    return static_cast<unsigned>(std::upper_bound(keys.begin(), keys.begin() + size, key) - keys.begin());
  }
  unsigned count_below(const RecordKey& key) const {
    return static_cast<unsigned>(std::lower_bound(keys.begin(), keys.begin() + size, key) - keys.begin());
  }

  LeafSummary summary(unsigned i) const {
    return {keys[i], ends[i], targets[i].leaf, targets[i].count, targets[i].last_slot};
  }
  void set(unsigned i, Entry entry) {
    keys[i] = entry.smallest;
    ends[i] = entry.end;
    targets[i] = {std::move(entry.child), entry.leaf, entry.count, entry.last_slot};
  }
  void put(unsigned at, Entry entry) {
    std::move_backward(keys.begin() + at, keys.begin() + size, keys.begin() + size + 1);
    std::move_backward(ends.begin() + at, ends.begin() + size, ends.begin() + size + 1);
    std::move_backward(targets.begin() + at, targets.begin() + size, targets.begin() + size + 1);
    ++size;
    set(at, std::move(entry));
  }
  void remove(unsigned at) {
    std::move(keys.begin() + at + 1, keys.begin() + size, keys.begin() + at);
    std::move(ends.begin() + at + 1, ends.begin() + size, ends.begin() + at);
    std::move(targets.begin() + at + 1, targets.begin() + size, targets.begin() + at);
    --size;
    targets[size] = {};
  }
  void move_tail(unsigned from, Node& to) {
    std::copy(keys.begin() + from, keys.begin() + size, to.keys.begin() + to.size);
    std::copy(ends.begin() + from, ends.begin() + size, to.ends.begin() + to.size);
    std::move(targets.begin() + from, targets.begin() + size, to.targets.begin() + to.size);
    to.size += size - from;
    size = from;
  }

  std::uint64_t highest_end() const { return *std::max_element(ends.begin(), ends.begin() + size); }
  void refresh(unsigned i) {
    keys[i] = targets[i].child->keys[0];
    ends[i] = targets[i].child->highest_end();
  }
};

LeafIndex::Entry LeafIndex::Entry::of(const LeafSummary& leaf) {
  return {leaf.smallest, leaf.end, leaf.leaf, leaf.count, leaf.last_slot, nullptr};
}

LeafIndex::Entry LeafIndex::Entry::of(std::unique_ptr<Node> child) {
  Entry entry{.smallest = child->keys[0], .end = child->highest_end(), .leaf = {}, .child = nullptr};
  entry.child = std::move(child);
  return entry;
}

LeafIndex::LeafIndex() : root_(std::make_unique<Node>(true)) {}
LeafIndex::~LeafIndex() = default;

void LeafIndex::insert(const LeafSummary& leaf) {
  log_.push_back({std::nullopt, leaf});
  apply(log_.back());
}

void LeafIndex::erase(const LeafSummary& leaf) {
  log_.push_back({leaf, std::nullopt});
  apply(log_.back());
}

void LeafIndex::update(const LeafSummary& from, const LeafSummary& to) {
  if (from == to) return;
  log_.push_back({from, to});
  apply(log_.back());
}

void LeafIndex::keep() {
  log_.clear();
  if (log_.capacity() > kLogCapacityKept) log_.shrink_to_fit();
}

void LeafIndex::drop() {
  for (auto change = log_.rbegin(); change != log_.rend(); ++change) apply({change->to, change->from});
  keep();
}

void LeafIndex::apply(const Change& change) {
  if (change.from && change.to) {
    update_below(*root_, *change.from, *change.to);
  } else if (change.to) {
    if (auto sibling = insert_below(*root_, *change.to)) {
      auto old_root = std::exchange(root_, std::make_unique<Node>(false));
      ++node_count_;
      root_->put(0, Entry::of(std::move(old_root)));
      root_->put(1, Entry::of(std::move(sibling)));
    }
    ++size_;
  } else {
    erase_below(*root_, *change.from);
    while (!root_->bottom && root_->size == 1) {
      root_ = std::unique_ptr<Node>(std::move(root_->targets[0].child));
      --node_count_;
    }
    --size_;
  }
}

// Puts an entry into a node. A full node is split, and the new right sibling returned.
std::unique_ptr<LeafIndex::Node> LeafIndex::place(Node& node, unsigned at, Entry entry) {
  if (node.size < kFanout) {
    node.put(at, std::move(entry));
    return nullptr;
  }
  auto sibling = std::make_unique<Node>(node.bottom);
  ++node_count_;
  if (at == kFanout) {  // ascending inserts, as at open, leave full nodes behind
    sibling->put(0, std::move(entry));
    return sibling;
  }
  node.move_tail(kFanout / 2, *sibling);
  if (at <= node.size)
    node.put(at, std::move(entry));
  else
    sibling->put(at - node.size, std::move(entry));
  return sibling;
}

std::unique_ptr<LeafIndex::Node> LeafIndex::insert_below(Node& node, const LeafSummary& leaf) {
  const unsigned at = node.count_up_to(leaf.smallest);
  if (node.bottom) {
    CHECK(at == 0 || node.keys[at - 1] != leaf.smallest);
    return place(node, at, Entry::of(leaf));
  }
  const unsigned child = at > 0 ? at - 1 : 0;
  auto sibling = insert_below(*node.targets[child].child, leaf);
  node.refresh(child);
  return sibling ? place(node, child + 1, Entry::of(std::move(sibling))) : nullptr;
}

void LeafIndex::erase_below(Node& node, const LeafSummary& leaf) {
  const unsigned up_to = node.count_up_to(leaf.smallest);
  CHECK(up_to > 0);
  const unsigned at = up_to - 1;
  if (node.bottom) {
    CHECK(node.keys[at] == leaf.smallest && node.targets[at].leaf == leaf.leaf);
    node.remove(at);
    return;
  }
  erase_below(*node.targets[at].child, leaf);
  const unsigned left = node.targets[at].child->size;
  if (left == 0) {
    node.remove(at);
    --node_count_;
    return;
  }
  node.refresh(at);
  if (at + 1 < node.size && left + node.targets[at + 1].child->size <= kMergedSize)
    merge_children(node, at);
  else if (at > 0 && left + node.targets[at - 1].child->size <= kMergedSize)
    merge_children(node, at - 1);
}

// Moves all of child left + 1 into child left.
void LeafIndex::merge_children(Node& node, unsigned left) {
  node.targets[left + 1].child->move_tail(0, *node.targets[left].child);
  node.remove(left + 1);
  --node_count_;
  node.refresh(left);
}

void LeafIndex::update_below(Node& node, const LeafSummary& from, const LeafSummary& to) {
  const unsigned up_to = node.count_up_to(from.smallest);
  CHECK(up_to > 0);
  const unsigned at = up_to - 1;
  if (!node.bottom) {
    update_below(*node.targets[at].child, from, to);
    if (from.end != to.end || from.smallest != to.smallest) node.refresh(at);
    return;
  }
  CHECK(node.keys[at] == from.smallest && node.targets[at].leaf == from.leaf);
  CHECK(at == 0 || node.keys[at - 1] < to.smallest);
  CHECK(at + 1 == node.size || to.smallest < node.keys[at + 1]);
  node.set(at, Entry::of(to));
}

std::optional<LeafSummary> LeafIndex::owner(const RecordKey& key) const {
  if (size_ == 0) return std::nullopt;
  const Node* node = root_.get();
  for (;;) {
    const unsigned up_to = node->count_up_to(key);
    const unsigned at = up_to > 0 ? up_to - 1 : 0;
    if (node->bottom) return node->summary(at);
    node = node->targets[at].child.get();
  }
}

std::optional<LeafSummary> LeafIndex::before(const RecordKey& key) const {
  const Node* node = root_.get();
  for (;;) {  // the smallest keys of subtrees are exact, so a child chosen by them holds what is searched
    const unsigned below = node->count_below(key);
    if (below == 0) return std::nullopt;
    if (node->bottom) return node->summary(below - 1);
    node = node->targets[below - 1].child.get();
  }
}

std::optional<LeafSummary> LeafIndex::after(const RecordKey& key) const {
  return reaching_below(*root_, &key, 0, std::numeric_limits<std::uint64_t>::max());
}

std::optional<LeafSummary> LeafIndex::next_reaching(const std::optional<RecordKey>& after, std::uint64_t low,
                                                    std::uint64_t high) const {
  return reaching_below(*root_, after ? &*after : nullptr, low, high);
}

// Only two children of a node can be entered in vain: the one that holds `after` (what reaches beyond `low` may be
// before it) and the last that begins below `high` (what reaches beyond `low` may begin above it). So the whole search
// enters at most two nodes of a level in vain.
std::optional<LeafSummary> LeafIndex::reaching_below(const Node& node, const RecordKey* after, std::uint64_t low,
                                                     std::uint64_t high) {
  unsigned at = 0;
  if (after != nullptr) {
    at = node.count_up_to(*after);
    if (!node.bottom && at > 0) --at;
  }
  for (; at < node.size; ++at) {
    if (node.ends[at] <= low) continue;
    if (node.keys[at].first >= high) return std::nullopt;
    if (node.bottom) return node.summary(at);
    if (auto found = reaching_below(*node.targets[at].child, after, low, high)) return found;
  }
  return std::nullopt;
}

std::size_t LeafIndex::memory_bytes() const { return node_count_ * sizeof(Node) + log_.capacity() * sizeof(Change); }

void LeafIndex::verify() const {
  struct Walk {
    std::size_t leaves = 0;
    std::size_t nodes = 0;
    int bottom_depth = -1;
    std::optional<RecordKey> last;

    void walk(const Node& node, int depth) {
      ++nodes;
      CHECK(node.size <= kFanout);
      if (node.bottom) {
        CHECK(bottom_depth == -1 || bottom_depth == depth);
        bottom_depth = depth;
      }
      for (unsigned i = 0; i < node.size; ++i) {
        if (node.bottom) {
          CHECK(!last || *last < node.keys[i]);
          CHECK(node.targets[i].child == nullptr);
          last = node.keys[i];
          ++leaves;
          continue;
        }
        const Node& child = *node.targets[i].child;
        CHECK(child.size > 0 && child.keys[0] == node.keys[i] && child.highest_end() == node.ends[i]);
        walk(child, depth + 1);
      }
    }
  };
  Walk walk;
  walk.walk(*root_, 0);
  CHECK(walk.leaves == size_ && walk.nodes == node_count_);
}

}  // namespace daxcow
