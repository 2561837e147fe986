"""Model directories: where they lie, whether they are whole, and what they are.

Engines load a directory that lacks its tokenizer without a word and then answer nonsense, and
a truncated weight file only fails after minutes. So a directory is checked first, by reading
headers only, and its digest (the digest of every file's digest) is recorded with each answer.

    >>> resolve_model("org/name", model_paths={})
    Traceback (most recent call last):
    themis.errors.EnvironmentNotReadyError: No directory for the model 'org/name'. ...

Weights must be safetensors: a pickled checkpoint runs code when it is loaded.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from themis.errors import EnvironmentNotReadyError, ErrorCode, missing_extra
from themis_bundles import canonical_json, sha256_hex

PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Suffixes of checkpoints that execute code when they are read."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
WEIGHT_INDEX = "model.safetensors.index.json"
MANIFEST = "themis-model.json"
"""What staging writes beside the files: the digest of each. It is no part of the model's digest."""

PROBE = "The quick brown fox: 2 + 2 = 4."

_PART = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_HEADER_LIMIT = 100 << 20  # the safetensors format's own limit
_READ_SIZE = 4 << 20
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """What a check of a model directory found.

    Attributes:
        path: The directory.
        digest: SHA-256 over the canonical JSON of `files`; equal files, equal digest.
        files: The SHA-256 of every file in it, by name; folders are left out, engines do not
            read them.
        problems: Why it cannot be used, one sentence each; empty when it is whole.
    """

    path: Path
    digest: str
    files: Mapping[str, str]
    problems: tuple[str, ...]


def resolve_model(model_id: str, *, model_paths: Mapping[str, str]) -> Path:
    """Return the directory of a model: from the map, from `$THEMIS_MODELS`, or the id itself.

    Args:
        model_id: The model's name, such as `org/name`.
        model_paths: Directories by model id, from a project or a cluster profile.

    Raises:
        EnvironmentNotReadyError: None of the places is a directory; the message lists them.
    """
    tried: list[Path] = []
    if model_id in model_paths:
        tried.append(Path(model_paths[model_id]).expanduser())
    else:
        if os.environ.get("THEMIS_MODELS"):
            tried.append(Path(os.environ["THEMIS_MODELS"]).expanduser() / model_id)
        tried.append(Path(model_id).expanduser())
    for path in tried:
        if path.is_dir():
            return path.resolve()
    places = ", ".join(str(path) for path in tried)
    raise EnvironmentNotReadyError(
        f"No directory for the model {model_id!r}. Looked at: {places}. Name it under "
        "[models] of the project or the cluster profile, give --model, or set THEMIS_MODELS.",
        code=ErrorCode.PROVIDER_UNAVAILABLE,
        details={"model_id": model_id, "tried": [str(path) for path in tried]},
    )


def check_model_directory(path: Path, *, full: bool = False) -> ModelDirectory:
    """Check that a directory holds a whole model, and digest its files.

    Checked are config.json, the tokenizer (it must give back a probe text, have no more words
    than the model has rows, and know the tokens that end answers) and every safetensors file:
    its tensors must cover the file exactly, and the index must name them. A directory that was
    staged must also hold exactly the files of its manifest.
    Digests are kept by size and modification time under `$THEMIS_CACHE` (by default
    `~/.cache/themis`), so that a second check reads only headers.

    Args:
        path: The directory.
        full: Whether to read every file again, whatever was kept.

    Raises:
        EnvironmentNotReadyError: The tokenizer cannot be read for want of a library.
    """
    if not path.is_dir():
        return ModelDirectory(path, "", {}, (f"{path} is not a directory",))
    problems = (*_config_problems(path), *_weight_problems(path), *_tokenizer_problems(path))
    files = _digests(path, fresh=full)
    problems = (*problems, *_manifest_problems(path, files))
    return ModelDirectory(path, sha256_hex(canonical_json(files)), files, problems)


