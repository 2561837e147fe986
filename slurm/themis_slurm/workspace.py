"""Where the dispatcher keeps its files beside a bundle.

    bundle/results/                     what the shards produced; the only truth about them
    bundle/dispatch/submissions/0003.json   what was asked of the cluster, before and after
    bundle/dispatch/jobs/0003/          one array: script, one log per shard; with submitit
                                        one level down, beside its pickles
    bundle/dispatch/options/<digest>.json   what the tasks of a submission were told
    bundle/dispatch/code/<digest>.txt       the packages of the environment that submitted
    bundle/dispatch/calibrations/           what short jobs measured
    bundle/dispatch/failures/           the last words of tasks that ended with an error
    bundle/dispatch/lock/               one submitter at a time

`dispatch` is always the neighbour of the results directory, so bundles on read-only storage
need one other place, not two.
"""

from dataclasses import dataclass
from pathlib import Path

from themis_bundles import Bundle
from themis_slurm.profile import ClusterProfile


@dataclass(frozen=True)
class Workspace:
    """A bundle with its results, and the dispatcher's folder."""

    bundle: Bundle
    dispatch: Path

    @property
    def submissions(self) -> Path:
        """Where submission records lie."""
        return self.dispatch / "submissions"

    @property
    def code(self) -> Path:
        """Where the packages of submissions are listed."""
        return self.dispatch / "code"

    @property
    def calibrations(self) -> Path:
        """Where calibrations of this bundle lie."""
        return self.dispatch / "calibrations"

    @property
    def failures(self) -> Path:
        """Where failed tasks leave their last words."""
        return self.dispatch / "failures"

    def jobs(self, number: int) -> Path:
        """Where the script and the logs of one submission lie."""
        return self.dispatch / "jobs" / f"{number:04d}"


def open_workspace(bundle: Path, *, results: Path | None = None) -> Workspace:
    """Open a bundle for dispatching.

    Args:
        bundle: The bundle's directory.
        results: Where its results go; None is `results` inside the bundle.

    Raises:
        themis_bundles.BundleError: The bundle is not valid.
    """
    opened = Bundle.open(bundle.absolute(), results=results.absolute() if results else None)
    return Workspace(opened, opened.results_dir.parent / "dispatch")


def open_for_profile(bundle: Path, profile: ClusterProfile) -> Workspace:
    """Open a bundle for dispatching with a profile, whose `results` decides the place.

    Two bundles never share a place: its name holds the bundle's digest.
    """
    if profile.results is None:
        return open_workspace(bundle)
    opened = Bundle.open(bundle.absolute())
    place = profile.results / f"{opened.path.name}-{opened.digest[:12]}"
    return open_workspace(bundle, results=place / "results")
