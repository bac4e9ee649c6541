"""Pictures in files: a figure of Matplotlib as PNG and SVG, the same bytes each time, whole or not there at all."""

from pathlib import Path
from typing import Any

from pipeline.storage import write_atomically


def drawing_board() -> Any:
    """Matplotlib's pyplot, set up to draw into files alone."""
    import matplotlib as mpl

    mpl.use("agg")
    # Ids in an SVG are random without a salt; text stays text, not outlines.
    mpl.rcParams.update({"svg.hashsalt": "msd", "svg.fonttype": "none"})
    from matplotlib import pyplot

    return pyplot


def save_picture(figure: Any, folder: Path, name: str) -> None:
    """Writes `<name>.png` and `<name>.svg` into folder and closes the figure."""
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        aside = folder / f".{name}.{suffix}"
        figure.savefig(aside, format=suffix, dpi=150, metadata=metadata)
        write_atomically(folder / f"{name}.{suffix}", aside.read_bytes())
        aside.unlink()
    drawing_board().close(figure)
