"""Datasets are read as they are, and what is wrong with them is named by place."""

import contextlib
import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from themis.errors import EnvironmentNotReadyError, SpecValidationError
from themis.planning.datasets import load_items
from themis.planning.items import DataItem, fingerprint
from themis.planning.protocol import DatasetSliceSpec
from themis.specs import DatasetQuerySpec, DatasetSource, DatasetSpec, GenerationSpec, SliceSpec
from themis_bundles import canonical_json, sha256_hex

ROWS = [{"id": "a", "q": "1+1?"}, {"id": 7, "q": "Größe?"}, {"q": "no id"}]


def load(dataset: Any, base_dir: Path, query: Any = None, **more: Any) -> list[DataItem]:
    part = SliceSpec(
        slice_id="s",
        dataset=DatasetSpec.model_validate(dataset),
        dataset_query=query or DatasetQuerySpec(),
        generation=GenerationSpec(),
    )
    return list(load_items(part, base_dir=base_dir, global_seed=1, **more))


def local(path: str, base_dir: Path, **more: Any) -> list[DataItem]:
    return load({"source": "local", "data_dir": path, **more}, base_dir)


def lines(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)


class TestFormats:
    """Every format gives the same rows."""

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("d.jsonl", lines(ROWS)),
            ("d.ndjson", b"\xef\xbb\xbf" + lines(ROWS).replace(b"\n", b"\r\n\r\n")),
            ("d.jsonl.gz", gzip.compress(lines(ROWS))),
            ("d.jsonl.zst", zstandard.compress(lines(ROWS))),
            ("d.json", json.dumps(ROWS).encode()),
            ("e.json", json.dumps({"data": ROWS, "version": 1}).encode()),
        ],
    )
    def test_json_in_all_its_forms(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)

        assert [item.payload for item in local(name, tmp_path)] == ROWS

    @pytest.mark.parametrize(("name", "mark"), [("d.csv", ","), ("d.tsv", "\t")])
    def test_separated_values_are_text(self, tmp_path: Path, name: str, mark: str) -> None:
        text = f'\ufeffid{mark}q\r\na{mark}"two\nlines{mark} and a ""quote"""\r\n\r\n07{mark}x\r\n'
        (tmp_path / name).write_bytes(text.encode())

        assert [item.payload for item in local(name, tmp_path)] == [
            {"id": "a", "q": f'two\nlines{mark} and a "quote"'},
            {"id": "07", "q": "x"},
        ]

    def test_a_cell_may_be_long(self, tmp_path: Path) -> None:
        (tmp_path / "d.csv").write_text("q\n" + "x" * 200_000 + "\n")

        assert len(local("d.csv", tmp_path)[0].payload["q"]) == 200_000

    def test_parquet_keeps_types_and_writes_dates_as_text(self, tmp_path: Path) -> None:
        row = {"id": "a", "n": 3, "x": 0.5, "list": [1, 2], "none": None, "in": {"k": "v"}}
        write_parquet(tmp_path / "d.parquet", [{**row, "day": date(2026, 1, 2)}])

        (item,) = local("d.parquet", tmp_path)

        assert item.payload == {**row, "day": "2026-01-02"}

    def test_a_directory_gives_the_files_of_its_split_in_order(self, tmp_path: Path) -> None:
        for name in ("test-00001.jsonl", "test-00000.jsonl", "testing.jsonl", "train.jsonl"):
            (tmp_path / name).write_bytes(lines([{"id": name}]))
        (tmp_path / "test-notes.txt").write_text("not data")

        assert [item.item_id for item in local(".", tmp_path)] == [
            "test-00000.jsonl",
            "test-00001.jsonl",
        ]

    def test_a_directory_named_after_the_split_is_read_whole(self, tmp_path: Path) -> None:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev" / "b.jsonl").write_bytes(lines([{"id": "b"}]))
        (tmp_path / "dev" / "a.csv").write_text("id\na\n")

        assert [item.item_id for item in local(".", tmp_path, split="dev")] == ["a", "b"]

    def test_a_hub_dataset_that_was_staged_as_files_needs_no_library(self, tmp_path: Path) -> None:
        (tmp_path / "test.jsonl").write_bytes(lines(ROWS))

        items = load({"source": "huggingface", "dataset_id": "org/name", "data_dir": "."}, tmp_path)

        assert [item.payload for item in items] == ROWS


