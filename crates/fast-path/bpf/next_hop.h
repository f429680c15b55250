/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The way out. It is found before anything is written, so that a packet that cannot go on is dropped as it came.
 *
 * The host's routing is asked once or twice a second for each flow and direction, and whenever the epoch has changed; in
 * between the flow remembers. A flow that seldom has a packet does not: the cache line would cost more than the question.
 * An answer is stored under the epoch that was read before the question: if something changed meanwhile, it is not used
 * again. A way without its neighbour's address is not stored.
 */
#pragma once

#include "flows.h"

/* What stands for when a way was asked for. To be taken before the question. */
static __always_inline u64 way_moment(const struct passage *passage)
{
	u32 zero = 0, *count = bpf_map_lookup_elem(&epoch, &zero);

	return (SECOND(passage->now)) << 32 | (count ? READ_ONCE(*count) : 0);
}

/* Odd constants without a pattern: two that differ in anything differ in their sums, but for one chance in 2^64. */
static __always_inline u64 way_check(const union way *way, const struct packet *p, const struct passage *passage, u64 moment)
{
	return way->word[0] * 0x9e3779b97f4a7c15ull + way->word[1] * 0xbf58476d1ce4e5b9ull +
	       way->word[2] * 0x94d049bb133111ebull + moment * 0xff51afd7ed558ccdull +
	       passage->route.whole * 0xc4ceb9fe1a85ec53ull +
	       ((u64)passage->ref.generation << 32 | p->device) * 0xd6e8feb86659fd93ull;
}

static __always_inline int unreachable(enum direction direction)
{
	return -1 - (direction == TO_CLIENT ? DROP_CLIENT_UNREACHABLE : DROP_ENDPOINT_UNREACHABLE);
}

/*
 * Asks the host's routing. 0 if `way` has the way out, 1 if the neighbour's address is still to be found, or -1 - the
 * reason to drop. `ctx` is the program's.
 */
static __noinline int ask_way(void *ctx, const struct packet *p, const struct translation *t, enum direction direction,
			      union way *way)
{
	struct bpf_fib_lookup fib = {
		.family = p->v6 ? 10 : 2, /* AF_INET6, AF_INET */
		.l4_protocol = p->protocol,
		.sport = t->sport,
		.dport = t->dport,
		.tot_len = p->length,
		.ifindex = p->device,
	};
	long answer;

	if (p->v6) {
		__builtin_memcpy(fib.ipv6_src, &t->src, 16);
		__builtin_memcpy(fib.ipv6_dst, &t->dst, 16);
	} else {
		fib.ipv4_src = t->src.word[3];
		fib.ipv4_dst = t->dst.word[3];
	}
	answer = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	way->ifindex = fib.ifindex;
	way->mtu = fib.mtu_result ? fib.mtu_result : 0xffff;
	__builtin_memcpy(way->dmac, fib.dmac, ETH_ALEN);
	__builtin_memcpy(way->smac, fib.smac, ETH_ALEN);
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return 0;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return 1;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return -1 - DROP_TOO_BIG;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return -1 - DROP_FORWARDING_OFF;
	default:
		return unreachable(direction);
	}
}

/* As ask_way, of a flow's packet: as the flow remembers it, if it does. */
static __always_inline int way_out(void *ctx, const struct packet *p, const struct translation *t,
				   const struct passage *passage, union way *way)
{
	union way *kept = &passage->flow->way[passage->direction & 1];
	u64 moment;
	int answer;

	if (!passage->warm)
		return ask_way(ctx, p, t, passage->direction, way);
	moment = way_moment(passage);
	for (int i = 0; i < 4; i++)
		way->word[i] = READ_ONCE(kept->word[i]);
	if (way->check == way_check(way, p, passage, moment) && way->ifindex)
		return p->length > way->mtu ? -1 - DROP_TOO_BIG : 0;
	way->word[2] = 0;
	answer = ask_way(ctx, p, t, passage->direction, way);
	if (answer)
		return answer;
	way->check = way_check(way, p, passage, moment);
	for (int i = 0; i < 4; i++)
		WRITE_ONCE(kept->word[i], way->word[i]);
	return 0;
}
