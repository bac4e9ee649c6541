"""A second round of prompts: more rows of the strata in which a student's phrases are farthest from its teacher's.

Stratum c gets rows in proportion to N_c^a · (1 − F1_c) on top of its n_c, over both levels together. The draw takes the
smallest keys of a stratum, so that the first round's rows stay and only new ones are generated; inclusion probabilities
are those of one draw with the larger n_c.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline import config as configs
from pipeline.errors import ConfigError
from spark_jobs.sampling import Strata

Key = tuple[str, str]
"""Level and stratum."""


def second_round(strata: Mapping[str, Strata], config: configs.Prompts) -> dict[str, Strata]:
    """The strata of both levels with the rows of the second round, where one is asked for.

    Raises:
        ConfigError: one of `focus` and `focus_rows` without the other, or a file that holds no F1 of strata.
    """
    if not config.focus and config.focus_rows == 0:
        return dict(strata)
    if not config.focus or config.focus_rows <= 0:
        raise ConfigError(
            f"[prompts] focus = '{config.focus}' and focus_rows = {config.focus_rows}: a second round wants both, the"
            " strata.json of a committed student and a number of rows above 0"
        )
    measured = _read(Path(config.focus).expanduser())
    missing = _assumed(measured)
    weights, room = {}, {}
    for level, of in strata.items():
        for name, rows in of.rows.items():
            f1 = measured.get((level, name), missing[level])
            weights[level, name] = rows**config.stratum_power * (1 - f1)
            room[level, name] = rows - of.drawn[name]
    extra = share_out(config.focus_rows, weights, room)
    return {
        level: Strata(
            of_category=of.of_category,
            rows=of.rows,
            drawn={name: drawn + extra[level, name] for name, drawn in of.drawn.items()},
        )
        for level, of in strata.items()
    }


def share_out(num_rows: int, weights: Mapping[Key, float], room: Mapping[Key, int]) -> dict[Key, int]:
    """Whole rows in proportion to the weights, at most each one's room; what does not fit goes to the others.

    The sum is num_rows, or what the strata of weight above 0 have room for where that is less.
    """
    given = {key: 0.0 for key in weights}
    open_ = {key for key, weight in weights.items() if weight > 0 and room[key] > 0}
    left = float(min(num_rows, sum(room[key] for key in open_)))
    while open_:
        scale = left / sum(weights[key] for key in open_)
        full = {key for key in open_ if weights[key] * scale >= room[key]}
        for key in full or open_:
            given[key] = float(room[key]) if full else weights[key] * scale
        if not full:
            break
        left -= sum(room[key] for key in full)
        open_ -= full
    return _whole(given)


def _whole(given: Mapping[Key, float]) -> dict[Key, int]:
    """Largest remainders; ties go to the first name."""
    whole = {key: math.floor(share) for key, share in given.items()}
    over = round(sum(given.values())) - sum(whole.values())
    by_remainder = sorted(given, key=lambda key: (whole[key] - given[key], key))
    for key in by_remainder[:over]:
        whole[key] += 1
    return whole


def _read(path: Path) -> dict[Key, float]:
    """F1 by level and stratum; strata without one are left out."""
    if not path.is_file():
        raise ConfigError(
            f"[prompts] focus: there is no file {path}; strata.json of a committed student was wanted; msd run student"
            " makes it, in student/… of the work folder"
        )
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        found = {
            (level, name): float(facts["f1"])
            for level, strata in document.items()
            for name, facts in strata.items()
            if facts["f1"] is not None
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(_malformed(path, f"it cannot be read so ({type(error).__name__}: {error})")) from error
    wrong = {f1 for f1 in found.values() if not 0 <= f1 <= 1}
    if wrong:
        raise ConfigError(_malformed(path, f"it holds an f1 of {min(wrong)}"))
    if not found:
        raise ConfigError(_malformed(path, "it holds no f1"))
    return found


def _malformed(path: Path, found: str) -> str:
    return (
        f'[prompts] focus: {path.name} must be a student\'s {{"item": {{"Drama": {{"f1": 0.2, "rows": 5}}}}, "user":'
        f" {{…}}}} with f1 from 0 to 1, but {found}; make one with: msd run student"
    )


def _assumed(measured: Mapping[Key, float]) -> dict[str, float]:
    """Of each level, the F1 of a stratum without one: the level's mean, or the mean of all."""
    overall = fmean(measured.values())
    by_level = {level: [f1 for (of, _), f1 in measured.items() if of == level] for level in ("item", "user")}
    return {level: fmean(listed) if listed else overall for level, listed in by_level.items()}
