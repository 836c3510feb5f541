"""The training loop (docs/method.md §6), from the first projection to the selected weights.

Shape legend: B images of a batch, P classes, D embedding dimension.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from training.batches import Batch
from training.errors import TrainingDiverged
from training.loop_parts import LoopHooks, LoopParts, LoopResult, Record, Status
from training.losses.factory import pairs_for
from training.losses.pairs import LossOutput
from training.optimisation import (
    clip_gradients,
    create_optimiser,
    learning_rate_factor,
    set_learning_rates,
    set_trainable,
    set_training_mode,
    trainable_parameters,
)
from training.projections import Projections, norm_of, relax
from training.report.diagnostics import CollapseWatch, PullWatch, diagnose

# Candidates for the final relaxation a in θ_first + a(θ_last − θ_first).
RELAXATION_GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class TrainingLoop:
    """One training run; `run()` trains from the current state to the end."""

    def __init__(self, parts: LoopParts, hooks: LoopHooks | None = None) -> None:
        self._parts = parts
        self._hooks = hooks or LoopHooks()
        self._config = config = parts.config
        set_trainable(parts.model, config.network)
        self._optimiser = create_optimiser(parts.model, parts.loss, config.optimiser)
        self._parameters = trainable_parameters(parts.model)
        self._all_parameters = [*self._parameters, *parts.loss.parameters()]
        steps_per_projection = config.projections.steps_of(parts.batches.num_classes, config.batches.classes_per_batch)
        is_active = config.batches.representatives != "none"
        self._projections = Projections(config.projections, self._parameters, steps_per_projection, is_active=is_active)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._step = 0
        relaxes = config.projections.final_relaxation < 1 or config.projections.choose_final_relaxation
        self._first = self._copy_of_weights() if relaxes else []
        self._best: list[Tensor] = []
        self._best_step, self._best_metric, self._num_stale = 0, -math.inf, 0
        self._metric_name = ""
        self._kept_metric: float | None = None
        self._warnings: list[str] = []
        self._collapse_watch, self._pull_watch = CollapseWatch(), PullWatch()
        self._network = self._wrapped()
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._mined = 0  # classes since the last record
        self._is_resumed = False

    def run(self) -> LoopResult:
        """Train to the last step, until the metric stops improving, or until a stop is requested.

        Raises TrainingDiverged if the loss or the weights become NaN or infinite; saved states remain valid.
        """
        config = self._config
        if not self._is_resumed:
            self._begin_projection()
            self._parts.batches.prepare()
        set_training_mode(self._parts.model, config.network)
        while not self._is_over():
            if 0 < self._step == config.optimiser.head_warm_up_steps:
                self._network = self._wrapped()
            self._train_step()
            if self._step % config.evaluation.every == 0 or self._step == config.steps:
                self._evaluate()
            if self._is_over():
                break
            if self._projections.has_ended:
                self._projections.end()
                self._begin_projection()
            should_stop = self._is_stop_requested()
            if should_stop or self._step % config.save_every == 0:
                self._save()
            if should_stop:
                return self._result("interrupted", 1.0)
        # Evaluation and report can then be repeated without training again.
        self._save()
        return self._finish("completed" if self._step == config.steps else "stopped_early")

    def _is_over(self) -> bool:
        return self._step >= self._config.steps or 0 < self._config.evaluation.patience <= self._num_stale

    def _is_stop_requested(self) -> bool:
        """Tell whether a stop is requested; several processes agree only at logged steps, since that takes time."""
        group = self._parts.group
        if group.size > 1 and self._step % self._config.log_every:
            return False
        return group.any(self._hooks.should_stop(), self._parts.device)

    def _save(self) -> None:
        """Save the state; raise TrainingDiverged instead of replacing a valid state by non-finite weights."""
        if not torch.isfinite(norm_of(self._copy_of_weights())):
            self._diverge("weights")
        if self._parts.group.is_first:
            self._hooks.save(self._step, self.state())

    def _begin_projection(self) -> None:
        """Choose new representatives and make the current weights the anchor weights."""
        projections = self._projections
        if not projections.is_active:
            return
        projections.begin()
        self._parts.batches.begin_projection(projections.number)
        if self._config.batches.refresh_table:
            self._refresh_table()
        self._record({"kind": "projection", "projection": projections.number, "pull_weight": projections.weight})

    def _train_step(self) -> None:
        parts, config = self._parts, self._config
        batch = parts.batches.take()
        # The next batch is planned before this one is computed, so that the device never waits for it.
        parts.batches.prepare()
        set_learning_rates(self._optimiser, learning_rate_factor(self._step, config.steps, config.optimiser))

        is_plain = batch.is_representative & (config.batches.representative_transform == "evaluation")
        rows = parts.group.share_of(len(batch.images))
        inputs = parts.inputs.batch(parts.positions[batch.images], is_plain, self._generator, rows)
        with torch.autocast(parts.device.type, torch.bfloat16, enabled=self._uses_bf16):
            local_embeddings = self._network(inputs)
        embeddings_BD = parts.group.gather(local_embeddings)
        labels_B = torch.from_numpy(batch.labels).to(parts.device, non_blocking=True)
        is_representative_B = torch.from_numpy(batch.is_representative).to(parts.device, non_blocking=True)
        output = parts.loss(embeddings_BD, labels_B, pairs_for(config.loss, labels_B, is_representative_B))

        self._optimiser.zero_grad(set_to_none=True)
        output.value.backward()
        is_logged = (self._step + 1) % config.log_every == 0
        pull_ratio = self._add_pull(is_measured=is_logged)
        gradient_norm = clip_gradients(self._all_parameters, config.optimiser.clip_norm)
        before = self._copy_of_weights() if is_logged and self._projections.is_decoupled else None
        self._optimiser.step()
        if before is not None:
            pull_ratio = self._ratio_of_decoupled_pull(before)
        self._projections.pull_back()
        parts.table.refresh(batch.classes, embeddings_BD[:: config.batches.images_per_class], self._step)

        self._step += 1
        self._projections.count_step()
        self._mined += batch.num_mined
        if is_logged:
            self._log(batch, output, embeddings_BD, labels_B, gradient_norm, pull_ratio)
        self._hooks.advanced(self._step)

    @property
    def _uses_bf16(self) -> bool:
        return self._config.evaluation.bf16 and self._parts.device.type == "cuda"

    def _add_pull(self, *, is_measured: bool) -> Tensor | None:
        """Add the coupled pull to the gradients; returns ‖λ(θ − θ_k)‖ / ‖∇L‖ if measured."""
        if not is_measured or not self._projections.is_coupled:
            self._projections.add_pull()
            return None
        gradient_norm = norm_of([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        pull_length = self._projections.pull_length()
        self._projections.add_pull()
        return pull_length / gradient_norm.clamp(min=1e-12)

    @torch.no_grad()
    def _ratio_of_decoupled_pull(self, before: list[Tensor]) -> Tensor:
        """Return the length of the coming pull divided by the length of the optimiser's step."""
        step = norm_of(torch._foreach_sub(list[Tensor](self._parameters), before))
        return self._projections.pull_length() / step.clamp(min=1e-12)

    def _copy_of_weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _log(
        self,
        batch: Batch,
        output: LossOutput,
        embeddings_BD: Tensor,
        labels_B: Tensor,
        gradient_norm: Tensor,
        pull_ratio: Tensor | None,
    ) -> None:
        loss = float(output.value.detach())
        if not math.isfinite(loss):
            self._diverge("loss")
        parts, config = self._parts, self._config
        drift = self._projections.drift()
        record: Record = {
            "kind": "step",
            "epoch": parts.batches.epoch,
            "loss": loss,
            "active_share": float(output.num_active.detach() / output.num_pairs.clamp(min=1)),
            "gradient_norm": float(gradient_norm),
            "pull_ratio": None if pull_ratio is None else float(pull_ratio),
            "drift": None if drift is None else float(drift),
            "learning_rate": max(group["lr"] for group in self._optimiser.param_groups),
            "mined_share": self._mined / (config.log_every * len(batch.classes)),
            "representative_age": parts.batches.mean_age_of_representatives(batch.classes),
            "projection": self._projections.number,
        }
        with torch.no_grad():
            record |= {name: float(value) for name, value in diagnose(embeddings_BD, labels_B).items()}
        self._mined = 0
        self._record(record)
        spread, distance = record["embedding_spread"], record["negative_distance_q50"]
        for warning in (self._collapse_watch.update(spread, distance), self._pull_watch.update(record["pull_ratio"])):
            if warning:
                self._warnings.append(warning)
                self._record({"kind": "warning", "message": warning})

    def _diverge(self, what: str) -> NoReturn:
        best = f", with the best weights of step {self._best_step}" if self._best else ""
        raise TrainingDiverged(
            f"the {what} became NaN or infinite at step {self._step}; the state saved last, if any, is kept{best}; "
            "lower optimiser.head_learning_rate and optimiser.backbone_learning_rate, or set optimiser.clip_norm"
        )

    def _evaluate(self) -> None:
        """Evaluate the model on the validation part and keep the best weights."""
        if self._parts.validate is None:
            return
        metrics = self._validated(self._parts.validate)
        set_training_mode(self._parts.model, self._config.network)
        metric, self._metric_name = _metric_of(metrics), str(metrics["metric"])
        self._projections.observe(metric)
        if metric > self._best_metric:
            self._best_step, self._best_metric, self._num_stale = self._step, metric, 0
            if self._config.evaluation.keep == "best":
                self._best = _copies(self._parts.inputs.network)
        else:
            self._num_stale += 1
        self._record({"kind": "evaluation", **metrics, "is_best": self._num_stale == 0})

    def _validated(self, validate: Callable[[], Record]) -> Record:
        """Validate in the first process and broadcast the result, so that all processes decide alike."""
        group = self._parts.group
        return group.broadcast(validate() if group.is_first else {})

    def _finish(self, status: Status) -> LoopResult:
        """Load the selected weights into the model: the best or last, relaxed towards the run's first."""
        model, config = self._parts.model, self._config.projections
        if self._best:
            _load_tensors(self._parts.inputs.network, self._best)
        share = config.final_relaxation
        if config.choose_final_relaxation and self._parts.validate is not None:
            share = self._best_relaxation(self._parts.validate)
        if share < 1:
            relax(self._parameters, self._first, share)
            if self._parts.validate is not None:
                metrics = self._validated(self._parts.validate)
                self._kept_metric, self._metric_name = _metric_of(metrics), str(metrics["metric"])
                self._record({"kind": "evaluation", **metrics, "final_relaxation": share})
        model.eval()
        return self._result(status, share)

    def _result(self, status: Status, final_relaxation: float) -> LoopResult:
        best_metric = self._best_metric if math.isfinite(self._best_metric) else None
        return LoopResult(
            status=status,
            steps=self._step,
            best_step=self._best_step,
            best_metric=best_metric,
            final_relaxation=final_relaxation,
            metric_name=self._metric_name,
            kept_metric=best_metric if self._kept_metric is None else self._kept_metric,
            warnings=tuple(self._warnings),
            seconds=self._seconds,
        )

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _best_relaxation(self, validate: Callable[[], Record]) -> float:
        """Return the share with the best validation metric, the largest of equally good ones."""
        end = self._copy_of_weights()
        metrics = {}
        for share in reversed(RELAXATION_GRID):
            relax(self._parameters, self._first, share)
            metrics[share] = _metric_of(self._validated(validate))
            relax(self._parameters, end, 0.0)
        self._record({"kind": "relaxation", "metrics": {str(share): metric for share, metric in metrics.items()}})
        return max(metrics, key=lambda share: (metrics[share], share))

    @torch.no_grad()
    def _refresh_table(self) -> None:
        """Embed the representative of every class, without augmentation."""
        parts = self._parts
        images = np.array([parts.batches.representative_of(c) for c in range(parts.batches.num_classes)], np.int64)
        embeddings = torch.from_numpy(parts.inputs.embed(parts.positions[images])).to(parts.device)
        parts.table.refresh(np.arange(len(images), dtype=np.int64), embeddings, self._step)
        set_training_mode(parts.model, self._config.network)

    def _wrapped(self) -> nn.Module:
        """Return the network with the weights to train at this step: the head during warm-up, then all."""
        is_warm_up = self._step < self._config.optimiser.head_warm_up_steps
        set_trainable(self._parts.model, self._config.network, head_only=is_warm_up)
        return self._parts.group.wrap(self._parts.inputs.network)

    def _record(self, record: Record) -> None:
        self._hooks.record({"step": self._step, "seconds": round(self._seconds, 3), **record})

    def state(self) -> dict[str, Any]:
        """Return on the CPU everything that influences the next step (docs/method.md §6)."""
        parts = self._parts
        return {
            "network": _on_cpu(parts.inputs.network.state_dict()),
            "loss": _on_cpu(parts.loss.state_dict()),
            "optimiser": self._optimiser.state_dict(),
            "projections": self._projections.state(),
            "batches": parts.batches.state(),
            "table": parts.table.state(),
            "generator": self._generator.get_state(),
            "torch_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(parts.device) if parts.device.type == "cuda" else None,
            "loop_step": self._step,
            "first": [tensor.cpu() for tensor in self._first],
            "best": [tensor.cpu() for tensor in self._best],
            "best_step": self._best_step,
            "best_metric": self._best_metric,
            "num_stale": self._num_stale,
            "metric_name": self._metric_name,
            "mined": self._mined,
            "warnings": list(self._warnings),
            "collapse_watch": self._collapse_watch.state_dict(),
            "pull_watch": self._pull_watch.state_dict(),
            "seconds": self._seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a run with the same configuration and data."""
        parts = self._parts
        parts.inputs.network.load_state_dict(state["network"])
        parts.loss.load_state_dict(state["loss"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._projections.restore(state["projections"])
        parts.batches.restore(state["batches"])
        parts.table.restore(state["table"])
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_random"])
        if state["cuda_random"] is not None and parts.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], parts.device)
        self._step = state["loop_step"]
        self._first = [tensor.to(parts.device) for tensor in state["first"]]
        self._best = [tensor.to(parts.device) for tensor in state["best"]]
        self._best_step, self._best_metric = state["best_step"], state["best_metric"]
        self._metric_name = state["metric_name"]
        self._num_stale, self._mined = state["num_stale"], state["mined"]
        self._warnings = list(state["warnings"])
        self._collapse_watch.load_state_dict(state["collapse_watch"])
        self._pull_watch.load_state_dict(state["pull_watch"])
        self._seconds_before = state["seconds"]
        self._is_resumed = True
        self._network = self._wrapped()


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _metric_of(metrics: Record) -> float:
    return float(metrics[metrics["metric"]])


def _copies(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in module.state_dict().values()]


@torch.no_grad()
def _load_tensors(module: nn.Module, tensors: list[Tensor]) -> None:
    for target, source in zip(module.state_dict().values(), tensors, strict=True):
        target.copy_(source)
