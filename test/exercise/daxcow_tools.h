// The command line of daxcow: what an exerciser does to a whole volume.
#pragma once

#include <string>
#include <vector>

#include "test/exercise/options.h"

namespace daxcow::exercise {

class DaxcowTools {
 public:
  explicit DaxcowTools(const Options& options) : options_(options) {}

  // Each throws Failure with what the command says if it fails.
  void clone(const std::string& from, const std::string& to) const;
  void snapshot(const std::string& name, bool read_only) const;
  void delete_volume(const std::string& pool, const std::string& name) const;
  void mount(const std::string& pool, const std::string& volume, const std::string& directory, bool read_only) const;
  void unmount(const std::string& directory) const;

 private:
  void run(const std::string& program, std::vector<std::string> arguments) const;

  const Options& options_;
};

}  // namespace daxcow::exercise
