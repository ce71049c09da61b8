/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console output and small helpers of the guest's init. The program is freestanding (the kernel's
 * nolibc) and single-threaded; these functions are the only ones that write to the console.
 */
#ifndef KVICK_INIT_OUT_H
#define KVICK_INIT_OUT_H

/* Room for the reason of a failed command, terminating zero included. */
#define WHY_BYTES 160

/*
 * Writes one line to the console with a single write, so that kernel messages do not split it.
 * Understands %s, %lu, %lx, %ld and %% only; a line longer than 511 bytes is cut.
 * Context: init or one of its children.
 */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Writes all of len bytes to fd, going on after short writes.
 * Returns: 0; a negative errno of write(2).
 */
long write_all(int fd, const char *buf, unsigned long len);

/*
 * Makes the reason of a failed command: "WHAT: ERROR", or WHAT alone when err is 0.
 * why: WHY_BYTES bytes; what: any text, cut to fit; err: a negative errno, or 0.
 * Returns: -1 always, so that a command can end with it.
 */
int fail(char *why, const char *what, long err);

/*
 * Reads the beginning of a file into buf as a string.
 * size: of buf, at least 1; longer files are cut to size - 1 bytes.
 * Returns: the length; a negative errno of open(2) or read(2).
 */
long read_text(const char *path, char *buf, unsigned long size);

/*
 * Parses a whole string as an unsigned number, decimal or 0x hexadecimal.
 * Returns: 0; -22 (EINVAL) when it is empty, has other characters or overflows. *ret is set on 0.
 */
int parse_num(const char *s, unsigned long *ret);

/*
 * Returns: nanoseconds of a clock (CLOCK_MONOTONIC, ...); 0 when the kernel does not know it.
 */
unsigned long clock_ns(int clock);

#endif
