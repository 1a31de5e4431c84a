"""Did a library fail for want of another package? Then that is the reason, whatever file it was reading."""

from __future__ import annotations

import re
from collections.abc import Iterator

# As transformers' messages call them -> as they are installed.
PACKAGES = {
    "accelerate": "accelerate", "gguf": "gguf", "sentencepiece": "sentencepiece", "protobuf": "protobuf",
    # A tokenizer.model is of either; transformers tries one after the other and names the second alone.
    "tiktoken": "sentencepiece tiktoken",
    "mistral_common": "mistral-common", "mistral-common": "mistral-common", "kernels": "kernels", "jinja2": "jinja2",
    "bitsandbytes": "bitsandbytes", "compressed_tensors": "compressed-tensors", "einops": "einops",
    "compressed-tensors": "compressed-tensors", "gptqmodel": "gptqmodel", "optimum": "optimum", "torchao": "torchao",
    "sacremoses": "sacremoses", "rjieba": "rjieba",
}  # fmt: skip
# Modules that are not called as what one installs.
MODULES = PACKAGES | {"google": "protobuf", "PIL": "pillow", "yaml": "pyyaml"}
NAMED = re.compile(rf"(?<![\w/.-])({'|'.join(PACKAGES)})(?![\w/-])", re.IGNORECASE)


def missing_dependency(error: BaseException) -> str:
    """The package to install, "" where the failure is another one."""
    for one in _chain(error):
        if isinstance(one, ModuleNotFoundError) and one.name:
            root = one.name.partition(".")[0]
            return MODULES.get(root, root)
        words = str(one)
        named = NAMED.search(words)
        if named and (isinstance(one, ImportError) or "install" in words.lower()):
            return PACKAGES[named[1].lower()]
    return ""


def read_failure(error: BaseException, otherwise: str) -> str:
    """One line: the package to install, or ``otherwise`` with the first line of the reason."""
    if package := missing_dependency(error):
        names = package.replace(" ", " or ")
        return f"cannot be read without the Python package {names}, which is not installed: pip install {package}"
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{otherwise} ({first_line})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the innermost last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
