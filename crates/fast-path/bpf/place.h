/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * Where in the flow table a client's flow lies. Its 5-tuple gives it a group of eight places; nearly all flows lie in theirs. Each place
 * has a tag, a byte of the 5-tuple that lies there, so a packet finds its flow with one word of tags and the flow itself: the map
 * of 5-tuples, whose answer lies in three or four cache lines, is for those that found no place in their group. And how many flows there
 * are of each hash is counted in a byte, which mostly says that a packet is of none.
 */
#pragma once

#include "transparent.h"

#define PLACE_TRIES 128
#define BYTES 0x0101010101010101ull

/*
 * What is known of a 5-tuple by its hash: multilinear, whose upper half is strongly universal (Lemire and Kaser, "Strongly universal
 * string hashing is fast", 2014). Unlike the flow hash, it differs for each flow of a client with affinity.
 */
static __always_inline u64 place_hash(const struct flow_key *key)
{
	const volatile u64 *by = place_keys;
	u64 sum = by[0] + by[1] * ((u32)key->client_port << 16 | key->vip_port);

	sum += by[2] * key->client.word[0] + by[3] * key->client.word[1];
	sum += by[4] * key->client.word[2] + by[5] * key->client.word[3];
	sum += by[6] * key->vip.word[0] + by[7] * key->vip.word[1];
	sum += by[8] * key->vip.word[2] + by[9] * key->vip.word[3];
	return sum;
}

/* From 1 to 253: 0 is a place where no flow can be found, 255 one that there is not. */
static __always_inline u64 tag_of(u64 hash)
{
	return ((hash >> 24 & 0xff) * 253 >> 8) + 1;
}

static __always_inline u64 *tags_of(u32 group)
{
	return bpf_map_lookup_elem(&tags, &group);
}

/* Lets packets find the flow at `index` by its tag, or with 0 no longer. */
static __always_inline void set_tag(u32 index, u8 tag)
{
	u8 *group = (u8 *)tags_of(index >> 3);

	if (group)
		WRITE_ONCE(group[index & 7], tag);
}

/* The first byte of `word` that is zero, or 8. */
static __always_inline u32 zero_byte(u64 word)
{
	u64 found = (word - BYTES) & ~word & BYTES << 7;

	return ((((found & -found) >> 7) - 1) & BYTES) * BYTES >> 56;
}

/* The four counts that have that of `hash` among them; `shift`: where it begins. */
static __always_inline u32 *counts_with(u64 hash, u32 *shift)
{
	u32 at = hash >> place_shift, word = at >> 2;

	*shift = (at & 3) * 8;
	return bpf_map_lookup_elem(&hashes, &word);
}

/* One flow more, or less, of this hash. */
static __always_inline void count_hash(u64 hash, int more)
{
	u32 shift, *counts = counts_with(hash, &shift);

	if (counts)
		__sync_fetch_and_add(counts, (u32)more << shift);
}

/* Places that a flow may have: so many blocks of 65536, and in each of them so many groups. */
struct pool {
	u32 block;
	u32 blocks;
	u32 group;
	u32 groups;
};

/* The places of transparent flows, or the NAT ports of a family. */
static __always_inline void pool_of(struct pool *pool, bool own, bool v6)
{
	pool->block = own ? nat_v4 + nat_v6 : v6 ? nat_v4 : 0;
	pool->blocks = own ? transparent : v6 ? nat_v6 : nat_v4;
	pool->group = own ? 0 : nat_first >> 3;
	pool->groups = own ? PORTS >> 3 : ((nat_first + nat_count - 1) >> 3) - (nat_first >> 3) + 1;
}

/* The group in the whole table. */
static __always_inline u32 group_in(const struct pool *pool, u32 at)
{
	return (pool->block + ((at >> 16) * pool->blocks >> 16)) << 13 | (pool->group + ((at & 0xffff) * pool->groups >> 16));
}

static __always_inline struct flow *take(u32 index, struct flow_ref *ref)
{
	struct flow *flow = flow_at(index);
	u64 life;

	if (!flow)
		return NULL;
	life = READ_ONCE(flow->life);
	if (STATE(life) != FREE || !swap_life(flow, life, LIFE(GENERATION(life) + 1, BUSY)))
		return NULL;
	ref->index = index;
	ref->generation = (u32)(GENERATION(life) + 1);
	return flow;
}

/*
 * Takes a place for the flow, which is a NAT port but for transparent flows: one in its group, the same each time if that is free, or in
 * other groups all over the pool. False if none was found.
 */
__global int reserve(const struct pool *pool, u64 hash, struct flow_ref *ref)
{
	u32 at = hash >> 32, group, byte = hash >> 21 & 7;
	u64 *word, taken;

	if (!pool || !ref || !pool->blocks)
		return false;
	group = group_in(pool, at);
	word = tags_of(group);
	taken = word ? READ_ONCE(*word) : ~0ull;
	if (taken >> byte * 8 & 0xff)
		byte = zero_byte(taken);
	for (int i = 0; i < PLACE_TRIES; i++) {
		if (byte < 8) {
			if (take(group << 3 | byte, ref))
				return true;
			taken |= 0xffull << byte * 8;
		} else {
			at += 0x9e3779b9;
			group = group_in(pool, at);
			word = tags_of(group);
			taken = word ? READ_ONCE(*word) : ~0ull;
		}
		byte = zero_byte(taken);
	}
	return false;
}

/* The client's flow, if it has one. `own`: of a transparent listener. Fills in the hash, and whose flow it is. */
static __noinline struct flow *flow_of_client(struct passage *passage, const struct flow_key *key, bool own, bool v6)
{
	u64 hash = place_hash(key), *word, life;
	u32 group, byte, shift, generation, *counts;
	struct flow_ref *found;
	struct flow *flow;
	struct pool pool;

	passage->hash = hash;
	pool_of(&pool, own, v6);
	group = group_in(&pool, hash >> 32);
	word = tags_of(group);
	byte = word ? zero_byte(READ_ONCE(*word) ^ tag_of(hash) * BYTES) : 8;
	passage->ref.index = group << 3 | (byte & 7);
	flow = byte < 8 ? flow_at(passage->ref.index) : NULL;
	life = flow ? READ_ONCE(flow->life) : 0;
	generation = (u32)GENERATION(life);
	/* Asked again, because the place may have become another flow's while it was read. */
	if (!flow || !is_live(life) || !is_same_flow(&flow->key, key) ||
	    (u32)GENERATION(READ_ONCE(flow->life)) != generation) {
		counts = counts_with(hash, &shift);
		if (!counts || !(READ_ONCE(*counts) >> shift & 0xff))
			return NULL;
		found = bpf_map_lookup_elem(&flow_refs, key);
		if (!found)
			return NULL;
		passage->ref.index = found->index;
		generation = found->generation;
	}
	passage->ref.generation = generation;
	return flow_of(&passage->ref);
}
