"""Conversations become token ids once, in one way, for every engine."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis.providers import EngineInitError, Message, RequestRejected
from themis.providers.chat import ChatRenderer

pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

HELLO = (Message("user", "Hello there"),)


@pytest.fixture
def model(tiny_chat: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_chat, tmp_path / "model"))


def edit(file: Path, change: Callable[[Any], None]) -> None:
    body = json.loads(file.read_text())
    change(body)
    file.write_text(json.dumps(body))


def test_the_template_is_rendered_and_tokenised_as_transformers_does(model: Path) -> None:
    renderer = ChatRenderer(model, {})
    turns = [{"role": "user", "content": "Hello there"}]

    expected = renderer.tokenizer.apply_chat_template(turns, add_generation_prompt=True)

    ids = renderer.prompt(HELLO, 8).ids
    assert ids == list(expected["input_ids"])
    assert renderer.tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_the_digest_is_that_of_the_token_ids(model: Path) -> None:
    prompt = ChatRenderer(model, {}).prompt(HELLO, 8)

    assert (
        prompt.sha256
        == hashlib.sha256(json.dumps(prompt.ids, separators=(",", ":")).encode()).hexdigest()
    )


def test_without_a_template_the_texts_are_joined(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    renderer = ChatRenderer(model, {})

    ids = renderer.prompt((Message("system", "Be brief."), *HELLO), 8).ids

    assert renderer.text(ids) == "Be brief.\nHello there"
    assert renderer.describe()["style"] == "plain"
    assert renderer.describe()["template_sha256"] is None


def test_the_plain_format_can_be_asked_for(model: Path) -> None:
    renderer = ChatRenderer(model, {"prompt_format": "plain"})

    assert renderer.text(renderer.prompt(HELLO, 8).ids) == "Hello there"


@pytest.mark.parametrize(
    ("extras", "words"),
    [({"prompt_format": "alpaca"}, "'chat' or 'plain'"), ({"prompt_format": "chat"}, "no chat")],
)
def test_a_format_that_is_not_there_is_refused(
    model: Path, extras: dict[str, Any], words: str
) -> None:
    (model / "chat_template.jinja").unlink()

    with pytest.raises(EngineInitError, match=words):
        ChatRenderer(model, extras)


def test_arguments_of_the_template_come_from_the_models_extras(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}{% if loud %}!{% endif %}")

    quiet = ChatRenderer(model, {})
    loud = ChatRenderer(model, {"chat_template_kwargs": {"loud": True}})

    assert quiet.text(quiet.prompt(HELLO, 8).ids) == "Hello there"
    assert loud.text(loud.prompt(HELLO, 8).ids) == "Hello there!"


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no system role') }}", "{{ messages[7].content.x }}"]
)
def test_a_template_that_refuses_a_conversation_fails_its_item_alone(
    model: Path, template: str
) -> None:
    (model / "chat_template.jinja").write_text(template)
    renderer = ChatRenderer(model, {})

    with pytest.raises(RequestRejected, match="template refuses") as caught:
        renderer.prompt(HELLO, 8)

    assert caught.value.failure.kind == "model"


def test_an_empty_prompt_is_refused(model: Path) -> None:
    with pytest.raises(RequestRejected, match="empty"):
        ChatRenderer(model, {"prompt_format": "plain"}).prompt((Message("user", ""),), 8)


def test_a_truncation_in_the_tokenizers_file_cuts_no_prompt(model: Path) -> None:
    truncation = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    edit(model / "tokenizer.json", lambda body: body.update(truncation=truncation))

    assert len(ChatRenderer(model, {}).prompt(HELLO, 8).ids) > 4


def test_the_context_limits_the_room_for_an_answer(model: Path) -> None:
    renderer = ChatRenderer(model, {})
    length = len(renderer.prompt(HELLO, 8).ids)

    renderer.context = length + 5
    cut = renderer.prompt(HELLO, 8)
    renderer.context = length

    assert (cut.room, cut.truncated) == (5, True)
    with pytest.raises(RequestRejected, match="no room"):
        renderer.prompt(HELLO, 8)


def test_a_tokenizer_that_does_not_load_says_which(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")

    with pytest.raises(EngineInitError, match=str(model)):
        ChatRenderer(model, {})
