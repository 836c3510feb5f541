"""Reference implementations of every loss: nested loops in float64, written from the formulas.

`is_allowed(i, j)` tells whether sample i may be compared with j.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Unit embeddings [B, D] in float64, a label and a flag per row, and the allowed pairs."""

    embeddings: torch.Tensor
    labels: list[int]
    is_representative: list[bool]
    is_allowed: Callable[[int, int], bool]

    def __len__(self):
        return len(self.labels)

    def distance(self, i, j):
        return (self.embeddings[i] - self.embeddings[j]).square().sum().clamp(min=1e-8).sqrt()

    def cosine(self, i, j):
        return (self.embeddings[i] * self.embeddings[j]).sum()

    def positives(self, i):
        return [j for j in range(len(self)) if self.is_allowed(i, j) and self.labels[i] == self.labels[j]]

    def negatives(self, i):
        return [j for j in range(len(self)) if self.is_allowed(i, j) and self.labels[i] != self.labels[j]]

    def zero(self):
        return self.embeddings.sum() * 0


def with_all_pairs(embeddings, labels, is_representative):
    return Batch(embeddings, labels, is_representative, lambda i, j: i != j)


def with_representative_pairs(embeddings, labels, is_representative):
    return Batch(embeddings, labels, is_representative, lambda i, j: is_representative[j] and not is_representative[i])


def mean(values, batch):
    return sum(values) / len(values) if values else batch.zero()


def active(values):
    return [value for value in values if value > 0]


def contrastive(batch, positive_margin=0.0, negative_margin=0.3841):
    rows = range(len(batch))
    positive = [batch.distance(i, j) - positive_margin for i in rows for j in batch.positives(i)]
    negative = [negative_margin - batch.distance(i, j) for i in rows for j in batch.negatives(i)]
    return mean(active(positive), batch) + mean(active(negative), batch)


def triplet(batch, margin=0.0961, mining="all"):
    values = []
    for i in range(len(batch)):
        for j in batch.positives(i):
            for k in batch.negatives(i):
                near, far = batch.distance(i, j), batch.distance(i, k)
                if mining == "all" or near < far < near + margin:
                    values.append(near - far + margin)
    return mean(active(values), batch)


def multi_similarity(batch, positive_scale=2.0, negative_scale=40.0, threshold=0.5):
    values = []
    for i in range(len(batch)):
        pull, push = batch.zero(), batch.zero()
        for j in batch.positives(i):
            pull = pull + torch.exp(-positive_scale * (batch.cosine(i, j) - threshold))
        for j in batch.negatives(i):
            push = push + torch.exp(negative_scale * (batch.cosine(i, j) - threshold))
        if batch.positives(i) or batch.negatives(i):
            values.append(torch.log(1 + pull) / positive_scale + torch.log(1 + push) / negative_scale)
    return mean(values, batch)


def margin(batch, beta, margin=0.2):
    """`beta` is a list of one number, or of one per class."""
    values = []
    for i in range(len(batch)):
        boundary = beta[0] if len(beta) == 1 else beta[batch.labels[i]]
        values += [batch.distance(i, j) - boundary + margin for j in batch.positives(i)]
        values += [boundary + margin - batch.distance(i, j) for j in batch.negatives(i)]
    return mean(active(values), batch)


def lifted_structure(batch, margin=1.0):
    values = []
    for i in range(len(batch)):
        for j in batch.positives(i):
            near_either = [torch.exp(margin - batch.distance(i, k)) for k in batch.negatives(i)]
            near_either += [
                torch.exp(margin - batch.distance(k, j))
                for k in range(len(batch))
                if batch.is_allowed(k, j) and batch.labels[k] != batch.labels[j]
            ]
            if near_either:
                values.append(
                    0.5 * (torch.log(sum(near_either, batch.zero())) + batch.distance(i, j)).clamp(min=0) ** 2
                )
            else:  # The logarithm of nothing is minus infinity.
                values.append(batch.zero())
    return mean(values, batch)


def n_pair(batch, temperature=0.11):
    values = []
    for i in range(len(batch)):
        for j in batch.positives(i):
            numerator = torch.exp(batch.cosine(i, j) / temperature)
            others = sum((torch.exp(batch.cosine(i, k) / temperature) for k in batch.negatives(i)), batch.zero())
            values.append(-torch.log(numerator / (numerator + others)))
    return mean(values, batch)


def angular(batch, angle_degrees=45.0):
    squared_tangent = math.tan(math.radians(angle_degrees)) ** 2
    values = []
    for i in range(len(batch)):
        for j in batch.positives(i):
            total = batch.zero()
            for k in batch.negatives(i):
                repulsion = ((batch.embeddings[i] + batch.embeddings[j]) * batch.embeddings[k]).sum()
                attraction = batch.cosine(i, j)
                total = total + torch.exp(4 * squared_tangent * repulsion - 2 * (1 + squared_tangent) * attraction)
            values.append(torch.log(1 + total))
    return mean(values, batch)


def proxy_anchor(batch, proxies=None, margin=0.1, scale=32.0):
    """`proxies` [C, D]; if None, the proxy of a class is its representative in the batch, which is no sample."""
    samples = list(range(len(batch)))
    by_class = {
        c: proxy / proxy.square().sum().sqrt() for c, proxy in enumerate(proxies if proxies is not None else [])
    }
    if proxies is None:
        by_class = {batch.labels[i]: batch.embeddings[i] for i in samples if batch.is_representative[i]}
        samples = [i for i in samples if not batch.is_representative[i]]
    pulls, pushes = [], []
    for c, proxy in by_class.items():
        inside = [(batch.embeddings[i] * proxy).sum() for i in samples if batch.labels[i] == c]
        outside = [(batch.embeddings[i] * proxy).sum() for i in samples if batch.labels[i] != c]
        if inside:
            pulls.append(torch.log(1 + sum((torch.exp(-scale * (s - margin)) for s in inside), batch.zero())))
        pushes.append(torch.log(1 + sum((torch.exp(scale * (s + margin)) for s in outside), batch.zero())))
    return mean(pulls, batch) + mean(pushes, batch)
