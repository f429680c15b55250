/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The reverse path filter of IPv4, as the host asks it of what comes to its sockets (rp_filter): a new flow's packet must
 * come from where the host would answer to. Packets of flows in being are not asked.
 */
#pragma once

#include "packet.h"

/* Whether the host's routing has no way back to the sender, or, if the filter is strict, not by where the packet came in. */
static __noinline bool leads_elsewhere(void *ctx, const struct packet *p, const struct reverse_path *asked)
{
	struct bpf_fib_lookup fib = {
		.family = 2, /* AF_INET */
		.l4_protocol = p->protocol,
		.sport = p->dport,
		.dport = p->sport,
		.ipv4_src = p->dst.word[3],
		.ipv4_dst = p->src.word[3],
		.ifindex = asked->from,
	};
	struct reverse_path *by;
	u32 device;

	switch (bpf_fib_lookup(ctx, &fib, sizeof(fib), BPF_FIB_LOOKUP_SKIP_NEIGH)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		break;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return true;
	default:
		/* There is a way that cannot be told here; or no answer at all, and then none to the packet's own question. */
		return false;
	}
	if (asked->filter != RP_FILTER_STRICT)
		return false;
	device = fib.ifindex;
	if (device == asked->group)
		return false;
	by = bpf_map_lookup_elem(&reverse_paths, &device);
	return !by || by->group != asked->group;
}

static __always_inline bool comes_from_elsewhere(void *ctx, const struct packet *p)
{
	u32 zero = 0, *count = bpf_map_lookup_elem(&reverse_path_count, &zero);
	struct reverse_path *asked;

	if (!count || !READ_ONCE(*count) || p->v6)
		return false;
	asked = bpf_map_lookup_elem(&reverse_paths, &p->device);
	return asked && asked->filter && leads_elsewhere(ctx, p, asked);
}
