"""Refuse to change a cluster on this engine that another checkout of the project has deployed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "module_utils"))
import goud_owner


class ActionModule(ActionBase):
    """`goud_ownership: {cluster, keys, state, change, claim, adopt}`; asks the host's engine, also in check mode.

    `change`: whether the verb changes things, so that another checkout's cluster is refused and not only told.
    `claim`: `always` or `present` (where something of the cluster is there, or was deployed from here) writes the mark
    by which others know that the cluster is this checkout's. `adopt`: go on where the other checkout is gone.
    Returns `note`: whose the cluster is, when it is another's.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Judge by what the engine and the checkout's own folders show."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = self._task.args
        cluster = str(arguments["cluster"])
        reading = self._engine("docker_host_info", self._question(cluster), variables)
        if reading.get("failed"):
            return self._silence(str(reading.get("msg")))
        evidence = goud_owner.traces(cluster, reading.get("containers") or [], reading.get("volumes") or [])
        checkout = goud_owner.read_checkout(Path(str(arguments["keys"])), Path(str(arguments["state"])))
        owner = goud_owner.other_owner(evidence, checkout)
        if owner is not None and (owner.present or not arguments.get("adopt")):
            return self._refusal(goud_owner.refusal(cluster, owner, evidence, checkout))
        claim = arguments.get("claim")
        if self._task.check_mode or not (claim == "always" or (claim == "present" and (evidence or checkout.deployed))):
            return {"changed": False, "note": ""}
        return self._claim(cluster, evidence, checkout, variables)

    def _engine(self, module: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name=f"community.docker.{module}", module_args=arguments, task_vars=variables
        )
        return answer

    @staticmethod
    def _question(cluster: str) -> dict[str, Any]:
        filters = {"label": f"{goud_owner.CLUSTER}={cluster}"}
        kinds = {"containers": True, "containers_all": True, "volumes": True, "verbose_output": True}
        return {**kinds, "containers_filters": filters, "volumes_filters": filters}

    def _silence(self, cause: str) -> dict[str, Any]:
        """An engine that does not answer is no empty one; a verb that only reads meets it again by itself."""
        if not self._task.args.get("change"):
            return {"changed": False, "note": ""}
        sentence = f"the engine does not say whose cluster is on it ({cause}): start it with scripts/bootstrap"
        return {"failed": True, "changed": False, "msg": f"{sentence}. Nothing was touched"}

    def _refusal(self, sentence: str) -> dict[str, Any]:
        if self._task.args.get("change"):
            return {"failed": True, "changed": False, "msg": sentence}
        note = sentence.split(" Nothing was touched.", maxsplit=1)[0]
        return {"changed": False, "note": note, "warnings": [note]}

    def _claim(
        self, cluster: str, evidence: goud_owner.Traces, checkout: goud_owner.Checkout, variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the mark. Of two checkouts at once the engine lets one create it; the other one reads who was first."""
        claimant = goud_owner.identify(checkout)
        labels = goud_owner.mark_labels(cluster, claimant)
        recreation = "never" if evidence.mark is None else "options-changed"
        options = {"name": goud_owner.mark_name(cluster), "labels": labels, "recreate": recreation}
        volume = self._engine("docker_volume", options, variables)
        if volume.get("failed"):
            return volume
        mark = (volume.get("volume") or {}).get("Labels") or {}
        if goud_owner.CLUSTER not in mark:
            problem = f"a volume named {options['name']} exists and is not of this project: rename or remove it"
            return {"failed": True, "changed": False, "msg": f"{problem}. Nothing was touched"}
        if mark != labels:
            evidence = goud_owner.Traces(mark)
            owner = goud_owner.other_owner(evidence, claimant) or goud_owner.Owner()
            return self._refusal(goud_owner.refusal(cluster, owner, evidence, claimant))
        return {"changed": bool(volume.get("changed")), "note": ""}
