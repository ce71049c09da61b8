/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands of the guest's init. README.md in guest/ lists them for users.
 */
#ifndef KVICK_INIT_CMD_H
#define KVICK_INIT_CMD_H

#define CMD_MAX_ARGS 32

/*
 * A command: argv[0] is its name, argc at least 1. It prints its result itself.
 * Returns: 0; -1 with the reason in why (WHY_BYTES bytes, see fail()).
 */
typedef int (*cmd_fn)(int argc, char **argv, char *why);

/*
 * Looks a command up by name.
 * Returns: the function; NULL when there is none of that name.
 */
cmd_fn cmd_find(const char *name);

/*
 * Fills memory with a pattern and reads it back ("memtest [MIB|all]"); a cmd_fn.
 * It works in a child, the first to go when memory runs out: init must survive that.
 */
int cmd_memtest(int argc, char **argv, char *why);

/*
 * "memwait LOW HIGH": waits until MemTotal is from LOW to HIGH MiB, for five minutes at most; a
 * cmd_fn.
 */
int cmd_memwait(int argc, char **argv, char *why);

/*
 * "memwork MIB" begins to write patterns to fresh memory and to check them, over and over, in a
 * child; "memwork stop" ends that and tells how often it was done; a cmd_fn.
 */
int cmd_memwork(int argc, char **argv, char *why);

/*
 * "read FILE BYTES": reads so many bytes, or to the end, and tells how many there were and how many
 * different ones; a cmd_fn.
 */
int cmd_read(int argc, char **argv, char *why);

/*
 * "fill|verify FILE OFFSET BYTES SEED": writes a pattern and waits until it is stored, or reads it
 * back past the page cache; cmd_fns. The pattern depends on place and seed.
 */
int cmd_fill(int argc, char **argv, char *why);
int cmd_verify(int argc, char **argv, char *why);

/*
 * "acks FILE OFFSET BYTES SEED": writes the same pattern 4 KiB at a time, waits each time until it
 * is stored, and says so; a cmd_fn.
 */
int cmd_acks(int argc, char **argv, char *why);

/*
 * "io FILE read|write BLOCK DEPTH COUNT": COUNT requests of BLOCK bytes past the page cache, DEPTH
 * under way at a time, and how long they took; a cmd_fn.
 */
int cmd_io(int argc, char **argv, char *why);

/*
 * "stream send|receive ADDRESS PORT BLOCK COUNT": COUNT blocks of BLOCK bytes by TCP to or from a
 * server of kvick bench's, and how long they took; a cmd_fn.
 */
int cmd_stream(int argc, char **argv, char *why);

/*
 * "kexec KERNEL INITRD CMDLINE": starts another kernel, whose command line the third file holds; a
 * cmd_fn that returns only when that fails.
 */
int cmd_kexec(int argc, char **argv, char *why);

/*
 * Makes the ports 0 to 0xffff usable and writes a byte to one.
 * Returns: 0; the negative errno of iopl(2) and, failing that, of /dev/port.
 */
long port_write(unsigned short port, unsigned char byte);

/*
 * Runs a program in a child and waits for it. With terminal set the child leads a new session
 * whose controlling terminal is the console.
 * Returns: 0 when it exited with 0; -1 with the reason in why.
 */
int run_program(char **argv, int terminal, char *why);

#endif
