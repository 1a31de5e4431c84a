"""Does a signature hold for what was signed, and for nothing else?"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import Refused
from agent.lifecycle.signature import sign, verify


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    files[0].write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    files[1].write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    passport = tmp_path / "passports" / "router"
    passport.mkdir(parents=True)
    (passport / "passport.yaml").write_text("adapter: router\n")
    return passport


def test_it_holds_for_what_was_signed_and_again_after_a_second_signature(tmp_path: Path, folder: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    assert verify(folder, public).startswith("no signature")
    sign(folder, private)
    assert verify(folder, public) == ""
    sign(folder, private)
    assert verify(folder, public) == ""


def test_another_key_a_changed_file_and_an_added_one_are_noticed(tmp_path: Path, folder: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    _, other = key_pair(tmp_path, "theirs")
    sign(folder, private)
    assert "does not hold" in verify(folder, other)
    (folder / "bom.cdx.json").write_text("{}")
    assert "does not hold" in verify(folder, public)
    (folder / "bom.cdx.json").unlink()
    (folder / "passport.yaml").write_text("adapter: rewriter\n")
    assert "does not hold" in verify(folder, public)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path, folder: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    with pytest.raises(Refused, match="private key"):
        sign(folder, public)
    sign(folder, private)
    (tmp_path / "no.pub").write_text("no key")
    with pytest.raises(Refused, match="public key"):
        verify(folder, tmp_path / "no.pub")
