"""The one image that the node harness needs, written without a registry, a container engine or a download.

It holds nothing but empty places and a process that sleeps, which is what a pod's sandbox runs. Containers get the
machine's own /usr, the Python of this environment and this checkout as read-only mounts (sidecar_pod.py): what is
tested is the working tree.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

NAME = "localhost/gapwatch-node:1"
# Where a merged /usr is, these are links into it; a container mounts the machine's /usr over the image's.
LINKS = ("bin", "sbin", "lib", "lib64")


def write_image(file: Path) -> None:
    """An archive as `docker save` writes it, which `ctr images import` reads."""
    layer = _layer()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/usr/bin/sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(file, "w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer() -> bytes:
    """sleep, the libraries that it is linked with, and the links of a merged /usr."""
    sleep = Path(shutil.which("sleep") or "/usr/bin/sleep")
    linked = subprocess.run(["ldd", sleep], capture_output=True, text=True, check=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for name in LINKS:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            layer.addfile(link)
        _add(layer, "usr/bin/sleep", sleep.resolve().read_bytes(), mode=0o755)
        for library in re.findall(r"(/\S+) \(0x", linked):
            _add(layer, _in_usr(library), Path(library).read_bytes(), mode=0o755)
    return content.getvalue()


def _in_usr(library: str) -> str:
    bare = library.removeprefix("/")
    return bare if bare.startswith("usr/") else f"usr/{bare}"


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
