/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* What a listener refuses. The reasons, and their order, are those of the path in user space. */
#pragma once

#include "count.h"

/*
 * Whether no host has this address, so that a router drops what comes from it: 0.0.0.0/8, 127.0.0.0/8, multicast and beyond;
 * ::, ::1, multicast, and an IPv4 address in an IPv6 packet, which would be taken for that IPv4 client.
 */
static __always_inline bool is_nobody(const union address *client, bool v6)
{
	u8 first = client->byte[12];

	if (v6)
		return client->byte[0] == 0xff || is_v4(client) ||
		       (client->half[0] == 0 && !client->word[2] && !(client->word[3] & ~swap32(1)));
	return first == 0 || first == 127 || first >= 224;
}

static __always_inline struct client_key client_of(const struct flow_key *key, u32 listener)
{
	struct client_key client = { .client = key->client, .listener = listener };

	if (!is_v4(&key->client))
		client.client.half[1] = 0;
	return client;
}

/* Whether a listener's lines have this address of IPv4. */
static __always_inline bool is_in_lines(u32 where, u32 host)
{
	const volatile u64 *by = place_keys;
	u64 hash = by[0] + by[1] * host, both = (u64)host << 32 | host, found = 0, pair;
	union host_line *line;
	u32 at;

	hash = (hash ^ hash >> 32) * by[1];
	at = FIRST_LINE(where) + (u32)(hash >> 32 >> (33 - (where & LISTS_LINES)));
	line = bpf_map_lookup_elem(&denied_lines, &at);
	if (!line)
		return false;
	/* The upper bit of a half that is zero, and perhaps of the one above it. */
	#pragma clang loop unroll(full)
	for (int i = 0; i < HOSTS_IN_LINE / 2; i++) {
		pair = line->pair[i] ^ both;
		found |= (pair - 0x100000001ull) & ~pair;
	}
	return found & 0x8000000080000000ull;
}

/* Whether the lists admit the client: not denied, and allowed if anyone is. */
__global bool is_admitted(const struct listener *listener, const struct flow_key *key)
{
	struct access_key network = { .prefix = 192 };
	struct host_key host = {};
	union lists lists;
	u32 where;

	if (!listener || !key)
		return false;
	host.client = key->client;
	lists.whole = READ_ONCE(listener->lists.whole);
	where = lists.where;
	host.version = network.version = lists.version;
	network.v6 = !is_v4(&key->client);

	if (where & LISTS_LINES && !network.v6 && is_in_lines(where, key->client.word[3]))
		return false;
	if (where & LISTS_DENY_HOSTS && bpf_map_lookup_elem(&denied_hosts, &host))
		return false;
	__builtin_memcpy(network.client, &key->client, sizeof(network.client));
	if (where & LISTS_DENY && bpf_map_lookup_elem(&denied, &network))
		return false;
	if (!(where & (LISTS_ALLOW | LISTS_ALLOW_HOSTS)))
		return true;
	return (where & LISTS_ALLOW_HOSTS && bpf_map_lookup_elem(&allowed_hosts, &host)) ||
	       (where & LISTS_ALLOW && bpf_map_lookup_elem(&allowed, &network));
}

/* Counts one flow more of the client, or says why not. A client that there is no room for is served. */
__global int client_admit(const struct listener *listener, const struct flow_key *key, u32 number, u64 now)
{
	struct client_key at;
	struct client *client;
	u64 flows, full_at, moment;

	if (!listener || !key)
		return DROP_LOCAL_ERROR;
	at = client_of(key, number);
	client = bpf_map_lookup_elem(&clients, &at);
	if (!client) {
		struct client begun = { .flows = 1, .full_at = now + listener->gap };

		if (bpf_map_update_elem(&clients, &at, &begun, BPF_NOEXIST) != -EEXIST)
			return -1;
		client = bpf_map_lookup_elem(&clients, &at);
		if (!client)
			return -1;
	}
	for (int i = 0; i < 4; i++) {
		flows = READ_ONCE(client->flows);
		if (flows == CLIENT_GONE)
			return -1;
		if (listener->max_flows_per_client && flows >= listener->max_flows_per_client)
			return DROP_CLIENT_FLOW_LIMIT;
		full_at = READ_ONCE(client->full_at);
		moment = full_at > now ? full_at : now;
		if (listener->gap && moment > now + listener->burst)
			return DROP_CLIENT_RATE;
		if (__sync_val_compare_and_swap(&client->flows, flows, flows + 1) != flows)
			continue;
		WRITE_ONCE(client->full_at, moment + listener->gap);
		return -1;
	}
	return DROP_LOCAL_ERROR;
}

/* Counts one flow less. `refused`: it had not begun, and takes no token. The last flow takes the client out with it. */
__global int client_release(const struct listener *listener, const struct flow_key *key, u32 number, bool refused)
{
	struct client_key at;
	struct client *client;
	u64 before;

	if (!listener || !key)
		return 0;
	at = client_of(key, number);
	client = bpf_map_lookup_elem(&clients, &at);
	if (!client)
		return 0;
	before = __sync_fetch_and_sub(&client->flows, 1);
	if (before == 0 || before == CLIENT_GONE)
		__sync_fetch_and_add(&client->flows, 1);
	else if (before == 1 && __sync_val_compare_and_swap(&client->flows, 0, CLIENT_GONE) == 0)
		bpf_map_delete_elem(&clients, &at);
	else if (refused)
		__sync_fetch_and_sub(&client->full_at, listener->gap);
	return 0;
}

static __always_inline bool counts_clients(const struct listener *listener)
{
	return listener->max_flows_per_client || listener->gap;
}
