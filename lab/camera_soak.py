"""Hours of a camera in one command: frames into `purify-run --raw`, results to a file, and whether anything grows."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import MissingError
from purify_edge.run.results import Result, results_in
from purify_edge.shell.command import Command

RUN = "from purify_edge.run.cli import main; main()"
MAX_GROWTH_MIB = 16
END_S = 1.0  # from SIGTERM to the end
TOLERANCE = 1e-3  # of a frame's probability, round by round; engines of one precision take turns
GIVE_UP_S = 60.0  # without a new line
TENTHS = 10


@dataclass(frozen=True)
class ProcessSample:
    """What a process held at a moment: memory, open files, threads; `lines` is the number of results so far."""

    seconds: float
    lines: int
    resident_mib: float
    handles: int
    threads: int


@dataclass(frozen=True)
class Ended:
    """How the process ended: seconds from SIGTERM to its end and to its last line, exit code, and what it said."""

    seconds: float
    last_line_s: float
    code: int
    said: str


def clip_of(bundle: Bundle) -> NDArray[np.uint8]:
    """Return the frames of a clip, uint8 `[N, H, W, 3]`: golden images, clean and attacked by turns."""
    golden = load_golden(bundle)
    frames = np.stack([golden["clean"].images, golden["adversarial"].images], axis=1)
    frames = frames.reshape(-1, *frames.shape[2:])
    return frames if frames.shape[3] == 3 else frames.repeat(3, axis=3)


def sample_of(process: int, seconds: float, lines: int) -> ProcessSample:
    """Look at a process, as Linux tells it."""
    folder = Path(f"/proc/{process}")
    pages = int((folder / "statm").read_text().split()[1])
    return ProcessSample(
        seconds=round(seconds, 1),
        lines=lines,
        resident_mib=round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        handles=len(list((folder / "fd").iterdir())),
        threads=len(list((folder / "task").iterdir())),
    )


class CameraSoak:
    """A camera that sends a clip again and again to `purify-run`, as fast as that takes it.

    Args:
        bundle: the bundle to run.
        clip: the frames, uint8 `[N, H, W, 3]`.
        out: the file of results to write.
        options: further options of `purify-run`.
    """

    def __init__(self, bundle: Path, clip: NDArray[np.uint8], out: Path, options: Sequence[str] = ()) -> None:
        height, width = clip.shape[1:3]
        self._clip, self._out, self._ended = [frame.tobytes() for frame in clip], out, threading.Event()
        inputs = [str(bundle), "--raw", f"{width}x{height}", "-", "--json", "--out", str(out), *options]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # until it is closed
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUN, *inputs], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log
        )
        self._sender = threading.Thread(target=self._send, daemon=True)
        self.samples: list[ProcessSample] = []

    def _send(self) -> None:
        """Send frames until the process takes none any more."""
        assert self._process.stdin is not None
        try:
            while not self._ended.is_set():
                for frame in self._clip:
                    self._process.stdin.write(frame)
        except (BrokenPipeError, ValueError):  # it has ended, or its input was closed here
            return

    def run(self, frames: int, *, seconds: float, every_s: float) -> Ended:
        """Wait for so many results, or so many seconds, with a sample now and then; then end it by SIGTERM.

        Frames still come while it ends.

        Raises:
            MissingError: it ended by itself, or stands still.
        """
        self._sender.start()
        begin_s = moved_s = time.monotonic()
        counted, lines = _Lines(self._out), 0
        while lines < frames and time.monotonic() - begin_s < seconds:
            time.sleep(every_s)
            before, lines, now_s = lines, counted.count(), time.monotonic()
            moved_s = now_s if lines > before else moved_s
            if self._process.poll() is not None or now_s - moved_s > GIVE_UP_S:
                raise MissingError(f"purify-run ended, or stands still, after {lines:,} results: {self._said()}")
            with suppress(OSError):  # it has ended since, as the next look will tell
                self.samples.append(sample_of(self._process.pid, now_s - begin_s, lines))
        return self._end()

    def _end(self) -> Ended:
        begin_s = time.time()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(GIVE_UP_S)
        seconds, last_line_s = (round(moment - begin_s, 2) for moment in (time.time(), self._out.stat().st_mtime))
        return Ended(seconds, last_line_s, code, self._said())

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def close(self) -> None:
        """End the process, if it still runs, and the frames."""
        self._ended.set()
        self._process.kill()
        self._process.wait()
        self._sender.join()
        self._log.close()


class _Lines:
    """The lines of a file that grows, each read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._lines = path, 0, 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                while part := file.read(1 << 20):
                    self._lines += part.count(b"\n")
                self._at = file.tell()
        return self._lines


