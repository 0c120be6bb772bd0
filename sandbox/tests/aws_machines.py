"""A whole sandbox for tests with Amazon's modules."""

from __future__ import annotations

from typing import Any

import boto3  # type: ignore[import-untyped] # it has no types

from goud_sandbox import control
from goud_sandbox.settings import Settings

from .machines import Box

REGION, ZONE = "eu-west-1", "eu-west-1a"
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {size: 2, zones: {one: eu-west-1a, two: eu-west-1b}}
  tasks:
    - amazon.aws.ec2_vpc_net: {name: net, cidr_block: 10.214.0.0/16, tags: {cluster: goud}}
      register: net
    - amazon.aws.ec2_vpc_subnet:
        vpc_id: "{{ net.vpc.id }}"
        cidr: "10.214.{{ index }}.0/24"
        az: "{{ item.value }}"
        map_public: true
        tags: {Name: "{{ item.key }}"}
      loop: "{{ zones | dict2items }}"
      loop_control: {index_var: index}
      register: subnets
    - amazon.aws.ec2_vpc_igw: {vpc_id: "{{ net.vpc.id }}"}
      register: gateway
    - amazon.aws.ec2_vpc_route_table:
        vpc_id: "{{ net.vpc.id }}"
        tags: {Name: public}
        subnets: "{{ subnets.results | map(attribute='subnet.id') }}"
        routes: [{dest: 0.0.0.0/0, gateway_id: "{{ gateway.gateway_id }}"}]
    - amazon.aws.ec2_security_group:
        name: node
        description: nodes
        vpc_id: "{{ net.vpc.id }}"
        rules:
          - {proto: tcp, ports: [22], cidr_ip: 127.0.0.0/8}
          - {proto: tcp, ports: [9000], group_name: node, group_desc: nodes}
      register: group
    - amazon.aws.ec2_key: {name: deploy, key_material: "{{ lookup('file', 'key.pub') }}"}
    - amazon.aws.ec2_ami_info: {owners: ['136693071363'], filters: {name: debian-13-amd64-*}}
      register: images
    - amazon.aws.ec2_instance:
        name: "{{ item.key }}"
        vpc_subnet_id: "{{ (subnets.results | selectattr('item.key', 'eq', item.key) | first).subnet.id }}"
        instance_type: t3.small
        image_id: "{{ images.images[0].image_id }}"
        key_name: deploy
        security_group: "{{ group.group_id }}"
        metadata_options: {http_tokens: required, http_endpoint: enabled}
        volumes: [{device_name: /dev/xvda, ebs: {volume_size: 10, encrypted: true, delete_on_termination: true}}]
        user_data: "#!/bin/sh\\necho booted >> /var/lib/boots\\n"
        termination_protection: "{{ item.key == 'one' }}"
        tags: {role: node}
        state: running
      loop: "{{ zones | dict2items }}"
      register: machines
    - amazon.aws.ec2_vol:
        name: data
        zone: eu-west-1a
        volume_size: "{{ size }}"
        volume_type: gp3
        encrypted: true
        modify_volume: true
        instance: "{{ machines.results[0].instance_ids[0] }}"
        device_name: /dev/sdf
        delete_on_termination: false
        tags: {backup: daily}
