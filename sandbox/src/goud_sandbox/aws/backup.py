"""AWS Backup: what moto leaves out (selections, changed plans, recovery points), and the hour of the plans.

Only EBS volumes are backed up; a recovery point is a snapshot with the plan's tags.
"""

from __future__ import annotations

import json
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from moto.backup import urls
from moto.backup.exceptions import BackupClientError, InvalidRequestException, ResourceNotFoundException
from moto.backup.models import BackupBackend, Plan, Vault, backup_backends
from moto.backup.responses import BackupResponse
from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_block_store import Volume

from goud_sandbox.aws.context import ACCOUNT, current

Document = dict[str, Any]
CONDITIONS = ("StringEquals", "StringLike", "StringNotEquals", "StringNotLike")
DEFAULTS: Document = {"Resources": [], "ListOfTags": [], "NotResources": []}


class Backups(BackupBackend):
    """The backend, with selections by plan and recovery points by their ARN."""

    _url_module = urls  # moto looks for it beside the class

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.selections: dict[str, dict[str, Document]] = {}
        self.points: dict[str, Document] = {}

    def plan(self, identity: str) -> Plan:
        """A plan that was not deleted."""
        plan = self.get_backup_plan(identity, None)
        if plan.deletion_date is not None:
            raise ResourceNotFoundException(msg="Failed reading Backup plan with provided version")
        return plan

    def update_plan(self, identity: str, document: Document) -> Plan:
        """Replace the plan's rules; it gets a new version."""
        before = self.plan(identity)
        plan = Plan(document, before.creator_request_id, self)
        plan.backup_plan_id, plan.backup_plan_arn = before.backup_plan_id, before.backup_plan_arn
        plan.creation_date = before.creation_date
        self.plans[identity] = plan
        return plan

    def delete_backup_plan(self, backup_plan_id: str) -> tuple[str, str, float, str]:
        """A plan with selections stays."""
        if self.selections.get(backup_plan_id):
            raise InvalidRequestException(msg="Related backup plan selections must be deleted prior to backup plan")
        answer = super().delete_backup_plan(backup_plan_id)
        self.plans[backup_plan_id].backup_plan["BackupPlanName"] += f" (deleted {uuid4()})"  # the name is free again
        return answer

    def delete_backup_vault(self, backup_vault_name: str) -> None:
        """A vault with recovery points stays."""
        if any(point["BackupVaultName"] == backup_vault_name for point in self.points.values()):
            raise InvalidRequestException(msg="Backup vault cannot be deleted because it contains recovery points")
        super().delete_backup_vault(backup_vault_name)

    def describe_backup_vault(self, backup_vault_name: str) -> Vault:
        """AWS does not tell whether a vault that nobody may see exists."""
        if backup_vault_name not in self.vaults:
            raise BackupClientError("AccessDeniedException", "Insufficient privileges to perform this action.")
        return super().describe_backup_vault(backup_vault_name)

    def select(self, plan: str, selection: Document, creator: str | None) -> Document:
        """A new selection, its fields as AWS fills them."""
        self.plan(plan)
        if any(
            other["BackupSelection"]["SelectionName"] == selection["SelectionName"]
            for other in self.selections_of(plan)
        ):
            raise InvalidRequestException(msg=f"Backup selection {selection['SelectionName']} already exists")
        conditions = {name: [] for name in CONDITIONS} | (selection.get("Conditions") or {})
        document: Document = {
            "BackupSelection": DEFAULTS | selection | {"Conditions": conditions},
            "SelectionId": str(uuid4()),
            "BackupPlanId": plan,
            "CreationDate": current.now().timestamp(),
            "CreatorRequestId": creator or str(uuid4()),
        }
        self.selections.setdefault(plan, {})[document["SelectionId"]] = document
        return document

    def selections_of(self, plan: str) -> list[Document]:
        """The plan's selections."""
        return list(self.selections.get(plan, {}).values())

    def selection(self, plan: str, identity: str) -> Document:
        """One of them."""
        if identity not in self.selections.get(plan, {}):
            raise ResourceNotFoundException(msg=f"Backup selection {identity} does not exist")
        return self.selections[plan][identity]

    # the hour comes --------------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Snapshot what the plans select and let expire what their rules let go; the new snapshots' ids."""
        snapshots = []
        for identity, plan in self.plans.items():
            if plan.deletion_date is None:
                for selection in self.selections_of(identity):
                    for rule in plan.backup_plan["Rules"]:
                        snapshots += self._back_up(plan, rule, selection["BackupSelection"])
        self._expire()
        for vault in self.vaults.values():
            vault.num_of_recovery_points = len(self.in_vault(vault.backup_vault_name))
        return snapshots

    def _back_up(self, plan: Plan, rule: Document, selection: Document) -> list[str]:
        if rule["TargetBackupVaultName"] not in self.vaults:
            return []
        snapshots = []
        ec2 = ec2_backends[self.account_id][self.region_name]
        for volume in [volume for volume in ec2.volumes.values() if self._selects(volume, selection)]:
            snapshot = ec2.create_snapshot(volume.id, f"This snapshot is created by the AWS Backup service. {uuid4()}")
            tags = {tag["key"]: tag["value"] for tag in volume.get_tags()} | (rule.get("RecoveryPointTags") or {})
            snapshot.add_tags(tags | {"aws:backup:source-resource": f"{volume.id}:{snapshot.id}"})
            arn = f"arn:aws:ec2:{self.region_name}::snapshot/{snapshot.id}"
            self.points[arn] = {
                "RecoveryPointArn": arn,
                "BackupVaultName": rule["TargetBackupVaultName"],
                "ResourceArn": self._arn(volume),
                "ResourceType": "EBS",
                "CreatedBy": {"BackupPlanId": plan.backup_plan_id, "BackupRuleId": rule["RuleId"]},
                "IamRoleArn": selection.get("IamRoleArn"),
                "Status": "COMPLETED",
                "CreationDate": current.now().timestamp(),
                "BackupSizeInBytes": volume.size << 30,
                "Lifecycle": rule.get("Lifecycle") or {},
                "IsEncrypted": volume.encrypted,
            }
            snapshots.append(snapshot.id)
        return snapshots

    def _expire(self) -> None:
        for arn, point in list(self.points.items()):
            days = point["Lifecycle"].get("DeleteAfterDays")
            if days and current.now().timestamp() - point["CreationDate"] >= timedelta(days=int(days)).total_seconds():
                self.delete_point(arn)

    def delete_point(self, arn: str) -> None:
        """The recovery point and its snapshot go."""
        if arn not in self.points:
            raise ResourceNotFoundException(msg=f"Recovery point {arn} does not exist")
        del self.points[arn]
        ec2_backends[self.account_id][self.region_name].snapshots.pop(arn.rsplit("/", 1)[-1], None)

    def in_vault(self, vault: str) -> list[Document]:
        """A vault's recovery points, the oldest first."""
        return [point for point in self.points.values() if point["BackupVaultName"] == vault]

    def _arn(self, volume: Volume) -> str:
        return f"arn:aws:ec2:{self.region_name}:{self.account_id}:volume/{volume.id}"

    def _selects(self, volume: Volume, selection: Document) -> bool:
        """By ARN or by any of the tags, unless it is left out; every condition must hold."""
        arn, tags = self._arn(volume), {tag["key"]: tag["value"] for tag in volume.get_tags()}
        if any(fnmatchcase(arn, pattern) for pattern in selection["NotResources"]):
            return False
        by_name = any(fnmatchcase(arn, pattern) for pattern in selection["Resources"])
        by_tag = any(tags.get(tag["ConditionKey"]) == tag["ConditionValue"] for tag in selection["ListOfTags"])
        return (by_name or by_tag) and all(
            _holds(kind, tags, condition) for kind in CONDITIONS for condition in selection["Conditions"][kind]
        )


