"""Options for the limits of a check."""

import click

from purify_edge.shell.options import Number, option_group

limit_options = option_group(
    click.option(
        "--min-agreement",
        type=Number(0, 1),
        help="Fraction of images on which engine and PyTorch must name the same class; "
        "default 0.995, for bf16 and int8 0.95.",
    ),
    click.option(
        "--max-accuracy-drop",
        default=0.01,
        show_default=True,
        type=Number(0, 1),
        help="How far the engine's accuracy, clean or adversarial, may lie below PyTorch's, as a fraction.",
    ),
    click.option(
        "--max-error",
        type=Number(min=0),
        help="Largest error of any model's outputs, root mean square, as a fraction of what differs between images; "
        "default 0.0001, on a GPU 0.005, for fp16 0.01, for bf16 and int8 0.1.",
    ),
)
"""Three fields of `Limits`: `--min-agreement`, `--max-accuracy-drop` and `--max-error`."""
