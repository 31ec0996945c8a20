"""How a command ends that refuses what it is given."""

from click.testing import Result


def refusal(code: int, out: str, err: str) -> str:
    """The one line, on standard error, of a command that did not begin; nothing is printed."""
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert "Warning" not in err
    (line,) = (line for line in err.splitlines() if line.startswith("Error: "))
    return line


def refused(done: Result) -> str:
    """The same of a command that was invoked in this process."""
    return refusal(done.exit_code, done.stdout, done.stderr)
