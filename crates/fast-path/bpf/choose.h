/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* Which endpoint a flow goes to, read from the table that the process published last. */
#pragma once

#include "maps.h"

static __always_inline struct table *table_of(const struct listener *listener)
{
	u32 index = READ_ONCE(listener->table);

	return bpf_map_lookup_elem(&tables, &index);
}

static __always_inline bool is_in(const u64 *set, u16 endpoint)
{
	return READ_ONCE(set[endpoint >> 6]) >> (endpoint & 63) & 1;
}

/* Whether flows must leave `endpoint` now: it is gone and there is somewhere to go, or an operator ends its flows. */
static __always_inline bool must_leave(const struct table *table, u16 endpoint, u32 flags)
{
	return is_in(table->ending, endpoint) || (!(flags & LISTENER_KEEP) && is_in(table->leaving, endpoint));
}

static __always_inline struct endpoint *endpoint_of(u32 id)
{
	return bpf_map_lookup_elem(&endpoints, &id);
}

/*
 * Fills in the endpoint and its port for `route->slot`. False if the table refuses, or the endpoint is of the other
 * address family, which only user space can bridge.
 */
static __always_inline bool choose(const struct table *table, const struct flow_key *key, bool v6, union route *route)
{
	u16 id = READ_ONCE(table->slot[route->slot]);
	struct endpoint *endpoint;
	u16 port, *override;

	if (id == NO_ENDPOINT)
		return false;
	endpoint = endpoint_of(id);
	if (!endpoint || !(endpoint->flags & ENDPOINT_KNOWN) || !!(endpoint->flags & ENDPOINT_V6) != v6)
		return false;
	port = endpoint->port;
	if (!port) {
		port = key->vip_port;
		if (endpoint->flags & ENDPOINT_OVERRIDES) {
			struct override_key at = { .endpoint = id, .listener_port = port };

			override = bpf_map_lookup_elem(&overrides, &at);
			if (override)
				port = *override;
		}
	}
	route->endpoint = id;
	route->port = port;
	return true;
}
