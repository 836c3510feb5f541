"""`python -m training`: the training commands where the rest of Akin is not installed."""

from training.processes.launcher import end_with_launcher


def main() -> None:
    """Run the command line; errors are printed without a traceback."""
    # Before the imports, which take seconds in which torchrun may be killed.
    end_with_launcher()

    import typer
    from rich.markup import escape

    from embedding.errors import EmbeddingError
    from training.cli import add_commands, notes
    from training.errors import TrainingError
    from training.processes.process_end import end_process

    app = typer.Typer(name="training", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    add_commands(app)
    try:
        app()
    except (TrainingError, EmbeddingError, OSError) as error:
        notes.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        end_process(1)
    except SystemExit as error:
        end_process(error.code if isinstance(error.code, int) else int(error.code is not None))


if __name__ == "__main__":
    main()
