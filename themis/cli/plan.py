"""`themis plan`: expand a benchmark and show its matrix."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from themis.cli.options import json_option, print_json, project_option

if TYPE_CHECKING:
    from themis.handoff.register import PlanCell, RegisteredPlan


@click.command()
@click.argument("benchmark")
@project_option
@json_option
def command(benchmark: str, project: Path | None, *, as_json: bool) -> None:
    """Show what BENCHMARK asks of which model, and how much of it is still open.

    The plan is kept in the project's store; planning again changes nothing.

    \b
    Example:
        themis plan my-eval/benchmark.toml
    """
    from themis.handoff.register import register_plan
    from themis.orchestration.sessions import open_session

    with open_session(benchmark, project) as session:
        plan = register_plan(session)
    if as_json:
        print_json(
            {
                "run_id": plan.run.run_id,
                "plan_digest": plan.run.plan_digest,
                "trials": plan.run.trials,
                "candidates": plan.candidates,
                "pending": plan.pending,
                "cells": [dataclasses.asdict(cell) for cell in plan.cells],
            }
        )
        return
    _print_matrix(plan)


def _print_matrix(plan: "RegisteredPlan") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"{escape(plan.run.benchmark_id)} ({plan.run.run_id})", title_justify="left"
    )
    for heading in ("model", "slice", "prompt", "parameters"):
        table.add_column(heading, overflow="fold")
    for heading in ("all", "open", "tokens in", "out ≤"):
        table.add_column(heading, justify="right")
    for cell in plan.cells:
        table.add_row(
            *(escape(name) for name in (cell.model_id, cell.slice_id, cell.prompt_variant_id)),
            cell.params,
            f"{cell.candidates:,}",
            _open(cell),
            f"{cell.prompt_tokens:,}",
            f"{cell.max_new_tokens:,}",
        )
    Console().print(table)
    click.echo(
        f"{plan.run.trials:,} trials, {plan.candidates:,} candidates, {plan.pending:,} open. "
        "Tokens in are estimated at four characters each."
    )


def _open(cell: "PlanCell") -> str:
    return f"{cell.candidates - cell.held:,}" if cell.generates else "no generation"
