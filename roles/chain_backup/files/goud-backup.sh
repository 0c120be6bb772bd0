#!/bin/sh
# goud-backup for one node of this host: the tool in the node's own image, with this node's data, key and repository.
# Operators, playbooks and timers all call it; `goud-backup --help` tells the verbs. config/command beside it says what is what.
#
# A running node's data is mounted read-only; a stopped one's can be backed up as it lies, and restored.
set -eu

home=$(dirname "$(readlink -f "$0")")
container='' volume='' image='' network='' peer_network='' user='' memory='' cpus='' label='' directory='' metrics='' scratch='' authority=''
# shellcheck source=/dev/null
. "$home/config/command"

bind() { # SOURCE TARGET [more options]: a value for --mount, which is one line of CSV: a path may hold commas and quotes
    printf 'type=bind,"source=%s","target=%s"%s' "$(doubled "$1")" "$(doubled "$2")" "${3:-}"
}
doubled() { printf '%s' "$1" | sed 's/"/""/g'; }

verb=''
for word in "$@"; do
    case $word in
    -*) ;;
    *)
        verb=$word
        break
        ;;
    esac
done
running=$(docker container inspect --format '{{.State.Running}}' "$container" 2>/dev/null || echo false)
case "$verb: $* " in
restore:*\ --yes\ * | restore-archive:*\ --yes\ * | undo:* | cleanup:*)
    if [ "$running" = true ]; then
        echo "goud-backup: in-use: $container is running: stop it first (restore.yml does that in the right order)" >&2
        exit 15
    fi
    ;;
esac

# Work that can wait takes neither disk nor processor from the node. A drill measures how long a restore takes: no limit for either.
before='exec'
limit=0
case $verb in
create | ship | verify | prune | import | export)
    before='exec ionice -c 3 nice -n 10'
    limit=$cpus
    ;;
drill) before='exec ionice -c 3 nice -n 10' ;;
esac
if [ -n "$authority" ]; then
    before="cat /etc/ssl/certs/ca-certificates.crt /etc/goud-backup/ca.pem >/tmp/ca.pem; $before"
fi
# A key that reads encrypted backups (--identity /tmp/identity) comes by standard input: it lies in the container's memory, and goes
# with it, however this ends.
terminal=''
if [ -n "${GOUD_BACKUP_IDENTITY_FROM_STDIN:-}" ]; then
    before="(umask 077; cat >/tmp/identity); $before"
    terminal=--interactive
fi
# The tool's words stay words: the shell in the container gets them as its own arguments.
set -- --entrypoint /bin/sh "$image" -c "$before goud-backup \"\$@\"" goud-backup "$@"

if [ "$running" = true ]; then
    mode=,readonly
else
    mode=''
    set -- --env GOUD_BACKUP_NODE_URL= "$@" # nobody to ask for a checkpoint: the data directory itself is the source
fi
if [ -n "$volume" ] && ! docker volume inspect "$volume" >/dev/null 2>&1; then
    # The engine would make one, without label or disk: that is the node's deployment's to do.
    set -- --env GOUD_DATA_DIR=/tmp "$@"
elif [ -n "$volume" ] && [ "$verb" != drill ]; then # what is not mounted cannot be named by a drill
    set -- --mount "type=volume,source=$volume,target=/data,volume-nocopy$mode" "$@"
fi
if [ -n "$directory" ]; then
    set -- --mount "$(bind "$directory" "$directory")" "$@"
fi
if [ -n "${GOUD_BACKUP_INCOMING:-}" ]; then # a directory with an archive
    set -- --mount "$(bind "$GOUD_BACKUP_INCOMING" /incoming)" "$@"
fi
if [ -n "$terminal" ]; then
    set -- --interactive "$@"
elif [ -t 0 ] && [ -t 1 ]; then
    terminal=--interactive
    set -- --interactive --tty "$@"
fi
# Created, joined, started: older engines take one network at creation.
name=${container:-goud}-backup-$$
trap 'docker rm --force "$name" >/dev/null 2>&1' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
docker create --rm --name "$name" --label "$label" --hostname "$(hostname)" --network "$network" \
    --user "$user" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --memory "$memory" --cpus "$limit" --cpu-shares 256 --log-driver none --env-file "$home/config/environment" \
    --mount "$(bind "$home/config" /etc/goud-backup ,readonly)" \
    --mount "$(bind "$home/cache" /var/cache/goud-backup)" \
    --mount "$(bind "$home/reports" /var/lib/goud-backup/reports)" \
    --mount "$(bind "$metrics" /var/lib/goud-backup/metrics)" \
    --mount "$(bind "$scratch" /var/lib/goud-backup/scratch)" \
    "$@" >/dev/null
if [ -n "$peer_network" ]; then
    docker network connect "$peer_network" "$name"
fi
trap - EXIT INT TERM HUP
exec docker start --attach ${terminal:+"$terminal"} "$name"
