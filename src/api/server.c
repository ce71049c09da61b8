/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "trace/timeline.h"

#define CLIENTS_MAX 64
#define REQUEST_NS  5000000000ULL
#define IDLE_NS	    60000000000ULL
#define ACCEPT_NS   100000000ULL
#define SILENT_NS   1000000000ULL /* before that, a silent client is one that is about to speak */
#define BUF_FIRST   4096
#define BUF_MAX	    (HTTP_HEAD_MAX + HTTP_BODY_MAX)
#define TURN_MAX    8 /* requests that are served before others get the thread */

/* A connection: it reads a request, or writes its answer, never both. */
struct client {
	struct http_server *server;
	struct client *prev, *next;
	int fd;
	struct loop_source *source;
	struct loop_source *timer; /* what is late is closed */
	uint64_t since_ns;	   /* silent since then, when it is idle */
	char *buf;		   /* what came; NULL while it is idle */
	size_t room, used;
	char *out; /* what goes, or NULL */
	size_t out_at, out_len;
	bool more;	       /* there may be whole requests in buf: the timer takes them on */
	struct http_work work; /* how far the first of them is */
	bool started;	       /* a request has begun, and its time runs */
	bool continued;	       /* "100 Continue" was sent for it */
	bool closing;	       /* ends when out is gone */
};

struct http_server {
	struct http_server_params p;
	struct loop_source *listen_source;
	struct loop_source *accept_timer;
	struct client *clients;
	unsigned client_count;
	bool full; /* not listening, until a connection ends */
};

static void client_drop(struct client *client)
{
	struct http_server *server = client->server;

	if (client->prev)
		client->prev->next = client->next;
	else
		server->clients = client->next;
	if (client->next)
		client->next->prev = client->prev;
	server->client_count--;
	loop_remove(client->source);
	loop_remove(client->timer);
	close(client->fd);
	free(client->buf);
	free(client->out);
	free(client);
	if (server->full && server->listen_source) {
		server->full = false;
		loop_mod_fd(server->listen_source, EPOLLIN);
	}
}

/* Wait for what comes next: room for the answer, or a request. */
static void client_await(struct client *client)
{
	const struct http_server_params *p = &client->server->p;

	loop_mod_fd(client->source, client->out ? EPOLLOUT : client->more ? 0 : EPOLLIN);
	if (client->more) {
		loop_set_timer(client->timer, 1);
	} else if (!client->out && !client->used) {
		free(client->buf);
		client->buf = NULL;
		client->room = 0;
		client->started = false;
		client->since_ns = clock_ns();
		loop_set_timer(client->timer, p->idle_ns);
	} else if (!client->started) {
		/* Its time is not renewed by a byte now and then. */
		client->started = true;
		loop_set_timer(client->timer, p->request_ns);
	}
}

