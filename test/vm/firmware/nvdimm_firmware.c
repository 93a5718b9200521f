// SPDX-License-Identifier: GPL-2.0
/*
 * The part of an NVDIMM platform's firmware that QEMU leaves out: address range scrub, clearing of errors, and error
 * injection, which `ndctl inject-error` and the kernel's nfit driver ask for through the _DSM method of the NVDIMM root
 * device (ACPI 6.4, 9.20.7).
 *
 * A probe at the entry of acpi_evaluate_dsm() and acpi_check_dsm() diverts the calls that carry the root device's UUID to
 * the functions below; all other calls go on undisturbed. Everything above them (nfit, libnvdimm, the drivers, ndctl) is
 * the distribution's. Must be loaded before nfit, which asks once which functions there are.
 *
 * Nothing here makes memory unreadable: what is bad is so because the platform says it.
 */
#include <linux/acpi.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/ndctl.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

/* The function numbers of the root device's _DSM. */
enum {
	DSM_QUERY = 0,
	DSM_SCRUB_CAPABILITY = 1,
	DSM_SCRUB_START = 2,
	DSM_SCRUB_STATUS = 3,
	DSM_CLEAR_ERROR = 4,
	DSM_INJECT = 7,
	DSM_INJECT_CLEAR = 8,
	DSM_INJECT_STATUS = 9,
};
#define SUPPORTED                                                                                                      \
	(BIT(DSM_QUERY) | BIT(DSM_SCRUB_CAPABILITY) | BIT(DSM_SCRUB_START) | BIT(DSM_SCRUB_STATUS) |                   \
	 BIT(DSM_CLEAR_ERROR) | BIT(DSM_INJECT) | BIT(DSM_INJECT_CLEAR) | BIT(DSM_INJECT_STATUS))

#define REPLY_BYTES 4096
#define CLEAR_UNIT_BYTES 256
#define STATUS_INVALID_INPUT 2
#define STATUS_NO_SCRUB_YET (2 << 16)
#define NOTIFY_UNCORRECTABLE_ERROR 0x81
#define MAX_STRETCHES 128

struct stretch {
	u64 start, end;
};
struct stretch_list {
	struct stretch range[MAX_STRETCHES];
	unsigned int count;
};

struct inject_input {
	u64 address, length;
	u8 options; /* bit 0: tell the operating system */
} __packed;
struct inject_status {
	u32 status, count;
	struct {
		u64 address, length;
	} __packed record[];
} __packed;

static guid_t root_uuid;
static acpi_handle root_device;
static DEFINE_SPINLOCK(lock);
static struct stretch_list bad;               /* what the modules have */
static struct stretch_list found;             /* what the last scrub found */
static struct stretch scrubbed;
static bool scrub_was_run;

static void add_stretch(struct stretch_list *list, u64 start, u64 end)
{
	unsigned int i = 0;

	while (i < list->count) {
		struct stretch *other = &list->range[i];

		if (other->end < start || other->start > end) {
			i++;
			continue;
		}
		start = min(start, other->start);
		end = max(end, other->end);
		*other = list->range[--list->count];
		i = 0;
	}
	if (list->count < MAX_STRETCHES)
		list->range[list->count++] = (struct stretch){ start, end };
}

static void remove_stretch(struct stretch_list *list, u64 start, u64 end)
{
	struct stretch_list left = { .count = 0 };
	unsigned int i;

	for (i = 0; i < list->count; i++) {
		struct stretch one = list->range[i];

		if (one.start < min(start, one.end))
			add_stretch(&left, one.start, min(start, one.end));
		if (one.end > max(end, one.start))
			add_stretch(&left, max(end, one.start), one.end);
	}
	*list = left;
}

extern void __acpi_nfit_notify(struct device *dev, acpi_handle handle, u32 event);

