"""Small batches with uneven classes, and every loss, for the tests of losses."""

import torch
import torch.nn.functional as F

from training.losses.factory import LossConfig, create_loss, pairs_for

NUM_CLASSES = 6
EMBEDDING_DIM = 5
# Margins with which about half of the hinges are active on `draw_batch`.
LOSSES = {
    "contrastive": LossConfig("contrastive", positive_margin=0.4, negative_margin=1.3),
    "triplet": LossConfig("triplet", margin=0.3),
    "triplet semi-hard": LossConfig("triplet", margin=0.3, mining="semi-hard"),
    "multi_similarity": LossConfig("multi_similarity"),
    "margin": LossConfig("margin", beta=1.0),
    "margin per class": LossConfig("margin", beta=1.0, beta_per_class=True),
    "lifted_structure": LossConfig("lifted_structure"),
    "n_pair": LossConfig("n_pair"),
    "angular": LossConfig("angular", angle_degrees=40),
    "proxy_anchor": LossConfig("proxy_anchor"),
}


def draw_batch(seed, dtype=torch.float64):
    """Return (raw embeddings, labels, flags): classes 0, 2, 3 and 5 with 5, 3, 2 and 1 images, in random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0] * 5 + [2] * 3 + [3] * 2 + [5])
    centres = torch.randn(NUM_CLASSES, EMBEDDING_DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), EMBEDDING_DIM, generator=generator, dtype=torch.float64)
    is_first = torch.cat([torch.tensor([True]), labels[1:] != labels[:-1]])
    order = torch.randperm(len(labels), generator=generator)
    raw = (centres[labels] + 0.8 * noise)[order].to(dtype)
    return raw.requires_grad_(), labels[order], is_first[order]


def create(config, seed=0):
    """Create a float64 loss whose learnt weights differ from each other."""
    loss = create_loss(config, NUM_CLASSES, EMBEDDING_DIM, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return loss


def run(loss, config, raw, labels, is_representative):
    """Return the loss of the raw embeddings scaled to length one."""
    return loss(F.normalize(raw, dim=1), labels, pairs_for(config, labels, is_representative))
