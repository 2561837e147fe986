"""A commented profile to start from, written from what a cluster says about itself."""

from collections.abc import Iterator

from themis_slurm.profile import ClusterProfile
from themis_slurm.site import Partition, Site

LONGEST_SUGGESTED_MINUTES = 120
# Slurm and the system keep some memory of a node for themselves.
USABLE_MEMORY = 0.9
DEFAULT_MARGIN_S = ClusterProfile().signal_margin_s
_SMALL_GB = 10


def profile_text(site: Site) -> str:
    """Write a commented profile for a cluster; what it could not know is a comment."""
    chosen = _best(site.partitions)
    sections = (_head(site), _place(site, chosen), _shares(site, chosen), _rest())
    return "\n".join(line for section in sections for line in section) + "\n"


def _best(partitions: tuple[Partition, ...]) -> Partition | None:
    """Choose where shards should go: up, with GPUs, and rather where jobs go by default."""
    ranked = sorted(partitions, key=lambda p: (p.up, p.gpus > 0, p.default), reverse=True)
    return ranked[0] if ranked else None


def _head(site: Site) -> Iterator[str]:
    yield f"# Cluster {site.cluster or 'without a name'}, Slurm {site.version}."
    yield "# Written from what it says about itself: read it, change what is wrong, then run"
    yield "#   themis slurm doctor BUNDLE --profile THIS_FILE"
    yield "#"
    yield "# partition        nodes  cpus  memory    GPUs          time limit"
    for part in site.partitions:
        gpus = f"{part.gpus} x {part.gpu_type or 'any'}" if part.gpus else "-"
        limit = "none" if part.minutes is None else _clock(part.minutes)
        name = part.name + ("*" if part.default else "") + ("" if part.up else " (down)")
        memory = f"{part.memory_mb / 1024:.0f} GiB"
        yield f"# {name:16} {part.nodes:5}  {part.cpus:4}  {memory:8}  {gpus:12}  {limit}"
    yield ""


def _place(site: Site, chosen: Partition | None) -> Iterator[str]:
    if chosen is None:
        yield '# partition = ""'
    else:
        yield f"partition = {_quoted(chosen.name)}"
    if site.accounts is None:
        yield "# This cluster keeps no accounts that could be asked for."
    for place, account in enumerate(site.accounts or ()):
        mark = "" if place == 0 else "# "
        qos = f"          # qos: {', '.join(account.qos)}" if account.qos else ""
        yield f"{mark}account = {_quoted(account.name)}{qos}"
    yield ""


def _shares(site: Site, chosen: Partition | None) -> Iterator[str]:
    """Write the resources of one shard: one GPU and its share of the node."""
    yield "# What one shard gets: one engine on one node."
    gpus = chosen.gpus if chosen else 0
    if chosen and gpus:
        yield "gpus = 1"
        if chosen.gpu_type:
            yield f"gpu_type = {_quoted(chosen.gpu_type)}"
    each = max(1, gpus)
    yield f"cpus = {max(1, (chosen.cpus if chosen and gpus else 1) // each)}"
    if chosen and gpus and chosen.memory_mb:
        share = chosen.memory_mb * USABLE_MEMORY / each / 1024
        yield f"mem_gb = {share:.1f}" if share < _SMALL_GB else f"mem_gb = {int(share)}"
    else:
        yield "# mem_gb = 16"
    limit = LONGEST_SUGGESTED_MINUTES
    if chosen and chosen.minutes is not None:
        limit = min(limit, chosen.minutes)
    yield f'walltime = "{_clock(limit)}"'
    if limit * 60 <= 2 * DEFAULT_MARGIN_S:
        yield f"signal_margin_s = {max(10, limit * 20)}        # a third of the walltime"
    if not site.requeue:
        yield "requeue = false             # this cluster starts no job again by itself"
    most = [a.max_submit for a in site.accounts or () if a.max_submit]
    if most:
        yield f"max_submit = {max(1, min(most) // 2)}           # half of what you may have"
    if site.max_array_size:
        yield f"# arrays of up to {site.max_array_size} elements; larger work is split by itself"
    yield ""


def _rest() -> Iterator[str]:
    yield "# Shell lines before each shard."
    yield 'setup = []                    # "module load cuda", "source /shared/venv/bin/activate"'
    yield '# scratch = "$TMPDIR"         # where on the nodes temporary files go'
    yield '# submission = "sbatch"       # scripts of our own; containers then need no submitit'
    yield ""
    yield "# [container]"
    yield '# runtime = "apptainer"'
    yield '# image = "/shared/images/themis.sif"'
    yield ""
    yield "[models]                      # model id = directory on the nodes"
    yield '# "Qwen/Qwen2.5-7B-Instruct" = "/shared/models/Qwen2.5-7B-Instruct"'


def _clock(minutes: int) -> str:
    """Write minutes as Slurm does.

    >>> _clock(90), _clock(1500)
    ('01:30:00', '1-01:00:00')
    """
    days, rest = divmod(minutes, 24 * 60)
    clock = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{clock}" if days else clock


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
