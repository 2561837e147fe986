"""What a task tells Slurm when it ends.

All are below 128, because Slurm subtracts 128 from anything above. The numbers of sysexits.h
are used where one fits.
"""

DONE = 0
"""The shard is complete."""

BAD_INPUT = 65
"""The bundle cannot be worked on; another attempt cannot help."""

NOT_READY = 69
"""This node or environment is unfit: a GPU, a model, a library or disk space is missing."""

SOFTWARE = 70
"""Something failed that should not; the traceback is in the log."""

PARTIAL = 75
"""Stopped in time with everything flushed; another attempt continues."""
