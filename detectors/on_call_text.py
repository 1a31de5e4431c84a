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
