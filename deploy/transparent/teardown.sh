#!/bin/sh
# Takes back what setup.sh did, as far as it is there. Runs as root. Transparent flows that are alive get no more answers.
set -eu

mark=0x4c46
table=4646
priority=4646

nft list table inet landfall_transparent >/dev/null 2>&1 && nft delete table inet landfall_transparent
for family in -4 -6; do
    while ip $family rule del fwmark $mark lookup $table priority $priority 2>/dev/null; do :; done
    ip $family route flush table $table 2>/dev/null || true
done
