"""gapwatch compose: before adapters are combined, what will be left of each skill, what conflicts, and what to do."""

from __future__ import annotations

import json as json_text
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from agent.cli.lifecycle.accept import base_folder
from agent.composition.folders import ABOUT
from agent.config import Adapter, Config, Model, Skill, load
from agent.errors import Refused
from agent.lifecycle.candidates import recorded, runner_over
from agent.terminal.console import as_json, console, number, people_to_stderr, rows_table, say
from detectors.composition.conflict import Conflict
from detectors.records import Interval
from probes.artefacts.lora_files import read_adapter
from probes.composition.common_prompts import CommonAnswers, CommonPrompt, answers_on, common_prompts
from probes.composition.compose import compose, write
from probes.composition.displacements import skill_effects
from probes.composition.forecast import Forecast, Forecaster, SkillForecast
from probes.composition.recipe import METHODS, STACKED, Member, Recipe
from probes.golden.record import Golden
from probes.rebuild.acceptance import Acceptance, assess

SURVIVE, WILL_LOSE, CANNOT_TELL = 0, 1, 2
MARKS = {SURVIVE: "[green]✓[/green]", WILL_LOSE: "[red]✗[/red]", CANNOT_TELL: "[yellow]?[/yellow]"}
VERDICTS = {SURVIVE: "the skills survive", WILL_LOSE: "a skill will be lost", CANNOT_TELL: "cannot tell"}
COLUMNS = (
    "skill",
    "tolerance",
    "strength",
    "predicted",
    "95 % interval",
    "measured",
    "95 % interval",
    "right",
    "conflict",
)
CHOICES = ("choice", "weights", "predicted worst", "measured worst", "skill")
AS_ASKED = "merge as asked"
EXAMPLE = 120
Measured = tuple[Mapping[str, Acceptance], Sequence[CommonAnswers]]
"""Of one choice: adapter -> its held-out canaries, and the answers on prompts that members have in common."""
CONFLICTS = {
    Conflict.NONE: "none",
    Conflict.DILUTED: "its own weight",
    Conflict.SIGN: "sign: {other} takes it away",
    Conflict.MAGNITUDE: "magnitude: {other} drowns it",
    Conflict.SEMANTIC: "semantic: {other} pushes elsewhere on its prompts",
}


