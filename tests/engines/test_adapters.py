"""A LoRA adapter changes what vLLM answers as merging it into the model does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis.generation.items import engine_settings
from themis.providers import EngineInitError, EngineSettings, create_engine
from themis.providers.adapters import check_adapter
from themis_bundles import Bundle

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

RANK, ALPHA = 4, 8
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj")


@pytest.fixture
def adapter(tiny_chat: Path, tmp_path: Path) -> Path:
    """A random adapter of the tiny chat model, as PEFT writes one."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    weights = load_file(tiny_chat / "model.safetensors")
    chance = torch.Generator().manual_seed(3)
    parts = {}
    for layer in LAYERS:
        rows, columns = weights[f"{layer}.weight"].shape
        name = f"base_model.model.{layer}"
        parts[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=chance) / 8
        parts[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=chance) / 8
    save_file(parts, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj"], "bias": "none", "lora_dropout": 0.0,
        "base_model_name_or_path": "tiny",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def merged(adapter: Path, tiny_chat: Path, tmp_path: Path) -> Path:
    """The model with the adapter added to its weights: W + alpha/r B A."""
    folder = Path(shutil.copytree(tiny_chat, tmp_path / "merged"))
    weights = load_file(folder / "model.safetensors")
    parts = load_file(adapter / "adapter_model.safetensors")
    for layer in LAYERS:
        name = f"base_model.model.{layer}"
        change = parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"]
        weights[f"{layer}.weight"] += change * (ALPHA / RANK)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


SCRIPT = """
import json, sys
from pathlib import Path
from themis.providers import EngineSettings, Message, Request, Sampling, create_engine

provider, model, adapter = sys.argv[1:]
options = {"max_model_len": 512, "vllm": {"threads": 1, "kv_cache_memory_bytes": 64 << 20}}
engine = create_engine(EngineSettings(
    provider, "tiny", model_path=Path(model), adapter_path=Path(adapter) if adapter else None,
    options=options,
))
question = (Message("user", "What is the capital of France?"),)
choices = ("The capital of France is Paris.", "no", "Rome")
engine.submit(Request(0, question, Sampling(24), 0))
engine.submit(Request(1, question, Sampling(8), 0, continuations=choices))
done = {}
while engine.inflight:
    done |= {completion.id: completion for completion in engine.poll()}
print(json.dumps({
    "text": done[0].text,
    "sums": [each.sum for each in done[1].loglikelihoods],
    "adapter": engine.describe().get("adapter"),
}))
"""


def run(folder: Path, provider: str, model: Path, adapter: object = "") -> dict[str, Any]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), provider, str(model), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_vllm_with_an_adapter_answers_as_the_merged_model_does(
    adapter: Path,
    merged: Path,
    tiny_chat: Path,
    tmp_path: Path,
    require: Callable[[object, str], None],
) -> None:
    import importlib.util

    require(importlib.util.find_spec("vllm"), "needs vLLM")
    expected = run(tmp_path, "hf", merged)
    plain = run(tmp_path, "hf", tiny_chat)

    found = run(tmp_path, "vllm", tiny_chat, adapter)

    assert found["text"] == expected["text"]
    assert found["sums"] == pytest.approx(expected["sums"], abs=1e-3)
    assert found["sums"] != pytest.approx(plain["sums"], abs=0.1)
    assert found["adapter"]["rank"] == RANK
    assert found["adapter"]["files"].keys() == {"adapter_config.json", "adapter_model.safetensors"}


def test_transformers_refuses_an_adapter(adapter: Path, tiny_chat: Path) -> None:
    with pytest.raises(EngineInitError, match="merge the adapter"):
        create_engine(EngineSettings("hf", "tiny", model_path=tiny_chat, adapter_path=adapter))


def test_the_models_extras_name_the_adapter_and_the_map_of_models_its_directory(
    adapter: Path, tiny_chat: Path, write_generation_bundle: Callable[..., Path]
) -> None:
    path = write_generation_bundle(
        ["Hello"], provider="vllm", model_id="tiny", extras={"lora": "org/adapter"}
    )
    paths = {"tiny": str(tiny_chat), "org/adapter": str(adapter)}

    settings = engine_settings(Bundle.open(path), 0, model_paths=paths, options={})

    assert (settings.model_path, settings.adapter_path) == (tiny_chat, adapter)


class TestCheck:
    """An adapter that is not whole is refused before anything is loaded."""

    def test_the_rank_is_the_largest(self, adapter: Path) -> None:
        file = adapter / "adapter_config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "rank_pattern": {"v_proj": 16}}))

        assert check_adapter(adapter).rank == 16

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_a_missing_file_is_named(self, adapter: Path, name: str) -> None:
        (adapter / name).unlink()

        with pytest.raises(EngineInitError, match=f"has no {name}"):
            check_adapter(adapter)

    def test_damaged_weights_are_refused(self, adapter: Path) -> None:
        file = adapter / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-4])

        with pytest.raises(EngineInitError, match="cannot be used"):
            check_adapter(adapter)

    @pytest.mark.parametrize(
        ("config", "words"),
        [("[]", "no configuration"), ("{}", "no configuration"), ('{"r": "x"}', "no config"),
         ('{"r": 4, "peft_type": "IA3"}', "kind IA3")],
    )  # fmt: skip
    def test_a_configuration_of_something_else_is_refused(
        self, adapter: Path, config: str, words: str
    ) -> None:
        (adapter / "adapter_config.json").write_text(config)

        with pytest.raises(EngineInitError, match=words):
            check_adapter(adapter)

    def test_a_rank_beyond_vllms_is_refused(self, adapter: Path, tiny_chat: Path) -> None:
        pytest.importorskip("vllm")
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "r": 1024}))

        with pytest.raises(EngineInitError, match="takes at most 512"):
            create_engine(
                EngineSettings("vllm", "tiny", model_path=tiny_chat, adapter_path=adapter)
            )
