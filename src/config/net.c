/* SPDX-License-Identifier: Apache-2.0 */
/* --net, and Firecracker's network-interfaces. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "config/internal.h"
#include "virtio/net.h"

#define FORMS "tap=NAME, fd=N or user"
#define KEYS                                                                                       \
	"tap=, fd=, user, forward=, mac=, mtu=, queues=, iothread, vhost=, rx-bw=, rx-ops=, "      \
	"tx-bw=, tx-ops=, their -burst= and id="

void config_net_free(struct vm_net *net)
{
	free(net->id);
	free(net->tap);
	*net = (struct vm_net){.queues = 1};
}

static int kind_set(struct vm_net *net, enum vm_net_kind kind, struct kv_err *err)
{
	if (net->kind != VM_NET_NONE)
		return err_set(err, -EINVAL, "there is a host side already; give one of " FORMS);
	net->kind = kind;
	return 0;
}

static int tap_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	size_t len = strlen(value);
	int r;

	if (!len || len >= IFNAMSIZ || strpbrk(value, "/ \t\n"))
		return err_set(err, -EINVAL,
			"%s is not the name of an interface; give 1 to %d bytes without '/' or "
			"blanks",
			config_show(value).text, IFNAMSIZ - 1);
	r = kind_set(net, VM_NET_TAP, err);
	return r < 0 ? r : config_text_set(&net->tap, value);
}

static int fd_set_value(struct vm_net *net, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, 3, INT_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not a descriptor to take; give a number from 3",
			config_show(value).text);
	net->fd = (int)n;
	return kind_set(net, VM_NET_FD, err);
}

static int user_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	if (strcmp(value, "on"))
		return err_set(err, -EINVAL, "%s is not allowed; it is there or not",
			config_show(value).text);
	return kind_set(net, VM_NET_USER, err);
}

/* "[tcp:|udp:]HOST:GUEST". */
static int forward_add(struct vm_net *net, const char *value, struct kv_err *err)
{
	bool udp = !strncmp(value, "udp:", 4);
	MEM_SCOPED char *text = strdup(udp || !strncmp(value, "tcp:", 4) ? value + 4 : value);
	uint64_t host, guest;
	char *colon;

	if (!text)
		return -ENOMEM;
	colon = strchr(text, ':');
	if (colon)
		*colon++ = 0;
	if (!colon || uint_parse(text, 1, UINT16_MAX, &host) < 0 ||
		uint_parse(colon, 1, UINT16_MAX, &guest) < 0)
		return err_set(err, -EINVAL,
			"%s is not a pair of ports; give HOST:GUEST or udp:HOST:GUEST, each from 1 "
			"to %d",
			config_show(value).text, UINT16_MAX);
	if (net->forward_count == VNET_FORWARDS_MAX)
		return err_set(err, -ERANGE, "%s is one too many; at most %d are allowed",
			config_show(value).text, VNET_FORWARDS_MAX);
	net->forwards[net->forward_count++] =
		(struct vnet_forward){.host = (uint16_t)host, .guest = (uint16_t)guest, .udp = udp};
	return 0;
}

static int id_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	return config_id_set(&net->id, value, err);
}

static int mac_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	uint8_t mac[sizeof(net->mac)], any = 0;
	bool good = strlen(value) == 17;

	for (unsigned i = 0; good && i < sizeof(mac); i++) {
		char byte[3] = {value[3 * i], value[3 * i + 1], 0};

		good = strspn(byte, "0123456789abcdefABCDEF") == 2 &&
		       value[3 * i + 2] == (i < 5 ? ':' : 0);
		mac[i] = (uint8_t)strtoul(byte, NULL, 16);
		any |= mac[i];
	}
	if (!good)
		return err_set(err, -EINVAL,
			"%s is not a MAC address; give one like 02:00:00:00:00:01",
			config_show(value).text);
	if (mac[0] & 1 || !any)
		return err_set(err, -EINVAL,
			"%s is not the address of one interface; the first byte is even, and not "
			"all are 0",
			config_show(value).text);
	memcpy(net->mac, mac, sizeof(mac));
	net->mac_set = true;
	return 0;
}

static int mtu_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, VNET_MTU_MIN, VNET_MTU_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not an MTU; give %d to %d", config_show(value).text,
			VNET_MTU_MIN, VNET_MTU_MAX);
	net->mtu = (uint16_t)n;
	return 0;
}

