"""tuned_student: low-rank adapters on the student's upper layers, trained end to end by the click label.

Folder: `model/` (the student with its adapters merged, laid out as the student's own), `adapters/` (the same adapters
in peft's format) and `curve.json`. The vectors of a tuned student are a new space, by its weights; where tuning does
not raise the valid AUC the student stays as it is, bytes and space alike, and the details say so.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msd_models.ctr_records import open_inputs
from msd_models.language_model import cpu_threads, device, load_causal, load_tokenizer, resolve_dtype
from msd_models.stored_states import store_states
from msd_models.student_export import export_model
from msd_models.student_prompt import PromptIds, prompt_ids
from msd_models.tuning_head import TuningHead
from msd_models.tuning_run import Course, FixedVectors, Training, World
from msd_models.tuning_step import LiveVectors
from msd_models.tuning_texts import KINDS, Reading, Texts, draw, read_texts
from msd_models.upper_layers import LowerLayers, UpperLayers, check_parts, decoder_of, with_upper_adapters
from pipeline.config import TunedStudent, Vectors
from pipeline.errors import ConfigError, SpaceMismatch, StageError
from pipeline.progress import note, progress
from pipeline.storage import Dataset, Outcome, write_atomically

WORK = "_tuning"
CHECKED_TEXTS = 64
SAME_TEXTS = 0.05
"""Relative difference from which on vectors are not of the same texts: another precision stays under a hundredth."""
CARD = """
## Tuned by the click label

Adapters of rank {rank} on the upper {layers} of its layers (`../adapters`), trained under the loss of a click model and
merged: its vectors are a space of their own, which must not meet those of the student before tuning.
"""


def tune(config: TunedStudent, folder: Path, **datasets: Dataset) -> Outcome:
    """Trains the adapters, keeps the best mark, or the student as it is; goes on after a kill.

    Args:
        config: adapters, steps, labels per step.
        folder: gets `model/`, `adapters/` and `curve.json`.
        datasets: the inputs of the stage by name, as `pipeline.stages` lists them.

    Returns:
        rows_ok are the training labels drawn, rows_skipped the others.

    Raises:
        ConfigError: a setting is out of its range, or the student's architecture cannot be cut in two.
        SpaceMismatch: items and users are published in two spaces.
        StageError: the published vectors are not of the texts as they are now, or the disk is full.
    """
    _check(config)
    reading = _reading(datasets)
    inputs = open_inputs(datasets["ctr_records"].folder)
    why_not = _why_not(config, reading)
    if why_not:
        details = _left_as_it_is(folder, datasets["student"], why_not)
    else:
        details = _tuned(config, folder, reading, datasets)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    num_train = inputs.num_rows("train")
    drawn = 0 if why_not else min(num_train, config.max_steps * config.batch_size)
    told = {"reading": {"items": asdict(reading.items), "users": asdict(reading.users)}, **details}
    return Outcome(rows_in=num_train, rows_ok=drawn, rows_skipped=num_train - drawn, details=told)


def _check(config: TunedStudent) -> None:
    for name, least in (("max_steps", 0), ("batch_size", 2), ("history_items", 0), ("batch_tokens", 1)):
        if getattr(config, name) < least:
            raise ConfigError(f"[tuned_student] {name} is {getattr(config, name)}; choose {least} or more")
    for name in ("learning_rate", "head_learning_rate"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"[tuned_student] {name} is {getattr(config, name)}; choose a number above 0")


def _reading(datasets: Mapping[str, Dataset]) -> Reading:
    """How the published vectors were read."""
    spaces = {name: datasets[name].details["space_id"] for name in ("item_features", "user_features")}
    if len(set(spaces.values())) > 1:
        raise SpaceMismatch(
            f"tuned_student: items are published in space {spaces['item_features']} and users in"
            f" {spaces['user_features']}, and one student is tuned for one space; give [item_vectors] and"
            " [user_vectors] the same pooling and dtype, and run: msd run item_features user_features"
        )
    settings = {name: (datasets[name].manifest or {})["settings"] for name in ("item_vectors", "user_vectors")}
    return Reading(items=Vectors(**settings["item_vectors"]), users=Vectors(**settings["user_vectors"]))


def _why_not(config: TunedStudent, reading: Reading) -> str:
    """Why there is nothing to tune; empty where there is."""
    if config.max_steps == 0:
        return "max_steps is 0"
    if "behaviours" in (reading.items.mode, reading.users.mode):
        return "users are read as behaviours, and the adapters are trained on texts"
    if "int8" in (reading.items.dtype, reading.users.dtype):
        return "its vectors are computed in int8, which has no gradient"
    return ""


def _left_as_it_is(folder: Path, student: Dataset, why: str) -> dict[str, Any]:
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.copytree(student.folder / "model", folder / "model")
    note(f"      the student stays as it is: {why}")
    return {"is_tuned": False, "why": why}


def _tuned(config: TunedStudent, folder: Path, reading: Reading, datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    dtype = resolve_dtype(reading.items.dtype)
    source = datasets["student"].folder / "model"
    tokenizer = load_tokenizer(source)
    model = with_upper_adapters(load_causal(source, dtype).to(device()), config)
    live, world = _prepared(model, prompt_ids(tokenizer), reading, config, folder, datasets)
    with cpu_threads(config.threads):
        fixed, tuned = _trained(model, live, world, folder, datasets)
    details = _told(fixed, tuned, world)
    write_atomically(folder / "curve.json", json.dumps(_curve(fixed, tuned), indent=1).encode())
    if details["valid_auc_tuned"] <= details["valid_auc_student"]:
        why = "no mark of the tuning has a higher valid AUC than the same steps on the student's own vectors"
        return details | _left_as_it_is(folder, datasets["student"], why)
    _write_adapters(model, folder / "adapters")
    export_model(model.merge_and_unload(), tokenizer, folder / "model", dtype)
    card = (source / "README.md").read_text(encoding="utf-8") if (source / "README.md").is_file() else ""
    tuned_card = card + CARD.format(rank=config.lora_rank, layers=config.adapted_layers)
    (folder / "model" / "README.md").write_text(tuned_card, encoding="utf-8")
    return {"is_tuned": True, **details}


def _prepared(
    model: Any,
    prompt: PromptIds,
    reading: Reading,
    config: TunedStudent,
    folder: Path,
    datasets: Mapping[str, Dataset],
) -> tuple[LiveVectors, World]:
    """The drawn labels, their texts, and the states of those below the adapted layers."""
    inputs = open_inputs(datasets["ctr_records"].folder)
    drawn = draw(inputs, config)
    texts = read_texts(inputs, drawn, prompt, reading, config.history_items, datasets)
    decoder = decoder_of(model)
    num_lower = decoder.config.num_hidden_layers - config.adapted_layers
    lower = LowerLayers(decoder, num_lower)
    upper = UpperLayers(decoder, num_lower, reading.items.pooling, len(prompt.instruction))
    check_parts(decoder, lower, upper, texts.ids[:4])
    states = store_states(texts.ids, lower, folder / WORK, reading.items.batch_tokens)
    return LiveVectors(upper, states, config.batch_tokens), World(
        inputs=inputs, drawn=drawn, texts=texts, config=config
    )


def _trained(
    model: Any, live: LiveVectors, world: World, folder: Path, datasets: Mapping[str, Dataset]
) -> tuple[Course, Course]:
    """The same steps on the student's vectors as they are, and on live ones."""
    config, texts = world.config, world.texts
    vectors_UD = live.encode(torch.arange(len(texts.ids)))
    _check_published(vectors_UD, texts, datasets)
    base = {kind: vectors_UD[torch.from_numpy(texts.numbers[kind])] for kind in KINDS}

    def head() -> TuningHead:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return TuningHead(world.inputs, base).to(vectors_UD.device)

    with progress("tuning", 2 * config.max_steps, "steps") as advance:
        fixed = Training(world, head(), FixedVectors(vectors_UD), {}, advance).run()
        adapters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        tuned = Training(world, head(), live, adapters, advance).run(folder / WORK / "checkpoint.safetensors")
    return fixed, tuned


