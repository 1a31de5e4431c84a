"""One kubelet for all tests of this folder, and a volume with a real base for those that replay canaries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.node.sidecar_pod import lay_models
from benchmarks.node.single_node import Node, single_node, unavailable
from benchmarks.node.trial import broker


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    why = unavailable()
    if why:
        pytest.skip(f"no kubelet: {why}")
    with single_node(tmp_path_factory.mktemp("node") / "node") as running, broker(running):
        yield running


@pytest.fixture(scope="session")
def volume(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, adapter, canaries and golden records; asked for by name of the node first, so that a skip costs nothing."""
    place = tmp_path_factory.mktemp("volume") / "models"
    lay_models(place)
    return place
