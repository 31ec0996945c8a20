"""Native code that crashes, hangs, lies and prints: findings, never the doctor's end."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.packages import SEGFAULT, host, install
from helpers.processes import has_ended, wait_for
from purify_edge.doctor.child import call_native
from purify_edge.doctor.native import INPUT, OUTPUT, PROBE_GRAPH, RIGHT_ANSWER
from purify_edge.engines.registry import open_engine


def test_a_module_that_is_fine(package: Path) -> None:
    install(package, "fine", "__version__ = '1.2'\nprint('purify-doctor:nonsense'[:5])")
    outcome = call_native("module", "fine", limit_s=60)
    assert outcome.failure == ""
    assert outcome.result == {"version": "1.2", "file": str(package / "fine" / "__init__.py")}


def test_what_a_library_prints_and_how_it_ends_does_not_matter_once_there_is_an_answer(package: Path) -> None:
    source = (
        "import atexit, os, signal\n"
        "__version__ = '3'\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGSEGV))\n"
        "for line in ('purify-doctor:', 'purify-doctor:[]', 'purify-doctor:{}', '\\x00\\xff'):\n"
        "    atexit.register(print, line)\n"
    )
    install(package, "noisy", source)
    outcome = call_native("module", "noisy", limit_s=60)
    assert (outcome.failure, outcome.result["version"]) == ("", "3")


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        (SEGFAULT, "the process was killed by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "the process was killed by SIGILL"),
        ("import os; os.kill(os.getpid(), 40)", "the process was killed by signal 40"),
        ("raise ValueError('no\\n\\x1b[31mway')", "ValueError: no way"),
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
        (
            "import os, sys; print('a reason', file=sys.stderr); sys.stderr.flush(); os._exit(7)",
            "ended with 7 and no answer: a reason",
        ),
        ("import os; os.write(2, b'\\xff\\xfe\\n'); os._exit(1)", "ended with 1 and no answer"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_however_an_import_ends_there_is_one_line(package: Path, source: str, failure: str) -> None:
    install(package, "broken", source)
    outcome = call_native("module", "broken", limit_s=60)
    assert failure in outcome.failure
    assert outcome.failure.isprintable()
    assert outcome.result == {}


def test_a_hang_is_ended_with_all_its_children_though_they_ignore_signals(package: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    source = (
        "import pathlib, signal, subprocess, time\n"
        f"signal.signal({int(signal.SIGTERM)}, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    install(package, "hangs", source)
    for limit_s in (2, 20, 60):  # a busy machine may need more than the first to begin
        assert call_native("module", "hangs", limit_s=limit_s).failure == f"no answer within {limit_s} s"
        if started.exists() and started.read_text():
            break
    wait_for(lambda: has_ended(int(started.read_text())))


@pytest.mark.parametrize("executable", ["", None, "/nonexistent/python"])
def test_without_an_interpreter_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert call_native("module", "json", limit_s=60).failure.startswith("cannot start")


def test_the_child_finds_no_modules_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "planted", "")
    monkeypatch.chdir(tmp_path)
    assert "ModuleNotFoundError" in call_native("module", "planted", limit_s=60).failure


def test_a_folder_that_lost_its_files_is_no_module(package: Path) -> None:
    (package / "hollow").mkdir()
    assert "hollow is an empty folder, not a package" in call_native("module", "hollow", limit_s=60).failure


# The graph


def test_the_probe_graph_gives_the_right_answer() -> None:
    with open_engine("onnxruntime", PROBE_GRAPH, source="probe") as engine:
        output = engine.run(np.ones((3, 1, 8, 8), np.float32))
    assert np.array_equal(output, np.broadcast_to(np.asarray(RIGHT_ANSWER, np.float32), (3, 1, 8, 8)))


def test_the_probe_graph_is_what_its_comment_says() -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    shape = ["batch", 1, 8, 8]
    nodes = [
        make.make_node("Conv", [INPUT, "weights"], ["sums"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make.make_node("Relu", ["sums"], [OUTPUT]),
    ]
    ends = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in (INPUT, OUTPUT)]
    weights = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "weights")
    graph = make.make_graph(nodes, "probe", ends[:1], ends[1:], [weights])
    opset = [make.make_opsetid("", 17)]
    model = make.make_model(graph, opset_imports=opset, ir_version=8, producer_name="purify-edge")
    assert model == onnx.load_from_string(PROBE_GRAPH)
    onnx.checker.check_model(model, full_check=True)


def test_the_answer_of_a_call_is_kept(package: Path, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    install(package, "counts", f"import pathlib; p = pathlib.Path({str(counter)!r}); p.open('a').write('x')")
    machine = host(tmp_path)
    assert machine.native("module", "counts") is machine.native("module", "counts")
    assert counter.read_text() == "x"
