"""Who vouches for a passport: its folder signed with a private key, and checked with the public one. No network.

The signature covers every file of the folder but itself: the passport, and the bill of materials, which names the
adapter's files by their hash.
"""

from __future__ import annotations

from pathlib import Path

from model_signing import hashing, signing, verifying

from agent.errors import Refused

FILE = "signature.json"


def sign(folder: Path, private_key: Path) -> Path:
    """Write the signature of this folder into it. private_key: PEM of an elliptic curve (P-256, P-384, P-521), without
    a pass phrase. Raises Refused for a key that cannot be used."""
    signature = folder / FILE
    signature.unlink(missing_ok=True)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_hashing(folder)).sign(folder, signature)
    except (ValueError, TypeError, OSError) as error:
        raise Refused(str(private_key), _first_line(error), "a private key of an elliptic curve, as PEM") from error
    return signature


def verify(folder: Path, public_key: Path) -> str:
    """Why the signature of this folder does not hold, in words; "" where it does. Raises Refused for a file that is no
    public key."""
    signature = folder / FILE
    if not signature.is_file():
        return f"no signature in {folder}"
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, OSError) as error:
        raise Refused(str(public_key), _first_line(error), "a public key of an elliptic curve, as PEM") from error
    try:
        config.set_hashing_config(_hashing(folder)).verify(folder, signature)
    except Exception as error:  # the library raises ValueError, InvalidSignature and errors of what it parses
        return f"the signature does not hold: {_first_line(error)}"
    return ""


def _hashing(folder: Path) -> hashing.Config:
    return hashing.Config().set_ignored_paths(paths=[folder / FILE], ignore_git_paths=False)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
