/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Answers the process's question by which device a packet would leave; never attached. */
#pragma once

#include "packet.h"

/*
 * The frame is an Ethernet header, then a way_question. Gives the device's index, or 0 if there is no way: what the
 * program finds for a packet that comes in at `question.device`.
 */
SEC("classifier")
int way_to(struct __sk_buff *skb)
{
	struct bpf_fib_lookup fib = {};
	struct way_question question;
	int found;

	if (!load(skb, ETH_HLEN, &question, sizeof(question)))
		return 0;
	fib.family = question.v6 ? 10 : 2; /* AF_INET6, AF_INET */
	fib.l4_protocol = IPPROTO_UDP;
	fib.ifindex = question.device;
	if (question.v6) {
		__builtin_memcpy(fib.ipv6_src, &question.src, 16);
		__builtin_memcpy(fib.ipv6_dst, &question.dst, 16);
	} else {
		fib.ipv4_src = question.src.word[3];
		fib.ipv4_dst = question.dst.word[3];
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ? (int)fib.ifindex : 0;
}
