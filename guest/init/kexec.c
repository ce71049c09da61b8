/* SPDX-License-Identifier: Apache-2.0 */
/* Starting another kernel from this one. */
#include "nolibc.h"
#include <asm/ioctls.h>
#include "out.h"
#include "cmd.h"

#define REBOOT_KEXEC  0x45584543UL /* linux/reboot.h; nolibc lacks it */
#define CMDLINE_BYTES 2048	   /* x86's limit */

static long load(char **argv, char *cmdline)
{
	int kernel = sys_open(argv[1], O_RDONLY, 0);
	int initrd = sys_open(argv[2], O_RDONLY, 0);
	/* It counts the end of the string. No call stands among a system call's arguments. */
	unsigned long bytes = strlen(cmdline) + 1;
	long err = kernel < 0 ? kernel : initrd;

	if (err >= 0)
		err = my_syscall5(__NR_kexec_file_load, kernel, initrd, bytes, cmdline, 0);
	if (kernel >= 0)
		sys_close(kernel);
	if (initrd >= 0)
		sys_close(initrd);
	return err;
}

int cmd_kexec(int argc, char **argv, char *why)
{
	char cmdline[CMDLINE_BYTES];
	char *end;
	long err;

	if (argc != 4)
		return fail(why, "needs KERNEL INITRD CMDLINE", 0);
	err = read_text(argv[3], cmdline, sizeof(cmdline));
	if (err < 0)
		return fail(why, argv[3], err);
	end = strchr(cmdline, '\n');
	if (end)
		*end = 0;
	err = load(argv, cmdline);
	if (err < 0)
		return fail(why, "kexec_file_load", err);
	say("kexec: %s", cmdline);
	my_syscall0(__NR_sync);
	(void)sys_ioctl(STDOUT_FILENO, TCSBRK, (void *)1);
	return fail(why, "reboot",
		sys_reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, REBOOT_KEXEC, NULL));
}
