"""purify-doctor as a whole: verdict, exit code, JSON; it stands whatever is broken."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from helpers.findings import found
from helpers.machines import JETSONS, jetson_root, write
from helpers.processes import has_ended, wait_for
from purify_edge.doctor import examine as module
from purify_edge.doctor.child import Answer
from purify_edge.doctor.cli import main
from purify_edge.doctor.examine import PROBES, examine
from purify_edge.doctor.findings import Diagnosis, EngineVerdict, Finding, Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.system import probe_system
from purify_edge.doctor.table import print_diagnosis

HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "numpy", "msgspec", "PIL")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def printed(engines: list[EngineVerdict], findings: list[Finding], width: int = 200) -> str:
    out = io.StringIO()
    print_diagnosis(Diagnosis(engines=engines, findings=findings), Console(file=out, width=width))
    return out.getvalue()


def test_the_verdict_comes_first_and_the_exit_code_is_0() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert re.match(r"works     engine (onnxruntime|openvino) ", result.stdout)
    assert " on cpu" in result.stdout.splitlines()[0]


def test_engines_that_work_come_before_those_that_do_not() -> None:
    slow = EngineVerdict(name="slow", works=True, device="cpu", version="1")
    out = printed([EngineVerdict(name="fast", works=False, reason="no GPU"), slow], [])
    assert out.startswith("works     engine slow")
    assert "does not  engine fast        no GPU" in out


def test_no_name_of_an_engine_is_broken_into_the_place_of_commands() -> None:
    engine = EngineVerdict(name="onnxruntime-cuda", works=False, reason="no GPU " * 20)
    first, *others = printed([engine], [], width=80).splitlines()
    assert first.startswith("does not  engine onnxruntime-cuda no GPU")
    assert not [line for line in others if re.match(r" {10}\S", line)]


def test_what_to_install_for_an_engine_is_a_command_on_a_line_of_its_own() -> None:
    remedy = "pip install 'purify-edge[openvino]'"
    out = printed([EngineVerdict(name="openvino", works=False, reason="not installed", remedy=remedy)], [], width=40)
    assert f"          {remedy}\n" in out
    assert out.count("pip") == 1
    assert " ".join(out.split()).startswith("does not engine openvino not installed")


@pytest.mark.parametrize(
    ("for_engine", "remedy", "more"),
    [("", "", ""), ("", "sudo nvpmodel -m 0", "; commands to go on with"), ("pip x", "", "; commands to go on with")],
)
def test_commands_are_promised_only_where_there_is_one(for_engine: str, remedy: str, more: str) -> None:
    finding = Finding(area="jetson", name="power", value="15W", status=Status.WARNING, remedy=remedy)
    engine = EngineVerdict(name="fast", works=False, reason="no GPU", remedy=for_engine)
    last = printed([engine], [finding]).splitlines()[-1]
    assert last == "0 problems, 1 warning" + (f"{more} are indented" if more else "")


def test_json_has_the_documented_keys() -> None:
    result = run("--json")
    diagnosis = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(diagnosis) == {"schema_version", "works", "engines", "findings"}
    assert (diagnosis["schema_version"], diagnosis["works"]) == (2, True)
    assert set(diagnosis["engines"][0]) == {"name", "works", "device", "version", "reason", "remedy"}
    for finding in diagnosis["findings"]:
        assert set(finding) == {"area", "name", "status", "value", "reason", "remedy"}
        assert finding["area"] in PROBES
        assert finding["status"] in {"ok", "warning", "problem", "absent"}
    areas = [finding["area"] for finding in diagnosis["findings"]]
    assert sorted(set(areas), key=areas.index) == [area for area in PROBES if area in areas]


def test_where_no_engine_works_the_exit_code_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "openvino"):
        write(tmp_path, f"/{package}/__init__.py", "raise ImportError('libfoo.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    result = run()
    assert result.exit_code == 1
    assert result.stdout.startswith("does not  engine ")
    assert "does not  engine onnxruntime" in result.stdout
    assert "No engine works here." in result.stdout


@pytest.mark.parametrize("package", ["numpy", "msgspec", "PIL"])
def test_a_broken_base_package_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    write(tmp_path, f"/{package}/__init__.py", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.syspath_prepend(tmp_path)
    finding = next(finding for finding in probe_system(Host(tmp_path)) if finding.status is Status.PROBLEM)
    assert finding.value == "cannot be imported"
    assert finding.reason.startswith("it uses instructions that this processor lacks")
    assert finding.remedy.startswith("pip install --force-reinstall")


def start_doctor(packages: Path) -> "subprocess.Popen[str]":
    """Start the command in a process of its own, with a folder of packages before all others."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), *sys.path])}
    program = "from purify_edge.doctor.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True, env=environment)


