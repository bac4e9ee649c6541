"""One frozen dataclass of settings per stage, a docstring under each field; defaults stand here and nowhere else.

A setting that cannot change the result (batch size, threads, memory) is declared with `identity=False` and stays out of
the dataset's fingerprint. Values come from a preset, a TOML file and `--set stage.key=value`, in that order: see
`pipeline.settings`.
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError

MIN_BOOTSTRAP_ROUNDS = 40
"""With fewer resamples the 2.5th percentile is no resample at all."""


def _free(default: Any) -> Any:
    """A setting that cannot change the result."""
    return field(default=default, metadata={"identity": False})


def _path(default: str) -> Any:
    """A name or a path: where a file or folder lies there, its bytes and not its place enter the fingerprint."""
    return field(default=default, metadata={"content": True})


@dataclass(frozen=True, kw_only=True)
class Items:
    """Settings of items."""

    max_text_bytes: int = 32_768
    """A longer text is rejected: such rows are broken exports, not descriptions."""
    max_rejected_share: float = _free(0.2)
    """Above this share of rejected rows the stage fails instead of going on with what is left."""
    spark_partitions: int = _free(0)
    """Partitions that shuffles begin with; 0: by the bytes that are read (docs/spark.md)."""


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Settings of interactions."""

    max_rejected_share: float = _free(0.2)
    """Above this share of rejected rows the stage fails instead of going on with what is left."""
    latest_time: str = "2035-01-01"
    """An event from this date on is rejected; a fixed date, so that no result depends on the day of the run."""
    last_day: str = ""
    """Events after this UTC day, like 2026-11-20, are skipped; empty keeps all. `--date` sets it."""
    seed: int = 0
    """Of sampled negatives and of a split by user."""
    spark_partitions: int = _free(0)
    """Partitions that shuffles begin with; 0: by the bytes that are read (docs/spark.md)."""


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
class UserStats:
    """Settings of user_stats."""

    prior_exposures: float = 20.0
    """m in ctr_shrunk = (clicks + m·ctr_log) / (exposures + m)."""


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

    item_rows: int = 320
    """n: items the teacher reads."""
    user_rows: int = 80
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
    near_duplicate: float = 0.9
    """Jaccard similarity of character shingles from which two sampled texts with the same numbers in them are read by
    the teacher once; above 1, every text is read by itself."""
    focus: str = _path("")
    """A second round: `strata.json` of a committed student; its weakest strata get the extra rows below."""
    focus_rows: int = 0
    """Rows of the second round, on top of item_rows and user_rows, shared out by 1 − F1 of the strata; those of
    the first round stay in the sample, so that only new ones are generated."""
    seed: int = 0
    """Of the draw; the draw depends on the seed and the ids only."""


