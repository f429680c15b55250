/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* How flows begin and end. A flow is a NAT port: whoever turns the life of a port's place from FREE to BUSY owns it. */
#pragma once

#include "choose.h"
#include "limits.h"
#include "siphash.h"

#define PORT_PROBES 128
#define EVICTION_TRIES 128
#define NOWHERE (~0u)

/* A packet's flow, and which way it goes. */
struct passage {
	struct flow *flow;
	struct flow_ref ref;
	union route route;
	enum direction direction;
	bool warm; /* something came in the same second before: the flow may remember its way */
	u32 id;	   /* for the rest of a datagram in fragments */
	u64 now;
};

static __always_inline struct flow *flow_at(u32 index)
{
	return bpf_map_lookup_elem(&flows, &index);
}

static __always_inline bool swap_life(struct flow *flow, u64 from, u64 to)
{
	return __sync_val_compare_and_swap(&flow->life, from, to) == from;
}

static __always_inline bool is_live(u64 life)
{
	return STATE(life) >= UNANSWERED;
}

/* The flow that `ref` meant, while it lives. */
static __always_inline struct flow *flow_of(const struct flow_ref *ref)
{
	struct flow *flow = flow_at(ref->index);
	u64 life;

	if (!flow)
		return NULL;
	life = READ_ONCE(flow->life);
	return is_live(life) && (u32)GENERATION(life) == ref->generation ? flow : NULL;
}

static __always_inline struct flow *flow_by_key(const struct flow_key *key, struct flow_ref *ref)
{
	struct flow_ref *found = bpf_map_lookup_elem(&flow_refs, key);

	if (!found)
		return NULL;
	*ref = *found;
	return flow_of(ref);
}

/* Ends a flow of this life, with all that it holds; false if it has another life by now. */
static __noinline bool end_flow(struct flow *flow, u64 life, enum end reason)
{
	struct listener_state *state;
	struct listener *listener;
	struct counts *counts;
	u32 number;

	if (!swap_life(flow, life, LIFE(GENERATION(life), BUSY)))
		return false;
	number = flow->route.listener;
	bpf_map_delete_elem(&flow_refs, &flow->key);
	listener = bpf_map_lookup_elem(&listeners, &number);
	state = bpf_map_lookup_elem(&listener_states, &number);
	counts = counts_of(number);
	if (listener && state && counts) {
		if (counts_clients(listener))
			client_release(listener, &flow->key, number, false);
		__sync_fetch_and_sub(&state->active, 1);
		if (reason < ENDS)
			__sync_fetch_and_add(&counts->ended[reason], 1);
	}
	swap_life(flow, LIFE(GENERATION(life), BUSY), LIFE(GENERATION(life), FREE));
	return true;
}

/*
 * Makes room: ends the listener's oldest flow that has never been answered. Flows are looked at in the order in which
 * they began, each once: one that has been answered by then, or ended, is never looked at again. Gives the place that
 * is free now, or NOWHERE.
 */
static __noinline u32 evict_oldest(const struct listener *listener, struct listener_state *state)
{
	u64 size = (u64)listener->ring_mask + 1, oldest, from, end;
	struct flow_ref *entry;
	struct flow *flow;
	u64 life;
	u32 at;

	for (int i = 0; i < EVICTION_TRIES; i++) {
		oldest = READ_ONCE(state->oldest);
		end = READ_ONCE(state->opened);
		if (oldest >= end)
			break;
		from = end - oldest > size ? end - size : oldest;
		if (__sync_val_compare_and_swap(&state->oldest, oldest, from + 1) != oldest)
			continue;
		at = listener->ring_start + (u32)(from & listener->ring_mask);
		entry = bpf_map_lookup_elem(&order, &at);
		if (!entry)
			break;
		flow = flow_at(entry->index);
		life = LIFE(entry->generation, UNANSWERED);
		if (flow && READ_ONCE(flow->life) == life && end_flow(flow, life, END_EVICTED))
			return entry->index;
	}
	return NOWHERE;
}

static __always_inline struct flow *take(u32 index, struct flow_ref *ref)
{
	struct flow *flow = flow_at(index);
	u64 life;

	if (!flow)
		return NULL;
	life = READ_ONCE(flow->life);
	if (STATE(life) != FREE || !swap_life(flow, life, LIFE(GENERATION(life) + 1, BUSY)))
		return NULL;
	ref->index = index;
	ref->generation = (u32)(GENERATION(life) + 1);
	return flow;
}

