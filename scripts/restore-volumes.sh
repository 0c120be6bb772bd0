#!/usr/bin/env bash
# Restore the chain from an archive, here or in a bucket: every block is proven before anything is touched.
#
# Usage: scripts/restore-volumes.sh -b FILE [-e ENVIRONMENT] [--force]
#        scripts/restore-volumes.sh --cloud URL --backup NAME [-e ENVIRONMENT] [--force]
#   -b, --backup FILE       archive goud-chain-backup-….tar.gz; its .sha256 lies beside it
#   -c, --cloud URL         fetch it from there first: gs://bucket/prefix or s3://bucket/prefix
#   -e, --environment ENV   local, gcp or aws: a folder of inventories/ (default: local)
#   -f, --force             carry the plan out without asking
# Exit status: 0 restored and compared with the backup; else that of the tool that failed. What was there is kept beside it.
set -euo pipefail
unset CDPATH

usage() { sed -n '4,10p' "$0" | cut -c3-; }
die() {
    echo "restore-volumes: $*" >&2
    usage >&2
    exit 64
}

environment=local backup='' cloud='' answer=()
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    -f | --force) answer=(--yes) ;;
    -b | --backup | -c | --cloud | -e | --environment)
        [[ -n ${2:-} ]] || die "$1 needs a value"
        case $1 in
        -b | --backup) backup=$2 ;;
        -c | --cloud) cloud=${2%/} ;;
        *) environment=$2 ;;
        esac
        shift
        ;;
    *) die "unknown option '$1'" ;;
    esac
    shift
done
[[ -n $backup ]] || die "which backup? -b FILE, or --cloud URL --backup NAME"
if [[ -n $cloud ]]; then
    [[ $cloud =~ ^(gs|s3)://[^/] ]] || die "'$cloud' is not a bucket: write gs://bucket or s3://bucket"
    backup=$cloud/$backup
else
    [[ -f $backup ]] || die "the archive '$backup' does not exist"
    backup=$(realpath -- "$backup")
fi
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment
. scripts/environment
[[ -d inventories/$environment ]] || die "there is no environment '$environment' (there are: $(cd inventories && echo *))"
exec ./run restore "$environment" "$backup" "${answer[@]}"
