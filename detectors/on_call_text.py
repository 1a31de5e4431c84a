"""The sentences that a person on call reads: what was seen, and what to do first. Templates and nothing else.

To change a sentence, edit it here. ``{name}`` is a value that the program fills in; which values a sentence may use is
listed above its table, and tests/detectors/test_on_call_text.py checks it. Sentences are joined with "; ", so that
they begin in lower case and end without a full stop. An action is an order: it names the file, setting or command to
look at, and where there is one the command that shows whether it helped. ``{adapter_argument}`` is the adapter's name
quoted for a shell.

In this order: causes by canaries, and what is said beside them; causes by sampled responses; verdicts; headlines of
notices; what to do first where no cause says so.
"""

from __future__ import annotations

from typing import NamedTuple

from detectors.records import Cause, Mode, Reason


class Text(NamedTuple):
    """explanation: what was seen; action: the first thing to do."""

    explanation: str
    action: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# By canaries. Read by (cause, variant).
#
# Always: adapter, adapter_argument. Of the measured canaries: retention, gap_ratio, scale, off_direction (size of the
# change in a direction other than the adapter's, 1 = as large as its accepted effect), base_change (see BASE_CHANGE).
# Where a recorded fault explains the answers: explained (percent), names (the best match, or "a, b or c" where several
# cannot be distinguished), name (the best match alone), fitted (strength, temperature or part).

_CACHE_ACTION = (
    "switch prefix caching off (in vLLM --no-enable-prefix-caching) or make the adapter part of the cache key, and "
    "empty external KV caches, because tenants may be reading each other's cache; then run gapwatch probe "
    "{adapter_argument}"
)