@dataclass(frozen=True, slots=True)
class ComposeOptions:
    """Options of the command. weights: one a member, 1 each where there are none

    replay: compose, load the base and measure; output: folder that the composition is written to
    """

    method: str = STACKED
    weights: tuple[float, ...] = ()
    density: float | None = None
    svd_rank: int | None = None
    seed: int = 0
    replay: bool = False
    output: Path | None = None

    def recipe(self, names: Sequence[str]) -> Recipe:
        """Raises the refusal of what makes no sense."""
        weights = self.weights or (1.0,) * len(names)
        if len(weights) != len(names):
            raise Refused("--weights", ", ".join(map(str, weights)), f"{len(names)} numbers, one for each adapter")
        members = tuple(map(Member, names, weights))
        if self.method not in METHODS:
            raise Refused("--method", repr(self.method), f"one of: {', '.join(METHODS)}")
        return Recipe(members, self.method, self.density, svd_rank=self.svd_rank, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to have these skills. measured: adapter -> of a replay, nothing without one; common: of the same replay

    forecast: None for serving each adapter by itself, which keeps all of each and takes one request for each skill
    """

    name: str
    forecast: Forecast | None
    measured: Mapping[str, Acceptance]
    common: Sequence[CommonAnswers] = ()

    @property
    def verdict(self) -> int:
        """A measurement goes before a prediction, and a prediction clears nothing."""
        if self.forecast is None:
            return SURVIVE
        return max((self._of(skill) for skill in self.forecast.skills), key=(SURVIVE, CANNOT_TELL, WILL_LOSE).index)

    def _of(self, skill: SkillForecast) -> int:
        kept = self.kept(skill.adapter)
        if kept is None:
            return WILL_LOSE if skill.is_surely_lost else CANNOT_TELL
        least = 1.0 - skill.tolerance
        if kept.high < least or self.excludes(skill):
            return WILL_LOSE
        return SURVIVE if kept.low >= least else CANNOT_TELL

    def excludes(self, skill: SkillForecast) -> bool:
        """Are more of its right answers wrong now than tolerated, though its effect is there? One alone never is."""
        done = self.measured.get(skill.adapter)
        flipped = done is not None and len(done.flips) > max(1.0, skill.tolerance * done.checked)
        return flipped or self.excluded_by(skill) is not None

    def excluded_by(self, skill: SkillForecast) -> CommonAnswers | None:
        """The answers on prompts that it has in common with another member, where too many fail its own check."""
        return next((own for own in self.common if own.lacks(skill.adapter, skill.tolerance)), None)

    def kept(self, adapter: str) -> Interval | None:
        done = self.measured.get(adapter)
        return None if done is None else done.of_effect

    @property
    def worst(self) -> tuple[float, str]:
        """The least retention and whose it is: measured where it is, else predicted."""
        if self.forecast is None:
            return 1.0, ""
        figures = []
        for skill in self.forecast.skills:
            kept = self.kept(skill.adapter)
            figures.append((min(1.0, kept.mean if kept else skill.retention.mean), skill.adapter))
        return min(figures)


def numbers(text: str) -> tuple[float, ...]:
    """Of "0.7,0.3"; none of an empty text. Raises Refused."""
    try:
        return tuple(map(float, text.split(","))) if text.strip() else ()
    except ValueError:
        raise Refused("--weights", repr(text), "numbers with commas between them, such as 0.7,0.3") from None


def compose_adapters(path: Path, names: Sequence[str], wish: ComposeOptions, json: bool) -> int:
    """0 where every skill survives, 1 where one will be lost, 2 where nothing can be said. Raises Refused."""
    if json:
        people_to_stderr()
    config = load(path)
    model, adapters = _members(config, names)
    recipe = wish.recipe(names)
    goldens = {name: recorded(config, name, model, adapters[name])[1] for name in names}
    forecaster = _forecaster(adapters, goldens)
    recipes = _recipes(forecaster, recipe)
    common = common_prompts(goldens)
    measured = _measured(config, model, forecaster, goldens, recipes, common) if wish.replay else {}
    choices = _choices(forecaster, recipes, measured)
    if wish.output is not None:
        hashes = [adapter.hash for adapter in forecaster.adapters]
        write(
            compose(recipe, forecaster.adapters), adapters[names[0]].path or Path(), wish.output, _about(recipe, hashes)
        )
    if json:
        as_json(_facts(choices, forecaster, common))
    else:
        _print(choices, forecaster, wish, common)
    return choices[0].verdict


def _members(config: Config, names: Sequence[str]) -> tuple[Model, dict[str, Adapter]]:
    """Raises Refused for adapters of two bases, without files, or that are skills of a composition themselves."""
    pairs = [config.adapter(name) for name in names]
    if len({model.name for model, _ in pairs}) > 1:
        bases = ", ".join(f"{adapter.name} on {model.name}" for model, adapter in pairs)
        raise Refused("adapters", bases, "adapters of one base")
    for _, adapter in pairs:
        if adapter.path is None or isinstance(adapter, Skill):
            raise Refused(f"adapter {adapter.name}", "no folder of its own", "path: its PEFT folder")
    return pairs[0][0], {adapter.name: adapter for _, adapter in pairs}


def _forecaster(adapters: Mapping[str, Adapter], goldens: Mapping[str, Golden]) -> Forecaster:
    names = tuple(adapters)
    effects = {name: skill_effects(golden.canaries, name, names) for name, golden in goldens.items()}
    return Forecaster(
        names,
        [read_adapter(adapter.path or Path()) for adapter in adapters.values()],
        {name: own for name, own in effects.items() if own is not None},
        {name: adapter.tolerance for name, adapter in adapters.items()},
    )


def _recipes(forecaster: Forecaster, recipe: Recipe) -> dict[str, Recipe]:
    """By the name of the choice: what was asked about first."""
    return {AS_ASKED: recipe, "reweight": forecaster.recommended_weights(), "prune": forecaster.pruned(recipe)}


def _choices(forecaster: Forecaster, recipes: Mapping[str, Recipe], measured: Mapping[str, Measured]) -> list[Choice]:
    own = [Choice(name, forecaster.forecast(recipe), *measured.get(name, ({}, ()))) for name, recipe in recipes.items()]
    return [*own, Choice("route", None, {})]


def recommended(choices: Sequence[Choice]) -> Choice:
    """The first whose worst skill keeps what is tolerated, else the one that serves each adapter by itself."""
    kept = [own for own in choices if own.forecast is not None and _is_kept(own)]
    return kept[0] if kept else choices[-1]


def _is_kept(choice: Choice) -> bool:
    skills = choice.forecast.skills if choice.forecast else ()
    for skill in skills:
        interval = choice.kept(skill.adapter)
        if (interval.mean if interval else skill.retention.mean) < 1.0 - skill.tolerance:
            return False
    return True


def _measured(
    config: Config,
    model: Model,
    forecaster: Forecaster,
    goldens: Mapping[str, Golden],
    recipes: Mapping[str, Recipe],
    common: Sequence[CommonPrompt],
) -> dict[str, Measured]:
    """Choice -> each member's held-out canaries, and the common prompts, put to it. Raises Unreplayable."""
    first = Path(forecaster.adapters[0].path)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            name: write(compose(recipe, forecaster.adapters), first, Path(scratch) / str(order))
            for order, (name, recipe) in enumerate(recipes.items())
        }
        runner = runner_over(config, base_folder(config, model, ""), folders)
        runner.open()
        try:
            return {
                name: (
                    {adapter: assess(runner, name, golden, lambda: False) for adapter, golden in goldens.items()},
                    answers_on(runner, name, common, lambda: False),
                )
                for name in recipes
            }
        finally:
            runner.close()


