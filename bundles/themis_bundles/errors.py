"""What can go wrong with a bundle, worded for the person who reads it.

    BundleError
    ├── CanonicalError        a value or a line is not canonical JSON
    ├── FrameDamagedError     a compressed frame cannot be trusted
    ├── BundleInvalidError    the bytes break the format; carries every problem found
    ├── BundleExistsError     something lies where a new bundle or file was to be written
    ├── BundleWriteError      the file system refused a write (full disk, quota, I/O error)
    ├── RecordRefusedError    a record cannot be carried by the format
    ├── SignatureRefusedError no signature of a bundle satisfies the verifier
    └── SignatureToolError    ssh-keygen is missing, too old, or would not sign

`exit_code` is what a command line exits with: 2 for bad input, 3 when a verification was
refused, 4 when the environment is at fault.
"""

from pathlib import Path


class BundleError(Exception):
    """Anything wrong with a bundle."""

    exit_code = 3


class CanonicalError(BundleError, ValueError):
    """A value has no canonical JSON form, or a line is not in it."""

    exit_code = 2


class FrameDamagedError(BundleError):
    """A compressed frame cannot be trusted.

    Attributes:
        rule: The rule that it breaks, one word.
        reason: What was found, in words.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(rule, reason)
        self.rule = rule
        self.reason = reason

    def __str__(self) -> str:
        """Give the rule and what was found."""
        return f"{self.rule}: {self.reason}"


class BundleInvalidError(BundleError):
    """A bundle breaks the format.

    Attributes:
        path: The bundle.
        problems: Every problem found, in the order of the files.
    """

    def __init__(self, path: Path, problems: tuple[str, ...]) -> None:
        super().__init__(path, problems)
        self.path = path
        self.problems = problems

    def __str__(self) -> str:
        """Name the bundle once, then each problem on its own line."""
        return "\n  ".join((f"{self.path} is not a valid bundle:", *self.problems))


class BundleExistsError(BundleError):
    """Something lies where a new bundle or file was to be written.

    Attributes:
        path: What is in the way.
    """

    exit_code = 2

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        """Name what is in the way and what to do."""
        return f"{self.path} exists and is not empty; nothing was written. Choose another place."


class BundleWriteError(BundleError):
    """The file system refused a write; what was flushed before is kept.

    Attributes:
        path: The file or folder.
        reason: The operating system's words.
    """

    exit_code = 4

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        """Name the file and the operating system's reason."""
        return f"cannot write {self.path}: {self.reason}"


class RecordRefusedError(BundleError, ValueError):
    """A record cannot be carried by the format, so it was not written.

    Attributes:
        seq: The item that it answers.
        reason: What is wrong with it.
    """

    exit_code = 2

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(seq, reason)
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        """Name the item and the rule."""
        return f"the record of item {self.seq} cannot be written: {self.reason}"


class SignatureRefusedError(BundleError):
    """No signature of a bundle satisfies the verifier.

    Attributes:
        path: The bundle.
        reasons: What is wrong with each signature that was found.
    """

    def __init__(self, path: Path, reasons: tuple[str, ...]) -> None:
        super().__init__(path, reasons)
        self.path = path
        self.reasons = reasons

    def __str__(self) -> str:
        """Name the bundle, then each signature on its own line."""
        found = self.reasons or ("it is not signed",)
        return "\n  ".join((f"{self.path} has no signature of an allowed signer:", *found))


class SignatureToolError(BundleError):
    """The tool ssh-keygen is missing, too old, or would not sign."""

    exit_code = 4
