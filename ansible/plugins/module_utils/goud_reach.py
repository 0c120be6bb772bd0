"""What a --limit leaves out though a verb cannot do without it. Pure functions without Ansible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_END = "Nothing was touched"


def problems(
    limit: str,
    reached: Sequence[str],
    needs: Sequence[str],
    groups: Sequence[str],
    inventory: Mapping[str, Sequence[str]],
) -> list[str]:
    """Return why a verb cannot work with the hosts that a limit leaves.

    `needs` are hosts and groups that the verb judges by; of `groups`, the cluster's, some host has to be left;
    `inventory` maps every group to its hosts.
    """
    sentences = []
    if "localhost" not in reached:
        sentences.append(
            f"--limit {limit} leaves out localhost, where every verb judges what it did: say "
            f"--limit {','.join([*reached, 'localhost'])}, or use ./run, which adds localhost. {_END}"
        )
    hosts = [host for name in needs for host in inventory.get(name, [name] if name in inventory.get("all", []) else [])]
    missing = [host for host in dict.fromkeys(hosts) if host not in reached]
    if missing:
        sentences.append(
            f"--limit {limit} leaves out {', '.join(missing)}, by which this verb judges, too: leave --limit away. "
            f"Where a verb can work on some nodes only, a variable chooses them (docs/runbooks). {_END}"
        )
    members = {host for group in groups for host in inventory.get(group, [])}
    if members and not members & set(reached):
        sentences.append(f"--limit {limit} leaves no host of the groups {', '.join(groups)}: name some. {_END}")
    return sentences
