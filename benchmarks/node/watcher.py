"""Ten times a second, what the kubelet, the engine and the sidecar say: ``python -m benchmarks.node.watcher``.

Runs in the node's network and prints one line of JSON for each look (timeline.Look), until it is ended. Nothing but the
standard library, so that it takes little of the cores that the pod shares with it.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

EVERY_S = 0.1
PODS_PORT, ENGINE_PORT = 10255, 8000
# The control port answers what the public one does; without a usable configuration there may be the public one alone,
# and where another process holds that, the control port alone.
HEALTH_PORTS = (9465, 9464)
SIDECAR, ENGINE = "gapwatch", "engine"
# The state of the parts changes slowly, and its page costs the sidecar more than /livez does.
STATE_EVERY = 10


def main() -> None:
    n = 0
    while True:
        began = time.monotonic()
        print(json.dumps(look(with_state=n % STATE_EVERY == 0)), flush=True)
        n += 1
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))


def look(with_state: bool) -> dict[str, Any]:
    status, body = get(PODS_PORT, "/pods")
    pods = json.loads(body).get("items") or [] if status == 200 else []
    return {
        "at": time.time(),
        "pods": [pod_state(pod) for pod in pods],
        "engine_answers": get(ENGINE_PORT, "/health")[0] == 200,
        "readyz": _of_sidecar("/readyz") if with_state else None,
        "metrics": _of_sidecar("/metrics") if with_state else None,
    }


def _of_sidecar(path: str) -> str:
    """ "" where it does not answer."""
    answers = (get(port, path)[1] for port in HEALTH_PORTS)
    return next((body.decode(errors="replace") for body in answers if body), "")


def pod_state(pod: dict[str, Any]) -> dict[str, Any]:
    status = pod.get("status", {})
    ready = [c["status"] == "True" for c in status.get("conditions") or [] if c["type"] == "Ready"]
    # A witness is a pod of its own, in which it is no sidecar.
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    [sidecar] = _named(containers, SIDECAR) or [{}]
    [engine] = _named(status.get("containerStatuses"), ENGINE) or [{}]
    return {
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
        "ready": ready == [True],
        "engine_running": "running" in engine.get("state", {}),
        "engine_restarts": engine.get("restartCount", 0),
        "sidecar_id": str(sidecar.get("containerID", "")).removeprefix("containerd://"),
        "sidecar_running": "running" in sidecar.get("state", {}),
        "sidecar_restarts": sidecar.get("restartCount", 0),
        "sidecar_ended": _ended(sidecar),
    }


def _ended(container: dict[str, Any]) -> str:
    """How the container ended last, in words; "" where it never did."""
    ends = [container.get(which, {}).get("terminated") for which in ("state", "lastState")]
    return next((f"{end.get('reason')}, exit code {end.get('exitCode')}" for end in ends if end), "")


def _named(statuses: list[dict[str, Any]] | None, name: str) -> list[dict[str, Any]]:
    return [status for status in statuses or [] if status["name"] == name]


def get(port: int, path: str) -> tuple[int, bytes]:
    """(0, b"") where nothing answers within a second."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        link.close()


if __name__ == "__main__":
    main()
