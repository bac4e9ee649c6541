"""What every test shares: no model hub, no more threads than the machine has, warnings of old child libraries quiet."""

import os

import hypothesis

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", str(min(os.cpu_count() or 2, 4)))
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is slow, not wrong: properties have no deadline, and the same examples every time.
hypothesis.settings.register_profile("msd", deadline=None, derandomize=True)
hypothesis.settings.load_profile("msd")
