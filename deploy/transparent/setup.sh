#!/bin/sh
# What the kernel needs for listeners with client_ip = "transparent": answers of endpoints are addressed to clients, and must reach the
# sockets of this edge all the same. Runs as root; running it again changes nothing. teardown.sh takes it back, and does nothing else.
# docs/OPERATIONS.md, "Clients' own addresses", says what else is needed.
#
# No device is named: only packets for which this host has a transparent socket get the mark, and Landfall makes such sockets
# towards endpoints alone.
set -eu

# Any mark, table and priority that nothing else on this host uses; the same in teardown.sh. The priority must be below 32766, where
# the main table is asked.
mark=0x4c46
table=4646
priority=4646

"$(dirname "$0")/teardown.sh"

# Where it is 1, IPv4 packets with the mark are checked as if this host had sent them to itself, and dropped. wg-quick sets it.
if [ "$(cat /proc/sys/net/ipv4/conf/all/src_valid_mark)" != 0 ]; then
    echo "net.ipv4.conf.all.src_valid_mark is 1, and must be 0 for IPv4 answers to arrive" >&2
fi

# With ICMP, so that a closed port of an endpoint and the MTU of the way there reach the sockets as well.
#
# Of a datagram that travels in pieces only the first names its socket, so they must be put together before. The kernel does that, for
# both families, as long as any rule has tproxy in it; no packet comes to this one. Connection tracking would do it too, at its price.
nft -f - <<END
table inet landfall_transparent {
    chain reassembly {
        meta l4proto udp tproxy to :1
    }
    chain prerouting {
        type filter hook prerouting priority mangle;
        meta l4proto { tcp, udp, icmp, icmpv6 } socket transparent 1 meta mark set $mark accept
    }
}
END

# What has the mark is for this host, whatever its address.
for family in -4 -6; do
    ip $family rule add fwmark $mark lookup $table priority $priority
    ip $family route add local default dev lo table $table
done
