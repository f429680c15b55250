// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * For benches/live_frames.rs: makes frames as a NIC would receive them, and takes them off again. Never part of an edge.
 */
#include "uapi.h"

/* Ethernet, IPv4 and UDP. */
#define HEAD 42

/* What to send. Written by the benchmark. */
struct sending {
	u8 head[HEAD]; /* of a packet from address 0 and port 0, with checksums */
	u16 honest_port; /* network order */
	u32 honest; /* the address that every so many come from, in network order, */
	u32 every;  /* namely this many; 0: none */
	u32 first;  /* the addresses that the others come from, from here on in host order, */
	u32 addresses; /* this many of them */
	u32 flows;
	u32 next; /* of the flows */
	u32 until; /* the next honest one */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct sending);
} sending SEC(".maps");

/* Frames that arrived. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} arrived SEC(".maps");

static __always_inline u16 sum_with(u16 check, u32 address, u16 port)
{
	u32 sum = (u16)~check + (address & 0xffff) + (address >> 16) + port;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Pages come again with what was in them, so the whole head is written each time. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = data + ETH_HLEN + sizeof(*ip);
	u32 zero = 0, address, flow;
	struct sending *s = bpf_map_lookup_elem(&sending, &zero);
	u16 port;

	if (!s || data + HEAD > end || !s->addresses)
		return XDP_ABORTED;
	if (s->every && !s->until--) {
		s->until = s->every - 1;
		address = s->honest;
		port = s->honest_port;
	} else {
		flow = s->next++;
		if (s->next >= s->flows)
			s->next = 0;
		address = swap32(s->first + flow % s->addresses);
		port = swap16(1024 + flow / s->addresses);
	}
	__builtin_memcpy(data, s->head, HEAD);
	ip->saddr = address;
	ip->check = sum_with(ip->check, address, 0);
	udp->source = port;
	udp->check = sum_with(udp->check, address, port);
	return XDP_TX;
}

/* Neighbours' talk does not count. */
static __always_inline void count(void *data, void *end)
{
	struct iphdr *ip = data + ETH_HLEN;
	struct ethhdr *eth = data;
	u32 zero = 0;
	u64 *frames = bpf_map_lookup_elem(&arrived, &zero);

	if (frames && (void *)(ip + 1) <= end && eth->h_proto == swap16(ETH_P_IP) && ip->protocol == IPPROTO_UDP)
		++*frames;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	count((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return XDP_DROP;
}

SEC("classifier")
int sink_skb(struct __sk_buff *skb)
{
	count((void *)(long)skb->data, (void *)(long)skb->data_end);
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual MIT/GPL";
