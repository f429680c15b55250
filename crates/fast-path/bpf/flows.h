/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* How flows begin and end. A flow is a NAT port: whoever turns the life of a port's place from FREE to BUSY owns it. */
#pragma once

#include "choose.h"
#include "limits.h"
#include "siphash.h"

#define EVICTION_TRIES 128
#define NOWHERE (~0u)

/* A packet's flow, and which way it goes. */
struct passage {
	struct flow *flow;
	struct flow_ref ref;
	union route route;
	enum direction direction;
	bool warm; /* something came in the same second before: the flow may remember its way */
	u64 hash; /* of a client's datagram: place_hash() */
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

static __always_inline bool is_answered(u64 life)
{
	return (life & ANSWERED) == ANSWERED;
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

/* Not inline, so that the verifier sees one way in which there is none. */
static __noinline struct flow *flow_by_key(const struct flow_key *key, struct flow_ref *ref)
{
	struct flow_ref *found = bpf_map_lookup_elem(&flow_refs, key);

	if (!found)
		return NULL;
	*ref = *found;
	return flow_of(ref);
}

#include "transparent.h"
#include "place.h"

/* Gives back all that a flow held which this processor has made BUSY, and its place `index`. */
__global int clear_up(struct flow *flow, u32 index, u32 reason)
{
	struct listener_state *state;
	struct listener *listener;
	struct counts *counts;
	u32 number;
	u64 life;

	if (!flow)
		return 0;
	life = READ_ONCE(flow->life);
	number = flow->route.listener;
	set_tag(index, 0);
	bpf_map_delete_elem(&flow_refs, &flow->key);
	count_hash(place_hash(&flow->key), -1);
	disclaim(&flow->key, &flow->route, index);
	listener = bpf_map_lookup_elem(&listeners, &number);
	state = bpf_map_lookup_elem(&listener_states, &number);
	counts = counts_of(number);
	if (listener && state && counts) {
		if (counts_clients(listener))
			client_release(listener, &flow->key, number, false);
		__sync_fetch_and_sub(&state->active, 1);
		keep_in_register(reason);
		if (reason < ENDS)
			__sync_fetch_and_add(&counts->ended[reason], 1);
	}
	swap_life(flow, life, LIFE(GENERATION(life), FREE));
	return 0;
}

/* Ends the flow at `index`, of this life, with all that it holds; false if it has another life by now, or moves. */
static __always_inline bool end_flow(struct flow *flow, u32 index, u64 life, enum end reason)
{
	if (STATE(life) & MOVING || !swap_life(flow, life, LIFE(GENERATION(life), BUSY)))
		return false;
	clear_up(flow, index, reason);
	return true;
}

/*
 * Finds the listener's oldest flow that has never been answered, and makes it BUSY. Flows are looked at in the order in
 * which they began, each once: one that has been answered by then, or ended, is never looked at again. Gives its place,
 * or NOWHERE.
 */
__global u32 take_oldest(const struct listener *listener, struct listener_state *state)
{
	u64 size, oldest, end, from;
	struct flow *flow = NULL;
	u32 at = NOWHERE, generation;
	struct flow_ref *entry;

	if (!listener || !state)
		return NOWHERE;
	size = (u64)listener->ring_mask + 1;
	oldest = READ_ONCE(state->oldest);
	end = READ_ONCE(state->opened);
	from = end - oldest > size ? end - size : oldest;
	for (int i = 0; i < EVICTION_TRIES && from < end; i++, from++) {
		at = listener->ring_start + (u32)(from & listener->ring_mask);
		entry = bpf_map_lookup_elem(&order, &at);
		if (!entry)
			break;
		at = READ_ONCE(entry->index);
		generation = READ_ONCE(entry->generation);
		flow = flow_at(at);
		if (flow && swap_life(flow, LIFE(generation, UNANSWERED), LIFE(generation, BUSY)))
			break;
		flow = NULL;
	}
	/* Where another processor has been as far, this is looked at again. */
	__sync_val_compare_and_swap(&state->oldest, oldest, from + !!flow);
	return flow ? at : NOWHERE;
}

/* Makes room: ends that flow. Gives the place that is free now, or NOWHERE. */
static __always_inline u32 evict_oldest(const struct listener *listener, struct listener_state *state)
{
	u32 at = take_oldest(listener, state);
	struct flow *flow = flow_at(at);

	if (at != NOWHERE && flow)
		clear_up(flow, at, END_EVICTED);
	return at;
}

/* Opens a flow for a packet that has none, into `passage`. Gives -1, or why not. */
static __noinline int open_flow(struct passage *passage, const struct flow_key *key, struct listener *listener, u32 number,
				bool v6)
{
	struct listener_state *state = bpf_map_lookup_elem(&listener_states, &number);
	u64 hash, position;
	union route route = { .listener = number };
	struct table *table;
	struct flow_ref *entry;
	struct flow *flow, *holder;
	struct pool pool;
	u32 at;
	int refused;
	long taken;
	bool own;

	if (!listener || !state)
		return DROP_LOCAL_ERROR;
	table = table_of(listener);
	if (!table)
		return DROP_LOCAL_ERROR;
	if (!key->client_port)
		return DROP_NO_SOURCE_PORT;
	if (is_nobody(&key->client, v6))
		return DROP_INVALID_SOURCE;
	if (!is_admitted(listener, key))
		return DROP_DENIED;
	/* Where an endpoint sees such a client, its answer would be taken for a client's, and be answered for ever. */
	if (own_of(&key->client))
		return DROP_INVALID_SOURCE;
	hash = flow_hash(hash_seed, key, listener->flags & LISTENER_SOURCE_IP);
	route.slot = hash >> 48;
	if (!choose(table, key, v6, &route))
		return DROP_NO_ENDPOINT;
	if (listener->flags & LISTENER_DRAINING)
		return DROP_DRAINING;

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

	/* Where the endpoint has another flow from the client's port, this one comes from a NAT address. */
	own = transparent && listener->flags & LISTENER_TRANSPARENT;
	holder = own ? holder_of(key, &route, &passage->ref) : NULL;
	if (holder && is_same_flow(&holder->key, key)) {
		passage->flow = holder;
		refused = -1;
		goto release;
	}
	pool_of(&pool, own && !holder, v6);
	refused = DROP_CLIENT_IP_IN_USE;
	if (holder && !pool.blocks)
		goto release;
	flow = reserve(&pool, passage->hash, &passage->ref) ? flow_at(passage->ref.index) : NULL;
	refused = DROP_NO_NAT_PORT;
	if (!flow) {
		at = evict_oldest(listener, state);
		flow = (at >> 16) - pool.block < pool.blocks ? take(at, &passage->ref) : NULL;
		if (!flow)
			goto release;
	}
	flow->key = *key;
	flow->route.whole = route.whole;
	flow->last = passage->now;
	swap_life(flow, LIFE(passage->ref.generation, BUSY), LIFE(passage->ref.generation, UNANSWERED));
	count_hash(passage->hash, 1);

	taken = claim(key, &route, &passage->ref);
	if (!taken) {
		taken = bpf_map_update_elem(&flow_refs, key, &passage->ref, BPF_NOEXIST);
		if (taken)
			disclaim(key, &route, passage->ref.index);
	}
	if (taken) {
		count_hash(passage->hash, -1);
		/* Whatever came for it meanwhile. */
		__sync_lock_test_and_set(&flow->life, LIFE(passage->ref.generation, FREE));
		/* Another processor was faster with the same flow: then that one is the flow. */
		passage->flow = flow_by_key(key, &passage->ref);
		if (!passage->flow && own) {
			holder = holder_of(key, &route, &passage->ref);
			passage->flow = holder && is_same_flow(&holder->key, key) ? holder : NULL;
		}
		refused = passage->flow ? -1 : own ? DROP_CLIENT_IP_IN_USE : DROP_LOCAL_ERROR;
		goto release;
	}
	set_tag(passage->ref.index, tag_of(passage->hash));
	/* If it has ended already, nobody else would take the tag away, and the place would be taken for good. */
	if (!flow_of(&passage->ref))
		set_tag(passage->ref.index, 0);
	if (holder)
		count_fallback(number);
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