static int vhost_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	if (!strcmp(value, "auto"))
		net->vhost = VM_NET_VHOST_AUTO;
	else if (!strcmp(value, "on"))
		net->vhost = VM_NET_VHOST_ON;
	else if (!strcmp(value, "off"))
		net->vhost = VM_NET_VHOST_OFF;
	else
		return err_set(err, -EINVAL, "%s is not allowed; give on, off or auto",
			config_show(value).text);
	return 0;
}

static int queues_set(struct vm_net *net, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, 1, VNET_PAIRS_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not a number of queues; give 1 to %d",
			config_show(value).text, VNET_PAIRS_MAX);
	net->queues = (unsigned)n;
	return 0;
}

int config_net_key(struct vm_net *net, const char *key, const char *value, struct kv_err *err)
{
	static const struct {
		const char *key;
		int (*set)(struct vm_net *net, const char *value, struct kv_err *err);
	} keys[] = {
		{"tap", tap_set},
		{"fd", fd_set_value},
		{"user", user_set},
		{"forward", forward_add},
		{"id", id_set},
		{"mac", mac_set},
		{"mtu", mtu_set},
		{"queues", queues_set},
		{"vhost", vhost_set},
	};

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!strcmp(keys[i].key, key))
			return keys[i].set(net, value, err);
	if (!strcmp(key, "iothread"))
		return config_switch_set(&net->iothread, value, err);
	if (!strncmp(key, "rx-", 3))
		return config_limit_key(&net->rx, key + 3, value, err);
	if (!strncmp(key, "tx-", 3))
		return config_limit_key(&net->tx, key + 3, value, err);
	return -ENOENT;
}

/* "KEY=VALUE", or "KEY" for what is there or not. */
static int pair_set(struct vm_net *net, char *pair, struct kv_err *err)
{
	char *value = strchr(pair, '=');
	int r = -ENOENT;

	if (value)
		*value++ = 0;
	if (value || !strcmp(pair, "user") || !strcmp(pair, "iothread"))
		r = config_net_key(net, pair, value ? value : "on", err);
	if (r == -ENOENT)
		return err_set(err, -EINVAL, "there is no key %s; the keys are " KEYS,
			config_show(pair).text);
	return r < 0 ? err_prefix(err, r, "%s", pair) : 0;
}

static bool id_taken(const struct vm_config *config, const char *id)
{
	for (unsigned i = 0; i < config->net_count; i++)
		if (!strcmp(config->nets[i].id, id))
			return true;
	return false;
}

int config_net_take(struct vm_config *config, struct vm_net *net, struct kv_err *err)
{
	int r = 0;

	if (net->kind == VM_NET_NONE)
		return err_set(err, -EINVAL, "the host's side is missing; give " FORMS);
	if (config->net_count == VM_NETS_MAX)
		return err_set(err, -ERANGE, "one network device too many; at most %d are allowed",
			VM_NETS_MAX);
	if (!net->id)
		r = config_id_make(config, "net", config->net_count, id_taken, &net->id);
	if (r < 0)
		return r;
	config->nets[config->net_count++] = *net;
	*net = (struct vm_net){0};
	return 0;
}

int config_net_add(struct vm_config *config, const char *value, struct kv_err *err)
{
	MEM_SCOPED char *text = strdup(value);
	struct vm_net net = {0};
	char *rest = text, *pair;
	int r = 0;

	if (!text)
		return -ENOMEM;
	config_net_free(&net);
	while (!r && (r = config_pair_next(&rest, "forward", &pair, err)) > 0)
		r = pair_set(&net, pair, err);
	if (!r)
		r = config_net_take(config, &net, err);
	config_net_free(&net);
	return r;
}

/* One device by itself. */
static int net_fits(const struct vm_net *net, struct kv_err *err)
{
	int r = config_limit_fits(&net->rx, err);

	if (r < 0)
		return err_prefix(err, r, "rx");
	r = config_limit_fits(&net->tx, err);
	if (r < 0)
		return err_prefix(err, r, "tx");
	if (net->kind != VM_NET_TAP && net->queues > 1)
		return err_set(err, -EINVAL, "queues: only a tap opened by its name has several");
	if (net->kind != VM_NET_USER && net->forward_count)
		return err_set(err, -EINVAL, "forward: only user networking forwards ports");
	if (net->vhost != VM_NET_VHOST_ON)
		return 0;
	if (net->kind == VM_NET_USER)
		return err_set(err, -EINVAL, "vhost: only taps have it");
	if (net->rx.bytes.size || net->rx.ops.size || net->tx.bytes.size || net->tx.ops.size)
		return err_set(err, -EINVAL, "vhost: on leaves no room for rx- and tx- limits");
	return 0;
}

