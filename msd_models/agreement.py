"""How far two annotators agree: Cohen's kappa over the candidates both labelled, with an interval over rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msd_models.annotation import LABELS, read_labelled
from pipeline.errors import SourceError

ROUNDS = 1000
TAIL = 2.5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two annotators on the same candidates."""

    candidates: int
    rows: int
    observed: float
    """Share of candidates with the same label."""
    kappa: float | None
    """Agreement beyond chance, 1 when perfect; None where both used one and the same label throughout."""
    interval: tuple[float, float] | None
    """95%, from a bootstrap over rows; None with kappa, or with one row."""
    confusion: list[list[int]]
    """[label of the first][label of the second], in the order of LABELS."""

    def lines(self) -> list[str]:
        """What a person reads."""
        told = "undefined: both used one label only" if self.kappa is None else f"{self.kappa:.3f}"
        if self.interval:
            told += f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        width = max(len(label) for label in LABELS) + 2
        table = ["first \\ second".ljust(16) + "".join(label.rjust(width) for label in LABELS)]
        for label, counts in zip(LABELS, self.confusion, strict=True):
            table.append(label.ljust(16) + "".join(f"{count:,}".rjust(width) for count in counts))
        return [
            f"Cohen's kappa {told}",
            f"the same label on {self.observed:.1%} of {self.candidates:,} candidates in {self.rows:,} rows",
            *table,
        ]


def agree(first: Path, second: Path) -> Agreement:
    """Agreement of two labelled files on the candidates that both labelled.

    Raises:
        SourceError: a file cannot be read, or the two share no labelled candidate.
    """
    ours, theirs = _labels(first), _labels(second)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise SourceError(
            f"{first.name} and {second.name} share no labelled candidate; give both annotators copies of one export"
        )
    return compare([ours[key] for key in shared], [theirs[key] for key in shared], [row for row, _ in shared])


def compare(first: Sequence[str], second: Sequence[str], rows: Sequence[str]) -> Agreement:
    """Agreement of two label lists; candidates of one row depend on each other, so rows are what is resampled.

    Args:
        first: label of each candidate.
        second: labels of the same candidates.
        rows: which row each candidate is of.
    """
    from sklearn.metrics import cohen_kappa_score

    names, row_of_C = np.unique(np.asarray(rows), return_inverse=True)
    tables_RLL = np.zeros((len(names), len(LABELS), len(LABELS)))
    for row, one, other in zip(row_of_C, first, second, strict=True):
        tables_RLL[row, LABELS.index(one), LABELS.index(other)] += 1
    confusion_LL = tables_RLL.sum(axis=0)
    is_defined = len({*first, *second}) > 1
    return Agreement(
        candidates=len(first),
        rows=len(names),
        observed=float(np.trace(confusion_LL) / len(first)),
        kappa=float(cohen_kappa_score(first, second, labels=list(LABELS))) if is_defined else None,
        interval=_interval(tables_RLL) if is_defined and len(names) > 1 else None,
        confusion=confusion_LL.astype(int).tolist(),
    )


def _interval(tables_RLL: np.ndarray) -> tuple[float, float]:
    """Kappa of rows drawn with replacement; a draw in which one label stands alone has none and is left out."""
    num_rows = len(tables_RLL)
    draws_BR = np.random.default_rng(0).multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=ROUNDS)
    shares_BLL = np.einsum("br,rij->bij", draws_BR, tables_RLL)
    shares_BLL /= shares_BLL.sum(axis=(1, 2), keepdims=True)
    observed_B = np.einsum("bii->b", shares_BLL)
    chance_B = (shares_BLL.sum(axis=1) * shares_BLL.sum(axis=2)).sum(axis=1)
    # A hair below 1: the chance of one label alone is 1 but for rounding.
    is_defined_B = chance_B < 1 - 1e-9
    kappa_B = (observed_B - chance_B)[is_defined_B] / (1 - chance_B[is_defined_B])
    low, high = np.percentile(kappa_B, [TAIL, 100 - TAIL])
    return float(low), float(high)


def _labels(path: Path) -> dict[tuple[str, str], str]:
    return {
        (row["id"], candidate["phrase"].casefold()): candidate["label"]
        for _, row in read_labelled(path)
        for candidate in row["candidates"]
        if candidate["label"] is not None
    }
