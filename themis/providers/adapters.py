"""LoRA adapters: a directory beside a model's, checked and digested before it is loaded.

The format is that of PEFT: `adapter_config.json` and `adapter_model.safetensors`
(https://huggingface.co/docs/peft/developer_guides/checkpoint).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from themis.providers.models import file_sha256, safetensors_names
from themis.providers.protocol import EngineInitError
from themis_bundles import canonical_json, sha256_hex

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        path: Its directory.
        rank: The largest rank of its matrices.
        files: The SHA-256 of its configuration and weights, by name.
    """

    path: Path
    rank: int
    files: Mapping[str, str]

    def describe(self) -> dict[str, Any]:
        """Return what goes into the provenance."""
        return {
            "rank": self.rank,
            "sha256": sha256_hex(canonical_json(self.files)),
            "files": dict(self.files),
        }


def check_adapter(path: Path) -> Adapter:
    """Check that a directory holds a whole LoRA adapter.

    Raises:
        EngineInitError: A file is missing or damaged, or it is another kind of adapter.
    """
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise EngineInitError(f"The adapter {path} has no {name}.")
    found = safetensors_names(path / WEIGHTS)
    if isinstance(found, str):
        raise EngineInitError(f"{path / WEIGHTS} cannot be used: {found}.")
    try:
        config = json.loads((path / CONFIG).read_bytes())
        ranks = [config["r"], *config.get("rank_pattern", {}).values()]
        rank = max(int(rank) for rank in ranks)
        kind = config.get("peft_type", "LORA")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineInitError(
            f"{path / CONFIG} is no configuration of a LoRA adapter "
            f"({type(error).__name__}: {error})."
        ) from error
    if kind != "LORA":
        raise EngineInitError(f"The adapter {path} is of the kind {kind}; only LORA can be run.")
    return Adapter(path, rank, {name: file_sha256(path / name) for name in (CONFIG, WEIGHTS)})
