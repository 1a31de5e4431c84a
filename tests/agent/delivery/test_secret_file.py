"""A key that is missing, wrong or rotated."""

from __future__ import annotations

from pathlib import Path

from agent.delivery.secret_file import SecretFile


def made(file: Path) -> SecretFile:
    return SecretFile(file, "sinks.x.key_file", "sink x", "a key of 4", lambda key: "" if len(key) == 4 else "no 4")


def test_a_file_is_another_one_once_for_each_change(tmp_path: Path) -> None:
    file = tmp_path / "key"
    secret = made(file)
    assert secret.read() == ("", False)
    assert secret.trouble.startswith("sinks.x.key_file: saw No such file or directory, wanted a key of 4 that user ")
    file.write_text("abcd\n")
    assert [secret.read(), secret.read()] == [("abcd", True), ("abcd", False)] and secret.trouble == ""
    (tmp_path / "next").write_text("efgh")
    (tmp_path / "next").rename(file)
    assert secret.current() == "efgh", "which takes no notice"
    assert secret.read() == ("efgh", True)


def test_what_is_no_key_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hunter2")
    secret = made(file)
    assert secret.read() == ("", False) and secret.current() == ""
    assert "saw no 4" in secret.trouble and "hunter2" not in secret.trouble
    file.write_bytes(b"\xff")
    assert (secret.read()[0], secret.current()) == ("", "") and "no text" in secret.trouble
