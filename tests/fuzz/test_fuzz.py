"""Whatever is done to a bundle, pack or signature: no crash, no wrong record, a named place."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import oracle
from tests.fuzz.mutations import HOSTILE, MUTATIONS, Chance, framed, lines_of

FUZZ = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Drawn:
    """Lets hypothesis choose, so that it can shrink what fails."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def number(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def junk(self, most: int) -> bytes:
        return self._data.draw(st.binary(min_size=1, max_size=most))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> oracle.Original:
    return oracle.original(tmp_path_factory.mktemp("fuzz"))


@FUZZ
@given(st.data())
def test_no_damage_to_a_bundle_crashes_a_reader_or_is_believed(
    start: oracle.Original, data: st.DataObject
) -> None:
    oracle.attack_bundle(start, Drawn(data))


@FUZZ
@given(st.data())
def test_no_damage_to_a_pack_gets_through_or_out_of_its_target(
    start: oracle.Original, data: st.DataObject
) -> None:
    oracle.attack_pack(start, Drawn(data))


@FUZZ
@given(st.data())
def test_no_damaged_signature_holds_for_what_it_does_not_sign(
    signed: tuple[oracle.Original, Path], data: st.DataObject
) -> None:
    oracle.attack_signature(*signed, Drawn(data))


@pytest.fixture(scope="module")
def signed(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[[object, str], None]
) -> tuple[oracle.Original, Path]:
    """A signed bundle and the list of its allowed signer."""
    require(shutil.which("ssh-keygen"), "ssh-keygen is not installed")
    folder = tmp_path_factory.mktemp("signed")
    return oracle.signed_original(folder)


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_by_chance_crashes_a_reader_or_is_believed(
    start: oracle.Original, seed: int
) -> None:
    """Uniform choices reach what hypothesis, which likes small numbers, seldom tries."""
    oracle.attack_bundle(start, Chance(seed))
    oracle.attack_pack(start, Chance(seed))


PLACES = {
    "data/manifest.json": b'"run-1"',
    "data/components.jsonl.zst": b'"prompt"',
    "data/items/00000.jsonl.zst": b'"user"',
    "results/00000/a.jsonl.zst": b'"answer 0"',
    "results/00000/a.json": b'"ended"',
    "results/00000/done.json": b'"themis-done"',
}


@pytest.mark.parametrize("name", PLACES)
def test_every_hostile_value_is_refused_in_its_place(
    start: oracle.Original, tmp_path: Path, name: str
) -> None:
    for number, value in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        shutil.copytree(start.path, folder)
        path = folder / name
        if path.suffix == ".zst":
            frames = [[_spoil(line, name, value) for line in part] for part in lines_of(path)]
            path.write_bytes(framed(frames, table=name.startswith("data/")))
        else:
            path.write_bytes(_spoil(path.read_bytes(), name, value))

        seen = oracle.look(folder)

        assert seen.refused, value[:40]
        assert any(text.startswith(name) for text in seen.said), (value[:40], seen.said)


def _spoil(data: bytes, name: str, value: bytes) -> bytes:
    return data.replace(PLACES[name], value, 1)


def test_every_mutation_changes_something(start: oracle.Original, tmp_path: Path) -> None:
    for name, mutation in MUTATIONS.items():
        changed = 0
        for seed in range(20):
            folder = tmp_path / f"{name}-{seed}"
            shutil.copytree(start.path, folder)
            changed += bool(mutation(folder, Chance(seed))) and (
                oracle.content(folder) != oracle.content(start.path)
            )
        assert changed > 12, name
