import shutil
import subprocess
import sys
from pathlib import Path

from purify_toolkit.device import provenance


def test_what_is_recorded() -> None:
    found = provenance.provenance()
    assert set(found) == {"versions", "python", "machine", "commit", "created"}
    assert found["versions"]["torch"]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_seen_from(package: Path) -> str:
    program = "import provenance; print(provenance.git_commit())"
    done = subprocess.run([sys.executable, "-c", program], cwd=package, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_the_code_runs_from(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(provenance.__file__, package)
    git(tmp_path, "init", "-q")
    assert commit_seen_from(package) == "None"  # nothing is committed
    git(tmp_path, "add", "package/provenance.py")
    git(tmp_path, "commit", "-qm", "x")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_seen_from(package) == head
    with (package / "provenance.py").open("a") as file:
        file.write("\n")
    assert commit_seen_from(package) == f"{head}-dirty"
    git(tmp_path, "rm", "-q", "--cached", "package/provenance.py")
    git(tmp_path, "commit", "-qm", "y")
    assert commit_seen_from(package) == "None"  # an installed copy in somebody else's checkout
