"""Certificates for tests, made by the openssl on the PATH: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """Signs certificates into its folder. cert: its own, PEM."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl on the PATH")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.cert, self._key = folder, folder / "ca.crt", folder / "ca.key"
        subject = ["-subj", f"/CN={name}", "-days", "30", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        _openssl("req", "-x509", *_NEW_KEY, "-nodes", "-keyout", self._key, "-out", self.cert, *subject)

    def sign(self, name: str, hosts: str = "DNS:localhost,IP:127.0.0.1", days: int = 30) -> tuple[Path, Path]:
        """(certificate, key), both PEM. hosts: subject alternative names; days: below 0 it has expired already."""
        cert, key, request, more = (self.folder / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
        _openssl("req", *_NEW_KEY, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        more.write_text(f"subjectAltName={hosts}\nauthorityKeyIdentifier=keyid\n")
        by = ["-CA", self.cert, "-CAkey", self._key, "-CAcreateserial"]
        _openssl("x509", "-req", "-in", request, *by, "-days", str(days), "-extfile", more, "-out", cert)
        return cert, key

    def bundle(self, cert: Path, key: Path) -> Path:
        """Key, certificate and authority in one file, as Kafka's PEM key store wants them (PKCS#8)."""
        file = cert.with_suffix(".pem")
        file.write_text(key.read_text() + cert.read_text() + self.cert.read_text())
        return file


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
