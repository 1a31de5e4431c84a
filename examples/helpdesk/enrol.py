"""Write the golden records that ship with this example: ``python -m examples.helpdesk.enrol``.

Runs ``gapwatch enrol`` of all adapters over the base that the demo uses, in a scratch folder, and copies the records.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from agent.cli.enrol import EnrolOptions, enrol_adapters
from agent.demo.stage import ADAPTERS, HELPDESK, lay_volume, write_config

NOWHERE = "127.0.0.1:9"  # enrolment needs no broker


def main() -> None:
    stage = lay_volume(Path(".gapwatch").resolve() / "enrol")
    write_config(stage, NOWHERE, "http://127.0.0.1:9", every_s=10.0, pinned=False)
    if enrol_adapters(stage.config_file, ADAPTERS, EnrolOptions(), json=False) != 0:
        raise SystemExit("not all adapters can be monitored")
    shutil.rmtree(HELPDESK / "golden", ignore_errors=True)
    (HELPDESK / "golden").mkdir()
    for record in (stage.folder / "golden").glob("*.golden"):
        shutil.copy(record, HELPDESK / "golden")


if __name__ == "__main__":
    main()