"""
VOLUME = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - amazon.aws.ec2_vol:
        name: data
        zone: eu-west-1a
        volume_size: "{{ size }}"
        volume_type: gp3
        encrypted: true
        modify_volume: true
        delete_on_termination: false
        tags: {backup: daily}
"""
REST = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {present: true}
  tasks:
    - amazon.aws.s3_bucket:
        name: goud-backups
        state: "{{ present | bool | ternary('present', 'absent') }}"
        versioning: true
        encryption: AES256
        public_access:
          {block_public_acls: true, ignore_public_acls: true, block_public_policy: true, restrict_public_buckets: true}
        object_ownership: BucketOwnerEnforced
        object_lock_enabled: true
        object_lock_default_retention: {mode: GOVERNANCE, days: 1}
        tags: {cluster: goud}
    - community.aws.s3_lifecycle:
        name: goud-backups
        rule_id: old-versions
        noncurrent_version_expiration_days: 30
        abort_incomplete_multipart_upload_days: 7
        prefix: ""
      when: present | bool
    - amazon.aws.iam_managed_policy:
        name: writer
        policy:
          Version: '2012-10-17'
          Statement:
            - {Effect: Allow, Action: ['s3:PutObject', 's3:GetObject'], Resource: 'arn:aws:s3:::goud-backups/*'}
      when: present | bool
    - amazon.aws.iam_role:
        name: writer
        assume_role_policy_document:
          Version: '2012-10-17'
          Statement: [{Effect: Allow, Action: sts:AssumeRole, Principal: {Service: ec2.amazonaws.com}}]
        managed_policies: "{{ present | bool | ternary(['arn:aws:iam::123456789012:policy/writer'], omit) }}"
        create_instance_profile: false
        state: "{{ present | bool | ternary('present', 'absent') }}"
    - amazon.aws.iam_policy:
        iam_type: role
        iam_name: writer
        policy_name: inline
        policy_json: {Version: '2012-10-17', Statement: [{Effect: Allow, Action: ['ec2:DescribeTags'], Resource: '*'}]}
      when: present | bool
    - amazon.aws.iam_instance_profile: {name: writer, role: writer}
      when: present | bool
    - amazon.aws.backup_vault: {backup_vault_name: daily, tags: {cluster: goud}}
      when: present | bool
    - amazon.aws.backup_plan:
        backup_plan_name: daily
        rules:
          - rule_name: daily
            target_backup_vault_name: daily
            schedule_expression: cron(0 4 ? * * *)
            lifecycle: {delete_after_days: 7}
            recovery_point_tags: {cluster: goud}
        tags: {cluster: goud}
      when: present | bool
    - amazon.aws.backup_selection:
        selection_name: data
        plan_name: daily
        iam_role_arn: arn:aws:iam::123456789012:role/backup
        list_of_tags: [{condition_type: STRINGEQUALS, condition_key: backup, condition_value: daily}]
        state: "{{ present | bool | ternary('present', 'absent') }}"
    - amazon.aws.backup_plan: {backup_plan_name: daily, state: absent}
      when: not present | bool
    - amazon.aws.backup_vault: {backup_vault_name: daily, state: absent}
      when: not present | bool
    - amazon.aws.route53_zone: {zone: example.test, comment: Test}
    - amazon.aws.route53:
        zone: example.test
        record: goud.example.test
        type: A
        ttl: 60
        value: 192.0.2.7
        overwrite: true
        state: "{{ present | bool | ternary('present', 'absent') }}"
    - amazon.aws.ec2_eip:
        {reuse_existing_ip_allowed: true, tag_name: Name, tag_value: edge, tags: {Name: edge}, in_vpc: true}
    - amazon.aws.ec2_vol_info: {filters: {'tag:Name': data}}
"""
INVENTORY = """
plugin: amazon.aws.aws_ec2
regions: [eu-west-1]
filters: {'tag:role': node, instance-state-name: running}
keyed_groups: [{key: tags.role, prefix: role}]
hostnames: ['tag:Name']
compose: {"ansible_host": "public_ip_address | default(private_ip_address)"}
strict: true
"""


class AwsBox(Box):
    """One running sandbox with an operator's environment for Amazon."""

    defaults = Settings(name="testaws", project="box", loopback="127.0.114", proxy_port=18190)
    user = "admin"
    inventory_file = "test.aws_ec2.yml"

    def client(self) -> dict[str, str]:
        return control.aws_environment(self.home)

    def books(self) -> dict[str, str]:
        return {"play.yml": PLAY, "volume.yml": VOLUME, "rest.yml": REST, self.inventory_file: INVENTORY}

    def service(self, name: str) -> Any:
        """boto3's client."""
        return boto3.client(
            name,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def instance(self, host: str) -> Any:
        """The living instance of that name."""
        filters = [{"Name": "tag:Name", "Values": [host]}]
        reservations = self.service("ec2").describe_instances(Filters=filters)["Reservations"]
        alive = [
            instance
            for reservation in reservations
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ]
        assert len(alive) == 1, alive
        return alive[0]

    def machine(self, host: str) -> str:
        return str(self.instance(host)["InstanceId"])

    def address(self, host: str) -> str:
        return str(self.instance(host)["PublicIpAddress"])

    def state(self, host: str) -> str:
        return str(self.instance(host)["State"]["Name"])

    def volume(self) -> Any:
        """The data volume."""
        filters = [{"Name": "tag:Name", "Values": ["data"]}]
        return self.service("ec2").describe_volumes(Filters=filters)["Volumes"][0]
