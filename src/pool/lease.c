/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks and who has them. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "base/num.h"
#include "pool/internal.h"
#include "trace/timeline.h"

#define RETRY_NS 1000000000ULL

/* How long who waits lets others pass first; and then does not; and so on in turns that double. */
#define PASS_NS 2000000000ULL

/* Beyond this a report costs more than cleaning the whole chunk. */
#define SPANS_KEPT 65536

static void chunk_work(struct pool_server *server, struct chunk *chunk, enum chunk_job job)
{
	chunk->state = CHUNK_WORK;
	chunk->job = job;
	chunk->next = NULL;
	store_push(server->store, chunk);
}

/* Chunks that count for the size: all but those on their way out. */
static unsigned chunks_total(const struct pool_server *server)
{
	unsigned n = 0;

	for (unsigned i = 0; i < server->chunk_count; i++)
		n += !(server->chunks[i]->state == CHUNK_WORK &&
			server->chunks[i]->job == JOB_DROP);
	return n;
}

static void chunk_forget(struct pool_server *server, struct chunk *chunk)
{
	for (unsigned i = 0; i < server->chunk_count; i++)
		if (server->chunks[i] == chunk)
			server->chunks[i] = server->chunks[--server->chunk_count];
	free(chunk->spans);
	free(chunk);
}

static int chunk_add(struct pool_server *server)
{
	struct chunk *chunk;

	if (server->chunk_count == server->chunk_room) {
		unsigned room = server->chunk_room ? server->chunk_room * 2 : 64;
		struct chunk **grown = reallocarray(server->chunks, room, sizeof(*server->chunks));

		if (!grown)
			return -ENOMEM;
		server->chunks = grown;
		server->chunk_room = room;
	}
	chunk = calloc(1, sizeof(*chunk));
	if (!chunk)
		return -ENOMEM;
	chunk->mem = CHUNK_MEM_NONE;
	server->chunks[server->chunk_count++] = chunk;
	chunk_work(server, chunk, JOB_FILL);
	return 0;
}

/* Two descriptors a chunk, one a client. */
static bool fds_suffice(uint64_t chunks, unsigned clients)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return true;
	return 2 * chunks + clients + 64 <= limit.rlim_cur;
}

/* Give up chunks that nobody has, as many as there are too many, those without memory first. */
static void chunks_shed(struct pool_server *server)
{
	static const enum chunk_state states[] = {CHUNK_MISSING, CHUNK_FREE};
	unsigned total = chunks_total(server);

	for (unsigned s = 0; s < ARRAY_LEN(states); s++)
		for (unsigned i = 0; i < server->chunk_count && total > server->target; i++) {
			if (server->chunks[i]->state != states[s])
				continue;
			chunk_work(server, server->chunks[i], JOB_DROP);
			total--;
		}
}

int chunks_resize(struct pool_server *server, uint64_t target)
{
	int r = 0;

	if (target > POOL_CHUNKS_MAX)
		return -ENOSPC;
	if (target > server->target && !fds_suffice(target, server->clients_max))
		return -EMFILE;
	server->target = (unsigned)target;
	for (unsigned n = chunks_total(server); !r && n < server->target; n++)
		r = chunk_add(server);
	chunks_shed(server);
	return r;
}

/* Let the threads try @count of the chunks without memory once more. */
static void chunks_try(struct pool_server *server, unsigned count)
{
	for (unsigned i = 0; i < server->chunk_count && count; i++) {
		if (server->chunks[i]->state != CHUNK_MISSING)
			continue;
		chunk_work(server, server->chunks[i], JOB_FILL);
		count--;
	}
}

void chunks_retry(void *ctx, uint32_t events)
{
	struct pool_server *server = ctx;

	/* Where these find nothing, the others would not either; where they do, others follow. */
	chunks_try(server, server->threads);
}

/* A thread could not get memory; it is asked again in a while. */
static void chunk_missing(struct pool_server *server, struct chunk *chunk, const struct kv_err *err)
{
	chunk->state = CHUNK_MISSING;
	if (!server->short_said)
		log_msg(server->log, LOG_LEVEL_WARN,
			"the pool is short of memory and goes on trying: %s", err->text);
	server->short_said = true;
	loop_set_timer(server->retry_timer, RETRY_NS);
}

