/* SPDX-License-Identifier: Apache-2.0 */
/* api/: the parser of requests, and the server with clients that behave and others. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/http.h"
#include "api/path.h"
#include "api/server.h"
#include "base/num.h"

#define MS 1000000ULL

static bool path_is(const struct http_request *req, const char *path)
{
	return req->path_len == strlen(path) && !memcmp(req->path, path, req->path_len);
}

static void test_parse_good(void **state)
{
	static const char text[] = "PATCH /vm?x=1 HTTP/1.1\r\nHost: localhost\r\ncontent-length:  "
				   "4 \r\nX:\r\n\r\nbodyGET / HTTP/1.0\r\n\r\n";
	size_t first = strlen(text) - strlen("GET / HTTP/1.0\r\n\r\n");
	struct http_request req;
	const char *fault;

	/* Byte by byte, it becomes whole exactly once. */
	for (size_t len = 0; len < first; len++)
		assert_int_equal(http_parse(&req, text, len, &fault), 0);
	assert_int_equal(http_parse(&req, text, strlen(text), &fault), first);
	assert_int_equal(req.method, HTTP_PATCH);
	assert_true(path_is(&req, "/vm"));
	assert_int_equal(req.body_len, 4);
	assert_memory_equal(req.body, "body", 4);
	assert_true(req.keep);
	assert_false(req.expects);
	assert_int_equal(
		http_parse(&req, text + first, strlen(text + first), &fault), strlen(text + first));
	assert_int_equal(req.method, HTTP_GET);
	assert_true(path_is(&req, "/"));
	assert_false(req.keep);
}

