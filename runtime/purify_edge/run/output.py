"""What purify-run prints: lines as images are done, or a table and a summary at the end."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from purify_edge.document.wording import plural
from purify_edge.run.ending import ended_by_signals
from purify_edge.run.job import Job
from purify_edge.run.results import FORMATS, Format, Result
from purify_edge.run.runner import Run
from purify_edge.shell.progress import Tracker, images, printable, tracker

TABLE_ROWS = 100
LINES = {"json": FORMATS[".jsonl"], "csv": FORMATS[".csv"]}
"""Option -> how results are printed; without either a table is."""


@dataclass
class Tally:
    """What came of the images."""

    good: int = 0
    errors: int = 0
    changed: int = 0
    suspicious: int = 0
    spared: int = 0
    first: list[Result] = field(default_factory=list)

    def add(self, results: Sequence[Result]) -> None:
        """Count; keep the first good ones for the table."""
        for result in results:
            self.errors += result.error is not None
            if result.error is None:
                self.good += 1
                self.changed += result.class_name != result.unpurified_class
                self.suspicious += bool(result.suspicious)
                self.spared += bool(result.spared)
                if len(self.first) < TABLE_ROWS:
                    self.first.append(result)


def run(job: Job, *, lines: str | None) -> int:
    """Run the job, print its results, and return the command's exit code; `lines` is a key of LINES or None."""
    tally, begin_s = Tally(), time.monotonic()
    with Run(job) as work, ended_by_signals(work) as ending, tracker() as progress:
        form = LINES[lines] if lines else None
        if form:
            _print_lines(form.header)
        progress.expect(work.count)
        left_out = 0
        for results in work.results():
            tally.add(results)
            _print(results, form, progress, alert=job.alert)
            now = work.skipped + work.repeated
            progress.advance(len(results) + now - left_out)
            left_out = now
    if form is None and tally.good:
        _print_table(tally)
    _print_summary(tally, work, time.monotonic() - begin_s)
    if ending.code:
        return ending.code
    if tally.errors and not tally.good and not work.skipped:
        return 2
    return 1 if tally.errors or (job.alert and tally.suspicious) else 0


def _print(results: Sequence[Result], form: Format | None, progress: Tracker, *, alert: bool) -> None:
    if form:
        _print_lines(b"".join(map(form.encode, results)))
    for result in results:
        if result.error is not None and not form:
            progress.print(f"Error: {printable(result.error)}")
        if alert and result.suspicious:
            progress.print(f"ALERT: {printable(result.name)} is suspicious: {result.suspicion:.3g}", style="bold red")


def _print_lines(lines: bytes) -> None:
    sys.stdout.write(lines.decode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def _print_table(tally: Tally) -> None:
    answer = "purified" if tally.first[0].spared is None else "answer"
    table = Table("image", answer, "", "as it came", "", header_style="bold")
    suspicion = any(result.suspicion is not None for result in tally.first)
    if suspicion:
        table.add_column("suspicion")
    for result in tally.first:
        cells = [escape(printable(result.name.rpartition("/")[2])), *_words(result.class_name, result.probability)]
        cells += _words(result.unpurified_class, result.unpurified_probability)
        if suspicion and result.suspicion is not None:
            cells.append(f"{result.suspicion:.3g}{' (!)' if result.suspicious else ''}")
        changed = result.class_name != result.unpurified_class
        table.add_row(*cells, style="red" if result.suspicious else "yellow" if changed else "")
    Console().print(table)
    if tally.good > len(tally.first):
        click.echo(f"and {tally.good - len(tally.first):,} more; --json, --csv or --out lists all")


def _words(name: str | None, probability: float | None) -> tuple[str, str]:
    return escape(name or ""), f"{100 * (probability or 0):.1f}%"


def _print_summary(tally: Tally, work: Run, seconds: float) -> None:
    skipped = work.skipped
    parts = [f"{images(tally.good)} in {seconds:.1f} s", f"purification changed the class of {tally.changed:,}"]
    parts += [f"{tally.spared:,} kept their own answer"] if work.job.spare_clean else []
    parts += [f"{tally.suspicious:,} suspicious"] if tally.suspicious else []
    parts += [f"{tally.errors:,} without an answer"] if tally.errors else []
    parts += [f"{skipped:,} {'was' if skipped == 1 else 'were'} done before"] if skipped else []
    parts += [f"{work.repeated:,} named more than once"] if work.repeated else []
    parts += [f"passed over {work.passed}"] if work.passed else []
    parts += [f"left out {plural(work.dropped, 'frame')} for newer ones"] if work.dropped else []
    if work.job.max_latency_ms is not None:
        parts.append(f"{plural(work.missed, 'frame')} later than {work.job.max_latency_ms:g} ms")
    parts += [f"lost the camera and got it back {plural(work.returns, 'time')}"] if work.returns else []
    click.echo(f"  {'; '.join(parts)}", err=True)
