"""Pages of the documentation that are generated from the code at build time (a MkDocs hook).

Nothing of it is committed: `make docs` writes the pages into the built site.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from tritone_training.hyperparameters import Hyperparameters

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tritone", "tritone_gateway", "tritone_serving", "tritone_training", "tritone_export", "tritone_cli")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


# --- Python API ----------------------------------------------------------------------------------------------


def client_page() -> str:
    """Return the page of the names in `tritone.__all__`, errors excepted."""
    names = [name for name in importlib.import_module("tritone").__all__ if not _is_error("tritone", name)]
    clients = [name for name in names if name.endswith("Client")]
    wire = [name for name in names if re.search(r"(Request|Response|Transport)$", name)]
    rest = [name for name in names if name not in clients + wire]
    page = [
        "# Python client",
        "",
        "Everything here is imported from `tritone`. Errors have [a page of their own](errors.md).",
    ]
    sections = {"Clients": clients, "Results and music": rest, "Transports": wire}
    for title, members in sections.items():
        page += ["", f"## {title}", ""] + [f"::: tritone.{name}" for name in members]
    modules = {
        "Batch jobs": "tritone.batch",
        "Jobs on Ray": "tritone.ray",
        "Jobs on Spark": "tritone.spark",
        "Files by path or URL": "tritone.remote_files",
        "Testing without a server": "tritone.testing",
    }
    for title, module in modules.items():
        if importlib.util.find_spec(module):
            page += ["", f"## {title}", "", f"::: {module}"]
            page += ["    options: {show_root_heading: false, show_root_toc_entry: false}"]
    page += ["", "## Arguments of jobs on Ray and Spark", "", "::: tritone.bulk_calls.BulkJob"]
    return "\n".join(page) + "\n"


def training_page() -> str:
    """Return the page of the names in `tritone_training.__all__`."""
    page = [
        "# Python training API",
        "",
        "Train, load and evaluate models in one process. Needs the extra `train`; imported from `tritone_training`.",
        "",
    ]
    page += [f"::: tritone_training.{name}" for name in importlib.import_module("tritone_training").__all__]
    return "\n".join(page) + "\n"


def _is_error(module: str, name: str) -> bool:
    value = getattr(importlib.import_module(module), name)
    return isinstance(value, type) and issubclass(value, Exception)


def errors_page() -> str:
    """Return the page of exceptions: the whole tree, then the client's in full."""
    root = importlib.import_module("tritone").TritoneError
    for package in PACKAGES:
        _import_exceptions(package)
    page = [
        "# Errors",
        "",
        "Every error that Tritone raises on purpose is a `TritoneError`. The client raises `ClientError` and its",
        "subclasses. Most say what was wrong, what was expected and what to do; programs can rely on the types and",
        "on the attributes, not on the text.",
        "",
        "```text",
        *_tree(root),
        "```",
        "",
        "## Errors of the client",
        "",
    ]
    names = [name for name in importlib.import_module("tritone").__all__ if _is_error("tritone", name)]
    page += [f"::: tritone.{name}" for name in sorted(names, key=_depth_first(root).index)]
    return "\n".join(page) + "\n"


def _import_exceptions(package: str) -> None:
    found = importlib.import_module(package)
    for info in pkgutil.walk_packages(found.__path__, f"{package}."):
        if info.name.rpartition(".")[2] in ("_exceptions", "exceptions"):
            importlib.import_module(info.name)


def _children(error: type) -> list[type]:
    subclasses: list[type] = error.__subclasses__()
    return sorted(
        (each for each in subclasses if each.__module__.partition(".")[0] in PACKAGES),
        key=lambda each: (PACKAGES.index(each.__module__.partition(".")[0]), each.__name__),
    )


def _depth_first(error: type) -> list[str]:
    return [error.__name__] + [name for child in _children(error) for name in _depth_first(child)]


