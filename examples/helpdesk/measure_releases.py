"""The effect of each upstream release on each adapter, measured independently of the product.

`python -m examples.helpdesk.measure_releases --base DIR --work DIR [--json FILE]`. Needs peft.

The same figures as the product's, over the whole vocabulary, through peft, one canary at a time.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.helpdesk.data import ADAPTERS, HERE, Example, examples
from examples.helpdesk.releases import RELEASES, make_release

Array = NDArray[np.floating]
SCALES = (0, 0.125, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2)
MAX_NEW_TOKENS = 48
TOLERANCE_AFTER_RELEASE = 0.25


@dataclass(frozen=True, slots=True)
class Golden:
    """One canary under the golden files: ids and prompt length; log-probabilities (T, V) of the base and per scale."""

    ids: torch.Tensor
    prompt: int
    base: Array
    curve: list[Array]

    @property
    def adapter(self) -> Array:
        return self.curve[SCALES.index(1)]


@dataclass(frozen=True, slots=True)
class Reading:
    """One canary under a release: retention, effective scale, distortion, base shift, and three figures in nats."""

    retention: float
    scale: float
    distortion: float
    base_shift: float
    kl_golden: float
    gap: float
    gap_healthy: float


def record(model: PeftModel, tokenizer: object, example: Example) -> Golden:
    """The golden adapter's greedy continuation of one canary, and log-probabilities of base and adapter along it."""
    prompt = tokenizer.apply_chat_template(example.messages, add_generation_prompt=True, tokenize=False)  # type: ignore[attr-defined]
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)  # type: ignore[operator]
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    start = inputs["input_ids"].shape[1]
    return Golden(ids, start, _bare(model, ids, start), [_scaled(model, ids, start, s) for s in SCALES])


def read(golden: Golden, served: Array, live: Array) -> Reading:
    """Compare one canary with the served adapter and with the live base, both on the same prompt."""
    weights = (np.exp(golden.adapter) + np.exp(golden.base)) / 2
    delta = _centred(golden.adapter - golden.base, weights)
    now, shift = _centred(served - live, weights), _centred(live - golden.base, weights)
    energy = (weights * delta**2).sum()
    retention = (weights * delta * now).sum() / energy
    curve = [_centred(step - golden.base, weights) for step in golden.curve]
    return Reading(
        retention=retention,
        scale=nearest_scale(curve, now, weights),
        distortion=(weights * (now - retention * delta) ** 2).sum() / energy,
        base_shift=(weights * shift**2).sum() / energy,
        kl_golden=_kl(golden.adapter, served),
        gap=_kl(served, live),
        gap_healthy=_kl(golden.adapter, golden.base),
    )


def nearest_scale(curve: list[Array], point: Array, weights: Array) -> float:
    """The LoRA scale whose point on the piecewise-linear `curve` over `SCALES` lies nearest to `seen`."""
    best = (np.inf, 0.0)
    for low, high, s_low, s_high in zip(curve, curve[1:], SCALES, SCALES[1:], strict=False):
        step = high - low
        t = float(np.clip((weights * step * (point - low)).sum() / (weights * step**2).sum(), 0, 1))
        best = min(best, ((weights * (point - low - t * step) ** 2).sum(), s_low + t * (s_high - s_low)))
    return best[1]


def summary(task: str, release: str, readings: list[Reading]) -> dict[str, str | float]:
    """Means over canaries, and the share of canaries whose scale is beyond the tolerance after a release."""
    columns = {name: np.array([getattr(r, name) for r in readings], dtype=float) for name in Reading.__slots__}
    return {
        "task": task,
        "release": release,
        "n": len(readings),
        "retention": float(columns["retention"].mean()),
        "scale": float(columns["scale"].mean()),
        "scale_sd": float(columns["scale"].std(ddof=1)),
        "share_beyond_25": float((abs(columns["scale"] - 1) > TOLERANCE_AFTER_RELEASE).mean()),
        "distortion_root": float(np.median(np.sqrt(columns["distortion"]))),
        "base_shift": float(np.median(columns["base_shift"])),
        "kl_golden": float(columns["kl_golden"].mean()),
        "gap_of_healthy": float(columns["gap"].sum() / columns["gap_healthy"].sum()),
    }


def _log_probs(model: PeftModel, ids: torch.Tensor, start: int) -> Array:
    with torch.inference_mode():
        logits = model(input_ids=ids, logits_to_keep=ids.shape[1] - start + 1).logits[0, :-1]
    return np.asarray(torch.log_softmax(logits.float(), dim=-1).numpy())


def _bare(model: PeftModel, ids: torch.Tensor, start: int) -> Array:
    with model.disable_adapter():
        return _log_probs(model, ids, start)


def _scaled(model: PeftModel, ids: torch.Tensor, start: int, scale: float) -> Array:
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.set_scale("default", scale)
    log_probs = _log_probs(model, ids, start)
    for layer in layers:
        layer.set_scale("default", 1)
    return log_probs


def _centred(values: Array, weights: Array) -> Array:
    return np.asarray(values - (weights * values).sum(axis=1, keepdims=True))


def _kl(first: Array, second: Array) -> float:
    """Mean over positions of KL(first || second), nats per token."""
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


def _load(base: Path, adapter: Path) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


def measure(task: str, folders: dict[str, Path], canaries: int) -> list[dict[str, str | float]]:
    """All releases under one adapter; `folders` maps "golden" and release names to model folders."""
    adapter = HERE / "adapters" / task
    tokenizer = AutoTokenizer.from_pretrained(folders["golden"])
    model = _load(folders["golden"], adapter)
    goldens = [record(model, tokenizer, example) for example in examples(task, "canary")[:canaries]]
    rows = []
    for release, folder in folders.items():
        model = _load(folder, adapter)
        readings = [read(g, _log_probs(model, g.ids, g.prompt), _bare(model, g.ids, g.prompt)) for g in goldens]
        rows.append(summary(task, release, readings))
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
    return rows


def main() -> None:
    """Create missing releases, measure, print, and write JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the releases, 540 MB each")
    parser.add_argument("--only", choices=list(ADAPTERS))
    parser.add_argument("-n", type=int, default=20, help="canaries per adapter")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folders = {"golden": given.base} | {name: given.work / name for name in RELEASES}
    given.work.mkdir(parents=True, exist_ok=True)
    for name in RELEASES:
        if not folders[name].exists():
            make_release(name, given.base, folders[name])
    rows = [row for task in ([given.only] if given.only else ADAPTERS) for row in measure(task, folders, given.n)]
    if given.json:
        given.json.write_text(json.dumps({"releases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
