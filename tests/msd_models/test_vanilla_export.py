"""The exported vanilla network: what it reads, what it holds, and that it is the network's."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from ctr_world import make_world

from msd_models.arms import Backbone
from msd_models.arms_file import read_arms
from msd_models.networks import build
from msd_models.vanilla_export import INPUTS, export_vanilla, load_vanilla
from msd_models.vector_tables import ArmTables, VectorTable
from pipeline.config import CtrModel
from pipeline.errors import StageError

ARMS = read_arms()
CONFIG = CtrModel(hidden=(12, 8), embedding_dim=4, adaptor_dim=6)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def trained(world, backbone=Backbone.DIN, vectors=None):
    """A few steps, so that moments and marks are not those of the start."""
    arm = replace(ARMS["elec_vanilla"], backbone=backbone)
    network = build(arm, ARMS, 1, world.inputs, vectors or world.vectors, CONFIG)
    optimiser = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], lr=0.05)
    for step in range(5):
        optimiser.zero_grad()
        network.loss(world.batch(40, first=40 * step)).backward()
        optimiser.step()
    return network


def tabular(batch):
    return batch.codes_BF, batch.numbers_BM, batch.history_BL, batch.is_liked_BL, batch.gap_BL


@pytest.mark.parametrize("backbone", list(Backbone))
def test_the_program_is_the_network_and_reads_the_table_alone(world, tmp_path, backbone):
    network = trained(world, backbone)
    export_vanilla(network, world.inputs, tmp_path / "vanilla.pt2")
    assert network.training
    program = load_vanilla(tmp_path / "vanilla.pt2")
    assert program.graph_signature.user_inputs == INPUTS == ("codes", "numbers", "history", "is_liked", "gap")
    for count in (1, 7, 200):
        batch = world.batch(count)
        made = program.module()(*tabular(batch))
        torch.testing.assert_close(made, network.eval()(batch), atol=1e-5, rtol=1e-5)


def test_the_file_holds_no_weight_of_the_gain_network_and_no_vector(world, tmp_path):
    network = trained(world)
    export_vanilla(network, world.inputs, tmp_path / "vanilla.pt2")
    program = load_vanilla(tmp_path / "vanilla.pt2")
    held = {**program.state_dict, **program.constants}
    assert set(held) <= {*network.served_state(), "backbone.embeddings.catalogue_codes_C2"}
    foreign = [*network.gain.state_dict().values(), network.projection.weight]
    foreign += [torch.from_numpy(table.vectors_ND) for table in vars(world.tables).values()]
    for tensor in held.values():
        is_weight = tensor.is_floating_point() and tensor.numel() > 1 and tensor.any()
        assert not (is_weight and any(tensor.shape == one.shape and torch.equal(tensor, one) for one in foreign))
    served = network.served_state()
    assert all(torch.equal(tensor, served[name]) for name, tensor in program.state_dict.items())


def test_deleting_every_vector_file_changes_nothing(world, tmp_path):
    """Tables are maps of files here; the program is made while they lie there and asked when they are gone."""

    def mapped(name):
        table = getattr(world.tables, name)
        np.save(tmp_path / f"{name}.npy", table.vectors_ND)
        return VectorTable(
            vectors_ND=np.load(tmp_path / f"{name}.npy", mmap_mode="r"),
            has_vector_N=table.has_vector_N,
            space_id=table.space_id,
        )

    tables = ArmTables(items=mapped("items"), users=mapped("users"), contexts=mapped("contexts"))
    network = trained(world, vectors=replace(world.vectors, tables=dict.fromkeys(world.vectors.tables, tables)))
    export_vanilla(network, world.inputs, tmp_path / "vanilla.pt2")
    batch = world.batch(60)
    before = network.eval()(batch)
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["vanilla.pt2"]
    torch.testing.assert_close(load_vanilla(tmp_path / "vanilla.pt2").module()(*tabular(batch)), before)


def test_the_file_is_tensors_and_text_and_the_same_again(world, tmp_path):
    network = trained(world)
    for name in ("one", "two"):
        export_vanilla(network, world.inputs, tmp_path / f"{name}.pt2")
    content = (tmp_path / "one.pt2").read_bytes()
    assert content == (tmp_path / "two.pt2").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert any(name.endswith("extra/inputs.json") for name in archive.namelist())
        for member in archive.infolist():
            assert not archive.read(member).startswith((b"PK", b"\x80")), member.filename


def test_a_file_with_a_pickle_in_it_is_refused(world, tmp_path):
    program = torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "other.pt2")
    with pytest.raises(StageError, match=r"other.pt2 holds data/sample_inputs"):
        load_vanilla(tmp_path / "other.pt2")