void chunks_done(void *ctx)
{
	struct pool_server *server = ctx;
	struct kv_err err = {0};
	struct chunk *chunk;
	unsigned filled = 0;

	while ((chunk = store_take(server->store, &err))) {
		free(chunk->spans);
		chunk->spans = NULL;
		chunk->span_count = chunk->span_room = 0;
		chunk->spans_known = chunk->spans_lost = chunk->sent = false;
		if (chunk->job == JOB_DROP) {
			chunk_forget(server, chunk);
		} else if (chunk->result < 0) {
			chunk_missing(server, chunk, &err);
		} else {
			chunk->state = CHUNK_FREE;
			chunk->owed = false;
			server->short_said = false;
			filled += chunk->job == JOB_FILL;
		}
	}
	chunks_shed(server);
	chunks_try(server, filled);
	leases_serve(server);
}

void chunks_free(struct pool_server *server)
{
	while (server->chunk_count) {
		struct chunk *chunk = server->chunks[0];

		/* What is leased belongs to machines that go on running. */
		chunk_drop(&chunk->mem, &server->form, false);
		chunk_forget(server, chunk);
	}
	free(server->chunks);
}

/* Memory never goes from one user to another by way of a cleaning: docs/pool.md. */
static bool chunk_suits(const struct chunk *chunk, const struct client *client)
{
	return chunk->state == CHUNK_FREE && (!chunk->bound || chunk->uid == client->uid);
}

static unsigned chunks_suiting(const struct client *client)
{
	const struct pool_server *server = client->server;
	unsigned n = 0;

	for (unsigned i = 0; i < server->chunk_count; i++)
		n += chunk_suits(server->chunks[i], client);
	return n;
}

/*
 * Whether the client must wait for its own user's chunks to come back. A client can keep pages of
 * an ended lease (a huge page by one reference), so that the kernel has no others for the chunk: it
 * counts for who had it last, or one user would have them all in turn.
 */
static bool user_full(const struct client *client)
{
	const struct pool_server *server = client->server;
	uint64_t n = client->want;

	if (!server->user_bytes)
		return false;
	for (const struct client *c = server->clients; c; c = c->next)
		n += c->uid == client->uid ? c->held_count : 0;
	for (unsigned i = 0; i < server->chunk_count; i++) {
		const struct chunk *chunk = server->chunks[i];

		n += chunk->owed && chunk->uid == client->uid;
	}
	return n * server->form.bytes > server->user_bytes;
}

/* Chunks the client's user has or waits for, in all leases. */
static uint64_t user_chunks(const struct client *client)
{
	uint64_t n = 0;

	for (const struct client *c = client->server->clients; c; c = c->next)
		if (c->uid == client->uid)
			n += c->waiting ? c->want : c->held_count;
	return n;
}

/* Send the chunks from @from on, @count at most what one packet takes. */
static int grant_send(struct client *client, unsigned from, unsigned count)
{
	struct pool_server *server = client->server;
	struct pool_msg msg = {
		.magic = POOL_MAGIC,
		.version = POOL_VERSION,
		.type = POOL_GRANT,
		.index = from,
		.count = count,
		.bytes = client->held_count * server->form.bytes,
		.chunk_bytes = server->form.bytes,
		.page_bytes = server->form.page_bytes,
	};
	int fds[POOL_FDS_MAX] = {-1};

	for (unsigned i = 0; i < count; i++) {
		struct chunk *chunk = client->held[from + i];

		assert(chunk);
		fds[i] = chunk->mem.lend_fd;
		/* From here on it may be anywhere, whatever comes of the packet. */
		chunk->sent = chunk->lent = chunk->bound = true;
		chunk->uid = client->uid;
	}
	/* They stay open here until the lease ends: closing takes longer than sending. */
	return pool_send(client->fd, &msg, sizeof(msg), fds, count);
}