def _tree(error: type, indent: str = "", branch: str = "") -> Iterator[str]:
    summary = (inspect.getdoc(error) or "").partition("\n\n")[0].replace("\n", " ")
    yield f"{branch + error.__name__:<38} {summary}"
    children = _children(error)
    for number, child in enumerate(children, 1):
        last = number == len(children)
        yield from _tree(child, indent + ("    " if last else "│   "), indent + ("└── " if last else "├── "))


# --- command line --------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Return the page of every command, its arguments and options, from the Typer application."""
    group: Any = typer.main.get_command(importlib.import_module("tritone_cli.main").build_app())
    context = group.context_class(group, info_name="tritone")
    panels: dict[str, list[str]] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(name)
    page = ["# Command line", "", _prose(group.help), ""]
    page += ["Every command has `--help`. Commands with `--json` print one object for programs.", ""]
    for panel, names in panels.items():
        page += [f"## {panel}", ""]
        for name in names:
            page += _command(group.get_command(context, name), context)
    return "\n".join(page) + "\n"


def _command(command: Any, parent: Any) -> list[str]:
    context = command.context_class(command, info_name=command.name, parent=parent)
    page = [f"### {context.command_path}", "", _prose(command.help), ""]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    page += ["```text", usage, "```", ""]
    arguments = [each for each in command.params if each.param_type_name == "argument" and not each.hidden]
    options = [each for each in command.params if each.param_type_name == "option" and not getattr(each, "hidden", 0)]
    for title, params in (("Argument", arguments), ("Option", options)):
        if params:
            page += [f"| {title} | Value | Description |", "|---|---|---|"]
            page += [_parameter(each, context) for each in params] + [""]
    for name in getattr(command, "commands", ()):  # those of a group, as of `tritone keys`
        page += _command(command.commands[name], context)
    return page


def _parameter(param: Any, context: Any) -> str:
    is_option = param.param_type_name == "option"
    names = [*param.opts, *param.secondary_opts] if is_option else [param.name.upper()]
    value = "" if getattr(param, "is_flag", False) else param.metavar or _type(param, context)
    default = param.get_default(context, call=False)
    text = _cell(getattr(param, "help", None) or "")
    if param.required:
        text += " **Required.**"
    elif not isinstance(default, bool) and default not in (None, (), [], "") and not callable(default):
        text += f" Default: `{getattr(default, 'value', default)}`."
    if getattr(param, "envvar", None) and str(param.envvar) not in text:
        text += f" Environment: `{param.envvar}`."
    return f"| {', '.join(f'`{name}`' for name in names)} | {f'`{_cell(value)}`' if value else ''} | {text.strip()} |"


def _type(param: Any, context: Any) -> str:
    name = param.display_type(context).strip("<>").removeprefix("list[").removesuffix("]").removesuffix(" range")
    words = {"str": "text", "int": "integer", "float": "number"}
    bounds = [f"{symbol} {bound}" for symbol, bound in (("≥", param.min), ("≤", param.max)) if bound is not None]
    return ", ".join([words.get(name, name), *bounds])


def _prose(text: str | None) -> str:
    return inspect.cleandoc((text or "").replace("\b\n", "").replace("\f", ""))


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


# --- models --------------------------------------------------------------------------------------------------


def kinds() -> Iterable[Any]:
    """Return every registered model kind."""
    registry = importlib.import_module("tritone_training.registry")
    return [registry.get_kind(name) for name in registry.kind_names()]


def models_page() -> str:
    """Return the page of every served model's tensors, from the declarations."""
    page = [
        "# Models on the wire",
        "",
        "The tensors of every served model, for callers without the SDK: names, types and shapes as in the",
        "[open inference protocol](https://kserve.github.io/website/latest/modelserving/data_plane/v2_protocol/),",
        "which Triton speaks over HTTP and gRPC. `batch` is the number of rows of a request. Optional inputs may be",
        "left out. Values outside the limits are refused with `INVALID_ARGUMENT` (HTTP 400) by our backends.",
        "",
    ]
    seen: set[str] = set()
    for kind in kinds():
        for declaration in (*kind.declarations, *kind.data_models, *kind.ensembles):
            if declaration.name not in seen:
                seen.add(declaration.name)
                page += _model(declaration, kind.name)
    return "\n".join(page) + "\n"