BY_CANARIES = {
    (Cause.ADAPTER_NOT_APPLIED, ""): Text(
        explanation="{adapter} answers like the base model: retention {retention:.2f} (1 is intact, 0 is the base "
        "model), and its distance from the base's answers is {gap_ratio:.2f} of the accepted one; the base itself "
        "has not changed",
        action="check that the engine loads {adapter}: key names and target modules in its adapter files, and the "
        "name that requests ask for; then reload it and run gapwatch probe {adapter_argument}",
    ),
    (Cause.BASE_SWAPPED_AND_ADAPTER_LOST, "nothing left"): Text(
        explanation="{adapter} answers like the base model: retention {retention:.2f} (1 is intact, 0 is the base "
        "model), and its distance from the base's answers is {gap_ratio:.2f} of the accepted one; the base "
        "{base_change}",
        action="roll the base back to the accepted weights: loading {adapter} again does not help, it was trained on "
        "them; if the new base has to stay, take {adapter} out of service and retrain it on that; then run gapwatch "
        "probe {adapter_argument}",
    ),
    (Cause.BASE_SWAPPED_AND_ADAPTER_LOST, "a part left"): Text(
        explanation="the base under {adapter} {base_change}, and {adapter} has lost most of its effect: retention "
        "{retention:.2f} (1 is intact, 0 is the base model), and its distance from the base's answers is "
        "{gap_ratio:.2f} of the accepted one, because it was trained on the former weights and does not fit these",
        action="roll the base back to the accepted weights: loading {adapter} again does not help, it was trained on "
        "them; if the new base has to stay, take {adapter} out of service and retrain it on that; then run gapwatch "
        "probe {adapter_argument}",
    ),
    (Cause.BASE_SWAPPED, ""): Text(
        explanation="the base under {adapter} {base_change}; retention of {adapter} {retention:.2f}",
        action="compare revision, dtype and quantisation of the base with those of the last good release and put "
        "that release back, or accept the new base: gapwatch enrol {adapter_argument} --replace --why TEXT; then run "
        "gapwatch probe {adapter_argument}",
    ),
    # merged: the adapter that the base model answers like
    (Cause.BASE_SWAPPED, "another adapter in the base"): Text(
        explanation="the base under {adapter} {base_change}; retention of {adapter} {retention:.2f}; requests for "
        "the base model itself are answered like {merged}",
        action="take {merged} out of the base: it was merged into the base's weight files, or the engine leaves it "
        "active on requests for the base; then run gapwatch probe {adapter_argument}",
    ),
    # grid_was, grid_is: how its weights were and are quantised, in words with counts, or NOT_QUANTISED
    (Cause.QUANTISED_BASE, "by its weights"): Text(
        explanation="the weights of the base under {adapter} are quantised ({grid_is}; accepted: {grid_was}); the base "
        "{base_change}; retention of {adapter} {retention:.2f}",
        action="put the accepted weight files of the base back, or accept these: gapwatch enrol {adapter_argument} "
        "--replace --why TEXT; then run gapwatch probe {adapter_argument}",
    ),
    # bits: "4-bit", or "4-bit (groups of 32)"
    (Cause.QUANTISED_BASE, "by its answers"): Text(
        explanation="the base under {adapter} answers like a {bits} quantised copy of itself, which explains "
        "{explained:.0f} % of the difference, and {base_change}; retention of {adapter} {retention:.2f}",
        action="compare dtype and quantisation in the engine's arguments and in the base's config.json with those of "
        "the last good release; serve the base as it was accepted, then run gapwatch probe {adapter_argument}",
    ),
    (Cause.WRONG_STRENGTH, ""): Text(
        explanation="{adapter} is applied at x{fitted:.2f} of its accepted strength; apart from that it does what it "
        "should",
        action="compare lora_alpha, r and use_rslora in the adapter_config.json of {adapter} with the scale that the "
        "engine applies; then reload it and run gapwatch probe {adapter_argument}",
    ),
    (Cause.WRONG_ADAPTER, "another adapter"): Text(
        explanation="{adapter} answers like {names}, which explains {explained:.0f} % of the difference",
        action="check which files are mounted, and which route is set, under the name {adapter}: they are those of "
        "{names}; stop that route until they are corrected, because one tenant is answered by another's adapter; "
        "then run gapwatch probe {adapter_argument}",
    ),
    (Cause.WRONG_ADAPTER, "an earlier version"): Text(
        explanation="{adapter} answers like an earlier version of itself, {names}, which explains {explained:.0f} % "
        "of the difference",
        action="unload {adapter} and load its present files again, and restart the engine if that does not help (an "
        "engine may ignore a load under a name that is in use); then run gapwatch probe {adapter_argument}",
    ),
    (Cause.PARTLY_APPLIED, "a block"): Text(
        explanation="{adapter} answers as if {names} were missing from it, which explains {explained:.0f} % of the "
        "difference; retention {retention:.2f}",
        action="look in the engine's load log for keys of {name} that were skipped, and compare target_modules in "
        "adapter_config.json with the modules that the engine can adapt; then reload {adapter} and run gapwatch "
        "probe {adapter_argument}",
    ),
    # positions: see POSITIONS
    (Cause.PARTLY_APPLIED, "some positions"): Text(
        explanation="{adapter} answers as if it were switched off for {positions}, which explains {explained:.0f} % "
        "of the difference; retention {retention:.2f}",
        action="switch off, one at a time, the engine's settings that treat prefill and decode differently: CUDA "
        "graphs captured before the adapter was loaded, chunked prefill, prefix caching; after each run gapwatch "
        "probe {adapter_argument}",
    ),
    # other: the adapter that is mixed in; percent: its share of the average
    (Cause.COMPOSITION_INTERFERENCE, "on top"): Text(
        explanation="{adapter} answers as if {other} were applied on top of it at x{fitted:.2f} of its strength, "
        "which explains {explained:.0f} % of the difference; retention {retention:.2f}",
        action="check which adapters the engine has active on requests for {adapter}: switch {other} off there, and "
        "undo a merge that holds both; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.COMPOSITION_INTERFERENCE, "averaged"): Text(
        explanation="{adapter} answers as if averaged with {other} ({percent:.0f} % of the average is {other}), "
        "which explains {explained:.0f} % of the difference; retention {retention:.2f}",
        action="check which adapters the engine has active on requests for {adapter}: switch {other} off there, and "
        "undo a merge that holds both; then run gapwatch probe {adapter_argument}",
    ),
    # left: per cent of its weight
    (Cause.COMPOSITION_INTERFERENCE, "a member is missing"): Text(
        explanation="{adapter} answers as if {other} were missing from the composition, which explains "
        "{explained:.0f} % of the difference; retention {retention:.2f}",
        action="check which adapters the engine applies to requests for this composition, or from which it was merged: "
        "put {other} back, with the weight that was accepted; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.COMPOSITION_INTERFERENCE, "a member is weakened"): Text(
        explanation="{adapter} answers as if {other} had {left:.0f} % of its weight in the composition, which explains "
        "{explained:.0f} % of the difference; retention {retention:.2f}",
        action="compare the weights that the engine applies, or that the merge was made with, with the accepted ones: "
        "put that of {other} back; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.COMPOSITION_INTERFERENCE, "a member alone"): Text(
        explanation="{adapter} answers as {other} alone does, which explains {explained:.0f} % of the difference: the "
        "other members are missing from the composition",
        action="check which adapters the engine applies to requests for this composition, or from which it was merged: "
        "put the others beside {other} back; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.SAMPLING_CHANGED, "of the adapter"): Text(
        explanation="{adapter} is served at temperature {fitted:.2f}: its log-probabilities are the accepted ones "
        "divided by it, which explains {explained:.0f} % of the difference; the adapter itself is intact",
        action="compare generation_config.json, the engine's default sampling parameters and its logprobs_mode with "
        "those of the last good release; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.SAMPLING_CHANGED, "of adapter and base"): Text(
        explanation="{adapter} and its base are served at temperature {fitted:.2f}: the log-probabilities of both "
        "are the accepted ones divided by it, which explains {explained:.0f} % of the difference; the adapter itself "
        "is intact",
        action="compare generation_config.json, the engine's default sampling parameters and its logprobs_mode with "
        "those of the last good release; then run gapwatch probe {adapter_argument}",
    ),
    # changed_prompts, canaries: so many of so many
    (Cause.TEMPLATE_CHANGED, "the template"): Text(
        explanation="{changed_prompts} of {canaries} prompts of {adapter} now render to other token ids, and from "
        "the accepted ids it answers as accepted: the chat template changed; the tokenizer and the adapter did not",
        action="compare the base's chat template (chat_template.jinja, or chat_template in tokenizer_config.json) with "
        "that of the last good release and put that back, then run gapwatch probe {adapter_argument}",
    ),
    (Cause.TEMPLATE_CHANGED, "the tokenizer"): Text(
        explanation="{changed_prompts} of {canaries} prompts of {adapter} now render to other token ids, and from "
        "the accepted ids it answers as accepted: the tokenizer's files changed; the chat template and the adapter "
        "did not",
        action="compare the base's tokenizer.json, tokenizer_config.json and special_tokens_map.json with those of "
        "the last good release and put those back, then run gapwatch probe {adapter_argument}",
    ),
    (Cause.TEMPLATE_CHANGED, "either"): Text(
        explanation="{changed_prompts} of {canaries} prompts of {adapter} now render to other token ids, and from "
        "the accepted ids it answers as accepted: the chat template or the tokenizer changed; the adapter did not",
        action="compare the base's chat_template.jinja, tokenizer.json, tokenizer_config.json and "
        "special_tokens_map.json with those of the last good release and put those back, then run gapwatch probe "
        "{adapter_argument}",
    ),
    # cold, warm: retention without and with what the cache holds; previous: whose request it looks like
    (Cause.SHARED_CACHE, "warm"): Text(
        explanation="{adapter} answers differently where the engine's cache holds the beginning of its prompt, which "
        "is stale, from before {adapter} was loaded again, or another adapter's: retention {warm:.2f} there, "
        "{cold:.2f} on a cold cache",
        action="give the engine an empty prefix cache after each load in place (in vLLM a restart, or POST "
        "/reset_prefix_cache in development mode); if that does not help, " + _CACHE_ACTION,
    ),
    (Cause.SHARED_CACHE, "always"): Text(
        explanation="{adapter} answers as if a request for {previous} had left its prompt in the cache, which "
        "explains {explained:.0f} % of the difference; retention {retention:.2f}",
        action=_CACHE_ACTION,
    ),
    # Answers in a mode, beside the scores of the same canaries. apart, had: so many of so many differ; shift: by how
    # much in the mean (percent of the adapter's effect)
    (Cause.SERVING_PATH, "written"): Text(
        explanation="{adapter} is scored as accepted, and what the engine writes under its name is something else: "
        "{apart} of {had} answers differ, by {shift:.0f} % of the adapter's effect",
        action="compare what is computed while writing with what is computed for prompts: restart the engine without "
        "its graphs (in vLLM --enforce-eager) and without speculative decoding, and look in its load log for "
        "{adapter}; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.SERVING_PATH, "streamed"): Text(
        explanation="{adapter} answers as accepted where the answer comes whole, and not where it is streamed: {apart} "
        "of {had} streamed answers differ, by {shift:.0f} % of the adapter's effect",
        action="send one request to the engine twice, with and without stream, and compare the words: if they are "
        "alike, look in the proxy's route for streams, else in the engine's log; then run gapwatch probe "
        "{adapter_argument}",
    ),
    (Cause.SERVING_PATH, "chat"): Text(
        explanation="{adapter} answers as accepted on token ids, and not at the chat endpoint: {apart} of {had} "
        "answers there differ, by {shift:.0f} % of the adapter's effect",
        action="compare the model name, the sampling defaults (generation_config.json) and the chat template that the "
        "chat endpoint uses with those of the completions endpoint; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.SERVING_PATH, "long"): Text(
        explanation="{adapter} answers as accepted where prompts are short, and otherwise than it is scored where they "
        "are long: {apart} of {had} answers differ, by {shift:.0f} % of the adapter's effect",
        action="switch off, one at a time, chunked prefill and prefix caching in the engine's arguments; after each "
        "run gapwatch probe {adapter_argument}",
    ),
    # bad, total: canaries, or single answers to them; pods: names of the faulty replicas; their_fault, their_action: of
    # the bad ones
    (Cause.ONE_REPLICA, "by pod"): Text(
        explanation="the fault is on {pods} only, the other replicas of {adapter} answer as accepted; on {pods}, "
        "{their_fault}",
        action="take {pods} out of rotation; {their_action}",
    ),
    (Cause.ONE_REPLICA, "by canaries"): Text(
        explanation="{bad} of {total} canaries are answered wrongly and the others as accepted, so one of several "
        "replicas is at fault; in the wrong answers, {their_fault}",
        action="send the same request to each pod by itself (kubectl get pods -o wide) and take the faulty one out of "
        "rotation; {their_action}",
    ),
    (Cause.ONE_REPLICA, "by answers"): Text(
        explanation="{bad} of {total} answers to canaries are wrong, and to most of these canaries another answer is "
        "as accepted, so one of several replicas is at fault; in the wrong answers, {their_fault}",
        action="send the same request to each pod by itself (kubectl get pods -o wide) and take the faulty one out of "
        "rotation; {their_action}",
    ),
    # adapter_was, adapter_is: the first digits of the hashes of its files
    (Cause.ADAPTER_REPLACED, ""): Text(
        explanation="the files of {adapter} are not the accepted ones (hash was {adapter_was}, is {adapter_is}), the "
        "base is the same, and no known fault explains the answers: retention {retention:.2f}, effective LoRA "
        "scale {scale:.2f}, and a change in other directions of {off_direction:.2f} times its accepted effect",
        action="find out who put these files there, and put the accepted ones back (enrolment keeps a copy in "
        "adapters/ beside the golden records), or accept the new ones: gapwatch enrol {adapter_argument} --replace "
        "--why TEXT; then run gapwatch probe {adapter_argument}",
    ),
    # source_was, source_is: from where the engine loaded it, by its own list
    (Cause.ADAPTER_REPLACED, "by its source"): Text(
        explanation="the engine loaded {adapter} from another place than accepted (was {source_was}, is {source_is}), "
        "and no known fault explains the answers: retention {retention:.2f}, effective LoRA scale {scale:.2f}, and a "
        "change in other directions of {off_direction:.2f} times its accepted effect",
        action="restore {source_was} as the engine's {adapter}, or accept what it serves now: gapwatch enrol "
        "{adapter_argument} --replace --why TEXT; then run gapwatch probe {adapter_argument}",
    ),
    (Cause.UNKNOWN, ""): Text(
        explanation="{adapter} no longer answers as accepted, and no known fault explains how: retention "
        "{retention:.2f}, effective LoRA scale {scale:.2f}, and a change in other directions of {off_direction:.2f} "
        "times its accepted effect",
        action="compare accepted and present answers (gapwatch query flipped -p subject={adapter_argument}), then "
        "roll {adapter} or the engine back to the last good release",
    ),
    (Cause.UNKNOWN, "not measured"): Text(
        explanation="no canary of {adapter} was measured",
        action="run gapwatch probe {adapter_argument} to replay them again",
    ),
}

