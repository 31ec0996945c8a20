"""purify-run: purify and classify image files."""

from pathlib import Path

import click

from purify_runtime.cli.command import Command
from purify_runtime.cli.options import engine_options, policy_from


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--engine", default="auto", show_default=True, help="auto, tensorrt, rtx or onnxruntime.")
@engine_options
@click.option("--precision", default="fp32", show_default=True, help="Of the models; fp32 is the fastest on a CPU.")
@click.option("--save", type=click.Path(path_type=Path), help="Folder for the purified images, as PNG.")
@click.option(
    "--save-grid", type=click.Path(path_type=Path), help="PNG with each image, its purified form and the difference."
)
@click.option("--force", is_flag=True, help="Overwrite what --save and --save-grid name.")
@click.option("--allow-failed", is_flag=True, help="Take even a bundle that is marked as failed at its export.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a file instead of the table.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    files: tuple[Path, ...],
    engine: str,
    no_build: bool,
    trust_engines: bool,
    verify: Path | None,
    precision: str,
    save: Path | None,
    save_grid: Path | None,
    force: bool,
    allow_failed: bool,
    as_json: bool,
) -> None:
    """Purify and classify FILES, PNG or JPEG of any size, with BUNDLE.

    A file that cannot be read is reported and left out; the exit code is then 1, or 2 where none could be read.
    """
    from purify_runtime.cli.classify import Job, run

    job = Job(
        bundle=bundle,
        files=files,
        engine=engine,
        precision=precision,
        verify=verify,
        policy=policy_from(no_build=no_build, trust_engines=trust_engines),
        save=save,
        save_grid=save_grid,
        force=force,
        allow_failed=allow_failed,
    )
    raise click.exceptions.Exit(run(job, as_json=as_json))