def _model(declaration: Any, kind: str) -> list[str]:
    page = [f"## {declaration.name}", "", declaration.summary, ""]
    steps = getattr(declaration, "steps", None)
    if steps is None:
        serving = declaration.serving
        facts = [f"Kind `{kind}`, backend `{declaration.backend}`"]
        n_rows = serving.batching.max_batch_size
        facts.append(f"at most {n_rows} rows per request" if n_rows > 1 else "one row per request")
        if declaration.decoupled:
            facts.append("one request, many responses (gRPC streaming)")
        else:
            facts.append(f"waits at most {serving.queue.default_timeout_microseconds / 1e6:g} s in the queue")
        page += [", ".join(facts) + ".", ""]
    else:
        page += [f"Kind `{kind}`, an ensemble of " + ", ".join(f"`{step.model}`" for step in steps) + ".", ""]
    batched = steps is None
    for title, tensors in (("Input", declaration.inputs), ("Output", declaration.outputs)):
        page += [f"| {title} | Type | Shape | Description |", "|---|---|---|---|"]
        page += [_tensor(tensor, batched) for tensor in tensors] + [""]
    parameters = getattr(declaration, "parameters", {})
    if parameters:
        page += ["Parameters: " + ", ".join(f"`{key}` = `{value}`" for key, value in parameters.items()) + ".", ""]
    return page


def _tensor(tensor: Any, batched: bool) -> str:
    axes = [axis.name if axis.size is None else f"{axis.name} {axis.size}" for axis in tensor.axes]
    shape = ", ".join((["batch"] if batched else []) + axes)
    text = _cell(tensor.description)
    text = text[:1].upper() + text[1:].rstrip(".") + "."
    if limits := _limits(tensor.limits):
        text += f" Limits: {limits}."
    optional = " (optional)" if tensor.optional else ""
    return f"| `{tensor.name}`{optional} | {tensor.dtype} | ({shape}) | {text} |"


def _limits(limits: Any) -> str:
    if limits is None:
        return ""
    parts = []
    if limits.minimum is not None:
        parts.append(f"{'>' if limits.exclusive_minimum else '≥'} {limits.minimum:g}")
    if limits.maximum is not None:
        parts.append(f"{'<' if limits.exclusive_maximum else '≤'} {limits.maximum:g}")
    if limits.also:
        parts.append("or " + ", ".join(f"{each:g}" for each in limits.also))
    if limits.words:
        parts.append("one of " + ", ".join(f"`{word}`" for word in limits.words))
    if limits.n_values_key:
        parts.append(f"an index below `{limits.n_values_key}`")
    return ", ".join(parts)


