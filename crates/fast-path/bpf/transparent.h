/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Transparent flows: their endpoint sees the client's own address and port. What it answers is addressed to the client,
 * so the flow is found by both ends. An endpoint's address and port can have one such flow from one client address and
 * port: whoever has put the pair into `reply_refs` first.
 */
#pragma once

#include "choose.h"

static __always_inline bool is_transparent(u32 index)
{
	return transparent && index >> 16 >= nat_v4 + nat_v6;
}

/* A flow as its endpoint sees it, from either direction's packet. */
static __always_inline void seen_by(struct flow_key *seen, const union address *endpoint, u16 endpoint_port,
				    const union address *client, u16 client_port)
{
	seen->client = *client;
	seen->vip = *endpoint;
	seen->client_port = client_port;
	seen->vip_port = endpoint_port;
	seen->protocol = IPPROTO_UDP;
	__builtin_memset(seen->zero, 0, sizeof(seen->zero));
}

static __always_inline bool is_same_flow(const struct flow_key *one, const struct flow_key *other)
{
	const volatile u64 *a = (const u64 *)one, *b = (const u64 *)other;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]));
}

/* The flow of a packet between an endpoint and a client, as `seen_by` puts it. */
static __always_inline struct flow *flow_seen(const struct flow_key *seen, struct flow_ref *ref)
{
	struct flow_ref *found = bpf_map_lookup_elem(&reply_refs, seen);

	if (!found)
		return NULL;
	*ref = *found;
	return flow_of(ref);
}

/* Has replies from the endpoint of `route` find the flow `ref`, if it is transparent: 0, or what the kernel says against it. */
static __noinline int claim(const struct flow_key *key, const union route *route, const struct flow_ref *ref)
{
	struct endpoint *endpoint;
	struct flow_key seen;

	if (!is_transparent(ref->index))
		return 0;
	endpoint = endpoint_of(route->endpoint);
	if (!endpoint)
		return -EEXIST;
	seen_by(&seen, &endpoint->address, route->port, &key->client, key->client_port);
	return bpf_map_update_elem(&reply_refs, &seen, ref, BPF_NOEXIST);
}

/* The flow that has claimed what this one would. */
static __noinline struct flow *holder_of(const struct flow_key *key, const union route *route, struct flow_ref *ref)
{
	struct endpoint *endpoint = endpoint_of(route->endpoint);
	struct flow_key seen;

	if (!endpoint)
		return NULL;
	seen_by(&seen, &endpoint->address, route->port, &key->client, key->client_port);
	return flow_seen(&seen, ref);
}

/* Gives back what the flow at `index` has claimed, if it is transparent. */
static __noinline int disclaim(const struct flow_key *key, const union route *route, u32 index)
{
	struct endpoint *endpoint;
	struct flow_key seen;

	if (!is_transparent(index))
		return 0;
	endpoint = endpoint_of(route->endpoint);
	if (!endpoint)
		return 0;
	seen_by(&seen, &endpoint->address, route->port, &key->client, key->client_port);
	return bpf_map_delete_elem(&reply_refs, &seen);
}