def _manifest_problems(path: Path, files: Mapping[str, str]) -> Iterator[str]:
    if not (path / MANIFEST).is_file():
        return
    body = _json_file(path / MANIFEST)
    listed = body.get("files") if isinstance(body, dict) else None
    if not isinstance(listed, dict):
        yield f"{MANIFEST} cannot be read"
        return
    for name in sorted(listed.keys() | files.keys()):
        if name not in files:
            yield f"{name} is in {MANIFEST}, and is missing"
        elif name not in listed:
            yield f"{name} is not in {MANIFEST}"
        elif listed[name].get("sha256") != files[name]:
            yield f"{name} is not the file that was staged: its digest is {files[name][:12]}…"


def _config_problems(path: Path) -> Iterator[str]:
    config = path / "config.json"
    if not config.is_file():
        yield "config.json is missing"
    elif not isinstance(_json_file(config), dict):
        yield "config.json is not a JSON object"


def _weight_problems(path: Path) -> Iterator[str]:
    tensors: dict[str, set[str]] = {}
    for file in sorted(path.glob("*.safetensors")):
        found = safetensors_names(file)
        if isinstance(found, str):
            yield f"{file.name}: {found}"
        else:
            tensors[file.name] = found
    index = path / WEIGHT_INDEX
    if index.is_file():
        yield from _index_problems(index, tensors)
    else:
        yield from _part_problems(file.name for file in path.glob("*.safetensors"))
    if not list(path.glob("*.safetensors")):
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        if pickled:
            yield f"the weights are pickled ({', '.join(pickled)}); convert them to safetensors"
        else:
            yield "there is no safetensors file"


def _part_problems(files: Iterable[str]) -> Iterator[str]:
    """Judge weights without an index by their names alone: `model-00001-of-00002.safetensors`."""
    parts = [found for file in files if (found := _PART.fullmatch(file))]
    wanted = max((int(part[2]) for part in parts), default=0)
    if len(parts) < wanted:
        yield f"there are {len(parts)} of {wanted} weight files, and no {WEIGHT_INDEX}"
    elif wanted > 1:
        yield f"the weights have several files and no {WEIGHT_INDEX}"


def _index_problems(index: Path, tensors: Mapping[str, set[str]]) -> Iterator[str]:
    body = _json_file(index)
    weight_map = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(weight_map, dict):
        yield f"{index.name} has no weight_map"
        return
    named: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        named.setdefault(str(file), set()).add(name)
    for file, names in sorted(named.items()):
        if not (index.parent / file).is_file():
            yield f"{index.name} names {file}, which is missing"
        elif file in tensors and names - tensors[file]:
            missing = sorted(names - tensors[file])
            yield f"{file} lacks {len(missing)} tensors of the index, such as {missing[0]}"


