"""Nothing that we start tells anyone anything, writes into a home, or ends for a library that fails in its own way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPY = """
import sys
def spy(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        address = arguments[0] if event.startswith("socket.get") else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        if host not in ("127.0.0.1", "::1", "localhost", None):
            with open({log!r}, "a") as file:
                print(event, address, file=file)
sys.addaudithook(spy)
"""
BIN = Path(sys.executable).parent
COMMANDS = {
    "purify-run": ["{bundle}", "{image}", "--json"],
    "purify-check": ["{bundle}", "--rounds", "0"],
    "purify-bench": ["{bundle}", "--rounds", "1"],
    "purify-doctor": [],
}
ENGINES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "auto": "openvino"}


def cases() -> list[tuple[str, str]]:
    return [
        (command, engine) for command in COMMANDS for engine in (ENGINES if command != "purify-doctor" else ["auto"])
    ]


@pytest.mark.parametrize(("command", "engine"), cases())
def test_nobody_is_told_anything_and_home_stays_empty(
    few_images: Path, image: Path, tmp_path: Path, command: str, engine: str
) -> None:
    pytest.importorskip(ENGINES[engine])
    log, home, spy = tmp_path / "connections", tmp_path / "home", tmp_path / "spy"
    home.mkdir()
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY.format(log=str(log)))
    arguments = [part.format(bundle=few_images, image=image) for part in COMMANDS[command]]
    if command != "purify-doctor":
        arguments += ["--engine", engine]
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = kept | {"HOME": str(home), "PYTHONPATH": f"{spy}:{kept.get('PYTHONPATH', '')}"}
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [BIN / command, *arguments], capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert done.returncode in (0, 1), done.stderr
    assert not log.exists(), log.read_text()
    written = [str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()]
    assert all(name.startswith(".cache/purify-edge/") for name in written)  # which precision was checked here
    assert not written or engine == "auto"


def test_the_spy_sees_what_a_library_tells(tmp_path: Path) -> None:
    log = tmp_path / "connections"
    (tmp_path / "sitecustomize.py").write_text(SPY.format(log=str(log)))
    program = "import socket\ntry: socket.getaddrinfo('example.invalid', 443)\nexcept OSError: pass"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert "example.invalid" in log.read_text()


@pytest.mark.parametrize("library", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("failure", ["RuntimeError('no home')", "OSError('libgone.so')", "SystemError('x')"])
def test_a_library_whose_import_fails_in_its_own_way_is_left_out_and_named_where_it_was_asked_for(
    few_images: Path, image: Path, tmp_path: Path, library: str, failure: str
) -> None:
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[library]
    pytest.importorskip(other)
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(f"raise {failure}")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}

    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [BIN / "purify-run", few_images, image, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)

    done = run()
    assert done.returncode == 0, done.stderr
    assert f"not {library}: {library} is installed, and its import fails here" in done.stderr
    named = run("--engine", library)
    assert named.returncode == 3
    assert f"{library} is installed, and its import fails here" in named.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("L", (28, 28), 90).save(tmp_path / "image.png")
    return tmp_path / "image.png"
