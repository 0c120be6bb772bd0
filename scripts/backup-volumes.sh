#!/usr/bin/env bash
# Back up the chain's data: a repository backup and an archive that tar and sha256sum read. Nothing stops.
#
# Usage: scripts/backup-volumes.sh -e ENVIRONMENT [--dest DIRECTORY] [-c URL] [--keep-running | --cold]
#   -e, --environment ENV   local, gcp or aws: a folder of inventories/ (default: local)
#   -d, --dest DIR          where the archive goes (default: backups/)
#   -c, --cloud URL         also copy the archive there: gs://bucket/prefix or s3://bucket/prefix
#       --keep-running      nodes go on serving; that is so anyway, and consistent: the node makes a checkpoint
#       --cold              stop the node for its backup, and start it again afterwards, whatever happens
# Exit status: 0 the backup is made and was read back; else that of the tool that failed.
set -euo pipefail
unset CDPATH

usage() { sed -n '4,10p' "$0" | cut -c3-; }
die() {
    echo "backup-volumes: $*" >&2
    usage >&2
    exit 64
}

environment=local
options=(-e backup_archive=true)
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --keep-running) ;;
    --cold) options+=(-e backup_cold=true) ;;
    -e | --environment | -d | --dest | -c | --cloud)
        [[ -n ${2:-} ]] || die "$1 needs a value"
        case $1 in
        -e | --environment) environment=$2 ;;
        -d | --dest) options+=(-e "backup_dest=$(realpath -m -- "$2")") ;;
        *)
            [[ $2 =~ ^(gs|s3)://[^/] ]] || die "'$2' is not a bucket: write gs://bucket or s3://bucket"
            options+=(-e "backup_upload=$2")
            ;;
        esac
        shift
        ;;
    *) die "unknown option '$1'" ;;
    esac
    shift
done
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment
. scripts/environment
[[ -d inventories/$environment ]] || die "there is no environment '$environment' (there are: $(cd inventories && echo *))"
exec ./run backup "$environment" "${options[@]}"
