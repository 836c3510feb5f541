"""The end of a process that trained."""

import logging
import os
import sys
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """End this process; one that torchrun started skips Python's own clean-up.

    DistributedDataParallel never gives up its process group (torch 2.13), so gloo's threads live to the end. One that
    lets go of a tensor while Python is already being taken down aborts the process ("terminate called without an
    active exception"), and with it a run whose files are all written: rare, and only where the machine is busy.
    """
    # Where torch was not even loaded, nothing was trained.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_torchelastic_launched():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
