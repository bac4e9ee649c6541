"""The student as a plain Hugging Face folder that other libraries load: weights, tokenizer, card, pooling.

Its tokenizer puts the instruction before a text and the cue behind it, so that sentence-transformers and vLLM, which
know nothing of either, read the ids the student was taught on. This project's own code asks for a text's tokens without
anything added, and puts the same ids around them itself.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from msd_models.language_model import load_causal, load_tokenizer, quiet_transformers
from msd_models.student_prompt import CUE, INSTRUCTION, prompt_ids
from pipeline.config import Student, Vectors
from pipeline.storage import Dataset

INSTRUCTION_NAME = "<instruction>"
CUE_NAME = "<cue>"
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
CARD = """---
library_name: sentence-transformers
pipeline_tag: feature-extraction
---
# A student that writes key phrases, and whose states are vectors of items and users

Distilled by multi-level knowledge distillation (arXiv 2412.06860) from phrases that a larger model wrote. It continues
a text with the phrases it implies and states; the state that ends the prompt can stand for the text.

## How to read it

The tokenizer puts {instruction} before a text and {cue} behind it: give it the plain text.

    SentenceTransformer("FOLDER").encode(texts)            # sentence-transformers
    LLM("FOLDER", runner="pooling").embed(texts)           # vLLM
    AutoModelForCausalLM.from_pretrained("FOLDER")         # transformers: generate goes on with the phrases

The first two give pooling `last`: the last layer's state of the last token, not normalised. A text is cut to
{max_tokens} tokens, instruction and cue included: at its end, or for a user's history at its beginning
(`tokenizer.truncation_side = "left"`). Take special tokens out of untrusted texts first; the project that made this
model reads them as plain characters. Its pooling `mean` is the mean of the last layer's states over every token after
the first {num_instruction}, which neither library offers: take `last_hidden_state[:, {num_instruction}:]` of
transformers and average it.

## Where it comes from

- Base model: `{base_model}`, {num_layers} of its layers; trained: {trained}; epoch {epoch} was kept
- Teacher: `{teacher}` (generator `{generator}`), prompt templates {templates}
- Rows: {rows}
- Phrase F1 on rows held out: {f1} at threshold {tau}; the same layers before training: {untrained}
- Teacher's rows: `teacher_outputs/{fingerprint}`{files}

## Licence

The weights derive from the base model and stay under its licence. The phrases were written by the teacher: its terms
may bind what is trained on its output. The texts are the catalogue owner's.
"""


def export_model(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Writes weights in bfloat16, tokenizer and pooling, and reads the model back, as others will load it.

    Args:
        model: a plain causal language model; its adapters are merged.
        tokenizer: gets the words around a text as its post-processor.
        folder: is made anew.
        dtype: of the model that is given back.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # Training leaves it off in the process that trains: the same weights are the same files wherever that was.
    model.config.use_cache = True
    with quiet_transformers():
        model.to(device="cpu", dtype=torch.bfloat16).save_pretrained(folder)
        _surround_texts(tokenizer)
        tokenizer.save_pretrained(folder)
    _write_pooling(folder, int(model.config.hidden_size))
    return load_causal(folder, dtype)


def write_card(folder: Path, config: Student, teacher_outputs: Dataset, details: Mapping[str, Any]) -> None:
    """README.md of the exported folder: what it is, how it is read, what it was made from, what its licence hangs on.

    Args:
        folder: of the exported model.
        config: of the student.
        teacher_outputs: what it was taught.
        details: of the student's manifest.
    """
    manifest = teacher_outputs.manifest or {}
    teacher = manifest.get("settings", {})
    templates = teacher_outputs.table(["template_id"]).column("template_id").unique().to_pylist()
    low, high = details["f1_micro_interval"]
    instruction = prompt_ids(load_tokenizer(folder)).instruction
    files = "".join(f"\n- `{name}`: sha256 `{summed}`" for name, summed in sorted(manifest.get("files", {}).items()))
    facts = {
        "instruction": repr(INSTRUCTION),
        "cue": repr(CUE),
        "max_tokens": Vectors().max_tokens,
        "num_instruction": len(instruction),
        # A base model may be a folder of somebody's machine: its name says enough.
        "base_model": Path(config.base_model).name,
        "num_layers": config.num_layers,
        "trained": f"LoRA of rank {config.lora_rank}, merged" if config.lora_rank else "every weight of its layers",
        "epoch": details["chosen_epoch"],
        "teacher": Path(str(teacher.get("model", "unknown"))).name,
        "generator": teacher.get("generator", "unknown"),
        "templates": ", ".join(f"`{name}`" for name in sorted(filter(None, templates))) or "none",
        "rows": f"{details['train_rows']:,} trained on, {details['augmented_rows']:,} copies of them in other words,"
        f" {details['choosing_rows']:,} for choosing the epoch, {details['gold_rows']:,} measured",
        "f1": f"{details['f1_micro']:.3f} [{low:.3f}, {high:.3f}]",
        "tau": f"{details['tau']:g}",
        "untrained": f"{details['f1_untrained_micro']:.3f}",
        "fingerprint": teacher_outputs.fingerprint,
        "files": files,
    }
    (folder / "README.md").write_text(CARD.format(**facts), encoding="utf-8")


def _surround_texts(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    prompt = prompt_ids(tokenizer)
    parts = ((INSTRUCTION_NAME, prompt.instruction), (CUE_NAME, prompt.cue))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{INSTRUCTION_NAME} $A {CUE_NAME}",
        pair=f"{INSTRUCTION_NAME} $A $B {CUE_NAME}",
        special_tokens=[
            {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)} for name, ids in parts
        ],
    )


def _write_pooling(folder: Path, dimension: int) -> None:
    pooling = {"word_embedding_dimension": dimension, "pooling_mode_lasttoken": True, "include_prompt": True}
    pooling |= {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens")}
    files = {
        "modules.json": MODULES,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": Vectors().max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine", "prompts": {}},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
