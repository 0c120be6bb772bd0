"""Who may call: the operator, and the policies of Amazon's own that roles attach."""

from __future__ import annotations

import json

from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, iam_backends

from goud_sandbox.aws.context import ACCOUNT, Key, current

OPERATOR = "operator"
EVERYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
AMAZONS_OWN = (
    "AWSBackupServiceRolePolicyForBackup",
    "AWSBackupServiceRolePolicyForRestores",
    "AmazonSSMManagedInstanceCore",
)


def prepare(key: Key) -> None:
    """The operator with everything allowed, and Amazon's policies; what exists stays."""
    iam = iam_backends[ACCOUNT]["aws"]
    if OPERATOR in iam.users:
        return
    iam.create_user(current.settings.aws_region, OPERATOR)
    iam.put_user_policy(OPERATOR, "everything", EVERYTHING)
    access_key = iam.create_access_key(OPERATOR)
    access_key.access_key_id, access_key.secret_access_key = key.id, key.secret
    documents = json.loads(aws_managed_policies_data)
    for name in AMAZONS_OWN:
        policy = AWSManagedPolicy.from_data(name, ACCOUNT, current.settings.aws_region, documents[name])
        iam.aws_managed_policies.append(policy)
        iam.managed_policies[policy.arn] = policy
