"""Names of OpenTelemetry that leave this process, pinned: its GenAI conventions are in development and change.

Source: open-telemetry/semantic-conventions-genai v0.1.0, the event ``gen_ai.evaluation.result``. Names that begin with
``gapwatch.`` are ours. The view ``verdicts_and_notices_as_logs`` of the store has the same names.
"""

from __future__ import annotations

EVALUATION = "gen_ai.evaluation.result"
EVALUATION_NAME = "gen_ai.evaluation.name"
SCORE_VALUE = "gen_ai.evaluation.score.value"
SCORE_LABEL = "gen_ai.evaluation.score.label"
EXPLANATION = "gen_ai.evaluation.explanation"
EVALUATION_NAMES = {EVALUATION, EVALUATION_NAME, SCORE_VALUE, SCORE_LABEL, EXPLANATION}

# What a verdict evaluates: the value of EVALUATION_NAME.
RETENTION = "gapwatch.retention"
NOTICE = "gapwatch.notice"
ROUND = "gapwatch.round"
