"""The image for CPUs, built and run by a real Docker or Podman, as its own user with a read-only root.

Run by make containers; PURIFY_TEST_CONTAINERS is `docker` or `podman`. Where no registry can be reached, the base is
made with debootstrap.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.project import REPOSITORY
from purify_edge.bundle.shipped import FOLDER as BUNDLES

TOOL = os.environ.get("PURIFY_TEST_CONTAINERS", "")
pytestmark = pytest.mark.skipif(not TOOL, reason="PURIFY_TEST_CONTAINERS names neither docker nor podman")

IMAGE, VOLUME = "localhost/purify-edge:cpu", "purify-edge-test-cache"
PICTURES = REPOSITORY / "toolkit/pairs/purify_pairs/fashion-mnist/images"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LIMIT_S = 1800
ENVIRONMENT = {"BUILDAH_FORMAT": "docker"}  # Podman's own format has no health checks
Run = Callable[..., subprocess.CompletedProcess[str]]


def tool(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [TOOL, *arguments]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base that the Dockerfile names, or one like it from Debian's mirror; it trusts whom this machine trusts."""
    named = next(line for line in (REPOSITORY / "docker/Dockerfile.cpu").read_text().splitlines() if "BASE=" in line)
    image = named.partition("BASE=")[2]
    if tool("pull", "--quiet", f"docker.io/library/{image}", check=False).returncode == 0:
        return f"docker.io/library/{image}"
    if not shutil.which("debootstrap") or os.geteuid():
        pytest.skip(f"{image} cannot be pulled, and debootstrap, which makes its like, is not here or not root's")
    root = tmp_path_factory.mktemp("base") / "trixie"
    subprocess.run(["debootstrap", "--variant=minbase", "trixie", root], check=True, timeout=LIMIT_S)
    if CERTIFICATES.exists():
        trusted = root / "usr/local/share/ca-certificates"
        trusted.mkdir(parents=True, exist_ok=True)
        shutil.copy(CERTIFICATES, trusted / "of-the-host.crt")
    with tarfile.open(archive := root.with_suffix(".tar"), "w") as tar:
        tar.add(root, arcname=".")
    shutil.rmtree(root)
    tool("import", str(archive), "localhost/purify-edge-base:trixie")
    return "localhost/purify-edge-base:trixie"


@pytest.fixture(scope="module")
def image(base: str) -> str:
    tool("build", "--build-arg", f"BASE={base}", "--file", "docker/Dockerfile.cpu", "--tag", IMAGE, ".")
    sizes = [int(tool("image", "inspect", "--format", "{{.Size}}", name).stdout) for name in (base, IMAGE)]
    print(f"\n{IMAGE}: {sizes[1] / 1e6:.0f} MB, {(sizes[1] - sizes[0]) / 1e6:.0f} beyond {base}")
    return IMAGE


@pytest.fixture(scope="module")
def run(image: str) -> Iterator[Run]:
    """Run a command of the image, with the options that the documents name."""

    def in_container(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        mounts = {BUNDLES / "fashion-mnist": "/bundle:ro", VOLUME: "/cache", PICTURES: "/pictures:ro"}
        options = ["--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--no-healthcheck"]
        options += [word for source, where in mounts.items() for word in ("--volume", f"{source}:{where}")]
        return tool("run", *options, "--entrypoint", program, image, *arguments, check=False)

    yield in_container
    tool("volume", "rm", VOLUME, check=False)


def test_it_runs_as_nobody_in_particular_and_writes_to_its_volume_alone(run: Run) -> None:
    done = run(
        "sh", "-c", "id -u; for folder in / /bundle /opt/purify /cache; do touch $folder/x && echo $folder; done"
    )
    assert done.stdout.split() == ["10001", "/cache"]


def test_its_health_check_passes(run: Run, image: str) -> None:
    shown = json.loads(tool("image", "inspect", image).stdout)[0]
    test = (shown.get("Healthcheck") or shown["Config"]["Healthcheck"])["Test"]  # Podman's place, and Docker's
    assert test[0] == "CMD"
    done = run(*test[1:])
    assert done.returncode == 0, done.stderr
    assert "parity passed" in done.stdout


def test_it_answers_as_this_machine_does(run: Run) -> None:
    def labels(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
        assert done.returncode == 0, done.stderr
        rows = map(json.loads, done.stdout.splitlines())
        return {Path(row["file"]).name: row["label"] for row in rows}

    here = [sys.executable, "-c", "from purify_edge.run.cli import main; main()", "fashion-mnist", PICTURES, "--json"]
    expected = labels(subprocess.run(here, capture_output=True, text=True, check=False, timeout=LIMIT_S))
    assert labels(run("purify-run", "/bundle", "/pictures", "--json")) == expected
    assert len(expected) == len(list(PICTURES.glob("*.png")))


def test_it_has_no_way_to_install_and_nothing_to_train_with(run: Run) -> None:
    code = "from importlib.util import find_spec as f; print([m for m in ('pip', 'torch', 'onnx') if f(m)])"
    assert run("python3", "-c", code).stdout.strip() == "[]"


def test_the_doctor_works_there(run: Run) -> None:
    done = run("purify-doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in {engine["name"] for engine in json.loads(done.stdout)["engines"] if engine["works"]}
