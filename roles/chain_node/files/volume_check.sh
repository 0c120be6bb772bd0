#!/bin/sh
# What a node's volume holds, as one JSON object; runs inside a throw-away container with the volume at /data.
set -eu
cd /data
chain=""
[ ! -e chain_id ] || chain=$(cat chain_id)
rocksdb=false
[ ! -e rocksdb/CURRENT ] || rocksdb=true
database=0
[ ! -d rocksdb ] || database=$(du --summarize --bytes rocksdb | cut -f1)
tables=$(find . -path './rocksdb/*.sst' | wc -l)
files=$(find . -maxdepth 1 -mindepth 1 -printf '"%M %U:%G %f",')
# shellcheck disable=SC2046 # two numbers, split on purpose
set -- $(df --block-size=1 --output=used,avail /data | tail -n 1)
printf '{"chain":"%s","rocksdb":%s,"tables":%d,"database":%d,"used":%d,"available":%d,"files":[%s]}\n' \
    "$chain" "$rocksdb" "$tables" "$database" "$1" "$2" "${files%,}"