class TestDefects:
    """A broken file is named with its line and the rule it breaks."""

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("d.jsonl", b'{"a":1}\n\n{"a":\n', "d.jsonl, line 3: not valid JSON"),
            ("d.jsonl", b'{"a":1}\n[1]\n', "d.jsonl, line 2: not an object but a list"),
            ("d.jsonl", b'"text"\n', "d.jsonl, line 1: not an object but text"),
            ("d.jsonl", b"null\n", "d.jsonl, line 1: not an object but null"),
            ("d.jsonl", b'{"a":NaN}\n', "d.jsonl, line 1: not valid JSON"),
            ("d.jsonl", b'{"a":"\xff"}\n', "d.jsonl, line 1: not UTF-8 text"),
            ("d.jsonl", b'{"a":"\\ud800"}\n', "d.jsonl, line 1: not valid JSON"),
            ("d.jsonl", b'{"a":9007199254740993}\n', "d.jsonl, line 1: the item is not portable"),
            ("d.jsonl", b'{"id":true}\n', "line 1: id must be text or a whole number, not True"),
            ("d.jsonl", b'{"id":""}\n', "d.jsonl, line 1: id must be text or a whole number"),
            ("d.jsonl", b'{"id":[1]}\n', "d.jsonl, line 1: id must be text or a whole number"),
            (
                "d.jsonl",
                b'{"id":"x"}\n{"id":"y"}\n{"id":"x"}\n',
                "d.jsonl, line 3: the item id 'x' was given before, at ",
            ),
            ("d.jsonl", b"", "the query leaves no item"),
            ("d.jsonl.gz", gzip.compress(lines(ROWS))[:-12], "d.jsonl.gz, line "),
            ("d.jsonl.gz", b"not gzip", "d.jsonl.gz, line 1: cannot be read"),
            ("d.jsonl.zst", b"not zstd", "d.jsonl.zst, line 1: cannot be read"),
            ("d.json", b'{"rows": []}', 'd.json: must be a list of objects, or {"data": [...]}'),
            ("d.json", b"[{}", "d.json: not valid JSON"),
            ("d.json", b'[{"a":1},2]', "d.json, element 2: not an object but a number"),
            ("d.csv", b"a,b\n1,2\n1\n", "d.csv, line 3: 1 cells, but the first line names 2"),
            ("d.csv", b"a,a\n1,2\n", "d.csv, line 1: the first line must name every column once"),
            ("d.csv", b"", "d.csv, line 1: the first line must name every column once"),
            ("d.csv", b'a,b\n"1,2\n', "d.csv, line 2: malformed"),
            ("d.csv", b"a\nb\n\xff\n", "d.csv, line 3: not UTF-8 text"),
            ("d.parquet", b"PAR1nonsense", "d.parquet, row 1: malformed"),
            ("d.xlsx", b"", "d.xlsx: the name must end in one of .jsonl, .ndjson, .json, .csv"),
        ],
    )
    def test_it_is_named(self, tmp_path: Path, name: str, content: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(content)

        with pytest.raises(SpecValidationError) as caught:
            local(name, tmp_path)

        assert words in str(caught.value)
        assert str(caught.value).startswith("Slice 's': ")
        assert caught.value.details["slice_id"] == "s"

    def test_a_repeated_id_names_both_places_in_two_files(self, tmp_path: Path) -> None:
        (tmp_path / "test-0.jsonl").write_bytes(lines([{"id": "x"}, {"id": "y"}]))
        (tmp_path / "test-1.jsonl").write_bytes(lines([{"id": "z"}, {"id": "y"}]))

        with pytest.raises(SpecValidationError) as caught:
            local(".", tmp_path)

        assert f"{tmp_path / 'test-1.jsonl'}, line 2: the item id 'y'" in str(caught.value)
        assert f"at {tmp_path / 'test-0.jsonl'}, line 2" in str(caught.value)

    def test_bytes_in_parquet_are_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "d.parquet", [{"id": "a", "image": b"\x00"}])

        with pytest.raises(SpecValidationError, match=r"d\.parquet, row 1: the item is not port"):
            local("d.parquet", tmp_path)

    def test_a_missing_file_suggests_names_near_it(self, tmp_path: Path) -> None:
        (tmp_path / "questions.jsonl").write_bytes(lines(ROWS))

        with pytest.raises(SpecValidationError, match=r"no such file; did you mean questions\."):
            local("question.jsonl", tmp_path)

    def test_a_missing_directory_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SpecValidationError, match=r"there is no directory .*nowhere either"):
            local("nowhere/d.jsonl", tmp_path)

    def test_a_missing_split_lists_what_there_is(self, tmp_path: Path) -> None:
        (tmp_path / "train.jsonl").write_bytes(lines(ROWS))

        with pytest.raises(SpecValidationError, match=r"split 'test'; .* holds train\.jsonl"):
            local(".", tmp_path)

    @given(
        suffix=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.zst"]),
        content=st.binary(max_size=60)
        | st.text(alphabet='{}[]",:\n\t01aé\\u', max_size=60).map(str.encode),
    )
    def test_no_bytes_make_anything_else_happen(
        self, tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
    ) -> None:
        directory = tmp_path_factory.mktemp("any")
        (directory / f"d.{suffix}").write_bytes(content)

        with contextlib.suppress(SpecValidationError):
            assert local(f"d.{suffix}", directory)


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines({"n": n, "text": "x" * 2000} for n in range(10_000)))
    part = SliceSpec(
        slice_id="s",
        dataset=DatasetSpec(source=DatasetSource.LOCAL, data_dir="d.jsonl"),
        dataset_query=DatasetQuerySpec.subset(5_000, seed=1),
        generation=GenerationSpec(),
    )
    tracemalloc.start()

    count = sum(1 for _ in load_items(part, base_dir=tmp_path, global_seed=1))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5_000
    # The file has 20 MB; what may grow with it is 65 + 12 bytes for each row.
    assert peak < 3_000_000


