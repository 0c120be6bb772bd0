"""Run a command in a container, and know how it ended: no exit code is not the exit code 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible_collections.community.docker.plugins.module_utils._api.errors import DockerException, NotFound
from ansible_collections.community.docker.plugins.module_utils.common_api import AnsibleDockerClient, RequestException
from ansible_collections.community.docker.plugins.module_utils.selectors import selectors
from ansible_collections.community.docker.plugins.module_utils.socket_handler import DockerSocketHandlerModule

DOCUMENTATION = r"""
module: goud_exec
short_description: Run a command in a container, and know how it ended
description:
  - >-
    Like C(community.docker.docker_container_exec), which takes it for success when the engine does not know the exit
    code yet. This one asks the engine again, and fails with C(rc=-1) when it gets no answer.
  - In check mode nothing is run, and the task is skipped.
options:
  container: {description: The container's name., type: str, required: true}
  argv: {description: The command and its words., type: list, elements: str, required: true}
  stdin: {description: One line for its standard input., type: str}
  patience: {description: Seconds to wait for the exit code once the output has ended., type: int, default: 10}
author: [Goud Chain]
"""

EXAMPLES = r"""
- name: Ask the member
  goud_exec:
    container: etcd1
    argv: [etcdctl, endpoint, status]
"""

RETURN = r"""
rc: {description: The exit code; -1 when the engine does not tell it., returned: when run, type: int}
stdout: {description: Standard output., returned: when run, type: str}
stderr: {description: Standard error., returned: when run, type: str}
"""

UNKNOWN = -1
PAUSE = 0.1


def exit_code(inspect: Callable[[], Mapping[str, Any]], patience: float) -> int:
    """Ask until the engine tells the exit code; UNKNOWN when it does not within these seconds."""
    deadline = time.monotonic() + patience
    while True:
        code = inspect().get("ExitCode")
        if code is not None:
            return int(code)
        if time.monotonic() >= deadline:
            return UNKNOWN
        time.sleep(PAUSE)


def stream(client: Any, identity: str, stdin: str | None) -> tuple[bytes, bytes]:
    """Start the command, and read what it writes until it ends."""
    start = {"Tty": False, "Detach": False}
    if stdin is None:
        stdout, stderr = client.post_json_to_stream(
            "/exec/{0}/start", identity, data=start, stream=False, tty=False, demux=True
        )
        return stdout or b"", stderr or b""
    socket = client.post_json_to_stream_socket("/exec/{0}/start", identity, data=start)
    try:
        with DockerSocketHandlerModule(socket, client.module, selectors) as handler:
            handler.write(to_bytes(stdin + "\n"))
            stdout, stderr = handler.consume()
    finally:
        socket.close()
    return stdout or b"", stderr or b""


def inspection(client: Any, identity: str) -> Mapping[str, Any]:
    """What the engine knows of the command: nothing, where it was started anew or does not answer."""
    try:
        content: Mapping[str, Any] = client.get_json("/exec/{0}/json", identity)
    except (DockerException, OSError):
        return {}
    return content


def run(client: Any, container: str, argv: list[str], stdin: str | None, patience: float) -> dict[str, Any]:
    """Run the command; return the result of the task."""
    command = {
        "Container": container, "User": "", "Privileged": False, "Tty": False, "AttachStdin": stdin is not None,
        "AttachStdout": True, "AttachStderr": True, "Cmd": argv, "Env": None,
    }  # fmt: skip
    identity = client.post_json_to_json("/containers/{0}/exec", container, data=command)["Id"]
    try:
        stdout, stderr = stream(client, identity, stdin)
    except OSError as error:  # the connection broke (a RequestException is an OSError, too): the command may go on
        stdout, stderr, code = b"", to_bytes(str(error)), UNKNOWN
    else:
        code = exit_code(lambda: inspection(client, identity), patience)
    result = {
        "changed": True, "rc": code, "stdout": to_text(stdout).rstrip("\r\n"), "stderr": to_text(stderr).rstrip("\r\n"),
    }  # fmt: skip
    if code == UNKNOWN:
        sentence = (
            f"The engine does not tell how `{' '.join(argv)}` in {container} ended: it may have "
            "been carried out. Run the verb again; if it recurs, the engine's own log says more."
        )
        result |= {"failed": True, "msg": sentence}
    return result


def main() -> None:
    """Entry point of the module."""
    client = AnsibleDockerClient(
        argument_spec={
            "container": {"type": "str", "required": True},
            "argv": {"type": "list", "elements": "str", "required": True},
            "stdin": {"type": "str"},
            "patience": {"type": "int", "default": 10},
        }
    )
    options = client.module.params
    container = options["container"]
    try:
        result = run(client, container, options["argv"], options["stdin"], options["patience"])
    except NotFound:
        client.fail(f"There is no container {container}: ./run status tells what there is.")
    except (DockerException, RequestException) as error:
        client.fail(f"The engine did not run `{' '.join(options['argv'])}` in {container}: {error}")
    else:
        client.module.exit_json(**result)


if __name__ == "__main__":
    main()
