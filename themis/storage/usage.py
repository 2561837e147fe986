"""How many tokens a run's answers took, by model, slice, prompt and parameters."""

import json
from dataclasses import dataclass

from themis.storage.plans import OK, Run
from themis.storage.store import Store
from themis.storage.tables import arm_labels


@dataclass(frozen=True, slots=True)
class TokenUse:
    """The tokens of one way to ask one model for one slice.

    Attributes:
        model_id: The model.
        slice_id: The slice.
        prompt_variant_id: The prompt variant.
        params: Label of the inference parameters.
        answers: Candidates with an answer.
        prompt_tokens: Tokens of all their prompts.
        completion_tokens: Tokens of all their answers.
        cut_short: Answers that ended because they reached the limit of tokens.
    """

    model_id: str
    slice_id: str
    prompt_variant_id: str
    params: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cut_short: int


def token_use(store: Store, run: Run) -> list[TokenUse]:
    """Return the tokens of each cell of a run that has an answer, in plan order."""
    labels = arm_labels(store, run)
    rows = store.db.execute(
        "SELECT f.model, s.body, v.body, f.params, f.n, f.prompt, f.completion, f.cut FROM ("
        " SELECT min(t.id) AS first, t.model, t.slice, t.variant, t.params, count(*) AS n,"
        " coalesce(sum(c.prompt_tokens), 0) AS prompt,"
        " coalesce(sum(c.completion_tokens), 0) AS completion,"
        " sum(CASE WHEN c.finish_reason = 'length' THEN 1 ELSE 0 END) AS cut"
        " FROM run_trials r JOIN trials t ON t.id = r.trial JOIN candidates c ON c.trial = t.id"
        " WHERE r.run = ? AND c.sample < ? AND c.status = ?"
        " GROUP BY t.model, t.slice, t.variant, t.params"
        ") f JOIN specs s ON s.id = f.slice JOIN specs v ON v.id = f.variant ORDER BY f.first",
        (run.key, run.num_samples, OK),
    )
    found = []
    for model, part, variant, params, *counts in rows:
        found.append(
            TokenUse(
                labels[model],
                json.loads(part)["slice_id"],
                json.loads(variant)["prompt_variant_id"],
                labels[params],
                *counts,
            )
        )
    return found
