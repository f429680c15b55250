// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Landfall's fast path: decides and forwards whole UDP listeners at the ingress of a device.
 *
 * Read in the order of a packet: packet.h, then here, reverse_path.h, flows.h (choose.h, limits.h, siphash.h, transparent.h,
 * place.h), move.h, translate.h, next_hop.h, rewrite.h.
 */
#include "move.h"
#include "translate.h"

/* The number of the listener that has UDP port `port`. */
static __always_inline bool listener_at(u16 port, u32 *number)
{
	u32 zero = 0;
	struct ports *ports = bpf_map_lookup_elem(&udp_ports, &zero);
	u16 found = ports ? ports->listener[port] : 0;

	*number = found ? found - 1 : no_listener;
	return found;
}

static __always_inline bool is_nat_port(const struct own_address *own, u16 port)
{
	return own->nat != NO_NAT && port >= nat_first && port - nat_first < nat_count;
}

/* The flow at `ref->index`, whichever it is; fills in its generation. */
static __always_inline struct flow *live_flow(struct flow_ref *ref)
{
	struct flow *flow = flow_at(ref->index);
	u64 life;

	if (!flow)
		return NULL;
	life = READ_ONCE(flow->life);
	ref->generation = (u32)GENERATION(life);
	return is_live(life) ? flow : NULL;
}

#include "icmp.h"
#include "reverse_path.h"
#include "too_big.h"
#include "way.h"

/*
 * The passage of a client's datagram: its flow, opened if there is none, moved if it must leave its endpoint. Gives -1,
 * or why it is refused.
 */
static __always_inline int client_passage(void *ctx, const struct packet *p, u32 number, struct passage *passage)
{
	struct listener *listener = bpf_map_lookup_elem(&listeners, &number);
	struct flow_key key = {
		.client = p->src,
		.vip = p->dst,
		.client_port = p->sport,
		.vip_port = p->dport,
		.protocol = IPPROTO_UDP,
	};
	struct table *table;
	int refused;
	union route moved;

	passage->direction = TO_ENDPOINT;
	passage->now = bpf_ktime_get_coarse_ns();
	if (!listener)
		return DROP_LOCAL_ERROR;
	passage->flow = flow_of_client(passage, &key, transparent && listener->flags & LISTENER_TRANSPARENT, p->v6);
	if (!passage->flow) {
		if (comes_from_elsewhere(ctx, p))
			return DROP_REVERSE_PATH;
		refused = open_flow(passage, &key, listener, number, p->v6);
		if (refused >= 0 || !passage->flow)
			return refused;
	} else {
		touch(passage);
	}
	passage->route.whole = READ_ONCE(passage->flow->route.whole);
	table = table_of(listener);
	if (table && unlikely(must_leave(table, passage->route.endpoint, listener->flags))) {
		moved = passage->route;
		if (choose(table, &key, p->v6, &moved) && moved.endpoint != passage->route.endpoint) {
			refused = move_flow(passage, &moved, p->v6);
			if (refused >= 0)
				return refused;
		}
	}
	return -1;
}

#define NO_REPLY DROPS

/*
 * The passage of a reply: only from the endpoint that the flow is at now. It is addressed to a NAT port, or, without an
 * address of ours (`own`), to the client of a transparent flow. Gives -1, or why it is refused, which is counted for
 * `*number`, or NO_REPLY: the host is to route it.
 */
static __always_inline int endpoint_passage(const struct packet *p, const struct own_address *own, struct passage *passage,
					    u32 *number)
{
	struct flow_key seen;
	u64 life;

	passage->direction = TO_CLIENT;
	passage->now = bpf_ktime_get_coarse_ns();
	if (own) {
		passage->ref.index = (u32)own->nat << 16 | swap16(p->dport);
		passage->flow = live_flow(&passage->ref);
	} else {
		seen_by(&seen, &p->src, p->sport, &p->dst, p->dport);
		passage->flow = flow_seen(&seen, &passage->ref);
		if (!passage->flow)
			return NO_REPLY;
	}
	*number = no_listener;
	if (!passage->flow)
		return DROP_NO_FLOW;
	passage->route.whole = READ_ONCE(passage->flow->route.whole);
	*number = passage->route.listener;
	if (!is_endpoint(&passage->route, &p->src, p->sport))
		return DROP_NOT_FROM_ENDPOINT;
	life = READ_ONCE(passage->flow->life);
	if (is_live(life) && (u32)GENERATION(life) == passage->ref.generation && !is_answered(life))
		swap_life(passage->flow, life, life | ANSWERED);
	touch(passage);
	return -1;
}

