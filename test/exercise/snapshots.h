// Snapshots of the volume that a process works in: each must show the world as it was, now and later, whatever happens to the
// volume meanwhile; and what happens in the snapshot must not show in the volume.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "test/exercise/context.h"
#include "test/exercise/daxcow_tools.h"
#include "test/exercise/world.h"

namespace daxcow::exercise {

class Snapshots {
 public:
  // `step` does one operation in a world. Mount points are made in a temporary directory.
  Snapshots(Context& context, std::function<void(World&)> step);
  ~Snapshots();
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  // Takes one, looks at it or not, and at the oldest one for the last time when there are too many.
  void take(World& world);
  void end();
  // The world that the current operation is about, if it is a snapshot's.
  const World* current() const { return current_.get(); }

 private:
  struct Taken {
    unsigned number;
    std::string name;
    bool read_only;
    Memory memory;
  };
  void visit(Taken& taken);
  void finish_oldest();

  static constexpr std::size_t kMostKept = 3;

  Context& context_;
  const std::function<void(World&)> step_;
  const DaxcowTools tools_;
  std::string place_;
  std::deque<Taken> kept_;
  std::unique_ptr<World> current_;
  std::string subdirectory_;
  unsigned count_ = 0;
};

}  // namespace daxcow::exercise
