"""Order and cuts of shards: deterministic, bounded, and of no effect on what is asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from themis.cli.main import main
from themis.errors import SpecValidationError
from themis.handoff import arrangement as module
from themis.handoff.arrangement import Arrangement, Arranger
from themis.handoff.export import export_remaining, plan_and_export
from themis.handoff.session import Session
from themis_bundles import Bundle, BundleInfo, BundleWriter, GroupSpec, canonical_json, verify

Make = Callable[..., Session]

ORDERS: tuple[module.Order, ...] = ("plan", "longest", "prefix")
INFO = BundleInfo("generation", "run-1", {"project": "p", "benchmark": "b"}, "2026-01-02")


def write(
    path: Path, arrangement: Arrangement, prompts: list[tuple[str, int]], shard_items: int = 4
) -> Bundle:
    """Write prompts with the tokens that their answers may have."""
    with BundleWriter(
        path,
        INFO,
        shard_items=shard_items,
        shard_seconds=arrangement.shard_seconds,
        seconds_per_item=arrangement.seconds_per_item,
    ) as writer:
        kinds = ("model", "params", "prompt", "slice")
        refs = {kind: writer.component(kind, {"id": kind}) for kind in kinds}
        writer.start_group(GroupSpec(refs["model"], "demo", "echo"))
        arranger = Arranger(writer, arrangement, shard_items)
        for number, (prompt, tokens) in enumerate(prompts):
            messages = [{"content": prompt, "role": "user"}]
            request = {"messages": messages, "seed": number}
            item = {"id": f"{number:032x}", "refs": refs, "request": request, "sample": 0}
            arranger.add(canonical_json(item), canonical_json(messages), 1, tokens)
        arranger.flush()
    bundle = Bundle.open(path)
    assert not verify(bundle).refused
    return bundle


def numbers(bundle: Bundle) -> list[list[int]]:
    """Which item of the plan each item of each shard is."""
    return [
        [item.body["request"]["seed"] for item in bundle.iter_items(shard.index)]
        for shard in bundle.shards
    ]


PROMPTS = [("b 1", 5), ("a 1", 9), ("b 2", 9), ("a 2", 2), ("c", 7), ("a 1", 1)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("plan", [[0, 1, 2, 3], [4, 5]]),
        ("longest", [[1, 2, 0, 3], [4, 5]]),
        ("prefix", [[1, 5, 3, 0], [2, 4]]),
    ],
)
def test_items_are_ordered_as_asked_and_ties_keep_the_order_of_the_plan(
    tmp_path: Path, order: module.Order, expected: list[list[int]]
) -> None:
    bundle = write(tmp_path / "b", Arrangement(order), PROMPTS)

    assert numbers(bundle) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_shards_cut_by_minutes_hold_no_more_than_that(tmp_path: Path, order: module.Order) -> None:
    limit = Arrangement(order, shard_minutes=0.25, tokens_per_second=1.0)

    bundle = write(tmp_path / "b", limit, PROMPTS)

    assert [shard.cost.max_new_tokens for shard in bundle.shards] == {
        "plan": [14, 11, 8],
        "longest": [14, 11, 8],
        "prefix": [12, 14, 7],
    }[order]
    assert sorted(n for shard in numbers(bundle) for n in shard) == [0, 1, 2, 3, 4, 5]


def test_only_so_many_bytes_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 1000)
    prompts = [(f"{9 - number % 10}", 1) for number in range(40)]

    bundle = write(tmp_path / "b", Arrangement("prefix"), prompts, 100)

    ((*found,),) = numbers(bundle)
    assert sorted(found) == list(range(40))
    assert found != sorted(found)
    assert max(abs(place - number) for place, number in enumerate(found)) < 10


def test_the_same_work_gives_the_same_bytes_and_every_order_asks_the_same(
    session: Make, tmp_path: Path
) -> None:
    asked = set()
    digests = set()
    for order in ORDERS:
        for once in ("one", "two"):
            made = session(num_samples=3)
            path = tmp_path / f"{order}-{once}"
            plan_and_export(made, path, shard_items=5, arrangement=Arrangement(order))
            bundle = Bundle.open(path)
            items = [i.body for s in bundle.shards for i in bundle.iter_items(s.index)]
            digests.add((order, bundle.digest))
            asked.add(tuple(sorted((i["id"], i["sample"], i["request"]["seed"]) for i in items)))

    assert len(digests) == len(ORDERS)
    assert len(asked) == 1


def test_what_remains_can_be_arranged_anew_with_its_costs(tmp_path: Path, session: Make) -> None:
    made = session()
    plan_and_export(made, tmp_path / "old")
    old = Bundle.open(tmp_path / "old")

    again = export_remaining(
        tmp_path / "old", tmp_path / "new", shard_items=3, arrangement=Arrangement("longest")
    )

    new = Bundle.open(tmp_path / "new")
    assert again is not None
    assert not verify(new).refused
    assert new.manifest.totals.items == old.manifest.totals.items
    assert new.manifest.totals.cost.max_new_tokens == old.manifest.totals.cost.max_new_tokens
    for shard in new.shards:
        lengths = [len(item.line) // 4 for item in new.iter_items(shard.index)]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("options", [{"shard_minutes": 1.0}, {"tokens_per_second": 1.0}])
def test_time_needs_a_rate_and_a_rate_needs_a_time(options: dict[str, Any]) -> None:
    with pytest.raises(SpecValidationError, match="--shard-minutes and --tokens-per-second"):
        Arrangement(**options)


def test_the_command_orders_and_cuts(tmp_path: Path) -> None:
    write(tmp_path / "old", Arrangement(), PROMPTS)

    done = CliRunner().invoke(
        main,
        [
            *("export", "remaining", str(tmp_path / "old"), "--out", str(tmp_path / "new")),
            *("--order", "prefix", "--shard-items", "4"),
        ],
    )

    assert done.exit_code == 0, done.output
    assert numbers(Bundle.open(tmp_path / "new")) == [[1, 5, 3, 0], [2, 4]]
