"""Secrets are known by type, by name and by form, and what is no secret stays readable."""

import pytest
from pydantic import SecretStr

from themis.results.report.redaction import REDACTED, is_secret_name, redact, redact_text


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@db.example.org:5432/themis",
        "postgresql+psycopg://me:hunter2@db/themis?sslmode=require",
        "postgres://me:p@ss/hunter2@db/themis",
        "https://hunter2@git.example.org/repo.git",
        "host=db user=me password=hunter2 dbname=themis",
        "password='hunter2 with spaces' host=db",
        "postgresql://db/themis?user=me&password=hunter2",
        "https://bucket/object?X-Amz-Sig=1&access_key=hunter2",
        "Authorization: Bearer hunter2",
        "sk-hunter2hunter2hunter2",
        "the key is hf_hunter2hunter2hunter2",
        "ghp_hunter2hunter2hunter2",
    ],
)
def test_a_secret_inside_a_text_is_hidden(text: str) -> None:
    hidden = redact_text(text)

    assert "hunter2" not in hidden
    assert REDACTED in hidden


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org:8443/path",
        "postgresql://me@db/themis",
        "answer with the number of tokens",
        "data/gsm8k.jsonl",
        "mail me@example.org",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api_key", True),
        ("OPENAI_API_KEY", True),
        ("apiKey", True),
        ("db_password", True),
        ("client_secret", True),
        ("token", True),
        ("HF_TOKEN", True),
        ("authToken", True),
        ("max_tokens", False),
        ("tokenizer", False),
        ("keyboard", False),
        ("num_samples", False),
    ],
)
def test_names_tell_secrets(name: str, secret: bool) -> None:  # noqa: FBT001 -- a table
    assert is_secret_name(name) == secret


def test_everything_below_a_secret_name_is_hidden() -> None:
    value = {"engine": {"api_key": {"a": "x", "b": ["y"]}, "seed": 1, "empty_secret": None}}

    hidden = redact(value)

    assert hidden == {"engine": {"api_key": REDACTED, "seed": 1, "empty_secret": None}}


def test_pydantic_secrets_are_hidden_wherever_they_are() -> None:
    assert redact([SecretStr("hunter2")]) == [REDACTED]