/* Takes a NAT port for the flow: pseudo-random ones until one is free. */
static __always_inline struct flow *reserve(u32 seed, u32 step, bool v6, struct flow_ref *ref)
{
	u32 addresses = v6 ? nat_v6 : nat_v4, first = v6 ? nat_v4 : 0, at = seed, address, port;
	struct flow *flow;

	for (int i = 0; i < PORT_PROBES; i++) {
		address = first + ((at >> 16) * addresses >> 16);
		port = nat_first + ((at & 0xffff) * nat_count >> 16);
		flow = take(address << 16 | port, ref);
		if (flow)
			return flow;
		at += step;
	}
	return NULL;
}

/* Where to look for a port: unlike the flow hash, also different for each flow of a client with affinity. */
static __always_inline u64 port_seed(u64 hash, const struct flow_key *key)
{
	u64 x = hash ^ ((u64)key->client_port << 16 | key->vip_port) * 0x9e3779b97f4a7c15ull ^ key->vip.word[3];

	x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

/* Opens a flow for a packet that has none, into `passage`. Gives -1, or why not. */
static __noinline int open_flow(struct passage *passage, const struct flow_key *key, struct listener *listener, u32 number,
				bool v6)
{
	struct listener_state *state = bpf_map_lookup_elem(&listener_states, &number);
	u64 hash, seed, position;
	union route route = { .listener = number };
	struct table *table;
	struct flow_ref *entry;
	struct flow *flow;
	int refused;
	u32 at;

	if (!listener || !state)
		return DROP_LOCAL_ERROR;
	table = table_of(listener);
	if (!table)
		return DROP_LOCAL_ERROR;
	if (!key->client_port)
		return DROP_NO_SOURCE_PORT;
	if (is_nobody(&key->client, v6))
		return DROP_INVALID_SOURCE;
	hash = flow_hash(hash_seed, key, listener->flags & LISTENER_SOURCE_IP);
	route.slot = hash >> 48;
	if (!choose(table, key, v6, &route))
		return DROP_NO_ENDPOINT;
	if (listener->flags & LISTENER_DRAINING)
		return DROP_DRAINING;
	if (!is_admitted(listener, key))
		return DROP_DENIED;

	/* A client that asks too much is refused before others' flows have to make room for it. */
	if (counts_clients(listener)) {
		refused = client_admit(listener, key, number, passage->now);
		if (refused >= 0)
			return refused;
	}
	refused = DROP_FLOW_LIMIT;
	if (__sync_fetch_and_add(&state->active, 1) >= listener->max_flows &&
	    evict_oldest(listener, state) == NOWHERE)
		goto release;

	seed = port_seed(hash, key);
	flow = reserve((u32)seed, (u32)(seed >> 32) | 1, v6, &passage->ref);
	refused = DROP_NO_NAT_PORT;
	if (!flow) {
		at = evict_oldest(listener, state);
		flow = at == NOWHERE || (at >> 16 >= nat_v4) != v6 ? NULL : take(at, &passage->ref);
		if (!flow)
			goto release;
	}
	flow->key = *key;
	flow->route.whole = route.whole;
	flow->last = passage->now;
	swap_life(flow, LIFE(passage->ref.generation, BUSY), LIFE(passage->ref.generation, UNANSWERED));

	if (bpf_map_update_elem(&flow_refs, key, &passage->ref, BPF_NOEXIST)) {
		/* Another processor was faster with the same flow: then that one is the flow. */
		swap_life(flow, LIFE(passage->ref.generation, UNANSWERED), LIFE(passage->ref.generation, FREE));
		passage->flow = flow_by_key(key, &passage->ref);
		refused = passage->flow ? -1 : DROP_LOCAL_ERROR;
		goto release;
	}
	passage->flow = flow;
	count_pinned(route.endpoint);
	position = __sync_fetch_and_add(&state->opened, 1);
	at = listener->ring_start + (u32)(position & listener->ring_mask);
	entry = bpf_map_lookup_elem(&order, &at);
	if (entry)
		*entry = passage->ref;
	return -1;

release:
	__sync_fetch_and_sub(&state->active, 1);
	if (counts_clients(listener))
		client_release(listener, key, number, true);
	return refused;
}
