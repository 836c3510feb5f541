"""Exit of a process that trained."""

import logging
import os
import sys
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """Exit; a process that torchrun started skips Python's finalisation.

    DistributedDataParallel never releases its process group (torch 2.13), so gloo's threads live until the end. A
    thread that releases a tensor during finalisation aborts the process ("terminate called without an active
    exception") although all files are written. This is rare and happens on busy machines only.
    """
    # If torch was not imported, nothing was trained.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_torchelastic_launched():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
