/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret, size_t stack_bytes, int signal, void *(*fn)(void *ctx), void *ctx)
{
	sigset_t most, before;
	pthread_attr_t attr;
	int r;

	/* A new thread inherits the mask. */
	sigfillset(&most);
	sigdelset(&most, SIGBUS);
	sigdelset(&most, SIGSEGV);
	if (signal)
		sigdelset(&most, signal);
	pthread_sigmask(SIG_SETMASK, &most, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack_bytes);
	r = pthread_create(ret, &attr, fn, ctx);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}
