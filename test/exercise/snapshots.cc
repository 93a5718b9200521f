#include "test/exercise/snapshots.h"

#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include "test/exercise/failure.h"

namespace daxcow::exercise {

Snapshots::Snapshots(Context& context, std::function<void(World&)> step)
    : context_(context), step_(std::move(step)), tools_(context.options), place_("/tmp/daxcow-exercise-XXXXXX") {
  if (mkdtemp(place_.data()) == nullptr) fail_call("making a directory to mount snapshots at");
}

Snapshots::~Snapshots() {
  current_.reset();
  if (rmdir(place_.c_str()) == 0) return;
  umount2(place_.c_str(), MNT_DETACH);  // after a failure
  rmdir(place_.c_str());
}

void Snapshots::take(World& world) {
  subdirectory_ = context_.features.below_mount + world.directory().substr(context_.options.directory.size());
  world.write_stores();  // a FUSE kernel's syncfs begins to write, and does not wait
  const bool read_only = context_.random.one_in(2);
  ++count_;
  Operation operation{.kind = Kind::kSnapshot, .world = count_};
  operation.variant = read_only ? 1 : 0;
  context_.history.add(operation);
  Taken taken{count_, fmt::format("exercise-{}-{}", context_.process, count_), read_only, world.remember()};
  tools_.snapshot(taken.name, read_only);
  kept_.push_back(std::move(taken));
  if (context_.random.one_in(2)) visit(kept_[context_.random.below(kept_.size())]);
  if (kept_.size() > kMostKept) finish_oldest();
}

void Snapshots::end() {
  while (!kept_.empty()) finish_oldest();
}

void Snapshots::finish_oldest() {
  visit(kept_.front());
  tools_.delete_volume(context_.features.pool, kept_.front().name);
  kept_.pop_front();
}

void Snapshots::visit(Taken& taken) {
  tools_.mount(context_.features.pool, taken.name, place_, taken.read_only);
  current_ = std::make_unique<World>(context_, place_ + subdirectory_, taken.number, taken.memory, taken.read_only);
  current_->compare(Kind::kSnapshotCompare);
  if (!taken.read_only) {
    for (auto left = context_.random.between(20, 200); left != 0; --left) step_(*current_);
    current_->compare(Kind::kSnapshotCompare);
    taken.memory = current_->remember();
  }
  current_.reset();
  tools_.unmount(place_);
}

}  // namespace daxcow::exercise