/* Give @client the chunks it wants, those its user had before first. */
static int lease_grant(struct client *client)
{
	struct pool_server *server = client->server;
	int r = 0;

	client->held = calloc(client->want, sizeof(struct chunk *));
	if (!client->held)
		return -ENOMEM;
	for (int bound = 1; bound >= 0; bound--)
		for (unsigned i = 0; i < server->chunk_count && client->held_count < client->want;
			i++) {
			struct chunk *chunk = server->chunks[i];

			if (!chunk_suits(chunk, client) || chunk->bound != bound)
				continue;
			chunk->state = CHUNK_LEASED;
			client->held[client->held_count++] = chunk;
		}
	server->total.granted++;
	loop_set_timer(client->timer, 0);
	if (client->lazy)
		return grant_send(client, 0, 0);
	for (unsigned at = 0; !r && at < client->held_count; at += POOL_FDS_MAX) {
		unsigned left = client->held_count - at;

		r = grant_send(client, at, left < POOL_FDS_MAX ? left : POOL_FDS_MAX);
	}
	return r;
}

static void lease_queue(struct client *client)
{
	struct client **at = &client->server->wait_first;

	while (*at)
		at = &(*at)->wait_next;
	*at = client;
	client->wait_next = NULL;
	client->waiting = true;
	client->since_ns = clock_ns();
	loop_set_timer(client->timer, 0);
}

static void lease_unqueue(struct client *client)
{
	struct client **at = &client->server->wait_first;

	if (!client->waiting)
		return;
	while (*at != client)
		at = &(*at)->wait_next;
	*at = client->wait_next;
	client->waiting = false;
}

/*
 * The first in the queue that does not wait for its own user's chunks: for those, others do not.
 * Nor does it pass one of the same user, so one look for each user is enough as a rule.
 */
static struct client *wait_head(const struct pool_server *server)
{
	const struct client *full = NULL;

	for (struct client *client = server->wait_first; client; client = client->wait_next) {
		if (full && full->uid == client->uid)
			continue;
		if (!user_full(client))
			return client;
		full = client;
	}
	return NULL;
}

/*
 * Whether who does not wait may have free chunks although others wait for more than are free. By
 * turns, so that neither starves: what the first in the queue waits for may be leased for days, and
 * small leases may follow each other so closely that there never is enough for it. As turns become
 * longer, one is long enough for leases to end that do not stay.
 */
static bool queue_passable(const struct pool_server *server)
{
	const struct client *head = wait_head(server);
	uint64_t turns;

	if (!head)
		return true;
	turns = (clock_ns() - head->since_ns) / PASS_NS;
	return !turns || __builtin_clzll(turns) % 2 == 0;
}

/* Whether @client may have @chunk now, or once the threads are done with it. */
static bool chunk_coming(const struct chunk *chunk, const struct client *client)
{
	if (chunk->state != CHUNK_WORK)
		return chunk_suits(chunk, client);
	/* What is cleaned in place stays with its user. */
	return chunk->job == JOB_CLEAN ? chunk->uid == client->uid : chunk->job != JOB_DROP;
}

/* Free chunks that other users' memory is in are renewed for who asked in vain. */
static void chunks_unbind(const struct client *client)
{
	struct pool_server *server = client->server;
	unsigned coming = 0;

	for (unsigned i = 0; i < server->chunk_count; i++)
		coming += chunk_coming(server->chunks[i], client);
	for (unsigned i = 0; i < server->chunk_count && coming < client->want; i++) {
		struct chunk *chunk = server->chunks[i];

		if (chunk->state != CHUNK_FREE || chunk_suits(chunk, client))
			continue;
		chunk_work(server, chunk, JOB_RENEW);
		coming++;
	}
}