@dataclass(frozen=True, kw_only=True)
class TeacherOutputs:
    """Settings of teacher_outputs."""

    generator: str = "vllm"
    """`vllm`: a model loaded here; `openai`: a server that speaks OpenAI's protocol, such as a `vllm serve` cluster;
    `scripted`: phrases read from `script` (tests, hand-written gold)."""
    model: str = _path("smollm2-135m-instruct")
    """A built-in name or the path of a Hugging Face model folder; with `openai`, the name the server knows it by."""
    revision: str = ""
    """With `openai`: which weights the server serves; part of the content key, as nothing else says they changed."""
    tokenizer: str = _path("")
    """With `openai`: built-in name or folder of the model's tokenizer, to cut texts; empty: that of `model`."""
    endpoint: str = _free("")
    """With `openai`: the server's base address, like http://127.0.0.1:8000/v1; empty: the server that `msd teacher
    start` keeps up for this work folder. Its key, if it wants one, comes from OPENAI_API_KEY."""
    concurrency: int = _free(0)
    """Rows under way at once, which are lost when the run is killed; 0: 32 a model on a CPU, 256 on a GPU, 64 with
    `openai`."""
    timeout_seconds: float = _free(120.0)
    """With `openai`: how long one request may take before it is tried again."""
    script: str = _path("")
    """With `scripted`: JSONL of {text, rationale, explicit, implicit}."""
    template: str = _path("key-phrases")
    """The prompt's words: a built-in name or a folder of `<level>.<language>.jinja` files."""
    language: str = "auto"
    """Of the prompt: en, zh, or auto (zh where Han characters make up a third of the text's letters)."""
    references: str = _path("")
    """Worked examples: a TOML file like msd_models/templates/references.toml; empty: those that come along."""
    num_references: int = 1
    """Worked examples in each prompt."""
    max_text_tokens: int = 160
    """The entity's text is cut to this many tokens in the prompt; what was cut is counted."""
    max_output_tokens: int = 112
    """Upper bound of a completion."""
    temperature: float = 0.0
    """Of the first attempt; 0 is greedy."""
    frequency_penalty: float = 0.4
    """Lowers the odds of tokens already written; a small model repeats itself without it."""
    seed: int = 0
    """Of sampling, where temperature is above 0."""
    max_attempts: int = 3
    """Completions asked for at most until one can be used; each attempt has a seed of its own."""
    retry_temperature: float = 0.7
    """Of the second attempt and those after it: a greedy one would say the same again."""
    phrase_encoder: str = _path("all-minilm-l6-v2")
    """Sentence encoder that compares phrases with the text, and texts with worked examples."""
    grounding_threshold: float = 0.6
    """A phrase said to be explicit that does not occur in the text is so from this cosine with a part of it on: in the
    worked examples, paraphrases of the text lie at 0.61 to 0.89 and implicit phrases below 0.56."""
    repetition_threshold: float = 0.8
    """A phrase said to be implicit is explicit from this cosine with a part of the text on."""
    unrelated_threshold: float = 0.2
    """A phrase said to be explicit below this cosine with every part of the text is dropped; between this and
    grounding_threshold it becomes implicit."""
    max_rejected_share: float = _free(0.2)
    """Above this share of rejected rows the stage fails by name."""
    max_tokens: int = _free(0)
    """Prompt and output tokens the stage may cost; it does not start above; 0: no limit. See: msd plan."""
    max_seconds: float = _free(0.0)
    """Seconds the stage may take at the throughput measured on this machine; it does not start above; 0: no limit."""
    shard_rows: int = _free(64)
    """Rows per file of the dataset; what has been generated is kept row by row."""
    dtype: str = _free("auto")
    """bfloat16, float16, float32 or auto (bfloat16 where the processor has it)."""
    data_parallel: int = _free(1)
    """Copies of the model side by side, each on GPUs of its own."""
    tensor_parallel: int = _free(1)
    """GPUs one copy of the model is spread over."""
    kv_cache_gib: float = _free(1.0)
    """Memory of vLLM's key/value cache on a CPU."""
    gpu_memory_share: float = _free(0.85)
    """Share of a GPU's memory vLLM may take."""


