"""EfficientNet-Lite0, whose ImageNet weights are available as a package (arXiv:1905.11946, Lite variant).

Compared with EfficientNet-B0 it has no squeeze-and-excitation, uses ReLU6 instead of swish, and does not scale the stem
and the last convolution. Module names follow the published state dict, so that its weights load by name.
"""

import torch.nn.functional as F
from torch import Tensor, nn

# kernel, stride, expansion, output channels, repeats
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
NUM_CHANNELS = 1280


class SamePaddingConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: output = ceil(input / stride), an odd pixel added right and below."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve [N, C, H, W]."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = x_NCHW.shape[-2:]
        pad_height = max((-(height // -stride) - 1) * stride + kernel - height, 0)
        pad_width = max((-(width // -stride) - 1) * stride + kernel - width, 0)
        if pad_height % 2 == 0 and pad_width % 2 == 0:
            padding = (pad_height // 2, pad_width // 2)
            return F.conv2d(x_NCHW, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        left, top = pad_width // 2, pad_height // 2
        x_NCHW = F.pad(x_NCHW, (left, pad_width - left, top, pad_height - top))
        return F.conv2d(x_NCHW, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and linear projection, added to the input where the shapes agree."""

    def __init__(self, num_inputs: int, num_outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = num_inputs * expansion
        self.has_expansion = expansion != 1
        self.is_residual = stride == 1 and num_inputs == num_outputs
        if self.has_expansion:
            self._expand_conv = _conv(num_inputs, hidden, 1)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = _conv(hidden, hidden, kernel, stride=stride, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._project_conv = _conv(hidden, num_outputs, 1)
        self._bn2 = _batch_norm(num_outputs)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Transform [N, C, H, W]."""
        hidden: Tensor = x_NCHW
        if self.has_expansion:
            hidden = F.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        if self.is_residual:
            hidden = hidden + x_NCHW
        return hidden


class EfficientNetLite0(nn.Module):
    """The convolutional part of EfficientNet-Lite0: [N, 3, H, W] to a feature map [N, 1280, H/32, W/32]."""

    num_channels = NUM_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        blocks = []
        num_inputs = _STEM_CHANNELS
        for kernel, stride, expansion, num_outputs, repeats in _STAGES:
            for repeat in range(repeats):
                stride_here = stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(num_inputs, num_outputs, kernel=kernel, stride=stride_here, expansion=expansion)
                )
                num_inputs = num_outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(num_inputs, NUM_CHANNELS, 1)
        self._bn1 = _batch_norm(NUM_CHANNELS)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the feature map of normalised images."""
        x_NCHW = F.relu6(self._bn0(self._conv_stem(x_NCHW)))
        for block in self._blocks:
            x_NCHW = block(x_NCHW)
        features: Tensor = self._conv_head(x_NCHW)
        return F.relu6(self._bn1(features))


def _conv(num_inputs: int, num_outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> SamePaddingConv2d:
    return SamePaddingConv2d(num_inputs, num_outputs, kernel, stride=stride, groups=groups, bias=False)


def _batch_norm(num_channels: int) -> nn.BatchNorm2d:
    # TensorFlow's constants, with which the published weights were trained.
    return nn.BatchNorm2d(num_channels, eps=1e-3, momentum=0.01)
