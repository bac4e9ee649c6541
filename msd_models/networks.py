"""Builds the network of an arm: backbone × semantic module × distillation; no arm has code of its own."""

import hashlib
from collections.abc import Mapping

import torch

from msd_models.adaptors import FrozenTable
from msd_models.arms import Arm, Injection, Module, settings_of
from msd_models.backbones import BACKBONES, CollaborativeModel
from msd_models.ctr_inputs import CtrInputs
from msd_models.ctr_network import CtrNetwork
from msd_models.elec import Lesson, TaughtNetwork
from msd_models.kar import KnowledgeReader
from msd_models.semantics import Fusion, SemanticReader
from msd_models.vector_tables import ArmTables, SemanticVectors, VectorTable, tables_of
from pipeline.config import CtrModel
from pipeline.errors import SpaceMismatch


def build(
    arm: Arm,
    arms: Mapping[str, Arm],
    seed: int,
    inputs: CtrInputs,
    vectors: SemanticVectors | None,
    config: CtrModel,
) -> CtrNetwork:
    """The untrained network of an arm, the same for the same arm and seed.

    Args:
        arm: what is built.
        arms: all of them: one may learn from another.
        seed: of this training.
        inputs: the opened records.
        vectors: what semantic arms read; None where there are none.
        config: of the stage; the arm's own settings are laid over it here.

    Raises:
        SpaceMismatch: the event's texts have vectors of another length than items.
    """
    own = settings_of(arm, config)
    gain = build(arms[arm.learns_from], arms, seed, inputs, vectors, config) if arm.learns_from else None
    with torch.random.fork_rng(devices=[]):
        # Not a seed of the arm's own: arms that differ by their vectors alone start from the same weights and see the
        # same batches and masks, so that what parts them is the vectors.
        torch.manual_seed(seed)
        if gain is not None:
            return TaughtNetwork(_backbone(arm, inputs, own, 0), gain, Lesson.of(own), own.weight_decay)
        if arm.vectors is None:
            return CtrNetwork(_backbone(arm, inputs, own, 0), weight_decay=own.weight_decay)
        assert vectors is not None, f"{arm.name} reads vectors and none were opened"
        reader = _reader(arm, tables_of(arm.vectors, vectors, arm_seed(arm.name, seed)), inputs, own)
        num_extra = reader.num_outputs if arm.injection is Injection.INPUT else 0
        return CtrNetwork(_backbone(arm, inputs, own, num_extra), reader, arm.injection, own.weight_decay)


def arm_seed(name: str, seed: int) -> int:
    """A seed of the arm's own, for the dealing of vectors and noise."""
    return int.from_bytes(hashlib.sha256(f"{name}:{seed}".encode()).digest()[:4])


def _backbone(arm: Arm, inputs: CtrInputs, config: CtrModel, num_extra: int) -> CollaborativeModel:
    return BACKBONES[arm.backbone](inputs, config, num_extra)


def _reader(arm: Arm, tables: ArmTables, inputs: CtrInputs, config: CtrModel) -> SemanticReader | KnowledgeReader:
    items = FrozenTable(tables.items, inputs.sampled_rows["items"])
    users = FrozenTable(tables.users, inputs.sampled_rows["users"])
    if arm.module is Module.KAR:
        return KnowledgeReader(items, users, config, reads_user=arm.reads_user)
    contexts = None
    if arm.reads_context and inputs.context_names and tables.contexts.num_rows:
        _check_dim(tables.contexts, tables.items)
        texts = FrozenTable(tables.contexts, inputs.sampled_rows["contexts"])
        contexts = (texts, len(inputs.context_names))
    fusion = Fusion.of(config, reads_user=arm.reads_user, fuses_history=arm.fuses_history)
    return SemanticReader(items, users, inputs.exposures_C, fusion, contexts)


def _check_dim(contexts: VectorTable, items: VectorTable) -> None:
    if contexts.dim != items.dim:
        raise SpaceMismatch(
            f"ctr_model: texts of events have vectors of {contexts.dim} numbers (space {contexts.space_id}) and items"
            f" of {items.dim} (space {items.space_id}), and one adaptor reads both; run: msd run context_vectors"
        )
