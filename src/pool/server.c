/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and messages. */
#include "pool/server.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "gmem/host.h"
#include "pool/internal.h"

#define ASK_NS		5000000000ULL /* a connection has this long to get a lease */
#define ACCEPT_NS	100000000ULL
#define CLIENTS_MAX	1024
#define THREADS_MAX	64
#define THREADS_DEFAULT 8
#define CHUNKS_DEFAULT	16
#define NODES_MAX	1024

static void client_drop(struct client *client)
{
	struct pool_server *server = client->server;

	if (client->prev)
		client->prev->next = client->next;
	else
		server->clients = client->next;
	if (client->next)
		client->next->prev = client->prev;
	server->client_count--;
	lease_end(client);
	loop_remove(client->source);
	loop_remove(client->timer);
	close(client->fd);
	free(client);
	leases_serve(server);
}

static int answer(struct client *client, uint16_t type, int error)
{
	struct pool_msg msg = {
		.magic = POOL_MAGIC,
		.version = POOL_VERSION,
		.type = type,
		.error = (uint32_t)-error,
		.bytes = error == -EDQUOT ? client->server->user_bytes
					  : client->server->target * client->server->form.bytes,
		.chunk_bytes = client->server->form.bytes,
		.page_bytes = client->server->form.page_bytes,
	};

	return pool_send(client->fd, &msg, sizeof(msg), NULL, 0);
}

static void client_refuse(struct client *client, int error)
{
	answer(client, POOL_ERROR, error);
	client_drop(client);
}

static void client_late(void *ctx, uint32_t events)
{
	struct client *client = ctx;

	if (!client->fail)
		client->server->total.refused_message++;
	client_refuse(client, client->fail ? client->fail : -ETIMEDOUT);
}

void pool_server_info(struct pool_server *server, struct pool_info *info)
{
	struct store_counts counts;

	store_counts(server->store, &counts);
	*info = server->total;
	info->msg = (struct pool_msg){
		.magic = POOL_MAGIC,
		.version = POOL_VERSION,
		.type = POOL_INFO,
		.bytes = server->target * server->form.bytes,
		.chunk_bytes = server->form.bytes,
		.page_bytes = server->form.page_bytes,
	};
	info->target_chunks = server->target;
	for (unsigned i = 0; i < server->chunk_count; i++) {
		const struct chunk *chunk = server->chunks[i];

		info->free_chunks += chunk->state == CHUNK_FREE;
		info->leased_chunks += chunk->state == CHUNK_LEASED;
		info->missing_chunks += chunk->state == CHUNK_MISSING;
		if (chunk->state == CHUNK_WORK && chunk->job == JOB_FILL)
			info->filling_chunks++;
		else if (chunk->state == CHUNK_WORK)
			info->cleaning_chunks++;
	}
	for (const struct client *c = server->clients; c; c = c->next) {
		info->clients++;
		info->leases += c->held != NULL;
		info->waiting += c->waiting;
	}
	info->threads = server->threads;
	info->pid = (uint64_t)getpid();
	info->cleaned_bytes = counts.cleaned_bytes;
	info->cleaned_ns = counts.cleaned_ns;
	info->renewed_bytes = counts.renewed_bytes;
	info->renewed_ns = counts.renewed_ns;
	info->held_chunks = counts.held_chunks;
	info->verify_failed = counts.verify_failed;
}

/* Can this host hold the pool, with nothing else in its memory? What is taken may come back. */
static int host_check(const struct chunk_form *form, uint64_t size_bytes, struct kv_err *err)
{
	char size[24], page[24];
	long long need = (long long)(size_bytes / form->page_bytes), have;
	struct sysinfo info;

	size_format(form->page_bytes, page, sizeof(page));
	size_format(size_bytes, size, sizeof(size));
	if (form->page_bytes == PAGE_BYTES) {
		uint64_t total, free;

		if (form->node >= 0 && gmem_node_memory((unsigned)form->node, &total, &free) &&
			size_bytes > total)
			return err_set(err, -ENOMEM, "a pool of %s: NUMA node %d has only %llu MiB",
				size, form->node, (unsigned long long)total / MIB);
		if (sysinfo(&info) < 0)
			return -errno;
		if (size_bytes > (uint64_t)info.totalram * info.mem_unit)
			return err_set(err, -ENOMEM, "a pool of %s: the host has only %llu MiB",
				size, (unsigned long long)info.totalram * info.mem_unit / MIB);
		return 0;
	}
	have = chunk_huge_count(form);
	if (have < 0)
		return err_set(err, -EINVAL, "this host has no huge pages of %s%s", page,
			form->node >= 0 ? " on that node" : "");
	if (have < need)
		return chunk_huge_err(form, (uint64_t)(need - have), (uint64_t)need, err);
	return 0;
}

