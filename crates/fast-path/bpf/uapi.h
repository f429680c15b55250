/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* What every file needs of the kernel: its public headers, the helpers called, and a few short names. */
#pragma once

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/udp.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the object is built for little-endian hosts only"
#endif

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef _Bool bool;

#define true 1
#define false 0

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
/*
 * A function of external linkage is verified once, by itself, for whatever it may be called with: what it is given is checked for NULL, and
 * of what it gives back only that it is a number is known. The others are verified again for each way in which they are reached.
 */
#define __global __attribute__((noinline))
/* The verifier forgets, of a value that is read from the stack again, what it was compared with. */
#define keep_in_register(x) asm volatile("" : "+r"(x))
#define unlikely(x) __builtin_expect(!!(x), 0)

#define swap16(x) __builtin_bswap16(x)
#define swap32(x) __builtin_bswap32(x)

#define EEXIST 17

/* How a map is described to the loader. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*const bpf_skb_load_bytes)(const void *skb, u32 off, void *to, u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, u32 off, const void *from, u32 len, u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, u32 off, u64 from, u64 to, u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;
static long (*const bpf_csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) =
	(void *)BPF_FUNC_csum_diff;
static long (*const bpf_csum_update)(struct __sk_buff *skb, u32 csum) = (void *)BPF_FUNC_csum_update;
static long (*const bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int plen, u32 flags) =
	(void *)BPF_FUNC_fib_lookup;
static long (*const bpf_redirect)(u32 ifindex, u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_neigh)(u32 ifindex, void *params, int plen, u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;
static long (*const bpf_skb_change_tail)(struct __sk_buff *skb, u32 len, u64 flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, s32 len, u32 mode, u64 flags) =
	(void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*const bpf_skb_vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*const bpf_ringbuf_output)(void *map, void *data, u64 size, u64 flags) = (void *)BPF_FUNC_ringbuf_output;

/* The load is all that is wanted: a value that another processor may be writing is read once. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))
