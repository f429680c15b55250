/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Every packet of a listener is counted once: carried, or dropped under one reason. */
#pragma once

#include "packet.h"

static __always_inline struct counts *counts_of(u32 listener)
{
	return bpf_map_lookup_elem(&listener_counts, &listener);
}

static __always_inline int drop(u32 listener, enum drop reason)
{
	struct counts *counts = counts_of(listener);

	if (counts && reason < DROPS)
		counts->drops[reason]++;
	return TC_ACT_SHOT;
}

/* One flow more that is pinned to `endpoint`. */
static __always_inline void count_pinned(u32 endpoint)
{
	struct endpoint_counts *counts = bpf_map_lookup_elem(&endpoint_counts, &endpoint);

	if (counts)
		counts->opened++;
}

static __always_inline void count_moved(const union route *to)
{
	struct counts *counts = counts_of(to->listener);

	if (counts)
		counts->moved++;
	count_pinned(to->endpoint);
}

/* A flow of a transparent listener whose endpoint sees a NAT address. */
static __always_inline void count_fallback(u32 listener)
{
	struct counts *counts = counts_of(listener);

	if (counts)
		counts->fallbacks++;
}

/* `packets`: the datagrams that a super-packet stands for, or 1. */
static __always_inline void count_carried(u64 packets, const struct packet *p, u32 listener, u32 endpoint,
					  enum direction direction)
{
	struct endpoint_counts *of_endpoint = bpf_map_lookup_elem(&endpoint_counts, &endpoint);
	struct counts *counts = counts_of(listener);
	u64 bytes = p->odd & FRAGMENT_LATER ? p->body : p->body - sizeof(struct udphdr);

	direction &= 1;
	if (counts) {
		counts->packets[direction] += packets;
		counts->bytes[direction] += bytes;
	}
	if (of_endpoint) {
		of_endpoint->packets[direction] += packets;
		of_endpoint->bytes[direction] += bytes;
	}
}