# What is added to the text of any cause, in this order.
BESIDE_THE_CAUSE = {
    # bad, total: answers
    "some requests only": Text(
        explanation="so are {bad} of {total} answers, and the others are as accepted: some requests are at fault, or "
        "one of several replicas behind the address",
        action="send the same request several times, and to each pod by itself (kubectl get pods -o wide)",
    ),
    # missing: a block of the adapter
    "a block looks missing": Text(explanation="what is left of {adapter} looks as if {missing} were missing from it"),
    "warm answers point to a tenant": Text(explanation="those answers move towards what {previous} answers"),
    # factor: the power of two that the strength is near to
    "near a factor": Text(explanation="that is close to x{factor:g}, as a wrong lora_alpha or r gives"),
    "the base moved too": Text(explanation="in addition, the base {base_change}"),
    "prompts render differently": Text(explanation="prompts that render to other token ids: {changed_prompts}"),
    "adapter files changed": Text(
        explanation="the files of {adapter} changed (hash was {adapter_was}, is {adapter_is})",
        action="put the accepted files of {adapter} back (enrolment keeps a copy in adapters/ beside the golden "
        "records)",
    ),
    # arithmetic: one or several of STRENGTH_ARITHMETIC, arithmetic_action: what to do about them
    "strength has a name": Text(explanation="that is {arithmetic}", action="{arithmetic_action}"),
    # Where the rank is not recorded, these are possibilities to check. rank: the one that fits
    "perhaps rsLoRA is ignored": Text(
        explanation="",
        action="check use_rslora: if the adapter uses rsLoRA with r = {rank}, the engine may be ignoring it",
    ),
    "perhaps alpha is not divided by r": Text(
        explanation="",
        action="check lora_alpha: if r = {rank}, the engine may be applying alpha where alpha / r is meant",
    ),
    "perhaps applied twice": Text(
        explanation="",
        action="check the base's weight files: the adapter may be merged into them and applied once more",
    ),
    "perhaps alpha is lost": Text(
        explanation="",
        action="check lora_alpha: if alpha = 2 r, the engine may have lost it and be applying a scale of 1",
    ),
}

# {arithmetic}: what gives exactly that strength, from the adapter's rank and alpha in its golden record; one "or" the
# other where they coincide for this adapter. ratio: served over accepted; rank, alpha: of the adapter
STRENGTH_ARITHMETIC = {
    "rsLoRA switched on": Text(
        explanation="x{ratio:.3g} = sqrt({rank}): the engine scales by alpha / sqrt(r) (rsLoRA), and the adapter was "
        "accepted with alpha / r",
        action="set use_rslora to false in the adapter's config as the engine reads it, or in the engine",
    ),
    "rsLoRA switched off": Text(
        explanation="x{ratio:.3g} = 1 / sqrt({rank}): the engine scales by alpha / r, and the adapter was accepted "
        "with alpha / sqrt(r) (rsLoRA)",
        action="set use_rslora to true in the adapter's config as the engine reads it, and check that the engine "
        "supports it",
    ),
    "not divided by r": Text(
        explanation="x{ratio:.3g} = r: the engine scales by alpha, and the adapter was accepted with alpha / r",
        action="check that the engine divides lora_alpha by r = {rank}",
    ),
    "divided by r twice": Text(
        explanation="x{ratio:.3g} = 1 / {rank}: the engine divides by r once more than the adapter was accepted with",
        action="check whether the adapter's files were scaled by alpha / r before the engine scales them again",
    ),
    "alpha / r left out": Text(
        explanation="x{ratio:.3g} = {rank} / {alpha:g}: the engine scales by 1, and the adapter was accepted with "
        "alpha / r = {alpha:g} / {rank}",
        action="check that the engine reads lora_alpha and r of the adapter's config",
    ),
    "alpha / sqrt(r) left out": Text(
        explanation="x{ratio:.3g} = sqrt({rank}) / {alpha:g}: the engine scales by 1, and the adapter was accepted "
        "with alpha / sqrt(r) (rsLoRA) = {alpha:g} / sqrt({rank})",
        action="check that the engine reads lora_alpha, r and use_rslora of the adapter's config",
    ),
    "twice": Text(
        explanation="x2: the adapter is applied twice, or lora_alpha was doubled",
        action="check the base's weight files, because the adapter may be merged into them and applied once more, and "
        "lora_alpha",
    ),
    "half": Text(
        explanation="x1/2: lora_alpha was halved, or r is taken for twice its value",
        action="check lora_alpha and r",
    ),
}

