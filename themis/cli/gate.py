"""`themis gate`: may a new run take the place of the one there is? For CI."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from themis.cli.options import DIRECTORY, FILE, json_option, print_json, project_option
from themis.errors import ThemisError

if TYPE_CHECKING:
    from themis.results.gate import Finding, GateReport
    from themis.results.gate_policy import GatePolicy
    from themis.results.report.tables import TextTable
    from themis.storage import Store

NOT_ASKED = 4
"""The exit code when there is no verdict; 2, which other commands use, means inconclusive."""


class GateNotAskedError(ThemisError):
    """The policy, a run or a store cannot be used, so there is no verdict."""

    exit_code = NOT_ASKED


class BadGateUsageError(click.UsageError):
    """Bad usage that cannot be taken for a verdict."""

    exit_code = NOT_ASKED


class GateCommand(click.Command):
    """Exits with 4 on bad usage, so that 2 always means inconclusive."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise BadGateUsageError(error.format_message(), error.ctx) from error


@click.command(cls=GateCommand)
@click.argument("policy", type=FILE)
@click.argument("base")
@click.argument("new")
@click.option("--run", help="BASE and NEW are models of this run.")
@click.option("--store", "root", type=DIRECTORY, help="The store; default: the project's.")
@click.option("--base-store", type=DIRECTORY, help="The store of BASE, when it is another.")
@project_option
@json_option
def command(
    policy: Path,
    base: str,
    new: str,
    run: str | None,
    root: Path | None,
    base_store: Path | None,
    project: Path | None,
    *,
    as_json: bool,
) -> None:
    """Judge NEW against BASE by the rules of POLICY, a TOML file.

    BASE and NEW are runs: a run's id, the start of one, a benchmark's id, or `latest`. With
    --run they are models. Exits with 0 when NEW passes, 1 when it fails, 2 when that cannot be
    told, and 4 when there is no verdict: a mistake in the policy, an unknown run, no store.

    \b
    Example:
        themis gate policy.toml run_5b97 latest
    """
    with _no_verdict():
        from themis.results.gate_policy import load_policy

        asked = load_policy(policy)
        with ExitStack() as stack:
            store = stack.enter_context(_open(root, project))
            other = store if base_store is None else stack.enter_context(_open(base_store, None))
            report = _judge(asked, store, other, base, new, run)
    if as_json:
        print_json({"policy": str(policy), **report.to_dict()})
    else:
        _print(report)
    click.get_current_context().exit(report.exit_code)


@contextmanager
def _no_verdict() -> Iterator[None]:
    """Turn whatever keeps a gate from being asked into one error."""
    try:
        yield
    except (ThemisError, ValueError) as error:
        raise GateNotAskedError(str(error)) from error


@contextmanager
def _open(root: Path | None, project: Path | None) -> "Iterator[Store]":
    if root is None:
        from themis.cli.options import project_store

        with project_store(project) as store:
            yield store
        return
    from themis.storage import open_store

    with open_store(root, create=False) as store:
        yield store


def _judge(
    policy: "GatePolicy", store: "Store", other: "Store", base: str, new: str, run: str | None
) -> "GateReport":
    from themis.results.comparability import compare_provenance
    from themis.results.gate import judge, keys_of
    from themis.results.reading import read_table
    from themis.storage.plans import find_run

    keys = keys_of(policy)
    if run is not None:
        found = find_run(store, run)
        table = read_table(store, found, keys)
        verdict = compare_provenance(store, found, found, model_a=base, model_b=new)
        return judge(policy, table, table, verdict, models=[(base, new)])
    left, right = find_run(other, base), find_run(store, new)
    verdict = compare_provenance(other, left, right, store_b=store)
    return judge(policy, read_table(other, left, keys), read_table(store, right, keys), verdict)


def _print(report: "GateReport") -> None:
    from themis.cli.tables import print_tables

    print_tables([_table(report.findings)])
    seen = report.comparability
    click.echo(f"{seen.left} and {seen.right}: {seen.verdict}")
    for entry in seen.differences:
        if entry.severity != "informational":
            click.echo(f"  {entry.field}: {entry.left}, now {entry.right}; {entry.why}")
    if report.reason:
        click.echo(report.reason)
    held = sum(finding.verdict == "pass" for finding in report.findings)
    click.echo(f"gate: {report.verdict} ({held} of {len(report.findings)} checks pass)")


def _table(findings: "tuple[Finding, ...]") -> "TextTable":
    from themis.results.report import numbers
    from themis.results.report.tables import Column, TextTable

    level = f"{100 * findings[0].ci_level:.4g}% CI" if findings else "CI"
    columns = (
        Column("verdict"), Column("rule"), Column("about"), Column("estimate", numeric=True),
        Column(level, numeric=True), Column("limit", numeric=True), Column("used", numeric=True),
        Column("why", optional=True),
    )  # fmt: skip
    rows = tuple(
        (
            finding.verdict,
            finding.rule,
            ", ".join(value or "-" for value in finding.keys.values()),
            "-" if finding.estimate is None else f"{finding.estimate:.3f}",
            numbers.interval(finding.ci_lower, finding.ci_upper),
            f"{finding.threshold:g}",
            f"{finding.n_used:,}/{finding.n_planned:,}",
            finding.reason,
        )
        for finding in findings
    )
    return TextTable("Gate", columns, rows)
