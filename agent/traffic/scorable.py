"""Can the golden copies compute the token distribution that a response was drawn from? If not, why not, in words.

They can for one free continuation of a prompt under temperature, nucleus, top-k, min-p and penalties. Anything else
that a request asks for changes the token distribution, and a likelihood ratio under the wrong distribution is no
e-value: the response is then excluded from scoring ("unscored"), but still counted and embedded.

``HARMLESS`` is a closed list: a parameter that is in no list here is assumed to change the output, because new ones
come with every engine. A parameter that is switched off, or has its neutral value, counts as absent. To score responses
with a new parameter, add it here only after its effect on the distribution is known.

Excluding by the request alone leaves the e-process valid, whatever was generated. Excluding by the answer
(``of_answer``: tool calls and reasoning that a record shows although its request mentions neither) can bias it: where
the adapter does such a thing more often than an alternative, the responses that remain over-represent the alternative.
That bias is not bounded here, so requests should be recorded completely.
Only what a record contains can be checked: OpenTelemetry's events have no field for a logit bias or a grammar.

Sources: vLLM's chat completion request and SamplingParams, SGLang's sampling_params.md, llama.cpp's server, OpenAI's
API reference, as of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.traffic.json_fields import SAMPLING, TEXT_PARTS, Body, is_number, parsed

# Transport, logging, caching, or an end at a token: tokens are drawn as without the parameter.
HARMLESS = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "stream_interval"),
        *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "session_id", "request_id", "rid"),
        *("metadata", "store", "service_tier", "priority", "timeout", "extra_headers", "extra_query", "cache_salt"),
        *("seed", "max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict", "ignore_eos"),
        *("logprobs", "top_logprobs", "prompt_logprobs", "logprob_token_ids", "n_probs", "top_n_tokens", "details"),
        *("return_token_ids", "return_tokens", "return_tokens_as_token_ids", "return_prompt_text", "return_full_text"),
        *("skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "no_stop_trim"),
        *("cache_prompt", "id_slot", "timings_per_token", "kv_transfer_params", "ec_transfer_params"),
        *("length_penalty", "early_stopping"),  # of beam search only
        *("parallel_tool_calls", "guided_decoding_backend", "prediction"),
        *("lora_path", "adapter_id", "stream_reasoning"),  # the adapter's name; how an answer is sent
    )
)
ENDS = ("stop", "stop_token_ids", "stop_regex", "repetition_detection")
PROMPT = (
    *("documents", "chat_template", "chat_template_kwargs", "add_generation_prompt", "suffix"),
    *("continue_final_message", "add_special_tokens", "truncate_prompt_tokens", "truncation_side", "truncate"),
    *("media_io_kwargs", "mm_processor_kwargs", "reasoning_effort", "verbosity", "thinking"),
)
TOOLS = {"tools": "tool_choice", "functions": "function_call"}  # -> the parameter that can forbid calling them
REASONS = {
    "the request biases tokens": (
        *("logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "min_new_tokens", "logits_processors"),
        *("custom_logit_processor", "watermarking", "watermark", "thinking_token_budget"),
    ),
    "the request constrains the output": (
        *("response_format", "structured_outputs", "json_schema", "regex", "ebnf", "grammar", "structural_tag"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "format", "tool_choice"),
        "function_call",
    ),
    "the answer is one of several": ("n", "best_of", "use_beam_search", "num_beams"),
    "the request hides a part of the answer": ("include_reasoning", "separate_reasoning"),
    "the answer repeats its prompt": ("echo",),
}
# The values without effect; all other parameters have no effect where they are false, empty or 0.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("n", "best_of", "num_beams", "typical_p", "typical", "tfs", "tfs_z", "repeat_penalty"), (1,)),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "add_generation_prompt": (True,),
    "include_reasoning": (True,),
    "separate_reasoning": (True,),  # reasoning besides the answer shows in the answer itself
    "modalities": (["text"], []),
    "do_sample": (True,),
    "top_n_sigma": (-1,),
}
# Parameters with one of these prefixes have no effect while the switch is off.
SWITCHES = {
    "mirostat_": "mirostat",
    "dry_": "dry_multiplier",
    "xtc_": "xtc_probability",
    "dynatemp_": "dynatemp_range",
}
_SWITCHED = tuple(SWITCHES)
_REASON_OF = {name: reason for reason, names in REASONS.items() for name in names}


def of_request(request: Body, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> str:
    """Why the token distribution of a response to this request is unknown, "" where it is known.

    request: its parameters by their usual names; prompt_ids, output_ids: token ids as recorded, () where they were not
    """
    extra: Body = {}
    whole = dict(request)
    if "extra_body" in whole:
        extra, unread = parameters(whole.pop("extra_body"), "extra_body")
        if unread:
            return unread
        whole |= extra
    for name, value in whole.items():
        if not _is_off(name, value, whole) and (why := _of_parameter(name, value, prompt_ids, output_ids)):
            return why
    if any(request.get(name) != value for name, value in extra.items() if name in SAMPLING):
        return "the request sets sampling parameters in extra_body, where they are not read"
    for tools, choice in TOOLS.items():
        if whole.get(tools) and whole.get(choice) != "none":
            return f"the request offers tools ({tools}): whether the answer is text then depends on what was generated"
    return _of_prompt(whole, prompt_ids)


def parameters(block: object, name: str) -> tuple[Body, str]:
    """A block of request parameters, an object or its JSON text, and why it cannot be read, "" where it can.

    Without the reason every parameter would count as absent, and the response would be scored under defaults.
    """
    value = parsed(parsed(block))  # some exporters encode the JSON text once more
    if isinstance(value, dict):
        return value, ""
    return {}, "" if value is None or value == "" else f"its parameters cannot be read ({name})"


def _of_parameter(name: str, value: object, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> str:
    if name in HARMLESS or name in TOOLS:
        return ""
    if name in SAMPLING:
        return "" if is_number(value) else f"the request's {name} is not a number"
    if name in _REASON_OF:
        return f"{_REASON_OF[name]} ({name})"
    if name in PROMPT:
        return (
            ""
            if prompt_ids
            else f"the prompt is more than its messages ({name}), and no prompt token ids were recorded"
        )
    if name in ENDS:
        # Which position is the last before the cut is known only from what came after it: it is no stopping time.
        return "" if output_ids else f"the answer may be truncated ({name}), and no output token ids were recorded"
    # Shown where it looks like a parameter: anything else may be production text, and this is shown to people on call.
    shown = name if re.fullmatch(r"[a-z][a-z_0-9]{1,31}", name) else "an unknown parameter"
    return f"the request sets {shown}, which may change the output"


def _of_prompt(request: Body, prompt_ids: tuple[int, ...]) -> str:
    if prompt_ids:
        return ""
    if tools := next((name for name in TOOLS if request.get(name)), ""):
        return f"the prompt is more than its messages ({tools}), and no prompt token ids were recorded"
    if not request.get("messages") and isinstance(request.get("prompt"), str):
        return "the prompt is raw text (prompt), and no prompt token ids were recorded"
    return of_chat(request.get("messages"))


def of_chat(turns: object) -> str:
    """Why the chat template cannot reproduce the prompt from these turns, "" where it can."""
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and not is_text(turn.get("content", turn.get("parts"))):
            return "the prompt contains parts that are not text"
        if isinstance(turn, dict) and any(turn.get(name) for name in ("tool_calls", "function_call", "audio")):
            return "the prompt contains tool calls"
    return ""


def of_answer(answer: Body, finish_reason: str) -> str:
    """Why an answer's text is not everything that was generated, "" where it is, as far as the record shows.

    answer: the message, whose fields besides the text are checked
    """
    if finish_reason in ("tool_calls", "tool_call", "function_call", "tool_use"):
        return f"the answer calls tools ({finish_reason})"
    if finish_reason in ("abort", "cancelled", "error"):
        return f"the answer was aborted ({finish_reason})"
    if finish_reason == "content_filter":
        return "a filter has changed the answer (content_filter)"
    by_field = {"tool_calls": "calls tools", "function_call": "calls tools"}
    by_field |= dict.fromkeys(("reasoning", "reasoning_content", "thinking"), "contains reasoning besides its text")
    by_field |= dict.fromkeys(("refusal", "audio"), "is not only text")
    field = next((name for name in by_field if answer.get(name)), "")
    if field:
        return f"the answer {by_field[field]} ({field})"
    return "" if is_text(answer.get("content", answer.get("parts"))) else "the answer contains parts that are not text"


def is_text(content: object) -> bool:
    """Is a turn's content only text?"""
    return not isinstance(content, list) or all(
        isinstance(part, str) or (isinstance(part, dict) and part.get("type") in TEXT_PARTS) for part in content
    )


def _is_off(name: str, value: object, request: Body) -> bool:
    if value is None:
        return True
    if name.startswith(_SWITCHED) and not _is_switched_on(name, request):
        return True
    if name in NEUTRAL:
        return value in NEUTRAL[name]
    return name not in SAMPLING and not value


def _is_switched_on(name: str, request: Body) -> bool:
    return any(request.get(switch) or name == switch for prefix, switch in SWITCHES.items() if name.startswith(prefix))
