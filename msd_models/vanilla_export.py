"""Exports a network that reads no vectors as a program of its own: tabular inputs in, logits out, no text anywhere.

The file is what torch.export writes: the operations as JSON and the weights beside them. `torch.export.load(path)`
gives a program that runs without this project, and torch can compile it ahead of time. Padding is computed on here,
and weighs nothing: the shapes of a program must not depend on values.
"""

# Letters: B examples, F fields, M dense numbers, L history positions.

import copy
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from msd_models.ctr_inputs import NUM_GAPS, Batch, CtrInputs
from msd_models.ctr_network import CtrNetwork
from pipeline.errors import StageError
from pipeline.storage import write_atomically

INPUTS = ("codes", "numbers", "history", "is_liked", "gap")
"""Everything the program reads, in this order."""
DESCRIPTION = "inputs.json"
SAMPLE_ROWS = 3
PAYLOADS = "_config.json"
PLAIN = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|(data|models|extra)/[a-z_/]+\.json|archive_format|archive_version"
    r"|byteorder|\.data/(version|serialization_id)"
)
"""Members of an archive that hold tensors as bytes, or text."""


class Vanilla(nn.Module):
    """The served half of a network as a function of plain tensors."""

    def __init__(self, network: CtrNetwork) -> None:
        """Copies backbone and output layer; a gain network beside them stays where it is."""
        assert not network.reads_vectors, "only a network that reads no vectors is served without them"
        super().__init__()
        self.backbone = copy.deepcopy(network.backbone).cpu()
        self.backbone.embeddings.keeps_padding = True
        self.head = copy.deepcopy(network.head).cpu()

    def forward(self, codes: Tensor, numbers: Tensor, history: Tensor, is_liked: Tensor, gap: Tensor) -> Tensor:
        """logit_B.

        Args:
            codes: codes_BF.
            numbers: numbers_BM.
            history: history_BL.
            is_liked: is_liked_BL.
            gap: gap_BL.
        """
        nothing_B = torch.zeros_like(codes[:, 0])
        batch = Batch(
            codes_BF=codes,
            numbers_BM=numbers,
            history_BL=history,
            is_liked_BL=is_liked,
            gap_BL=gap,
            history_rows_BL=torch.zeros_like(history),
            item_row_B=nothing_B,
            user_row_B=nothing_B,
            context_rows_BQ=nothing_B.unsqueeze(1),
            click_B=nothing_B.float(),
        )
        reading = self.backbone.represent(batch, None)
        logit_B: Tensor = self.head(reading.high_BH).squeeze(1)
        return logit_B if reading.shallow_B is None else logit_B + reading.shallow_B


def export_vanilla(network: CtrNetwork, inputs: CtrInputs, path: Path) -> None:
    """Writes the network's served half to a .pt2 file.

    Args:
        network: one that reads no vectors.
        inputs: the opened records: they say how wide the inputs are and what their codes stand for.
        path: of the file; it holds the program, its weights and `inputs.json`.
    """
    program = exported(network, inputs)
    # The sample is the one thing that would be pickled.
    program.example_inputs = None
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(_description(inputs), indent=1)})
    write_atomically(path, content.getvalue())


def exported(network: CtrNetwork, inputs: CtrInputs) -> ExportedProgram:
    """The program, for any number of examples."""
    num_history = inputs.max_history
    sample = (
        torch.zeros(SAMPLE_ROWS, len(inputs.fields), dtype=torch.int64),
        torch.zeros(SAMPLE_ROWS, len(inputs.number_names)),
        torch.zeros(SAMPLE_ROWS, num_history, dtype=torch.int64),
        torch.zeros(SAMPLE_ROWS, num_history, dtype=torch.bool),
        torch.zeros(SAMPLE_ROWS, num_history, dtype=torch.int64),
    )
    examples = Dim("examples", min=1)
    shapes: dict[str, Any] = {name: {0: examples} for name in INPUTS}
    return torch.export.export(Vanilla(network).eval(), sample, dynamic_shapes=shapes)


def load_vanilla(path: Path) -> ExportedProgram:
    """Opens what export_vanilla wrote; `.module()` of it maps codes, numbers, history, is_liked and gap to logits.

    Raises:
        StageError: the file holds a pickle, which could run anything: it is another program's.
    """
    with zipfile.ZipFile(path) as archive:
        names = {one.filename.partition("/")[2]: one for one in archive.infolist()}
        strange = [name for name, one in names.items() if not PLAIN.fullmatch(name) and one.file_size]
        strange += [name for name, one in names.items() if name.endswith(PAYLOADS) and _is_pickled(archive.read(one))]
    if strange:
        raise StageError(
            f"{path.name} holds {', '.join(strange)}, and a program of tensors and JSON alone is wanted; export it"
            " again: msd run ctr_model"
        )
    return torch.export.load(path)


def _is_pickled(payloads: bytes) -> bool:
    return any(one["use_pickle"] for one in json.loads(payloads)["config"].values())


def _description(inputs: CtrInputs) -> dict[str, Any]:
    """What a caller must know to fill the inputs."""
    return {
        "inputs": {
            "codes": ["examples", len(inputs.fields), "int64"],
            "numbers": ["examples", len(inputs.number_names), "float32"],
            "history": ["examples", inputs.max_history, "int64"],
            "is_liked": ["examples", inputs.max_history, "bool"],
            "gap": ["examples", inputs.max_history, "int64"],
        },
        "fields": [{"name": field.name, "unknown": field.offset, "size": field.size} for field in inputs.fields],
        "numbers": list(inputs.number_names),
        "catalogue": len(inputs.catalogue_codes_C2),
        "gaps": NUM_GAPS,
        "output": "logit",
    }
