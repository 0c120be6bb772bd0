"""An inventory source of another plugin, whose options are filled from the environment; what is missing is named."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.plugins.loader import inventory_loader
from ansible.utils.display import Display

DOCUMENTATION = r"""
name: goud_environment
short_description: Another inventory plugin with options from the environment
description:
  - >-
    Plugins for clouds read few of their options from the environment and do not template the others, so that neither
    the project nor the cluster's name could be given by it. This one checks that the environment is complete, writes
    the values into the options as C(${NAME}), and lets the named plugin do its work on them.
options:
  plugin: {description: C(goud_environment)., type: str, required: true}
  source: {description: The plugin that does the work., type: str, required: true}
  suffix: {description: The ending that this plugin wants of its files., type: str, required: true}
  environment:
    description: >-
      Variables that are used, with C(default) or with C(needed), the sentence that is told when it is not set. C(when)
      limits it to the case that another variable has a value; C(or) names others that will do as well.
    type: dict
    default: {}
  options: {description: The plugin's own options., type: dict, required: true}
author: [Goud Chain]
"""

EXAMPLES = r"""
plugin: goud_environment
source: google.cloud.gcp_compute
suffix: gcp.yml
environment:
  GCP_PROJECT: {needed: the project's id}
  GOUD_CLUSTER: {default: goud-gcp}
options:
  projects: ["${GCP_PROJECT}"]
  filters: ["labels.goud_cluster = ${GOUD_CLUSTER}"]
"""


def resolve(rules: Mapping[str, Mapping[str, Any]], environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The values of the variables, and one line for each that is missing."""
    values: dict[str, str] = {}
    missing = []
    for name, rule in rules.items():
        candidates = (environment.get(other) for other in (name, *rule.get("or", [])))
        values[name] = next((value for value in candidates if value), str(rule.get("default", "")))
        condition: Mapping[str, str] = rule.get("when", {})
        applies = all(environment.get(other) == text for other, text in condition.items())
        if not values[name] and "needed" in rule and applies:
            missing.append(f"{name} ({rule['needed']})")
    return values, missing


def refusal(sentence: str) -> SystemExit:
    """Tell why there is no inventory; the answer ends the run when it is raised.

    An error that a plugin raises is told after the complaints of every other plugin that tried to read the file: the
    sentence would be lost among parser errors. A source that cannot be read fails the run either way (ansible.cfg).
    """
    Display().error(sentence, wrap_text=False)
    return SystemExit(1)


def filled(node: Any, values: Mapping[str, str]) -> Any:
    """The options with each ${NAME} replaced."""
    if isinstance(node, Mapping):
        return {str(key): filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(item, values) for item in node]
    if isinstance(node, str):
        text = str(node)
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        return text
    return node


class InventoryModule(BaseInventoryPlugin):
    """Checks the environment, then hands over."""

    NAME = "goud_environment"

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Ends the run when the environment is incomplete or the provider cannot be asked."""
        super().parse(inventory, loader, path, cache)
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        values, missing = resolve(content.get("environment", {}), os.environ)
        folder = Path(path).parent
        if missing:
            raise refusal(
                f"the inventory inventories/{folder.name} needs credentials: set {' and '.join(missing)} "
                f'in the environment, or take the cloud in a box: eval "$(./run sandbox env {folder.name})"'
            )
        source = inventory_loader.get(content["source"])
        if source is None:
            raise AnsibleParserError(f"{path}: there is no inventory plugin {content['source']}")
        # The plugins know their files by name and read them themselves.
        with tempfile.TemporaryDirectory(prefix="goud-inventory-") as place:
            rendered = Path(place, content["suffix"])
            rendered.write_text(yaml.safe_dump({"plugin": content["source"], **filled(content["options"], values)}))
            try:
                source.parse(inventory, loader, str(rendered), cache=False)
            except Exception as error:  # whatever a plugin raises, this inventory cannot be trusted
                raise refusal(f"the inventory inventories/{folder.name} cannot be read: {error}") from error
