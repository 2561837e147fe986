"""Check what a benchmark asks of registered engines before anything is planned or called."""

from themis.errors import ErrorCode, SpecValidationError
from themis.evaluation import PluginRegistry
from themis.evaluation.registry import EngineCapabilities
from themis.specs import BenchmarkSpec, InferenceParamsSpec


def check_engines(benchmark: BenchmarkSpec, registry: PluginRegistry) -> None:
    """Refuse a benchmark that asks a registered engine for what it declares not to do.

    Engines that declare nothing, and built-in ones, refuse item by item.

    Raises:
        SpecValidationError: Every problem, with the model and the parameters.
    """
    problems = [
        f"models[{number}] ({model.model_id}): the engine {model.provider!r} {problem}"
        for number, model in enumerate(benchmark.models)
        if registry.has_inference_engine(model.provider)
        for problem in _problems(
            benchmark, registry.get_inference_engine_registration(model.provider).capabilities
        )
    ]
    if problems:
        raise SpecValidationError(
            "\n  ".join((f"{benchmark.benchmark_id} asks for what its engines cannot:", *problems)),
            code=ErrorCode.PLUGIN_INCOMPATIBLE,
            details={"problems": problems},
        )


def _problems(benchmark: BenchmarkSpec, able: EngineCapabilities | None) -> list[str]:
    if able is None:
        return []
    found = [
        problem
        for params in benchmark.inference_grid.expand()
        for problem in _problems_of(params, able)
    ]
    return list(dict.fromkeys(found))


def _problems_of(params: InferenceParamsSpec, able: EngineCapabilities) -> list[str]:
    found = []
    wanted = params.response_format
    if wanted is not None and wanted.value not in able.supports_response_format:
        known = ", ".join(sorted(able.supports_response_format)) or "none"
        found.append(f"has no response_format {wanted.value!r}; it has {known}")
    if params.logprobs is not None and not able.supports_logprobs:
        found.append("reports no logprobs")
    most = able.max_context_tokens
    if most is not None and params.max_tokens > most:
        found.append(f"has a context of {most} tokens, and max_tokens is {params.max_tokens}")
    return found
