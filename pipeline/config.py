"""One frozen dataclass of settings per stage, a docstring under each field; defaults stand here and nowhere else.

A setting that cannot change the result (batch size, threads, memory) is declared with `identity=False` and stays out of
the dataset's fingerprint. Values come from a preset, a TOML file and `--set stage.key=value`, in that order: see
`pipeline.settings`.
"""

from dataclasses import dataclass, field
from typing import Any


def _free(default: Any) -> Any:
    """A setting that cannot change the result."""
    return field(default=default, metadata={"identity": False})


@dataclass(frozen=True, kw_only=True)
class Items:
    """Settings of items."""

    max_text_bytes: int = 32_768
    """A longer text is rejected: such rows are broken exports, not descriptions."""
    max_rejected_share: float = _free(0.2)
    """Above this share of rejected rows the stage fails instead of going on with what is left."""
    spark_partitions: int = _free(0)
    """Partitions of shuffles; 0 lets Spark's adaptive execution decide."""


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Settings of interactions."""

    max_rejected_share: float = _free(0.2)
    """Above this share of rejected rows the stage fails instead of going on with what is left."""
    latest_time: str = "2035-01-01"
    """An event from this date on is rejected; a fixed date, so that no result depends on the day of the run."""
    seed: int = 0
    """Of sampled negatives and of a split by user."""
    spark_partitions: int = _free(0)
    """Partitions of shuffles; 0 lets Spark's adaptive execution decide."""


@dataclass(frozen=True, kw_only=True)
class Users:
    """Settings of users."""

    max_rejected_share: float = _free(0.2)
    """Above this share of rejected profile rows the stage fails."""


@dataclass(frozen=True, kw_only=True)
class ItemStats:
    """Settings of item_stats."""

    prior_exposures: float = 20.0
    """m in ctr_shrunk = (clicks + m·ctr_category) / (exposures + m)."""


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Settings of histories."""

    snapshots: str = "event"
    """`event`: one snapshot at each distinct time a user acts (exact); `hour` or `day`: at each such boundary after
    which the user acts, which is what a daily batch would have."""
    embed_min_events: int = 3
    """A user is embedded from this many events on."""
    embed_growth: float = 2.0
    """A user is embedded again when the history has grown by this factor (1.0: at every snapshot)."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Settings of prompts (docs/methods.md)."""

    item_rows: int = 160
    """n: items the teacher reads."""
    user_rows: int = 60
    """Users the teacher reads, one training-window snapshot each."""
    stratum_power: float = 0.5
    """a in n_c = n·N_c^a / Σ N^a."""
    min_per_stratum: int = 1
    """n_min: no stratum is left without a row while it has one."""
    exposure_power: float = 0.5
    """b in w = (1 + exposures)^b · (1 + g·|ctr_shrunk − ctr_c|)."""
    ctr_gain: float = 4.0
    """g in the weight above."""
    history_titles: int = 8
    """Titles of a user's history shown in a prompt, the latest ones."""
    seed: int = 0
    """Of the draw; the draw depends on the seed and the ids only."""


