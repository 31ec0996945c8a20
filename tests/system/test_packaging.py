"""What is shipped: the wheel's contents, and a README whose every command is real."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from pkgutil import resolve_name

import click
import pytest

from helpers.project import PROJECT, REPOSITORY
from purify_edge.bundle.shipped import archive_of
from purify_toolkit.runs.pretrained import FOLDER

COMMANDS: dict[str, click.Command] = {name: resolve_name(where) for name, where in PROJECT["scripts"].items()}
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def wheel_of(project: Path, out: Path) -> Path:
    """The wheel that pip builds of a project of this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(project)]
    subprocess.run(command, check=True, timeout=300)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """The names in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module_and_the_bundles(names: list[str]) -> None:
    for root in ("toolkit/purify_toolkit", "export/purify_export", "runtime/purify_edge"):
        package = REPOSITORY / root
        for source in [*package.rglob("*.py"), *package.rglob("*.css"), package / "py.typed"]:
            assert str(source.relative_to(package.parent)) in names
    for template in ("purify.cpp", "CMakeLists.txt", "config_infer_purify.txt", "trtexec.sh"):
        assert f"purify_export/integrations/{template}" in names
    bundles = REPOSITORY / "runtime/purify_edge/bundles"
    for file in bundles.rglob("*"):
        if file.is_file():
            assert str(Path("purify_edge/bundles") / file.relative_to(bundles)) in names
    assert "purify_edge/bundles/fashion-mnist/models/defended.fp32.onnx" in names
    assert "purify_toolkit/recipes/fashion-mnist.toml" in names
    assert [name for name in names if name.endswith("bundles/NOTICE") and ".dist-info/licenses/" in name]


def test_the_wheel_is_small_and_holds_nothing_else(wheel: Path, names: list[str]) -> None:
    assert wheel.stat().st_size <= 9_000_000
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "purify_toolkit",
        "purify_export",
        "purify_edge",
    }
    assert not [name for name in names if "__pycache__" in name]
    data = [name for name in names if not name.endswith(".py")]
    assert not [name for name in data if "teacher" in name or "checkpoint" in name]
    assert not [name for name in names if name.endswith((".safetensors", ".pt", ".pth", ".engine"))]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_pairs_are_a_distribution_of_their_own(tmp_path: Path) -> None:
    wheel = wheel_of(REPOSITORY / "toolkit" / "pairs", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for file in FOLDER.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert str(Path("purify_pairs") / file.relative_to(FOLDER)) in names
    notices = len(list(FOLDER.glob("*/NOTICE")))
    assert notices >= 4
    assert len([name for name in names if name.endswith("/NOTICE") and "/licenses/" in name]) == notices
    assert "purify-edge-pairs" in PROJECT["optional-dependencies"]["train"]


def test_the_packed_bundle_is_a_distribution_of_its_own_and_small(tmp_path: Path) -> None:
    wheel = wheel_of(REPOSITORY / "runtime" / "photos", tmp_path)
    assert wheel.stat().st_size <= 15 * 2**20
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("purify_photos/bundle.tar.xz") == archive_of("photos").read_bytes()
    assert [name for name in names if name.endswith("licenses/purify_photos/NOTICE")]
    assert PROJECT["optional-dependencies"]["photos"] == ["purify-edge-photos"]


def test_the_installed_commands_are_those_of_the_project() -> None:
    for name in COMMANDS:
        done = subprocess.run(
            [Path(sys.executable).parent / name, "--version"], capture_output=True, text=True, check=True, timeout=300
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
        unknown = {word.partition("=")[0] for word in arguments if word.startswith("-") and word != "-"} - known
        assert not unknown, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_and_extra_in_the_documents_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
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