class TestIdentity:
    """An item's id and hash come from its content alone."""

    def test_given_ids_are_kept_and_made_ids_are_content_hashes(self, tmp_path: Path) -> None:
        (tmp_path / "d.jsonl").write_bytes(lines(ROWS))

        items = local("d.jsonl", tmp_path)

        hashes = [sha256_hex(canonical_json(row)) for row in ROWS]
        assert [item.hash for item in items] == hashes
        assert [item.item_id for item in items] == ["a", "7", hashes[2]]

    def test_the_order_of_keys_does_not_matter(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"q": "x", "n": 1}\n')
        (tmp_path / "b.jsonl").write_text('{"n":1,"q":"\\u0078"}\n')

        assert local("a.jsonl", tmp_path) == local("b.jsonl", tmp_path)

    def test_identical_rows_without_ids_are_all_kept_and_told_apart(self, tmp_path: Path) -> None:
        (tmp_path / "d.jsonl").write_bytes(lines([{"q": "x"}, {"q": "y"}, {"q": "x"}, {"q": "x"}]))

        items = local("d.jsonl", tmp_path)

        first = items[0].item_id
        assert [item.item_id for item in items if item.payload == {"q": "x"}] == [
            first,
            f"{first}~2",
            f"{first}~3",
        ]
        assert len({item.hash for item in items}) == 4
        assert all(len(item.hash) == 64 for item in items)

    def test_item_id_wins_over_id_and_zero_is_an_id(self, tmp_path: Path) -> None:
        (tmp_path / "d.jsonl").write_bytes(lines([{"item_id": 0, "id": "x"}]))

        assert local("d.jsonl", tmp_path)[0].item_id == "0"

    def test_metadata_is_text(self, tmp_path: Path) -> None:
        row = {"id": "a", "metadata": {"level": 5, "tags": ["x"], "ok": True, "t": "text"}}
        (tmp_path / "d.jsonl").write_bytes(lines([row]))

        (item,) = local("d.jsonl", tmp_path)

        assert item.metadata == {"level": "5", "tags": '["x"]', "ok": "true", "t": "text"}
        assert item.payload == row

    def test_a_fingerprint_sees_content_and_order(self) -> None:
        assert fingerprint(["a", "b"]) == fingerprint(iter(["a", "b"]))
        assert len({fingerprint(x) for x in (["a", "b"], ["b", "a"], ["a"], ["ab"], [])}) == 5


