"""docs/architectures.md from what the tests know. ``python -m tests.probes.architectures_page`` writes it again."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from probes.artefacts.architecture import WRAPPERS
from probes.artefacts.lora_files import REFUSED
from tests.probes.architectures import KINDS, RUN, Architecture

FILE = Path(__file__).parents[2] / "docs/architectures.md"
VERSIONS = f"transformers {transformers.__version__.rpartition('.')[0]}"
HEAD = f"""# Architectures and adapters

What the in-process replay runs, and what it refuses. Written by `python -m tests.probes.architectures_page` from the
table that `tests/probes/model/test_architectures.py` checks, with {VERSIONS}; the versions are pinned in
`constraints.txt`. A model that is answered by its serving engine (`models[].served`) needs none of this.

## Right

A tiny random model of each, with a random LoRA on the modules named, answers as the same model with the adapter in
PEFT and with the adapter merged into its weights, to 1e-4 nats in every log-probability: packed with other texts,
padded on either side, in chunks through the cache, on from the cache of another adapter, with a shared beginning read
once, written token by token, and scored as sampled responses are.

Every base is asked the same when it is loaded (`probes/model/invariance.py`), so a type that is not in this table is
run if it answers alike alone, in a batch, padded and from a cache, and refused otherwise. *One by one*: after a cache
it reads one token at a time, because several begin its state anew; no beginning is shared there. The last ones are
multimodal: they are asked in text, and what an adapter changes in their encoder of images is not replayed.

| `model_type` | class | adapter on | after a cache | refused by name |
|---|---|---|---|---|
"""
REFUSED_BASES = """
## Refused

These keep a cache of their own, or a state in their modules, or cannot be padded. The refusal names the class and
what it could not do, and that its engine can answer instead.

| `model_type` | class | what the refusal quotes |
|---|---|---|
"""
OTHERS = """
Refused before weights are read, each by a sentence of its own (`probes/artefacts/architecture.py`): other multimodal
wrappers (save the text model as a folder), encoders, encoder-decoders, classification and reward heads, code of the
model's own, and types that this transformers does not have.

## Quantised bases

| stored as | |
|---|---|
| fine-grained FP8 (`fp8`), MXFP4 | dequantised by their scales while loading |
| compressed-tensors, FP8 and int8 | dequantised while loading by its package; refused by its name without it |
| bitsandbytes NF4 | by its package, on packed weights; DoRA and experts' parameters refused |
| GPTQ, AWQ | by the package `gptqmodel`, on packed weights; refused by its name without it; see below |
| scales that nothing reads (ModelOpt and others) | refused: the weights would be read without their scales |
| GGUF | converted to float32 once, with the package `gguf` |

Tests of the two packages (`tests/probes/artefacts/test_unexpected_keys.py`) run where they are installed; seen with
compressed-tensors 0.20.1, exact to the last bit, and bitsandbytes 0.50.2 on a CPU, equal to PEFT on the same weights.

GPTQ and AWQ were run by hand, on a CPU, with gptqmodel 7.7.0 and optimum 2.3.0 (installed without what they depend on,
because they want torch 2.14): 4 bits, groups of 32, its kernels in plain torch. They compute in float16, so base and
adapter were off by 2e-3 to 4e-3 nats from the same weights in float32; before this was tried, an adapter on such a base
was left out, with a fact that said so. That package compiles its kernels when a base is first loaded, by `auto` for
minutes and with a C++ compiler, which no image here has: set `"backend": "gptq_torch"` (AWQ: `"torch_awq"`) in the
base's `quantization_config` and `TORCHDYNAMO_DISABLE=1`, or name a copy of the base in bfloat16.

## Adapters

Equal to PEFT 0.21 to 1e-4 (`tests/probes/model/test_lora.py`): LoRA and rsLoRA on linear layers, GPT-2's too; patterns
of ranks and alphas; `modules_to_save`; DoRA; `lora_bias`; LoRA on embeddings; `trainable_token_indices`, also where
the output layer is tied; `target_parameters`, experts of a mixture in one tensor included. The strength of an adapter
with whole modules, DoRA or rows of tokens is scaled as a whole: 0 is the base, 1 is the adapter.

Refused by name, because leaving it out would change the adapter: """
TAIL = """; a bias of the base's layers; DoRA or `ensure_weight_tying` on an embedding; an initialisation that changes
the base (PiSSA, OLoRA, CorDA, LoftQ) and was not converted; `target_modules` null. An adapter of a mixture from before
transformers 5, with a LoRA for each expert, matches nothing in a base that holds its experts in one tensor, and the
fact says so: load it with PEFT 0.21 and save it again.
"""


def page() -> str:
    right = "".join(_right(kind, KINDS[kind]) for kind in RUN)
    refused = "".join(f"| `{k}` | {_class(k)} | {known.refused} |\n" for k, known in KINDS.items() if known.refused)
    return HEAD + right + REFUSED_BASES + refused + OTHERS + ", ".join(f"`{name}`" for name in REFUSED) + TAIL


def _right(kind: str, known: Architecture) -> str:
    placed = ", ".join((*known.modules, *known.parameters)).replace("|", "\\|")
    cells = (f"`{kind}`", _class(kind), placed, "one by one" if known.one_by_one else "", ", ".join(known.bypassed))
    return f"| {' | '.join(cells)} |\n"


def _class(kind: str) -> str:
    return str(WRAPPERS.get(kind) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])


if __name__ == "__main__":
    FILE.write_text(page())
