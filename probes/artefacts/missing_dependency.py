"""Did a library fail because a Python package is not installed? Then report that, not the file that was being read.

Read from messages of transformers and of Python; a release that words them differently needs new patterns here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Name in transformers' messages -> name to install.
PACKAGES = {
    "accelerate": "accelerate", "gguf": "gguf", "sentencepiece": "sentencepiece", "protobuf": "protobuf",
    # A tokenizer.model needs either of them; transformers tries one after the other and names only the second.
    "tiktoken": "sentencepiece tiktoken",
    "mistral_common": "mistral-common", "mistral-common": "mistral-common", "kernels": "kernels", "jinja2": "jinja2",
    "bitsandbytes": "bitsandbytes", "compressed_tensors": "compressed-tensors", "einops": "einops",
    "compressed-tensors": "compressed-tensors", "gptqmodel": "gptqmodel", "optimum": "optimum", "torchao": "torchao",
    "sacremoses": "sacremoses", "rjieba": "rjieba",
}  # fmt: skip
# Importable module -> name to install, where the two differ.
MODULES = PACKAGES | {"google": "protobuf", "PIL": "pillow", "yaml": "pyyaml"}
NAMED = re.compile(rf"(?<![\w/.-])({'|'.join(PACKAGES)})(?![\w/-])", re.IGNORECASE)


def missing_dependency(error: BaseException) -> str:
    """The package to install, "" where the failure has another reason."""
    for cause in _chain(error):
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            root = cause.name.partition(".")[0]
            return MODULES.get(root, root)
        message = str(cause)
        named = NAMED.search(message)
        if named and (isinstance(cause, ImportError) or "install" in message.lower()):
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
    """The error and its causes, the innermost last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
