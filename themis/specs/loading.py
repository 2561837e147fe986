"""Read the files that a person writes: benchmark and project.

TOML, JSON and YAML files are accepted, and `module:object` for a spec made in Python. Every
problem of a file is reported at once, each with the key path and the rule it breaks.
"""

import importlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from themis.errors import SpecValidationError, missing_extra
from themis.specs.benchmark import BenchmarkSpec
from themis.specs.project import ProjectSpec

Spec = TypeVar("Spec", bound=BaseModel)


@dataclass(frozen=True)
class Loaded(Generic[Spec]):
    """A spec and where it came from."""

    spec: Spec
    """The spec."""

    base_dir: Path
    """The directory that relative paths in it are relative to."""

    source: str
    """The file or `module:object` that it was read from, as the user wrote it."""


def load_benchmark(source: str | Path) -> Loaded[BenchmarkSpec]:
    """Read a benchmark from a `.toml`, `.json`, `.yaml` file or from `module:object`.

    Raises:
        SpecValidationError: The file is missing, malformed or breaks a rule.
    """
    return _load(BenchmarkSpec, source)


def load_project(source: str | Path) -> Loaded[ProjectSpec]:
    """Read a project from a `.toml`, `.json` or `.yaml` file, or from `module:object`.

    Raises:
        SpecValidationError: The file is missing, malformed or breaks a rule.
    """
    return _load(ProjectSpec, source)


def validate_spec(model: type[Spec], body: Any, *, source: str) -> Spec:
    """Validate a parsed file; every problem is named with its key path.

    Raises:
        SpecValidationError: `body` breaks at least one rule of `model`.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        problems = [_problem(entry) for entry in error.errors(include_url=False)]
        raise SpecValidationError(
            "\n  ".join((f"{source} is not a valid {model.__name__}:", *problems)),
            details={"source": source, "problems": problems},
        ) from error


def read_document(path: Path) -> Any:
    """Parse a TOML, JSON or YAML file by its suffix.

    Raises:
        SpecValidationError: The file is missing, has another suffix or is malformed.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise SpecValidationError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise SpecValidationError(f"{path}: is a directory, not a file") from error
    except UnicodeDecodeError as error:
        raise SpecValidationError(f"{path}: not UTF-8 text ({error.reason})") from error
    try:
        match path.suffix:
            case ".toml":
                return tomllib.loads(text)
            case ".json":
                return json.loads(text)
            case ".yaml" | ".yml":
                return _parse_yaml(path, text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise SpecValidationError(f"{path}: {error}") from error
    raise SpecValidationError(f"{path}: the name must end in .toml, .json or .yaml")


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "yaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecValidationError(f"{path}: {error}") from error


def _load(model: type[Spec], source: str | Path) -> Loaded[Spec]:
    name = str(source)
    path = Path(name)
    if ":" in name and not path.suffix and not path.exists():
        return _load_object(model, name)
    spec = validate_spec(model, read_document(path), source=name)
    return Loaded(spec=spec, base_dir=path.resolve().parent, source=name)


def _load_object(model: type[Spec], reference: str) -> Loaded[Spec]:
    module_name, _, attribute = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SpecValidationError(f"{reference}: {error}") from error
    spec = found() if callable(found) and not isinstance(found, model) else found
    if not isinstance(spec, model):
        raise SpecValidationError(
            f"{reference}: expected a {model.__name__}, found {type(spec).__name__}"
        )
    return Loaded(spec=spec, base_dir=Path.cwd(), source=reference)


def _problem(entry: Any) -> str:
    """Say where a problem is and which rule it breaks, as `models[0].provider: ...`."""
    path = ""
    for part in entry["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"{path or '(top level)'}: {message}"