def growth(samples: Sequence[ProcessSample]) -> dict[str, float]:
    """Return how much each figure grew from the second tenth of the lines to the last, medians of samples."""
    last = samples[-1].lines
    early = [found for found in samples if last / TENTHS <= found.lines <= 2 * last / TENTHS] or samples[:1]
    late = [found for found in samples if found.lines >= last - last / TENTHS]
    names = ("resident_mib", "handles", "threads")
    return {name: round(_median(late, name) - _median(early, name), 1) for name in names}


def _median(samples: Sequence[ProcessSample], name: str) -> float:
    return float(statistics.median(getattr(sample, name) for sample in samples))


def wrong_in(results: Iterator[Result], clip: int) -> Iterator[str]:
    """Yield what is wrong with the results of a clip of so many frames that was sent again and again."""
    first: list[Result] = []
    count = 0
    for count, result in enumerate(results, start=1):
        if result.frame != count - 1:
            yield f"line {count:,} is of frame {result.frame}"
            return
        if result.error is not None or result.probability is None:
            yield f"frame {result.frame}: {result.error or 'no answer'}"
        elif len(first) < clip:
            first.append(result)
        elif abs(result.probability - (first[(count - 1) % clip].probability or 0)) > TOLERANCE:
            yield f"frame {result.frame} got another answer than in the first round"
    if not count:
        yield "no results"


def problems(samples: Sequence[ProcessSample], ended: Ended, out: Path, clip: int) -> list[str]:
    """Return what went wrong; nothing if all is well."""
    grew, found = growth(samples), []
    for name, limit in (("resident_mib", MAX_GROWTH_MIB), ("handles", 0), ("threads", 0)):
        if grew[name] > limit:
            found.append(f"{name} grew by {grew[name]:g}, limit {limit}")
    if ended.seconds > END_S or ended.code != 128 + signal.SIGTERM:
        found.append(f"SIGTERM ended it after {ended.seconds:.2f} s with code {ended.code}, limit {END_S:g} s")
    counted = re.search(r"([\d,]+) images? in ", ended.said)
    lines = _Lines(out).count()
    if counted is None or int(counted[1].replace(",", "")) != lines or not _ends_whole(out):
        found.append(f"{lines:,} whole lines, but purify-run said: {ended.said}")
    return [*found, *wrong_in(results_in(out), clip)]


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--frames", default=1_000_000, show_default=True, type=click.IntRange(min=1), help="To run, at least.")
@click.option("--seconds", default=7200.0, show_default=True, help="After which it ends in any case.")
@click.option("--every", "every_s", default=5.0, show_default=True, help="Seconds between two looks at the process.")
@click.option("--engine", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Keep the file of results here; it must not exist.")
def main(bundle: Path, frames: int, seconds: float, every_s: float, engine: str, out: Path | None) -> None:
    """Send frames to purify-run and end it by SIGTERM; print as JSON what it held, exit code 1 if anything is wrong."""
    clip = clip_of(Bundle.open(bundle))
    with tempfile.TemporaryDirectory() as folder:
        file = out or Path(folder) / "results.jsonl"
        soak = CameraSoak(bundle, clip, file, ["--engine", engine])
        try:
            ended = soak.run(frames, seconds=seconds, every_s=every_s)
        finally:
            soak.close()
        wrong = problems(soak.samples, ended, file, len(clip))
        lines = _Lines(file).count()
    if lines < frames:
        wrong.append(f"only {lines:,} of {frames:,} frames in {seconds:g} s; give it longer by --seconds")
    last = soak.samples[-1]
    result = {
        "lines": lines,
        "frames_per_s": round(last.lines / last.seconds, 1),
        "growth": growth(soak.samples),
        "sigterm": asdict(ended),
        "samples": [asdict(sample) for sample in _few(soak.samples)],
        "problems": wrong,
    }
    print(msgspec.json.format(json.dumps(result), indent=2))
    sys.exit(1 if wrong else 0)


def _few(samples: Sequence[ProcessSample], most: int = 25) -> list[ProcessSample]:
    step = -(-len(samples) // most)
    return [*samples[:-1][::step], samples[-1]]


if __name__ == "__main__":
    main()
