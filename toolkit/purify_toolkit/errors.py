"""The toolkit's errors: each says what was expected, what came and what to do next."""


def reason(error: BaseException) -> str:
    """The first line of a foreign exception, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class PurifyError(Exception):
    """Base of all errors a user can cause or mend; its command ends with `exit_code`."""

    exit_code = 2


class InputError(PurifyError, ValueError):
    """A file, a folder or a value that cannot be used."""


class MissingError(PurifyError, RuntimeError):
    """A dependency, a dataset or a device that this machine lacks."""

    exit_code = 3
