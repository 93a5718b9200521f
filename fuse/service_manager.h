// What systemd, or who else has started this process and listens at $NOTIFY_SOCKET, is told (sd_notify(3)), and whether
// standard error leads to its journal.
#pragma once

namespace daxcow {

// `state`: "READY=1", "STOPPING=1". Nothing happens where nobody listens.
void tell_service_manager(const char* state);

// Whether standard error is a stream of the journal, which would keep lines there without their level.
bool stderr_is_journal();

}  // namespace daxcow