/* The interrupt of the platform: the nfit driver scrubs. It is not there yet when this module is loaded. */
static void notify(struct work_struct *work)
{
	void (*handler)(struct device *, acpi_handle, u32) = symbol_get(__acpi_nfit_notify);
	struct acpi_device *device = acpi_fetch_acpi_dev(root_device);

	if (handler && device) {
		device_lock(&device->dev);
		handler(&device->dev, root_device, NOTIFY_UNCORRECTABLE_ERROR);
		device_unlock(&device->dev);
	}
	if (handler)
		symbol_put(__acpi_nfit_notify);
}
static DECLARE_WORK(notify_work, notify);

/* Each writes a reply and returns its length; 0 means that the input made no sense. */

static u32 scrub_capability(void *reply)
{
	/* The input comes first in the structure that user space knows, and is not part of the reply. */
	const size_t input = offsetof(struct nd_cmd_ars_cap, status);
	struct nd_cmd_ars_cap capability = {
		.status = (ND_ARS_PERSISTENT | ND_ARS_VOLATILE) << 16,
		.max_ars_out = REPLY_BYTES,
		.clear_err_unit = CLEAR_UNIT_BYTES,
	};

	memcpy(reply, (u8 *)&capability + input, sizeof(capability) - input);
	return sizeof(capability) - input;
}

static u32 scrub_start(const struct nd_cmd_ars_start *input, u32 input_bytes, u32 *reply)
{
	unsigned int i;

	if (input_bytes < 2 * sizeof(u64))
		return 0;
	scrubbed = (struct stretch){ input->address, input->address + input->length };
	found.count = 0;
	for (i = 0; i < bad.count; i++) {
		u64 start = max(bad.range[i].start, scrubbed.start), end = min(bad.range[i].end, scrubbed.end);

		if (start < end)
			add_stretch(&found, start, end);
	}
	scrub_was_run = true;
	reply[0] = 0;
	reply[1] = 1; /* seconds that it will take */
	return 8;
}

static u32 scrub_status(struct nd_cmd_ars_status *reply)
{
	unsigned int i;

	reply->out_length = sizeof(*reply);
	if (!scrub_was_run) {
		reply->status = STATUS_NO_SCRUB_YET;
		return reply->out_length;
	}
	reply->address = scrubbed.start;
	reply->length = scrubbed.end - scrubbed.start;
	reply->type = ND_ARS_PERSISTENT;
	reply->num_records = found.count;
	for (i = 0; i < found.count; i++) {
		reply->records[i].err_address = found.range[i].start;
		reply->records[i].length = found.range[i].end - found.range[i].start;
	}
	reply->out_length += found.count * sizeof(struct nd_ars_record);
	return reply->out_length;
}

static u32 clear_error(const struct nd_cmd_clear_error *input, u32 input_bytes, struct nd_cmd_clear_error *reply)
{
	const size_t input_part = offsetof(struct nd_cmd_clear_error, status);
	u64 length;

	if (input_bytes < 2 * sizeof(u64))
		return 0;
	length = input->length;
	remove_stretch(&bad, input->address, input->address + length);
	/* The reply: status, reserved, cleared. */
	memcpy((u8 *)reply + offsetof(struct nd_cmd_clear_error, cleared) - input_part, &length, sizeof(length));
	return sizeof(*input) - input_part;
}

static u32 inject(const struct inject_input *input, u32 input_bytes)
{
	if (input_bytes < sizeof(*input))
		return 0;
	add_stretch(&bad, input->address, input->address + input->length);
	if (input->options & 1)
		schedule_work(&notify_work);
	return 4;
}

static u32 inject_clear(const struct inject_input *input, u32 input_bytes)
{
	if (input_bytes < offsetof(struct inject_input, options))
		return 0;
	remove_stretch(&bad, input->address, input->address + input->length);
	return 4;
}