/* Both listen at one port of the host. */
static bool ports_clash(const struct vm_net *a, const struct vm_net *b, unsigned *port)
{
	for (unsigned i = 0; i < a->forward_count; i++)
		for (unsigned j = 0; j < (a == b ? i : b->forward_count); j++)
			if (a->forwards[i].host == b->forwards[j].host &&
				a->forwards[i].udp == b->forwards[j].udp) {
				*port = a->forwards[i].host;
				return true;
			}
	return false;
}

static int two_fit(const struct vm_net *a, const struct vm_net *b, struct kv_err *err)
{
	if (!strcmp(a->id, b->id))
		return err_set(err, -EINVAL, "net: two network devices have the id %s",
			config_show(a->id).text);
	if (a->kind == VM_NET_TAP && b->kind == VM_NET_TAP && !strcmp(a->tap, b->tap))
		return err_set(err, -EINVAL, "net: both %s and %s want the tap %s", a->id, b->id,
			config_show(a->tap).text);
	if (a->kind == VM_NET_FD && b->kind == VM_NET_FD && a->fd == b->fd)
		return err_set(err, -EINVAL, "net: both %s and %s want descriptor %d", a->id, b->id,
			a->fd);
	if (a->mac_set && b->mac_set && !memcmp(a->mac, b->mac, sizeof(a->mac)))
		return err_set(
			err, -EINVAL, "net: %s and %s have the same MAC address", a->id, b->id);
	return 0;
}

int config_nets_fit(const struct vm_config *config, struct kv_err *err)
{
	unsigned port;
	int r = 0;

	for (unsigned i = 0; !r && i < config->net_count; i++) {
		r = net_fits(&config->nets[i], err);
		if (r < 0)
			return err_prefix(err, r, "net %s", config->nets[i].id);
		for (unsigned j = 0; !r && j < i; j++)
			r = two_fit(&config->nets[j], &config->nets[i], err);
		for (unsigned j = 0; !r && j <= i; j++)
			if (ports_clash(&config->nets[i], &config->nets[j], &port))
				r = err_set(err, -EINVAL,
					"net %s: forward: port %u is forwarded twice",
					config->nets[i].id, port);
	}
	return r;
}

static json_t *forwards_pack(const struct vm_net *net)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < net->forward_count; i++)
		json_array_append_new(
			list, json_sprintf("%s%u:%u", net->forwards[i].udp ? "udp:" : "",
				      net->forwards[i].host, net->forwards[i].guest));
	return list;
}

static json_t *net_pack(const struct vm_net *net)
{
	json_t *one = json_pack("{s:s, s:i, s:b, s:o*, s:o*}", "id", net->id, "queues",
		(int)net->queues, "iothread", net->iothread, "rx_rate_limiter",
		config_limit_pack(&net->rx), "tx_rate_limiter", config_limit_pack(&net->tx));
	int r = one ? 0 : -1;

	if (!r && net->kind == VM_NET_TAP)
		r = json_object_set_new(one, "tap", json_string(net->tap));
	if (!r && net->kind == VM_NET_FD)
		r = json_object_set_new(one, "fd", json_integer(net->fd));
	if (!r && net->kind == VM_NET_USER)
		r = json_object_set_new(one, "user", json_true());
	if (!r && net->forward_count)
		r = json_object_set_new(one, "forward", forwards_pack(net));
	if (!r && net->vhost)
		r = json_object_set_new(
			one, "vhost", json_string(net->vhost == VM_NET_VHOST_ON ? "on" : "off"));
	if (!r && net->mtu)
		r = json_object_set_new(one, "mtu", json_integer(net->mtu));
	if (!r && net->mac_set)
		r = json_object_set_new(one, "mac",
			json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", net->mac[0], net->mac[1],
				net->mac[2], net->mac[3], net->mac[4], net->mac[5]));
	if (r < 0) {
		json_decref(one);
		return NULL;
	}
	return one;
}

json_t *config_nets_pack(const struct vm_config *config)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < config->net_count; i++) {
		if (!json_array_append_new(list, net_pack(&config->nets[i])))
			continue;
		json_decref(list);
		return NULL;
	}
	return list;
}
