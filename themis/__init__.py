"""Themis: large LLM evaluations on Slurm clusters, proved before they are counted.

What runs benchmarks, what they are written with, and what their results are, by name:

    >>> from themis import InferenceParamsSpec, ModelSpec
    >>> ModelSpec(model_id="arithmetic", provider="demo").spec_hash
    '776b75bbfb7e'

They are imported when they are asked for, so that importing `themis` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from themis.evaluation.registry import PluginRegistry as PluginRegistry
    from themis.orchestration.orchestrator import Orchestrator as Orchestrator
    from themis.results.report.config_report import generate_config_report as generate_config_report
    from themis.results.result import BenchmarkResult as BenchmarkResult
    from themis.specs import BenchmarkSpec as BenchmarkSpec
    from themis.specs import DatasetQuerySpec as DatasetQuerySpec
    from themis.specs import DatasetSpec as DatasetSpec
    from themis.specs import ExecutionPolicySpec as ExecutionPolicySpec
    from themis.specs import InferenceGridSpec as InferenceGridSpec
    from themis.specs import InferenceParamsSpec as InferenceParamsSpec
    from themis.specs import ModelSpec as ModelSpec
    from themis.specs import ParseSpec as ParseSpec
    from themis.specs import PostgresBlobStorageSpec as PostgresBlobStorageSpec
    from themis.specs import ProjectSpec as ProjectSpec
    from themis.specs import PromptMessage as PromptMessage
    from themis.specs import PromptVariantSpec as PromptVariantSpec
    from themis.specs import ScoreSpec as ScoreSpec
    from themis.specs import SliceSpec as SliceSpec
    from themis.specs import SqliteBlobStorageSpec as SqliteBlobStorageSpec
    from themis.specs import StorageConfig as StorageConfig
    from themis.specs import StorageSpec as StorageSpec

__version__ = "0.1.0"

_HOMES = {
    "BenchmarkResult": "themis.results.result",
    "Orchestrator": "themis.orchestration.orchestrator",
    "PluginRegistry": "themis.evaluation.registry",
    "generate_config_report": "themis.results.report.config_report",
    **dict.fromkeys(
        (
            "BenchmarkSpec",
            "DatasetQuerySpec",
            "DatasetSpec",
            "ExecutionPolicySpec",
            "InferenceGridSpec",
            "InferenceParamsSpec",
            "ModelSpec",
            "ParseSpec",
            "PostgresBlobStorageSpec",
            "ProjectSpec",
            "PromptMessage",
            "PromptVariantSpec",
            "ScoreSpec",
            "SliceSpec",
            "SqliteBlobStorageSpec",
            "StorageConfig",
            "StorageSpec",
        ),
        "themis.specs",
    ),
}
"""Where each public name is defined."""


__all__ = [  # noqa: PLE0604 - names that `__getattr__` gives
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'themis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*_HOMES, "__version__"])
