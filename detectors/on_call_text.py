"""The sentences that a person on call reads: what was seen, and what to do. Templates and nothing else."""

from __future__ import annotations

# Canaries and sampled responses of one adapter, side by side.
QUIET_CANARIES = (
    "its canaries are quiet: what lies there is as accepted, what is served is not, so look at the serving path"
)
QUIET_TRAFFIC = (
    "sampled responses still read as the accepted adapter's: the engine may hold the former files until it restarts"
)
BOTH = "sampled responses agree: what is served has changed too"

# One round of a subject, in words: filled in by detectors/verdicts/ and detectors/traffic/.
DRAWS_BEYOND = "{percent:.0f} % of the draws are beyond tolerance"
BAD_NUMBERS = "NaN or infinite log-probabilities on {n} canaries, first {canary}"
RESPONSES_SCORED = "{scored} responses scored ({tokens} tokens), {against} against what was accepted"
RESPONSES_ALSO_UNSCORED = "{scored_in_words}, {unscored} not scored: {why}"
NO_RESPONSES = "no response was sampled since the last round"
NONE_SCORED = "{unscored} responses were sampled, none could be scored: {why}"
AT_FAULT = "at fault by their responses: {adapters}"
NONE_AT_FAULT = "no adapter is at fault by its responses"
BASE_RESPONSES = "responses of {bad} of {scored} adapters of {base} no longer read as accepted ({causes})"
EVIDENCE_GROWING = "evidence growing"
NONE_SINCE_RESTART = "no response was scored since the restart"
PROMPTS_MOVED = "prompts have moved since they were first seen ({nats:.1f} nats): information"
EMBEDDINGS_ALONE = "embeddings alone: outputs {outputs:.1f} nats, prompts {prompts:.1f} nats from their past"
OUTPUTS_MOVED = "outputs have moved ({outputs:.1f} nats), {prompts}"
PROMPTS_TOO, PROMPTS_NOT = "so have prompts", "prompts have not"
TOKENS_DRAWN = "tokens are drawn {how}"
DRAWN_AT = "as at {parameter} {mean:.2f} ({low}..{high}), requests asked for {requested}"
DRAWN_BY_ANOTHER = "by another sampler ({sampler}), requests asked for {requested}"
# What to do first where no cause says so.
LOOK_AT_FILES = "run gapwatch doctor and look at the files of {subject}"
LOOK_AT_REQUESTS = "check that requests arrive and that their records name this adapter: run gapwatch doctor"
MAKE_SCORABLE = "enrol with keep_golden_weights, and let the records name the sampler, or configure its defaults"
LOOK_AT_BASE = "look first at what they share, the engine and the base, and at its last release"
THEN = "{first}; then: {action}"
