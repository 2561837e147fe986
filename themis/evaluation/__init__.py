"""Evaluation: from an output to an answer (extractors) and from an answer to scores (metrics).

Everything is addressed by name through a `PluginRegistry`; `score_output` does one candidate.
"""

from themis.evaluation.protocol import Extraction as Extraction
from themis.evaluation.protocol import Extractor as Extractor
from themis.evaluation.protocol import Metric as Metric
from themis.evaluation.protocol import MetricResult as MetricResult
from themis.evaluation.registry import PluginRegistry as PluginRegistry
from themis.evaluation.scoring import EvaluationResult as EvaluationResult
from themis.evaluation.scoring import Scorer as Scorer
from themis.evaluation.scoring import score_output as score_output
