"""Import torchvision where its compiled part does not load.

The usual wheel of torchvision is built for CUDA; beside a CPU build of torch its operators stay unregistered and
`import torchvision` fails with «operator torchvision::nms does not exist». Declaring the two operators that its
Python code refers to lets models and transforms work; the operators themselves and torchvision.io do not.
"""

from functools import cache
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def load_torchvision() -> ModuleType:
    """Return the module `torchvision`; does nothing special where the real extension loads.

    Call this before anything that imports torchvision itself, timm for one.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()
        import torchvision
    module: ModuleType = torchvision
    return module


@cache
def _declare_operators() -> torch.library.Library:
    # Cached, since the declarations vanish with the Library object.
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch has no types here
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
