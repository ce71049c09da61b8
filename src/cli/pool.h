/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_POOL_H
#define KV_CLI_POOL_H

/* `kvick pool serve`. @argv[0] is the verb. Returns the exit status of the process. */
int pool_serve_run(int argc, char **argv);

#endif