/* Who may change the pool. */
static bool client_rules(const struct client *client)
{
	return client->uid == 0 || client->uid == geteuid();
}

static int size_change(struct client *client, const struct pool_msg *msg)
{
	struct pool_server *server = client->server;
	uint64_t chunks = msg->bytes / server->form.bytes + !!(msg->bytes % server->form.bytes);
	uint64_t target = 0;
	int r = 0;

	if (!client_rules(client))
		return -EPERM;
	if (msg->type == POOL_GROW)
		target = server->target + chunks;
	else if (msg->type == POOL_SHRINK && chunks < server->target)
		target = server->target - chunks;
	/* As much as there is can be waited for, and more can not. */
	if (msg->type == POOL_GROW && target <= POOL_CHUNKS_MAX)
		r = host_check(&server->form, target * server->form.bytes, NULL);
	if (!r)
		r = chunks_resize(server, target);
	if (r < 0)
		return r;
	leases_serve(server);
	return answer(client, POOL_DONE, 0);
}

/* Returns 0, or why the connection ends. */
static int client_request(struct client *client, const struct pool_wrote *request)
{
	const struct pool_msg *msg = &request->msg;
	struct pool_info info;

	switch (msg->type) {
	case POOL_LEASE:
		return lease_ask(client, msg->bytes, msg->flags);
	case POOL_FETCH:
		return lease_fetch(client, msg->index);
	case POOL_WROTE:
		return lease_wrote(client, request);
	case POOL_END:
		client->reported = client->held != NULL;
		return -ESHUTDOWN;
	case POOL_STATUS:
		pool_server_info(client->server, &info);
		return pool_send(client->fd, &info, sizeof(info), NULL, 0);
	case POOL_GROW:
	case POOL_SHRINK:
	case POOL_DRAIN:
		return size_change(client, msg);
	case POOL_QUIET:
		return lease_quiet(client);
	default:
		return -EPROTO;
	}
}

/* Read one packet. Returns its length, 0 at the end, -EBADMSG, -errno. */
static ssize_t packet_read(int fd, struct pool_wrote *packet)
{
	struct iovec iov = {.iov_base = packet, .iov_len = sizeof(*packet)};
	/* Without room for them the kernel closes passed descriptors, and says so. */
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);

	if (n < 0)
		return -errno;
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EBADMSG;
	if (n > 0 && pool_check(packet, (size_t)n) < 0)
		return -EBADMSG;
	return n;
}

static void client_ready(void *ctx, uint32_t events)
{
	struct client *client = ctx;
	struct pool_server *server = client->server;
	struct pool_wrote packet;
	ssize_t n = packet_read(client->fd, &packet);
	int r;

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n == -EBADMSG) {
		server->total.refused_message++;
		client_refuse(client, -EBADMSG);
		return;
	}
	if (n <= 0) {
		client_drop(client);
		return;
	}
	r = client_request(client, &packet);
	if (r == -ESHUTDOWN) {
		client_drop(client);
		return;
	}
	if (r == -EPROTO)
		server->total.refused_message++;
	if (r < 0)
		client_refuse(client, r);
}

static bool uid_in(uid_t uid, const uid_t *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (list[i] == uid)
			return true;
	return false;
}

/* Whether one more connection of @uid fits. */
static bool client_fits(const struct pool_server *server, uid_t uid)
{
	unsigned own = 0;

	for (const struct client *c = server->clients; c; c = c->next)
		own += c->uid == uid;
	return server->client_count < server->clients_max && own < (server->clients_max + 1) / 2;
}

