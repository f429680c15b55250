/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* A frame becomes a packet: addresses, ports, and what is odd about it. Nothing is written. */
#pragma once

#include "maps.h"

#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2 /* has no ports */
#define OPTIONS 4	 /* IPv4 options, or IPv6 extension headers other than the fragment header */

#define NEXT_HOPOPTS 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTH 51
#define NEXT_DESTOPTS 60
#define MOST_EXTENSIONS 4

struct packet {
	union address src;
	union address dst;
	u16 sport; /* network order */
	u16 dport;
	u32 device; /* that it came by */
	u32 length; /* of the IP packet; of a super-packet, that of each it stands for */
	u32 l4;	  /* offset of the transport header in the frame */
	u32 body; /* bytes behind the IP headers */
	u32 id;	  /* of the datagram, if it is in fragments, */
	u32 id_at; /* and where it stands in an IPv6 packet */
	u8 protocol;
	u8 ttl;
	u8 v6;
	u8 odd;
};

/* Where a packet goes instead. */
struct translation {
	union address src;
	union address dst;
	u16 sport;
	u16 dport;
	u32 id; /* of its datagram, if it is in fragments */
};

/* How long the IP packets are on the wire; a device makes them of `segment` bytes behind the UDP header each. */
static __always_inline u32 length_of(const struct packet *p, u32 segment)
{
	u32 body = segment ? segment + sizeof(struct udphdr) : p->body;

	return p->l4 - ETH_HLEN + (body < p->body ? body : p->body);
}

static __always_inline bool is_v4(const union address *address)
{
	return address->half[0] == 0 && address->word[2] == swap32(0xffff);
}

/* What this address is, if it is one of the edge's. */
static __always_inline struct own_address *own_of(const union address *address)
{
	const volatile u64 *by = own_keys;
	u32 at = (address->half[0] * by[0] + address->half[1] * by[1]) >> (64 - OWN_BITS);
	struct own_slot *slot = bpf_map_lookup_elem(&own_addresses, &at);

	if (!slot || !slot->taken || slot->address.half[0] != address->half[0] || slot->address.half[1] != address->half[1])
		return NULL;
	return &slot->own;
}

enum parsed { NOT_OURS, OURS, MALFORMED };

static __always_inline void map_v4(union address *to, u32 v4)
{
	to->half[0] = 0;
	to->word[2] = swap32(0xffff);
	to->word[3] = v4;
}

static __always_inline bool load(struct __sk_buff *skb, u32 offset, void *to, u32 length)
{
	return bpf_skb_load_bytes(skb, offset, to, length) == 0;
}

/* Whether a packet may concern a flow: replies to transparent flows are addressed to clients. */
static __always_inline bool concerns(const struct own_address *own)
{
	return own || transparent;
}

static __always_inline enum parsed parse_v4(struct __sk_buff *skb, struct packet *p, struct own_address **own)
{
	struct iphdr ip;
	u32 header, total, fragment;

	if (!load(skb, ETH_HLEN, &ip, sizeof(ip)))
		return NOT_OURS;
	map_v4(&p->dst, ip.daddr);
	*own = own_of(&p->dst);
	if (!concerns(*own) || (ip.protocol != IPPROTO_UDP && ip.protocol != IPPROTO_ICMP))
		return NOT_OURS;
	map_v4(&p->src, ip.saddr);
	header = ip.ihl * 4;
	total = swap16(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || total < header || ETH_HLEN + total > skb->len)
		return MALFORMED;
	fragment = swap16(ip.frag_off);
	if (fragment & 0x1fff)
		p->odd = FRAGMENT_LATER;
	else if (fragment & 0x2000)
		p->odd = FRAGMENT_FIRST;
	if (header > sizeof(ip))
		p->odd |= OPTIONS;
	p->id = ip.id;
	p->protocol = ip.protocol;
	p->ttl = ip.ttl;
	p->l4 = ETH_HLEN + header;
	p->body = total - header;
	return OURS;
}

static __always_inline bool is_extension(u8 next)
{
	return next == NEXT_HOPOPTS || next == NEXT_ROUTING || next == NEXT_DESTOPTS || next == NEXT_AUTH;
}

static __noinline enum parsed parse_v6(struct __sk_buff *skb, struct packet *p, struct own_address **own)
{
	struct {
		u8 next, length;
		u16 offset;
		u32 id;
	} extension;
	struct ipv6hdr ip;
	u32 end, length;
	u8 next;

	if (!load(skb, ETH_HLEN, &ip, sizeof(ip)))
		return NOT_OURS;
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	/* It would be taken for that IPv4 address. */
	if (is_v4(&p->dst))
		return NOT_OURS;
	*own = own_of(&p->dst);
	if (!concerns(*own))
		return NOT_OURS;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	p->v6 = 1;
	p->ttl = ip.hop_limit;
	p->l4 = ETH_HLEN + sizeof(ip);
	next = ip.nexthdr;
	end = p->l4 + swap16(ip.payload_len);
	if (ip.version != 6 || end > skb->len)
		return MALFORMED;
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		if (!is_extension(next) && next != NEXT_FRAGMENT)
			break;
		if (p->l4 + sizeof(extension) > end || !load(skb, p->l4, &extension, sizeof(extension)))
			return NOT_OURS;
		length = (extension.length + 1) * 8;
		if (next == NEXT_FRAGMENT) {
			length = sizeof(extension);
			p->id = extension.id;
			p->id_at = p->l4 + offsetof(typeof(extension), id);
			if (swap16(extension.offset) & 0xfff8)
				p->odd |= FRAGMENT_LATER;
			else if (swap16(extension.offset) & 1)
				p->odd |= FRAGMENT_FIRST;
		} else if (next == NEXT_AUTH) {
			length = (extension.length + 2) * 4;
			p->odd |= OPTIONS;
		} else {
			p->odd |= OPTIONS;
		}
		next = extension.next;
		p->l4 += length;
		if (p->odd & FRAGMENT_LATER)
			break;
	}
	if (next != IPPROTO_UDP && next != IPPROTO_ICMPV6)
		return NOT_OURS;
	if (p->l4 > end)
		return MALFORMED;
	p->protocol = next;
	p->body = end - p->l4;
	return OURS;
}

/* Fills in what a UDP header says; false if it cannot be true. */
static __always_inline bool parse_udp(struct __sk_buff *skb, struct packet *p)
{
	struct udphdr udp;
	u32 length;

	if (p->body < sizeof(udp) || !load(skb, p->l4, &udp, sizeof(udp)))
		return false;
	p->sport = udp.source;
	p->dport = udp.dest;
	length = swap16(udp.len);
	/* The first fragment states the length of the whole datagram. */
	return length >= sizeof(udp) && (length <= p->body || p->odd & FRAGMENT_FIRST);
}