# {base_change}: what happened to the base. base_was, base_is: the first digits of the hashes; base_shift: how far its
# answers moved, in units of the adapter's own effect.
BASE_CHANGE = {
    "answers": "answers differently than accepted (base shift {base_shift:.3f})",
    "weights and answers": "has other weights than accepted (hash was {base_was}, is {base_is}; base shift "
    "{base_shift:.3f})",
    "weights": "has other weights than accepted, though it answers as before (hash was {base_was}, is {base_is}; base "
    "shift {base_shift:.3f})",
}

# {positions}, by the names that detectors/diagnosis/signature_matching.py gives them.
POSITIONS = {
    "first": "the first token of the answer",
    "after the first": "every token after the first",
    "after 16": "the tokens after the 16th",
    "after 128": "the tokens after the 128th",
    "prompt and first": "the prompt and the first token of the answer",
}

# {grid_was}, where the weights are on no grid of few values.
NOT_QUANTISED = "not quantised"

# {bits}: whole rows of a weight matrix rounded together, or groups within a row.
BITS = "{bits}-bit"
BITS_IN_GROUPS = "{bits}-bit (groups of {group})"

# Several adapters of a base. affected, measured: so many of so many; names: of the affected; typical: the text of the
# first of them that shows the commonest cause.
BASE_BY_CANARIES = Text(
    explanation="affected: {affected} of {measured} adapters of {base} ({names}); for example, {typical}",
    action="{typical_action}; likewise for every adapter that is affected",
)

# ---------------------------------------------------------------------------------------------------------------------
# By sampled responses. Read by (cause, variant).
#
# Always: adapter, adapter_argument, author (see AUTHORS), against, scored (so many of so many responses are clearly not
# from the accepted adapter), since (see RESPONSES_SINCE, "" where that is not known).

RESPONSES_SINCE = " since {at} UTC"

_RESPONSES_FIT = (
    "sampled responses of {adapter} fit {author} better than the accepted adapter ({against} of {scored}{since} are "
    "clearly not from the accepted adapter)"
)

_BASE_REQUESTS_FIT = (
    "sampled responses to requests that name the base {adapter} fit {author} better than the accepted base ({against} "
    "of {scored}{since} are clearly not from it)"
)

BY_RESPONSES = {
    (Cause.ADAPTER_NOT_APPLIED, ""): Text(
        explanation=_RESPONSES_FIT,
        action="check that the engine loads {adapter}: key names in its adapter files, and the name that requests "
        "ask for; then reload it and run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.BASE_SWAPPED_AND_ADAPTER_LOST, ""): Text(
        explanation=_RESPONSES_FIT + "; the weights of the base have changed",
        action="roll the base back to the accepted weights: loading {adapter} again does not help, it was trained on "
        "them; if the new base has to stay, take {adapter} out of service and retrain it on that; gapwatch "
        "query identity -p subject={adapter_argument} shows both hashes",
    ),
    (Cause.QUANTISED_BASE, ""): Text(
        explanation=_RESPONSES_FIT,
        action="compare dtype and quantisation in the engine's arguments and in the base's config.json with those of "
        "the last good release; then run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.WRONG_ADAPTER, "an earlier version"): Text(
        explanation=_RESPONSES_FIT,
        action="unload {adapter} and load its present files again; restart the engine if it still serves the old "
        "ones; then run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.WRONG_ADAPTER, "another adapter"): Text(
        explanation=_RESPONSES_FIT,
        action="check which route and which caches the gateway and the engine keep under the name {adapter}; then "
        "run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.WRONG_STRENGTH, ""): Text(
        explanation=_RESPONSES_FIT,
        action="compare lora_alpha, r and use_rslora in the adapter_config.json of {adapter} with the scale that the "
        "engine applies; then reload it and run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.PARTLY_APPLIED, ""): Text(
        explanation=_RESPONSES_FIT,
        action="check in the engine's log that all parts of {adapter} were loaded, on every rank of a tensor-parallel "
        "engine, {other} first; then reload it and run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.ONE_REPLICA, "by pod"): Text(
        explanation="{against} of {scored} sampled responses of {adapter}{since} fit {author} better than the "
        "accepted adapter, all from {pods}; the others are as accepted",
        action="take {pods} out of rotation, then reload {adapter} there and run gapwatch query responses -p "
        "subject={adapter_argument}",
    ),
    (Cause.ONE_REPLICA, "pods not known"): Text(
        explanation="{against} of {scored} sampled responses of {adapter}{since} fit {author} better than the "
        "accepted adapter; the others are as accepted",
        action="send the same request to each pod by itself (kubectl get pods -o wide), take the faulty ones out of "
        "rotation, then reload {adapter} there and run gapwatch query responses -p subject={adapter_argument}",
    ),
    # Requests that name the base: adapter is its name.
    (Cause.BASE_ANSWERED_BY_ADAPTER, "requests for the base"): Text(
        explanation=_BASE_REQUESTS_FIT,
        action="send a request for {adapter} without an adapter to each pod by itself (kubectl get pods -o wide), and "
        "restart the engine that answers it like {other}; if none does, check that the gateway writes the name of "
        "{other} into its records; then run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.QUANTISED_BASE, "requests for the base"): Text(
        explanation=_BASE_REQUESTS_FIT,
        action="compare dtype and quantisation in the engine's arguments and in the base's config.json with those of "
        "the last good release; then run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.ONE_REPLICA, "requests for the base, by pod"): Text(
        explanation=_BASE_REQUESTS_FIT + ", all from {pods}",
        action="take {pods} out of rotation and restart the engine there; then run gapwatch query responses -p "
        "subject={adapter_argument}",
    ),
    (Cause.ONE_REPLICA, "requests for the base, pods not known"): Text(
        explanation=_BASE_REQUESTS_FIT + "; the others are as accepted",
        action="send the same request to each pod by itself (kubectl get pods -o wide), and restart the engines that "
        "answer it otherwise; then run gapwatch query responses -p subject={adapter_argument}",
    ),
    (Cause.UNKNOWN, "requests for the base"): Text(
        explanation=_BASE_REQUESTS_FIT,
        action="compare what the engine serves under the name {adapter} with what was accepted: gapwatch query "
        "responses -p subject={adapter_argument}",
    ),
    (Cause.UNKNOWN, ""): Text(
        explanation=_RESPONSES_FIT,
        action="compare what the engine serves under the name {adapter} with what was accepted: gapwatch query "
        "responses -p subject={adapter_argument}",
    ),
}

