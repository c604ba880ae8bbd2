"""What a run says of itself in MLflow's UI."""

from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.protocol import describe_protocol


def describe_run(bundle: SoftLabels, teacher_runs: dict[str, str], experiment_id: str) -> str:
    """Return a run's description in Markdown: its benchmark and settings, its metrics, and its teachers' runs."""
    protocol = describe_protocol(bundle)
    settings = "\n".join(f"| {name} | {text.replace('|', ' ')} |" for name, text in protocol.items())
    metrics = "\n".join(f"| {name.replace('|', ' ')} | {value:.4f} |" for name, value in bundle.metrics.items())
    parts = [f"**{protocol['benchmark']}**, {protocol['rows']} rows", f"| setting | |\n| --- | --- |\n{settings}"]
    parts += [f"| metric | |\n| --- | ---: |\n{metrics}"] if metrics else []
    links = (f"[{name}](#/experiments/{experiment_id}/runs/{run_id})" for name, run_id in sorted(teacher_runs.items()))
    parts += ["Teachers: " + ", ".join(links)] if teacher_runs else []
    return "\n\n".join(parts)
