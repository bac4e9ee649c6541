"""`msd tune`: the settings of arms, searched over each arm's declared space by Optuna's TPE, judged by the valid AUC.

Every arm gets the same number of trials, in turn, and trial 0 of each is the arm as it stands: a comparison in which
one arm was searched longer than another says nothing. Trials lie in an SQLite file, so that a killed search goes on;
what a trial tries depends on the seed and on the finished trials before it alone, killed or not.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msd_models.arm_trials import KEY_DIGITS, Bench, default_parameters, read_by, run_trial, settings_tried
from msd_models.arm_tuning_report import TunedArm, TunedTrial, draw_history, table_lines, tuned_arms_file
from msd_models.arms import Arm
from msd_models.arms_file import read_arms
from msd_models.ctr_records import open_inputs
from msd_models.language_model import cpu_threads
from msd_models.vector_alignment import align_vectors, open_vectors
from pipeline.config import CtrModel
from pipeline.errors import ConfigError, UsageError
from pipeline.progress import note, progress
from pipeline.settings import digest
from pipeline.storage import Dataset, write_atomically

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STORE = "trials.sqlite"
FIRST_JUDGED_EPOCH = 2
"""One epoch says little of a small learning rate."""
STARTUP_TRIALS = 8
"""Finished trials before TPE leaves random draws and the pruner looks at a median."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is searched."""

    trials: int
    """Of each arm; those the pruner cuts short count too, as settings that were tried."""
    seconds: float = 0.0
    """No further round of trials is begun after so long; 0: no limit."""
    seeds: tuple[int, ...] = (1,)
    """One training a trial and seed."""


def needed_datasets(config: CtrModel, names: Sequence[str]) -> list[str]:
    """What must be made before these arms can be tuned.

    Raises:
        UsageError: an unknown arm, or one that declares no space.
    """
    arms = read_arms(config.arms_file)
    wanted = [name for arm in _chosen(config, names).values() for name in read_by(arm, arms)]
    return list(dict.fromkeys(wanted))


def tune(
    config: CtrModel, folder: Path, names: Sequence[str], budget: Budget, datasets: Mapping[str, Dataset]
) -> list[str]:
    """Searches the arms side by side and writes best.toml and history.png into the folder.

    Args:
        config: of ctr_model; what is not tried is as it says.
        folder: keeps the trials of every search so far.
        names: of the arms.
        budget: trials, seconds and seeds.
        datasets: those of `needed_datasets`, committed.

    Returns:
        The table's lines: the best settings of each arm over the same number of trials.
    """
    arms = _chosen(config, names)
    folder.mkdir(parents=True, exist_ok=True)
    with _bench(config, folder, arms, budget, datasets) as bench, cpu_threads(config.threads):
        searches = [_Search(arm, bench) for arm in arms.values()]
        _run_rounds(searches, budget)
    common = min([budget.trials, *(len(search.finished()) for search in searches)])
    tuned = [search.result(common) for search in searches]
    text = tuned_arms_file(tuned, config.arms_file)
    write_atomically(folder / "best.toml", text.encode())
    draw_history(folder, tuned)
    return table_lines(tuned)


def _chosen(config: CtrModel, names: Sequence[str]) -> dict[str, Arm]:
    arms = read_arms(config.arms_file)
    unknown = [name for name in names if name not in arms]
    if unknown or not names:
        found = f"there is no arm {', '.join(unknown)}" if unknown else "no arm is named"
        raise UsageError(f"tune: {found}; there are {', '.join(arms)}")
    empty = [name for name in names if not arms[name].space]
    if empty:
        raise ConfigError(f"tune: {', '.join(empty)} declares no [ARM.space]; write one into a file of arms")
    return {name: arms[name] for name in dict.fromkeys(names)}