def test_with_a_broken_numpy_the_command_still_tells(tmp_path: Path) -> None:
    write(tmp_path, "/numpy/__init__.py", "raise ImportError('no')")
    process = start_doctor(tmp_path)
    out, err = process.communicate()
    assert process.returncode == 1
    assert out.startswith("does not  engine all         ImportError: no")
    assert "Traceback" not in err


def test_a_probe_that_fails_is_a_finding_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_: Host) -> Iterator[Finding]:
        yield Finding(area="half", name="first", status=Status.OK, value="seen")
        raise RuntimeError("nobody\nexpected \x1b[31mthis")

    def whole(_: Host) -> Iterator[Finding]:
        yield Finding(area="whole", name="last", status=Status.OK, value="seen")

    monkeypatch.setattr(module, "PROBES", {"half": half, "whole": whole})
    told: list[str] = []
    diagnosis = examine(Host(tmp_path), tell=told.append)
    assert [(finding.area, finding.name) for finding in diagnosis.findings] == [
        ("half", "first"),
        ("half", "probe"),
        ("whole", "last"),
    ]
    assert diagnosis.findings[1].reason.startswith("RuntimeError: nobody expected this; this is a defect")
    assert told == ["half", "whole", "engines"]
    assert diagnosis.works


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "nothing there": lambda _: None,
    "not UTF-8": lambda root: [
        write(root, name, b"\xff\xfe\x00\x80" * 50)
        for name in (
            "/etc/os-release",
            "/etc/nv_tegra_release",
            "/etc/nvpmodel.conf",
            "/proc/device-tree/model",
            "/proc/device-tree/compatible",
            "/proc/driver/nvidia/version",
            "/var/lib/dpkg/status",
        )
    ],
    "folders for files": lambda root: [
        (root / name).mkdir(parents=True)
        for name in ("etc/os-release", "etc/nv_tegra_release", "usr/sbin/nvpmodel", "dev/nvmap")
    ],
    "a file for a folder": lambda root: [write(root, name, "") for name in ("/etc", "/proc", "/sys", "/dev", "/usr")],
    "links in a circle": lambda root: [
        (root / name).symlink_to(root / name) for name in ("etc", "proc", "sys", "usr", "dev", ".dockerenv")
    ],
    "an empty release": lambda root: (
        jetson_root(root, JETSONS["JetPack 6.2.1"]) and write(root, "/etc/nv_tegra_release", "")
    ),
    "a command that is no program": lambda root: write(root, "/usr/sbin/nvpmodel", b"\0\1").chmod(0o755),
    "huge": lambda root: write(root, "/etc/os-release", b"PRETTY_NAME=" + b"x" * 3_000_000),
}


@pytest.fixture(scope="module")
def native_answers() -> dict[tuple[str, ...], Answer]:
    return {}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_machine_is_examined_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakage: str, native_answers: dict[tuple[str, ...], Answer]
) -> None:
    BREAKAGES[breakage](tmp_path)
    monkeypatch.setenv("PATH", "")
    machine = Host(tmp_path)
    machine._answers = native_answers  # native code does not depend on the files that are broken here
    diagnosis = examine(machine)
    assert diagnosis.works
    assert not [finding for finding in diagnosis.findings if finding.name == "probe"]
    assert all(finding.value.isprintable() for finding in diagnosis.findings)
    json.loads(diagnosis.as_json())
    print_diagnosis(diagnosis, Console(file=io.StringIO()))


def test_a_command_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purify_edge.doctor.host.COMMAND_S", 1)
    assert Host(tmp_path).run("sleep", "30") is None


