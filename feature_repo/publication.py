"""One generation of features: item_features and user_features → Feast's registry and Redis, and a receipt.

The order is what makes it safe. First the tables are judged, before any server is touched. Then, as the project's only
publisher, the rows that go online are chosen and kept beside the receipt; the registry gets the views; Redis gets the
rows shard by shard, under names of the generation's own, each read back; and only a generation that is whole becomes
what readers are pointed at, in one step. Killed anywhere, readers stay on the generation they had, and the next run
goes on at the first shard that is missing.
"""

from pathlib import Path
from typing import Any

from feature_repo.collection import collect
from feature_repo.feature_checks import check_features
from feature_repo.feature_pair import FeaturePair, as_registered, settle_codec
from feature_repo.publisher import Publisher, Write
from feature_repo.shard_writer import write_shards
from feature_repo.site import publishing
from feature_repo.store import feast_home
from feature_repo.switching import persist, register, switch
from pipeline.config import Publication
from pipeline.storage import Dataset, Outcome


def publish(
    config: Publication, folder: Path, item_features: Dataset, user_features: Dataset, write: Write = write_shards
) -> Outcome:
    """Publishes one generation.

    Args:
        config: what goes online and how.
        folder: of the dataset publication, whose fingerprint names the generation.
        item_features: of the same space as user_features.
        user_features: vectors, histories and statistics of users.
        write: who writes the shards.

    Returns:
        The receipt: rows of all views; those online are ok, older snapshots and keys left out are skipped.

    Raises:
        SpaceMismatch: the two are of different spaces.
        StageError: the vectors are not fit to be published, or the server has no room.
        BusyError: another publisher of the project is at work.
        ServiceError: Redis cannot be reached, or gives back something else than was written.
    """
    pair = FeaturePair.of(item_features, user_features)
    details: dict[str, Any] = {"space_id": pair.space_id, "generation": folder.name}
    details["checks"] = check_features(pair, config, folder)
    details |= bring_online(config, folder, pair, write)
    rows_in, rows_ok = pair.num_rows(), sum(details.get("online_rows", {}).values())
    return Outcome(rows_in=rows_in, rows_ok=rows_ok, rows_skipped=rows_in - rows_ok, details=details)


def publish_tuned(
    config: Publication,
    folder: Path,
    tuned_item_features: Dataset,
    tuned_user_features: Dataset,
    write: Write = write_shards,
) -> Outcome:
    """The same of the tuned student's space."""
    return publish(config, folder, tuned_item_features, tuned_user_features, write)


def bring_online(config: Publication, folder: Path, pair: FeaturePair, write: Write = write_shards) -> dict[str, Any]:
    """Registers a generation, writes what Redis lacks of it and activates it, as far as the settings say.

    Args:
        config: of the publication.
        folder: of the publication.
        pair: its features, found fit.
        write: who writes the shards.

    Returns:
        What belongs in the receipt.

    Raises:
        StageError, BusyError, ServiceError: as of publish.
    """
    codec = settle_codec(pair, config, folder)
    generation = as_registered(pair, codec, folder, is_online=config.online)
    home = feast_home(folder)
    details = {"codec": codec.to_json(), "views": [plan.name for plan in generation.plans(home.parent)]}
    if not config.online:
        register(home, generation, None)
        if config.activate:
            switch(home, generation, None)
        return details
    with publishing(home) as site:
        collect(site, config.grace_hours)
        details |= Publisher(config, generation, codec, site).publish(write)
        if config.activate:
            switch(home, generation, site)
        collect(site, config.grace_hours)
        persist(site.redis)
    return details | {"redis": site.redis.kind.value}