def _holds(kind: str, tags: dict[str, str], condition: dict[str, str]) -> bool:
    value = tags.get(condition["ConditionKey"].removeprefix("aws:ResourceTag/"))
    if kind.endswith("Like"):
        same = value is not None and fnmatchcase(value, condition["ConditionValue"])
    else:
        same = value == condition["ConditionValue"]
    return same if "Not" not in kind else not same


# what moto's response class does not know ------------------------------------------------------------------------


def _backend(response: BackupResponse) -> Backups:
    backend = response.backup_backend
    assert isinstance(backend, Backups)  # noqa: S101 -- moto makes no others
    return backend


def _parts(response: BackupResponse) -> list[str]:
    return [unquote(part) for part in response.path.strip("/").split("/")]


def _update_plan(response: BackupResponse) -> str:
    plan = _backend(response).update_plan(_parts(response)[2], json.loads(response.body)["BackupPlan"])
    return json.dumps(plan.to_dict())


def _create_selection(response: BackupResponse) -> str:
    body = json.loads(response.body)
    selection = _backend(response).select(_parts(response)[2], body["BackupSelection"], body.get("CreatorRequestId"))
    return json.dumps({key: selection[key] for key in ("SelectionId", "BackupPlanId", "CreationDate")})


def _get_selection(response: BackupResponse) -> str:
    parts = _parts(response)
    return json.dumps(_backend(response).selection(parts[2], parts[4]))


def _list_selections(response: BackupResponse) -> str:
    plan = _parts(response)[2]
    _backend(response).plan(plan)
    selections = [
        {key: value for key, value in selection.items() if key != "BackupSelection"}
        | {key: selection["BackupSelection"].get(key) for key in ("SelectionName", "IamRoleArn")}
        for selection in _backend(response).selections_of(plan)
    ]
    return json.dumps({"BackupSelectionsList": selections})


def _delete_selection(response: BackupResponse) -> str:
    parts = _parts(response)
    _backend(response).selection(parts[2], parts[4])
    del _backend(response).selections[parts[2]][parts[4]]
    return "{}"


def _list_points(response: BackupResponse) -> str:
    vault = _backend(response).describe_backup_vault(_parts(response)[1])
    return json.dumps({"RecoveryPoints": _backend(response).in_vault(vault.backup_vault_name)})


def _delete_point(response: BackupResponse) -> str:
    _backend(response).delete_point("/".join(_parts(response)[3:]))
    return "{}"


def run() -> list[str]:
    """Let the hour of every region's plans come."""
    account = backup_backends[ACCOUNT]
    backends = [account[region] for region in list(account)]
    return [name for backend in backends if isinstance(backend, Backups) for name in backend.run()]


def install() -> None:
    """Let moto use these."""
    backup_backends.backend = Backups
    methods = {
        "update_backup_plan": _update_plan,
        "create_backup_selection": _create_selection,
        "get_backup_selection": _get_selection,
        "list_backup_selections": _list_selections,
        "delete_backup_selection": _delete_selection,
        "list_recovery_points_by_backup_vault": _list_points,
        "delete_recovery_point": _delete_point,
    }
    for name, method in methods.items():
        type.__setattr__(BackupResponse, name, method)
    points = "{0}/backup-vaults/(?P<name>[^/]+)/recovery-points"
    urls.url_paths |= {f"{points}/$": BackupResponse.dispatch, f"{points}/(?P<arn>.+)$": BackupResponse.dispatch}