def test_ctrl_c_ends_the_children_too(tmp_path: Path) -> None:
    started = tmp_path / "started"
    source = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(120)"
    write(tmp_path, "/numpy/__init__.py", source)
    process = start_doctor(tmp_path)
    wait_for(lambda: started.exists() and started.read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert err.strip().endswith("interrupted")
    wait_for(lambda: has_ended(int(started.read_text())))


@pytest.mark.parametrize(
    ("config", "packages", "status"),
    [
        ("include-system-site-packages = false\n", "python{version}", Status.WARNING),
        ("include-system-site-packages = true\n", "python{version}", Status.OK),
        ("include-system-site-packages = true\n", "python3", Status.OK),
        ("include-system-site-packages = true\n", "python3.6", Status.WARNING),
        ("", "python{version}", Status.WARNING),
        ("include-system-site-packages = false\n", "", Status.OK),
    ],
)
def test_an_environment_that_hides_apts_tensorrt_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, packages: str, status: Status
) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    if packages:
        (tmp_path / "usr/lib" / packages.format(version=version) / "dist-packages/tensorrt").mkdir(parents=True)
    write(tmp_path, "/venv/pyvenv.cfg", config)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    finding = found(probe_system(Host(tmp_path)))["environment"]
    assert finding.status is status
    assert ("python3.6 -m venv" in finding.remedy) == (packages == "python3.6")
    assert ("--system-site-packages" in finding.remedy) == (status is Status.WARNING)


def test_conda_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert found(probe_system(Host(tmp_path)))["environment"].value == f"conda, {tmp_path}"


@pytest.mark.parametrize(
    ("name", "value", "status", "reason"),
    [
        ("sys.version_info", (3, 9, 1), Status.WARNING, "purify-edge is tested with 3.10 to"),
        ("sys.version_info", (3, 99, 0), Status.WARNING, "purify-edge is tested with 3.10 to"),
        ("sys.maxsize", 2**31 - 1, Status.PROBLEM, "32 bits"),
        ("platform.libc_ver", lambda: ("", ""), Status.WARNING, "no glibc, as on Alpine"),
    ],
)
def test_a_python_that_engines_have_no_packages_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, status: Status, reason: str
) -> None:
    if name == "platform.libc_ver" and sys.platform != "linux":
        pytest.skip("Alpine is a Linux")
    monkeypatch.setattr(name, value)
    finding = found(probe_system(Host(tmp_path)))["Python"]
    assert finding.status is status
    assert finding.reason.startswith(reason)


@pytest.mark.parametrize(("prefix", "hidden"), [("/usr", False), ("/opt/python", True)])
def test_only_the_systems_own_python_sees_apts_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, hidden: bool
) -> None:
    (tmp_path / "usr/lib/python3/dist-packages/tensorrt").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "base_prefix", prefix)
    finding = found(probe_system(Host(tmp_path)))["environment"]
    assert finding.value == f"none, {prefix}"
    assert (finding.status is Status.WARNING) == hidden


def test_an_environment_without_its_configuration_is_virtual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "gone"))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert found(probe_system(Host(tmp_path)))["environment"].value == f"virtual, {tmp_path / 'gone'}"


def test_commands_are_not_wrapped_and_markup_is_not_obeyed() -> None:
    remedy = "pip install 'purify-edge[cpu]' " + "x" * 100
    finding = Finding("gpu", "[red]a[/red]", "[bold]", Status.PROBLEM, "[/nonsense]", remedy)
    out = printed([EngineVerdict(name="onnxruntime", works=False, reason="needs [cpu]")], [finding], width=80)
    assert f"          {remedy}\n" in out
    for text in ("[red]a[/red]", "[bold]: [/nonsense]", "needs [cpu]", "1 problem, 0 warnings"):
        assert text in out


def test_examining_loads_nothing_heavy_into_this_process_and_needs_no_folder(tmp_path: Path) -> None:
    program = (
        "import json, os, sys\n"
        "os.rmdir(os.getcwd())\n"
        "from purify_edge.doctor.examine import examine\n"
        "from purify_edge.doctor.host import Host\n"
        "assert examine(Host()).works\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, cwd=gone, env=environment)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & set(HEAVY)