__global int from_client(struct __sk_buff *skb, const struct packet *p, u32 number)
{
	struct passage passage = {};
	int refused;

	if (!p)
		return TC_ACT_SHOT;
	refused = client_passage(skb, p, number, &passage);
	if (refused >= 0 || !passage.flow)
		return drop(number, refused);
	if (p->odd & FRAGMENT_FIRST)
		remember(p, &passage);
	return forward(skb, p, &passage);
}

__global int from_endpoint(struct __sk_buff *skb, const struct packet *p, const struct own_address *own)
{
	struct passage passage = {};
	u32 number;
	int refused;

	if (!p)
		return TC_ACT_SHOT;
	refused = endpoint_passage(p, own, &passage, &number);
	if (refused == NO_REPLY)
		return TC_ACT_UNSPEC;
	if (refused >= 0 || !passage.flow)
		return drop(number, refused);
	if (!own && p->odd & OPTIONS)
		return drop(number, DROP_IP_OPTIONS);
	if (p->odd & FRAGMENT_FIRST)
		remember(p, &passage);
	return forward(skb, p, &passage);
}

__global int later_fragment(struct __sk_buff *skb, const struct packet *p, const struct own_address *own)
{
	struct passage passage = { .now = bpf_ktime_get_coarse_ns() };

	if (!p)
		return TC_ACT_SHOT;
	if (!recall(p, &passage))
		return strays_to_stack || !own ? TC_ACT_UNSPEC : drop(no_listener, DROP_FRAGMENT_EARLY);
	if (p->odd & OPTIONS)
		return drop(passage.route.listener, DROP_IP_OPTIONS);
	touch(&passage);
	return forward(skb, p, &passage);
}

/* A UDP packet to one of our addresses, or perhaps to the client of a transparent flow: an action, or TOO_BIG and more. */
static __always_inline int udp(struct __sk_buff *skb, struct packet *p, const struct own_address *own)
{
	u32 number;

	if (p->odd & FRAGMENT_LATER)
		return later_fragment(skb, p, own);
	if (!parse_udp(skb, p))
		return own ? drop(no_listener, DROP_MALFORMED) : TC_ACT_UNSPEC;
	if (!own)
		return from_endpoint(skb, p, own);
	if (own->vip && listener_at(swap16(p->dport), &number))
		return p->odd & OPTIONS ? drop(number, DROP_IP_OPTIONS) : from_client(skb, p, number);
	if (is_nat_port(own, swap16(p->dport)))
		return p->odd & OPTIONS ? drop(no_listener, DROP_IP_OPTIONS) : from_endpoint(skb, p, own);
	return TC_ACT_UNSPEC;
}

#define VLAN_ID 0xfff

SEC("classifier")
int fast_path(struct __sk_buff *skb)
{
	struct own_address *own = NULL;
	struct packet p = {};
	enum parsed parsed = NOT_OURS;
	int action;

	/* A frame of a VLAN comes again, without its tag, at the device of its VLAN. Priority alone (VLAN 0) is none. */
	if ((skb->vlan_present && skb->vlan_tci & VLAN_ID) || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (skb->protocol == swap16(ETH_P_IP))
		parsed = parse_v4(skb, &p, &own);
	else if (skb->protocol == swap16(ETH_P_IPV6))
		parsed = parse_v6(skb, &p, &own);
	if (parsed == MALFORMED && own)
		return drop(no_listener, DROP_MALFORMED);
	if (parsed != OURS || !concerns(own))
		return TC_ACT_UNSPEC;
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		return drop(no_listener, DROP_LOCAL_ERROR);
	p.device = skb->ifindex;
	p.length = length_of(&p, skb->gso_size);
	if (p.protocol != IPPROTO_UDP)
		return icmp(skb, &p, own);
	action = udp(skb, &p, own);
	if (action == TC_ACT_UNSPEC && p.odd & FRAGMENT_FIRST)
		forget(&p);
	return action < TOO_BIG ? action : answer_too_big(skb, &p, action - TOO_BIG);
}

/*
 * Ends flows on the process's order; never attached. The frame is an Ethernet header, then end_orders; the mark says
 * why. A flow that something has come for since the process looked goes on.
 */
#define MOST_ORDERS 200

SEC("classifier")
int end_flows(struct __sk_buff *skb)
{
	u32 reason = skb->mark, ended = 0, at = ETH_HLEN;
	struct end_order order;
	struct flow *flow;
	u64 life;

	for (int i = 0; i < MOST_ORDERS; i++) {
		if (!load(skb, at, &order, sizeof(order)))
			break;
		at += sizeof(order);
		flow = flow_at(order.flow.index);
		if (!flow)
			continue;
		life = READ_ONCE(flow->life);
		if (is_live(life) && (u32)GENERATION(life) == order.flow.generation && flow->last == order.last &&
		    end_flow(flow, order.flow.index, life, reason))
			ended++;
	}
	return ended;
}

#include "xdp.h"

char _license[] SEC("license") = "Dual MIT/GPL";