@dataclass(frozen=True, kw_only=True)
class TeacherQuality:
    """Settings of teacher_quality."""

    phrase_encoder: str = _path("all-minilm-l6-v2")
    """Sentence encoder of texts and phrases, in the redundancy probe and in the F1 against gold phrases."""
    max_probe_rows: int = 5000
    """Rows of the redundancy probe at most, the first by a hash of the id."""
    probe_folds: int = 5
    """Folds of the probe's cross-validation."""
    phrase_threshold: float = 0.0
    """τ of the F1 against gold phrases, as in [student]: 0 calibrates it on `phrase_pairs`."""
    phrase_pairs: str = _path("")
    """As in [student]: labelled pairs that τ is calibrated on; empty: the pairs that come along."""
    gold: str = _path("")
    """As in [student]: hand-written phrases the teacher is measured against; empty: none, or the source's own."""
    seed: int = 0
    """Of the folds, of the placebo and of the intervals."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """Settings of student (docs/methods.md)."""

    base_model: str = _path("smollm2-135m-instruct")
    """Whose layers, embeddings and tokenizer the student starts from: a built-in name or a path. `tiny-random`, for
    tests, is a small random Llama with a vocabulary fitted on the teacher's rows; it wants tens of epochs."""
    num_layers: int = 6
    """Layers kept, evenly spaced over the base model's."""
    lora_rank: int = 0
    """0 trains every weight of the kept layers; above, adapters of this rank on frozen layers, merged when exported."""
    lora_alpha: float = 32.0
    """Scale of the adapters: W = W0 + (alpha / rank)·B·A."""
    epochs: int = 6
    """Passes over the teacher's rows."""
    batch_size: int = 8
    """Rows per optimiser step, over all processes and accumulated steps."""
    accumulate: int = 1
    """Forward passes that one optimiser step adds up; divides batch_size."""
    pack: bool = True
    """Rows of a forward pass stand in one sequence without padding and do not see each other; against rows of like
    length padded, 1.05 times the tokens a second on a busy two-core CPU (median of ten rounds in turn)."""
    learning_rate: float = 1e-3
    """Peak of a linear schedule with 10% warm-up."""
    max_length: int = 256
    """Tokens of prompt and completion together; longer rows lose prompt tokens."""
    train_share: float = 1.0
    """Share of the training rows that are used, nested: a larger share holds the smaller one's rows."""
    shuffle_phrases: int = 0
    """Copies of each training row with its phrases in another order, within explicit and within implicit."""
    substitute_words: int = 0
    """Copies of each training row with words replaced by the dictionary's, in text and phrases together."""
    dictionary: str = _path("")
    """TOML of interchangeable words like msd_models/templates/dictionary.toml; empty: the one that comes along."""
    choose_by: str = "nll"
    """Which epoch is kept, by the rows for choosing: `nll` of the teacher's tokens, `f1` of phrases, `auc` gained
    over a tabular model downstream (SuKD), or `last`."""
    curve: tuple[str, ...] = ("nll", "f1")
    """What is measured of every epoch besides choose_by. `auc` reads the texts of up to 30,000 labels' items again for
    each epoch: seven seconds for 1,500 films."""
    choosing_share: float = 0.1
    """Share of teacher rows kept out of training for choosing the epoch, by a hash of the id."""
    holdout_share: float = 0.15
    """Share of teacher rows kept out of training and choosing for the phrase F1, by a hash of the id."""
    max_holdout_rows: int = 24
    """Upper bound of the rows the F1 is measured on; also of those an epoch is chosen on by F1."""
    phrase_encoder: str = _path("all-minilm-l6-v2")
    """Sentence encoder that compares phrases."""
    phrase_threshold: float = 0.0
    """τ: two phrases are equal from this cosine on; 0 calibrates it on `phrase_pairs`."""
    phrase_pairs: str = _path("")
    """JSONL of {a, b, same}, labelled by hand, that τ is calibrated on; empty: the pairs that come along."""
    gold: str = _path("")
    """JSONL of hand-written phrases (see: msd gold), which teacher and student are both measured against; empty: none,
    or those that come along with a built-in source."""
    seed: int = 0
    """Of shuffling and of the hold-out."""
    dtype: str = "auto"
    """Of training: float32, bfloat16 or auto (bfloat16 where the processor multiplies it natively)."""
    processes: int = _free(1)
    """Training processes on this machine (torchrun, DDP), one a GPU; batch_size is shared out among them."""
    checkpoint_steps: int = _free(50)
    """Optimiser steps between checkpoints: what a killed run has to train again at most."""
    threads: int = _free(0)
    """Threads on a CPU, 0 for all cores; another number changes the last digits only."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Settings of item_vectors and of user_vectors."""

    encoder: str = "student"
    """The student dataset; the only choice where a student is an input."""
    history_titles: int = 8
    """Titles of a user's history in the text that is read, the latest ones."""
    max_tokens: int = 128
    """A longer text is cut."""
    pooling: str = "last"
    """`last` token, the state that predicts what the text implies, or `mean` over the tokens after the instruction. On
    the tiny world's valid labels a logistic regression reaches an AUC of .805 with the former and .717 with the latter;
    on MovieLens-100K neither differs from shuffled vectors."""
    dtype: str = "auto"
    """Of the forward pass: float32, bfloat16, float16, int8 (weights and activations, on a CPU) or auto (bfloat16 where
    the processor multiplies it natively)."""
    mode: str = "text"
    """How users are read: `text`, the titles of their history one after the other; or `behaviours`: each item once by
    the lower layers, then the upper layers over the history's items (BAHE). Part of the space: set it for items and
    users alike."""
    behaviour_layers: int = 2
    """With `behaviours`: upper layers that run over the history."""
    engine: str = _free("auto")
    """What runs the model: `plain` (transformers), `packed` (no padding, the instruction's keys and values computed
    once), `vllm` (its pooling runner), or auto: the fastest of them on a few of the texts."""
    processes: int = _free(1)
    """Worker processes on this machine, each with the model and a share of the shards."""
    shard_rows: int = _free(1024)
    """Rows per shard: what a killed run has to embed again at most."""
    batch_tokens: int = _free(1024)
    """Tokens per forward pass, padding included."""


