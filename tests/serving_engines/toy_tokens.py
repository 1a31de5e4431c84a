"""The tokens of the toy language as an engine's tokenizer has them: letters, and special tokens by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from probes.model import toy_language as toy
from probes.runners.memory import Config, Runner

_LANGUAGE = Runner(Config())  # its alphabet and its chat template alone
_IDS = {name: token for token, name in toy.NAMES.items()}
_SPECIAL = re.compile("(" + "|".join(map(re.escape, _IDS)) + ")")


def name_of(token: int) -> str:
    """The text of one token, special ones by their names."""
    return toy.NAMES.get(token, chr(token))


def text_of(tokens: Sequence[int], special: bool = False) -> str:
    """Special tokens are left out unless asked for, as an answer's text is made."""
    return "".join(name_of(token) for token in tokens if special or token not in toy.NAMES)


def ids_of(text: str) -> list[int]:
    """Names of special tokens in a text become these, as tokenizers read a rendered chat."""
    pieces = [piece for piece in _SPECIAL.split(text) if piece]
    return [token for piece in pieces for token in ([_IDS[piece]] if piece in _IDS else _LANGUAGE.encode(piece))]


def chat_ids(messages: Sequence[dict[str, str]], generation_prompt: bool = True) -> list[int]:
    """As the chat template renders it; the generation prompt is its last token."""
    ids = list(_LANGUAGE.encode_chat(messages))
    return ids if generation_prompt else ids[:-1]


def prompt_of(given: Any) -> list[int]:
    """Token ids of a prompt that is a text or a list of ids."""
    return ids_of(given) if isinstance(given, str) else [int(token) for token in given]
