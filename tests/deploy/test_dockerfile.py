"""The image, as far as it can be known without a container engine: rules of the Dockerfile, and what it puts in."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.deploy.installed import closure, wheel_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy/Dockerfile").read_text()
VARIANTS = ("traffic", "cpu", "cuda")
EXACT_BASE = re.compile(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ROUTING_KEY|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """One instruction, its continuation lines joined. stage: how many FROM lines came before, 0 above the first."""

    stage: int
    verb: str
    rest: str


def steps(text: str) -> list[Step]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Step] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        verb, rest = line.split(maxsplit=1)
        stage = (found[-1].stage if found else 0) + (verb == "FROM")
        found.append(Step(stage, verb, " ".join(rest.split())))
    return found


def of(verb: str, text: str = TEXT, *, last_stage: bool = False) -> list[str]:
    found = steps(text)
    return [s.rest for s in found if s.verb == verb and (not last_stage or s.stage == found[-1].stage)]


def faults(text: str) -> Iterator[str]:
    """What this Dockerfile does that ours must not do, a sentence each."""
    variables = dict(rest.split("=", 1) for rest in of("ARG", text) if "=" in rest)
    stages = [name.split(" AS ")[-1] for name in of("FROM", text)]
    for image in (name.split()[0] for name in of("FROM", text)):
        resolved = re.sub(r"\$\{(\w+)\}", lambda name: variables[name[1]], image)
        if not EXACT_BASE.fullmatch(resolved) and resolved not in stages:
            yield f"base image is not an exact version: {resolved}"
    users = of("USER", text, last_stage=True)
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        yield "the image does not end as a numeric user that is not root"
    yield from (f"ADD may fetch or unpack: {rest}" for rest in of("ADD", text))
    for command in (part.strip() for rest in of("RUN", text) for part in rest.split("&&")):
        if re.search(r"(^|/)pip install", command) and "--constraint constraints.txt" not in command:
            yield f"not held to constraints.txt: {command}"
        if re.search(r"\b(curl|wget|git clone|apt-get)\b", command):
            yield f"fetches something no pin holds: {command}"
    named = [rest for verb in ("ENV", "ARG") for rest in of(verb, text)]
    yield from (f"a secret in the image: {rest}" for rest in named if SECRET.search(rest))


def test_the_dockerfile_keeps_the_rules() -> None:
    assert list(faults(TEXT)) == []


BROKEN = [
    ("a floating base", r"python:3\.11\.\d+-slim-bookworm", "python:3.11-slim", "not an exact version"),
    ("a base of the day", r"^FROM \S+ AS sidecar", "FROM debian:latest AS sidecar", "not an exact version"),
    ("root", r"^USER .*", "USER root", "numeric user"),
    ("a user by name", r"^USER .*", "USER gapwatch", "numeric user"),
    ("root by number", r"^USER .*", "USER 0:0", "numeric user"),
    ("something fetched", r"^EXPOSE .*", "ADD https://example.com/model.tar /models/", "ADD"),
    (
        "an unpinned install by its path",
        r"^EXPOSE .*",
        "RUN true && /opt/bill/bin/pip install evidently",
        "constraints.txt",
    ),
    ("an unpinned install", r"^EXPOSE .*", "RUN true && pip install evidently", "constraints.txt"),
    ("a key that stays in a layer", r"^EXPOSE .*", "ENV PAGERDUTY_ROUTING_KEY=abc", "secret"),
]


@pytest.mark.parametrize(("what", "pattern", "instead", "said"), BROKEN, ids=[case[0] for case in BROKEN])
def test_the_rules_notice(what: str, pattern: str, instead: str, said: str) -> None:
    broken, changed = re.subn(pattern, instead, TEXT, count=1, flags=re.MULTILINE)
    assert changed == 1
    found = list(faults(broken))
    assert found and all(said in fault for fault in found)


def test_it_builds_in_one_stage_and_ships_another() -> None:
    stages = [name.split(" AS ")[1] for name in of("FROM")]
    assert stages == ["packages", *(f"extras-{variant}" for variant in VARIANTS), "build", "sidecar"]
    assert "VARIANT=traffic" in of("ARG")
    assert [rest for rest in of("COPY", last_stage=True) if "--from=build" not in rest] == []
    assert of("RUN", last_stage=True) and not any("pip" in rest for rest in of("RUN", last_stage=True))


def test_it_carries_its_licence_a_bill_of_materials_and_labels() -> None:
    [build] = [rest for rest in of("RUN") if "cyclonedx-py environment" in rest]
    # Of the environment that ships, after what does not ship was taken out of it.
    assert build.index("pip uninstall --yes $NOT_SHIPPED") < build.index("cyclonedx-py environment")
    assert build.endswith("/opt/doc/sbom.cdx.json /opt/gapwatch/venv") and "cp LICENSE /opt/doc/" in build
    assert "--from=build /opt/doc /usr/share/doc/gapwatch" in of("COPY", last_stage=True)
    [labels] = of("LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_cpu_variant_takes_torch_from_the_index_it_is_given_and_from_no_other() -> None:
    [install] = [rest for rest in of("RUN") if "$TORCH_INDEX" in rest]
    assert '--index-url "$TORCH_INDEX" torch' in install and "exit 64" in install


def test_nothing_is_written_in_the_form_that_needs_a_shell() -> None:
    """A shell form would also keep SIGTERM from the process."""
    for verb in ("ENTRYPOINT", "CMD"):
        assert all(rest.startswith("[") for rest in of(verb))
    assert "HEALTHCHECK" not in {step.verb for step in steps(TEXT)}


def test_it_starts_and_stops_as_the_manifest_expects() -> None:
    assert of("ENTRYPOINT") == ['["gapwatch"]']
    assert of("CMD") == ['["run", "--config", "/etc/gapwatch/gapwatch.yaml"]']
    assert of("STOPSIGNAL") == ["SIGTERM"]
    security = pod()["securityContext"]
    assert of("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]


def test_everything_the_environment_points_at_for_writing_is_a_writable_mount() -> None:
    [container] = pod()["initContainers"]
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    folders = {name: value for name, value in environment().items() if re.search(r"HOME$|DIR$", name)}
    assert {"HOME", "HF_HOME", "TMPDIR"} <= folders.keys()
    for name, folder in folders.items():
        assert any(Path(folder).is_relative_to(mount) for mount in writable), name


def test_no_hub_is_asked_at_run_time() -> None:
    assert environment()["HF_HUB_OFFLINE"] == "1"


def pod() -> dict:  # type: ignore[type-arg]
    objects = yaml.safe_load_all((ROOT / "deploy/kubernetes/sidecar.yaml").read_text())
    [deployment] = [item for item in objects if item["kind"] == "Deployment"]
    return dict(deployment["spec"]["template"]["spec"])


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in of("ENV", last_stage=True) for pair in rest.split())


# --- what is installed ------------------------------------------------------------------------------------------------


def installed_with(extra: str) -> set[str]:
    """Names of everything that comes with the project and one extra, "" for none."""
    return closure(f"gapwatch[{extra}]" if extra else "gapwatch", written())


def written() -> list[str]:
    """What pyproject.toml asks for, as the metadata of an installation says it."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = table["optional-dependencies"].items()
    return table["dependencies"] + [f'{text}; extra == "{name}"' for name, texts in extras for text in texts]