/* Returns 0 when all is written, -EAGAIN, or -errno. */
static int out_write(struct client *client)
{
	while (client->out_at < client->out_len) {
		ssize_t n = send(client->fd, client->out + client->out_at,
			client->out_len - client->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		client->out_at += (size_t)n;
	}
	free(client->out);
	client->out = NULL;
	return 0;
}

/* Send @out, which is taken over. Returns false when the connection is gone. */
static bool client_send(struct client *client, char *out, size_t len)
{
	int r;

	client->out = out;
	client->out_at = 0;
	client->out_len = len;
	r = out_write(client);
	if (r == -EAGAIN)
		return true;
	if (!r && !client->closing)
		return true;
	client_drop(client);
	return false;
}

/* Answer, and free the answer. Returns false when the connection is gone. */
static bool client_reply(struct client *client, struct http_reply *reply, bool keep)
{
	char *out = NULL;
	long len = http_write(reply, keep, &out);

	free(reply->body);
	if (len < 0) {
		client_drop(client);
		return false;
	}
	client->closing = !keep;
	return client_send(client, out, (size_t)len);
}

static bool client_refuse(struct client *client, int status, const char *fault)
{
	struct http_reply reply = {0};

	http_fault(&reply, status, "%s", fault);
	return client_reply(client, &reply, false);
}

/* The head is there and its sender waits for a word. Returns false when the connection is gone. */
static bool client_continue(struct client *client)
{
	static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
	char *out = strdup(text);

	client->continued = true;
	return !out || client_send(client, out, strlen(text));
}

/* One request at the start of the buffer. Returns false when there is none, or no connection. */
static bool request_serve(struct client *client)
{
	struct http_server *server = client->server;
	struct http_reply reply = {.status = 204, .work = client->work};
	struct http_request req;
	const char *fault;
	long r = http_parse(&req, client->buf, client->used, &fault);
	bool alive = true;

	if (r < 0) {
		alive = client_refuse(client, (int)-r, fault);
	} else if (!r && req.expects && !client->continued) {
		alive = client_continue(client);
	} else if (r > 0) {
		reply.work.more = false;
		server->p.handle(server->p.ctx, &req, &reply);
		client->work = reply.work;
		if (reply.work.more) {
			client->more = true;
			client_await(client);
			return false;
		}
		client->work = (struct http_work){0};
		client->continued = client->started = false;
		client->used -= (size_t)r;
		memmove(client->buf, client->buf + r, client->used);
		return client_reply(client, &reply, req.keep);
	}
	if (alive)
		client_await(client);
	return false;
}

/* Serve what is in the buffer, a turn of it at most. May free @client. */
static void client_serve(struct client *client)
{
	client->more = false;
	for (unsigned i = 0; i < TURN_MAX && !client->out && client->used; i++)
		if (!request_serve(client))
			return;
	client->more = !client->out && client->used;
	client_await(client);
}

static void client_late(void *ctx, uint32_t events)
{
	struct client *client = ctx;

	if (client->more) {
		client_serve(client);
	} else if (!client->out && client->used) {
		/* When there is no room for that, it waits once more, and not for ever. */
		client->started = false;
		if (client_refuse(client, 408, "the request was not complete in time"))
			client_await(client);
	} else {
		client_drop(client);
	}
}

/* Returns the bytes that came, 0 at the end, -errno. */
static ssize_t buf_fill(struct client *client)
{
	ssize_t n;

	if (client->used == client->room) {
		size_t room = client->room ? client->room * 2 : BUF_FIRST;
		char *grown;

		if (room > BUF_MAX)
			room = BUF_MAX;
		grown = realloc(client->buf, room);
		if (!grown)
			return -ENOMEM;
		client->buf = grown;
		client->room = room;
	}
	n = recv(client->fd, client->buf + client->used, client->room - client->used, MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	client->used += (size_t)n;
	return n;
}

static void client_ready(void *ctx, uint32_t events)
{
	struct client *client = ctx;
	ssize_t n;

	if (client->out) {
		int r = out_write(client);

		if (r == -EAGAIN && !(events & EPOLLERR))
			return;
		if (r < 0 || client->closing)
			client_drop(client);
		else
			client_serve(client);
		return;
	}
	if (client->more) {
		/* It has hung up; what it sent first is still served. */
		loop_mod_fd(client->source, EPOLLET);
		return;
	}
	n = buf_fill(client);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0)
		client_drop(client);
	else
		client_serve(client);
}

static int client_create(struct http_server *server, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	int r;

	if (!client)
		return -ENOMEM;
	*client = (struct client){.server = server, .fd = fd, .since_ns = clock_ns()};
	r = loop_add_timer(server->p.loop, client_late, client, &client->timer);
	if (!r)
		r = loop_add_fd(server->p.loop, fd, EPOLLIN, client_ready, client, &client->source);
	if (r < 0) {
		loop_remove(client->timer);
		free(client);
		return r;
	}
	loop_set_timer(client->timer, server->p.idle_ns);
	client->next = server->clients;
	if (client->next)
		client->next->prev = client;
	server->clients = client;
	server->client_count++;
	return 0;
}

/* The connection that has been silent for the longest time, and long enough; or NULL. */
static struct client *idlest(struct http_server *server)
{
	uint64_t now = clock_ns();
	struct client *found = NULL;

	for (struct client *c = server->clients; c; c = c->next)
		if (!c->used && !c->out && (!found || c->since_ns < found->since_ns))
			found = c;
	return found && now - found->since_ns >= SILENT_NS ? found : NULL;
}

static void listen_again(void *ctx, uint32_t events)
{
	struct http_server *server = ctx;

	loop_mod_fd(server->listen_source, EPOLLIN);
}

static void listen_ready(void *ctx, uint32_t events)
{
	struct http_server *server = ctx;
	int fd;

	if (server->client_count >= server->p.clients_max) {
		struct client *client = idlest(server);

		/* None can be busy for long: the next one waits. */
		if (!client) {
			server->full = true;
			loop_mod_fd(server->listen_source, 0);
			loop_set_timer(server->accept_timer, ACCEPT_NS);
			return;
		}
		client_drop(client);
	}
	fd = accept4(server->p.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		/* Out of descriptors or memory: the connection waits, and so does the loop. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			loop_mod_fd(server->listen_source, 0);
			loop_set_timer(server->accept_timer, ACCEPT_NS);
		}
		return;
	}
	if (client_create(server, fd) < 0)
		close(fd);
}

int http_server_make(struct http_server **ret, const struct http_server_params *params)
{
	struct http_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return -ENOMEM;
	server->p = *params;
	if (!server->p.clients_max)
		server->p.clients_max = CLIENTS_MAX;
	if (!server->p.request_ns)
		server->p.request_ns = REQUEST_NS;
	if (!server->p.idle_ns)
		server->p.idle_ns = IDLE_NS;
	r = loop_add_timer(params->loop, listen_again, server, &server->accept_timer);
	if (!r)
		r = loop_add_fd(params->loop, params->listen_fd, EPOLLIN, listen_ready, server,
			&server->listen_source);
	if (r < 0) {
		loop_remove(server->accept_timer);
		free(server);
		return r;
	}
	*ret = server;
	return 0;
}

void http_server_free(struct http_server *server)
{
	if (!server)
		return;
	loop_remove(server->listen_source);
	server->listen_source = NULL;
	for (struct client *c = server->clients, *next; c; c = next) {
		next = c->next;
		client_drop(c);
	}
	loop_remove(server->accept_timer);
	fd_close(&server->p.listen_fd);
	free(server);
}