def _about(recipe: Recipe, hashes: Sequence[str]) -> dict[str, str]:
    """What was composed, beside its files."""
    return {ABOUT: json_text.dumps(recipe.as_json(hashes), indent=2) + "\n"}


def _print(
    choices: Sequence[Choice], forecaster: Forecaster, wish: ComposeOptions, common: Sequence[CommonPrompt]
) -> None:
    wanted, verdict = choices[0], choices[0].verdict
    value, whose = wanted.worst
    say(f"{MARKS[verdict]} [bold]{VERDICTS[verdict]}[/bold]: {escape(whose)} keeps {value:.2f}")
    if wanted.forecast is not None:
        rows = [_row(skill, wanted, forecaster.names) for skill in wanted.forecast.skills]
        console.print(rows_table(COLUMNS, rows, f"{wanted.forecast.recipe.method}: what is left of each skill", wide=9))
    console.print(rows_table(CHOICES, [_choice_row(own) for own in choices], "choices"))
    for words in _pairs(forecaster):
        say(escape(words))
    for words in _on_common(common, choices[0].common):
        say(escape(words))
    if any(effects.by_weights for effects in forecaster.effects):
        say("[yellow]![/yellow] the members' answers on each other's canaries are not recorded: by the weights alone")
    best = recommended(choices)
    say(f"[bold]{best.name}[/bold]: {_advice(best)}")
    if not wish.replay:
        say("a prediction warns and never clears: --replay measures")


def _advice(choice: Choice) -> str:
    if choice.forecast is None:
        return "serve each adapter by itself, and choose it by the request"
    return f"method {choice.forecast.recipe.method}, weights {_weights(choice.forecast.recipe)}"


def _row(skill: SkillForecast, choice: Choice, names: Sequence[str]) -> tuple[str, ...]:
    done, kept = choice.measured.get(skill.adapter), choice.kept(skill.adapter)
    return (
        skill.adapter,
        f"{skill.tolerance:g}",
        number(skill.strength),
        number(skill.retention.mean),
        f"{number(skill.retention.low)}..{number(skill.retention.high)}",
        number(kept.mean) if kept else "-",
        f"{number(kept.low)}..{number(kept.high)}" if kept else "-",
        f"{done.right} of {done.checked}" if done and done.checked else "-",
        _conflict(skill, choice, names),
    )


def _conflict(skill: SkillForecast, choice: Choice, names: Sequence[str]) -> str:
    kept = choice.kept(skill.adapter)
    if kept is not None and kept.mean >= 1.0 - skill.tolerance:
        done = choice.measured[skill.adapter]
        if common := choice.excluded_by(skill):
            other = next(own for own in common.members if own != skill.adapter)
            wrong, prompts = common.failed(skill.adapter), common.prompts
            return f"semantic: {wrong} of {prompts} answers wrong on prompts in common with {other}"
        return f"semantic: {len(done.flips)} right answers are wrong now" if choice.excludes(skill) else "none"
    return CONFLICTS[skill.conflict.conflict].format(other=names[skill.conflict.other])