@dataclass(frozen=True, kw_only=True)
class TextVectors(Vectors):
    """Settings of item_text_vectors and of user_text_vectors: those of item_vectors under another encoder."""

    encoder: str = _path("all-minilm-l6-v2")
    """A built-in sentence encoder or the path of a Hugging Face model folder."""
    pooling: str = "mean"
    """`mean` over all tokens, which is how the built-in encoder was trained, or the `last` one."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Settings of item_features and of user_features."""

    part_rows: int = _free(16_384)
    """Rows per file of the offline store, and in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Settings of publication."""

    online: bool = True
    """False registers the views for point-in-time joins and leaves Redis alone."""
    precision: str = "float32"
    """Of a vector in Redis: float32 (Feast's Array), float16 or int8 (Bytes, decoded by the lookup)."""
    dimensions: int = 0
    """Principal components kept of a vector in Redis, 0 for the vector itself; the lookup turns them back."""
    memory_mib: float = 0.0
    """Redis memory a generation may take, at the bytes per key measured on the server itself: users first, then items
    by exposure; 0: no limit. See: msd plan publication."""
    active_days: float = 0.0
    """Users whose last event lies at most so many days before the log's last one go online; 0: all."""
    activate: bool = _free(True)
    """Points readers at the generation once it is complete and checked; else: msd publish --activate."""
    grace_hours: float = _free(24.0)
    """How long a generation that readers have left stays in Redis for those that still read it and for a rollback."""
    shard_rows: int = _free(50_000)
    """Keys per write that a killed run has to repeat at most."""
    panel_rows: int = _free(1000)
    """Keys, the first by a hash, on which vectors are compared with those of the active generation and among
    themselves."""
    max_mean_cosine: float = _free(0.995)
    """Above this mean cosine between different keys of the panel the vectors have collapsed."""
    min_effective_rank: float = _free(3.0)
    """Below this effective rank (exp of the entropy of the panel's singular values) the vectors have collapsed."""
    max_norm_ratio: float = _free(20.0)
    """A vector whose norm is more than so many times the median, or as many times less, is no text's."""
    max_duplicate_share: float = _free(0.2)
    """Above this share of keys whose vector equals another key's though their texts differ, something is wrong."""
    min_coverage: float = _free(0.9)
    """Below this share of the catalogue with a vector, something is wrong."""
    max_drift: float = _free(0.01)
    """Above this mean cosine distance to the active generation, on keys of the panel whose text and space are the same,
    something is wrong."""


@dataclass(frozen=True, kw_only=True)
class TunedPublication(Publication):
    """Settings of tuned_publication: those of publication, readers pointed at it by hand."""

    activate: bool = _free(False)
    """As in [publication]; by hand: msd publish --activate."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Settings of examples."""

    shard_rows: int = _free(1_000_000)
    """Labels per shard, which is made in memory."""
    pass_rows: int = _free(16_000_000)
    """Labels per pass of the point-in-time join over the feature files; 24 bytes of memory each."""
    memory_gib: float = _free(2.0)
    """Of DuckDB's join; what does not fit goes to the folder for temporary files (TMPDIR)."""
    threads: int = _free(0)
    """Of DuckDB's join; 0: as many as the process has processors."""


