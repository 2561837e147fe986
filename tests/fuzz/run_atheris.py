"""Fuzz the readers of bundles for as long as you like, guided by the code that is reached.

    pip install -e '.[fuzz]'
    python tests/fuzz/run_atheris.py bundle -max_total_time=3600
    python tests/fuzz/run_atheris.py pack corpus/ -max_total_time=3600

The first word names the target: bundle, pack or signature. What follows is for libFuzzer; a
folder keeps what was found. The mutations and the oracle are those of the hypothesis suite, so
a failing input becomes a test there. Everything is written below the folder for temporary
files; let it be in memory.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.mutations import Chooser

TARGETS = ("bundle", "pack", "signature")


def main() -> None:
    """Run one target until libFuzzer stops it."""
    import atheris

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    target = sys.argv.pop(1)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with atheris.instrument_imports(include=["themis_bundles"]):
        from tests.fuzz import oracle

    class Fuzzed:
        """Lets the fuzzer choose."""

        def __init__(self, data: bytes) -> None:
            self._data = atheris.FuzzedDataProvider(data)

        def number(self, low: int, high: int) -> int:
            return int(self._data.ConsumeIntInRange(low, high))

        def junk(self, most: int) -> bytes:
            return bytes(self._data.ConsumeBytes(self.number(1, most))) or b"\0"

    os.fsync = lambda _: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        attack: Callable[[Chooser], None]
        if target == "signature":
            attack = partial(oracle.attack_signature, *oracle.signed_original(Path(folder)))
        else:
            one = oracle.attack_bundle if target == "bundle" else oracle.attack_pack
            attack = partial(one, oracle.original(Path(folder)))
        atheris.Setup(sys.argv, lambda data: attack(Fuzzed(data)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
