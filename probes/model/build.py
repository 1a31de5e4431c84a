"""From a base's files to a model in memory: read, hashed, built, and run once to see whether it can be trusted.

What is hashed is what is run: weights are hashed from the bytes that become the model's tensors, because files may
change between two reads. Tensors are read one at a time, and each is held as it will be computed with: at no time are
there two copies of the weights. What is refused, and why, is in probes/artefacts/architecture.py,
probes/artefacts/unexpected_keys.py and invariance.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from probes.artefacts.architecture import architecture, check_architecture, quantisation
from probes.artefacts.identity import (
    NEWEST,
    SCHEMES,
    HashByScheme,
    base_hashes,
    template_hash,
    tokenizer_files,
    tokenizer_hashes,
)
from probes.artefacts.lora_files import to_torch
from probes.artefacts.missing_dependency import read_failure
from probes.artefacts.needed_memory import KEPT_BATCHES
from probes.artefacts.safetensors_header import (
    DigestRow,
    RawTensor,
    TensorEntry,
    digest_of_rows,
    digest_row,
    read_folder,
    read_json,
    writable,
)
from probes.artefacts.unexpected_keys import explain_unexpected, unexpected_keys
from probes.artefacts.weight_grid import grid_of_base
from probes.errors import Unreplayable
from probes.model.cache import KeptBeginnings
from probes.model.devices.card_faults import card_fault
from probes.model.forward import Model
from probes.model.free_memory import memory_errors, no_memory
from probes.model.invariance import NotInvariant, check_invariance
from probes.model.lora import AppliedAdapters
from probes.model.precision.kernels import SPLIT
from probes.model.precision.split_products import STORED, RoundedBefore, split_class
from probes.scoring.token_distribution import FLOAT32

AUTO = "auto"
HALVES = (torch.bfloat16, torch.float16)
# What is rounded to each of them tensor by tensor while it is read.
WIDER = {torch.bfloat16: (torch.float32, torch.float16), torch.float16: (torch.float32, torch.bfloat16)}
PARAMETERS = ("weight", "bias", "*")
# Relative spacing of the numbers of a dtype, by its name in safetensors. Those of quantised weights are not among them:
# engines compute with such weights in half precision, in which a file of theirs stores norms and scales.
SPACING = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": FLOAT32, "F64": FLOAT32}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model runs. attention: transformers' name of the backend, or AUTO for what the class supports.

    batch_tokens: padded tokens of one forward pass at most
    split: do weights stay in bfloat16 beside numbers in float32 (probes/model/precision/split_products.py)?
    is_chosen: were dtype and split chosen here and not configured, so that a base that is stored otherwise is computed
    in float32?
    """

    device: torch.device
    dtype: torch.dtype
    attention: str
    batch_tokens: int = 2048
    split: bool = False
    is_chosen: bool = False

    @property
    def kernel(self) -> str:
        """Its name (probes/model/precision/kernels.py)."""
        return SPLIT if self.split else str(self.dtype).removeprefix("torch.")

    @property
    def held(self) -> torch.dtype:
        """The dtype in which a weight is held that is stored in it."""
        return STORED if self.split else self.dtype


@dataclass(frozen=True, slots=True)
class BaseHashes:
    """Hashes of a base, its tokenizer's files and its chat template ("" without); "" by every scheme for what does not
    exist. grid: how the base is quantised (probes/artefacts/weight_grid.py); weights: digest of its tensors alone"""

    base: HashByScheme = field(default_factory=lambda: dict.fromkeys(SCHEMES, ""))
    tokenizer: HashByScheme = field(default_factory=lambda: dict.fromkeys(SCHEMES, ""))
    template: str = ""
    grid: str = ""
    weights: str = ""

    @property
    def has_tokenizer(self) -> bool:
        """A folder of weights alone has none, and is replayed by the golden one."""
        return any(self.tokenizer.values())


