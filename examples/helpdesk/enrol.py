"""Write the golden records that ship with this example: ``python -m examples.helpdesk.enrol``.

Runs ``gapwatch enrol`` for each adapter over the base that the demo uses, in a scratch folder, and copies the records.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.demo.stage import ADAPTERS, HELPDESK, lay_volume, write_config

NOWHERE = "127.0.0.1:9"  # enrolment needs no broker


def main() -> None:
    stage = lay_volume(Path(".gapwatch").resolve() / "enrol")
    write_config(stage, NOWHERE, "http://127.0.0.1:9", every_s=10.0, pinned=False)
    for name in ADAPTERS:
        if enrol_adapter(stage.config_file, name, EnrolOptions(), json=False) != 0:
            raise SystemExit(f"{name} cannot be monitored")
    shutil.rmtree(HELPDESK / "golden", ignore_errors=True)
    (HELPDESK / "golden").mkdir()
    for record in (stage.folder / "golden").glob("*.golden"):
        shutil.copy(record, HELPDESK / "golden")


if __name__ == "__main__":
    main()