def _check_published(vectors_UD: torch.Tensor, texts: Texts, datasets: Mapping[str, Dataset]) -> None:
    """What is read here must be what was published: else the texts or the way to read them have changed."""
    for kind, name in (("items", "item_features"), ("users", "user_features")):
        rows = texts.rows[kind][:CHECKED_TEXTS]
        if not len(rows):
            continue
        wanted = np.load(datasets[name].folder / "vectors.npy", mmap_mode="r")[rows - 1].astype(np.float32)
        found = vectors_UD[torch.from_numpy(texts.numbers[kind][:CHECKED_TEXTS])].cpu().numpy()
        difference = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
        if not difference < SAME_TEXTS:
            raise StageError(
                f"tuned_student: the {kind}' texts give vectors that differ by {difference:.0%} from those of {name};"
                f" make them of the same texts and settings: msd run {name}"
            )


def _told(fixed: Course, tuned: Course, world: World) -> dict[str, Any]:
    lengths = [len(row) for row in world.texts.ids]
    return {
        "valid_labels": len(world.drawn.valid),
        "valid_auc_student": round(fixed.valid_auc[fixed.best_step], 6),
        "valid_auc_tuned": round(tuned.valid_auc[tuned.best_step], 6),
        "chosen_step": tuned.best_step,
        "train_loss_first": round(float(np.mean(tuned.losses[:10])), 6),
        "train_loss_last": round(float(np.mean(tuned.losses[-10:])), 6),
        "texts": len(lengths),
        "tokens": sum(lengths),
    }


def _curve(fixed: Course, tuned: Course) -> dict[str, Any]:
    """Loss of every step and valid AUC of every mark, with the student's vectors as they are and with live ones."""
    return {
        name: {"loss": [round(loss, 6) for loss in course.losses], "valid_auc": course.valid_auc}
        for name, course in (("student", fixed), ("tuned", tuned))
    }


def _write_adapters(model: Any, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # The folder the base was read from is this machine's; what it is, the manifest says.
    model.peft_config["default"].base_model_name_or_path = "student"
    model.save_pretrained(folder, save_embedding_layers=False)
