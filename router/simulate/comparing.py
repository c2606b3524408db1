"""Several choosers on the same workload and the same fate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from router.config import Policy, Recovery
from router.errors import ConfigurationError
from router.simulate.backends import Backend
from router.simulate.choosers import CHOOSERS
from router.simulate.demand import Demands
from router.simulate.report import Report, side_by_side
from router.simulate.world import run

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What several choosers made of the same requests.

    Attributes:
        reports: By chooser, one report per seed.
    """

    reports: Mapping[str, Sequence[Report]]

    def objective(self, chooser: str) -> float:
        """Mean realised objective per request over the seeds, in USD."""
        return fmean(report.objective for report in self.reports[chooser])

    def regret(self, chooser: str = "router", against: str = "all-knowing") -> float:
        """How much more a chooser's objective is than another's, as a share of the other's."""
        return self.objective(chooser) / self.objective(against) - 1.0

    def __str__(self) -> str:
        """The first seed's reports side by side, and what all seeds say of the regret."""
        table = side_by_side([reports[0] for reports in self.reports.values()])
        if "all-knowing" not in self.reports:
            return table
        regrets = ", ".join(
            f"{chooser} {self.regret(chooser):+.1%}" for chooser in self.reports if chooser != "all-knowing"
        )
        return f"{table}\n\nobjective above the all-knowing chooser's: {regrets}"


def compare(
    workload: Demands,
    backends: Sequence[Backend],
    policy: Policy | None = None,
    *,
    recovery: Recovery | None = None,
    choosers: Sequence[str] = CHOOSERS,
    seeds: Sequence[int] = (0,),
    until: float | None = None,
) -> Comparison:
    """Runs several choosers, each in its own world, on the same requests with the same fate.

    Args:
        workload: As `run`.
        backends: As `run`.
        policy: As `run`.
        recovery: As `run`.
        choosers: Who; all by default.
        seeds: One run each.
        until: As `run`.

    Raises:
        ConfigurationError: as `run`, or if there is nobody to compare.
    """
    for field, given in (("choosers", choosers), ("seeds", seeds)):
        if not given:
            raise ConfigurationError(f"{field}: at least one is needed", field=field)
    return Comparison(
        {
            chooser: tuple(
                run(workload, backends, policy, recovery=recovery, seed=seed, chooser=chooser, until=until)
                for seed in seeds
            )
            for chooser in choosers
        }
    )
