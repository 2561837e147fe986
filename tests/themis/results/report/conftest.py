import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.aggregate import aggregate
from themis.results.compare import paired_compare
from themis.results.report.data import (
    ItemDetail,
    ItemExtraction,
    ItemScore,
    Message,
    ReportData,
    score_census,
)

ARMS = ("model_id", "prompt_variant_id", "params", "evaluation", "metric_id")
HOSTILE = (
    '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>\x1b[31m\u202e'
    '<a href="javascript:alert(1)">javascript:alert(2)</a><svg onload=alert(3)>" onfocus="alert(4)'
    "\u200b\u2066\U000e0041 <!-- ]]> {{7*7}}"
)


@pytest.fixture(scope="session")
def scores(table: Callable[..., ScoreTable]) -> ScoreTable:
    """Three models on two slices; one model has names that try to break out of every format."""
    right = {"base": (30, 20), "tuned_v2": (45, 22), "50% <b>|$&\\{x}*": (28, 20)}
    rows = [
        {"model": model, "slice": name, "item": f"{name}-{i}", "value": float(i < n)}
        for model, counts in right.items()
        for name, n in zip(("gsm8k", "math_500"), counts, strict=True)
        for i in range(60)
    ]
    failed = {"status": ScoreStatus.GENERATION_FAILED}
    extra = {"model": "base", "slice": "gsm8k", "item": "gsm8k-60"}
    return table([*rows, {**extra, **failed}])


@pytest.fixture(scope="session")
def items(scores: ScoreTable) -> tuple[ItemDetail, ...]:
    """One detail per row of the table; item gsm8k-7 of `base` is hostile."""
    return tuple(
        ItemDetail(
            slice_id=scores.slices[scores.slice[row]],
            model_id=scores.models[scores.model[row]],
            prompt_variant_id="plain",
            item_id=scores.items[scores.item[row]],
            messages=(Message("system", "Answer."), Message("user", f"What is {row} + 1?")),
            output=None
            if scores.status[row]
            else HOSTILE
            if scores.items[scores.item[row]] == "gsm8k-7"
            else f"It is {row + 1}.",
            finish_reason="stop",
            extractions=()
            if scores.status[row]
            else (ItemExtraction("regex", success=True, value=str(row + 1)),),
            scores=(
                ItemScore(
                    "default",
                    "default",
                    None if scores.status[row] else float(scores.value[row]),
                    ScoreStatus(int(scores.status[row])),
                ),
            ),
            expected=str(row + 1),
            error="context window of 4096 tokens exceeded" if scores.status[row] else None,
        )
        for row in range(scores.rows)
    )


@pytest.fixture(scope="session")
def data(scores: ScoreTable, items: tuple[ItemDetail, ...]) -> ReportData:
    return ReportData(
        title="Tuning & <tests>",
        run_id="run-7",
        created="2026-11-23",
        census=score_census(scores),
        aggregates=tuple(aggregate(scores, ("model_id", "metric_id"))),
        paired=tuple(paired_compare(scores, baseline="base", p_value_correction="holm")),
        breakdowns={"slice_id": tuple(aggregate(scores, ("slice_id", *ARMS)))},
        provenance={"engine": {"name": "demo", "version": "1"}, "seed": 7, "gpu": None},
        items=items,
        notes=("One item could not be generated.",),
    )


@pytest.fixture(scope="session")
def plain_data(data: ReportData) -> ReportData:
    return replace(data, items=())


@dataclass
class Browser:
    """A headless Chromium, driven over the WebDriver protocol with the standard library."""

    session: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.session}{path}", data, method=method)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def open(self, path: Path) -> None:
        self.call("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, seconds: float = 20.0) -> Any:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}")):
            if time.monotonic() > end:
                raise AssertionError(f"never became true: {condition}")
            time.sleep(0.05)
        return value

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": k} for k in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def logs(self) -> list[dict[str, Any]]:
        return list(self.call("POST", "/se/log", {"type": "browser"}))

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def prefer(self, **features: str) -> None:
        """Set what the person prefers, such as color_scheme="dark"."""
        wanted = [
            {"name": f"prefers-{k}".replace("_", "-"), "value": v} for k, v in features.items()
        ]
        self.cdp("Emulation.setEmulatedMedia", features=wanted)

    def pdf(self) -> bytes:
        """Print the page."""
        return b64decode(self.cdp("Page.printToPDF", printBackground=True)["data"])


@pytest.fixture(scope="session")
def chromium(
    require: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A WebDriver server for Chromium; gives its address."""
    driver, chrome = shutil.which("chromedriver"), shutil.which("chromium")
    require(driver and chrome, "needs chromium and chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(driver), f"--port={port}", f"--log-path={tmp_path_factory.mktemp('driver') / 'log'}"],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Iterator[Browser]:
    """A fresh browser that cannot reach any network."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        "--proxy-server=127.0.0.1:9",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": {"args": flags, "binary": shutil.which("chromium")},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    started = Browser(chromium).call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
    found = Browser(f"{chromium}/session/{started['sessionId']}")
    yield found
    found.call("DELETE", "")