static void test_parse_connection(void **state)
{
	static const struct {
		const char *text;
		bool keep, expects;
	} cases[] = {
		{"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false, false},
		{"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false, false},
		{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true, false},
		{"PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", true, true},
		{"DELETE / HTTP/1.1\r\n\r\n", true, false},
		{"get / HTTP/1.1\r\n\r\n", true, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *text = cases[i].text, *fault;
		struct http_request req;

		assert_int_equal(http_parse(&req, text, strlen(text), &fault), (long)strlen(text));
		assert_int_equal(req.keep, cases[i].keep);
		assert_int_equal(req.expects, cases[i].expects);
		assert_int_equal(req.method == HTTP_OTHER, i >= 4);
	}
}

static void test_parse_bad(void **state)
{
	static const struct {
		const char *text;
		long r;
	} cases[] = {
		{"\r\n\r\n", -400},
		{"GET\r\n\r\n", -400},
		{"GET /\r\n\r\n", -400},
		{"GET / HTTP/2.0\r\n\r\n", -505},
		{"GET / HTTP/1.1 \r\n\r\n", -400},
		{"GET  / HTTP/1.1\r\n\r\n", -400},
		{" GET / HTTP/1.1\r\n\r\n", -400},
		{"GET http://a/ HTTP/1.1\r\n\r\n", -400},
		{"GET /\x01 HTTP/1.1\r\n\r\n", -400},
		{"GET /\ta HTTP/1.1\r\n\r\n", -400},
		{"G@T / HTTP/1.1\r\n\r\n", -400},
		{"GET / HTTP/1.1\r\nno colon\r\n\r\n", -400},
		{"GET / HTTP/1.1\r\n: x\r\n\r\n", -400},
		{"GET / HTTP/1.1\r\nA : x\r\n\r\n", -400},
		{"GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n", -400},
		{"GET / HTTP/1.1\r\nA: \x7f\r\n\r\n", -400},
		{"GET / HTTP/1.1\nA: x\r\n\r\n", -400},
		{"PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n", -400},
		{"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", -400},
		{"PUT / HTTP/1.1\r\nContent-Length: 1 1\r\n\r\n", -400},
		{"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", -400},
		{"PUT / HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", -413},
		{"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", -413},
		{"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", -501},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *text = cases[i].text, *fault = NULL;
		struct http_request req;

		assert_int_equal(http_parse(&req, text, strlen(text), &fault), cases[i].r);
		assert_non_null(fault);
	}
}

static void test_parse_long(void **state)
{
	char *text = malloc(HTTP_HEAD_MAX + 1);
	struct http_request req;
	const char *fault;

	memset(text, 'a', HTTP_HEAD_MAX);
	assert_int_equal(http_parse(&req, text, HTTP_HEAD_MAX - 1, &fault), 0);
	assert_int_equal(http_parse(&req, text, HTTP_HEAD_MAX, &fault), -431);
	free(text);
}

static void test_fault(void **state)
{
	struct http_reply reply = {.status = 204};
	char *out = NULL;
	long len;

	http_fault(&reply, 400, "not \"%s\"\n", "so");
	assert_string_equal(reply.body, "{\"fault_message\":\"not \\\"so\\\"\\n\"}");
	len = http_write(&reply, true, &out);
	assert_int_equal(len, strlen(out));
	assert_memory_equal(out, "HTTP/1.1 400 Bad Request\r\n", 26);
	assert_non_null(strstr(out, "\r\n\r\n{\"fault_message\""));
	free(out);
	/* What is no UTF-8 still gets an answer. */
	http_fault(&reply, 400, "a\xff");
	assert_string_equal(reply.body, "{\"fault_message\":\"a?\"}");
	free(reply.body);
	reply = (struct http_reply){.status = 204};
	assert_true(http_write(&reply, false, &out) > 0);
	assert_null(strstr(out, "Content-"));
	assert_non_null(strstr(out, "Connection: close\r\n"));
	free(out);
}

/* A server on a socket in a folder of its own. */
struct desk {
	char folder[32], path[64];
	struct api_sock sock;
	struct loop *loop;
	struct http_server *server;
	unsigned handled;
	uint64_t turns;	     /* that an answer takes, less one */
	size_t answer_bytes; /* of each answer's body; 0: none */
};

static void desk_handle(void *ctx, const struct http_request *req, struct http_reply *reply)
{
	struct desk *desk = ctx;

	desk->handled++;
	assert_false(reply->work.more);
	reply->work.more = reply->work.at++ < desk->turns;
	if (reply->work.more || !desk->answer_bytes)
		return;
	reply->status = 200;
	reply->body = malloc(desk->answer_bytes + 1);
	memset(reply->body, 'x', desk->answer_bytes);
	reply->body[desk->answer_bytes] = '\0';
}

static void desk_open(struct desk *desk, unsigned clients, uint64_t request_ns, uint64_t idle_ns)
{
	struct http_server_params params = {.clients_max = clients,
		.request_ns = request_ns,
		.idle_ns = idle_ns,
		.handle = desk_handle,
		.ctx = desk};
	struct kv_err err = {0};

	*desk = (struct desk){.folder = "/tmp/kvick-http-XXXXXX"};
	assert_non_null(mkdtemp(desk->folder));
	snprintf(desk->path, sizeof(desk->path), "%s/s", desk->folder);
	assert_int_equal(loop_create(&desk->loop), 0);
	params.loop = desk->loop;
	params.listen_fd = api_listen(desk->path, false, &desk->sock, &err);
	assert_true(params.listen_fd >= 0);
	assert_int_equal(http_server_make(&desk->server, &params), 0);
}

static void desk_close(struct desk *desk)
{
	http_server_free(desk->server);
	loop_destroy(desk->loop);
	api_unlink(&desk->sock);
	/* Fails if anything is left in it. */
	assert_int_equal(rmdir(desk->folder), 0);
}

static void desk_stop(void *ctx, uint32_t events)
{
	loop_stop(ctx);
}

/* Let the server work for @ns. */
static void desk_run(struct desk *desk, uint64_t ns)
{
	struct loop_source *timer;

	assert_int_equal(loop_add_timer(desk->loop, desk_stop, desk->loop, &timer), 0);
	loop_set_timer(timer, ns);
	assert_int_equal(loop_run(desk->loop), 0);
	loop_remove(timer);
}

static int desk_connect(struct desk *desk)
{
	int fd = api_connect(desk->path, 1000);

	assert_true(fd >= 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What came so far; "" when nothing did, NULL when the connection ended. */
static const char *hear(int fd, char buf[4096])
{
	ssize_t n = recv(fd, buf, 4095, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return strcpy(buf, "");
	if (n <= 0)
		return NULL;
	buf[n] = '\0';
	return buf;
}

static unsigned count(const char *text, const char *word)
{
	unsigned n = 0;

	while (text && (text = strstr(text, word))) {
		text += strlen(word);
		n++;
	}
	return n;
}

static void test_server_pipeline(void **state)
{
	struct desk desk;
	char buf[4096];
	int fd;

	desk_open(&desk, 0, 0, 0);
	fd = desk_connect(&desk);
	/* More than one turn's worth, in pieces that end anywhere. */
	for (unsigned i = 0; i < 20; i++)
		say(fd, "GET / HTTP/1.1\r\n\r\n");
	say(fd, "PUT / HTTP/1.1\r\nContent-Le");
	desk_run(&desk, 20 * MS);
	assert_int_equal(desk.handled, 20);
	assert_int_equal(count(hear(fd, buf), "HTTP/1.1 204"), 20);
	say(fd, "ngth: 2\r\nExpect: 100-continue\r\n\r\n");
	desk_run(&desk, 20 * MS);
	assert_string_equal(hear(fd, buf), "HTTP/1.1 100 Continue\r\n\r\n");
	say(fd, "xyGET / HTTP/1.0\r\n\r\n");
	desk_run(&desk, 20 * MS);
	assert_int_equal(desk.handled, 22);
	assert_int_equal(count(hear(fd, buf), "HTTP/1.1 204"), 2);
	assert_null(hear(fd, buf));
	close(fd);
	desk_close(&desk);
}

/* Answers that take many turns: others get theirs in between, and each request its own. */
static void test_server_turns(void **state)
{
	struct desk desk;
	char buf[4096];
	int fd, other, gone;

	desk_open(&desk, 0, 0, 0);
	desk.turns = 1000000000;
	fd = desk_connect(&desk);
	gone = desk_connect(&desk);
	say(fd, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
	say(gone, "GET / HTTP/1.1\r\n\r\n");
	desk_run(&desk, 20 * MS);
	assert_string_equal(hear(fd, buf), "");
	assert_true(desk.handled > 2);
	close(gone);
	other = desk_connect(&desk);
	say(other, "rubbish\r\n\r\n");
	desk_run(&desk, 20 * MS);
	assert_int_equal(count(hear(other, buf), "HTTP/1.1 400"), 1);
	assert_string_equal(hear(fd, buf), "");
	desk.turns = 0;
	desk_run(&desk, 20 * MS);
	assert_int_equal(count(hear(fd, buf), "HTTP/1.1 204"), 2);
	desk.handled = 0;
	desk.turns = 9;
	say(fd, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
	desk_run(&desk, 20 * MS);
	assert_int_equal(count(hear(fd, buf), "HTTP/1.1 204"), 2);
	assert_int_equal(desk.handled, 2 * 10);
	close(fd);
	close(other);
	desk_close(&desk);
}

static void test_server_refuses(void **state)
{
	struct desk desk;
	char buf[4096];
	int fd, gone;

	desk_open(&desk, 0, 0, 0);
	fd = desk_connect(&desk);
	gone = desk_connect(&desk);
	say(gone, "GET / HTTP/1.1\r\n");
	close(gone);
	say(fd, "rubbish\r\n\r\nGET / HTTP/1.1\r\n\r\n");
	desk_run(&desk, 20 * MS);
	assert_int_equal(desk.handled, 0);
	assert_non_null(hear(fd, buf));
	assert_int_equal(count(buf, "HTTP/1.1 400"), 1);
	assert_int_equal(count(buf, "fault_message"), 1);
	assert_null(hear(fd, buf));
	close(fd);
	desk_close(&desk);
}

/* A byte now and then, an answer that nobody reads, and silence all end. */
static void test_server_slow(void **state)
{
	int slow, deaf, mute, bytes = 4096;
	struct desk desk;
	char buf[4096];

	desk_open(&desk, 0, 60 * MS, 120 * MS);
	desk.answer_bytes = 1 << 20;
	slow = desk_connect(&desk);
	deaf = desk_connect(&desk);
	mute = desk_connect(&desk);
	setsockopt(deaf, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	say(deaf, "GET / HTTP/1.1\r\n\r\n");
	for (unsigned i = 0; i < 4; i++) {
		say(slow, "x");
		desk_run(&desk, 10 * MS);
	}
	assert_string_equal(hear(slow, buf), "");
	assert_string_equal(hear(mute, buf), "");
	desk_run(&desk, 40 * MS);
	assert_int_equal(count(hear(slow, buf), "HTTP/1.1 408"), 1);
	desk_run(&desk, 120 * MS);
	assert_null(hear(mute, buf));
	/* The answer was cut. */
	bytes = 0;
	while (hear(deaf, buf))
		bytes += (int)strlen(buf);
	assert_true(bytes < 1 << 20);
	close(slow);
	close(deaf);
	close(mute);
	desk_close(&desk);
}

/* Say "GET" until an answer has to wait for room, @most times. Returns how often. */
static unsigned answers_fill(struct desk *desk, int fd, unsigned most)
{
	unsigned before = desk->handled, said = 0;

	while (said < most && desk->handled - before == said) {
		say(fd, "GET / HTTP/1.1\r\n\r\n");
		said++;
		desk_run(desk, 1 * MS);
	}
	return said;
}

/* Who has left no room for being told that the time is over ends as well. */
static void test_server_deaf(void **state)
{
	struct desk desk;
	char buf[4096];
	const char *text;
	unsigned most;
	int fd;

	desk_open(&desk, 0, 100 * MS, 10000 * MS);
	desk.answer_bytes = 10000;
	fd = desk_connect(&desk);
	/* The last one is not read, as the answer before it waits. */
	most = answers_fill(&desk, fd, 1000) - 2;
	close(fd);
	assert_in_range(most, 2, 900);
	fd = desk_connect(&desk);
	assert_int_equal(answers_fill(&desk, fd, most), most);
	say(fd, "G");
	desk_run(&desk, 250 * MS);
	do
		text = hear(fd, buf);
	while (text && *text);
	assert_null(text);
	close(fd);
	desk_close(&desk);
}

/* A large answer goes out whole to who reads it slowly. */
static void test_server_large(void **state)
{
	struct desk desk;
	char buf[4096];
	size_t total = 0;
	int fd;

	desk_open(&desk, 0, 0, 0);
	desk.answer_bytes = 1 << 20;
	fd = desk_connect(&desk);
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	for (unsigned i = 0; i < 200 && total < 1 << 20; i++) {
		const char *text;

		desk_run(&desk, 1 * MS);
		while ((text = hear(fd, buf)) && *text)
			total += strlen(text);
		assert_non_null(text);
	}
	assert_in_range(total, 1 << 20, (1 << 20) + 200);
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	desk_run(&desk, 10 * MS);
	assert_int_equal(desk.handled, 2);
	close(fd);
	desk_close(&desk);
}

/* More clients than are served at once: nobody who speaks is turned away. */
static void test_server_full(void **state)
{
	struct desk desk;
	char buf[4096];
	int fds[10];

	desk_open(&desk, 2, 0, 0);
	for (unsigned i = 0; i < 10; i++) {
		fds[i] = desk_connect(&desk);
		say(fds[i], "GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
	}
	desk_run(&desk, 200 * MS);
	assert_int_equal(desk.handled, 10);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(count(hear(fds[i], buf), "HTTP/1.1 204"), 1);
		close(fds[i]);
	}
	/* Those who are silent make room, after a while. */
	for (unsigned i = 0; i < 3; i++)
		fds[i] = desk_connect(&desk);
	say(fds[2], "GET / HTTP/1.1\r\n\r\n");
	desk_run(&desk, 1300 * MS);
	assert_int_equal(desk.handled, 11);
	assert_null(hear(fds[0], buf));
	assert_string_equal(hear(fds[1], buf), "");
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
	desk_close(&desk);
}

static void test_sock(void **state)
{
	struct api_sock sock = {0}, other = {0};
	struct kv_err err = {0};
	struct stat st;
	char folder[] = "/tmp/kvick-sock-XXXXXX", path[64], longer[API_PATH_MAX + 1];
	int fd;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/a.sock", folder);
	fd = api_listen(path, true, &sock, &err);
	assert_true(fd >= 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0600);
	assert_int_equal(api_listen(path, true, &other, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "a running VM answers at"));
	/* The one of a dead VM is replaced, and not removed by what is left of that. */
	close(fd);
	fd = api_listen(path, true, &other, &err);
	assert_true(fd >= 0);
	api_unlink(&sock);
	assert_int_equal(lstat(path, &st), 0);
	api_unlink(&other);
	assert_int_equal(lstat(path, &st), -1);
	api_unlink(&other);
	close(fd);
	/* What is no socket is left alone. */
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(api_listen(path, true, &sock, &err), -EEXIST);
	assert_int_equal(rmdir(path), 0);
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(api_listen(longer, false, &sock, &err), -ENAMETOOLONG);
	/* Others could put something into it. */
	assert_int_equal(chmod(folder, 0777), 0);
	assert_int_equal(api_listen(path, true, &sock, &err), -EPERM);
	assert_int_equal(rmdir(folder), 0);
	assert_int_equal(api_listen(path, false, &sock, &err), -ENOENT);
}

/* A VM that stands still, and has more callers than the kernel keeps for it. */
static void test_connect_late(void **state)
{
	struct api_sock sock = {0}, other = {0};
	struct kv_err err = {0};
	char folder[] = "/tmp/kvick-late-XXXXXX", path[64];
	int listening, fds[768], r = 0;
	unsigned n = 0;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/a.sock", folder);
	listening = api_listen(path, true, &sock, &err);
	assert_true(listening >= 0);
	for (; n < ARRAY_LEN(fds) && r >= 0; n++)
		r = fds[n] = api_connect(path, 20);
	assert_int_equal(r, -ETIMEDOUT);
	/* It lives, for all that. */
	assert_int_equal(api_listen(path, true, &other, &err), -EADDRINUSE);
	for (n--; n-- > 0;)
		close(fds[n]);
	close(listening);
	api_unlink(&sock);
	assert_int_equal(rmdir(folder), 0);
}

static void test_folder(void **state)
{
	const char *old = getenv("XDG_RUNTIME_DIR");
	char *kept = old ? strdup(old) : NULL;
	char folder[] = "/tmp/kvick-run-XXXXXX", path[API_PATH_MAX], list[64], want[64];
	struct api_sock sock = {0};
	struct kv_err err = {0};
	int fd;

	assert_non_null(mkdtemp(folder));
	setenv("XDG_RUNTIME_DIR", folder, 1);
	api_running(list, sizeof(list));
	assert_string_equal(list, "");
	assert_int_equal(api_path(path, "vm-1", &err), 0);
	snprintf(want, sizeof(want), "%s/kvick/vm-1.sock", folder);
	assert_string_equal(path, want);
	fd = api_listen(path, true, &sock, &err);
	assert_true(fd >= 0);
	api_running(list, sizeof(list));
	assert_string_equal(list, "vm-1");
	close(fd);
	api_running(list, sizeof(list));
	assert_string_equal(list, "");
	api_unlink(&sock);
	snprintf(want, sizeof(want), "%s/kvick", folder);
	assert_int_equal(rmdir(want), 0);
	assert_int_equal(rmdir(folder), 0);
	unsetenv("XDG_RUNTIME_DIR");
	assert_int_equal(api_folder(path, &err), 0);
	snprintf(want, sizeof(want), "/tmp/kvick-%u", (unsigned)geteuid());
	assert_string_equal(path, geteuid() ? want : "/run/kvick");
	if (kept)
		setenv("XDG_RUNTIME_DIR", kept, 1);
	free(kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_good),
		cmocka_unit_test(test_parse_connection),
		cmocka_unit_test(test_parse_bad),
		cmocka_unit_test(test_parse_long),
		cmocka_unit_test(test_fault),
		cmocka_unit_test(test_server_pipeline),
		cmocka_unit_test(test_server_turns),
		cmocka_unit_test(test_server_refuses),
		cmocka_unit_test(test_server_slow),
		cmocka_unit_test(test_server_deaf),
		cmocka_unit_test(test_server_large),
		cmocka_unit_test(test_server_full),
		cmocka_unit_test(test_sock),
		cmocka_unit_test(test_connect_late),
		cmocka_unit_test(test_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
