/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * What the program and the process share. src/layout.rs mirrors every structure here; a test compares the sizes with
 * those of the maps.
 */
#pragma once

#include "uapi.h"

#define SLOTS 65536
#define PORTS 65536
#define NO_ENDPOINT 0xffff
#define NO_NAT 0xffff
#define ID_COUNTS 4096
#define NAT_ADDRESSES 64 /* of both families together */
#define OWN_BITS 12
#define OWN_SLOTS (1 << OWN_BITS)
#define DEVICES 65536
#define DENIED_LINES 16384

enum direction { TO_ENDPOINT = 0, TO_CLIENT = 1 };

/* An IPv6 address, or an IPv4 address mapped into ::ffff:0:0/96. In network order. */
union address {
	u8 byte[16];
	u32 word[4];
	u64 half[2];
};

/* A flow as its client sees it; ports in network order, padding zero. */
struct flow_key {
	union address client;
	union address vip;
	u16 client_port;
	u16 vip_port;
	u8 protocol;
	u8 zero[3];
};

/*
 * A flow's life: generation << 8 | state, changed only by compare-and-swap. A flow of one generation never comes back,
 * so whoever remembers a life can tell whether the place belongs to another flow by now.
 */
enum state {
	FREE = 0,	/* the port may be taken */
	BUSY = 1,	/* one processor is filling it in, or clearing it up */
	UNANSWERED = 2, /* the endpoint has not sent anything yet */
	ANSWERED = 3,
	MOVING = 4, /* with one of the two before: one processor is moving it, and nobody may end it */
};

#define STATE(life) ((life) & 0xff)
#define GENERATION(life) ((life) >> 8)
#define LIFE(generation, state) ((u64)(generation) << 8 | (state))

/* Where a flow goes. Eight bytes, so that one store moves a flow as a whole. */
union route {
	struct {
		u16 endpoint;
		u16 port; /* the endpoint's, in network order */
		u16 slot;
		u16 listener;
	};
	u64 whole;
};

#define SECOND(ns) ((ns) >> 30) /* about one */

/*
 * The way out, as the host's routing gave it last. `check` is over all of it, over what it was asked for and over when:
 * a reader who meets a way that is half written, another flow's, an earlier endpoint's or too old finds that it is wrong.
 */
union way {
	struct {
		u32 ifindex;
		u16 mtu; /* the largest IP packet; 65535: any */
		u8 dmac[6];
		u8 smac[6];
		u8 zero[6];
		u64 check;
	};
	u64 word[4];
};

/*
 * Two cache lines. Its index is NAT address << 16 | NAT port: the port is the flow. Behind the NAT addresses come places
 * of transparent flows, whose index means nothing else.
 */
struct flow {
	u64 life;
	u64 last; /* bpf_ktime_get_coarse_ns of the latest packet in either direction */
	struct flow_key key;
	union route route;
	union way way[2]; /* by direction */
};

/* What a client's packet finds, and a reply that is addressed to the client. */
struct flow_ref {
	u32 index;
	u32 generation;
};

/* A listener's answers, and whom its flows must leave: endpoint_group's ListenerTable, as it stands. */
struct table {
	u16 slot[SLOTS];
	u64 leaving[SLOTS / 64]; /* unless the listener keeps its flows where they are */
	u64 ending[SLOTS / 64];
};

#define LISTENER_SOURCE_IP 1 /* client affinity: the client's address alone */
#define LISTENER_KEEP 2	     /* flows stay at an endpoint that is unhealthy */
#define LISTENER_CARRY_DSCP 4
#define LISTENER_DRAINING 8 /* no new flow */
#define LISTENER_TRANSPARENT 16 /* endpoints see the client's own address and port */

/* Where a list is to be looked for. */
#define LISTS_ALLOW 0x10000000 /* only whom `allowed` has, */
#define LISTS_ALLOW_HOSTS 0x20000000 /* or `allowed_hosts`; */
#define LISTS_DENY 0x40000000 /* nobody whom `denied` has, */
#define LISTS_DENY_HOSTS 0x80000000 /* nor `denied_hosts`, */
#define LISTS_LINES 0xff /* nor its lines: the logarithm of how many there are, and one; 0: none */
#define FIRST_LINE(where) (((where) & 0xfffffff) >> 8)

/* Whom a listener serves. One store puts all of it in force, so it is read by one. */
union lists {
	struct {
		u32 version; /* in `allowed`, `denied` and their like */
		u32 where;   /* LISTS_* | FIRST_LINE */
	};
	u64 whole;
};

/* Written by the process alone. */
struct listener {
	u32 table; /* which of `tables` is in force */
	u32 flags;
	union lists lists;
	u32 max_flows;
	u32 max_flows_per_client; /* 0: no limit */
	u32 ring_start;		  /* of its part of `order` */
	u32 ring_mask;
	u64 gap;   /* between two new flows of a client, in ns; 0: no limit */
	u64 burst; /* how far ahead of now a client's bucket may be, in ns */
};

