/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Every map and constant. The loader sets each max_entries that is 1 here from the settings. */
#pragma once

#include "layout.h"

/* Constants of one load; the loader fills them in before the program is verified. */
const volatile u64 hash_seed = 0;
const volatile u64 place_keys[10] = {}; /* follow from it */
const volatile u32 place_shift = 0; /* hash >> this is which count of `hashes` */
const volatile u64 own_keys[2] = {}; /* under which the edge's addresses have slots of their own */
const volatile u32 nat_v4 = 0; /* NAT addresses of IPv4 come first, */
const volatile u32 nat_v6 = 0; /* then those of IPv6 */
const volatile u32 nat_first = 0;
const volatile u32 nat_count = 0; /* ports, from nat_first on */
const volatile u32 transparent = 0; /* times 65536 places for transparent flows, behind those of the NAT addresses */
const volatile u32 no_listener = 0; /* where packets of no listener are counted */
const volatile u32 strays_to_stack = 0; /* fragments without a first one may belong to a socket of this host */

/* Port -> number of its listener + 1, or 0. Static IPs share it. */
struct ports {
	u16 listener[PORTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct ports);
} udp_ports SEC(".maps");

/* Each in the slot that own_keys give it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, OWN_SLOTS);
	__type(key, u32);
	__type(value, struct own_slot);
} own_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NAT_ADDRESSES);
	__type(key, u32);
	__type(value, union address);
} nat_addresses SEC(".maps");

/* Two for each listener: one in force, one to be written next. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct listener);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct listener_state);
} listener_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct override_key);
	__type(value, u16);
} overrides SEC(".maps");

/* One word, which the process counts up with every change to what ways depend on. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} epoch SEC(".maps");

/* The process reads it as memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_ref);
} flow_refs SEC(".maps");

/* Of each group of eight places, a byte of the 5-tuple that can be found there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} tags SEC(".maps");

/* How many flows there are of each hash: four bytes of counts in a word. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} hashes SEC(".maps");

/* Transparent flows as their endpoints see them: `vip` is the endpoint. An entry lives as long as its flow is there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_ref);
} reply_refs SEC(".maps");

/* Each listener's flows in the order in which they began, as a ring. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct flow_ref);
} order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct client_key);
	__type(value, struct client);
} clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct access_key);
	__type(value, u32);
} allowed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct access_key);
	__type(value, u32);
} denied SEC(".maps");

/* Denied addresses of IPv4, in the line of their listener's that their hash says. Its pages begin where lines of the cache do. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DENIED_LINES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, union host_line);
} denied_lines SEC(".maps");

/* Networks of one address that have no place in lines; those beyond stand in the tries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct host_key);
	__type(value, u32);
} allowed_hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct host_key);
	__type(value, u32);
} denied_hosts SEC(".maps");

/* LRU: losing an entry costs the rest of one datagram, and nobody has to clear up after those that are complete. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* What numbers the datagrams in fragments. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ID_COUNTS);
	__type(key, u32);
	__type(value, u32);
} ids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counts);
} listener_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct endpoint_counts);
} endpoint_counts SEC(".maps");

/* By index, those that XDP takes packets from; */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEVICES);
	__type(key, u32);
	__type(value, struct device);
} xdp_devices SEC(".maps");

/* and those that take packets from XDP on another one. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct bpf_devmap_val);
} xdp_ports SEC(".maps");

/* By index, the devices that are asked for the way back. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, struct reverse_path);
} reverse_paths SEC(".maps");

/* How many of them there are: to look for one in vain would cost a new flow more than to know that there is none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} reverse_path_count SEC(".maps");

/* When the process was last told of an endpoint's ICMP error. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} told_at SEC(".maps");

/* Endpoints that ICMP errors came from: the process probes them. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} refusals SEC(".maps");