@dataclass(frozen=True, kw_only=True)
class ContextTexts:
    """Settings of context_texts."""

    max_text_bytes: int = 4096
    """A longer text, such as a pasted page in a search box, is cut to this many bytes."""


@dataclass(frozen=True, kw_only=True)
class CtrRecords:
    """Settings of ctr_records."""

    max_history: int = 20
    """The latest events of the history that a CTR model reads."""
    min_id_count: int = 2
    """Ids and values with fewer training rows share the unknown row of their field."""
    hashed_rows: int = 0
    """0 enumerates every field; above, a field with more values than this is hashed into so many rows."""
    numbers: str = "buckets"
    """Attributes that are numbers: `buckets` of equal mass, `normalised` (one dense number, mean 0 and deviation 1 over
    the training rows), or `both`."""


@dataclass(frozen=True, kw_only=True)
class TunedStudent:
    """Settings of tuned_student (docs/methods.md)."""

    lora_rank: int = 8
    """r in W = W0 + (alpha / r)·B·A."""
    lora_alpha: float = 16.0
    """Scale of the adapters."""
    adapted_layers: int = 1
    """Upper layers that get adapters and run at every step; the states below them are computed once and stored."""
    max_steps: int = 120
    """Optimiser steps; 0 leaves the student as it is."""
    batch_size: int = 256
    """Labels per step."""
    history_items: int = 20
    """The latest liked items of a label's history that are read beside its target."""
    learning_rate: float = 3e-3
    """Peak of the adapters' rate: a linear rise over the first tenth of the steps, then a linear fall."""
    head_learning_rate: float = 5e-3
    """The same of the CTR network on top, which is thrown away afterwards."""
    seed: int = 0
    """Of the draw of labels, of the network on top and of the adapters."""
    batch_tokens: int = _free(65_536)
    """Tokens whose activations are held at once; more distinct texts in a step are read in parts (gradient caching)."""
    checkpoint_steps: int = _free(20)
    """Steps between checkpoints: what a killed run has to train again at most."""
    threads: int = _free(0)
    """Threads on a CPU, 0 for all cores; another number changes the last digits only."""


@dataclass(frozen=True, kw_only=True)
class TunedVectors:
    """Settings of tuned_item_vectors, tuned_user_vectors and tuned_context_vectors, which read as the student's do."""

    engine: str = _free("auto")
    """As in [item_vectors]."""
    processes: int = _free(1)
    """As in [item_vectors]."""
    shard_rows: int = _free(1024)
    """Rows per shard: what a killed run has to embed again at most."""
    batch_tokens: int = _free(1024)
    """Padded tokens per forward pass."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Settings of audit."""

    max_named: int = 1000
    """Rows named of each kind of leak; all are counted."""