def _choice_row(choice: Choice) -> tuple[str, ...]:
    if choice.forecast is None:
        return choice.name, "each by itself", "1.00", "-", ""
    worst = choice.forecast.worst
    measured, whose = choice.worst
    return (
        f"{choice.name} ({choice.forecast.recipe.method})",
        _weights(choice.forecast.recipe),
        number(min(1.0, worst.retention.mean)),
        number(measured) if choice.measured else "-",
        whose,
    )


def _pairs(forecaster: Forecaster) -> Iterator[str]:
    """How each two members lie to each other in the weights."""
    names, overlap = forecaster.names, forecaster.overlap
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            size = overlap.ratio(i, j)
            yield (
                f"{names[i]} and {names[j]} in the weights: cosine {overlap.cosine(i, j):.2f}, common inputs "
                f"{overlap.inputs[i, j]:.0%}, common outputs {overlap.outputs[i, j]:.0%}, sizes 1 to {size:.2g}"
            )


def _on_common(common: Sequence[CommonPrompt], answers: Sequence[CommonAnswers]) -> Iterator[str]:
    """Of every two members with prompts in common: what their accepted answers say, and those of the composition."""
    by_pair = {own.members: own for own in answers}
    for pair, (prompts, excluding) in _counts(common).items():
        first, second = pair
        yield (
            f"{first} and {second} have {prompts} prompts in common: on {excluding} of them the accepted answer of "
            "neither passes the other's check"
        )
        if own := by_pair.get(pair):
            yield (
                f"  as composed {own.both} of {own.prompts} answers pass both checks, {own.first} that of {first} "
                f"alone, {own.second} that of {second} alone, {own.neither} neither"
            )
            if own.example:
                yield f"  for example: {own.example[:EXAMPLE]!r}"


def _counts(common: Sequence[CommonPrompt]) -> dict[tuple[str, str], tuple[int, int]]:
    """Two members -> their prompts in common, and on how many of these their accepted answers exclude each other."""
    pairs = dict.fromkeys(own.members for own in common)
    excluding = {pair: [own.excluding for own in common if own.members == pair] for pair in pairs}
    return {pair: (len(own), sum(own)) for pair, own in excluding.items()}


def _weights(recipe: Recipe) -> str:
    return ", ".join(f"{member.weight:g}" for member in recipe.members)


def _facts(choices: Sequence[Choice], forecaster: Forecaster, common: Sequence[CommonPrompt]) -> dict[str, Any]:
    """For programs; its keys stay."""
    return {
        "verdict": VERDICTS[choices[0].verdict].replace(" ", "_"),
        "exit_code": choices[0].verdict,
        "recommended": recommended(choices).name,
        "identity": choices[0].forecast.recipe.identity([own.hash for own in forecaster.adapters])
        if choices[0].forecast
        else "",
        "choices": [_choice_facts(choice, forecaster.names) for choice in choices],
        "weights": list(_pairs(forecaster)),
        "common_prompts": [
            {"members": list(pair), "prompts": prompts, "excluding": excluding}
            for pair, (prompts, excluding) in _counts(common).items()
        ],
    }


def _choice_facts(choice: Choice, names: Sequence[str]) -> dict[str, Any]:
    if choice.forecast is None:
        return {"choice": choice.name, "skills": [{"skill": name, "predicted": 1.0} for name in names]}
    return {
        "choice": choice.name,
        "recipe": asdict(choice.forecast.recipe),
        "skills": [
            {
                "skill": skill.adapter,
                "tolerance": skill.tolerance,
                "strength": skill.strength,
                "predicted": asdict(skill.retention),
                "by_weights": skill.by_weights,
                "conflict": str(skill.conflict.conflict),
                "with": names[skill.conflict.other],
                "measured": None if (done := choice.measured.get(skill.adapter)) is None else asdict(done),
            }
            for skill in choice.forecast.skills
        ],
        "common": [asdict(own) for own in choice.common],
    }
