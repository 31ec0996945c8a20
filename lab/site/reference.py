"""The pages of the reference: commands, Python, recipes, manifest and report, from the code itself."""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
import msgspec

from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.report import Report
from purify_toolkit.recipe import Recipe, recipe_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[2]
SCHEMAS: dict[str, tuple[type, str]] = {
    "manifest": (Manifest, "Every bundle has a `manifest.json`. The bundle is refused where it is not like this."),
    "report": (
        Report,
        "`report.json` of a bundle, and what `purify-check --json` and `purify-verify --json` print.",
    ),
}
PYTHON = (
    "purify_edge.Pipeline",
    "purify_edge.Prediction",
    "purify_export.export.export",
    "purify_edge.PurifyError",
    "purify_edge.InputError",
    "purify_edge.BundleError",
    "purify_edge.MissingError",
)
Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Return the pages of the reference and the files that they lead to, by their place in the site."""
    schemas = {name: msgspec.json.schema(kind) for name, (kind, _) in SCHEMAS.items()}
    return {
        "reference/commands.md": "\n".join(_commands()),
        "reference/python.md": "\n".join(_python()),
        "reference/recipes.md": "\n".join(_recipes()),
        **{f"reference/{name}.schema.json": json.dumps(schema, indent=2) for name, schema in schemas.items()},
        **{f"reference/{name}.md": "\n".join(_structs(name, schema)) for name, schema in schemas.items()},
    }


def _commands() -> Iterator[str]:
    """Yield the lines of the page of all commands, each as its `--help` has it."""
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    yield "# Commands\n"
    yield "Every command ends with 0 for success, 1 where a check failed or some images got no answer, 2 for bad input,"
    yield "3 where a package or a device is missing, and 130 after Ctrl-C.\n"
    for name, place in sorted(scripts.items()):
        yield from _command(name, resolve_name(place))


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"## {name}\n\n```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"
    yield "| option | |\n| --- | --- |"
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield from (f"| `{option}` | {_cell(told)} |" for option, told in filter(None, records) if told)
    yield ""


def _cell(text: str) -> str:
    r"""Return text as a cell of a table takes it, outside of code.

    >>> print(_cell("[a|b] *"))
    [a\|b] \*
    """
    return re.sub(r"([|*<])", r"\\\1", text)


def _python() -> Iterator[str]:
    """Yield the lines of the page of what programs import; mkdocstrings describes each."""
    yield "# Python\n"
    yield "All of this is imported from `purify_edge`; `export` needs `purify-edge[export]`.\n"
    yield from (f"::: {name}\n" for name in PYTHON)


def _recipes() -> Iterator[str]:
    """Yield the lines of the page of recipes: every key, and one recipe that ships."""
    shipped = (recipe_folder() / "fashion-mnist.toml").read_text()
    yield "# Recipes\n"
    yield "A recipe is one TOML file: [which one when](../training.md). An unknown key is refused.\n"
    yield f"## A recipe that ships\n\n```toml\n{shipped}```\n"
    yield from _definitions(msgspec.json.schema(Recipe))


def _structs(name: str, schema: Schema) -> Iterator[str]:
    """Yield the lines of the page of a file in JSON."""
    yield f"# {name.capitalize()}\n"
    yield f"{SCHEMAS[name][1]} As JSON Schema: [{name}.schema.json]({name}.schema.json).\n"
    yield from _definitions(schema)


def _definitions(schema: Schema) -> Iterator[str]:
    """Yield a section for each object of a schema, the outermost first: its description, and a table of its keys."""
    definitions: Mapping[str, Schema] = schema["$defs"]
    first = _target(schema["$ref"])
    for name in (first, *sorted(definitions.keys() - {first})):
        definition = definitions[name]
        yield f"## {name}\n"
        yield definition.get("description", "") + "\n"
        yield "| key | value | default |\n| --- | --- | --- |"
        required = definition.get("required", ())
        for key, value in definition["properties"].items():
            default = "required" if key in required else _code(value.get("default"))
            yield f"| `{key}` | {_value(value)} | {default} |"
        yield ""


def _value(schema: Schema) -> str:
    """Return in a few words what a value may be; a link where it is an object of the schema.

    >>> _value({"type": "array", "items": {"enum": ["a", "b"]}})
    'list of `"a"`, `"b"`'
    """
    if "$ref" in schema:
        name = _target(schema["$ref"])
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_value(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(_code, schema["enum"]))
    if schema.get("type") == "array":
        kinds: Sequence[Schema] = schema.get("prefixItems", [schema.get("items", {})])
        return f"list of {_value(kinds[0])}"
    bounds = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]}" for name, sign in bounds.items() if name in schema]
    return " ".join([str(schema.get("type", "anything")), ", ".join(limits)]).strip()


def _code(value: object) -> str:
    return f"`{json.dumps(value)}`"


def _target(reference: str) -> str:
    return reference.rpartition("/")[2]
