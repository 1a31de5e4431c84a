"""Code in a model folder that leaves a file behind if anything ever runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RAN = "code-was-run"
CODE = """
from pathlib import Path
(Path(__file__).parent / "{ran}").touch()
Path("{folder}/{ran}").touch()
class OwnConfig: pass
class OwnModel: pass
class OwnTokenizer: pass
"""


def with_code(base: Path, model_type: str, tokenizer_class: str = "OwnTokenizer") -> Path:
    """The folder with code for everything that transformers loads code for."""
    for name in ("configuration_own", "modeling_own", "tokenization_own", "custom_generate/generate"):
        file = base / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(CODE.format(ran=RAN, folder=base))
    _told(
        base / "config.json",
        model_type=model_type,
        auto_map={"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"},
    )
    _told(
        base / "tokenizer_config.json",
        tokenizer_class=tokenizer_class,
        auto_map={"AutoTokenizer": ["tokenization_own.OwnTokenizer", "tokenization_own.OwnTokenizer"]},
    )
    return base


def _told(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
