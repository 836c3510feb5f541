"""Train the demo: fit a head to its labelled images and build a release with it."""

import json
from dataclasses import replace
from pathlib import Path

from service.catalogue.reports import OnProgress
from service.demo.errors import DemoError
from service.demo.preparation import Announce, Demo, step
from service.embeddings.stored import OnEmbedded
from service.installation.installation import Installation
from service.releases.build import build_release
from service.releases.files import verify_release
from training.config import load_preset
from training.errors import TrainingError
from training.report.run_folder import REPORT, RUN_CARD, read_run_table
from training.running.run import CHECKPOINT, RunHooks, RunOptions, train

_PRESET = "head"
_OVERRIDES: tuple[str, ...] = ()


def train_demo(installation: Installation, demo: Demo, *, announce: Announce, on_progress: OnEmbedded) -> Demo:
    """Train on the demo's imported images and activate a release with the result; finished work is not repeated.

    Images that `--check` searches with are not imported, so they are not trained on. Raises DemoError if there are too
    few labelled images.
    """
    run_dir = installation.settings.home / "runs" / "demo"
    checkpoint = run_dir / CHECKPOINT
    # A run writes its report last; without one it was interrupted and is resumed.
    if (run_dir / REPORT).exists():
        announce(f"training: {run_dir} already holds a trained checkpoint")
    else:
        with step(announce, "training: a head on the features of the labelled images"):
            _train(installation, demo, run_dir, on_progress)
    for line in _recall_lines(run_dir):
        announce(f"  {line}")
    announce(f"  report: {run_dir / REPORT}")
    facts = verify_release(installation.settings.releases_dir, demo.release_id)
    if facts["space_id"] == read_run_table(run_dir, RUN_CARD).get("space_id"):
        announce(f"release {demo.release_id} was already built with it")
        return demo
    with step(announce, "release: embedded, indexed, published"):
        built = build_release(installation, checkpoint=checkpoint, on_progress=on_progress)
    announce(f"release {built.release_id}: {built.num_products} products, {built.num_images} images")
    return replace(demo, release_id=built.release_id)


def _train(installation: Installation, demo: Demo, run_dir: Path, on_progress: OnProgress) -> None:
    settings = installation.settings
    options = RunOptions(
        data=_write_manifest(installation, demo),
        out=run_dir,
        config=load_preset(_PRESET, _OVERRIDES),
        cache_dir=settings.home / "cache",
        device=settings.device,
        runtime=settings.runtime,
        resume=(run_dir / RUN_CARD).exists(),
        command="akin demo --train",
    )
    try:
        train(options, RunHooks(on_progress=lambda _stage, done, total: on_progress(done, total)))
    except TrainingError as error:
        raise DemoError(f"the demo's images cannot be trained on: {error}") from error


def _write_manifest(installation: Installation, demo: Demo) -> Path:
    """Write the manifest of the imported images; their folder may also hold images held out for `--check`."""
    path = installation.settings.home / "demo-training.ndjson"
    rows = [
        {"product_id": row.product_id, "label": row.label, "image": str(row.image.absolute()), "role": row.role}
        for row in demo.rows
    ]
    lines = [json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _recall_lines(run_dir: Path) -> list[str]:
    evaluation = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))
    titles = {"seen": "new photos of products trained on", "unseen": "products never trained on"}
    return [
        f"recall@1, {title}: {evaluation['before'][part]['recall_at_1']:.2f} before, "
        f"{evaluation['after'][part]['recall_at_1']:.2f} after"
        for part, title in titles.items()
        if part in evaluation["after"]
    ]
