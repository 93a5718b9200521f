// The engine's answers as JSON, with the fields that fuse/control_commands.h lists.
#pragma once

#include <nlohmann/json.hpp>

#include "engine/health.h"
#include "engine/patrol.h"
#include "engine/pool.h"
#include "engine/space_usage.h"
#include "engine/survey.h"

namespace daxcow {

nlohmann::json to_json(const Timestamp& time);
nlohmann::json to_json(const VolumeInfo& volume);
nlohmann::json to_json(const Owner& owner);
nlohmann::json to_json(const BlockReport& report);
nlohmann::json to_json(const MediumInfo& medium);
nlohmann::json to_json(const ShutdownReport& shutdown);
nlohmann::json to_json(const PoolStatistics& statistics);
nlohmann::json to_json(const PoolHealth& health);
nlohmann::json to_json(const ScrubStatus& status);
nlohmann::json to_json(const PoolSurvey& survey);
nlohmann::json to_json(const Event& event);
nlohmann::json to_json(const FileExtent& extent);
nlohmann::json to_json(const SpaceUsage& usage);

}  // namespace daxcow
