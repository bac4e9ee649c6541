"""One thing that was looked at and judged, of a gate or of a canary, and the sentence a person reads of it."""

from collections.abc import Mapping, Sequence
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


def lines(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a check as verdicts hold them, for people."""
    return [f"{'ok' if check['passed'] else 'FAILED':8}{check['name']}: {check['told']}" for check in checks]


def broken(checks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name and sentence of those that did not pass."""
    return {check["name"]: check["told"] for check in checks if not check["passed"]}


def joined(told: Mapping[str, str]) -> str:
    """What `broken` found, as part of a message."""
    return "; ".join(f"{name}: {sentence}" for name, sentence in told.items())