def safetensors_names(file: Path) -> set[str] | str:
    """Return the tensor names of a safetensors file, or what is wrong with it.

    Reads the header alone: eight bytes of length, then JSON with the type, shape and place of
    each tensor (https://github.com/huggingface/safetensors#format).
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):  # noqa: PLR2004 - the length field
            return "the header is cut off"
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return "the header is not JSON"
    if not isinstance(header, dict):
        return "the header is not a JSON object"
    header.pop("__metadata__", None)
    return _cover_problem(header, size - 8 - length) or set(header)


def _cover_problem(header: Mapping[str, Any], data_size: int) -> str | None:
    """Say why tensors do not cover the data exactly and in order, or return None."""
    try:
        entries = sorted(header.items(), key=lambda pair: pair[1]["data_offsets"])
        at = 0
        for name, entry in entries:
            begin, end = map(int, entry["data_offsets"])
            if begin != at:
                return f"tensor {name} begins at byte {begin}, expected {at}"
            if (end - begin) * 8 != math.prod(map(int, entry["shape"])) * _BITS[entry["dtype"]]:
                return f"tensor {name} has {end - begin} bytes, which does not fit its shape"
            at = end
    except (KeyError, TypeError, ValueError) as error:
        return f"the header cannot be read ({type(error).__name__}: {error})"
    if at != data_size:
        return f"the tensors end at byte {at} of {data_size}"
    return None


def _tokenizer_problems(path: Path) -> Iterator[str]:
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        yield f"there is no tokenizer ({', '.join(TOKENIZER_FILES)})"
        return
    try:
        found = _probe(path)
    except EnvironmentNotReadyError:
        raise
    except Exception as error:  # noqa: BLE001 - tokenizers raise bare Exceptions
        yield f"the tokenizer does not load ({type(error).__name__}: {error})"
        return
    # Uncased tokenizers and such as add spaces are whole too, so only the characters count.
    if not found.ids or "".join(PROBE.lower().split()) not in "".join(found.text.lower().split()):
        yield f"the tokenizer turns {PROBE!r} into {found.text!r}"
    yield from _stranger_problems(path, found)


def _stranger_problems(path: Path, found: "_Probed") -> Iterator[str]:
    """Say why a tokenizer that works by itself is another model's."""
    config = _json_file(path / "config.json")
    if not isinstance(config, dict):
        return
    text = config.get("text_config")
    rows = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    # Tokens that were added later are left out: many a good model has one beyond its rows.
    if isinstance(rows, int) and found.words > rows:
        yield f"the tokenizer has {found.words:,} words and the model {rows:,}: it is another's"
    for name in ("config.json", "generation_config.json"):
        body = _json_file(path / name)
        ends = body.get("eos_token_id") if isinstance(body, dict) else None
        for end in ends if isinstance(ends, list) else [ends]:
            if isinstance(end, int) and end >= 0 and not found.knows(end):
                yield f"{name} ends answers with token {end}, which the tokenizer does not have"


class _Probed(NamedTuple):
    """What a tokenizer made of the probe text, and what it knows."""

    ids: list[int]
    text: str
    words: int
    knows: Callable[[int], bool]


def _probe(path: Path) -> _Probed:
    if (path / "tokenizer.json").is_file():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise missing_extra("tokenizers", "hf") from None
        fast = Tokenizer.from_file(str(path / "tokenizer.json"))
        ids = fast.encode(PROBE).ids
        words = fast.get_vocab_size(with_added_tokens=False)
        return _Probed(ids, fast.decode(ids), words, lambda id_: fast.id_to_token(id_) is not None)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise missing_extra("transformers", "hf") from None
    slow = AutoTokenizer.from_pretrained(path, local_files_only=True)
    ids = slow(PROBE)["input_ids"]
    text = slow.decode(ids, skip_special_tokens=True)
    return _Probed(ids, text, slow.vocab_size, lambda id_: id_ < len(slow))


def _digests(path: Path, *, fresh: bool = False) -> dict[str, str]:
    """Return the SHA-256 of each file by name, reading only what is not in the cache."""
    cache = _cache_file(path)
    known = _json_file(cache) if cache.is_file() and not fresh else None
    known = known if isinstance(known, dict) else {}
    found: dict[str, list[int | str]] = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or file.name == MANIFEST or not file.is_file():
            continue
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        entry = known.get(file.name)
        digest = entry[-1] if entry and entry[:-1] == stamp else file_sha256(file)
        found[file.name] = [*stamp, digest]
    if found != known:
        _write_cache(cache, found)
    return {name: str(entry[-1]) for name, entry in found.items()}


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_READ_SIZE):
            digest.update(block)
    return digest.hexdigest()


def cache_directory() -> Path:
    """Return where Themis keeps what it can compute again."""
    if os.environ.get("THEMIS_CACHE"):
        return Path(os.environ["THEMIS_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "themis"


def _cache_file(path: Path) -> Path:
    place = sha256_hex(os.fsencode(path.resolve()))[:32]
    return cache_directory() / "model-digests" / f"{place}.json"


def _write_cache(cache: Path, entries: Mapping[str, list[int | str]]) -> None:
    """Replace the cache; a home that cannot be written only costs the next check time."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as stream:
            json.dump(entries, stream)
        Path(stream.name).replace(cache)
    except OSError:
        return


def _json_file(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
