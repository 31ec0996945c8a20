"""purify-run: purify and classify images, videos and cameras."""

import re
from pathlib import Path
from typing import Any

import click

from purify_edge.engines.options import engine_options, policy_from
from purify_edge.shell.command import Command
from purify_edge.shell.options import Number


def _shard(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return index, from 0, and count of `2/3`."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"expected I/N with I from 1 to N, as in 2/3, got {value!r}")
    return int(match[1]) - 1, int(match[2])


def _raw_frames(size: str, inputs: tuple[str, ...]) -> tuple[int, int]:
    """Return the width and height of raw frames on standard input."""
    from purify_edge.images.cameras.raw import frame_size

    if inputs != ("-",):
        raise click.UsageError(f"--raw takes standard input alone: expected the input -, got {' '.join(inputs)}")
    return frame_size(size)


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--engine", default="auto", show_default=True, help="auto, or one by name: see purify-doctor.")
@engine_options
@click.option(
    "--precision", default="auto", show_default=True, help="auto, the fastest that answers as PyTorch does; or a name."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File of results, .jsonl or .csv. The same command continues with the images that are not in it.",
)
@click.option("--save", type=click.Path(path_type=Path), help="Folder for the purified images, as PNG.")
@click.option(
    "--save-grid", type=click.Path(path_type=Path), help="PNG with each image, its purified form and the difference."
)
@click.option("--annotate", type=click.Path(path_type=Path), help="Video with the class of each frame written on it.")
@click.option("--force", is_flag=True, help="Overwrite outputs that exist, and begin anew.")
@click.option(
    "--spare-clean",
    is_flag=True,
    help="Keep the classifier's own answer where purification hardly changes it, as in most clean images; "
    "not for adaptive pairs.",
)
@click.option("--alert", is_flag=True, help="Report each suspicious image on standard error; the exit code is then 1.")
@click.option(
    "--raw",
    metavar="WIDTHxHEIGHT",
    help="Read raw RGB frames of this size, 8 bits a colour, from the input - instead of names.",
)
@click.option(
    "--reconnect",
    "reconnect_s",
    type=Number(min=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="How long to try to get back a camera or stream that was lost.",
)
@click.option(
    "--max-latency-ms",
    type=Number(min=0, min_open=True),
    metavar="MS",
    help="For a camera: choose a precision that stays within this, or exit with 1; later frames are counted.",
)
@click.option(
    "--shard",
    callback=_shard,
    metavar="I/N",
    help="Run only part I of N of the images, always the same part: for jobs on several machines.",
)
@click.option("--metrics", metavar="PORT|FILE", help="Prometheus metrics, at [HOST:]PORT, or in a file.")
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.option("--json", "lines", flag_value="json", help="Print a JSON object for each image instead of the table.")
@click.option("--csv", "lines", flag_value="csv", help="Print comma-separated values instead of the table.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    inputs: tuple[str, ...],
    lines: str | None,
    no_build: bool,
    trust_engines: bool,
    **options: Any,
) -> None:
    """Purify and classify each INPUT with BUNDLE.

    An INPUT is an image, a folder (with all below it), a zip, a video, a quoted glob, or - for such names on standard
    input, one a line; or a camera: its number, /dev/video0, csi://0, the URL of a stream, a quoted GStreamer pipeline.

    An image that cannot be read is reported and left out; the exit code is then 1, or 2 if none could be read.
    """
    from purify_edge.run.job import Job
    from purify_edge.run.output import run

    if options["shard"] and options["annotate"]:
        raise click.UsageError("--annotate takes one video, which no --shard divides")
    if options["raw"]:
        options["raw"] = _raw_frames(options["raw"], inputs)
    policy = policy_from(no_build=no_build, trust_engines=trust_engines)
    job = Job(bundle=bundle, inputs=inputs, policy=policy, **options)
    raise click.exceptions.Exit(run(job, lines=lines))