/* Written by the program alone. */
struct listener_state {
	u64 active;
	u64 opened; /* the end of `order` */
	u64 oldest; /* where to look for the oldest unanswered flow */
};

#define ENDPOINT_KNOWN 1
#define ENDPOINT_V6 2
#define ENDPOINT_OVERRIDES 4 /* `overrides` has ports of it */

struct endpoint {
	union address address;
	u16 port; /* in network order; 0: the listener's */
	u16 flags;
	u32 zero;
};

struct override_key {
	u16 endpoint;
	u16 listener_port; /* in network order */
};

/* What one of the edge's addresses is. */
struct own_address {
	u16 vip; /* whether it is a static IP */
	u16 nat; /* its number among the NAT addresses, or NO_NAT */
};

struct own_slot {
	union address address;
	struct own_address own;
	u32 taken;
};

struct client_key {
	union address client; /* an IPv6 client is its /64 */
	u32 listener;
	u32 zero;
};

struct client {
	u64 flows;
	u64 full_at; /* when its bucket of new flows is full again */
};

#define CLIENT_GONE (~0ull) /* being removed: count it no more */

struct access_key {
	u32 prefix;
	u32 version;
	u32 v6;
	u32 client[4]; /* words of an address; one would be aligned to eight bytes */
};

/* One address alone: a hash finds it at less cost than the trie does. */
struct host_key {
	union address client;
	u32 version;
	u32 zero;
};

/* Addresses of IPv4 in network order, as many as a cache line has room for; 0 is none. */
#define HOSTS_IN_LINE 16
union host_line {
	u32 host[HOSTS_IN_LINE];
	u64 pair[HOSTS_IN_LINE / 2];
};

struct fragment_key {
	union address src;
	union address dst;
	u32 id;
	u8 protocol;
	u8 zero[3];
};

struct fragment {
	u64 at;
	struct flow_ref flow;
	u32 direction;
	u32 id; /* that its datagram goes on with */
};

/* Why a packet was dropped. src/reasons.rs has the words. */
enum drop {
	DROP_FLOW_LIMIT,
	DROP_CLIENT_FLOW_LIMIT,
	DROP_CLIENT_RATE,
	DROP_DENIED,
	DROP_NO_ENDPOINT,
	DROP_DRAINING,
	DROP_NO_SOURCE_PORT,
	DROP_INVALID_SOURCE,
	DROP_REVERSE_PATH,
	DROP_ENDPOINT_UNREACHABLE,
	DROP_CLIENT_UNREACHABLE,
	DROP_TOO_BIG,
	DROP_NO_NAT_PORT,
	DROP_NO_FLOW,
	DROP_NOT_FROM_ENDPOINT,
	DROP_MALFORMED,
	DROP_IP_OPTIONS,
	DROP_TTL,
	DROP_FRAGMENT_EARLY,
	DROP_FORWARDING_OFF,
	DROP_CLIENT_IP_IN_USE,
	DROP_LOCAL_ERROR,
	DROPS,
};

/* Why a flow ended. */
enum end { END_TIMEOUT, END_UNANSWERED, END_EVICTED, END_SHUTDOWN, ENDS };

/* One for each listener and one more for packets that belong to none. */
struct counts {
	u64 packets[2];
	u64 bytes[2];
	u64 opened;
	u64 moved;
	u64 fallbacks; /* flows of transparent listeners under a NAT address */
	u64 icmp[2];
	u64 ended[ENDS];
	u64 drops[DROPS];
	u64 by_xdp; /* of the packets, those that XDP carried */
};

struct endpoint_counts {
	u64 packets[2];
	u64 bytes[2];
	u64 opened;  /* flows that began here, or moved here */
	u64 refused; /* ICMP errors that came back */
};

/* XDP's packets reach whoever is behind this device when it sends them by XDP_TX. */
#define DEVICE_SENDS 1
#define DEVICE_TAKEN 2 /* without it, XDP leaves the device's packets alone */

/* A device that XDP takes packets from. */
struct device {
	u8 mac[6];
	u16 flags;
};

#define RP_FILTER_STRICT 1 /* any other but 0 is loose */

/* What the reverse path filter of the host asks of new flows that come by a device. */
struct reverse_path {
	u32 filter; /* rp_filter, or 0 */
	u32 from;   /* the device to ask from: loopback, as the host does, or the device itself */
	u32 group;  /* the same for all devices of one multipath route; else the device, or the bridge or bond that it is a port of */
};

/* By which device a packet from `src` to `dst` would leave that came in at `device`. */
struct way_question {
	union address src;
	union address dst;
	u32 device;
	u32 v6;
};

/* An order to end a flow, valid while nothing has come since `last`. */
struct end_order {
	struct flow_ref flow;
	u64 last;
};
