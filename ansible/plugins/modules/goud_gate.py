"""Wait until a node is ready and has caught up, and return what it says of itself; notice a node that cannot start."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: goud_gate
short_description: Wait until a node is ready, or say why it is not
description:
  - Asks C(/readyz) until it is 200 and C(/health) until the lag is small, then reads C(/api/metrics). Reads only.
  - Ends at once when the container is gone, or when the engine restarts it again and again.
  - Never fails because the node is not ready; the caller judges C(problem).
options:
  url: {description: The node's public HTTP interface as its host reaches it., type: str, required: true}
  container: {description: The node's container., type: str, required: true}
  timeout: {description: Seconds to wait; 0 asks once., type: float, default: 0}
  maximum_lag: {description: Blocks that it may be behind., type: int, default: 5}
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Wait until the node serves
  goud_gate:
    url: http://127.0.0.1:8081
    container: node1
    timeout: 120
  register: gate
  failed_when: gate.problem | length > 0
"""

RETURN = r"""
problem: {description: Why the node is not ready in one sentence; empty when it is., returned: always, type: str}
readyz: {description: The last answer of /readyz., returned: always, type: dict}
health: {description: The last answer of /health., returned: always, type: dict}
metrics: {description: The answer of /api/metrics., returned: always, type: dict}
waited: {description: Seconds waited., returned: always, type: float}
"""

PAUSE_SECONDS = 0.5
# A proxy of the environment is for packages and providers; a node is reached directly, or it does not serve.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RESTARTS = 2  # that many within one gate are a node that cannot start


class Gone(Exception):
    """The container will not become ready by waiting; the text says why."""


def ask(url: str) -> tuple[int, dict[str, Any], str]:
    """Status, JSON body and problem text of a GET; status 0 when nobody answered."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            status, body = int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    except (OSError, ValueError) as error:
        return 0, {}, f"no answer from {url} ({getattr(error, 'reason', error)})"
    try:
        document = json.loads(body)
    except ValueError:
        return status, {}, f"{url} answered {status} without JSON"
    content = document if isinstance(document, dict) else {}
    return status, content, str(content.get("detail", "")) if status != 200 else ""


def engine(docker: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One call of the engine's client."""
    return subprocess.run([docker, *arguments], check=False, capture_output=True, text=True, timeout=30)


class Watch:
    """Notices a container that stopped or restarts again and again."""

    def __init__(self, docker: str, container: str) -> None:
        self._docker, self._container = docker, container
        self._first: int | None = None

    def check(self) -> None:
        """Raises Gone with the container's last words."""
        result = engine(
            self._docker, "inspect", "--format",
            "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", self._container,
        )  # fmt: skip
        if result.returncode != 0:
            raise Gone(f"there is no container {self._container}")
        restarts, state, code = result.stdout.split()
        if self._first is None:
            self._first = int(restarts)
        if state in {"exited", "dead", "created"}:
            raise Gone(f"the container is {state} (exit status {code}). {self._last_words()}")
        if int(restarts) - self._first >= RESTARTS or (state == "restarting" and int(restarts) >= RESTARTS):
            status = "" if state == "running" else f" (exit status {code})"  # a running one has none yet
            raise Gone(f"it cannot start: it ended {restarts} times{status}. {self._last_words()}")

    def _last_words(self) -> str:
        result = engine(self._docker, "logs", "--tail", "3", self._container)
        lines = (result.stdout + result.stderr).strip().splitlines()
        return f"Its last words: {lines[-1].strip()}" if lines else "It said nothing."


def once(url: str, maximum_lag: int, answers: dict[str, Any]) -> str:
    """Ask the node once, keep the answers in `answers`; the problem, or an empty text."""
    status, answers["readyz"], problem = ask(f"{url}/readyz")
    if status == 0:
        return problem
    health_status, answers["health"], health_problem = ask(f"{url}/health")
    if status != 200:
        return problem or f"/readyz answered {status}"
    if health_status != 200:
        return health_problem or f"/health answered {health_status}"
    lag = answers["health"].get("lag")
    if not isinstance(lag, int) or lag > maximum_lag:
        return f"it is {lag} blocks behind, {maximum_lag} are allowed"
    metrics_status, answers["metrics"], metrics_problem = ask(f"{url}/api/metrics")
    return "" if metrics_status == 200 else metrics_problem or f"/api/metrics answered {metrics_status}"


def gate(url: str, watch: Watch, timeout: float, maximum_lag: int) -> dict[str, Any]:
    """Ask until nothing is wrong or the time is over; its answers, with `problem` and `waited`."""
    answers: dict[str, Any] = {"readyz": {}, "health": {}, "metrics": {}}
    start = time.monotonic()
    while True:
        try:
            problem = once(url, maximum_lag, answers)
            if problem:
                watch.check()
        except Gone as error:
            problem, timeout = str(error), 0
        waited = time.monotonic() - start
        if not problem or waited >= timeout:
            if problem and timeout:
                problem += f" (waited {waited:.0f} s)"
            return answers | {"problem": problem, "waited": round(waited, 1)}
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "container": {"type": "str", "required": True},
            "timeout": {"type": "float", "default": 0},
            "maximum_lag": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    watch = Watch(module.get_bin_path("docker", required=True), module.params["container"])
    result = gate(module.params["url"], watch, module.params["timeout"], module.params["maximum_lag"])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
