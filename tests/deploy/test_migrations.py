"""A released migration never changes: databases that applied it would refuse the file permanently."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "clickhouse"
# A change goes into a new file, which is added here.
APPLIED = {
    "001_verdicts.sql": "b80b480e8fc4f31d",
    "002_rounds.sql": "6d5d8794c783e483",
    "003_traffic.sql": "ef0b30db2230fe79",
    "004_kept.sql": "5ddf0b83e51002d4",
    "005_canary_evidence.sql": "1824a76391381dd4",
    "006_traffic_evidence.sql": "ba43148542c5ddbf",
    "007_incident_pods.sql": "141a1b2a4e131925",
    "008_calibrations.sql": "73324079642d6dd2",
    "009_requests_of_a_record.sql": "ce97d8c52d7b4457",
    "010_rounds_again.sql": "a67665548ac923e4",
    "011_identity.sql": "576e8f4551bfd2bf",
    "012_mass_outside.sql": "7908e60e69c4e962",
    "013_ranks_at_the_edges.sql": "757bfe4c2d1d176f",
    "014_weight_grids.sql": "9049b15b3a2855ea",
    "015_tolerated_change.sql": "83bd4dce4f2cd822",
    "016_onset_interval.sql": "49165d9f4b29d5bb",
    "017_fleet_notices.sql": "450abda4924442ce",
    "018_consumer_groups.sql": "8e2f27828554ceeb",
    "019_runs_of_verdicts.sql": "151e7743a1ac0bf4",
    "020_states.sql": "a784a482daecc6d9",
    "021_ownership.sql": "fecaf1d76ed3a267",
    "022_served_modes.sql": "0cb9c1d5e7603f83",
    "023_files_beside_an_engine.sql": "66f5b94a876d29e1",
    "024_incidents_and_prompts.sql": "fb8a316f18e0ef2d",
    "025_watch.sql": "09ccd02a56fe94b7",
    "026_roll_ups.sql": "c1247ed67afc2457",
    "027_views_for_tools.sql": "b7f81649df0883c0",
    "028_urgency.sql": "17e92b9e650e8922",
    "029_tokens_for_a_week.sql": "de67407d7702d7fd",
    "030_urgency_in_logs.sql": "989d38a24edce0ff",
    "031_path_of_base_requests.sql": "07ff55e66237557a",
    "032_passport_clocks.sql": "15c15b68f5050d1c",
    "033_costs_and_worth.sql": "bcaa500054aaaa0f",
    "034_requesters.sql": "55d4af0abde34338",
    "035_pods_of_verdicts.sql": "af23e1db39b12776",
}


def test_applied_migrations_keep_their_wording() -> None:
    found = {file.name: hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() for file in FOLDER.glob("*.sql")}
    assert found == APPLIED
