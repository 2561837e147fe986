"""From messages to prompt token ids and back, the same for every engine with a tokenizer.

The template is rendered to text first and tokenised without special tokens, because it
writes them itself; a model without a template gets the messages' texts joined by newlines,
and there the tokenizer adds what it adds. Engines receive token ids only, so that equal
conversations are equal prompts in all of them, and `prompt_sha256` proves it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from themis.providers.protocol import EngineInitError, Message, rejected
from themis_bundles import canonical_json, sha256_hex

PROBE = (Message("user", "What is 2 + 2?"),)
"""A conversation whose rendered form goes into the provenance."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        ids: Its token ids.
        sha256: The digest of the canonical JSON list of them.
        room: How many tokens may be generated after it.
        truncated: Whether `room` is less than what the request asked for.
    """

    ids: list[int]
    sha256: str
    room: int
    truncated: bool


class ChatRenderer:
    """Renders conversations with the tokenizer of one model directory.

    Attributes:
        tokenizer: The transformers tokenizer.
        context: Tokens that prompt and answer may have together; None is no bound.
        separate: Whether an encoder reads the prompt, which then takes no room from the answer.
    """

    def __init__(self, model_path: Path, extras: Mapping[str, Any]) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                model_path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # a damaged file gives whatever it gives
            raise EngineInitError(
                f"The tokenizer of {model_path} does not load: {type(error).__name__}: {error}"
            ) from error
        self.context: int | None = None
        self.separate = False
        self._kwargs = dict(extras.get("chat_template_kwargs", {}))
        style = extras.get("prompt_format", "chat" if self.tokenizer.chat_template else "plain")
        if style not in ("chat", "plain"):
            raise EngineInitError(f"prompt_format must be 'chat' or 'plain', not {style!r}.")
        if style == "chat" and not self.tokenizer.chat_template:
            raise EngineInitError(f"{model_path} has no chat template for prompt_format 'chat'.")
        self.style: str = style
        # The tokenizer's own call costs 100 µs of options; its core does the same in 20. The
        # file may hold a truncation, which that call would have switched off.
        self._core = getattr(self.tokenizer, "backend_tokenizer", None)
        if self._core is not None:
            self._core.no_truncation()
            self._core.no_padding()

    def prompt(self, messages: Sequence[Message], max_tokens: int) -> Prompt:
        """Render a conversation and see how much room it leaves for the answer.

        Raises:
            RequestRejected: The template refuses the conversation, or it is empty or fills
                the whole context.
        """
        ids = self._ids(messages)
        if not ids:
            raise rejected("the prompt is empty")
        room = max_tokens
        if self.context is not None:
            if len(ids) >= self.context:
                raise rejected(
                    f"the prompt has {len(ids)} tokens and leaves no room for an answer in a "
                    f"context of {self.context}"
                )
            room = min(max_tokens, self.context - (0 if self.separate else len(ids)))
        return Prompt(ids, sha256_hex(canonical_json(ids)), room, room < max_tokens)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, without special ones."""
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def describe(self) -> dict[str, Any]:
        """Return the digests of the template and of a rendered probe conversation."""
        template = self.tokenizer.chat_template
        return {
            "style": self.style,
            "template_kwargs": self._kwargs,
            "template_sha256": sha256_hex(str(template).encode()) if template else None,
            "probe_sha256": sha256_hex(canonical_json(self._ids(PROBE))),
        }

    def rendered(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """Return a conversation's text, and whether the tokenizer adds special tokens to it.

        Raises:
            RequestRejected: The template refuses the conversation.
        """
        if self.style == "plain":
            return "\n".join(turn.content for turn in messages), True
        # A conversation that ends with the assistant's words asks for their continuation.
        continues = messages[-1].role == "assistant"
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in messages],
                tokenize=False,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                **self._kwargs,
            )
        except Exception as error:
            # Templates are Jinja and refuse roles or orders with whatever they like.
            raise rejected(f"the chat template refuses this conversation: {error}") from error
        return text, False

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        text, special = self.rendered(messages)
        return self.tokens(text, special=special)

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text, with or without the tokenizer's special ones."""
        if self._core is not None:
            return list(self._core.encode(text, add_special_tokens=special).ids)
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
