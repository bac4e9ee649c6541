"""One thing that was looked at and judged, of a gate or of a canary, and the sentence a person reads of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """A figure beside its bound."""

    name: str
    passed: bool
    told: str
    """What was found and what was wanted."""
    figure: float | None = None
    """None where nothing could be measured."""
    bound: float | None = None
    """None where the figure is told and not judged."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else belongs in the verdict, JSON-able."""

    def to_json(self) -> dict[str, Any]:
        """As verdicts hold it."""
        return asdict(self)


def at_least(name: str, what: str, figure: float, bound: float, **facts: Any) -> Check:
    """Passes where the figure is not below the bound."""
    told = f"{what} is {figure:.4g}, wanted {bound:.4g} or more"
    return Check(name=name, passed=figure >= bound, told=told, figure=figure, bound=bound, facts=facts)


def at_most(name: str, what: str, figure: float, bound: float, **facts: Any) -> Check:
    """Passes where the figure is not above the bound."""
    told = f"{what} is {figure:.4g}, wanted {bound:.4g} or less"
    return Check(name=name, passed=figure <= bound, told=told, figure=figure, bound=bound, facts=facts)


def lines(checks: Sequence[Check]) -> list[str]:
    """One line a check, for people."""
    return [f"{'ok    ' if check.passed else 'FAILED'}  {check.name}: {check.told}" for check in checks]


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that did not pass."""
    return [check for check in checks if not check.passed]
