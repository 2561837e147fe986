"""What must hold of a bundle whatever was done to it: the oracle of the fuzz suite.

Nothing but documented errors is raised, each refusal names a place, and no record is taken
that was not written for its item.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import MUTATIONS, Chooser, changed_pack, edited, pick, seal
from themis_bundles import (
    Bundle,
    BundleError,
    BundleInfo,
    BundleInvalidError,
    BundleWriter,
    GroupSpec,
    ResultWriter,
    canonical_json,
    check_signatures,
    chosen,
    finished,
    incomplete_shards,
    pack,
    sha256_hex,
    shard_state,
    sign,
    unpack,
    verify,
)
from themis_bundles.repair import repair


@dataclass(frozen=True)
class Original:
    """A sound bundle with results, and what its records say."""

    path: Path
    digest: str
    records: dict[int, Any]
    pack: bytes
    work: Path
    """A folder for copies."""


@dataclass
class Seen:
    """What all readers said about a bundle."""

    refused: bool = False
    complete: bool = False
    digest: str = ""
    said: list[str] = field(default_factory=list)
    taken: dict[int, Any] = field(default_factory=dict)


def original(folder: Path) -> Original:
    """Write a bundle of two shards whose items were answered by two attempts each."""
    path = folder / "original"
    info = BundleInfo("generation", "run-1", {"project": "demo", "benchmark": "b"}, "2026-01-02")
    with BundleWriter(path, info, shard_items=4) as writer:
        kinds = ("model", "params", "prompt", "slice")
        refs = {kind: writer.component(kind, {"id": kind}) for kind in kinds}
        writer.start_group(GroupSpec(refs["model"], "demo", "echo"))
        for number in range(6):
            messages = [{"role": "user", "content": f"{number} + {number}? Grüße ∑"}]
            request = {"messages": messages, "seed": number}
            item = {"id": f"{number:032x}", "sample": 0, "refs": refs, "request": request}
            writer.add(item, prompt_tokens=9, max_new_tokens=16)
    bundle = Bundle.open(path)
    records: dict[int, Any] = {}
    for shard in bundle.shards:
        items = list(bundle.iter_items(shard.index))
        for attempt, part in (("a", items[::2]), ("b", items[1::2])):
            with ResultWriter(bundle, shard.index, attempt, header={}, flush_records=1) as results:
                for entry in part:
                    records[entry.seq] = _answer(entry.seq)
                    results.append(entry.seq, entry.sha256, "ok", records[entry.seq])
    (file,) = pack(bundle, folder / "original.tar")
    return Original(path, bundle.digest, records, file.read_bytes(), folder)


def signed_original(folder: Path) -> tuple[Original, Path]:
    """Write a bundle with a signature; return the list of its allowed signer, too."""
    key = folder / "key"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(make, check=True)
    start = original(folder)
    sign(start.path, key)
    allowed = folder / "allowed_signers"
    allowed.write_text(f"me@example.org {key.with_suffix('.pub').read_text()}")
    assert [found.valid for found in check_signatures(start.path, allowed)] == [True]
    return start, allowed


def _answer(number: int) -> dict[str, Any]:
    return {
        "text": f"answer {number}",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
        "latency_ms": 12.5,
    }


def look(folder: Path) -> Seen:
    """Use everything that reads a bundle.

    Raises:
        AssertionError: When two readers contradict each other.
        Exception: Whatever is no documented error.
    """
    seen = Seen()
    try:
        bundle = Bundle.open(folder)
    except BundleInvalidError as error:
        return Seen(refused=True, said=list(error.problems))
    seen.digest = bundle.digest
    quick, full = verify(bundle, quick=True), verify(bundle)
    seen.refused, seen.complete = full.refused, full.complete
    seen.said = [str(problem) for problem in (*full.problems, *quick.problems)]
    canonical_json(full.to_dict())
    incomplete_shards(bundle)
    for shard in bundle.shards:
        try:
            done = finished(bundle, shard.index)
            shard_state(bundle, shard.index)
            shard_state(bundle, shard.index, exact=True)
            for found in chosen(bundle, shard.index):
                if found.record is not None:
                    seen.taken[found.item.seq] = found.record.record
                    assert found.item.seq in done or found.verdict == "infra_error"
        except BundleInvalidError as error:
            if not seen.refused:
                raise AssertionError("verify takes what chosen refuses") from error
            seen.said += error.problems
    return seen


def attack_bundle(start: Original, choose: Chooser) -> None:
    """Damage a copy of a bundle, and hold the readers to their promises."""
    with tempfile.TemporaryDirectory(dir=start.work) as work:
        folder = Path(work) / "b"
        shutil.copytree(start.path, folder)
        steps = [pick(choose, sorted(MUTATIONS)) for _ in range(choose.number(1, 2))]
        if "lines" in steps:
            # What forges records must not remove the receipts that know better: without them
            # only a signature could tell.
            steps = ["lines"]
        touched = [name for step in steps for name in MUTATIONS[step](folder, choose)]
        sealed = choose.number(0, 3) == 0 and seal(folder)

        seen = look(folder)

        changed = content(folder) != content(start.path)
        assert all(": " in text for text in seen.said), seen.said
        if not changed:
            assert not seen.refused
        if seen.refused and len(steps) == 1 and not sealed:
            # A file that was renamed is named as it is now, one that is gone by its receipt.
            said = "\n".join(seen.said).casefold()
            names = [name.removesuffix(".jsonl.zst").casefold() for name in touched]
            assert any(name in said for name in names), (touched, seen.said)
        if not seen.refused:
            expected = start.records if seen.digest == start.digest else {}
            assert all(expected.get(seq) == record for seq, record in seen.taken.items())
            assert seen.complete <= (seen.taken == expected)
        if "lines" not in steps and seen.digest == start.digest:
            assert all(start.records[seq] == record for seq, record in seen.taken.items())
        _mend(folder, start, forged="lines" in steps)


def _mend(folder: Path, start: Original, *, forged: bool) -> None:
    """Repair the bundle; what is then there was there before."""
    try:
        bundle = Bundle.open(folder)
        repair(bundle, dry_run=True)
        repair(bundle)
    except BundleError:
        return
    seen = look(folder)
    if not forged and seen.digest == start.digest:
        assert all(start.records[seq] == record for seq, record in seen.taken.items())
    assert repair(bundle) == ()


def attack_pack(start: Original, choose: Chooser) -> None:
    """Damage a pack, and hold the unpacker to its promises."""
    with tempfile.TemporaryDirectory(dir=start.work) as work:
        file, target = Path(work) / "in/b.tar", Path(work) / "out/b"
        file.parent.mkdir()
        target.parent.mkdir()
        data = changed_pack(start.pack, choose)
        file.write_bytes(data)

        try:
            unpack(file, target)
        except BundleError:
            assert data != start.pack
            assert not target.exists() or not content(target)
        else:
            seen = look(target)
            assert seen.taken == start.records
            assert content(target) == content(start.path)
        assert {path.name for path in Path(work).iterdir()} == {"in", "out"}
        assert not [path for path in Path(work).rglob("*") if path.is_symlink()]


def attack_signature(start: Original, allowed: Path, choose: Chooser) -> None:
    """Damage a signature or what it signs; a valid one signs the untouched list."""
    with tempfile.TemporaryDirectory(dir=start.work) as work:
        folder = Path(work) / "b"
        shutil.copytree(start.path, folder)
        (signature,) = (folder / "signatures").iterdir()
        names = [str(signature.relative_to(folder)), "tagmanifest-sha256.txt"]
        name = pick(choose, names)
        data = edited((folder / name).read_bytes(), choose)
        (folder / name).write_bytes(data)

        valid = [found for found in check_signatures(folder, allowed) if found.valid]

        if valid:
            whole = (folder / names[1]).read_bytes() == (start.path / names[1]).read_bytes()
            assert whole, "a signature holds for what it does not sign"


def content(folder: Path) -> dict[str, str]:
    """Return every name below a folder with what it is and holds."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"  # noqa: PTH115
        elif path.is_file():
            found[name] = sha256_hex(path.read_bytes())
        elif not path.is_dir():
            found[name] = "special"
    return found
