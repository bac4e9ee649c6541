"""What torchrun starts in each process: `python -m torch.distributed.run … -m msd_models.ctr_worker JOB`."""

import sys

from msd_models.ctr_job import work

if __name__ == "__main__":
    work(sys.argv[1])
