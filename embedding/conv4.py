"""A four-layer convolutional network for small images, which trains from scratch within minutes on a CPU.

Four blocks of 3 × 3 convolution, batch norm, ReLU and 2 × 2 max pooling, as is usual in few-shot experiments
(arXiv:1606.04080); here the number of channels doubles from block to block, and the last block has no pooling.
"""

from torch import Tensor, nn

_CHANNELS = (16, 32, 64, 128)


class Conv4(nn.Module):
    """Images [N, 3, H, W] to a feature map [N, 128, H/8, W/8]; there are no pretrained weights."""

    num_channels = _CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for channels_in, channels_out in zip((3, *_CHANNELS), _CHANNELS, strict=False):
            # No bias: batch norm subtracts the mean.
            blocks += [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)]
            blocks.append(nn.ReLU(inplace=True))
            if channels_out != _CHANNELS[-1]:
                blocks.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the feature map."""
        features: Tensor = self.blocks(images_NCHW)
        return features
