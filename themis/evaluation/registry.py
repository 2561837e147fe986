"""The plugin registry: extractors and metrics by name, each with a declared version.

A registry belongs to whoever makes it; nothing is registered by importing a module. The
declared version of a plugin is part of the identity of every transform or evaluation that uses
it, so raise it when the plugin's results change.

    >>> registry = PluginRegistry.with_builtins()
    >>> registry.metric_versions(["exact_match"])
    {'exact_match': '1.0.0'}
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

from themis.errors import ErrorCode, SpecValidationError
from themis.evaluation import choice, extractors, metrics
from themis.evaluation.mathematics import MathVerify
from themis.evaluation.protocol import Extractor, Metric

BUILTIN_VERSION = "1.0.0"
"""The declared version of every built-in extractor and metric."""

Plugin = TypeVar("Plugin")
ExtractorFactory = Callable[[], Extractor]
MetricFactory = Callable[[], Metric]

_EXTRACTORS: Mapping[str, ExtractorFactory] = {
    "boxed_text": extractors.BoxedText,
    "choice_letter": extractors.ChoiceLetter,
    "first_number": extractors.FirstNumber,
    "gsm8k": extractors.Gsm8k,
    "json_schema": extractors.JsonSchema,
    "last_number": extractors.LastNumber,
    "math_answer": extractors.MathAnswer,
    "normalized_text": extractors.NormalizedText,
    "regex": extractors.Regex,
}
_METRICS: Mapping[str, MetricFactory] = {
    "bits_per_byte": choice.BitsPerByte,
    "byte_perplexity": lambda: choice.Perplexity("bytes"),
    "choice_loglikelihood_acc": choice.ChoiceAccuracy,
    "choice_loglikelihood_acc_norm": lambda: choice.ChoiceAccuracy(per_character=True),
    "choice_loglikelihood_brier": choice.ChoiceBrier,
    "choice_match": metrics.ChoiceMatch,
    "contains": metrics.Contains,
    "exact_match": metrics.ExactMatch,
    "gsm8k_match": metrics.Gsm8kMatch,
    "math_verify": MathVerify,
    "normalized_exact_match": metrics.NormalizedExactMatch,
    "numeric_match": metrics.NumericMatch,
    "reasoning_gym": metrics.ReasoningGym,
    "response_length": metrics.ResponseLength,
    "word_perplexity": lambda: choice.Perplexity("words"),
}


@dataclass(frozen=True)
class _Plugin(Generic[Plugin]):
    factory: Callable[[], Plugin]
    version: str


@dataclass
class PluginRegistry:
    """Extractors and metrics by name; registering a name again replaces it."""

    _extractors: dict[str, _Plugin[Extractor]] = field(default_factory=dict)
    _metrics: dict[str, _Plugin[Metric]] = field(default_factory=dict)

    @classmethod
    def with_builtins(cls) -> Self:
        """Return a new registry that holds the built-in extractors and metrics."""
        registry = cls()
        for name, extractor in _EXTRACTORS.items():
            registry.register_extractor(name, extractor, version=BUILTIN_VERSION)
        for name, metric in _METRICS.items():
            registry.register_metric(name, metric, version=BUILTIN_VERSION)
        return registry

    def register_extractor(self, name: str, factory: ExtractorFactory, *, version: str) -> None:
        """Register an extractor; a class or a function without arguments makes it."""
        self._extractors[name] = _Plugin(factory, version)

    def register_metric(self, name: str, factory: MetricFactory, *, version: str) -> None:
        """Register a metric; a class or a function without arguments makes it."""
        self._metrics[name] = _Plugin(factory, version)

    @property
    def extractors(self) -> tuple[str, ...]:
        """The names of the extractors, sorted."""
        return tuple(sorted(self._extractors))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, sorted."""
        return tuple(sorted(self._metrics))

    def extractor(self, name: str) -> Extractor:
        """Make the extractor of that name.

        Raises:
            SpecValidationError: There is none; names near it are suggested.
        """
        return _found("extractor", name, self._extractors).factory()

    def metric(self, name: str) -> Metric:
        """Make the metric of that name.

        Raises:
            SpecValidationError: There is none; names near it are suggested.
            EnvironmentNotReadyError: The metric needs a library that is not installed.
        """
        return _found("metric", name, self._metrics).factory()

    def extractor_versions(self, names: Iterable[str]) -> dict[str, str]:
        """Return the declared version of each extractor.

        Raises:
            SpecValidationError: One of them does not exist.
        """
        return {name: _found("extractor", name, self._extractors).version for name in names}

    def metric_versions(self, names: Iterable[str]) -> dict[str, str]:
        """Return the declared version of each metric.

        Raises:
            SpecValidationError: One of them does not exist.
        """
        return {name: _found("metric", name, self._metrics).version for name in names}


def _found(kind: str, name: str, plugins: Mapping[str, _Plugin[Plugin]]) -> _Plugin[Plugin]:
    if name in plugins:
        return plugins[name]
    close = difflib.get_close_matches(name, plugins, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SpecValidationError(
        f"There is no {kind} {name!r}; {hint}There are {', '.join(sorted(plugins)) or 'none'}",
        code=ErrorCode.PLUGIN_INCOMPATIBLE,
        details={"kind": kind, "name": name},
    )