@dataclass(frozen=True, slots=True, eq=False)
class BaseParts:
    """A base read from its folder but not yet built.

    weights: name -> tensor, see ``as_held``; stored: how each lies in its file; hashes, rows: of exactly the bytes that
    the weights were made of
    """

    folder: Path
    weights: dict[str, torch.Tensor]
    stored: list[TensorEntry]
    hashes: BaseHashes
    rows: list[DigestRow]

    @property
    def hash(self) -> str:
        """By the newest scheme: two bases with the same one answer alike."""
        return self.hashes.base[NEWEST]


def read_base(folder: Path, dtype: torch.dtype = torch.float32) -> BaseParts:
    """Read and hash a model folder. What is hashed is what is run: the files may change between two reads.

    dtype: in which answers are computed. A model of a class that is not run here is refused before its weights are
    read. A folder of weights alone has no tokenizer of its own: it can be replayed by the golden one. Raises
    Unreplayable, NoMemory.
    """
    weights: dict[str, torch.Tensor] = {}
    stored: list[TensorEntry] = []
    is_plain, exempt = not quantisation(folder), kept_wide(folder) if dtype in HALVES else frozenset()

    def keep(tensor: RawTensor) -> None:
        stored.append(tensor.entry)
        weights[tensor.name] = as_held(tensor, dtype, exempt) if is_plain else to_torch(tensor)

    hashes, rows = _read(folder, keep)
    return BaseParts(folder, weights, stored, hashes, rows)


def read_hashes(folder: Path) -> BaseHashes:
    """The hashes of a model folder, as ``read_base`` has them, with one tensor in memory at a time. Raises likewise."""
    return _read(folder, lambda _: None)[0]


def hashes_with(folder: Path, weights: str, grid: str) -> BaseHashes:
    """The hashes of a model folder whose weights are known already: of its other files alone. Raises Unreplayable.

    weights, grid: as in ``BaseHashes``
    """
    tokenizer = (tokenizer_hashes(folder), template_hash(folder)) if tokenizer_files(folder) else ()
    return replace(BaseHashes(base_hashes(folder, weights), *tokenizer), grid=grid, weights=weights)


def _read(folder: Path, keep: Callable[[RawTensor], None]) -> tuple[BaseHashes, list[DigestRow]]:
    """Each tensor is read once, hashed, looked at and handed to ``keep``, before the next one is read."""
    check_architecture(folder)
    rows: list[DigestRow] = []

    def passing() -> Iterator[RawTensor]:
        for tensor in read_folder(folder):
            rows.append(digest_row(tensor))
            keep(tensor)
            yield tensor

    tensors = passing()
    with memory_errors(str(folder)):
        grid = grid_of_base(read_json(folder / "config.json"), tensors)
        deque(tensors, maxlen=0)  # those that the grid was not read from
    return hashes_with(folder, digest_of_rows(rows), grid), rows


def as_held(tensor: RawTensor, dtype: torch.dtype, exempt: Set[str] = frozenset()) -> torch.Tensor:
    """In the dtype in which it is computed with, so that a file is never in memory a second time. Vectors that would be
    rounded are left as they are stored, and so are the parameters of modules named in ``exempt``: their class may
    compute with them in float32. All others as they are stored, over the bytes that were read.

    Raises MemoryError, and Unsupported as ``to_torch``.
    """
    read = to_torch(tensor)
    is_widened = dtype is torch.float32 and read.dtype in HALVES
    is_rounded = dtype in HALVES and read.dtype in WIDER[dtype] and read.dim() > 1
    is_converted = is_widened or (is_rounded and exempt.isdisjoint(tensor.name.split(".")))
    if not is_converted or not read.numel():
        return read
    held = torch.frombuffer(writable(dtype.itemsize * read.numel()), dtype=dtype).reshape(read.shape)
    return held.copy_(read)