# {author}: what the responses look like. other: another adapter.
AUTHORS = {
    "the base": "the accepted base model",
    "an earlier version": "the previously accepted version of {adapter}",
    "another adapter": "{other}",
    "fewer bits": "{adapter} on a base of {bits} weights",
    "the base in fewer bits": "a {bits} copy of {adapter}",
    "without a block": "{adapter} without its {other}",
    "half of an adapter": "{other} at about half of its strength",
    "another strength": "{adapter} at another strength",
    "unknown": "something that is not {adapter}",
}

# Added where the strength was estimated from the responses; 1 is as accepted, 0 is the base model.
ESTIMATED_STRENGTH = Text(
    explanation="estimated strength {strength:.2f} of the accepted one, between {low:.2f} and {high:.2f} with 95 % "
    "confidence, from {n} responses",
)

# ---------------------------------------------------------------------------------------------------------------------
# Verdicts.

# Canaries and sampled responses of one adapter, side by side.
CANARIES_HEALTHY = (
    "its canaries are healthy: the files answer as accepted, what is served does not, so look at the serving path "
    "(engine, caches, gateway)"
)
RESPONSES_HEALTHY = (
    "sampled responses still fit the accepted adapter: the engine may hold the former files until it restarts"
)
# The same where the engine itself answered the canaries.
ENGINE_CANARIES_HEALTHY = (
    "its canaries are healthy: this engine answers them as accepted, what was served does not, so look at what lies "
    "between (gateway, caches, the other engines)"
)
ENGINE_RESPONSES_HEALTHY = (
    "sampled responses still fit the accepted adapter: they may be older, or served by other engines than this one"
)
BOTH = "sampled responses agree: what is served has changed too"

# What is known of the files beside an engine that does not answer as accepted, by state and by who knows it.
# served: see WHAT_IS_SERVED; pod: the one that replayed them; at: when
FILES_BESIDE_A_FAULT = {
    ("as_accepted", "witness"): "the files are as accepted (replayed by {pod} at {at} UTC) and the engine {served}",
    ("as_accepted", "this_pod"): "the files are as accepted (replayed in this pod at {at} UTC) and the engine {served}",
    ("not_as_accepted", "witness"): "the files do not answer as accepted either (replayed by {pod} at {at} UTC), so "
    "look at them first",
    ("not_as_accepted", "this_pod"): "the files do not answer as accepted either (replayed in this pod at {at} UTC), "
    "so look at them first",
    ("as_accepted", "hash"): "the adapter's files have the accepted hash; nobody replayed them, and the base's files "
    "are not known",
    ("not_as_accepted", "hash"): "the adapter's files are not the accepted ones by their hash; nobody replayed them",
    ("", ""): "whether the files are as accepted is not known",
}
# {served}, by what the engine's answers look like.
WHAT_IS_SERVED = {"the base": "serves the base", "something else": "does not serve them"}
# The same beside an engine that does.
FILES_BESIDE_HEALTH = {
    ("not_as_accepted", "witness"): "the engine answers as accepted and the files do not (replayed by {pod} at {at} "
    "UTC): it may hold the former ones, and serve these once it loads them",
    ("not_as_accepted", "this_pod"): "the engine answers as accepted and the files do not (replayed in this pod at "
    "{at} UTC): it may hold the former ones, and serve these once it loads them",
    ("not_as_accepted", "hash"): "the engine answers as accepted, and the adapter's files are not the accepted ones by "
    "their hash: it may hold the former ones, and serve these once it loads them; nobody replayed them",
}

# One round of a subject, in words: filled in by detectors/verdicts/ and detectors/traffic/.
DRAWS_BEYOND = "{percent:.0f} % of this round's canary draws are beyond tolerance"
# mode: one of MODES; apart, draws: so many of so many
DRAWS_APART = "of {draws} draws answered {mode} {apart} differ from what the engine scores"
# modes: of MODES, the first ones of a list
NO_PAGE_FROM_MODES = (
    "what it answers {modes} can page nobody: the golden record holds no noise of that (not enrolled through this "
    "engine, or too noisy there)"
)
MODES = {
    Mode.WRITTEN: "as it writes",
    Mode.STREAMED: "as a stream",
    Mode.CHAT: "at its chat endpoint",
    Mode.WARM: "through its cache of prefixes",
    Mode.LONG: "after a long prompt",
}
DRAWS_BEYOND_TOGETHER = (
    "in {percent:.0f} % of this round's canary draws {needed} or more of {measured} adapters are beyond tolerance"
)
# Why a base's incident opens at the alarm of one of its adapters.
SHARED_BY_CHANGE = "opened by the evidence of {adapter}, at fault since what it shares with the other adapters changed"
SHARED_BY_MOST = "opened by the evidence of {adapter}; more than half of the adapters show its fault since it began"
GOOD_SO_FAR = "good round {good} of the {needed} that end the incident"
NOT_YET_OVER = "enough good rounds, but not yet enough in a row, or draws or responses in them, to end the incident"
FIRST_TOKEN_APART = "retention of the first token {first:.2f}, later {later:.2f}"
RETENTION_BY_POSITION = "retention by position: {each}"
MASS_IS_OUTSIDE = "{percent:.0f} % of the probability has gone to tokens not compared, which retention cannot see"
BANDS = {"first": "first token", "beyond_128": "beyond 128"}
BAD_NUMBERS = "NaN or infinite log-probabilities on {n} canaries, first {canary}"
# what: "adapter", or "base" of requests that name it
RESPONSES_SCORED = "scored in this round: {scored} ({tokens} tokens), {against} clearly not from the accepted {what}"
RESPONSES_ALSO_UNSCORED = "{scored_in_words}, {unscored} not scored: {why}"
NO_RESPONSES = "no response was sampled since the last round"
# What to do where it is the agent that reads or scores nothing, and not known whether there was anything.
LOOK_AT_AGENT = "run `gapwatch doctor`, which names the part that does not work"
NOT_READ = "no record of the traffic is read, {why}"
NONE_SCORED = "{unscored} responses were sampled, none could be scored: {why}"
SCORE_NOT_FINITE = "its likelihoods are not finite"
AT_FAULT = "adapters at fault by their sampled responses: {adapters}"
NONE_AT_FAULT = "no adapter is at fault by its sampled responses"
BASE_RESPONSES = (
    "sampled responses of {bad} of {scored} adapters of {base} no longer fit the accepted adapters ({causes})"
)
EVIDENCE_GROWING = "evidence growing"
NONE_SINCE_RESTART = "no response was scored since the restart"
PROMPTS_MOVED = "prompts differ from those seen first (evidence {nats:.1f} nats): for information, this never pages"
EMBEDDINGS_ALONE = (
    "only embeddings can be compared: evidence that outputs differ from those seen first {outputs:.1f} nats, that "
    "prompts do {prompts:.1f} nats"
)
OUTPUTS_MOVED = "outputs differ from those seen first (evidence {outputs:.1f} nats), {prompts}"
PROMPTS_TOO, PROMPTS_NOT = "and so do prompts", "and prompts do not"
TOKENS_DRAWN = "tokens are drawn {how}"
DRAWN_AT = "as at {parameter} {mean:.2f} ({low}..{high}), requests asked for {requested}"
RANKS_MOVED = (
    "tokens are not distributed as the accepted adapter's are (evidence {nats:.1f} nats), and no other sampler "
    "explains it: this never pages"
)
CHECK_THE_ENGINE = (
    "compare the engine's precision, quantization and sharding settings, and the files that it loaded, with those "
    "before; then run gapwatch query responses"
)
PUT_SAMPLER_BACK = (
    "put the sampling defaults of the engine and the gateway back (temperature, top_p, generation_config.json), then "
    "run gapwatch query sampler -p subject={adapter_argument}"
)
DRAWN_BY_ANOTHER = "by another sampler ({sampler}), requests asked for {requested}"

