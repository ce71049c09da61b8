/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the testbed's agent speaks. The agent is process 1 of the emulated host; it runs commands,
 * moves files and reports over one virtio-serial port. It is static, needs no library and keeps
 * no state on disk.
 *
 * Frames. Both ways: 12 bytes of header, then `len` bytes of payload, all little endian:
 *
 *	u32 len		payload bytes, at most FRAME_MAX
 *	u32 type	below
 *	u32 id		the job or the request; the sender of RUN, PUT and GET chooses it
 *
 * Host to agent:
 *	HELLO	u64 wall clock in ns, 32 random bytes	answered by HELLO
 *	RUN	struct run_head, u32 groups[ngroups], then NUL-terminated strings: working folder,
 *		argc arguments, envc NAME=VALUE		answered by STDOUT, STDERR, then EXIT
 *	STDIN	bytes; empty means end of file		answered by STDIN_ACK when taken by the
 *		command. At most STDIN_WINDOW bytes may be on their way unacknowledged.
 *	KILL	u32 signal, u32 scope (0 the command, 1 everything it started)
 *	PUT	u32 mode, u32 flags (1 first part, 2 last part), u64 length, path: the part's bytes
 *		lie in the window					answered by DONE
 *	GET	u64 offset, u64 length, path: the bytes come in the window	answered by DONE
 * Agent to host:
 *	READY	sent once, when the agent starts (a restored host does not send it again)
 *	HELLO	the kernel's release
 *	STDOUT, STDERR	bytes
 *	STDIN_ACK	u32 count of bytes
 *	EXIT	struct exit_report, sent when the command and everything it started is gone
 *	DONE	u32 errno, u32 mode, u64 bytes moved, u64 size of the file
 *
 * The window is the BAR of an ivshmem device: memory shared with the process that runs the
 * emulator, so that a file moves at the speed of a copy and not of a serial port.
 *
 * When the host's end of the port closes the machine powers off; when the agent dies, process 1
 * is gone, the kernel panics and the emulator ends: both are noticed at once on the other side.
 */
#pragma once

#include <stdint.h>

#define FRAME_MAX    (64u << 10)
#define STDIN_WINDOW (256u << 10)

enum frame_type {
	F_HELLO = 1,
	F_RUN = 2,
	F_STDIN = 3,
	F_KILL = 4,
	F_PUT = 5,
	F_GET = 6,
	F_READY = 16,
	F_STDOUT = 17,
	F_STDERR = 18,
	F_STDIN_ACK = 19,
	F_EXIT = 20,
	F_DONE = 21,
};

struct frame_head {
	uint32_t len;
	uint32_t type;
	uint32_t id;
};
_Static_assert(sizeof(struct frame_head) == 12, "wire format");

struct run_head {
	uint32_t uid;
	uint32_t gid;
	uint32_t ngroups;
	uint32_t argc;
	uint32_t envc;
	uint32_t spread; /* 0: on the last of the host's CPUs only */
};
_Static_assert(sizeof(struct run_head) == 24, "wire format");

struct exit_report {
	uint32_t wait_status;
	uint32_t leftovers; /* descendants that outlived the command and were killed */
	uint64_t duration_ns;
	uint64_t user_us;
	uint64_t system_us;
	uint64_t maxrss_kib;
};
_Static_assert(sizeof(struct exit_report) == 40, "wire format");

struct done_report {
	uint32_t error;
	uint32_t mode;
	uint64_t moved_bytes;
	uint64_t size_bytes;
};
_Static_assert(sizeof(struct done_report) == 24, "wire format");
