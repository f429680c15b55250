/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * ICMP errors about a flow's packets go to whoever sent those, speaking of the packet as that side knows it. They come
 * from the static IP or the NAT address, whichever router sent them: what lies behind the edge is nobody's business. To
 * the endpoint of a transparent flow they come from the client, and from there they are addressed to the client.
 */
#pragma once

#include "translate.h"

#define TELL_INTERVAL 100000000ull /* ns between two words to the process about one endpoint */

/* <linux/icmp.h> includes headers of the C library. The headers of ICMP and ICMPv6 have one shape. */
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* The packet that an error quotes. */
struct quote {
	u32 at;	 /* where its IP header begins */
	u32 udp; /* and its UDP header */
	struct packet packet;
	u16 ip_check;
	u16 udp_check;
};

static __always_inline bool is_error(u8 type, bool v6)
{
	if (v6)
		return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

/* Reads the quoted packet; false if it is none that a flow could have sent. */
static __noinline bool read_quote(struct __sk_buff *skb, const struct packet *p, struct quote *quote)
{
	struct udphdr udp;

	quote->at = p->l4 + sizeof(struct icmp6hdr);
	quote->packet.v6 = p->v6;
	if (p->v6) {
		struct ipv6hdr ip;

		if (!load(skb, quote->at, &ip, sizeof(ip)) || ip.version != 6 || ip.nexthdr != IPPROTO_UDP)
			return false;
		__builtin_memcpy(&quote->packet.src, &ip.saddr, 16);
		__builtin_memcpy(&quote->packet.dst, &ip.daddr, 16);
		quote->ip_check = 0;
		quote->udp = quote->at + sizeof(ip);
	} else {
		struct iphdr ip;

		if (!load(skb, quote->at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl != 5 ||
		    ip.protocol != IPPROTO_UDP || swap16(ip.frag_off) & 0x1fff)
			return false;
		map_v4(&quote->packet.src, ip.saddr);
		map_v4(&quote->packet.dst, ip.daddr);
		quote->ip_check = ip.check;
		quote->udp = quote->at + sizeof(ip);
	}
	if (!load(skb, quote->udp, &udp, sizeof(udp)))
		return false;
	quote->packet.sport = udp.source;
	quote->packet.dport = udp.dest;
	quote->udp_check = udp.check;
	return true;
}

/* Writes the quoted packet anew, and the checksum of the whole message. */
static __noinline bool write_quote(struct __sk_buff *skb, const struct packet *p, const struct quote *quote,
					const struct translation *t)
{
	/* The quoted packet went the other way. */
	struct translation inner = { .src = t->dst, .dst = t->src, .sport = t->dport, .dport = t->sport };
	u32 from = (u32)quote->packet.dport << 16 | quote->packet.sport, to = (u32)inner.dport << 16 | inner.sport;
	u32 addresses = address_change(&quote->packet, &inner);
	u64 ports = (u64)~from + to, sum = (u64)addresses + ports;
	u16 ip_check, udp_check = quote->udp_check, check;

	if (udp_check) {
		udp_check = ~fold((u64)(u16)~udp_check + addresses + fold(ports));
		udp_check = udp_check ? udp_check : 0xffff;
		sum += (u16)~quote->udp_check + udp_check;
	}
	if (p->v6) {
		sum += address_change(p, t);
		if (bpf_skb_store_bytes(skb, quote->at + offsetof(struct ipv6hdr, saddr), &inner.src, 32, 0))
			return false;
	} else {
		u32 pair[2] = { inner.src.word[3], inner.dst.word[3] };

		ip_check = ~fold((u64)(u16)~quote->ip_check + addresses);
		sum += (u16)~quote->ip_check + ip_check;
		if (bpf_skb_store_bytes(skb, quote->at + offsetof(struct iphdr, check), &ip_check, 2, 0) ||
		    bpf_skb_store_bytes(skb, quote->at + offsetof(struct iphdr, saddr), pair, sizeof(pair), 0))
			return false;
	}
	if (bpf_skb_store_bytes(skb, quote->udp, &to, sizeof(to), 0) ||
	    bpf_skb_store_bytes(skb, quote->udp + offsetof(struct udphdr, check), &udp_check, 2, 0) ||
	    !load(skb, p->l4 + offsetof(struct icmp6hdr, icmp6_cksum), &check, 2))
		return false;
	check = ~fold((u64)(u16)~check + fold(sum));
	return !bpf_skb_store_bytes(skb, p->l4 + offsetof(struct icmp6hdr, icmp6_cksum), &check, 2, 0);
}

/* Tells the process that an endpoint, or a router before it, refuses; now and then is enough to have it probed. */
static __always_inline void tell(u32 endpoint, u64 now)
{
	struct endpoint_counts *counts = bpf_map_lookup_elem(&endpoint_counts, &endpoint);
	u64 *told = bpf_map_lookup_elem(&told_at, &endpoint), before;

	if (counts)
		counts->refused++;
	if (!told)
		return;
	before = READ_ONCE(*told);
	if (before && now - before < TELL_INTERVAL)
		return;
	if (__sync_val_compare_and_swap(told, before, now) == before)
		bpf_ringbuf_output(&refusals, &endpoint, sizeof(endpoint), 0);
}

/*
 * Finds the flow that sent the quoted packet, and the listener whose packet it is. False if it is none of ours; then the
 * host may have sent it.
 */
static __noinline int find_quoted(const struct quote *quote, const struct own_address *own, struct passage *passage,
				  u32 *number)
{
	const struct packet *sent = &quote->packet;
	u16 port = swap16(sent->sport);
	struct flow_key key;

	if (!own) {
		seen_by(&key, &sent->dst, sent->dport, &sent->src, sent->sport);
		passage->direction = TO_CLIENT;
		passage->flow = flow_seen(&key, &passage->ref);
		if (!passage->flow)
			return false;
	} else if (own->vip && listener_at(port, number)) {
		/* The same from the client's side. */
		seen_by(&key, &sent->src, sent->sport, &sent->dst, sent->dport);
		passage->direction = TO_ENDPOINT;
		passage->flow = flow_by_key(&key, &passage->ref);
	} else if (is_nat_port(own, port)) {
		passage->direction = TO_CLIENT;
		passage->ref.index = (u32)own->nat << 16 | port;
		passage->flow = live_flow(&passage->ref);
	} else {
		return false;
	}
	if (passage->flow) {
		passage->route.whole = READ_ONCE(passage->flow->route.whole);
		*number = passage->route.listener;
	}
	return true;
}

__global int icmp(struct __sk_buff *skb, const struct packet *p, const struct own_address *own)
{
	struct passage passage = { .now = bpf_ktime_get_coarse_ns() };
	struct quote quote = {};
	union way out = {};
	struct translation t;
	struct listener *listener;
	struct counts *counts;
	u32 number = no_listener;
	u8 type;
	int way;

	if (!p)
		return TC_ACT_SHOT;
	if (p->odd || p->body < sizeof(struct icmp6hdr) || !load(skb, p->l4, &type, 1) || !is_error(type, p->v6))
		return TC_ACT_UNSPEC;
	if (!read_quote(skb, p, &quote) || quote.packet.src.half[0] != p->dst.half[0] ||
	    quote.packet.src.half[1] != p->dst.half[1])
		return TC_ACT_UNSPEC;
	if (!find_quoted(&quote, own, &passage, &number))
		return TC_ACT_UNSPEC;
	if (!passage.flow)
		return drop(number, DROP_NO_FLOW);
	if (passage.direction == TO_CLIENT && !is_endpoint(&passage.route, &quote.packet.dst, quote.packet.dport))
		return drop(number, DROP_NOT_FROM_ENDPOINT);
	if (p->ttl <= 1)
		return drop(number, DROP_TTL);
	listener = bpf_map_lookup_elem(&listeners, &number);
	if (!listener || !translate(&passage, &t))
		return drop(number, DROP_LOCAL_ERROR);
	if (passage.direction == TO_CLIENT)
		tell(passage.route.endpoint, passage.now);
	way = ask_way(skb, p, &t, passage.direction, &out);
	if (way < 0)
		return drop(number, -1 - way);
	if (!write_quote(skb, p, &quote, &t) || !write_headers(skb, p, &t, address_change(p, &t), &out, listener->flags, way == 0))
		return drop(number, DROP_LOCAL_ERROR);
	counts = counts_of(number);
	if (counts)
		counts->icmp[passage.direction & 1]++;
	return send(&out, way == 0);
}
