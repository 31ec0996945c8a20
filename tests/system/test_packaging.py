"""What is shipped: the wheel's contents, and a README whose every command is real."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from purify_edge.build.cli import main as purify_build
from purify_edge.check.cli import main as purify_check
from purify_edge.doctor.cli import main as purify_doctor
from purify_edge.run.cli import main as purify_run
from purify_export.cli import main as purify_export
from purify_export.verify.cli import main as purify_verify
from purify_toolkit.evaluate.cli import main as purify_eval
from purify_toolkit.runs.pretrained import FOLDER
from purify_toolkit.train.cli import main as purify_train

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMMANDS: dict[str, click.Command] = {
    "purify-build": purify_build,
    "purify-check": purify_check,
    "purify-doctor": purify_doctor,
    "purify-eval": purify_eval,
    "purify-export": purify_export,
    "purify-run": purify_run,
    "purify-train": purify_train,
    "purify-verify": purify_verify,
}
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in the wheel that pip builds of this checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, timeout=300)
    (path,) = out.glob("*.whl")
    assert path.stat().st_size < 14_000_000  # nearly all of it the weights of the pairs
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module_and_the_pretrained_pair(wheel: list[str]) -> None:
    for root in ("toolkit/purify_toolkit", "export/purify_export", "runtime/purify_edge"):
        package = REPOSITORY / root
        for source in [*package.rglob("*.py"), *package.rglob("*.css"), package / "py.typed"]:
            assert str(source.relative_to(package.parent)) in wheel
    for file in FOLDER.rglob("*"):
        if file.is_file():
            assert str(Path("purify_toolkit") / file.relative_to(FOLDER.parent)) in wheel
    assert "purify_toolkit/recipes/fashion-mnist.toml" in wheel


def test_the_wheel_holds_nothing_else(wheel: list[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {
        "purify_toolkit",
        "purify_export",
        "purify_edge",
    }
    assert not [name for name in wheel if "__pycache__" in name or "checkpoint" in name]
    assert not [name for name in wheel if name.endswith("teacher.safetensors")]
    assert [name for name in wheel if name.endswith("licenses/LICENSE")]


def test_the_installed_commands_are_those_of_the_project() -> None:
    assert set(PROJECT["scripts"]) == set(COMMANDS)
    for name in COMMANDS:
        done = subprocess.run(
            [Path(sys.executable).parent / name, "--version"], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip().endswith(PROJECT["version"])


def shell_lines(document: Path) -> list[str]:
    """The commands in a document's indented or fenced shell blocks, continuation lines joined."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_in_the_documents_exists(document: Path) -> None:
    for line in shell_lines(document):
        name, *arguments = line.split()
        if name not in COMMANDS:
            continue
        known = {
            option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"--help"}
        unknown = {word.partition("=")[0] for word in arguments if word.startswith("-")} - known
        assert not unknown, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_and_extra_in_the_documents_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for line in shell_lines(document):
        if line.startswith("make "):
            asked = {word for word in line.split()[1:] if "=" not in word}
            assert asked <= targets, line
        for extras in re.findall(r"purify-edge\[([a-z,]+)\]", line):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_figure_is_left_to_be_filled_in(document: Path) -> None:
    assert not re.findall(r"@[A-Z_]+@", document.read_text())


def test_the_readme_opens_with_the_two_commands() -> None:
    assert shell_lines(REPOSITORY / "README.md")[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
