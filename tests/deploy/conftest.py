"""The wheel of this checkout, a real API server for the manifests, and Helm for the chart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy import cluster_tools
from tests.deploy.api_server import TOKEN, api_server
from tests.deploy.helm import Helm
from tests.deploy.installed import build_wheel, unpack


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_site(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The wheel, unpacked into a folder that holds nothing else."""
    return unpack(wheel, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a real API server."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip("KUBEBUILDER_ASSETS is not set")
    with api_server(Path(assets), tmp_path_factory.mktemp("cluster")) as client:
        yield client


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster: what it renders, and what it refuses."""
    program = cluster_tools.path_of("helm")
    if program is None:
        pytest.skip("no helm beside the interpreter or on the PATH (tests/deploy/cluster_tools.py)")
    return Helm(program, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def cluster(api: httpx.Client, helm: Helm) -> Helm:
    """Helm on the cluster of ``api``."""
    return helm.on(str(api.base_url), TOKEN)
