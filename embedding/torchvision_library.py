"""Import torchvision even where its compiled extension does not load.

The default wheel of torchvision is built for CUDA. With a CPU build of torch its operators are not registered, and
`import torchvision` fails with "operator torchvision::nms does not exist". Declaring the two operators that its Python
code refers to is enough for models and transforms; the operators themselves and torchvision.io remain unusable.
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
    """Return the module `torchvision`, with its operators declared where the extension does not load.

    Call this before importing anything that imports torchvision, such as timm.
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
    # Cached, since the declarations are removed with the Library object.
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # untyped in torch
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