@contextmanager
def _bench(
    config: CtrModel, folder: Path, arms: Mapping[str, Arm], budget: Budget, datasets: Mapping[str, Dataset]
) -> Iterator[Bench]:
    """The opened records and vectors; the aligned vectors are gone afterwards."""
    every = read_arms(config.arms_file)
    read = {name for arm in arms.values() for name in (arm.name, arm.learns_from) if name}
    sources = {every[name].vectors for name in read} - {None}
    vectors = None
    scratch = folder / "vectors"
    try:
        if sources:
            align_vectors(scratch, datasets, {source for source in sources if source is not None})
            vectors = open_vectors(scratch)
        yield Bench(
            inputs=open_inputs(datasets["ctr_records"].folder),
            vectors=vectors,
            arms=every,
            config=config,
            seeds=budget.seeds,
            folder=folder,
            fingerprints={name: dataset.fingerprint for name, dataset in datasets.items()},
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_rounds(searches: Sequence["_Search"], budget: Budget) -> None:
    """Each round is one trial of every arm, so that stopping anywhere leaves them level."""
    started = time.monotonic()
    left = sum(max(0, budget.trials - len(search.finished())) for search in searches)
    with progress("tune", left, unit="trials") as advance:
        for number in range(budget.trials):
            behind = [search for search in searches if len(search.finished()) <= number]
            spent = time.monotonic() - started
            if behind and budget.seconds and spent >= budget.seconds:
                note(f"tune: {spent:,.0f} s are over after {number} of {budget.trials} trials of each arm")
                return
            for search in behind:
                search.try_next()
                advance()


class _Search:
    """The study of one arm on these data: another space, setting, seed or dataset is another study."""

    def __init__(self, arm: Arm, bench: Bench) -> None:
        self.arm, self.bench = arm, bench
        self.key = digest({"arm": bench.key(arm), "space": arm.space, "seeds": bench.seeds})
        self.study = self._open(bench.folder / STORE)
        self._bury()

    def finished(self) -> "list[FrozenTrial]":
        """Trials that ended, by a value or by the pruner, in their order."""
        from optuna.trial import TrialState

        return list(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def try_next(self) -> None:
        """One more trial."""
        from optuna import TrialPruned
        from optuna.trial import TrialState

        number = len(self.finished())
        self.study.sampler = _sampler(self.key, number)
        if number == 0:
            self._ask_for_default()
        trial = self.study.ask()
        try:
            value = run_trial(trial, self.arm, self.bench)
        except TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            note(f"      {self.arm.name} trial {number}: cut short; {_written(self._tried(trial.params))}")
            return
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        self.study.tell(trial, value)
        note(f"      {self.arm.name} trial {number}: valid AUC {value:.4f}; {_written(self._tried(trial.params))}")

    def result(self, trials: int) -> TunedArm:
        """What the first so many trials found."""
        from optuna.trial import TrialState

        told = [
            TunedTrial(
                value=trial.value if trial.state is TrialState.COMPLETE else None, settings=self._tried(trial.params)
            )
            for trial in self.finished()[:trials]
        ]
        return TunedArm(name=self.arm.name, trials=tuple(told))

    def _tried(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return settings_tried(self.arm, params)

    def _open(self, path: Path) -> "Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name=f"{self.arm.name}:{self.key[:KEY_DIGITS]}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=FIRST_JUDGED_EPOCH),
            load_if_exists=True,
        )

    def _bury(self) -> None:
        """Trials that a killed search left running will not end; nobody else searches here, as the folder is held."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _ask_for_default(self) -> None:
        from optuna.trial import TrialState

        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            inside, outside = default_parameters(self.arm, self.bench.config)
            self.study.enqueue_trial(inside, user_attrs={"skipped": outside})


def _sampler(key: str, number: int) -> Any:
    """Seeded by the trial's place, so that a search that was killed draws what it would have drawn."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(digest([key, number])[:8], 16), n_startup_trials=STARTUP_TRIALS)


def _written(settings: Mapping[str, Any]) -> str:
    rounded = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in settings.items()}
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in rounded.items())
