/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The edge itself answers a packet that is too large for the device it would leave by: with an ICMP error from the
 * address that the packet came to, so that its sender finds the path's MTU.
 */
#pragma once

#include "packet.h"
#include "rewrite.h"

#define ICMP_FRAG_NEEDED 4
#define QUOTED_BODY 8 /* bytes behind the IP header */
#define ERROR_TTL 64

/* The message: a header as ICMP and ICMPv6 have it, and the beginning of the packet. */
struct too_big {
	u8 type;
	u8 code;
	u16 check;
	u32 mtu;
	u8 quote[sizeof(struct ipv6hdr) + QUOTED_BODY];
};

#define V4_QUOTE (sizeof(struct iphdr) + QUOTED_BODY)
#define V6_QUOTE (sizeof(struct ipv6hdr) + QUOTED_BODY)
#define MESSAGE(quoted) (offsetof(struct too_big, quote) + (quoted))

/* Makes the frame long enough for an Ethernet header, an IP header and a message with this quote. */
static __always_inline bool resize(struct __sk_buff *skb, u32 header, u32 quote)
{
	return !bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) &&
	       !bpf_skb_adjust_room(skb, header + (MESSAGE(quote) - quote), BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline bool answer_v4(struct __sk_buff *skb, const struct packet *p, u32 mtu)
{
	struct too_big message = { .type = 3 /* unreachable */, .code = ICMP_FRAG_NEEDED, .mtu = swap32(mtu) };
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = swap16(sizeof(ip) + MESSAGE(V4_QUOTE)),
		.ttl = ERROR_TTL,
		.protocol = IPPROTO_ICMP,
		.saddr = p->dst.word[3],
		.daddr = p->src.word[3],
	};

	if (!load(skb, ETH_HLEN, message.quote, V4_QUOTE) || !resize(skb, sizeof(ip), V4_QUOTE))
		return false;
	ip.check = ~fold(bpf_csum_diff(NULL, 0, &ip, sizeof(ip), 0));
	message.check = ~fold(bpf_csum_diff(NULL, 0, &message, MESSAGE(V4_QUOTE), 0));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &message, MESSAGE(V4_QUOTE), 0);
}

static __always_inline bool answer_v6(struct __sk_buff *skb, const struct packet *p, u32 mtu)
{
	struct too_big message = { .type = ICMPV6_PKT_TOOBIG, .mtu = swap32(mtu) };
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = swap16(MESSAGE(V6_QUOTE)),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = ERROR_TTL,
	};
	u64 sum;

	if (!load(skb, ETH_HLEN, message.quote, V6_QUOTE) || !resize(skb, sizeof(ip), V6_QUOTE))
		return false;
	__builtin_memcpy(&ip.saddr, &p->dst, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &p->src, sizeof(ip.daddr));
	/* Both addresses, the length and the protocol are summed as if they stood before the message. */
	sum = (u32)bpf_csum_diff(NULL, 0, &ip.saddr, 2 * sizeof(ip.saddr), 0);
	sum += swap32(MESSAGE(V6_QUOTE)) + (u64)swap32(IPPROTO_ICMPV6);
	message.check = ~fold(sum + (u32)bpf_csum_diff(NULL, 0, &message, MESSAGE(V6_QUOTE), 0));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &message, MESSAGE(V6_QUOTE), 0);
}

/* Turns the packet, which was dropped and counted, into an answer to its sender. */
__global int answer_too_big(struct __sk_buff *skb, const struct packet *p, u32 mtu)
{
	u8 macs[2 * ETH_ALEN];

	/* Of a datagram in fragments the first is enough, and of a super-packet the first of its datagrams. */
	if (!p || p->odd & FRAGMENT_LATER || !load(skb, ETH_ALEN, macs, ETH_ALEN) ||
	    !load(skb, 0, macs + ETH_ALEN, ETH_ALEN))
		return TC_ACT_SHOT;
	if (!(p->v6 ? answer_v6(skb, p, mtu) : answer_v4(skb, p, mtu)) ||
	    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}