@dataclass(frozen=True, kw_only=True)
class TeacherOutputs:
    """Settings of teacher_outputs."""

    generator: str = "vllm"
    """`vllm`, or `scripted`: phrases read from `script` (tests, hand-written gold)."""
    model: str = "smollm2-135m-instruct"
    """A built-in name or the path of a Hugging Face model folder."""
    script: str = ""
    """With generator = scripted: JSONL of {text, rationale, explicit, implicit}."""
    max_text_tokens: int = 160
    """The entity's text is cut to this many tokens in the prompt."""
    max_output_tokens: int = 112
    """Upper bound of a completion."""
    temperature: float = 0.0
    """0 is greedy."""
    frequency_penalty: float = 0.4
    """Lowers the odds of tokens already written; a small model repeats itself without it."""
    seed: int = 0
    """Of sampling, where temperature is above 0."""
    max_rejected_share: float = _free(0.5)
    """Above this share of rejected rows the stage fails by name."""
    shard_rows: int = _free(64)
    """Rows per shard: what a killed run has to generate again at most."""
    dtype: str = _free("auto")
    """bfloat16, float16, float32 or auto (bfloat16 where the processor has it)."""
    kv_cache_gib: float = _free(1.0)
    """Memory of vLLM's key/value cache on a CPU."""
    gpu_memory_share: float = _free(0.85)
    """Share of a GPU's memory vLLM may take."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """Settings of student (docs/methods.md)."""

    base_model: str = "smollm2-135m-instruct"
    """Whose layers, embeddings and tokenizer the student starts from: a built-in name or a path. `tiny-random`, for
    tests, is a small random Llama with a vocabulary fitted on the teacher's rows; it wants tens of epochs."""
    num_layers: int = 6
    """Layers kept, evenly spaced over the base model's."""
    epochs: int = 6
    """Passes over the teacher's rows."""
    batch_size: int = 8
    """Rows per optimiser step."""
    learning_rate: float = 1e-3
    """Peak of a linear schedule with 10% warm-up."""
    max_length: int = 256
    """Tokens of prompt and completion together; longer rows lose prompt tokens."""
    holdout_share: float = 0.15
    """Share of teacher rows kept out of training for the phrase F1, chosen by a hash of the id."""
    max_holdout_rows: int = 24
    """Upper bound of the rows the F1 is measured on."""
    phrase_encoder: str = "all-minilm-l6-v2"
    """Sentence encoder that compares phrases."""
    phrase_threshold: float = 0.75
    """τ: two phrases are equal from this cosine on."""
    seed: int = 0
    """Of shuffling and of the hold-out."""
    dtype: str = "auto"
    """Of training: float32, bfloat16 or auto (bfloat16 where the processor multiplies it natively)."""
    threads: int = _free(1)
    """Threads on a CPU, 0 for all cores. Two are 1.6 times as fast as one on a quiet machine and half as fast on a busy
    one."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Settings of item_vectors and of user_vectors."""

    encoder: str = "student"
    """The student dataset; the only choice where a student is an input."""
    history_titles: int = 8
    """Titles of a user's history in the text that is read, the latest ones."""
    max_tokens: int = 128
    """A longer text is cut."""
    pooling: str = "mean"
    """`mean` over the tokens after the shared instruction, or `last` token."""
    dtype: str = "auto"
    """Of the forward pass: float32, bfloat16 or auto (bfloat16 where the processor multiplies it natively)."""
    shard_rows: int = _free(1024)
    """Rows per shard: what a killed run has to embed again at most."""
    batch_tokens: int = _free(1024)
    """Padded tokens per forward pass."""


@dataclass(frozen=True, kw_only=True)
class TextVectors(Vectors):
    """Settings of item_text_vectors and of user_text_vectors: those of item_vectors under another encoder."""

    encoder: str = "all-minilm-l6-v2"
    """A built-in sentence encoder or the path of a Hugging Face model folder."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Settings of item_features and of user_features."""

    online: bool = True
    """False publishes to the offline store only."""
    write_batch_rows: int = _free(4096)
    """Rows per write to the online store."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Settings of examples."""

    shard_rows: int = _free(1_000_000)
    """Labels per point-in-time join."""


@dataclass(frozen=True, kw_only=True)
class CtrModel:
    """Settings of ctr_model."""

    arms: tuple[str, ...] = ("deepfm", "din", "random_vectors", "shuffled_vectors", "raw_text", "msd_frozen")
    """Arms trained side by side; the placebos always belong beside a semantic arm."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One training per arm and seed."""
    embedding_dim: int = 16
    """Width of an id or field embedding."""
    hidden: tuple[int, ...] = (128, 64)
    """Widths of the dense layers."""
    adaptor_dim: int = 32
    """Width of e' = MLP(e)."""
    max_history: int = 20
    """The latest events of the history that the CTR model reads."""
    top_k: int = 5
    """k history positions most similar to the target, added up (docs/methods.md)."""
    mask: str = "popular"
    """Frequency-guided masking of history items: popular, rare, word2vec or none."""
    mask_min: float = 0.05
    """p_min: masking probability of an item never seen."""
    mask_max: float = 0.4
    """p_max: masking probability of the most frequent item."""
    mask_gamma: float = 1.0
    """γ: curvature of the masking probability in log frequency."""
    mask_threshold: float = 1e-3
    """t of mask = word2vec: an item with this share of all exposures or less is never masked."""
    dropout: float = 0.1
    """In the dense layers."""
    id_dropout: float = 0.0
    """Share of training rows whose target item id is replaced by the unknown id, so that a cold item is no surprise."""
    min_id_count: int = 2
    """Ids with fewer training rows share the unknown row."""
    batch_size: int = 1024
    """Rows per step; fewer where an epoch would have fewer than 50 steps."""
    learning_rate: float = 5e-3
    """Of Adam."""
    weight_decay: float = 1e-5
    """Weight in the loss of the squared length of the field embeddings a row reads."""
    max_epochs: int = 4
    """Upper bound; training stops when the valid AUC has not risen for one epoch."""
    threads: int = _free(1)
    """Threads of a training on a CPU; another number changes the last digits only. One: steps of some 20 ms gain little
    from a second thread and wait for it whenever the machine has other work."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Settings of report."""

    bootstrap_rounds: int = 500
    """Resamples behind each interval."""
    shown_items: int = 5
    """Items whose teacher and student phrases stand side by side."""
    seed: int = 0
    """Of the bootstrap."""