def kept_wide(folder: Path) -> frozenset[str]:
    """Names of the modules and parameters that the model's class keeps in float32 where all else is in 16 bits."""
    config, kind = architecture(folder)
    text = transformers.MODEL_MAPPING.get(type(config.get_text_config()), kind)
    patterns = [
        pattern
        for each in (kind, text)
        for names in (each._keep_in_fp32_modules, each._keep_in_fp32_modules_strict)
        for pattern in names or ()
    ]
    return frozenset(part for pattern in patterns for part in pattern.split(".") if part not in PARAMETERS)


def build(parts: BaseParts, placement: Placement) -> Model:
    """The model of these parts. Raises Unreplayable when its class is none that is run here
    (probes/artefacts/architecture.py), tensors are missing, left over or of other shapes, or its answers depend on
    batching, padding or caching (invariance.py); NoMemory.
    """
    folder = parts.folder
    # What transformers would warn of is raised here, in one line.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    network = _loaded(parts, placement)
    try:
        network = network.to(placement.device).eval().requires_grad_(False)
        traits = check_invariance(network)
    except RoundedBefore as error:
        why = f"{error}: this model rounds in between, so set dtype: float32 under probes.runner_settings"
        raise Unreplayable(str(folder), why) from None
    except NotInvariant as finding:
        raise Unreplayable(str(folder), read_failure(finding, _cannot_run(network))) from None
    except Exception as error:  # this is the first time that the model runs
        why = card_fault(error) or read_failure(error, _cannot_run(network))
        raise no_memory(str(folder), error) or Unreplayable(str(folder), why) from error
    adapters = AppliedAdapters(network, rowwise=traits.rowwise)
    return Model(
        parts.hash,
        folder,
        network,
        adapters,
        _ends(folder, network),
        traits.plain_head,
        traits.continues,
        _spacing(parts.stored),
        placement.batch_tokens,
        KeptBeginnings(KEPT_BATCHES * placement.batch_tokens),
        placement.kernel,
    )


def _cannot_run(network: Any) -> str:
    """What a class lacks that needs its rows one at a time, or a cache of its own, and what would help."""
    return (
        f"{type(network).__name__} cannot be run in batches and through transformers' cache, as replay needs it: "
        "let its engine answer instead (models[].served)"
    )


def _spacing(tensors: Sequence[TensorEntry]) -> float:
    """Of the coarsest dtype that the files store (``Model.spacing``)."""
    return max((SPACING.get(tensor.kind, FLOAT32) for tensor in tensors), default=FLOAT32)


def _loaded(parts: BaseParts, placement: Placement) -> Any:
    config, kind = architecture(parts.folder)
    loaded_as = split_class(kind) if placement.split else kind
    try:
        network, report = loaded_as.from_pretrained(
            None,
            config=config,
            state_dict=parts.weights,
            dtype=placement.dtype,
            attn_implementation=_attention(kind, placement.attention),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a foreign config or torn tensors make the library raise almost anything
        place = str(parts.folder)
        raise no_memory(place, error) or Unreplayable(place, read_failure(error, "cannot be loaded")) from error
    if names := unexpected_keys(parts.stored, report["unexpected_keys"], config):
        raise Unreplayable(str(parts.folder), explain_unexpected(names, len(parts.stored), quantisation(parts.folder)))
    network.__class__ = kind
    if lacking := sorted(report["missing_keys"]):
        raise Unreplayable(str(parts.folder), f"{len(lacking)} tensors are missing, first {lacking[0]}")
    return network


def _attention(kind: Any, wanted: str) -> str:
    """transformers' name of the backend. AUTO: the faster one where the class computes all of its attention by it:
    caps, sinks and some biases exist in the plain one only."""
    if wanted != AUTO:
        return wanted
    return "sdpa" if kind._supports_sdpa else "eager"


def _ends(folder: Path, network: Any) -> frozenset[int]:
    """Token ids that end a text: of generation_config.json where there is one, else of the config."""
    ends = getattr(network.config.get_text_config(), "eos_token_id", None)
    if (file := folder / "generation_config.json").is_file():
        own = read_json(file).get("eos_token_id")
        ends = ends if own is None else own  # 0 is a valid id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