class TestTransforms:
    """Rows are changed in the order of the transforms, before they are items."""

    def transformed(self, tmp_path: Path, *steps: Any, **more: Any) -> DataItem:
        (tmp_path / "d.jsonl").write_bytes(lines([{"key": "k1", "q": "<x>", "n": 2}]))
        dataset = {"source": "local", "data_dir": "d.jsonl", "transforms": list(steps)}
        (item,) = load(dataset, tmp_path, **more)
        return item

    def test_rename_can_make_the_id(self, tmp_path: Path) -> None:
        item = self.transformed(tmp_path, {"kind": "rename", "field": "id", "source_field": "key"})

        assert item.item_id == "k1"
        assert item.payload == {"id": "k1", "q": "<x>", "n": 2}

    def test_jinja_writes_text_from_the_row_without_escaping(self, tmp_path: Path) -> None:
        item = self.transformed(
            tmp_path,
            {"kind": "jinja", "field": "q2", "template": "{{ q }}{% if n > 1 %}!{% endif %}\n"},
            {"kind": "jinja", "field": "q3", "template": "{{ q2 | trim }}?"},
        )

        assert item.payload["q2"] == "<x>!\n"
        assert item.payload["q3"] == "<x>!?"

    def test_python_calls_a_registered_or_named_function(self, tmp_path: Path) -> None:
        def times(row: Any, settings: Any) -> Any:
            return row["n"] * settings["by"]

        item = self.transformed(
            tmp_path,
            {"kind": "python", "field": "m", "config": {"function": "times", "by": 5}},
            {"kind": "python", "field": "keys", "config": {"function": f"{__name__}:count"}},
            functions={"times": times},
        )

        assert item.payload["m"] == 10
        assert item.payload["keys"] == 4

    @pytest.mark.parametrize(
        ("step", "words"),
        [
            (
                {"kind": "rename", "field": "id", "source_field": "kye"},
                "of 'id' failed: LookupError: no field 'kye'; there are key, n, q",
            ),
            ({"kind": "jinja", "field": "x", "template": "{{ qq }}"}, "'qq' is undefined"),
            ({"kind": "jinja", "field": "x", "template": "{% if %}"}, "is malformed, line 1"),
            (
                {"kind": "jinja", "field": "x", "template": "{{ q.__class__.__mro__ }}"},
                "SecurityError",
            ),
            ({"kind": "python", "field": "x", "config": {}}, "must name its `function`"),
            ({"kind": "python", "field": "x", "config": {"function": "y"}}, "not 'y'"),
            (
                {"kind": "python", "field": "x", "config": {"function": "no.such:thing"}},
                "'no.such:thing' cannot be imported",
            ),
        ],
    )
    def test_a_transform_that_fails_names_the_row(
        self, tmp_path: Path, step: Any, words: str
    ) -> None:
        with pytest.raises(SpecValidationError) as caught:
            self.transformed(tmp_path, step)

        assert words in str(caught.value)


def count(row: Any, settings: Any) -> int:
    return len(row)


class Capitals:
    """A provider that ignores the query."""

    asked: DatasetSliceSpec

    def scan(self, slice_spec: DatasetSliceSpec, query: object) -> list[Any]:  # noqa: ARG002
        self.asked = slice_spec
        return [{"id": name, "n": len(name)} for name in ("Rome", "Paris", "Oslo")]


class TestProviders:
    """A provider in Python is asked by name, and its answer is checked."""

    def memory(self, name: str, provider: Any = None, query: Any = None) -> list[DataItem]:
        dataset = {"source": "memory", "dataset_id": name, "options": {"size": 3}}
        providers = {} if provider is None else {name: provider}
        return load(dataset, Path(), query, providers=providers)

    def test_a_query_holds_even_when_the_provider_ignores_it(self) -> None:
        provider = Capitals()

        items = self.memory("caps", provider, DatasetQuerySpec(item_ids=["Oslo"]))

        assert [item.item_id for item in items] == ["Oslo"]
        assert provider.asked.slice_id == "s"
        assert provider.asked.dataset.options == {"size": 3}

    def test_a_list_and_a_function_are_providers(self) -> None:
        rows = [{"id": "a"}, {"id": "b"}]

        assert self.memory("x", rows) == self.memory("x", lambda: iter(rows))

    def test_scalars_are_items(self) -> None:
        items = self.memory("x", ["Rome", 5, None, "Rome"])

        assert [item.item_id for item in items] == ["Rome", "5", "null", "Rome~2"]
        assert [item.payload["value"] for item in items] == ["Rome", 5, None, "Rome"]

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({"id": "a", "x": {1}}, "provider 'x', item 1: the item is not portable JSON"),
            ({"id": "a", "x": float("nan")}, "provider 'x', item 1: the item is not portable"),
            ([1], "provider 'x', item 1: an item must be an object or a scalar, not list"),
        ],
    )
    def test_values_that_are_not_json_are_refused(self, value: Any, words: str) -> None:
        with pytest.raises(SpecValidationError, match=words):
            self.memory("x", [value])

    def test_an_iterator_is_refused_because_it_can_be_read_once(self) -> None:
        with pytest.raises(SpecValidationError, match="can be read only once"):
            self.memory("x", iter([1]))

    def test_an_unknown_provider_lists_the_known_ones(self) -> None:
        with pytest.raises(SpecValidationError, match="no dataset provider 'y'; there are"):
            self.memory("y")

    def test_a_provider_is_found_by_what_comes_before_the_colon(self) -> None:
        dataset = {"source": "memory", "dataset_id": "caps:all"}

        for providers in ({"caps": Capitals()}, {"caps:all": Capitals()}):
            assert len(load(dataset, Path(), providers=providers)) == 3

    def test_a_provider_can_be_named_by_its_module(self) -> None:
        items = self.memory(f"{__name__}:Capitals")

        assert len(items) == 3