def pins() -> dict[str, str]:
    """Package to exact version, in the two files that the installs are held to."""
    files = [path for path in copied() if "constraints" in path]
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("extra", ["", "otlp", "models", "demo", "dev"])
def test_every_package_in_the_image_and_in_the_tests_has_an_exact_version(extra: str) -> None:
    assert installed_with(extra) - pins().keys() == set()


def test_the_traffic_only_image_has_no_model_library_and_no_image_has_the_embedded_engine() -> None:
    extras = [re.findall(r"EXTRAS=(\S+)", rest)[0] for rest in of("ENV") if rest.startswith("EXTRAS=")]
    assert dict(zip(VARIANTS, extras, strict=True)) == {"traffic": "otlp", "cpu": "models,otlp", "cuda": "models,otlp"}
    assert "torch" in installed_with("models")
    assert {"torch", "transformers"}.isdisjoint(installed_with("otlp"))
    assert {"chdb", "chdb-core", "pandas"}.isdisjoint(installed_with("models") | installed_with("otlp"))
    assert "chdb" in installed_with("embedded"), "the check above would pass on a renamed package"


# --- what is copied ---------------------------------------------------------------------------------------------------


def copied() -> list[str]:
    """Paths that come from the repository."""
    return [path for rest in of("COPY") if not rest.startswith("--from") for path in rest.split()[:-1]]


def let_in(path: str) -> bool:
    """Would .dockerignore let this path of the repository into the build? The last pattern that fits decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parents = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
            parts = path.split("/") if "**/" in line else parents
            kept = line.startswith("!") if any(matches(part, pattern) for part in parts) else kept
    return kept


def matches(part: str, pattern: str) -> bool:
    """As a container engine reads it: a star stays within one folder."""
    return part.count("/") == pattern.count("/") and fnmatch.fnmatchcase(part, pattern)


def test_only_what_is_copied_reaches_the_builder() -> None:
    for path in copied():
        assert (ROOT / path).exists() and let_in(path), path
        assert not (ROOT / path).is_dir() or let_in(f"{path}/a_file.sql"), path
    out = (
        ".git/config",
        ".venv/bin/python",
        ".env",
        "tests/conftest.py",
        "deploy/Dockerfile",
        "agent/__pycache__/a.pyc",
    )
    for path in out:
        assert not let_in(path), path


START = """
import sys
class NotInThisImage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not in this image")
blocked = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, NotInThisImage())
sys.argv[0] = "gapwatch"
from agent.__main__ import main
main()
"""


def absent() -> set[str]:
    """Top-level modules installed here that the traffic-only image does not have."""
    present = installed_with("") | {"gapwatch"}
    owners = metadata.packages_distributions()
    others = {m for m, names in owners.items() if present.isdisjoint(canonicalize_name(name) for name in names)}
    # Of our own, an installed checkout must not stand in for what was not copied.
    return others | {
        room for room in ("agent", "probes", "detectors", "examples", "benchmarks") if room not in copied()
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the image holds, and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("image")
    for path in copied():
        source, target = ROOT / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def gapwatch(image: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on what the traffic-only image holds; importing a package that it lacks fails as it would there."""
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(image)}
    command = [sys.executable, "-P", "-c", START, ",".join(absent()), *arguments]
    return subprocess.run(command, cwd=image, env=clean, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_copied_is_enough_to_start(image: Path) -> None:
    done = gapwatch(image, "--help")
    assert done.returncode == 0, done.stderr
    assert "check-config" in done.stdout


def test_what_is_copied_makes_the_wheel_of_the_checkout(image: Path, wheel: Path, tmp_path: Path) -> None:
    (image / "README.md").touch()
    assert held_by(wheel) == held_by(wheel_of(image, tmp_path))


def held_by(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as held:
        return set(held.namelist())


def test_what_is_copied_is_enough_to_refuse_a_configuration(image: Path) -> None:
    (image / "gapwatch.yaml").write_text("kafka: {topik: llm.interactions}\n")
    done = gapwatch(image, "check-config")
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr and "gapwatch.yaml" in done.stdout + done.stderr
