"""What a publication would put online and what that takes, for `msd plan publication`: measured, not reckoned."""

import json
from pathlib import Path
from typing import Any

from feature_repo.feature_pair import FeaturePair, as_registered, fitted_codec
from feature_repo.online_memory import MEBIBYTE, bytes_per_key, limits, server_memory
from feature_repo.online_rows import Wanted, count_wanted
from feature_repo.shard_writer import WriteJob
from feature_repo.site import connected
from feature_repo.store import feast_home, project_name
from pipeline.estimate import Estimate
from pipeline.job import Job


def estimate(job: Job, *, measure: bool) -> Estimate:
    """Keys, bytes and seconds of a publication that is not made yet.

    Args:
        job: publication or tuned_publication, its features committed.
        measure: memory is measured all the same, which takes a moment; the pace is the last publication's.

    Raises:
        StageError: the features are not made yet.
        ServiceError: Redis cannot be reached.
    """
    pair = FeaturePair.of(*(job.inputs[name] for name in job.stage.inputs))
    if not job.config.online:
        return _estimate(pair, 0, 0, None, ("nothing goes online: online = false",))
    work, folder = feast_home(job.output.folder).parent, job.output.folder
    codec = fitted_codec(pair, job.config)
    plans = tuple(as_registered(pair, codec, folder, is_online=True).plans(work))
    trial = WriteJob(work=work, folder=folder, generation=folder.name, project=project_name(), plans=plans, codec=codec)
    with connected(work) as (redis, _):
        each, memory = bytes_per_key(redis, trial), server_memory(redis)
    wanted = Wanted(shard_rows=job.config.shard_rows, active_days=job.config.active_days, max_keys={})
    counted = count_wanted(plans, wanted, folder)
    chosen = counted | limits(job.config.memory_mib, counted, each)
    num_bytes = round(sum(each.get(entity, 0.0) * count for entity, count in chosen.items()))
    told = [
        f"{chosen[entity]:,} of {counted[entity]:,} {entity}s at {each.get(entity, 0.0):,.0f} bytes a key, measured on"
        " the server"
        for entity in counted
    ]
    room = memory.limit - memory.used - num_bytes if memory.limit else None
    told.append(f"{memory.told()}{_verdict(room)}")
    keys = sum(chosen.values())
    return _estimate(pair, keys, num_bytes, _seconds(work, keys), tuple(told))


def _estimate(pair: FeaturePair, keys: int, num_bytes: int, seconds: float | None, notes: tuple[str, ...]) -> Estimate:
    return Estimate(
        rows=pair.num_rows(),
        rows_left=keys,
        prompt_tokens=0,
        output_tokens=0,
        seconds=seconds,
        bytes=num_bytes,
        notes=notes,
    )


def _verdict(room: int | None) -> str:
    if room is None:
        return ""
    if room < 0:
        return f": {-room / MEBIBYTE:,.1f} MiB too little for it"
    return f": {room / MEBIBYTE:,.1f} MiB would be left"


def _seconds(work: Path, keys: int) -> float | None:
    """What so many keys take, as the latest publication of this work folder that wrote any went."""
    manifests: list[dict[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8"))
        for stage in ("publication", "tuned_publication")
        for path in (work / stage).glob("*/manifest.json")
    ]
    paced = [each for each in manifests if each["details"].get("written_keys")]
    if not paced:
        return None
    latest = max(paced, key=lambda each: str(each.get("created_at", "")))["details"]
    # Feast's import and the registry take the same time for any number of keys.
    apart = latest["online_seconds"] - latest["write_seconds"]
    return float(apart + keys * latest["write_seconds"] / latest["written_keys"])