class TestHub:
    """What is not staged as files goes through the `datasets` library."""

    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Stand in for the library: it keeps what it was asked and gives what it was told to."""
        stand_in = SimpleNamespace(asked=[], gives=ROWS)

        def load_dataset(*names: str, **options: Any) -> Any:
            stand_in.asked.append((names, options))
            if isinstance(stand_in.gives, Exception):
                raise stand_in.gives
            return stand_in.gives

        stand_in.load_dataset = stand_in.load_from_disk = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", stand_in)
        return stand_in

    def test_the_hub_is_asked_for_the_pinned_revision_as_a_stream(
        self, library: Any, tmp_path: Path
    ) -> None:
        dataset = {
            "dataset_id": "org/name",
            "split": "dev",
            "revision": "abc",
            "options": {"name": "main"},
        }

        items = load(dataset, tmp_path)

        assert [item.payload for item in items] == ROWS
        assert library.asked == [
            (
                ("org/name",),
                {
                    "data_dir": None,
                    "split": "dev",
                    "revision": "abc",
                    "streaming": True,
                    "name": "main",
                },
            )
        ]

    def test_a_directory_that_the_library_saved_is_read_by_it(
        self, library: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
        library.gives = {"train": [], "test": ROWS}
        dataset = {"dataset_id": "org/name", "data_dir": "saved"}

        assert len(load(dataset, tmp_path)) == 3
        with pytest.raises(SpecValidationError, match="no such split; there are train, test"):
            load({**dataset, "split": "dev"}, tmp_path)

    def test_a_hub_that_does_not_answer_says_how_to_stage(
        self, library: Any, tmp_path: Path
    ) -> None:
        library.gives = ConnectionError("offline")

        with pytest.raises(SpecValidationError, match=r"cannot be loaded: offline\. .* stage it"):
            load({"dataset_id": "org/name"}, tmp_path)

    def test_without_the_library_the_extra_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)

        with pytest.raises(EnvironmentNotReadyError, match=r"themis-hpc\[datasets\]"):
            load({"dataset_id": "org/name"}, tmp_path)


class TestReasoningGym:
    """Generated tasks are fixed by their options."""

    @pytest.fixture
    def generate(self) -> Callable[..., list[DataItem]]:
        def make(task: str = "chain_sum", **options: Any) -> list[DataItem]:
            dataset = {
                "source": "memory",
                "dataset_id": f"reasoning-gym:{task}",
                "options": {"size": 5, **options},
            }
            return load(dataset, Path())

        return make

    def test_the_same_options_give_the_same_items(self, generate: Any) -> None:
        items = generate(seed=3, min_terms=2, max_terms=2)

        assert items == generate(seed=3, min_terms=2, max_terms=2)
        assert items != generate(seed=4, min_terms=2, max_terms=2)
        assert [item.item_id for item in items] == [f"chain_sum-3-{n}" for n in range(5)]
        assert all({"question", "answer", "metadata"} <= set(item.payload) for item in items)

    def test_the_global_seed_is_the_default(self, generate: Any) -> None:
        assert generate() == generate(seed=1)

    def test_an_unknown_task_suggests_names(self, generate: Any) -> None:
        with pytest.raises(SpecValidationError, match="no task 'chain_sums'; did you mean"):
            generate("chain_sums")

    @pytest.mark.parametrize("options", [{"min_terms": 9, "max_terms": 2}, {"nonsense": 1}])
    def test_options_that_the_task_refuses_are_said(self, generate: Any, options: Any) -> None:
        with pytest.raises(SpecValidationError, match="options of reasoning-gym:chain_sum are"):
            generate(**options)


def test_the_gsm8k_fixture_loads_whole(fixtures: Path) -> None:
    items = local("gsm8k/test_head.jsonl", fixtures)

    assert len({item.item_id for item in items}) == 200
    assert all("####" in item.payload["answer"] for item in items)
