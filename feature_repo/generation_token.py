"""What stands for everything a publication writes: a server that has the same token has the same rows to come."""

from pathlib import Path

from feature_repo.feature_pair import CODEC_FILE, open_codec
from feature_repo.online_rows import chosen_digest
from pipeline.settings import digest


def token_of(folder: Path) -> str:
    """Digest of the rows chosen and of the codec; empty where the folder does not hold them.

    Args:
        folder: of a publication.
    """
    rows = chosen_digest(folder)
    if not rows or not (folder / CODEC_FILE).is_file():
        return ""
    codec = open_codec(folder)
    return digest({"rows": rows, "codec": codec.to_json(), "basis": codec.basis_bytes().hex()})