def rest_page() -> str:
    """Return the page of the gateway's routes, from the committed OpenAPI schema."""
    schema = json.loads((ROOT / "gateway" / "openapi.json").read_text(encoding="utf-8"))
    page = [
        "# REST",
        "",
        "The routes of `tritone gateway`; see [REST gateway](../how-to/gateway.md). A running gateway has the",
        "schema at `/docs` and `/openapi.json`.",
        "",
    ]
    for tag in schema["tags"]:
        page += [f"## {tag['name']}", "", tag["description"], ""]
        for path, methods in schema["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    page += _route(f"{method.upper()} {path}", operation, schema["components"]["schemas"])
    return "\n".join(page) + "\n"


def _route(title: str, operation: Any, schemas: Any) -> list[str]:
    page = [f"### {title}", "", operation.get("description", operation["summary"]), ""]
    rows = [
        (each["name"], each.get("required", False), each["schema"], each) for each in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        schema = schemas[body["schema"]["$ref"].rpartition("/")[2]]
        required = schema.get("required", ())
        rows += [(name, name in required, each, each) for name, each in schema["properties"].items()]
    if rows:
        page += ["| Field | Type | Description |", "|---|---|---|"]
        for name, needed, kind, described in rows:
            default = kind.get("default")
            text = _cell(described.get("description", "")) + (" **Required.**" if needed else "")
            text += f" Default: `{json.dumps(default)}`." if default is not None else ""
            page.append(f"| `{name}` | {_json_type(kind)} | {text} |")
        page.append("")
    found = operation["responses"].get("200", {}).get("content", {})
    if found:
        page += ["Returns " + ", ".join(f"`{name}`" for name in found) + ".", ""]
    return page


def _json_type(schema: Any) -> str:
    """Return a JSON schema in a few words."""
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " or ".join(dict.fromkeys(_json_type(each) for each in kinds if each.get("type") != "null"))
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if schema.get("type") == "array":
        return "array"
    return str(schema.get("type", "any"))


def configuration_page() -> str:
    """Return the page of every kind's hyper-parameters, from its configuration class."""
    page = [
        "# Configuration fields",
        "",
        "Hyper-parameters by model kind. `tritone train KIND --preset NAME` chooses a preset, `--config FILE` replaces",
        "some values, and `--set FIELD=VALUE` a single one; in Python, `train(kind, preset=..., settings={...})`.",
        "",
    ]
    for kind in kinds():
        page += [f"## {kind.name}", "", kind.summary, ""]
        page += [f"Presets: {', '.join(f'`{name}`' for name in kind.presets)}.", ""]
        page += ["| Field | Type | Default | Bounds | Description |", "|---|---|---|---|---|"]
        page += [*_fields(type(kind.presets["default"])), ""]
    return "\n".join(page) + "\n"


def _fields(config: type[Hyperparameters]) -> list[str]:
    rows = []
    for name, field in config.model_fields.items():
        annotation = config.__annotations__[name]
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        bounds = ", ".join(_bound(each) for each in field.metadata if _bound(each))
        row = (f"`{name}`", f"`{_cell(kind)}`", f"`{field.default!r}`", bounds, _cell(field.description or ""))
        rows.append(f"| {' | '.join(row)} |")
    return rows


def _bound(constraint: object) -> str:
    for name, symbol in (("ge", "\u2265"), ("gt", ">"), ("le", "\u2264"), ("lt", "<")):
        if hasattr(constraint, name):
            return f"{symbol} {getattr(constraint, name)}"
    return ""


def changelog_page() -> str:
    """Return CHANGELOG.md as a page."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def contributing_page() -> str:
    """Return CONTRIBUTING.md as a page, with its links to other pages made relative to the site."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)


def starter_weights_page() -> str:
    """Return the page of the starter weights' model cards and of the terms of their data."""
    weights = ROOT / "weights"
    cards = sorted(weights.glob("*/README.md"))
    page = ["# Model cards", "", "The [starter weights](../how-to/starter.md) of this version.", ""]
    page += [] if cards else ["There are none yet.", ""]
    for path in [*cards, weights / "LICENSES.md"]:
        text = path.read_text(encoding="utf-8").replace("[LICENSES.md](../LICENSES.md)", "below")
        page += [re.sub(r"^#", "##", text, flags=re.MULTILINE)]  # one level down
    return "\n".join(page)


PAGES: dict[str, Callable[[], str]] = {
    "reference/client.md": client_page,
    "reference/training.md": training_page,
    "reference/cli.md": cli_page,
    "reference/rest.md": rest_page,
    "reference/models.md": models_page,
    "reference/errors.md": errors_page,
    "reference/configuration.md": configuration_page,
    "reference/starter-weights.md": starter_weights_page,
    "changelog.md": changelog_page,
    "contributing.md": contributing_page,
}
