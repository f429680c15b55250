/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* A flow leaves its endpoint for another, without a moment in which its packets find no flow. */
#pragma once

#include "flows.h"

/*
 * Goes on with a transparent flow, which this processor holds as MOVING, under a NAT address: the endpoint that it moves
 * to has another flow from the client's port. Its place in the listener's ring is not kept: should it never be answered,
 * it ends by its timeout.
 */
static __noinline int fall_back(struct passage *passage, struct flow *old, const union route *to, bool v6)
{
	u64 hash = place_hash(&old->key), life;
	struct flow_ref ref;
	struct flow *flow;
	struct pool pool;

	pool_of(&pool, false, v6);
	flow = reserve(&pool, hash, &ref) ? flow_at(ref.index) : NULL;
	if (!flow)
		return pool.blocks ? DROP_NO_NAT_PORT : DROP_CLIENT_IP_IN_USE;
	flow->key = old->key;
	flow->route.whole = to->whole;
	flow->last = passage->now;
	life = READ_ONCE(old->life);
	swap_life(flow, LIFE(ref.generation, BUSY), LIFE(ref.generation, STATE(life) & ANSWERED));
	bpf_map_update_elem(&flow_refs, &flow->key, &ref, BPF_EXIST);
	set_tag(ref.index, tag_of(hash));
	set_tag(passage->ref.index, 0);
	disclaim(&old->key, &old->route, passage->ref.index);
	/* Nobody else ends it while it moves; what others may have added is that it was answered. */
	__sync_lock_test_and_set(&old->life, LIFE(GENERATION(life), FREE));
	passage->flow = flow;
	passage->ref = ref;
	count_fallback(to->listener);
	return -1;
}

/* Whether the endpoint sees no difference: one address and port may have two names, or a new one after a reload. */
static __noinline bool lead_alike(const union route *one, const union route *other)
{
	const struct endpoint *a = endpoint_of(one->endpoint), *b = endpoint_of(other->endpoint);

	return a && b && one->port == other->port && a->address.half[0] == b->address.half[0] &&
	       a->address.half[1] == b->address.half[1];
}

/* Moves a transparent flow. While it moves, replies find it from both endpoints, and nobody ends it. */
static __noinline int move_transparent(struct passage *passage, const union route *to, bool v6)
{
	struct flow *flow = passage->flow;
	union route from = passage->route;
	bool claims = !lead_alike(&from, to);
	int refused = -1;
	u64 life;

	if (!flow)
		return DROP_LOCAL_ERROR;
	life = READ_ONCE(flow->life);
	/* Where another processor is moving the flow, or ends it, this packet goes as if it had come just before. */
	if (!is_live(life) || STATE(life) & MOVING || (u32)GENERATION(life) != passage->ref.generation ||
	    !swap_life(flow, life, life | MOVING))
		return -1;
	passage->route.whole = READ_ONCE(flow->route.whole);
	if (passage->route.whole == from.whole && claims && claim(&flow->key, to, &passage->ref)) {
		refused = fall_back(passage, flow, to, v6);
		if (refused < 0)
			goto moved;
	} else if (passage->route.whole == from.whole) {
		WRITE_ONCE(flow->route.whole, to->whole);
		if (claims)
			disclaim(&flow->key, &from, passage->ref.index);
		__sync_fetch_and_and(&flow->life, ~(u64)MOVING);
		goto moved;
	}
	__sync_fetch_and_and(&flow->life, ~(u64)MOVING);
	return refused;
moved:
	passage->route = *to;
	count_moved(to);
	return -1;
}

/* Has the flow go to another endpoint from now on: -1, or why its packet must be dropped. */
static __always_inline int move_flow(struct passage *passage, const union route *to, bool v6)
{
	if (is_transparent(passage->ref.index))
		return move_transparent(passage, to, v6);
	WRITE_ONCE(passage->flow->route.whole, to->whole);
	passage->route = *to;
	count_moved(to);
	return -1;
}
