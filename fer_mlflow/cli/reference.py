"""The reference of all options, made from the commands: `python -m fer_mlflow.cli.reference > docs/options.md`."""

from collections.abc import Iterator

import click

from fer_mlflow.cli import COMMANDS, main


def reference() -> str:
    """Return the page of all options, as Markdown."""
    parts = [
        "# Options",
        "This page is made from the code by `make reference`. Every option takes a value, and an empty one means that "
        "it is not given. `--clahe-clip 3` is `-P clahe_clip=3` under `mlflow run`, and `clahe_clip=3` in Python.",
    ]
    context = click.Context(main, info_name="fer-mlflow")
    for name in COMMANDS:
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            for each, sub in command.commands.items():
                parts += _section(f"{name} {each}", sub)
        elif command is not None:
            parts += _section(name, command)
    return "\n\n".join(parts) + "\n"


def _section(name: str, command: click.Command) -> Iterator[str]:
    """Yield the heading of a command, its purpose, and the table of its options."""
    arguments = [each.human_readable_name for each in command.params if isinstance(each, click.Argument)]
    yield f"## {name}"
    yield f"`fer-mlflow {' '.join([name, *arguments])}`: {(command.help or '').splitlines()[0]}"
    rows = ["| option | value | default | |", "| --- | --- | --- | --- |"]
    for each in command.params:
        field = getattr(each.type, "field", None)
        if isinstance(each, click.Option) and field is not None and not each.hidden:
            default = field.default_text if field.default is None else f"`{field.default_text}`"
            default = "required" if field.required else default.replace("``", "")
            kind = field.kind.replace("|", " \\| ")
            rows.append(f"| `{each.opts[0]}` | {kind} | {default} | {field.option.help} |")
    if len(rows) > 2:
        yield "\n".join(rows)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
