"""Every number of tests/fixtures/golden_stats.json, on which two implementations agree."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from themis.statistics import (
    clusters,
    effect_size,
    equivalence,
    means,
    multiplicity,
    paired_binary,
    power,
    proportions,
    repeats,
    resampling,
    sign_flip,
    wilcoxon,
)

DOCUMENT = json.loads((Path(__file__).parents[2] / "fixtures" / "golden_stats.json").read_text())
CASES: list[dict[str, Any]] = DOCUMENT["cases"]

Answer = dict[str, Any]
Solver = Callable[[dict[str, Any]], Answer]


def proportion(given: dict[str, Any]) -> Answer:
    level = 1 - given["alpha"]
    method, k, n = given["method"], given["successes"], given["n"]
    if method == "bayes":
        ends = proportions.beta_interval(k, n, level, tuple(given["prior"]))
    else:
        ends = getattr(proportions, method)(k, n, level)
    return {"lower": ends.lower, "upper": ends.upper}


def bootstrap_mean(given: dict[str, Any]) -> Answer:
    values = np.array(given["values"])[:, None]
    draws = resampling.bootstrap_means(values, n_resamples=given.get("draws", 9999))
    observed = values.mean(axis=0)
    acceleration = resampling.jackknife_acceleration(values)
    percentile = resampling.percentile_interval(draws, 1 - given["alpha"])
    bca = resampling.bca_interval(draws, observed, acceleration, 1 - given["alpha"])
    return {
        "mean": observed,
        "percentile_lower": percentile.lower,
        "percentile_upper": percentile.upper,
        "bca_lower": bca.lower,
        "bca_upper": bca.upper,
        "lower": bca.lower,
        "upper": bca.upper,
        "z0": resampling.bias_correction(draws, observed),
        "acceleration": acceleration,
        "boot_se": draws.stderr,
    }


def clustered_mean(values: Any, labels: list[int], alpha: float) -> Answer:
    x = np.array(values, float)
    place = np.unique(labels, return_inverse=True)[1]
    residuals = np.bincount(place, x - x.mean())
    sizes = np.bincount(place)
    kinds: tuple[clusters.ClusterErrorKind, ...] = ("cr0", "cr1", "cr2", "cr3")
    errors = {kind: clusters.cluster_error(residuals, sizes, kind=kind) for kind in kinds}
    answer: Answer = {f"se_{kind}": error.stderr for kind, error in errors.items()}
    cr1 = errors["cr1"]
    t = means.t_interval(x.mean(), cr1.stderr, cr1.df, 1 - alpha)
    return answer | {
        "mean": x.mean(),
        "se_naive": means.summarise(x).stderr,
        "df_cr2": errors["cr2"].df,
        "cr1_t_lower": t.lower,
        "cr1_t_upper": t.upper,
    }


def mean(given: dict[str, Any]) -> Answer:
    if "clusters" in given:
        return clustered_mean(given["values"], given["clusters"], given["alpha"])
    if given.get("method") == "bca":
        return bootstrap_mean(given | {"draws": 1_000_000})
    if given.get("method") == "bootstrap":
        return bootstrap_mean(given)
    if "values_by_item" in given:
        rows = np.array(given["values_by_item"])
        by_item = means.summarise(rows.mean(axis=1))
        flat = clustered_mean(rows.ravel(), np.repeat(range(len(rows)), rows.shape[1]).tolist(), 1)
        assert flat["se_cr1"] == pytest.approx(by_item.stderr, rel=1e-12)
        return {"se": by_item.stderr, "mean": by_item.mean}
    summary = means.summarise(given["values"])
    ends = means.t_interval(
        summary.mean, summary.stderr, summary.n - 1, 1 - given.get("alpha", 0.05)
    )
    return summary._asdict() | {"lower": ends.lower, "upper": ends.upper}


def mcnemar(given: dict[str, Any]) -> Answer:
    a, b, c, d = (given[key] for key in ("both", "treatment_only", "baseline_only", "neither"))
    n, level = a + b + c + d, 1 - given["alpha"]
    return {
        "pair_count": n,
        "baseline_mean": (a + c) / n,
        "treatment_mean": (a + b) / n,
        "delta_mean": (b - c) / n,
        "p_exact": paired_binary.mcnemar_exact(b, c),
        "p_midp": paired_binary.mcnemar_midp(b, c),
        "p_asymptotic": paired_binary.mcnemar_asymptotic(b, c),
        "tango": paired_binary.tango(b, c, n, level),
        "newcombe10": paired_binary.newcombe(a, b, c, d, level),
        "bonett_price": paired_binary.bonett_price(b, c, n, level),
        "wald": paired_binary.wald(b, c, n, level),
    }


def end_to_end(given: dict[str, Any]) -> Answer:
    a, b, c, d = np.array(list(given["tables"].values())).T
    n = a + b + c + d
    p = paired_binary.mcnemar_midp(b, c)
    ends = paired_binary.bonett_price(b, c, n, 1 - given["alpha"])
    return {
        "pair_count": n,
        "baseline_mean": (a + c) / n,
        "treatment_mean": (a + b) / n,
        "delta_mean": (b - c) / n,
        "p_value": p,
        "ci_lower": ends.lower,
        "ci_upper": ends.upper,
        "holm": multiplicity.adjust_p_values(p, "holm"),
        "bh": multiplicity.adjust_p_values(p, "bh"),
    }


def paired(given: dict[str, Any]) -> Answer:
    if "tables" in given:
        return end_to_end(given)
    if given["method"] == "mcnemar":
        return mcnemar(given)
    b, t = (np.array(given.get(side, []), float) for side in ("baseline", "treatment"))
    d = np.array(given.get("differences", t - b), float)
    base: Answer = {"pair_count": len(d), "delta_mean": d.mean()}
    if len(b):
        base |= {"baseline_mean": b.mean(), "treatment_mean": t.mean()}
    method = given["method"]
    if method == "wilcoxon":
        rank = wilcoxon.signed_rank(d)
        return base | {"statistic": rank.statistic, "p_value": rank.p_value}
    if method == "sign":
        return base | {"p_value": paired_binary.sign_test((d > 0).sum(), (d < 0).sum())}
    if method in ("sign_flip", "auto"):  # auto on constant differences is the sign flip
        if "cluster" in given:
            d = np.bincount(np.unique(given["cluster"], return_inverse=True)[1], d)
        p = sign_flip.sign_flip(d).p_value
        return base | {
            "p_value": p,
            "p_numerator": round(p * 2 ** len(d)),
            "p_denominator": 2 ** len(d),
        }
    if method == "paired_t":
        error = clusters.ClusterError(means.summarise(d).stderr, len(d) - 1, len(d))
    else:
        place = np.unique(given["cluster"], return_inverse=True)[1]
        error = clusters.cluster_error(
            np.bincount(place, d - d.mean()),
            np.bincount(place),
            kind="cr2" if method == "clustered_t_cr2" else "cr1",
        )
    statistic = d.mean() / error.stderr
    ends = means.t_interval(d.mean(), error.stderr, error.df, 1 - given["alpha"])
    return base | {
        "cluster_count": error.clusters,
        "stderr": error.stderr,
        "statistic": statistic,
        "df": error.df,
        "p_value": means.t_p_value(statistic, error.df),
        "ci_lower": ends.lower,
        "ci_upper": ends.upper,
    }


def adjust(given: dict[str, Any]) -> Answer:
    p = [np.nan if value is None else value for value in given["p_values"]]
    adjusted = multiplicity.adjust_p_values(p, given["method"])
    assert np.array_equal(np.isnan(adjusted), np.isnan(p))
    kept = adjusted[~np.isnan(adjusted)]
    return {"adjusted": kept, "rejected_at_05": (kept <= 0.05).sum()}


def of_n_c_k(function: Callable[..., Any]) -> Solver:
    def solve(given: dict[str, Any]) -> Answer:
        return {"values": [float(function(n, c, k)) for n, c, k in given["n_c_k"]]}

    return solve


def aggregate(given: dict[str, Any]) -> Answer:
    if "n_c" in given:
        n, c = np.array(given["n_c"]).T
        summary = means.summarise(repeats.pass_at_k(n, c, given["k"]))
        ends = means.t_interval(summary.mean, summary.stderr, summary.n - 1, 1 - given["alpha"])
        return summary._asdict() | {"lower": ends.lower, "upper": ends.upper}
    parts = [means.summarise(values) for values in given["groups"].values()]
    n, mean, _, stderr = np.array(parts).T
    macro, micro = means.macro_mean(mean, stderr), means.micro_mean(mean, stderr, n)
    return {
        "macro_mean": macro.mean,
        "macro_stderr": macro.stderr,
        "micro_mean": micro.mean,
        "micro_stratified_stderr": micro.stderr,
    }


def powers(given: dict[str, Any]) -> Answer:
    levels: Answer = {key: given[key] for key in ("alpha", "power") if key in given}
    if "sd_diff" in given and "n" in given:
        answer = power.paired_t_power(given["n"], given["delta"], given["sd_diff"], given["alpha"])
        return {"power": answer}
    if "sd_diff" in given:
        return {"n": power.paired_t_items(given["delta"], given["sd_diff"], **levels)}
    noise = 0.0
    if "k_a" in given:
        noise = power.repeat_variance(
            given["sigma2_a"], given["sigma2_b"], given["k_a"], given["k_b"]
        )
    design: Answer = {"omega2": given["omega2"], "repeat_variance": noise, **levels}
    if "n" in given:
        return {"mde": power.minimum_detectable(given["n"], **design)}
    return {"n": power.required_items(given["delta"], **design)}


def equivalent(given: dict[str, Any]) -> Answer:
    d = means.summarise(given["differences"])
    result = equivalence.tost(d.mean, d.stderr, d.n - 1, given["margin"], given["alpha"])
    return {
        "p_lower": result.p_lower,
        "p_upper": result.p_upper,
        "p_value": result.p_value,
        "ci90_lower": result.lower,
        "ci90_upper": result.upper,
    }


def effect(given: dict[str, Any]) -> Answer:
    if "p1" in given:
        return {"h": effect_size.cohen_h(given["p1"], given["p2"])}
    if "b" in given:
        ratio, ends = paired_binary.odds_ratio(given["b"], given["c"], 1 - given["alpha"])
        return {
            "odds_ratio": ratio,
            "lower": ends.lower,
            "upper": ends.upper,
            "cohen_g": paired_binary.cohen_g(given["b"], given["c"]),
        }
    d = means.summarise(given["differences"])
    return {
        "d_z": effect_size.cohen_dz(d.mean, d.stderr, d.n),
        "hedges_g_z": effect_size.hedges_gz(d.mean, d.stderr, d.n),
    }


def cluster_df(given: dict[str, Any]) -> Answer:
    return {"df": clusters.bell_mccaffrey_df(given["cluster_sizes"])}


SOLVERS: Mapping[str, Solver] = {
    "ci_proportion": proportion,
    "ci_mean": mean,
    "paired_compare": paired,
    "adjust_p_values": adjust,
    "pass_at_k": of_n_c_k(repeats.pass_at_k),
    "pass_hat_k": of_n_c_k(repeats.pass_hat_k),
    "maj_at_k": of_n_c_k(repeats.maj_at_k),
    "aggregate": aggregate,
    "power": powers,
    "equivalence": equivalent,
    "effect_size": effect,
    "cluster_df": cluster_df,
}


def test_there_are_87_golden_cases() -> None:
    assert len(CASES) == 87
    assert len({case["id"] for case in CASES}) == 87


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_a_golden_number_is_reproduced(case: dict[str, Any]) -> None:
    answer = SOLVERS[case["function"]](case["input"])

    tolerance = case["tol"]
    for key, expected in case["expected"].items():
        allowed = tolerance.get(key, 1e-9) if isinstance(tolerance, dict) else tolerance
        want = np.atleast_1d(np.asarray(expected, float))
        got = np.atleast_1d(np.asarray(answer[key], float)).ravel()
        assert got.shape == want.shape, key
        error = np.abs(got - want) / np.maximum(1.0, np.abs(want))
        assert (error <= allowed).all(), f"{key}: {got} is not {want}"