# A healthy adapter that differs from what was accepted by more than its noise. scale: its strength; interval: see
# STRENGTH_INTERVAL; noise: of the strength, by the noise battery; off_direction: as above; tolerance: in percent;
# fault, fault_action: the text of its cause.
TOLERATED_CHANGE = Text(
    explanation="{adapter} has changed, and is inside your tolerance of {tolerance:g} %; its strength is {scale:.3f} "
    "of the accepted one{interval}, and benign change moves that by {noise:.4f}; the change in other directions is "
    "{off_direction:.3f} times its accepted effect; {fault}",
    action="nothing is urgent; {fault_action}",
)
TOLERATED_CHANGE_UNEXPLAINED = Text(
    explanation="no known fault explains it",
    action="compare what was released just before; if the change was intended, accept it: gapwatch enrol "
    "{adapter_argument} --replace --why TEXT",
)

# A base that has moved while its adapters are within tolerance: first why, then the rest. base_was, base_is,
# grid_was, grid_is, bits, explained: as above; temperature: of adapter and base alike; shift: base shift. who: see
# KEEP; strength: the mean of what is kept; interval: see STRENGTH_INTERVAL; kl: nats a token from the accepted
# answers; changed: percent of greedy answers; tolerance, least, most: percent of strength that a canary may be off
# by, before and now; names: of adapters.
MOVED_BASE_BECAUSE = {
    "quantised weights": Text(
        explanation="the weights of the base are quantised ({grid_is}; accepted: {grid_was}; hash was {base_was}, is "
        "{base_is}; base shift {shift:.2g})"
    ),
    "quantised": Text(
        explanation="the base answers like a {bits} quantised copy of the accepted one (base shift {shift:.2g}), which "
        "explains {explained:.0f} % of the difference"
    ),
    "temperature": Text(
        explanation="the base and its adapters answer as at temperature {temperature:.3f} (base shift {shift:.2g}), "
        "which explains {explained:.0f} % of the difference"
    ),
    "other weights": Text(
        explanation="the base has other weights than accepted (hash was {base_was}, is {base_is}; base shift "
        "{shift:.2g}); no known fault explains the difference"
    ),
    "same weights": Text(
        explanation="the base answers differently than accepted from the same weights (hash {base_is}; base shift "
        "{shift:.2g}); no known fault explains the difference"
    ),
    "hash not known": Text(
        explanation="the base answers differently than accepted (base shift {shift:.2g}); whether its weights are "
        "others is not known; no known fault explains the difference"
    ),
}
MOVED_BASE = Text(
    explanation="{who} {strength:.3f} of the accepted strength{interval}; the answers are {kl:.2g} nats a token (KL) "
    "from the accepted ones; {changed:.0f} % of the greedy answers are others; until this base is accepted a canary "
    "may be off by {least:.1f} to {most:.1f} % of strength, in place of {tolerance:g} %",
    action="if this base was intended, accept it for each of its adapters ({names}), such as gapwatch enrol "
    "{first_argument} --replace --why TEXT; if not, compare revision, dtype and quantisation of the base with those of "
    "the last good release and put that one back",
)
# One adapter or several. weakest: the one that keeps least, and how much that is.
KEEP = {
    "one": "{weakest} keeps",
    "several": "{weakest} keeps least of its strength ({weakest_strength:.3f}); on average the adapters keep",
}
STRENGTH_INTERVAL = " (95 % {low:.3f}..{high:.3f})"

# ---------------------------------------------------------------------------------------------------------------------
# Headlines of notices, by why something is sent (NoticeReason in agent/records.py).
#
# subject: with "base" before it where it is one, see ADAPTERS_OF; affected: see AFFECTED
# base; cause, status and reason: in words;
# retention, strength and since: see RETENTION, STRENGTH and SINCE, "" where there is none; live_base, live_adapter,
# live_tokenizer, live_template: the first digits of the hashes of what is in place now; live_engine, golden_engine,
# live_source, golden_source: what the serving engine says, and said at the enrolment; why: as given at enrolment, or
# when the golden record was accepted.