static int client_admit(struct pool_server *server, int fd, uid_t *uid)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	if (peer.uid && peer.uid != geteuid() &&
		!uid_in(peer.uid, server->allow, server->allow_count)) {
		server->total.refused_user++;
		return -EACCES;
	}
	if (!client_fits(server, peer.uid)) {
		server->total.refused_limit++;
		return -EBUSY;
	}
	*uid = peer.uid;
	return 0;
}

static int client_create(struct pool_server *server, int fd, struct client **ret)
{
	struct client *client;
	uid_t uid = 0;
	int r = client_admit(server, fd, &uid);

	if (r < 0)
		return r;
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	*client = (struct client){.server = server, .fd = fd, .uid = uid};
	client->trusted = uid_in(uid, server->trust, server->trust_count);
	r = loop_add_timer(server->loop, client_late, client, &client->timer);
	if (!r)
		r = loop_add_fd(server->loop, fd, EPOLLIN, client_ready, client, &client->source);
	if (r < 0) {
		loop_remove(client->timer);
		free(client);
		return r;
	}
	loop_set_timer(client->timer, ASK_NS);
	client->next = server->clients;
	if (client->next)
		client->next->prev = client;
	server->clients = client;
	server->client_count++;
	*ret = client;
	return 0;
}

int pool_server_adopt(struct pool_server *server, int fd)
{
	struct client *client;

	return client_create(server, fd, &client);
}

static void listen_again(void *ctx, uint32_t events)
{
	struct pool_server *server = ctx;

	loop_mod_fd(server->listen_source, EPOLLIN);
}

static void connection_refuse(int fd, int error)
{
	struct pool_msg msg = {
		.magic = POOL_MAGIC,
		.version = POOL_VERSION,
		.type = POOL_ERROR,
		.error = (uint32_t)-error,
	};

	pool_send(fd, &msg, sizeof(msg), NULL, 0);
	close(fd);
}

static void listen_ready(void *ctx, uint32_t events)
{
	struct pool_server *server = ctx;
	struct client *client;
	int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int r;

	if (fd < 0) {
		/* Out of descriptors or memory: the connection waits, and so does the loop. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			loop_mod_fd(server->listen_source, 0);
			loop_set_timer(server->accept_timer, ACCEPT_NS);
		}
		return;
	}
	r = client_create(server, fd, &client);
	if (!r) {
		/* Its request is there already, as a rule. */
		client_ready(client, EPOLLIN);
		return;
	}
	connection_refuse(fd, r);
}

uint64_t pool_chunk_size(uint64_t size_bytes, uint64_t page_bytes)
{
	uint64_t chunk = 16 * MIB;

	while (chunk < 1 * GIB && chunk * 2 * CHUNKS_DEFAULT <= size_bytes)
		chunk *= 2;
	return chunk > page_bytes ? chunk : page_bytes;
}

static int config_check(
	const struct pool_config *config, struct chunk_form *form, struct kv_err *err)
{
	uint64_t page = config->page_bytes;
	char text[24], text2[24];
	int r;

	if (page != PAGE_BYTES && page != 2 * MIB && page != 1 * GIB)
		return err_set(err, -EINVAL, "page size %s: 4K, 2M or 1G",
			size_format(page, text, sizeof(text)));
	form->page_bytes = page;
	form->node = config->node;
	form->bytes = config->chunk_bytes ? config->chunk_bytes
					  : pool_chunk_size(config->size_bytes, page);
	if (form->bytes % page || form->bytes > 1 * TIB)
		return err_set(err, -EINVAL, "chunk size %s: a multiple of the page size, up to 1T",
			size_format(form->bytes, text, sizeof(text)));
	if (config->size_bytes % form->bytes || config->size_bytes / form->bytes > POOL_CHUNKS_MAX)
		return err_set(err, -EINVAL,
			"size %s: a multiple of the chunk size %s, at most %d chunks",
			size_format(config->size_bytes, text, sizeof(text)),
			size_format(form->bytes, text2, sizeof(text2)), POOL_CHUNKS_MAX);
	if (config->user_bytes && config->user_bytes < form->bytes)
		return err_set(err, -EINVAL, "user limit %s: at least a chunk of %s",
			size_format(config->user_bytes, text, sizeof(text)),
			size_format(form->bytes, text2, sizeof(text2)));
	if (config->threads > THREADS_MAX)
		return err_set(err, -EINVAL, "threads %u: 1 to %d", config->threads, THREADS_MAX);
	if (config->node >= NODES_MAX)
		return err_set(err, -EINVAL, "node %d: 0 to %d", config->node, NODES_MAX - 1);
	r = chunk_node_check(config->node, err);
	return r < 0 ? r : host_check(form, config->size_bytes, err);
}

