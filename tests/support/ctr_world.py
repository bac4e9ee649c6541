"""A small world for the CTR networks: opened records on disk and vectors in memory, without any stage before them.

A user likes one trait; an item's vector shows its trait, its id (seldom met) and its attributes do not. Where there
are queries, a query's vector shows a trait as well.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch

from msd_models.ctr_inputs import IS_KNOWN, IS_LIKED, NUM_GAPS, CtrInputs
from msd_models.fields import Field
from msd_models.record_files import RecordWriter, open_records, record_type
from msd_models.vector_tables import ArmTables, SemanticVectors, VectorSource, VectorTable

NUM_TRAITS, DIM = 6, 12
SPLIT_SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}


def memory_table(vectors_ND, has_vector_N=None):
    """A table of these vectors; all of them present where nothing else is said."""
    flags = np.full(len(vectors_ND), True) if has_vector_N is None else has_vector_N
    shown_ND = np.where(flags[:, None], vectors_ND, 0).astype(np.float32)
    return VectorTable(vectors_ND=shown_ND, has_vector_N=flags, space_id="memory")


@dataclass(frozen=True, kw_only=True)
class CtrWorld:
    """Opened records and the tables they name rows of."""

    inputs: CtrInputs
    tables: ArmTables

    @property
    def vectors(self):
        """The same numbers as the student's, the tuned student's and the text encoder's."""
        sources = (VectorSource.STUDENT, VectorSource.TUNED, VectorSource.RAW_TEXT)
        users = np.arange(self.tables.users.num_rows)
        return SemanticVectors(tables=dict.fromkeys(sources, self.tables), user_N=users, time_N=users * 0)

    def batch(self, count, split="train", first=0):
        """The examples first … first + count − 1 of a split."""
        return self.inputs.batch(self.inputs.records[split].read(first, count))


def make_world(folder, *, num_users=60, num_items=80, per_user=10, num_history=8, num_contexts=1, seed=0):
    """Writes a world's records into the folder and opens them.

    Entry c of the catalogue has vector row num_items + 1 − c (one in ten has none), so that a network that takes the
    one for the other is found out. User u has vector row u + 1; one example in ten has no user vector.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    trait_item = random.integers(NUM_TRAITS, size=num_items)
    trait_user = random.integers(NUM_TRAITS, size=num_users)
    direction = np.linalg.qr(random.standard_normal((DIM, DIM)))[0][:NUM_TRAITS]
    shown = 3 * direction[trait_item] + 0.3 * random.standard_normal((num_items, DIM))
    fields, sizes = _fields(num_users, num_items)
    plan = SimpleNamespace(random=random, num_history=num_history, num_contexts=num_contexts, fields=fields)
    plan.trait_item, plan.trait_user = trait_item, trait_user
    plan.dtype = record_type(len(fields), 2, num_history, num_contexts)
    records = _records(plan, per_user)
    offsets = dict(zip((field.name for field in fields), (field.offset for field in fields), strict=True))
    entries = np.arange(1, num_items + 1)
    codes = np.stack([offsets["item_id"] + entries, offsets["category"] + 1 + entries % sizes["category"]], axis=1)
    codes = np.vstack([[[offsets["item_id"], offsets["category"]]], codes])
    inputs = CtrInputs(
        folder=folder,
        fields=fields,
        number_names=("item.price", "user.age"),
        context_names=tuple(f"query {number}" for number in range(num_contexts)),
        max_history=num_history,
        catalogue_codes_C2=torch.from_numpy(codes).long(),
        exposures_C=torch.from_numpy(np.append(0, np.bincount(records["item"], minlength=num_items)).astype("f4")),
        vector_row_C=torch.from_numpy(np.append(0, num_items + 1 - entries)).long(),
        sampled_rows=_sampled(records),
        records=_write(folder, records, random),
    )
    tables = ArmTables(
        items=memory_table(shown[::-1], random.random(num_items) < 0.9),
        users=memory_table(3 * direction[trait_user] + 0.3 * random.standard_normal((num_users, DIM))),
        contexts=memory_table(3 * direction + 0.3 * random.standard_normal((NUM_TRAITS, DIM))),
    )
    return CtrWorld(inputs=inputs, tables=tables)


def _fields(num_users, num_items):
    sizes = {"user_id": num_users, "item_id": num_items, "category": 3, "item.brand": 4, "context.device": 2}
    fields, offset = [], 0
    for name, size in sizes.items():
        fields.append(Field(name=name, offset=offset, values=pa.array([f"{name} {number}" for number in range(size)])))
        offset += fields[-1].size
    return tuple(fields), sizes


def _records(plan, per_user):
    """per_user examples of each user, in random order."""
    random, num_items = plan.random, len(plan.trait_item)
    user = random.permutation(np.repeat(np.arange(len(plan.trait_user)), per_user))
    alike = [np.flatnonzero(plan.trait_item == trait) for trait in range(NUM_TRAITS)]
    alike = [own if len(own) else np.arange(num_items) for own in alike]
    item = np.array([random.choice(alike[plan.trait_user[one]]) for one in user])
    item = np.where(random.random(len(user)) < 0.5, item, random.integers(num_items, size=len(user)))
    records = np.zeros(len(user), dtype=plan.dtype)
    values = [user, item, (item + 1) % 3, item % 4, random.integers(2, size=len(user))]
    for number, (field, value) in enumerate(zip(plan.fields, values, strict=True)):
        records["codes"][:, number] = field.offset + 1 + value
    records["numbers"] = random.standard_normal((len(user), 2))
    _write_histories(plan, records, user, alike)
    records["context_rows"] = random.integers(NUM_TRAITS + 1, size=(len(user), plan.num_contexts))
    records["item_row"] = num_items - item
    records["user_row"] = np.where(random.random(len(user)) < 0.1, 0, user + 1)
    records["item"], records["user"], records["event_id"] = item, user, np.arange(len(user))
    is_match = plan.trait_item[item] == plan.trait_user[user]
    records["click"] = random.random(len(user)) < np.where(is_match, 0.9, 0.1)
    return records


def _write_histories(plan, records, user, alike):
    """Histories of 0 … L events that end at the last position; most are of the liked trait."""
    random, num_items = plan.random, len(plan.trait_item)
    for row, one in enumerate(user):
        length = random.integers(plan.num_history + 1)
        if not length:
            continue
        liked = random.choice(alike[plan.trait_user[one]], length)
        events = np.where(random.random(length) < 0.8, liked, random.integers(num_items, size=length))
        is_liked = random.random(length) < 0.8
        records["history"][row, -length:] = events + 1
        records["flags"][row, -length:] = IS_KNOWN + IS_LIKED * is_liked.astype(np.uint8)
        records["gaps"][row, -length:] = np.sort(random.integers(1, NUM_GAPS, size=length))[::-1]


def _sampled(records):
    named = {"items": records["item_row"], "users": records["user_row"], "contexts": records["context_rows"]}
    return {name: np.setdiff1d(rows, [0]).astype(np.int64) for name, rows in named.items()}


def _write(folder, records, random):
    split_N = random.choice(list(SPLIT_SHARES), size=len(records), p=list(SPLIT_SHARES.values()))
    opened = {}
    for split in SPLIT_SHARES:
        writer = RecordWriter(folder / f"{split}.npy", records.dtype)
        writer.write(records[split_N == split])
        writer.close()
        opened[split] = open_records(writer.path)
    return opened
