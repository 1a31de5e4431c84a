"""Which tensors of a checkpoint did nobody use, and what does that say? A library warns; here it is a refusal.

A tensor that is left over is a sign that the weights mean something else than their class makes of them: scales beside
quantised weights, more layers than the config counts, a head that is not built. What is known to change nothing is left
alone: what transformers' class leaves out on purpose never gets here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from probes.artefacts.architecture import UNQUANTISED
from probes.artefacts.lora_files import summed
from probes.artefacts.safetensors_header import RawTensor

# Computed anew from the config, and heads that guess further tokens, which only speculative decoding asks.
HARMLESS = re.compile(r"(^|\.)(original_)?inv_freq$|(^|\.)position_ids$|(^|\.)mtp(_\w+)?\.")
# The triangle of a causal mask, and the number that stands for minus infinity, once saved as buffers.
MASKS = re.compile(r"\.(attn|attention|self_attn|self_attention)\.(masked_)?bias$")
LAYER = re.compile(r"(^|\.)(layers|h)\.(\d+)\.")
OF_QUANTISED = re.compile(
    r"(scales?(_inv|_2)?|scale_inv|qweight|q?zeros|zero_point|g_idx|absmax|quant_map|quant_state\S*|SCB|packed|_blocks)$"
)


def unexpected_keys(tensors: Sequence[RawTensor], names: Collection[str], config: Any) -> list[str]:
    """Those of ``names``, which the model did not take, that are not known to change nothing; sorted.

    tensors: of the whole checkpoint; config: the model's
    """
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    return sorted(name for name in names if not _harmless(name, shapes, config))


def explain_unexpected(names: Sequence[str], total: int, stored: str) -> str:
    """What was seen, what it means, and what to do. names: at least one; stored: how the weights are quantised, as the
    folder's files say, "" where they say nothing"""
    seen = summed(f"of {total} tensors are used by nothing", names)
    if stored or any(OF_QUANTISED.search(name) for name in names):
        how = f"by {stored}" if stored else "in a way that its config.json does not tell"
        return f"{seen}; its weights are quantised {how}, and would be read without their scales: {UNQUANTISED}"
    return f"{seen}; its config.json describes another model than its weights: name the base as it was published"


def _harmless(name: str, shapes: Mapping[str, tuple[int, ...]], config: Any) -> bool:
    if HARMLESS.search(name):
        return True
    if MASKS.search(name):
        shape = shapes.get(name, (0, 0, 0))
        return len(shape) in (0, 4) or shape == (1,)
    layer, further = LAYER.search(name), getattr(config, "num_nextn_predict_layers", None) or 0
    layers = getattr(config, "num_hidden_layers", None) or 0
    return layer is not None and layers <= int(layer[3]) < layers + int(further)
