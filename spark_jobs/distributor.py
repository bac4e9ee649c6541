"""A function as the processes of a torch.distributed group, each a task of one Spark barrier stage.

The function gets the path of a folder that every executor sees: its job, and where it leaves checkpoints.
"""

from collections.abc import Callable
from pathlib import Path

from pyspark.ml.torch.distributor import TorchDistributor

from msd_models.process_group import Launch
from pipeline.progress import Advance
from spark_jobs.session import session

GPU_SETTING = "spark.task.resource.gpu.amount"


def spark_launcher(work: Callable[[str], None]) -> Launch:
    """Starts `work(job)` in so many tasks at once; the stage waits until the cluster has as many slots.

    Spark tells of steps in its own log only, so that a progress bar moves at the end.
    """

    def _launch(job: Path, processes: int, advance: Advance) -> None:
        with_gpus = session().sparkContext.getConf().contains(GPU_SETTING)
        TorchDistributor(num_processes=processes, local_mode=False, use_gpu=with_gpus).run(work, str(job))
        advance(0)

    return _launch
