/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* The flow hash: SipHash-1-3 under the key (hash_seed, "landfall"), exactly endpoint_group's flow_hash. */
#pragma once

#include "layout.h"

#define KEY_TAIL 0x6c616e6466616c6cull

struct sip {
	u64 v0, v1, v2, v3;
};

static __always_inline u64 rotate(u64 x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

static __always_inline void sip_word(struct sip *s, u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

/*
 * Either the client's 16 bytes, or 37: protocol, client address, client port, static IP, its port. The words below are
 * those bytes in order; the last word holds the length in its highest byte.
 */
static __always_inline u64 flow_hash(u64 seed, const struct flow_key *key, bool source_ip)
{
	u64 c0 = key->client.half[0], c1 = key->client.half[1], v0 = key->vip.half[0], v1 = key->vip.half[1];
	struct sip s = {
		.v0 = seed ^ 0x736f6d6570736575ull,
		.v1 = KEY_TAIL ^ 0x646f72616e646f6dull,
		.v2 = seed ^ 0x6c7967656e657261ull,
		.v3 = KEY_TAIL ^ 0x7465646279746573ull,
	};

	if (source_ip) {
		sip_word(&s, c0);
		sip_word(&s, c1);
		sip_word(&s, 16ull << 56);
	} else {
		sip_word(&s, key->protocol | c0 << 8);
		sip_word(&s, c0 >> 56 | c1 << 8);
		sip_word(&s, c1 >> 56 | (u64)key->client_port << 8 | v0 << 24);
		sip_word(&s, v0 >> 40 | v1 << 24);
		sip_word(&s, v1 >> 40 | (u64)key->vip_port << 24 | 37ull << 56);
	}
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
