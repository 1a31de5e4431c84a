"""Was a response drawn from a law that the golden copies know? If not, why not, in words.

The golden copies know what a model writes after a prompt by temperature, nucleus, top-k, min-p and penalties, freely
and once. Whatever else a request asks of its words makes another law, and a likelihood ratio under the wrong law is no
e-value: the response is set aside from scoring, and counted and embedded all the same.

``HARMLESS`` is a closed list: a parameter that is in no list here is taken for one that changes the words, because new
ones come with every engine. One that is switched off, or at the value that does nothing, was not asked for.

What is decided by the request alone takes nothing from the bet, whatever was written. What is decided by the answer
(``of_answer``: calls and reasoning that a record shows although its request told neither) can: where the adapter does
such a thing more often than an alternative, those that are left over-represent the alternative. It has no bound here,
so let requests be recorded whole.
Only what a record tells is seen: OpenTelemetry's events have no word for a bias or a grammar.

Sources: vLLM's chat completion request and SamplingParams, SGLang's sampling_params.md, llama.cpp's server, OpenAI's
API reference, as of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.traffic.json_fields import SAMPLING, TEXT_PARTS, Body, is_number, parsed

# What is carried, logged, counted, cached, or ends an answer at a token: its words are drawn as without it.
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
        *("length_penalty", "early_stopping"),  # of beam search alone
        *("parallel_tool_calls", "guided_decoding_backend", "prediction"),
        *("lora_path", "adapter_id", "stream_reasoning"),  # the adapter's own name; how an answer is sent
    )
)
ENDS = ("stop", "stop_token_ids", "stop_regex", "repetition_detection")
PROMPT = (
    *("documents", "chat_template", "chat_template_kwargs", "add_generation_prompt", "suffix"),
    *("continue_final_message", "add_special_tokens", "truncate_prompt_tokens", "truncation_side", "truncate"),
    *("media_io_kwargs", "mm_processor_kwargs", "reasoning_effort", "verbosity", "thinking"),
)
OFFERED = {"tools": "tool_choice", "functions": "function_call"}  # and which parameter says that none is to be called
SAID = {
    "the request biases tokens": (
        *("logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "min_new_tokens", "logits_processors"),
        *("custom_logit_processor", "watermarking", "watermark", "thinking_token_budget"),
    ),
    "the request constrains what may be written": (
        *("response_format", "structured_outputs", "json_schema", "regex", "ebnf", "grammar", "structural_tag"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "format", "tool_choice"),
        "function_call",
    ),
    "the answer is one of several": ("n", "best_of", "use_beam_search", "num_beams"),
    "the request hides a part of the answer": ("include_reasoning", "separate_reasoning"),
    "the answer repeats its prompt": ("echo",),
}
# At these values they do nothing; all others do nothing where they are false, empty or 0.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("n", "best_of", "num_beams", "typical_p", "typical", "tfs", "tfs_z", "repeat_penalty"), (1,)),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "add_generation_prompt": (True,),
    "include_reasoning": (True,),
    "separate_reasoning": (True,),  # reasoning beside the answer is told by the answer itself
    "modalities": (["text"], []),
    "do_sample": (True,),
    "top_n_sigma": (-1,),
}
# What follows one of these prefixes does nothing while the switch is off.
SWITCHES = {
    "mirostat_": "mirostat",
    "dry_": "dry_multiplier",
    "xtc_": "xtc_probability",
    "dynatemp_": "dynatemp_range",
}
_SWITCHED = tuple(SWITCHES)
_REASON_OF = {name: reason for reason, names in SAID.items() for name in names}


def of_request(asked: Body, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> str:
    """Why nobody knows the law of what answers this request, "" where it is known.

    asked: its parameters by their usual names; prompt_ids, output_ids: token ids as recorded, () where they were not
    """
    extra: Body = {}
    whole = dict(asked)
    if "extra_body" in whole:
        extra, unread = parameters(whole.pop("extra_body"), "extra_body")
        if unread:
            return unread
        whole |= extra
    for name, value in whole.items():
        if not _is_off(name, value, whole) and (why := _of_parameter(name, value, prompt_ids, output_ids)):
            return why
    if any(asked.get(name) != value for name, value in extra.items() if name in SAMPLING):
        return "the request tells its sampler apart (extra_body)"
    for offered, chosen in OFFERED.items():
        if whole.get(offered) and whole.get(chosen) != "none":
            return f"the request offers tools ({offered}): what is left as text depends on what was written"
    return _of_prompt(whole, prompt_ids)


def parameters(told: object, name: str) -> tuple[Body, str]:
    """A block of request parameters, an object or its JSON text, and why it cannot be read, "" where it can.

    Without it every parameter would be taken for one that was not told, and the response scored under defaults.
    """
    found = parsed(parsed(told))  # some exporters write the text of a text
    if isinstance(found, dict):
        return found, ""
    return {}, "" if found is None or found == "" else f"its parameters cannot be read ({name})"


def _of_parameter(name: str, value: object, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> str:
    if name in HARMLESS or name in OFFERED:
        return ""
    if name in SAMPLING:
        return "" if is_number(value) else f"the request's {name} is no number"
    if name in _REASON_OF:
        return f"{_REASON_OF[name]} ({name})"
    if name in PROMPT:
        return "" if prompt_ids else f"its prompt is more than its messages ({name}), and no token ids tell it"
    if name in ENDS:
        # The last position before the cut is known only from what came after it: no place to stop a bet at.
        return "" if output_ids else f"its answer may be cut at its end ({name}), and no token ids tell where"
    # As parameters are written; anything else may be a client's own word, and this is read on a page.
    told = name if re.fullmatch(r"[a-z][a-z_0-9]{1,31}", name) else "something"
    return f"the request asks for {told}, which may change what is written"


def _of_prompt(asked: Body, prompt_ids: tuple[int, ...]) -> str:
    if prompt_ids:
        return ""
    if offered := next((name for name in OFFERED if asked.get(name)), ""):
        return f"its prompt is more than its messages ({offered}), and no token ids tell it"
    if not asked.get("messages") and isinstance(asked.get("prompt"), str):
        return "its prompt is one text (prompt), and no token ids tell how it was read"
    return of_chat(asked.get("messages"))


def of_chat(turns: object) -> str:
    """Why a template cannot make the prompt again from these turns, "" where it can."""
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and not is_text(turn.get("content", turn.get("parts"))):
            return "its prompt holds parts that are no text"
        if isinstance(turn, dict) and any(turn.get(name) for name in ("tool_calls", "function_call", "audio")):
            return "its prompt holds calls of tools"
    return ""


def of_answer(answer: Body, finish_reason: str) -> str:
    """Why an answer's text is not all that was written, "" where it is, as far as the record tells.

    answer: the message, of which other fields than its text are looked at
    """
    if finish_reason in ("tool_calls", "tool_call", "function_call", "tool_use"):
        return f"the answer calls tools ({finish_reason})"
    if finish_reason in ("abort", "cancelled", "error"):
        return f"its answer was broken off ({finish_reason})"
    if finish_reason == "content_filter":
        return "a filter has changed the answer (content_filter)"
    apart = {"tool_calls": "calls tools", "function_call": "calls tools"}
    apart |= dict.fromkeys(("reasoning", "reasoning_content", "thinking"), "holds reasoning apart from its text")
    apart |= dict.fromkeys(("refusal", "audio"), "is not all in its text")
    found = next((name for name in apart if answer.get(name)), "")
    if found:
        return f"the answer {apart[found]} ({found})"
    return "" if is_text(answer.get("content", answer.get("parts"))) else "the answer holds parts that are no text"


def is_text(content: object) -> bool:
    """Is a turn's content nothing but text?"""
    return not isinstance(content, list) or all(
        isinstance(part, str) or (isinstance(part, dict) and part.get("type") in TEXT_PARTS) for part in content
    )


def _is_off(name: str, value: object, asked: Body) -> bool:
    if value is None:
        return True
    if name.startswith(_SWITCHED) and not _is_switched_on(name, asked):
        return True
    if name in NEUTRAL:
        return value in NEUTRAL[name]
    return name not in SAMPLING and not value


def _is_switched_on(name: str, asked: Body) -> bool:
    return any(asked.get(switch) or name == switch for prefix, switch in SWITCHES.items() if name.startswith(prefix))
