"""The statistics page says what the code does."""

import doctest
import re
from pathlib import Path

from themis.results.moments import INTERVAL_METHODS
from themis.results.paired_tests import PAIRED_METHODS
from themis.results.report.tables import FLAG_MEANINGS
from themis.statistics.multiplicity import CORRECTIONS

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "statistics.md").read_text()


def test_the_examples_of_the_page_run() -> None:
    outcome = doctest.testfile(str(DOCS / "statistics.md"), module_relative=False)

    assert outcome.attempted >= 6
    assert outcome.failed == 0


def test_every_method_and_correction_is_described() -> None:
    for name in (*INTERVAL_METHODS, *PAIRED_METHODS, *CORRECTIONS):
        assert f"`{name}`" in PAGE or f'"{name}"' in PAGE, name


def test_the_flags_are_explained_in_the_same_words() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))

    assert {flag: listed.get(flag) for flag in FLAG_MEANINGS} == dict(FLAG_MEANINGS)


def test_every_source_is_cited_and_every_citation_has_a_source() -> None:
    body, sources = PAGE.split("## Sources")

    cited = {int(number) for number in re.findall(r"\[(\d+)\](?!\()", body)}
    given = {int(number) for number in re.findall(r"^(\d+)\. ", sources, re.MULTILINE)}
    assert cited == given
