"""Dataset transforms: changes made to each row before it is an item.

`rename` moves a field, `jinja` writes a field from a sandboxed template over the row, `python`
writes a field with a function. Rows stay a stream, and an error names the row.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from themis.errors import SpecValidationError, missing_extra
from themis.planning.items import Row
from themis.specs.datasets import JinjaTransform, PythonTransform, RenameTransform, Transform

Function = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
"""What a `python` transform calls: (row, settings) to the JSON value of its field."""

_Step = Callable[[dict[str, Any]], None]


def transform_rows(
    rows: Iterable[Row], transforms: Iterable[Transform], functions: Mapping[str, Function]
) -> Iterator[Row]:
    """Apply transforms to each row, in their order.

    Args:
        rows: The rows; a scalar becomes the field `value` of an object.
        transforms: What to do.
        functions: The functions that `python` transforms name. One that is not here is imported
            when its name has the form `module:function`.

    Raises:
        SpecValidationError: A function is unknown, a template is malformed, or a transform
            fails on a row.
        EnvironmentNotReadyError: A `jinja` transform, and jinja2 is not installed.
    """
    steps = [(transform, _step(transform, functions)) for transform in transforms]
    for row in rows:
        value = dict(row.value) if isinstance(row.value, Mapping) else {"value": row.value}
        for transform, step in steps:
            try:
                step(value)
            except Exception as error:
                raise row.refuse(
                    f"the {transform.kind} transform of {transform.field!r} failed: "
                    f"{type(error).__name__}: {error}"
                ) from error
        yield Row(row.source, row.unit, row.number, value)


def import_object(reference: str) -> Any:
    """Import `module:object`.

    Raises:
        SpecValidationError: There is no such module or object.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpecValidationError(f"{reference!r} cannot be imported: {error}") from error


def _step(transform: Transform, functions: Mapping[str, Function]) -> _Step:
    match transform:
        case RenameTransform():
            return _rename(transform.field, transform.source_field)
        case JinjaTransform():
            return _jinja(transform.field, transform.template)
        case PythonTransform():
            return _python(transform, functions)


def _rename(field: str, source: str) -> _Step:
    def step(value: dict[str, Any]) -> None:
        if source not in value:
            raise LookupError(f"no field {source!r}; there are {', '.join(sorted(value))}")
        value[field] = value.pop(source)

    return step


def _jinja(field: str, text: str) -> _Step:
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise missing_extra("jinja2", "jinja") from error
    # Autoescape would write HTML entities into prompts.
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise SpecValidationError(
            f"The template of the field {field!r} is malformed, line {error.lineno}: {error}"
        ) from error

    def step(value: dict[str, Any]) -> None:
        value[field] = template.render(value)

    return step


def _python(transform: PythonTransform, functions: Mapping[str, Function]) -> _Step:
    settings = dict(transform.config)
    name = settings.pop("function", None)
    if isinstance(name, str) and name in functions:
        function = functions[name]
    elif isinstance(name, str) and ":" in name:
        function = import_object(name)
    else:
        known = ", ".join(sorted(functions)) or "none"
        raise SpecValidationError(
            f"The python transform of {transform.field!r} must name its `function` in config: "
            f"module:function, or one that is registered ({known}), not {name!r}"
        )

    def step(value: dict[str, Any]) -> None:
        value[transform.field] = function(dict(value), settings)

    return step
