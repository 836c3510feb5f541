"""akin checkpoint: create checkpoints from pretrained weights, and show them."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import output, print_json, progress_bar

app = typer.Typer(help="Create and show checkpoints.", no_args_is_help=True)


@app.command()
def create(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    backbone: Annotated[
        str, typer.Option(help="efficientnet_lite0, a torchvision name such as resnet50, or timm/NAME.")
    ] = "efficientnet_lite0",
    pooling: Annotated[str, typer.Option(help="average or gem.")] = "average",
    principal_components: Annotated[
        Path | None,
        typer.Option(help="Add a linear head, initialised with the principal components of the images here."),
    ] = None,
    embedding_dim: Annotated[int, typer.Option(min=1, help="Dimension of the head's embeddings.")] = 256,
) -> None:
    """Create a checkpoint from pretrained weights, without training."""
    from service.embeddings.pretrained import create_pretrained_checkpoint

    with progress_bar("Embedding") as on_progress:
        facts = create_pretrained_checkpoint(
            out,
            backbone=backbone,
            pooling=pooling,
            principal_components_of=principal_components,
            embedding_dim=embedding_dim,
            on_progress=on_progress,
        )
    output.print(f"{out}: space {facts.space_id}, dimension {facts.architecture.embedding_dim}", highlight=False)
    output.print(f"next: akin index build --checkpoint {out}", highlight=False)


@app.command()
def show(directory: Annotated[Path, typer.Argument(help="A checkpoint's folder.")]) -> None:
    """Verify a checkpoint, including its golden samples, and print its properties."""
    from dataclasses import asdict

    from embedding.checkpoint import load_embedder, read_checkpoint_facts
    from service.installation.settings import load_settings

    settings = load_settings()
    load_embedder(directory, settings.network_options)
    print_json(asdict(read_checkpoint_facts(directory)))