int lease_ask(struct client *client, uint64_t bytes, uint32_t flags)
{
	struct pool_server *server = client->server;
	uint64_t chunk = server->form.bytes;
	uint64_t want = bytes / chunk + (bytes % chunk != 0);

	if (client->held || client->waiting)
		return -EBUSY;
	if (want > server->target)
		return -ENOSPC;
	if (server->user_bytes && (user_chunks(client) + want) * chunk > server->user_bytes) {
		server->total.refused_limit++;
		return -EDQUOT;
	}
	client->want = (unsigned)want;
	client->lazy = flags & POOL_LAZY;
	client->renew = flags & POOL_RENEW;
	/* Who waits does not overtake others who do. */
	if (!user_full(client) && chunks_suiting(client) >= want &&
		(flags & POOL_WAIT ? !server->wait_first : queue_passable(server)))
		return lease_grant(client);
	if (!(flags & POOL_WAIT)) {
		/* Else who never waits would never get what others left. */
		chunks_unbind(client);
		server->total.short_of++;
		return -EAGAIN;
	}
	lease_queue(client);
	leases_serve(server);
	return 0;
}

int lease_fetch(struct client *client, uint32_t index)
{
	if (!client->lazy || index >= client->held_count || client->held[index]->sent)
		return -EPROTO;
	return grant_send(client, index, 1);
}

int lease_wrote(struct client *client, const struct pool_wrote *wrote)
{
	struct chunk *chunk;
	uint64_t pages = client->server->form.bytes / PAGE_BYTES;

	if (wrote->msg.index >= client->held_count || !client->held[wrote->msg.index]->sent)
		return -EPROTO;
	chunk = client->held[wrote->msg.index];
	for (unsigned i = 0; i < wrote->msg.count; i++) {
		const struct pool_span *span = &wrote->spans[i];

		if (!span->pages || (uint64_t)span->page + span->pages > pages)
			return -EPROTO;
	}
	/* Reports of others are not believed, so not kept either. */
	if (!client->trusted || chunk->spans_lost || !wrote->msg.count)
		return 0;
	if (chunk->span_count + wrote->msg.count > chunk->span_room) {
		unsigned room = 2 * chunk->span_room + POOL_SPANS_MAX;
		struct pool_span *grown =
			room > SPANS_KEPT ? NULL : reallocarray(chunk->spans, room, sizeof(*grown));

		if (!grown) {
			chunk->spans_lost = true;
			return 0;
		}
		chunk->spans = grown;
		chunk->span_room = room;
	}
	memcpy(chunk->spans + chunk->span_count, wrote->spans,
		wrote->msg.count * sizeof(*wrote->spans));
	chunk->span_count += wrote->msg.count;
	return 0;
}

int lease_quiet(struct client *client)
{
	if (!client->held)
		return -EPROTO;
	client->renew = false;
	return 0;
}

void lease_end(struct client *client)
{
	struct pool_server *server = client->server;
	struct chunk *used = NULL, **end = &used;
	uint64_t now = clock_ns();

	lease_unqueue(client);
	for (unsigned i = 0; i < client->held_count; i++) {
		struct chunk *chunk = client->held[i];

		if (!chunk->sent) {
			/* The server never let it out of its hands. */
			chunk->state = CHUNK_FREE;
			server->total.untouched_chunks++;
			continue;
		}
		fd_close(&chunk->mem.lend_fd);
		chunk->owed = true;
		chunk->ended_ns = now;
		chunk->spans_known = client->reported && !chunk->spans_lost;
		chunk->state = CHUNK_WORK;
		chunk->job = client->trusted && !client->renew ? JOB_CLEAN : JOB_RENEW;
		*end = chunk;
		end = &chunk->next;
	}
	*end = NULL;
	/* At once: they shall not wait for each other's locks. */
	store_push(server->store, used);
	free(client->held);
	client->held = NULL;
	client->held_count = 0;
	chunks_shed(server);
}

void leases_serve(struct pool_server *server)
{
	struct client *client;

	while ((client = wait_head(server))) {
		if (client->want > server->target) {
			/* The pool shrank meanwhile. */
			lease_unqueue(client);
			client->fail = -ENOSPC;
			loop_set_timer(client->timer, 1);
			continue;
		}
		if (chunks_suiting(client) < client->want) {
			chunks_unbind(client);
			return;
		}
		lease_unqueue(client);
		client->fail = lease_grant(client);
		/* Functions up the stack may be this client's, so its timer ends it. */
		if (client->fail < 0)
			loop_set_timer(client->timer, 1);
	}
}