static u32 inject_status(struct inject_status *reply)
{
	unsigned int i;

	reply->count = bad.count;
	for (i = 0; i < bad.count; i++) {
		reply->record[i].address = bad.range[i].start;
		reply->record[i].length = bad.range[i].end - bad.range[i].start;
	}
	return struct_size(reply, record, bad.count);
}

/* Instead of acpi_evaluate_dsm(); the caller frees what it returns, as one piece. */
static union acpi_object *evaluate(acpi_handle handle, const guid_t *uuid, u64 revision, u64 function,
				   union acpi_object *arguments)
{
	union acpi_object *object = kzalloc(sizeof(*object) + REPLY_BYTES, GFP_KERNEL);
	void *reply = object + 1;
	void *input = NULL;
	u32 input_bytes = 0, length = 0;

	if (!object)
		return NULL;
	if (arguments && arguments->type == ACPI_TYPE_PACKAGE && arguments->package.count == 1 &&
	    arguments->package.elements[0].type == ACPI_TYPE_BUFFER) {
		input = arguments->package.elements[0].buffer.pointer;
		input_bytes = arguments->package.elements[0].buffer.length;
	}
	root_device = handle;

	spin_lock(&lock);
	switch (function) {
	case DSM_QUERY:
		*(u32 *)reply = SUPPORTED;
		length = 4;
		break;
	case DSM_SCRUB_CAPABILITY:
		length = scrub_capability(reply);
		break;
	case DSM_SCRUB_START:
		length = scrub_start(input, input_bytes, reply);
		break;
	case DSM_SCRUB_STATUS:
		length = scrub_status(reply);
		break;
	case DSM_CLEAR_ERROR:
		length = clear_error(input, input_bytes, reply);
		break;
	case DSM_INJECT:
		length = inject(input, input_bytes);
		break;
	case DSM_INJECT_CLEAR:
		length = inject_clear(input, input_bytes);
		break;
	case DSM_INJECT_STATUS:
		length = inject_status(reply);
		break;
	}
	spin_unlock(&lock);

	if (length == 0) {
		*(u32 *)reply = STATUS_INVALID_INPUT;
		length = 4;
	}
	object->type = ACPI_TYPE_BUFFER;
	object->buffer.pointer = reply;
	object->buffer.length = length;
	return object;
}

/* Instead of acpi_check_dsm(). */
static bool check(acpi_handle handle, const guid_t *uuid, u64 revision, u64 functions)
{
	return (functions & SUPPORTED) == functions;
}

/* At the entry of a function: its arguments are in registers, so going on elsewhere is as if that had been called. */
static int __kprobes divert(struct pt_regs *registers, void *to)
{
	if (!guid_equal((const guid_t *)regs_get_kernel_argument(registers, 1), &root_uuid))
		return 0;
	instruction_pointer_set(registers, (unsigned long)to);
	return 1;
}
static int __kprobes before_evaluate(struct kprobe *probe, struct pt_regs *registers)
{
	return divert(registers, evaluate);
}
static int __kprobes before_check(struct kprobe *probe, struct pt_regs *registers)
{
	return divert(registers, check);
}
static struct kprobe evaluate_probe = { .symbol_name = "acpi_evaluate_dsm", .pre_handler = before_evaluate };
static struct kprobe check_probe = { .symbol_name = "acpi_check_dsm", .pre_handler = before_check };

static int __init firmware_init(void)
{
	int error = guid_parse("2f10e7a4-9e91-11e4-89d3-123b93f75cba", &root_uuid);

	if (!error)
		error = register_kprobe(&evaluate_probe);
	if (!error) {
		error = register_kprobe(&check_probe);
		if (error)
			unregister_kprobe(&evaluate_probe);
	}
	return error;
}

static void __exit firmware_exit(void)
{
	unregister_kprobe(&check_probe);
	unregister_kprobe(&evaluate_probe);
	cancel_work_sync(&notify_work);
}

module_init(firmware_init);
module_exit(firmware_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Address range scrub and error injection for emulated NVDIMMs");
