"""Tools that know nothing of Themis agree about what is in a bundle."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from themis_bundles import Bundle, sha256_hex, verify
from themis_bundles.census import VERDICTS

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "bundles/golden"
PAGE = (ROOT / "docs/bundle-format.md").read_text()
Require = Callable[[object, str], None]

WEAKER = {
    "answers-that-differ",
    "attempt-cut-off-after-its-receipt",
    "attempt-with-a-damaged-frame",
    "attempt-with-a-frame-after-its-footer",
    "attempt-with-a-wrong-footer",
    "attempt-with-junk-at-its-end",
    "bag-with-a-fetch-list",
    "component-of-another-kind",
    "component-with-another-digest",
    "done-that-does-not-add-up",
    "done-without-its-attempt",
    "item-of-another-model",
    "item-of-another-type",
    "item-that-refers-to-nothing",
    "item-without-a-prompt",
    "items-in-a-frame-without-checksum",
    "items-in-more-frames-than-promised",
    "items-without-a-seek-table",
    "receipt-edited",
    "record-with-a-key-twice",
    "record-without-a-required-field",
    "results-of-an-unknown-shard",
    "records-without-end",
    "results-behind-a-link",
    "results-that-are-required",
}
"""Defects that the shell reader does not look for, as the page says."""


@pytest.fixture
def worked(bundle: Bundle, kit: "Kit") -> Bundle:
    kit.work(bundle, 0, "a", {0: kit.answer(), 1: kit.failure("model"), 2: kit.failure("infra")})
    kit.work(bundle, 0, "b", {0: kit.answer("5"), 1: kit.answer(), 3: kit.answer()})
    kit.work(bundle, 1, "a")
    return bundle


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def need(require: Require, *tools: str) -> None:
    for tool in tools:
        require(shutil.which(tool), f"{tool} is not installed")


def test_sha256sum_proves_the_payload_and_finds_damage(worked: Bundle, require: Require) -> None:
    need(require, "sha256sum")
    lists = ("tagmanifest-sha256.txt", "manifest-sha256.txt")

    for name in lists:
        assert run("sha256sum", "--strict", "-c", name, cwd=worked.path).returncode == 0
    path = worked.path / "data/items/00001.ids"
    path.write_bytes(path.read_bytes()[::-1])

    said = run("sha256sum", "-c", lists[1], cwd=worked.path)
    assert said.returncode == 1
    assert "data/items/00001.ids: FAILED" in said.stdout


def test_bagit_validates_the_bag_with_and_without_results(
    bundle: Bundle, kit: "Kit", require: Require
) -> None:
    tool = Path(sys.executable).with_name("bagit.py")
    require(tool.exists(), "bagit is not installed")
    command = (sys.executable, tool, "--validate", "--quiet", ".")

    assert run(*command, cwd=bundle.path).returncode == 0
    kit.work_all(bundle)
    assert run(*command, cwd=bundle.path).returncode == 0
    (bundle.path / "data/extra").write_text("x")
    assert run(*command, cwd=bundle.path).returncode == 1


def test_zstd_tests_every_file_and_gives_its_lines(worked: Bundle, require: Require) -> None:
    need(require, "zstd")
    files = sorted(worked.path.rglob("*.zst"))
    assert len(files) == 1 + 3 + 3

    assert run("zstd", "-tq", *files, cwd=worked.path).returncode == 0
    out = run("zstd", "-dcq", worked.data / worked.shards[0].path, cwd=worked.path).stdout

    assert out.encode() == b"".join(item.line + b"\n" for item in worked.iter_items(0))


def test_jq_reads_the_manifest_and_the_records(worked: Bundle, require: Require) -> None:
    need(require, "zstd", "jq")

    items = run("jq", ".totals.items", "data/manifest.json", cwd=worked.path).stdout
    script = "zstd -dcq results/00001/a.jsonl.zst | jq -r 'select(.seq).record.text'"
    texts = run("bash", "-c", script, cwd=worked.path).stdout

    assert items == "10\n"
    assert texts.split() == ["4", "5", "6", "7"]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Path:
    """The shell reader of the documentation page."""
    need(require, "bash", "sha256sum", "zstd", "jq", "od")
    (text,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert text.count("\n") <= 60
    path = tmp_path_factory.mktemp("reader") / "read.sh"
    path.write_text(text)
    return path


class TestShellReader:
    """The reader on the documentation page, extracted and run."""

    def test_it_counts_what_verify_counts(self, script: Path, worked: Bundle) -> None:
        valid = [path for path in (GOLDEN / "valid").iterdir() if path.is_dir()]
        for path in (worked.path, *valid):
            said = run("bash", script, path, cwd=path)

            assert said.returncode == 0, said.stderr
            counts = verify(Bundle.open(path)).counts
            assert json.loads(said.stdout) == {verdict: counts[verdict] for verdict in VERDICTS}

    def test_it_drops_a_torn_tail(self, script: Path, bundle: Bundle, kit: "Kit") -> None:
        path = kit.work(bundle, 0, "a", {0: kit.answer()})
        path.with_name("a.json").unlink()
        path.write_bytes(path.read_bytes()[:-5])

        said = run("bash", script, bundle.path, cwd=bundle.path)

        assert json.loads(said.stdout)["ok"] == 1

    def test_it_refuses_the_broken_bundles_that_it_can_know(self, script: Path) -> None:
        paths = [path for path in (GOLDEN / "invalid").iterdir() if path.is_dir()]

        with ThreadPoolExecutor(4) as pool:
            codes = pool.map(lambda path: run("bash", script, path, cwd=path).returncode, paths)
        taken = {path.name for path, code in zip(paths, codes, strict=True) if code == 0}

        assert taken == WEAKER


def test_the_identity_is_a_plain_digest(worked: Bundle, require: Require) -> None:
    need(require, "sha256sum")

    said = run("sha256sum", "data/manifest.json", cwd=worked.path).stdout

    assert (
        said.split()[0]
        == worked.digest
        == sha256_hex((worked.path / "data/manifest.json").read_bytes())
    )
