"""Unexpected keys: tensors of a checkpoint that the model did not load. transformers warns; here the base is refused.

An unexpected key is a sign that the weights mean something else than the class makes of them: scales beside quantised
weights, more layers than the config counts, a head that is not built. Tensors that are known to change nothing are
allowed; those that transformers' class ignores on purpose are not reported in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from probes.artefacts.architecture import UNQUANTISED
from probes.artefacts.lora_files import count_with_examples
from probes.artefacts.safetensors_header import TensorEntry

# Buffers that are recomputed from the config, and multi-token-prediction heads, which only speculative decoding uses.
HARMLESS = re.compile(r"(^|\.)(original_)?inv_freq$|(^|\.)position_ids$|(^|\.)mtp(_\w+)?\.")
# The causal mask, and the number that stands for minus infinity: older versions saved both as buffers.
MASKS = re.compile(r"\.(attn|attention|self_attn|self_attention)\.(masked_)?bias$")
LAYER = re.compile(r"(^|\.)(layers|h)\.(\d+)\.")
OF_QUANTISED = re.compile(
    r"(scales?(_inv|_2)?|scale_inv|qweight|q?zeros|zero_point|g_idx|absmax|quant_map|quant_state\S*|SCB|packed|_blocks)$"
)


def unexpected_keys(tensors: Sequence[TensorEntry], names: Collection[str], config: Any) -> list[str]:
    """Of the names that the model did not load, those that are not known to be harmless; sorted.

    tensors: of the whole checkpoint; config: the model's
    """
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    return sorted(name for name in names if not _harmless(name, shapes, config))


def explain_unexpected(names: Sequence[str], total: int, stored: str) -> str:
    """What was seen, what it means, and what to do.

    names: at least one; total: tensors of the checkpoint; stored: how the weights are quantised according to the
    folder's files, "" where they do not say
    """
    unused = count_with_examples(f"of {total} tensors are used by nothing", names)
    if stored or any(OF_QUANTISED.search(name) for name in names):
        how = f"by {stored}" if stored else "in a way that its config.json does not state"
        return f"{unused}; its weights are quantised {how}, and would be read without their scales: {UNQUANTISED}"
    return f"{unused}; its config.json describes another model than its weights: name the base as it was published"


def _harmless(name: str, shapes: Mapping[str, tuple[int, ...]], config: Any) -> bool:
    if HARMLESS.search(name):
        return True
    if MASKS.search(name):
        shape = shapes.get(name, (0, 0, 0))
        return len(shape) in (0, 4) or shape == (1,)
    # Layers behind the last one that the config counts are multi-token-prediction heads.
    layer, further = LAYER.search(name), getattr(config, "num_nextn_predict_layers", None) or 0
    layers = getattr(config, "num_hidden_layers", None) or 0
    return layer is not None and layers <= int(layer[3]) < layers + int(further)
