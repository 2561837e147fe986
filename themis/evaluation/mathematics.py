r"""The metric `math_verify`: whether two mathematical expressions are equal.

The comparison is Math-Verify's (github.com/huggingface/Math-Verify): both sides are parsed from
LaTeX or plain text and compared with sympy. It runs in a process of its own, one for each
process that scores, because what a model wrote may take for ever to simplify and the library's
own timeouts work in the main thread only.
"""

import atexit
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from themis.errors import MetricError, missing_extra
from themis.evaluation.protocol import MetricResult
from themis.evaluation.references import final_answer, references_of

SECONDS = 10.0
"""How long one comparison may take before it is given up."""

_START_SECONDS = 120.0
"""How long the process may take to import sympy, which is slow on a network file system."""

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""On a node with many cores, thread pools alone would use up the helper's address space."""

_FORMULA = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")  # `\$` is a dollar


class MathVerify:
    r"""Whether the answer and the reference are the same expression, set, interval or number.

    A reference may be a worked solution that ends in `#### 18`, `The answer is: 18` or
    `\boxed{18}`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise missing_extra("math-verify", "math")
        self._seconds = seconds

    def score(
        self,
        *,
        text: str,
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the expressions.

        Raises:
            MetricError: The reference cannot be parsed, or the comparison took too long.
        """
        given = answer if isinstance(answer, str) else json.dumps(answer)
        result = MetricResult(0.0)
        for reference in references_of(payload, reference_field):
            wanted = reference if isinstance(reference, str) else json.dumps(reference)
            result = self._compare(final_answer(wanted), given, whole=given == text)
            if result.value:
                break
        return result

    def _compare(self, wanted: str, given: str, *, whole: bool) -> MetricResult:
        if given.strip() == wanted.strip():
            return MetricResult(1.0, {"reason": "identical"})
        asked = {"gold": _writings(wanted, whole=False), "answer": _writings(given, whole=whole)}
        reply = _helper(os.getpid()).ask(asked, self._seconds)
        if "error" in reply:
            raise MetricError(f"the comparison failed: {reply['error']}")
        if reply["gold"] is None:
            raise MetricError(f"the reference {wanted[:80]!r} is no mathematics that can be parsed")
        if reply["answer"] is None:
            return MetricResult(0.0, {"reason": "not_mathematics", "reference": reply["gold"]})
        facts = {"answer": reply["answer"], "reference": reply["gold"]}
        return MetricResult(float(reply["equal"]), facts)


def _writings(text: str, *, whole: bool) -> list[str]:
    """Return how to hand a text to the parser, which looks for formulas; the first that works.

    A bare answer is a formula; a whole output is prose with formulas in it.
    """
    if _FORMULA.search(text):
        return [text]
    bare = [rf"\boxed{{{text}}}", f"${text}$"]
    return [text, *bare] if whole else [*bare, text]


@cache
def _helper(process: int) -> "_Helper":
    """Return this process's helper; a fork must neither use nor end its parent's."""
    helper = _Helper()
    atexit.register(lambda: helper.stop() if os.getpid() == process else None)
    return helper


class _Helper:
    """A process that compares, started when it is first needed and after each timeout."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""

    def ask(self, asked: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the reply; one comparison at a time, whatever the thread."""
        with self._lock:
            process = self._process or self._start()
            line = json.dumps(asked).encode() + b"\n"
            try:
                assert process.stdin is not None  # noqa: S101 - it was opened with pipes
                process.stdin.write(line)
                process.stdin.flush()
                return self._reply(process, seconds)
            except TimeoutError:
                self.stop()
                raise MetricError(f"the comparison took longer than {seconds:g} s") from None
            except (OSError, EOFError) as error:
                self.stop()
                raise MetricError("the comparison ended its process") from error

    def stop(self) -> None:
        """End the process, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the script's folder must not be searched before the standard library.
        script = Path(__file__).with_name("math_worker.py")
        process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        self._process, self._pending = process, b""
        try:
            self._reply(process, _START_SECONDS)
        except (TimeoutError, EOFError) as error:
            self.stop()
            raise MetricError("the process that compares mathematics did not start") from error
        return process

    def _reply(self, process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
        assert process.stdout is not None  # noqa: S101 - it was opened with pipes
        channel = process.stdout.fileno()
        poller = select.poll()  # select() would fail beyond 1,024 open files
        poller.register(channel, select.POLLIN | select.POLLHUP)
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            received = os.read(channel, 65536)
            if not received:
                raise EOFError
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply
