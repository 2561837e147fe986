"""Write docs/reference/python.md from the code itself: `python docs/generate_reference.py`.

A test compares the file with what this gives, so the reference cannot drift.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import themis

HEAD = """# Python reference

This page is made from the code: `python docs/generate_reference.py`. Names are imported from
`themis`, unless a heading says otherwise; they are loaded when they are first asked for.

"""

FURTHER = {
    "themis.evaluation": (
        "Extraction", "MetricResult", "score_output", "Scorer", "EvaluationResult"
    ),
    "themis.evaluation.registry": ("EngineCapabilities", "Registration"),
    "themis.handoff.estimate": ("Price", "CostEstimate"),
    "themis.handoff.plan_diff": ("PlanDiff",),
    "themis.handoff.register": ("RegisteredPlan", "PlanCell"),
    "themis.orchestration.orchestrator": ("CandidateRecord",),
    "themis.orchestration.progress": ("RunProgressSnapshot", "StageProgressSnapshot"),
    "themis.orchestration.work_bundles": ("GenerationWorkBundle", "EvaluationWorkBundle"),
    "themis.providers": ("Request", "Completion"),
    "themis.specs": ("SpecBase", "DatasetSpec", "GenerationSpec", "ExtractorRefSpec"),
}  # fmt: skip
"""What the methods of the root names take and return."""


class Member(NamedTuple):
    """A field, a property or a method of a class, as its source has it."""

    kind: str
    name: str
    signature: str
    default: str
    text: str


def reference() -> str:
    """Return the whole page."""
    names = [name for name in dir(themis) if name != "__version__"]
    sections = [("themis", name) for name in names]
    sections += [(module, name) for module, found in FURTHER.items() for name in found]
    parts = [HEAD, "| name | what it is |\n|---|---|\n"]
    parts += [f"| [`{name}`](#{name.lower()}) | {_about(name)} |\n" for name in names]
    for module, name in sections:
        if module == "themis" or name not in names:
            heading = name if module == "themis" else f"{module}.{name}"
            parts += _section(heading, name, getattr(importlib.import_module(module), name))
    return "".join(parts)


def _section(heading: str, name: str, thing: Any) -> Iterator[str]:
    yield f"\n## {heading}\n\n"
    if not inspect.isclass(thing):
        if inspect.isfunction(thing):
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
            assert isinstance(node, ast.FunctionDef)  # noqa: S101 - for the type checker
            yield f"```python\n{_signature(node)}\n```\n\n"
        yield _about(name) + "\n" if thing is getattr(themis, name, None) else _first(thing) + "\n"
        return
    if name != thing.__name__:
        yield f"The same as [`{thing.__name__}`](#{thing.__name__.lower()}).\n"
        return
    yield _first(thing) + "\n"
    bases = [base for base in thing.__bases__ if base.__module__.startswith("themis")]
    if bases:
        yield f"\nIt has what `{bases[0].__name__}` has, and:\n"
    members = list(_members(thing))
    fields = [member for member in members if member.kind == "field"]
    if fields:
        yield "\n| field | type | default | what it says |\n|---|---|---|---|\n"
    for field in fields:
        yield f"| `{field.name}` | `{field.signature}` | {field.default} | {field.text} |\n"
    others = [member for member in members if member.kind != "field"]
    if others:
        yield "\n| member | what it does |\n|---|---|\n"
    for member in others:
        yield f"| `{member.signature}` | {member.text} |\n"


def _members(thing: type) -> Iterator[Member]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(node, ast.ClassDef)  # noqa: S101 - for the type checker
    texts = _attribute_texts(thing)
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            name = part.target.id
            default = "required" if part.value is None else f"`{_cell(ast.unparse(part.value))}`"
            kind, signature = "field", _cell(ast.unparse(part.annotation))
            member = Member(kind, name, signature, default, _said(after) or texts.get(name, ""))
        elif isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            name = part.targets[0].id
            member = Member("alias", name, _cell(ast.unparse(part)), "", _said(after))
        elif isinstance(part, ast.FunctionDef):
            decorators = {ast.unparse(decorator) for decorator in part.decorator_list}
            if "overload" in decorators:
                continue
            is_property = bool(decorators & {"property", "cached_property"})
            signature = part.name if is_property else _cell(_signature(part))
            text = _paragraph(ast.get_docstring(part) or "")
            member = Member("method", part.name, signature, "", text)
        else:
            continue
        if not member.name.startswith("_") and member.name != "model_config":
            yield member


def _attribute_texts(thing: type) -> dict[str, str]:
    """Return what a docstring's `Attributes:` says of each."""
    _, _, listed = inspect.cleandoc(thing.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    for line in textwrap.dedent(listed.split("\n\n")[0]).splitlines():
        name, colon, text = line.partition(": ")
        if colon and name.isidentifier():
            texts[name] = text
        elif texts:
            texts[next(reversed(texts))] += " " + line.strip()
    return {name: _cell(text) for name, text in texts.items()}


def _said(node: ast.stmt | None) -> str:
    """Return the string below an attribute."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return _paragraph(inspect.cleandoc(str(node.value.value)))
    return ""


def _signature(node: ast.FunctionDef) -> str:
    arguments = node.args
    arguments.args = [found for found in arguments.args if found.arg not in ("self", "cls")]
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"{node.name}({ast.unparse(arguments)}){returns}"


def _about(name: str) -> str:
    thing = getattr(themis, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return _first(thing)
    return "Where a project keeps its results: one of the storage specs, by its `backend`."


def _first(thing: Any) -> str:
    return _paragraph(inspect.cleandoc(thing.__doc__ or ""))


def _paragraph(text: str) -> str:
    """Return the first paragraph, on one line."""
    return _cell(text.split("\n\n", maxsplit=1)[0])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    page = Path(__file__).parent / "reference" / "python.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(reference())
