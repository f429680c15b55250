/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* From a packet to its flow and on: what every kind of packet has in common. */
#pragma once

#include "rewrite.h"
#include "next_hop.h"

/* Instead of an action: the packet was dropped, and its sender is to be told of this MTU. */
#define TOO_BIG 0x10000

#define FRAGMENT_LIFETIME 30000000000ull /* ns; as long as Linux waits for the rest of a datagram */

/* Addresses and ports on the other side of the edge; false if the endpoint is not known any more. */
static __always_inline bool translate(const struct passage *passage, struct translation *t)
{
	const struct flow_key *key = &passage->flow->key;
	u32 nat = passage->ref.index >> 16;
	struct endpoint *endpoint;
	union address *address;

	t->id = passage->id;
	if (passage->direction == TO_CLIENT) {
		t->src = key->vip;
		t->dst = key->client;
		t->sport = key->vip_port;
		t->dport = key->client_port;
		return true;
	}
	endpoint = endpoint_of(passage->route.endpoint);
	if (!endpoint)
		return false;
	if (is_transparent(passage->ref.index)) {
		t->src = key->client;
		t->sport = key->client_port;
	} else {
		address = bpf_map_lookup_elem(&nat_addresses, &nat);
		if (!address)
			return false;
		t->src = *address;
		t->sport = swap16((u16)passage->ref.index);
	}
	t->dst = endpoint->address;
	t->dport = passage->route.port;
	return true;
}

/* Whether `address` and `port` are those of the endpoint that the flow is at now. */
static __always_inline bool is_endpoint(const union route *route, const union address *address, u16 port)
{
	struct endpoint *endpoint = endpoint_of(route->endpoint);

	return endpoint && port == route->port && address->half[0] == endpoint->address.half[0] &&
	       address->half[1] == endpoint->address.half[1];
}

static __always_inline void touch(struct passage *passage)
{
	u64 last = passage->flow->last;

	passage->warm = SECOND(last) == SECOND(passage->now);
	if (last != passage->now)
		passage->flow->last = passage->now;
}

/* A number for a datagram in fragments: counted up by where from and where to it goes on; some of these share a count. */
static __always_inline u32 next_id(const struct passage *passage)
{
	const union address *to = &passage->flow->key.client;
	u64 pair = passage->flow->key.vip.half[1];
	struct endpoint *endpoint;
	u32 at, *count;

	if (passage->direction == TO_ENDPOINT) {
		endpoint = endpoint_of(passage->route.endpoint);
		to = endpoint ? &endpoint->address : to;
		pair = passage->ref.index >> 16;
	}
	for (int i = 0; i < 2; i++) {
		pair = (pair ^ hash_seed ^ to->half[i]) * 0xff51afd7ed558ccdull;
		pair = (pair ^ pair >> 33) * 0xc4ceb9fe1a85ec53ull;
		pair ^= pair >> 33;
	}
	at = pair & (ID_COUNTS - 1);
	count = bpf_map_lookup_elem(&ids, &at);
	return (u32)(pair >> 32) + (count ? __sync_fetch_and_add(count, 1) : 0);
}

/*
 * Remembers where the rest of this datagram's fragments go, and under which number. Senders number their datagrams each
 * for itself; what leaves from one address for another must not have one number twice.
 */
static __noinline int remember(const struct packet *p, struct passage *passage)
{
	struct fragment_key key = { .src = p->src, .dst = p->dst, .id = p->id, .protocol = p->protocol };
	struct fragment fragment = { .at = passage->now, .flow = passage->ref, .direction = passage->direction };

	passage->id = fragment.id = next_id(passage);
	return bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
}

/* The host has the first fragment of a datagram: the rest goes the same way, also where one of a flow had its number before. */
static __noinline int forget(const struct packet *p)
{
	struct fragment_key key = { .src = p->src, .dst = p->dst, .id = p->id, .protocol = p->protocol };

	return bpf_map_delete_elem(&fragments, &key);
}

/* Finds the flow that a later fragment's first fragment belonged to. */
static __always_inline bool recall(const struct packet *p, struct passage *passage)
{
	struct fragment_key key = { .src = p->src, .dst = p->dst, .id = p->id, .protocol = p->protocol };
	struct fragment *fragment = bpf_map_lookup_elem(&fragments, &key);

	if (!fragment || passage->now - fragment->at > FRAGMENT_LIFETIME)
		return false;
	passage->ref = fragment->flow;
	passage->direction = fragment->direction;
	passage->id = fragment->id;
	passage->flow = flow_of(&passage->ref);
	if (!passage->flow)
		return false;
	passage->route.whole = READ_ONCE(passage->flow->route.whole);
	return true;
}

/* Rewrites a UDP packet, or a fragment of one, and sends it on. Gives an action, or TOO_BIG and more. */
static __noinline int forward(struct __sk_buff *skb, const struct packet *p, struct passage *passage)
{
	u32 number = passage->route.listener;
	struct listener *listener = bpf_map_lookup_elem(&listeners, &number);
	union way out;
	struct translation t;
	u32 change;
	int way;

	if (!listener || !translate(passage, &t))
		return drop(number, DROP_LOCAL_ERROR);
	if (p->ttl <= 1)
		return drop(number, DROP_TTL);
	way = way_out(skb, p, &t, passage, &out);
	if (way < 0) {
		drop(number, -1 - way);
		return way == -1 - DROP_TOO_BIG ? TOO_BIG + out.mtu : TC_ACT_SHOT;
	}
	change = address_change(p, &t);
	if ((!(p->odd & FRAGMENT_LATER) && !write_udp(skb, p, &t, change)) ||
	    !write_headers(skb, p, &t, change, &out, listener->flags, way == 0))
		return drop(number, DROP_LOCAL_ERROR);
	count_carried(skb->gso_segs > 1 ? skb->gso_segs : 1, p, number, passage->route.endpoint, passage->direction);
	return send(&out, way == 0);
}