static int uids_copy(uid_t **ret, const uid_t *from, unsigned count)
{
	*ret = calloc(count ? count : 1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	if (count)
		memcpy(*ret, from, count * sizeof(**ret));
	return 0;
}

static int server_start(struct pool_server *server, const struct pool_config *config, int listen_fd,
	struct kv_err *err)
{
	struct loop *loop = server->loop;
	unsigned long long chunks = config->size_bytes / server->form.bytes;
	int r = uids_copy(&server->allow, config->allow, config->allow_count);

	if (!r)
		r = uids_copy(&server->trust, config->trust, config->trust_count);
	if (!r)
		r = store_create(&server->store, loop, &server->form, server->threads,
			config->verify, chunks_done, server);
	if (!r)
		r = loop_add_timer(loop, chunks_retry, server, &server->retry_timer);
	if (!r)
		r = loop_add_timer(loop, listen_again, server, &server->accept_timer);
	if (!r)
		r = chunks_resize(server, chunks);
	if (!r && listen_fd >= 0)
		r = loop_add_fd(
			loop, listen_fd, EPOLLIN, listen_ready, server, &server->listen_source);
	if (r == -EMFILE)
		return err_set(err, r,
			"too few descriptors are allowed (ulimit -n) for %llu chunks (2 each) and "
			"%u clients: take larger chunks, or fewer --clients",
			chunks, server->clients_max);
	if (r < 0)
		return err_set(err, r, "the pool cannot start: %s", err_text(r));
	server->listen_fd = listen_fd;
	return 0;
}

int pool_server_create(struct pool_server **ret, const struct pool_config *config, int listen_fd,
	struct loop *loop, const struct kv_log *log, struct kv_err *err)
{
	struct chunk_form form;
	struct pool_server *server;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int r = config_check(config, &form, err);

	if (r < 0)
		return r;
	server = calloc(1, sizeof(*server));
	if (!server)
		return err_set(err, -ENOMEM, "out of memory");
	*server = (struct pool_server){
		.loop = loop,
		.log = log,
		.form = form,
		.listen_fd = -1,
		.allow_count = config->allow_count,
		.trust_count = config->trust_count,
		.user_bytes = config->user_bytes,
		.clients_max = config->clients_max ? config->clients_max : CLIENTS_MAX,
		.threads = config->threads,
	};
	if (!server->threads)
		server->threads = cpus < 1		   ? 1
				  : cpus > THREADS_DEFAULT ? THREADS_DEFAULT
							   : (unsigned)cpus;
	r = server_start(server, config, listen_fd, err);
	if (r < 0) {
		pool_server_destroy(server);
		return r;
	}
	*ret = server;
	return 0;
}

void pool_server_destroy(struct pool_server *server)
{
	if (!server)
		return;
	/* First the threads, so that no chunk is at work any more. */
	store_destroy(server->store);
	while (server->clients) {
		struct client *client = server->clients;

		server->clients = client->next;
		loop_remove(client->source);
		loop_remove(client->timer);
		close(client->fd);
		free(client->held);
		free(client);
	}
	chunks_free(server);
	loop_remove(server->listen_source);
	loop_remove(server->accept_timer);
	loop_remove(server->retry_timer);
	fd_close(&server->listen_fd);
	free(server->allow);
	free(server->trust);
	free(server);
}
