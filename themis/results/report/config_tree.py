"""A configuration as a tree: what every object of it is, and which values it holds.

Pydantic models, dataclasses, mappings, sequences and plain objects become nodes; what is in
them that is no container becomes a parameter of the node. A list of plain values is one
parameter. Secrets are hidden while the tree is made, so no renderer ever sees one.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, SecretBytes, SecretStr

from themis.results.report.redaction import REDACTED, is_secret_name, redact_text

Verbosity: TypeAlias = Literal["default", "full"]
VERBOSITIES: tuple[Verbosity, ...] = ("default", "full")

PAPER_FIELDS = frozenset(
    {
        "benchmark_id", "model_id", "provider", "revision", "slice_id", "source", "dataset_id",
        "split", "id", "role", "content", "temperature", "top_p", "top_k", "max_tokens", "seed",
        "global_seed", "num_samples", "stop_sequences", "metrics", "extractors", "project_name",
        "kind", "count", "dtype", "quantization",
    }
)  # fmt: skip
"""Fields that a paper reports, shown even where they hold their default."""

INFRASTRUCTURE_FIELDS: Mapping[str, frozenset[str]] = {
    "SqliteBlobStorageSpec": frozenset({"root_dir", "compression", "store_item_payloads"}),
    "PostgresBlobStorageSpec": frozenset({"blob_root_dir", "compression", "store_item_payloads"}),
    "ProjectSpec": frozenset({"models"}),
}
"""Fields that say where things lie on a machine; only `full` shows them."""

_NEVER_BY_DEFAULT = frozenset({"metadata", "schema_version"})
_PLAIN = (str, int, float, bool, bytes, Enum, PurePath, SecretStr, SecretBytes, type(None))
_MISSING: Any = object()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hints:
    """How a class wants to be reported.

    Attributes:
        display_name: Its name in the report; the class's name when None.
        hidden_fields: Never shown.
        child_fields: Shown as nodes of their own though they are empty.
        redacted_fields: Hidden, with all that is in them.
        paper_fields: Always shown.
        non_paper_fields: Shown by `full` alone.
    """

    display_name: str | None = None
    hidden_fields: frozenset[str] = frozenset()
    child_fields: frozenset[str] = frozenset()
    redacted_fields: frozenset[str] = frozenset()
    paper_fields: frozenset[str] = frozenset()
    non_paper_fields: frozenset[str] = frozenset()


def config_reportable(
    *,
    display_name: str | None = None,
    hidden_fields: Sequence[str] = (),
    child_fields: Sequence[str] = (),
    redacted_fields: Sequence[str] = (),
    paper_fields: Sequence[str] = (),
    non_paper_fields: Sequence[str] = (),
) -> Callable[[type[T]], type[T]]:
    """Give a class hints about how to report it; see `Hints`."""
    hints = Hints(
        display_name,
        frozenset(hidden_fields),
        frozenset(child_fields),
        frozenset(redacted_fields),
        frozenset(paper_fields),
        frozenset(non_paper_fields),
    )

    def mark(cls: type[T]) -> type[T]:
        cls.__config_report__ = hints  # type: ignore[attr-defined]
        return cls

    return mark


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value of a configuration.

    Attributes:
        name: Its name.
        value: Its value, as JSON.
        type_repr: Its declared type, else the type of the value.
        default: The default, as JSON; None when there is none.
        has_default: Whether there is a default.
        source_file: Where the field is declared, as a path inside its package.
        source_line: On which line.
        doc: What the field is for.
        inline_comment: The comment at the end of its line.
        declared_in: The class that declares it.
    """

    name: str
    value: Any
    type_repr: str
    default: Any = None
    has_default: bool = False
    source_file: str | None = None
    source_line: int | None = None
    doc: str | None = None
    inline_comment: str | None = None
    declared_in: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One object of a configuration.

    Attributes:
        name: Its name in the node above; the root's is its class.
        path: Where it is, such as `$.models[0]`.
        depth: How deep; the root is 0.
        parent_path: The path of the node above; None for the root.
        class_name: Its class, or the class's display name.
        qualified_class_name: With its module.
        module_name: The module of its class.
        declared_in: The class whose field it is.
        source_file: Where its class is defined, as a path inside its package.
        source_line: On which line.
        docstring: The first paragraph of its class's docstring.
        parameters: Its values.
        children: The objects in it.
    """

    name: str
    path: str
    depth: int
    parent_path: str | None
    class_name: str
    qualified_class_name: str
    module_name: str
    declared_in: str | None
    source_file: str | None
    source_line: int | None
    docstring: str | None
    parameters: tuple[Parameter, ...]
    children: "tuple[Node, ...]"

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return dataclasses.asdict(self)


def config_tree(config: object, verbosity: Verbosity = "default") -> Node:
    """Return a configuration as a tree without secrets.

    Args:
        config: A pydantic model, dataclass, mapping, sequence or object.
        verbosity: `default` shows what was chosen: values that differ from their default,
            required ones, and those a paper reports. `full` shows all.

    Raises:
        ValueError: The verbosity is unknown.
    """
    if verbosity not in VERBOSITIES:
        raise ValueError(f"unknown verbosity {verbosity!r}; known: {', '.join(VERBOSITIES)}")
    place = _Place(type(config).__name__, "$", 0, None, None, hidden=False)
    return _node(config, place, full=verbosity == "full", above=())


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    path: str
    depth: int
    parent: str | None
    declared_in: str | None
    hidden: bool

    def below(self, entry: "_Field") -> "_Place":
        step = entry.name if entry.name.startswith("[") else f".{entry.name}"
        return _Place(
            entry.name,
            f"{self.path}{step}",
            self.depth + 1,
            self.path,
            entry.declared_in,
            self.hidden or entry.secret,
        )


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    value: Any
    type_repr: str = ""
    default: Any = _MISSING
    doc: str | None = None
    declared_in: str | None = None
    source_file: str | None = None
    line: "_Line | None" = None
    secret: bool = False
    shown: bool = True


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    comment: str | None
    doc: str | None


def _node(value: object, place: _Place, *, full: bool, above: tuple[int, ...]) -> Node:
    kind = type(value)
    hints = _hints(kind)
    parameters: list[Parameter] = []
    children: list[Node] = []
    for entry in () if id(value) in above else _fields(value, hints):
        if entry.name in hints.hidden_fields or not (full or entry.shown):
            continue
        if _is_plain(entry.value):
            parameters.append(_parameter(entry, hidden=place.hidden or entry.secret))
            continue
        child = _node(entry.value, place.below(entry), full=full, above=(*above, id(value)))
        if full or child.parameters or child.children or entry.name in hints.child_fields:
            children.append(child)
    if id(value) in above:
        parameters.append(Parameter("cycle", "shown further up", kind.__name__))
    known = kind.__module__ != "builtins"
    return Node(
        name=place.name,
        path=place.path,
        depth=place.depth,
        parent_path=place.parent,
        class_name=hints.display_name or kind.__name__,
        qualified_class_name=f"{kind.__module__}.{kind.__qualname__}",
        module_name=kind.__module__,
        declared_in=place.declared_in,
        source_file=_source_file(kind) if known else None,  # type: ignore[arg-type]
        source_line=_source_line(kind) if known else None,  # type: ignore[arg-type]
        docstring=_first_paragraph(kind) if known else None,
        parameters=tuple(parameters),
        children=tuple(children),
    )


def _parameter(entry: _Field, *, hidden: bool) -> Parameter:
    has_default = entry.default is not _MISSING
    return Parameter(
        name=entry.name,
        value=_plain(entry.value, hidden=hidden),
        type_repr=entry.type_repr or type(entry.value).__name__,
        default=_plain(entry.default, hidden=hidden) if has_default else None,
        has_default=has_default,
        source_file=entry.source_file,
        source_line=entry.line.number if entry.line else None,
        doc=entry.doc or (entry.line.doc if entry.line else None),
        inline_comment=entry.line.comment if entry.line else None,
        declared_in=entry.declared_in,
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(isinstance(entry, _PLAIN) for entry in value)
    if isinstance(value, Mapping):
        return False
    return isinstance(value, _PLAIN) or inspect.isroutine(value) or isinstance(value, type)


def _plain(value: Any, *, hidden: bool) -> Any:
    """Return a value as JSON, without secrets."""
    if hidden or isinstance(value, SecretStr | SecretBytes):
        return None if value is None else REDACTED
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(entry, hidden=False) for entry in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(entry, hidden=False) for name, entry in value.items()}
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(_said(value))


def _said(value: Any) -> str:
    """Write a value that is no JSON."""
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def _fields(value: object, hints: Hints) -> Iterator[_Field]:
    if isinstance(value, BaseModel):
        entries = _model_fields(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = _dataclass_fields(value)
    elif isinstance(value, Mapping):
        entries = (_Field(str(name), entry) for name, entry in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        entries = (_Field(f"[{place}]", entry) for place, entry in enumerate(value))
    else:
        held = getattr(value, "__dict__", {})
        entries = (_Field(name, held[name]) for name in held if not name.startswith("_"))
    kind = type(value)
    for entry in entries:
        yield dataclasses.replace(
            entry,
            secret=is_secret_name(entry.name) or entry.name in hints.redacted_fields,
            shown=_is_shown(entry, kind, hints),
        )


def _is_shown(entry: _Field, kind: type, hints: Hints) -> bool:
    """Tell whether `default` shows a field."""
    if entry.name in hints.paper_fields:
        return True
    if entry.name in hints.non_paper_fields or entry.name in _NEVER_BY_DEFAULT:
        return False
    if entry.name in INFRASTRUCTURE_FIELDS.get(kind.__name__, ()):
        return False
    if entry.default is _MISSING or entry.name in PAPER_FIELDS:
        return entry.value is not None or entry.default is _MISSING
    return bool(entry.value != entry.default)


def _model_fields(value: BaseModel) -> Iterator[_Field]:
    for name, info in type(value).model_fields.items():
        owner = _owner(type(value), name)
        default = info.get_default(call_default_factory=True, validated_data={})
        yield _Field(
            name=name,
            value=getattr(value, name),
            type_repr=_type_name(info.annotation),
            default=_MISSING if info.is_required() else default,
            doc=info.description,
            declared_in=owner.__name__,
            source_file=_source_file(owner),
            line=_lines(owner).get(name),
        )
    for name, entry in (value.model_extra or {}).items():
        yield _Field(name, entry)


def _dataclass_fields(value: Any) -> Iterator[_Field]:
    for entry in dataclasses.fields(value):
        owner = _owner(type(value), entry.name)
        default: Any = entry.default
        if default is dataclasses.MISSING:
            factory = entry.default_factory
            default = factory() if callable(factory) else _MISSING
        yield _Field(
            name=entry.name,
            value=getattr(value, entry.name),
            type_repr=_type_name(entry.type),
            default=default,
            declared_in=owner.__name__,
            source_file=_source_file(owner),
            line=_lines(owner).get(entry.name),
        )


def _owner(kind: type, name: str) -> type:
    """Return the class that declares a field."""
    return next((base for base in kind.__mro__ if name in inspect.get_annotations(base)), kind)


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _hints(kind: type) -> Hints:
    found = getattr(kind, "__config_report__", None)
    return found if isinstance(found, Hints) else Hints()


@functools.cache
def _source_file(kind: type) -> str | None:
    """Return a class's file as a path inside its package; a machine's folders say nothing."""
    try:
        path = PurePath(inspect.getfile(kind))
    except (TypeError, OSError):
        return None
    depth = kind.__module__.count(".") + 1
    return "/".join(path.parts[-depth:])


@functools.cache
def _source_line(kind: type) -> int | None:
    try:
        return inspect.getsourcelines(kind)[1]
    except (TypeError, OSError):
        return None


def _first_paragraph(kind: type) -> str | None:
    text = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return text or None


@functools.cache
def _lines(kind: type) -> Mapping[str, _Line]:
    """Return line, end-of-line comment and docstring of each field that a class declares."""
    try:
        source, first = inspect.getsourcelines(kind)
        (tree,) = ast.parse(textwrap.dedent("".join(source))).body
    except (TypeError, OSError, SyntaxError, ValueError):
        return {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found = {}
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = source[(statement.end_lineno or statement.lineno) - 1]
            found[statement.target.id] = _Line(
                first + statement.lineno - 1, _comment(text), _docstring(after)
            )
    return found


def _comment(line: str) -> str | None:
    """Return the comment at the end of a line of code."""
    import tokenize

    words = iter([line.strip() + "\n"])
    try:
        for token in tokenize.generate_tokens(lambda: next(words, "")):
            if token.type == tokenize.COMMENT:
                return token.string.removeprefix("#").strip()
    except (tokenize.TokenError, SyntaxError):
        return None
    return None


def _docstring(statement: ast.stmt | None) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        text = statement.value.value
        return inspect.cleandoc(text) if isinstance(text, str) else None
    return None
