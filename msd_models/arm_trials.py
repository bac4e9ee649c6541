"""One trial of a tuning: an arm under chosen settings, trained once a seed and judged by its valid AUC alone."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from msd_models.arms import NOT_OF_AN_ARM, Arm, settings_of
from msd_models.ctr_inputs import CtrInputs
from msd_models.ctr_job import load_weights
from msd_models.ctr_network import CtrNetwork
from msd_models.elec import TaughtNetwork
from msd_models.fitting import fit
from msd_models.networks import build
from msd_models.vector_alignment import DATASETS, FEATURES
from msd_models.vector_tables import SemanticVectors
from pipeline.config import CtrModel
from pipeline.progress import note
from pipeline.settings import digest, identity

if TYPE_CHECKING:
    from optuna.trial import Trial

KEY_DIGITS = 12
Values = dict[str, Any]


def read_by(arm: Arm, arms: Mapping[str, Arm]) -> list[str]:
    """Datasets that an arm, and the one it learns from, are trained on."""
    found = ["ctr_records"]
    for one in (arm, arms.get(arm.learns_from)):
        if one is not None and one.vectors is not None:
            found += [*FEATURES.values(), "context_vectors", *DATASETS.get(one.vectors, {}).values()]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every trial of one tuning has in common."""

    inputs: CtrInputs
    vectors: SemanticVectors | None
    arms: Mapping[str, Arm]
    config: CtrModel
    """Of the stage."""
    seeds: tuple[int, ...]
    folder: Path
    """Of the tuning: gets the weights of arms that others learn from."""
    fingerprints: Mapping[str, str]
    """Of the datasets, by name."""

    def key(self, arm: Arm) -> str:
        """Names what the arm is as it stands, on these data: trials of another key are trials of something else."""
        chain = [arm, *([self.arms[arm.learns_from]] if arm.learns_from else [])]
        facts = [
            {
                "arm": {**asdict(one), "summary": "", "settings": {}},
                "settings": {
                    k: v for k, v in identity(settings_of(one, self.config)).items() if k not in NOT_OF_AN_ARM
                },
            }
            for one in chain
        ]
        return digest({"arms": facts, "datasets": {name: self.fingerprints[name] for name in read_by(arm, self.arms)}})

    def train(
        self, arm: Arm, seed: int, after_epoch: Callable[[int, float], None] | None = None
    ) -> tuple[float, CtrNetwork]:
        """The best epoch's valid AUC, and the network with its weights."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = build(arm, {**self.arms, arm.name: arm}, seed, self.inputs, self.vectors, self.config)
        if isinstance(network, TaughtNetwork) and network.needs_gain:
            network.load_gain(load_weights(self._gain(arm.learns_from, seed)))
        network = network.to(device)
        fitted = fit(network, self.inputs, settings_of(arm, self.config), seed, _nobody, after_epoch=after_epoch)
        return max(fitted.valid_auc), network

    def _gain(self, name: str, seed: int) -> Path:
        """Weights of the arm that another learns from: under its own settings, trained once for all trials."""
        from safetensors.torch import save_file

        key = self.key(self.arms[name])[:KEY_DIGITS]
        path = self.folder / "taught-by" / f"{name}-{key}-{seed}.safetensors"
        if not path.is_file():
            value, network = self.train(self.arms[name], seed)
            note(f"      {name} seed {seed}, which is learned from: valid AUC {value:.4f}")
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".writing")
            save_file({key: tensor.cpu().clone() for key, tensor in network.served_state().items()}, aside)
            aside.replace(path)
        return path


def run_trial(trial: "Trial", arm: Arm, bench: Bench) -> float:
    """The mean valid AUC over the seeds.

    Raises:
        optuna.TrialPruned: after an epoch of the first seed that the median of the earlier trials had passed.
    """
    started = time.monotonic()
    tried = replace(arm, settings={**arm.settings, **suggested(trial, arm)})
    values = [
        bench.train(tried, seed, _pruning(trial) if number == 0 else None)[0] for number, seed in enumerate(bench.seeds)
    ]
    trial.set_user_attr("valid_auc_by_seed", [round(value, 6) for value in values])
    trial.set_user_attr("seconds", round(time.monotonic() - started, 3))
    return float(np.mean(values))


def suggested(trial: "Trial", arm: Arm) -> Values:
    """The settings a trial is to try; one that the trial was not given and need not have stays as it is."""
    skipped = trial.user_attrs.get("skipped", [])
    return {name: _suggest(trial, name, space) for name, space in arm.space.items() if name not in skipped}


def default_parameters(arm: Arm, config: CtrModel) -> tuple[Values, list[str]]:
    """What trial 0 is given so that it is the arm as it stands, and the settings that lie outside the space."""
    inside, outside = {}, []
    for name, space in arm.space.items():
        value = getattr(settings_of(arm, config), name)
        if "choices" in space and value in space["choices"]:
            inside[name] = json.dumps(value)
        elif "choices" not in space and space["low"] <= value <= space["high"]:
            inside[name] = value
        else:
            outside.append(name)
    return inside, outside


def settings_tried(arm: Arm, params: Mapping[str, Any]) -> Values:
    """The settings behind a trial's stored parameters."""
    return {name: json.loads(value) if "choices" in arm.space[name] else value for name, value in params.items()}


def _suggest(trial: "Trial", name: str, space: Mapping[str, Any]) -> Any:
    """A choice is stored as JSON: the store keeps no lists."""
    if "choices" in space:
        chosen = trial.suggest_categorical(name, [json.dumps(choice) for choice in space["choices"]])
        value = json.loads(chosen)
        return tuple(value) if isinstance(value, list) else value
    if isinstance(space["low"], int):
        return trial.suggest_int(name, space["low"], space["high"], log=space["log"])
    return trial.suggest_float(name, space["low"], space["high"], log=space["log"])


def _pruning(trial: "Trial") -> Callable[[int, float], None]:
    from optuna import TrialPruned

    def after_epoch(epoch: int, valid_auc: float) -> None:
        trial.report(valid_auc, epoch)
        if trial.should_prune():
            raise TrialPruned

    return after_epoch


def _nobody(amount: float) -> None:
    """Trials are counted, not their rows."""
