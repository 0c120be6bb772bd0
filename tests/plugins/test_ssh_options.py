"""The options that lead ssh to machines: the file of host keys is found below any path."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
import yaml
from jinja2 import Environment

import documentation


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed here")
@pytest.mark.parametrize("provider", ["gcp", "aws"])
@pytest.mark.parametrize(
    "odd", ["plain", "with space", 'a "quote"', "an 'apostrophe'", "50 % h %h", "back\\slash", "ümläut"]
)
def test_host_keys_are_looked_for_where_they_lie(provider: str, odd: str) -> None:
    settings = yaml.safe_load((documentation.ROOT / f"inventories/{provider}/group_vars/all.yml").read_text())
    jinja = Environment(autoescape=False)  # noqa: S701 - options of a command, no page
    jinja.filters["quote"] = shlex.quote
    known = {"goud_secrets_dir": f"/srv/{odd}", "goud_cluster": "c", "inventory_hostname": "node1"}
    known["goud_known_hosts"] = jinja.from_string(settings["goud_known_hosts"]).render(known)
    options = shlex.split(jinja.from_string(settings["ansible_ssh_common_args"]).render(known))
    result = subprocess.run(["ssh", "-G", *options, "node1"], check=True, capture_output=True, text=True)
    assert f"userknownhostsfile /srv/{odd}/ssh/known_hosts" in result.stdout.splitlines()
