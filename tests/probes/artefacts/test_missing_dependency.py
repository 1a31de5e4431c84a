"""A missing package is recognised in the messages of transformers, and no other failure is taken for one."""

from __future__ import annotations

import pytest

from probes.artefacts.missing_dependency import missing_dependency, read_failure


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece"), "sentencepiece"),
        (ModuleNotFoundError("No module named 'google.protobuf'", name="google.protobuf"), "protobuf"),
        (ModuleNotFoundError("No module named 'mamba_ssm'", name="mamba_ssm"), "mamba_ssm"),
        (ImportError("Using a `device_map` requires Accelerate: `pip install accelerate`"), "accelerate"),
        (ImportError("\nTokenizer requires the SentencePiece library but it was not found."), "sentencepiece"),
        (ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`."),
         "sentencepiece tiktoken"),
        (ValueError("(2) a slow tokenizer\nYou need to have sentencepiece or tiktoken installed"), "sentencepiece"),
        (OSError("/models/gguf/x: not found; install a newer release"), ""),
        (ValueError("tensor sentencepiece has a wrong shape"), ""),
        (RuntimeError("out of memory"), ""),
    ],
)  # fmt: skip
def test_which_package(error: Exception, package: str) -> None:
    assert missing_dependency(error) == package


def test_the_reason_may_lie_beneath_another_error_and_is_one_line() -> None:
    outer = ValueError("cannot load\nsee the documentation")
    assert read_failure(outer, "is no model") == "is no model (cannot load)"
    outer.__cause__ = ImportError("Loading a GGUF checkpoint requires gguf>=0.10", name="x")
    words = "cannot be read without the Python package gguf, which is not installed: pip install gguf"
    assert read_failure(outer, "is no model") == words
