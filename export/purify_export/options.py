"""What to write into a bundle, and the command line's options for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import click

from purify_edge.bundle.manifest import Pixels, Precision
from purify_edge.engines.options import build_options, build_options_from
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.shell.options import Number, option_object

ROUNDS = 50  # of the latency measurement: the whole command is to take less than a minute
MAX_ACCURACY_DROP = 0.01
OWN = ("fp16", "bf16", "int8", "max_accuracy_drop", "served", "spare_clean", "integrations", "sign", "force")
"""The options that are fields of `ExportOptions` as they are."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write; each field is a keyword of `purify_export.export.export`, which describes it."""

    fp16: bool = True
    bf16: bool = False
    int8: bool = False
    max_accuracy_drop: float = MAX_ACCURACY_DROP
    targets: Sequence[str] | None = None
    served: Pixels | None = None
    spare_clean: bool = False
    integrations: bool = False
    build: BuildOptions = field(default_factory=BuildOptions)
    sign: Path | None = None
    force: bool = False
    rounds: int = ROUNDS

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those of the models; fp32 first."""
        asked: dict[Precision, bool] = {"fp16": self.fp16, "bf16": self.bf16, "int8": self.int8}
        return ("fp32", *(name for name, wanted in asked.items() if wanted))

    @property
    def built(self) -> tuple[Precision, ...]:
        """Those that engines are built of: fp32 where there is no other."""
        return self.precisions[1:] or self.precisions


def _from_command_line(*, targets: str | None, **options: Any) -> ExportOptions:
    own = {name: options.pop(name) for name in OWN}
    names = None if targets is None else [name.strip() for name in targets.split(",")]
    return ExportOptions(targets=names, build=build_options_from(**options), **own)


export_options = option_object(
    "options",
    _from_command_line,
    click.option("--fp16", is_flag=True, help="Float16 models too; layers that would overflow stay in float32."),
    click.option("--bf16", is_flag=True, help="Bfloat16 models too, for GPUs from compute capability 8.0 on."),
    click.option("--int8", is_flag=True, help="INT8 models too; layers that would lose too much stay in float32."),
    click.option(
        "--max-accuracy-drop",
        default=MAX_ACCURACY_DROP,
        show_default=True,
        type=Number(0, 1),
        help="How far any model's accuracy, clean or adversarial, may lie below PyTorch's, as a fraction.",
    ),
    click.option(
        "--targets", help="What to write: onnx,tensorrt,rtx; default onnx and what is installed and works here."
    ),
    click.option(
        "--served",
        type=click.Choice(get_args(Pixels)),
        help="Also write one graph of the whole pipeline, for other programs; it takes float32 NCHW, or bytes NHWC.",
    ),
    click.option(
        "--spare-clean",
        is_flag=True,
        help="Let those graphs keep the classifier's own answer for images that purification hardly changes.",
    ),
    click.option(
        "--integrations",
        is_flag=True,
        help="Files for DeepStream, trtexec and C++ too; implies --served float32.",
    ),
    build_options,
    click.option(
        "--sign", type=click.Path(path_type=Path), metavar="KEY", help="Private key (PEM) to sign the bundle with."
    ),
    click.option("--force", is_flag=True, help="Replace an existing bundle."),
)
"""Options that give the command an `ExportOptions`, as `options`."""