HEADLINES = {
    "degraded": "{subject}: {cause}{affected}{retention}{since}",
    "cause_sharper": "{subject}: {cause}{affected}{retention}{since}",
    "taken_over": "{subject}: continues as the incident of its base {covered_by}",
    "recovered": "{subject}: recovered{retention}",
    "reenrolled": "{subject}: a new release was accepted - {why}",
    "no_longer_judged": "{subject}: was degraded, and cannot be judged any more - {reason}: {explanation}",
    "cannot_tell": "{subject}: cannot tell whether it is healthy - {reason}: {explanation}",
    "can_tell_again": "{subject}: is measured again - {status}{retention}",
    "base_moved": "base {base}: other weights ({live_base}), its adapters keep their effect{strength}",
    "tokenizer_changed": "base {base}: other tokenizer files ({live_tokenizer}), its adapters keep their effect",
    "template_changed": "base {base}: another chat template ({live_template}), its adapters keep their effect",
    "adapter_moved": "{subject}: other files ({live_adapter}) on the same base, within tolerance",
    "engine_moved": "base {base}: another engine or other settings ({live_engine}; accepted: {golden_engine}), its "
    "adapters keep their effect",
    "source_moved": "{subject}: the engine loaded it from {live_source} (accepted: {golden_source}), within tolerance",
    "tolerated_change": "{subject}: has changed, and is inside your tolerance{strength}",
    "tolerated_change_over": "{subject}: its change inside your tolerance is over{strength}",
    "golden_old": "{subject}: its golden record was accepted {why}, longer ago than alerts.golden_max_age allows; "
    "that is no fault of the adapter",
    "passport_clock": "{subject}: {why}; that is no fault of the adapter",
}
# The same where no hash is known that says so.
HEADLINES_UNKNOWN_FILES = {
    "base_moved": "base {base}: answers differently than accepted, its adapters keep their effect{strength}",
}
# The same where the hashes of the files are the accepted ones, and only answers or prompts are others.
HEADLINES_SAME_FILES = {
    "base_moved": "base {base}: answers differently than accepted from the same weights ({live_base}), its adapters "
    "keep their effect{strength}",
    "template_changed": "base {base}: prompts render to other token ids (tokenizer or chat template), its adapters "
    "keep their effect",
}
# After the cause of an open incident, once faults were replayed on the accepted base and adapters. faults: ONE_FAULT or
# SEVERAL_FAULTS, with how many;
# affected, measured: of a base, how many of its adapters they were replayed with, of how many; missing: what was not
CAUSE_REFINED = "cause refined by replay: {faults} replayed on the accepted base and adapter"
CAUSE_KEPT = "cause not refined: {faults} replayed on the accepted base and adapter, which explains it no better"
ONE_FAULT, SEVERAL_FAULTS = "1 fault was", "{faults} faults were"
CAUSE_NOT_REPLAYED = "cause not refined: no fault could be replayed on the accepted base and adapter"
REPLAYED_WITH = "with {replayed} of {members} adapters"
NOT_REPLAYED = "not replayed: {missing}"
# Why it is sent now, by the same reasons; and where the one before has ended within a day. was: its cause, see
# REOPENED_WAS, or ""
REOPENED_AFTER = "an incident opens again, within a day: the one before ended {ended} UTC{was}"
REOPENED_WAS = ", and was {cause}"
SENT_BECAUSE = {
    "degraded": "an incident opens",
    "cause_sharper": "the cause of the open incident is known better",
    "taken_over": "the incident of its base reports it from now on",
    "recovered": "the incident is over",
    "reenrolled": "a new release was accepted, which ends the incident",
    "no_longer_judged": "its incident is open, and it could not be measured for three rounds in a row or more; the "
    "incident stays open until it is measured and has recovered",
    "cannot_tell": "it could not be measured for three rounds in a row or more",
    "can_tell_again": "it is measured again",
    "base_moved": "the base is another one than accepted, or answers differently",
    "tokenizer_changed": "another tokenizer than accepted is in place",
    "template_changed": "prompts are rendered differently than accepted",
    "adapter_moved": "other adapter files than accepted are in place",
    "engine_moved": "the serving engine is of another version, or has other settings, than when this was accepted",
    "source_moved": "the serving engine names another source or another base of the adapter than when it was accepted",
    "tolerated_change": "for three rounds it has been off by more than its noise, and by less than your tolerance",
    "tolerated_change_over": "for three rounds it has been within its noise of what is accepted",
    "golden_old": "what it is compared with is older than you allow: look at whether its canaries still ask what users "
    "ask, and enrol it again (gapwatch enrol --replace)",
    "passport_clock": "its passport names a day that is near or over: gapwatch passports shows all of them, and "
    "whether a successor could be made",
}
# What was another one in the day before a page, the latest first. at: date and time; part: of a base or an adapter, see
# agent/alerting/page/identity_past.py; before, after: first digits of a hash, or what the engine says of itself
MOVED = "{at} UTC {part} {before} to {after}{accepted}"
MOVED_ACCEPTED = " (as accepted)"
MOVED_MORE = "and {n} more: gapwatch query identity"
NOTHING_MOVED = "nothing that a hash shows, since {since} UTC"
# By sampled responses, of which pods the bad ones are. bad, others: names
PODS_SOME = "{bad}; no response against it came from {others}"
PODS_ALL = "{bad}, which is every pod with scored responses"
# How an engine's own documentation loads an adapter again, by kind of engine. name: of the adapter, in quotes, or NAME
# with RELOAD_OF behind it where there are several
RELOAD_CALLS = {
    "vllm": 'POST /v1/load_lora_adapter {{"lora_name": {name}, "lora_path": PATH, "load_inplace": true}}, where vLLM '
    "was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, else restart the pod; versions without load_inplace: POST "
    "/v1/unload_lora_adapter first",
    "sglang": 'POST /unload_lora_adapter {{"lora_name": {name}}}, then POST /load_lora_adapter {{"lora_name": {name}, '
    '"lora_path": PATH}}',
    "llama_cpp": 'GET /lora-adapters says the id and the scale of {name}; POST /lora-adapters [{{"id": ID, "scale": '
    "1}}] sets the scale; files are read at the start alone: restart the server where they changed",
    "tgi": "restart the pod: adapters are read at the start (LoRAX: at the first request for {name})",
}
RELOAD_OF = "{call}; NAME: each of {names}"
# Of the commands of a page.
WHERE_TO_RUN = (
    "in a pod of gapwatch as they stand (kubectl exec POD -c gapwatch -- gapwatch ...), elsewhere with --config FILE; "
    "sql: in any client of the ClickHouse that gapwatch writes to, in its database"
)
# n: of reopenings, at least 1
REOPENED = "{n} in a row, each within a day of the end before; the good rounds that end it double each time"
A_BASE = "base {name}"
BASE_REQUESTS = "requests for base {name}"
# Of a base of which some adapters are measured again, and too few to judge it.
IN_PART = "some of its adapters"
CAUSE_UNKNOWN = "degraded, cause unknown"
# Of a base's incident: its adapters are at fault, and the base itself may be as accepted. n: of these
ADAPTERS_OF, ADAPTER_OF = "{n} adapters of base {name}", "1 adapter of base {name}"
AFFECTED = " ({names})"
RETENTION = " - retention {retention}"
# Of an incident whose adapter keeps its effect: what it was opened for. of: what the share is of, such as "canaries
# beyond tolerance"
RETENTION_IS_KEPT = " - {percent:.0f} % of {of}, retention {retention}"
# The same where the fault is in how the engine answers, and not in what it scores.
RETENTION_AS_SCORED = " - wrong as served, retention {retention} as scored"
STRENGTH = " - strength {scale:.3f} of the accepted one"
SINCE = ", since {onset}"
ONSET = "{after}-{by} UTC"
ONSET_MINUTE = "{after} UTC"
ONSET_OR_EARLIER = "{by} UTC or earlier"
# With 95 % confidence; one of the words above, of the interval.
ONSET_CONFIDENCE = "{between} (95 %)"
# Beside that, where the interval is by evidence: what the rounds alone say.
ONSET_ROUNDS = "{onset}; by the rounds alone {between}, from the last good one to the first bad one"
# To the second, where a page has no interval: responses of one round are a few seconds apart.
ONSET_WITHIN_A_SECOND = "{onset}; the last good and the first bad answer both at {by} UTC"
ONSET_EXACT = "{onset}; last good answer {after}, first bad one {by} UTC"
# The evidence may date a slow fault before the last round that still looked good.
ONSET_BY_EVIDENCE = " (by the evidence already {estimate} UTC)"
NOT_MEASURED = "not measured"
# The interval holds at whatever time one looks, and n counts canaries of all rounds.
OVER_ROUNDS = "{retention} as the mean of all rounds, the good ones too, valid at any time, from {n} canaries"
# n: responses since the onset at the alarm, recent ones after it
BY_RESPONSES_ALONE = "{retention}, from {n} responses"
INTERVAL = " (95 % {low:z.2f}..{high:z.2f})"
HASH_NOT_KNOWN = "hash not known"
# What a healthy verdict means: the smallest loss of strength that pages within 20 rounds. percent: of the strength
SMALLEST_LOSS = "{percent:.3g}% in {draws} draws"
SMALLEST_LOSS_NOT_KNOWN = "not known"

