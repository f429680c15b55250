/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The packet's new addresses.
 *
 * Whether the checksum of a packet is complete, still to be filled in by a device (CHECKSUM_PARTIAL) or vouched for by
 * one (CHECKSUM_COMPLETE) cannot be seen here; the helpers get all three right as long as the change of addresses is
 * told apart from the change of ports.
 */
#pragma once

#include "count.h"

static __always_inline u32 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u32)sum;
}

/* What the addresses' change adds to a sum over both. */
static __always_inline u32 address_change(const struct packet *p, const struct translation *t)
{
	u64 sum = 0;

	/* In front of IPv4 addresses nothing changes. */
	for (int i = p->v6 ? 0 : 3; i < 4; i++)
		sum += (u64)(u32)~p->src.word[i] + t->src.word[i] + (u32)~p->dst.word[i] + t->dst.word[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (u32)(sum + (sum >> 32));
}

static __always_inline bool write_v4(void *data, void *end, const struct packet *p, const struct translation *t,
				     u32 change, bool carry_dscp)
{
	struct iphdr *ip = data + ETH_HLEN;
	u64 sum = change;

	if ((void *)(ip + 1) > end)
		return false;
	if (!carry_dscp) {
		/* On a little-endian host TOS is the high byte of its word, TTL the low byte of its own. */
		sum += (u16)~(ip->tos << 8) + (u16)((ip->tos & 3) << 8);
		ip->tos &= 3;
	}
	if (p->odd & (FRAGMENT_FIRST | FRAGMENT_LATER)) {
		sum += (u16)~ip->id + (u16)t->id;
		ip->id = t->id;
	}
	sum += (u16)~ip->ttl + (u16)(ip->ttl - 1);
	ip->ttl--;
	ip->check = ~fold(sum + (u16)~ip->check);
	ip->saddr = t->src.word[3];
	ip->daddr = t->dst.word[3];
	return true;
}

/* `change`: of everything in the packet so far, and in the end with this; the device's sum, if there is one, must follow. */
static __always_inline bool write_v6(void *data, void *end, const struct translation *t, u32 *change, bool carry_dscp)
{
	struct ipv6hdr *ip = data + ETH_HLEN;
	u8 *head = data + ETH_HLEN;
	u64 sum = *change;

	if ((void *)(ip + 1) > end)
		return false;
	if (!carry_dscp) {
		sum += (u16)~(head[0] | head[1] << 8) + (u16)((head[0] & 0xf0) | (head[1] & 0x3f) << 8);
		head[0] &= 0xf0;
		head[1] &= 0x3f;
	}
	sum += (u16)~(ip->hop_limit << 8) + (u16)((ip->hop_limit - 1) << 8);
	ip->hop_limit--;
	__builtin_memcpy(&ip->saddr, &t->src, 16);
	__builtin_memcpy(&ip->daddr, &t->dst, 16);
	*change = fold(sum);
	return true;
}

static __always_inline bool write_macs(void *data, void *end, const union way *way)
{
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return false;
	__builtin_memcpy(eth->h_dest, way->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, way->smac, ETH_ALEN);
	return true;
}

/* The IP header, and the Ethernet header where the neighbour is known. `change`: of the addresses. */
static __always_inline bool write_headers(struct __sk_buff *skb, const struct packet *p, const struct translation *t,
					  u32 change, const union way *way, u32 flags, bool neighbour)
{
	bool carry_dscp = flags & LISTENER_CARRY_DSCP;
	void *data, *end;
	u32 length = p->v6 ? ETH_HLEN + 40 : ETH_HLEN + 20;

	if (p->v6 && p->odd & (FRAGMENT_FIRST | FRAGMENT_LATER)) {
		if (bpf_skb_store_bytes(skb, p->id_at, &t->id, sizeof(t->id), 0))
			return false;
		change = fold((u64)change + (u32)~p->id + t->id);
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + length > end) {
		if (bpf_skb_pull_data(skb, length))
			return false;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	if (!p->v6)
		return write_v4(data, end, p, t, change, carry_dscp) && (!neighbour || write_macs(data, end, way));
	if (!write_v6(data, end, t, &change, carry_dscp) || (neighbour && !write_macs(data, end, way)))
		return false;
	bpf_csum_update(skb, change);
	return true;
}

/* Ports and checksum of a UDP header. A checksum of zero is none, and stays. */
static __always_inline bool write_udp(struct __sk_buff *skb, const struct packet *p, const struct translation *t, u32 change)
{
	u32 from = (u32)p->dport << 16 | p->sport, to = (u32)t->dport << 16 | t->sport;
	u32 check = p->l4 + offsetof(struct udphdr, check);

	return !bpf_l4_csum_replace(skb, check, 0, change, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) &&
	       !bpf_l4_csum_replace(skb, check, from, to, BPF_F_MARK_MANGLED_0 | sizeof(from)) &&
	       !bpf_skb_store_bytes(skb, p->l4, &to, sizeof(to), 0);
}

static __always_inline int send(const union way *way, bool neighbour)
{
	return neighbour ? bpf_redirect(way->ifindex, 0) : bpf_redirect_neigh(way->ifindex, NULL, 0, 0);
}
