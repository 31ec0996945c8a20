"""Fixtures of all rooms; nothing here imports torch unless a test that needs it asks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the shipped pair, fp32 and fp16: the one `$PURIFY_TEST_BUNDLE` names, else exported here."""
    given = os.environ.get("PURIFY_TEST_BUNDLE")
    if given:
        return REPOSITORY / given
    from purify_export.export import export_run
    from purify_toolkit.pretrained import open_run

    out = tmp_path_factory.mktemp("bundles") / "fashion-mnist"
    _, report = export_run(open_run(None), out, precisions=("fp32", "fp16"), force=False, tell=print)
    assert report.passed
    return out


@pytest.fixture
def bundle_copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A bundle that the test may damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def commands() -> Path:
    """The folder of the installed console scripts."""
    return Path(sys.executable).parent


@pytest.fixture
def start(commands: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command of ours; killed at the end of the test if it still runs."""
    running: list[subprocess.Popen[str]] = []

    def start_command(name: str, *arguments: object, **options: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(commands / name), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            **options,  # type: ignore[call-overload]
        )
        running.append(process)
        return process

    yield start_command
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run(start: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., tuple[int, str, str]]:
    """Run a command of ours to its end: exit code, standard output, standard error."""

    def run_command(name: str, *arguments: object, **options: object) -> tuple[int, str, str]:
        process = start(name, *arguments, **options)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return run_command