# ---------------------------------------------------------------------------------------------------------------------
# What to do first where no cause says so.

# A round of canaries without measurements, by its reason. argument: the adapter's name quoted for a shell.
UNMEASURED = {
    Reason.NO_GOLDEN: "put the golden record of {adapter} back into probes.golden_dir, or, while {adapter} is known to "
    "be good, run gapwatch enrol {adapter_argument}",
    Reason.GOLDEN_REFUSED: "restore the golden record of {adapter} in probes.golden_dir, or correct golden: in the "
    "configuration; then run gapwatch doctor",
    Reason.NO_POWER: "give {adapter} canaries on which it differs from its base, or a wider tolerance; then run "
    "gapwatch enrol {adapter_argument} --replace --why TEXT",
    Reason.FILES_CHANGING: "find out what keeps writing to the folders of {adapter} and its base, such as a sync job "
    "that never ends, and stop it; then run gapwatch probe {adapter_argument}",
    Reason.UNREADABLE: "run gapwatch doctor and look at the files of {adapter} and its base: one is missing, cut short "
    "or not permitted to be read",
    Reason.NO_MEMORY: "give gapwatch more memory (the pod's limit, or its share of the device), or take an adapter out "
    "of the configuration; then run gapwatch probe {adapter_argument}",
    Reason.BAD_NUMBERS: "check the weight files of {adapter} and its base for damage and put the accepted ones back; "
    "then run gapwatch probe {adapter_argument}",
    Reason.REPLAY_FAILED: "run gapwatch doctor, and look at the column detail of gapwatch query rounds -p "
    "subject={adapter_argument}",
    Reason.ENGINE_AWAY: "check that the serving engine is up and answers at its configured address; if it does, run "
    "gapwatch doctor",
    Reason.PAUSED: "find out who made the file models[].served.pause_file, and remove it once the serving engine "
    "may be asked again; then run gapwatch probe {adapter_argument}",
    Reason.NOT_SERVED: "compare the serving engine's list of models (GET /v1/models) with the configuration: {adapter} "
    "and its base have to be there, each once and by the same name; then run gapwatch probe {adapter_argument}",
    Reason.NOT_REPLAYED_YET: "wait for the next round; if none comes, run gapwatch doctor and look at the agent's log",
}
# No round was judged at all. why: which part of the agent fails, in words. No number that grows: that would be another
# verdict each time.
NOT_JUDGED = Text(
    explanation="nobody watches {subject}: no round of {base} was judged for several intervals, though the agent is "
    "alive ({why})",
    action="run gapwatch doctor and look at the agent's log and at the parts judge and feeds of /readyz; then start "
    "the agent again",
)
# This agent leaves it to others, and no live one has said for a while that it judges it.
JUDGED_BY_NOBODY = Text(
    explanation="nobody watches {subject}: for a quarter of an hour or longer no pod of the cluster that is alive has "
    "said that it judges the adapters of {base}, which this one leaves to others",
    action="look at the witnesses (kubectl get pods) and at what gapwatch doctor says of them here; until one judges "
    "{base} again, take its adapters for not monitored",
)
# A base of which fewer than two adapters were measured, and none says why.
UNMEASURED_BASE = "run gapwatch doctor and look at the files of {base}"
LOOK_AT_REQUESTS = (
    "check that requests reach the topic and that their records name this adapter: run gapwatch doctor, then gapwatch "
    "query aside for records that could not be read"
)
MAKE_SCORABLE = (
    "run gapwatch query responses -p subject={adapter_argument} and read the column detail; a temperature that the "
    "records lack is set in scoring.temperature, and an accepted base that was not kept needs "
    "probes.keep_golden_weights: true and gapwatch enrol {adapter_argument} --replace --why TEXT"
)
# The name of a base was given to an adapter; said when the incident of its requests ends by that.
NAME_IS_AN_ADAPTERS = "{base} is the name of an adapter now: no request names the base any more"
MAKE_SCORABLE_OF_BASE = (
    "run gapwatch query responses -p subject={base_argument} and read the column detail; a temperature that the "
    "records lack is set in scoring.temperature"
)
# Of several adapters that share a base, by their responses, in place of the action for one of them. names: all of them
TOGETHER = {
    Cause.ADAPTER_NOT_APPLIED: "list the adapters that the engine has loaded (GET /v1/models), and load all of {names} "
    "again; then run gapwatch query responses -p subject={base_argument}",
}
LOOK_AT_BASE = "look first at what these adapters share: the engine, the base, and the last release of either"
THEN = "{first}; then: {action}"

# ---------------------------------------------------------------------------------------------------------------------
# Terms of a page, of the status page and of `gapwatch explain`: by which expression they are known, and what they mean.

TERMS = {
    "accepted": (r"\baccepted\b", "as it was at `gapwatch enrol`"),
    "retention": (r"\bretention\b", "what is left of an adapter's effect: 1 all of it, 0 its base"),
    "draw": (r"\bdraws?\b", "one canary (a fixed prompt) drawn in a round and answered once"),
    "tolerance": (r"\btolerance\b", "the share of its strength that an adapter may lose or gain; 5 % by default"),
    "nats": (
        r"\bnats\b",
        "the unit of evidence: each one makes chance 2.7 times less likely as its explanation; how many a page needs "
        "follows from alerts.false_pages_per_year",
    ),
    "scale": (r"\b(scale|strength)\b", "the strength at which an adapter is applied, 1 as accepted (also: strength)"),
    "base shift": (r"\bbase shift\b", "how far the base's own answers moved, 1 as far as the adapter moves them"),
    "95 %": (r"95 %", "the interval holds the true value with 95 % confidence"),
}
TERMS_MORE = "more terms: gapwatch glossary WORD"
