"""The page about Slurm says what is so."""

import re
import tomllib
from pathlib import Path

import pytest

from themis_slurm.evidence import Cause
from themis_slurm.profile import ClusterProfile

PAGE = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_every_profile_on_the_page_is_valid(block: str) -> None:
    content = tomllib.loads(block)
    content.pop("extends", None)  # belongs to the file, not to the profile
    ClusterProfile.model_validate(content)


def test_every_field_of_a_profile_is_on_the_page() -> None:
    rows = " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))

    assert {"extends", *ClusterProfile.model_fields} == set(re.findall(r"`\[?(\w+)\]?`", rows))


def test_every_state_is_on_the_page() -> None:
    table = PAGE.split("### What a state means")[1].split("### How")[0]
    named = {
        word.strip()
        for line in table.splitlines()
        if line.startswith("| ")
        for word in line.split("|")[1].split(",")
    }

    assert {cause.value for cause in Cause} <= named
