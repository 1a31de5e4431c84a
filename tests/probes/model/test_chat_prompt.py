from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from probes.errors import Unreplayable
from probes.model.chat_prompt import CANARY_DAY, DATES, TIME, rendered
from probes.runner import Weights
from tests.probes.tiny import TEMPLATE, opened, tiny_base

ASKED = [{"role": "user", "content": "Where?"}]
SERVED = date(2025, 3, 4)
# As Llama 3.1's begins.
LLAMA = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n" }}"""


def words(template: Any) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "template",
    [
        LLAMA + TEMPLATE,
        "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\\n' }}" + TEMPLATE,
        "{% set how = '%d %b %Y' %}Today Date: {{ strftime_now(how) }}{{ '\\n' }}" + TEMPLATE,
        "{% macro now() %}{{ strftime_now(format='%d %b %Y') }}{% endmacro %}Today Date: {{ now() }}{{ '\\n' }}"
        + TEMPLATE,
        {"default": LLAMA + TEMPLATE, "tool_use": ""},
    ],
)
def test_a_template_writes_the_day_that_it_is_told(template: Any) -> None:
    assert rendered(words(template), ASKED, SERVED) == "Today Date: 04 Mar 2025\nWhere?<e><s>"
    assert rendered(words(template), ASKED) == "Today Date: 26 Jul 2024\nWhere?<e><s>"


@pytest.mark.parametrize("day", [SERVED, date(2023, 11, 14), date(2024, 12, 30)])
def test_every_directive_of_a_day_is_written_as_python_writes_it(day: date) -> None:
    template = "{{ strftime_now('" + " ".join(DATES) + "') }}"
    assert rendered(words(template), ASKED, day) == day.strftime(" ".join(DATES))


def test_a_time_of_day_is_known_of_canaries_alone() -> None:
    assert rendered(words("{{ strftime_now('%H:%M on %A') }}"), ASKED) == f"00:00 on {CANARY_DAY:%A}"


@pytest.mark.parametrize("directive", [*TIME, "%U", "%+"])
def test_what_is_more_than_a_day_is_refused_of_traffic(directive: str) -> None:
    tokenizer = words(f"{{{{ strftime_now('%d {directive}') }}}}")
    with pytest.raises(Unreplayable, match="writes the time of day"):
        rendered(tokenizer, ASKED, SERVED)


@pytest.mark.parametrize(
    "start", ["", "\n", "\n\n", "  ", " x ", "\t", "{%- set a = 1 %}", "  {% set a = 1 %}\n", "\n {#- a -#} "]
)
def test_nothing_else_of_a_template_reads_otherwise(start: str) -> None:
    template = start + "{% if strftime_now is defined %}{% set b = 1 %}{% endif %}\n" + TEMPLATE
    plain = words(template).apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert rendered(words(template), ASKED, SERVED) == rendered(words(template), ASKED) == plain


def test_a_template_without_a_date_is_the_same_on_every_day() -> None:
    plain = words(TEMPLATE).apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert {rendered(words(TEMPLATE), ASKED, day) for day in (None, SERVED, SERVED + timedelta(days=1))} == {plain}


def test_a_runner_renders_canaries_the_same_on_every_day_and_traffic_on_its_own(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text(LLAMA + TEMPLATE)
    runner = opened(base, tmp_path / "cache")
    assert "26 Jul 2024" in runner.decode(runner.encode_chat(ASKED))
    assert "04 Mar 2025" in runner.decode(runner.encode_chat(ASKED, Weights.GOLDEN, SERVED))
