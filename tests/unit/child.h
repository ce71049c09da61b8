/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TESTS_CHILD_H
#define KV_TESTS_CHILD_H

/* What changes limits or users of the process, in processes of its own. */
#include <sys/wait.h>
#include <unistd.h>

/* Runs each of @count @children, which return 0 when all is well, after the other. */
static inline void children_run(int (*const *children)(void), size_t count)
{
	for (size_t i = 0; i < count; i++) {
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (!pid)
			_exit(children[i]());
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

#endif
