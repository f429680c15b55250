/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Which socket takes a new TCP connection, or a UDP datagram, for one of the many ports of a listener that is forwarded
 * in user space. A listener has sockets on one port of each static IP, one for each worker, of which one stands here;
 * among the workers the kernel itself chooses, by addresses and ports, as it does for sockets of that very port.
 *
 * It never drops, and takes nothing from a program that was there before: what is not ours, or no longer, is looked up as
 * if there were no program.
 */
#include "layout.h"

#define STATIC_IPS 4
#define AF_INET 2

static long (*const bpf_sk_assign)(struct bpf_sk_lookup *ctx, void *sk, u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*const bpf_sk_release)(void *sk) = (void *)BPF_FUNC_sk_release;

/* Port -> number of its listener + 1, or 0; of TCP, then of UDP. */
struct ports {
	u16 listener[PORTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct ports);
} lookup_ports SEC(".maps");

/* Static IP -> its number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STATIC_IPS);
	__type(key, union address);
	__type(value, u32);
} lookup_ips SEC(".maps");

/* (Listener, static IP, protocol) -> a socket. A socket that is closed leaves it. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} lookup_sockets SEC(".maps");

SEC("sk_lookup")
int choose_socket(struct bpf_sk_lookup *ctx)
{
	u32 protocol = ctx->protocol == IPPROTO_UDP;
	union address ip = {};
	struct ports *ports;
	u32 listener, v4, at;
	void *socket;
	u32 *number;

	ports = bpf_map_lookup_elem(&lookup_ports, &protocol);
	if (!ports)
		return SK_PASS;
	listener = ports->listener[ctx->local_port & (PORTS - 1)];
	if (!listener)
		return SK_PASS;

	/*
	 * All are read, whatever the family: the verifier takes no pointer into ctx, which is what the compiler would make of
	 * two branches. An IPv4 packet has zeroes for IPv6.
	 */
	v4 = READ_ONCE(ctx->local_ip4);
	ip.word[0] = READ_ONCE(ctx->local_ip6[0]);
	ip.word[1] = READ_ONCE(ctx->local_ip6[1]);
	ip.word[2] = READ_ONCE(ctx->local_ip6[2]);
	ip.word[3] = READ_ONCE(ctx->local_ip6[3]);
	if (ctx->family == AF_INET) {
		ip.word[2] = swap32(0xffff);
		ip.word[3] = v4;
	}
	number = bpf_map_lookup_elem(&lookup_ips, &ip);
	if (!number)
		return SK_PASS;

	at = ((listener - 1) * STATIC_IPS + *number) * 2 + protocol;
	socket = bpf_map_lookup_elem(&lookup_sockets, &at);
	if (!socket)
		return SK_PASS;
	bpf_sk_assign(ctx, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
