"""Fixtures of all rooms; nothing here imports torch unless a test that needs it asks."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import FOLDER

if TYPE_CHECKING:
    from helpers.hub_server import Hub
    from purify_export.networks import Networks
    from purify_toolkit.runs.folder import RunFolder

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _logged_for_caplog() -> Iterator[None]:
    """Let each test find the logger as it is before any command: a command takes its lines to standard error."""
    yield
    logger = logging.getLogger("purify_edge")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that ships, fp32 and fp16, in a folder of the tests; or the one that `$PURIFY_TEST_BUNDLE` names."""
    given = os.environ.get("PURIFY_TEST_BUNDLE")
    if given:
        return REPOSITORY / given
    return Path(shutil.copytree(FOLDER / "fashion-mnist", tmp_path_factory.mktemp("bundles") / "fashion-mnist"))


@pytest.fixture(scope="session")
def shipped() -> "RunFolder":
    """The pair that ships; not to be changed."""
    from purify_toolkit.runs.pretrained import open_run

    return open_run(None)


@pytest.fixture(scope="session")
def networks(shipped: "RunFolder") -> "Networks":
    """The shipped pair's networks; not to be changed."""
    from purify_export.networks import Networks

    return Networks.load(shipped)


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST in small."""
    from helpers.small_data import write_idx

    folder = tmp_path_factory.mktemp("idx")
    write_idx(folder)
    return folder


@contextmanager
def _accepted(folder: Path) -> Iterator[Path]:
    """A folder that the loader takes for Fashion-MNIST meanwhile."""
    from helpers.small_data import accept
    from purify_toolkit.data import idx

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(idx.SHA256, "FashionMNIST", accept(folder))
        yield folder


@pytest.fixture
def small_data(idx_folder: Path) -> Iterator[Path]:
    """Fashion-MNIST in small, which the loader accepts during a test."""
    with _accepted(idx_folder) as folder:
        yield folder


@pytest.fixture(scope="module")
def accepted(idx_folder: Path) -> Iterator[Path]:
    """Fashion-MNIST in small, which the loader accepts during a module."""
    with _accepted(idx_folder) as folder:
        yield folder


@pytest.fixture(scope="session")
def trained(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "RunFolder":
    """A whole small training, seed 0; not to be changed."""
    from helpers.silent import Silent, request_for
    from purify_toolkit.runs.folder import RunFolder
    from purify_toolkit.train.train import train

    out = tmp_path_factory.mktemp("runs") / "small"
    with _accepted(idx_folder) as folder:
        train(request_for(out, folder), Silent())
    return RunFolder(out)


@pytest.fixture(scope="session")
def few_images(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with 24 golden images a split, which is checked ten times faster; not to be changed."""
    from helpers.bundles import keep_few

    copy = Path(shutil.copytree(bundle_path, tmp_path_factory.mktemp("few") / "bundle"))
    keep_few(copy, 24)
    return copy


@pytest.fixture(scope="session")
def adversarial(bundle_path: Path) -> GoldenSplit:
    """The bundle's attacked golden images; not to be changed."""
    return load_golden(Bundle.open(bundle_path))["adversarial"]


@pytest.fixture
def bundle_copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A bundle that the test may damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Hub]":
    """A Hugging Face hub on this machine, the only one that there is meanwhile, and an empty cache."""
    pytest.importorskip("huggingface_hub")
    from helpers.hub_server import serving, use

    with serving() as server:
        use(server, tmp_path / "hugging-face", monkeypatch)
        yield server


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command of ours; killed at the end of the test if it still runs."""
    running: list[subprocess.Popen[str]] = []

    def start_command(name: str, *arguments: object, **options: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / name), *map(str, arguments)],
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


@pytest.fixture(scope="session", autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that tests build is remembered in the home of whoever runs them."""
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        os.environ[variable] = str(tmp_path_factory.mktemp(variable))


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State and cache of a user who has built nothing yet."""
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "user" / variable))
    return tmp_path / "user"


@pytest.fixture
def imitate(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> Iterator[Callable[..., Any]]:
    """Put an imitated GPU and library in place; its world. No rule of CUDA or TensorRT may be broken on it."""
    real = pytest.importorskip("tensorrt_rtx")
    from helpers.fake_cuda import FakeCuda
    from helpers.fake_tensorrt import fake_tensorrt

    worlds: list[Any] = []

    def put_in_place(builder: str = "tensorrt_rtx", version: str = real.__version__, **gpu: Any) -> Any:
        cuda = FakeCuda(**gpu)
        module = fake_tensorrt(real, cuda, builder=builder, version=version)
        monkeypatch.setitem(sys.modules, builder, module)
        monkeypatch.setattr("purify_edge.engines.tensorrt.cudart._candidates", lambda: ["libcudart.so"])
        monkeypatch.setattr("purify_edge.engines.tensorrt.cudart._load", lambda name: cuda)
        monkeypatch.setattr("purify_edge.machine.may_have_gpu", lambda: True)
        worlds.append(module.world)
        return module.world

    yield put_in_place
    for world in worlds:
        assert world.cuda.violations == []
