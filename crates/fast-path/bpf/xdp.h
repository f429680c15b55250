/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The common packet before the kernel makes anything of its frame: on a NIC this costs a fraction of what `fast_path`
 * does. Everything else is passed on untouched and uncounted, and `fast_path`, which always stands behind, does it: only
 * that one can wait for a neighbour's address, answer, or follow fragments. What both do, they do by the same functions
 * on the same flows, so that packets of one flow may take either.
 *
 * There is no skb here: the checksum in the frame must be complete, as it is on the wire.
 */
#pragma once

#include "translate.h"

/* Reads an untagged frame to `mac`; false unless it is UDP as it nearly always is. */
static __always_inline bool see(void *data, void *end, const u8 *mac, struct packet *p)
{
	struct ethhdr *eth = data;
	struct udphdr *udp;

	if ((void *)(eth + 1) > end || *(u32 *)eth->h_dest != *(u32 *)mac ||
	    *(u16 *)(eth->h_dest + 4) != *(u16 *)(mac + 4))
		return false;
	if (eth->h_proto == swap16(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || *(u8 *)ip != 0x45 || ip->frag_off & swap16(0x3fff))
			return false;
		p->length = swap16(ip->tot_len);
		p->l4 = ETH_HLEN + sizeof(*ip);
		p->protocol = ip->protocol;
		p->ttl = ip->ttl;
		map_v4(&p->src, ip->saddr);
		map_v4(&p->dst, ip->daddr);
	} else if (eth->h_proto == swap16(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->version != 6)
			return false;
		p->length = sizeof(*ip) + swap16(ip->payload_len);
		p->l4 = ETH_HLEN + sizeof(*ip);
		p->protocol = ip->nexthdr;
		p->ttl = ip->hop_limit;
		p->v6 = 1;
		__builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
		__builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
		if (is_v4(&p->dst))
			return false;
	} else {
		return false;
	}
	if (p->protocol != IPPROTO_UDP || p->ttl <= 1 || ETH_HLEN + p->length > (u32)(end - data) ||
	    ETH_HLEN + p->length < p->l4)
		return false;
	p->body = ETH_HLEN + p->length - p->l4;
	p->sport = udp->source;
	p->dport = udp->dest;
	return swap16(udp->len) >= sizeof(*udp) && swap16(udp->len) <= p->body;
}

/* Ports and checksum of a UDP header: what write_udp() has the kernel do. */
static __always_inline void set_udp(struct udphdr *udp, const struct packet *p, const struct translation *t, u32 change)
{
	u32 from = (u32)p->dport << 16 | p->sport, to = (u32)t->dport << 16 | t->sport;
	u16 check;

	udp->source = t->sport;
	udp->dest = t->dport;
	if (!udp->check)
		return;
	check = ~fold((u64)(u16)~udp->check + change + (u32)~from + to);
	udp->check = check ? check : 0xffff;
}

static __always_inline bool write_frame(void *data, void *end, const struct packet *p, const struct translation *t,
					const union way *way, bool carry_dscp)
{
	u32 change = address_change(p, t);
	struct udphdr *udp = data + ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	if ((void *)(udp + 1) > end)
		return false;
	set_udp(udp, p, t, change);
	if (p->v6 ? !write_v6(data, end, t, &change, carry_dscp) : !write_v4(data, end, p, t, change, carry_dscp))
		return false;
	return write_macs(data, end, way);
}

/* Rewrites the frame and sends it on, or passes it. */
static __noinline int carry(struct xdp_md *ctx, const struct packet *p, struct passage *passage, u32 flags)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 number = passage->route.listener;
	struct listener *listener = bpf_map_lookup_elem(&listeners, &number);
	struct translation t;
	struct counts *counts;
	union way out;
	int action;

	if (!listener || !translate(passage, &t))
		return XDP_PASS;
	if (way_out(ctx, p, &t, passage, &out))
		return XDP_PASS;
	if (out.ifindex == p->device)
		action = flags & DEVICE_SENDS ? XDP_TX : XDP_PASS;
	else
		action = bpf_redirect_map(&xdp_ports, out.ifindex, XDP_PASS);
	if (action == XDP_PASS || !write_frame(data, end, p, &t, &out, listener->flags & LISTENER_CARRY_DSCP))
		return XDP_PASS;
	count_carried(1, p, number, passage->route.endpoint, passage->direction);
	counts = counts_of(number);
	if (counts)
		counts->by_xdp++;
	return action;
}

__global int client_frame(struct xdp_md *ctx, const struct packet *p, u32 number, u32 flags)
{
	struct passage passage = {};
	int refused;

	if (!p)
		return XDP_DROP;
	refused = client_passage(ctx, p, number, &passage);
	if (refused < 0 && passage.flow)
		return carry(ctx, p, &passage, flags);
	drop(number, refused);
	return XDP_DROP;
}

__global int endpoint_frame(struct xdp_md *ctx, const struct packet *p, const struct own_address *own, u32 flags)
{
	struct passage passage = {};
	u32 number;
	int refused;

	if (!p)
		return XDP_DROP;
	refused = endpoint_passage(p, own, &passage, &number);
	if (refused == NO_REPLY)
		return XDP_PASS;
	if (refused < 0 && passage.flow)
		return carry(ctx, p, &passage, flags);
	drop(number, refused);
	return XDP_DROP;
}

SEC("xdp")
int fast_path_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 number;
	struct packet p = { .device = ctx->ingress_ifindex };
	struct device *device = bpf_map_lookup_elem(&xdp_devices, &p.device);
	struct own_address *own;

	if (!device || !(device->flags & DEVICE_TAKEN) || !see(data, end, device->mac, &p))
		return XDP_PASS;
	own = own_of(&p.dst);
	if (!own)
		return transparent ? endpoint_frame(ctx, &p, own, device->flags) : XDP_PASS;
	if (own->vip && listener_at(swap16(p.dport), &number))
		return client_frame(ctx, &p, number, device->flags);
	if (is_nat_port(own, swap16(p.dport)))
		return endpoint_frame(ctx, &p, own, device->flags);
	return XDP_PASS;
}