@dataclass(frozen=True, kw_only=True)
class CtrModel:
    """Settings of ctr_model. An arm may have its own value of any of them but arms and seeds: see docs/arms.md."""

    arms: tuple[str, ...] = (
        "deepfm",
        "din",
        "dcnv2",
        "random_vectors",
        "shuffled_vectors",
        "raw_text",
        "msd_frozen",
        "msd",
        "elec_gain",
        "elec_vanilla",
    )
    """Arms trained side by side; the placebos always belong beside a semantic arm."""
    arms_file: str = _path("")
    """TOML of more arms, or of other settings of the built-in ones; what `msd tune` writes."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One training per arm and seed."""
    embedding_dim: int = 16
    """Width of an id or field embedding."""
    hidden: tuple[int, ...] = (128, 64)
    """Widths of the dense layers."""
    cross_layers: int = 2
    """Cross layers of DCNv2."""
    history_marks: bool = True
    """Adds what is known of an event besides its item: how long ago it was and how many came after it."""
    adaptor_dim: int = 32
    """Width of e' = MLP(e)."""
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
    vector_dropout: float = 0.05
    """Share of training rows that lose the target's, the user's or a context's vector, each by itself, so that a vector
    missing online is no surprise."""
    target_vector: bool = True
    """False leaves the target's e' out of the CTR input; the history is compared with it all the same."""
    share_item_adaptor: bool = True
    """History items are adapted as targets are; False gives them an adaptor of their own."""
    share_user_adaptor: bool = False
    """True adapts users as items are; otherwise they have an adaptor of their own."""
    fused_events: str = "liked"
    """Events of a history that may be fused: the `liked` ones, or `all`."""
    empty_fusion: str = "target"
    """e_item where no event is left: the `target`'s own e', or `zero`."""
    shared_experts: int = 2
    """KAR: experts that both sides read."""
    own_experts: int = 3
    """KAR: experts of each side alone."""
    expert_width: int = 128
    """KAR: hidden layer of an expert; its output has adaptor_dim numbers."""
    temperature: float = 2.0
    """ELEC: T, which softens the gain network's score."""
    score_weight: float = 0.5
    """ELEC: a, weight of the score-level distillation."""
    representation_weight: float = 0.5
    """ELEC: b, weight of the representation-level distillation."""
    schedule: str = "gain_first"
    """ELEC: `gain_first` trains the gain network to its end, `joint` both side by side."""
    dropout: float = 0.1
    """In the dense layers."""
    id_dropout: float = 0.0
    """Share of training rows whose target item id is replaced by the unknown id, so that a cold item is no surprise."""
    batch_size: int = 1024
    """Rows per step; fewer where an epoch would have fewer than 50 steps."""
    learning_rate: float = 5e-3
    """Of Adam."""
    embedding_optimiser: str = "auto"
    """Of the field embeddings: `adam` (dense), `sparse_adam`, `rowwise_adagrad` (one number of state a row), or auto:
    dense up to 200,000 rows, row-wise above."""
    weight_decay: float = 1e-5
    """Weight in the loss of the squared length of the field embeddings a row reads."""
    max_epochs: int = 4
    """Upper bound of passes over the training rows."""
    patience: int = 1
    """Training stops when the valid AUC has not risen for so many epochs; the best epoch is kept."""
    pool_rows: int = 1_000_000
    """Training rows held in memory and shuffled at once; a log that has no more is shuffled as a whole."""
    amp: str = "auto"
    """Automatic mixed precision: `bfloat16`, `off`, or auto (bfloat16 on a GPU)."""
    processes: int = _free(1)
    """Training processes (torchrun, DDP), one a GPU; batch_size is shared out among them."""
    checkpoint_seconds: float = _free(60.0)
    """Seconds between checkpoints of a training: what a killed run has to train again at most."""
    side_by_side: int = _free(0)
    """Trainings at once on a CPU, each in a process of its own; 0: one a core, 8 at most, where they are worth it (a
    million rows to train on)."""
    threads: int = _free(1)
    """Threads of a training on a CPU; another number changes the last digits only. One: steps of some 20 ms gain little
    from a second thread and wait for it whenever the machine has other work."""


@dataclass(frozen=True, kw_only=True)
class CanaryModel:
    """Settings of canary_model: see docs/gates.md."""

    arm: str = "msd_frozen"
    """The arm that is trained; one that reads the student's vectors."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One training per seed."""
    embedding_dim: int = 8
    """Width of an id or field embedding."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the dense layers."""
    adaptor_dim: int = 32
    """Width of e' = MLP(e)."""
    learning_rate: float = 5e-3
    """Of Adam."""
    batch_size: int = 1024
    """Rows per step; fewer where an epoch would have fewer than 50 steps."""
    max_epochs: int = 5
    """Upper bound of passes over the training rows."""
    patience: int = 2
    """Training stops when the valid AUC has not risen for so many epochs; the best epoch is kept."""
    threads: int = _free(1)
    """Threads of a training on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Settings of report."""

    bootstrap_rounds: int = 500
    """Resamples behind each interval; 40 or more."""
    shown_items: int = 5
    """Items whose teacher and student phrases stand side by side."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        """Refuses it when the call is read, not after hours, when the report would be made."""
        if self.bootstrap_rounds < MIN_BOOTSTRAP_ROUNDS:
            raise ConfigError(
                f"[report] bootstrap_rounds is {self.bootstrap_rounds}, and an interval of 95% needs"
                f" {MIN_BOOTSTRAP_ROUNDS} or more"
            )
