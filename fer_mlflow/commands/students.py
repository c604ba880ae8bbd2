"""What `distill` trains: a plan for each student, its soft labels found, joined to the training rows and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_mlflow.commands.softlabel_choice import choose_soft_labels
from fer_mlflow.commands.training import Plan, carry_out, read_parts, read_recipe
from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.errors import ContractError
from fer_mlflow.student.distillation import Distillation, SoftObjective, describe_distillation
from fer_mlflow.student.targets import SoftTargets, make_targets
from fer_mlflow.tracking.bundles import derived_params
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.training.loop import training_key
from fer_mlflow.training.state import Epoch
from fer_mlflow.workflows.ensemble import warn
from fer_mlflow.workflows.sources import Source


@dataclass(frozen=True)
class Student:
    """One student's plan, and where its soft labels are from; no source where it learns from labels alone."""

    plan: Plan
    source: Source | None = None
    targets: SoftTargets | None = None

    @property
    def objective(self) -> SoftObjective | None:
        """The loss with soft labels."""
        return self.plan.objective if isinstance(self.plan.objective, SoftObjective) else None

    @property
    def loss(self) -> str:
        """The loss, as `--loss` has it."""
        return self.objective.how.loss if self.objective else "ce"

    @property
    def name(self) -> str:
        """The configuration in a few words, for people."""
        plan, marks = self.plan, []
        if self.objective and self.targets and self.source:
            softlabels = self.source.name.partition("  on  ")[0]
            marks = [f"T {self.targets.temperature:g}", self.targets.kind, f"from {softlabels}"]
        return " · ".join([self.loss, *marks, plan.recipe.arch, f"{plan.recipe.img_size} px", plan.train.name])

    def params(self) -> dict[str, object]:
        """Return the params that follow from the soft labels, under names that no option has."""
        if self.source is None or self.targets is None or self.objective is None:
            return {}
        of_ensemble = {k: v for k, v in derived_params(self.source.bundle).items() if k not in ("benchmark", "rows")}
        return {
            **of_ensemble,
            "softlabels_run": self.source.run_id or "folder",
            "target_kind": self.targets.kind,
            "effective_temperature": f"{self.targets.effective_temperature:.6g}",
            "rows_without_soft_labels": self.objective.missing,
        }

    def tags(self) -> dict[str, str]:
        """Return the tags that say what the student learned from."""
        tags = {"fer.loss": self.loss}
        if self.source is None:
            return tags
        bundle = self.source.bundle
        seen = set(bundle.report["in_sample"].values())
        tags["fer.source_bundle_sha256"] = bundle.sha256
        tags["fer.softlabels_in_sample"] = next(word for word in ("true", "unknown", "false") if word in seen)
        return tags | ({"fer.source_run": self.source.run_id} if self.source.run_id else {})

    def metrics(self) -> dict[str, float]:
        """Return how hard the targets are."""
        return {"target_mean_max_prob": self.targets.sharpness} if self.targets else {}


def train_student(run: TrackedRun, student: Student, options: Mapping[str, Any]) -> Epoch:
    """Train one student and log it."""
    if student.objective and student.objective.missing:
        warn(f"{student.objective.missing:,} rows have no soft labels and are trained on their labels alone")
    run.log_params(student.params())
    run.log_metrics(student.metrics())
    run.set_tags(student.tags())
    return carry_out(run, student.plan, options)


@dataclass
class Reader:
    """Reads students' plans; what they share (rows, soft labels, teachers' logits) is read once."""

    train: Benchmark
    val: Benchmark
    sources: dict[str, Source] = field(default_factory=dict)
    teacher_logits: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Reader":
        """Read the training and the validation rows."""
        return cls(*read_parts(options))

    def read(self, options: Mapping[str, Any]) -> Student:
        """Read and check everything about one student that can be checked before a run is opened.

        Raises
        ------
        FerError
            whatever is wrong with recipe, soft labels or their rows
        """
        recipe, init = read_recipe(options)
        if options["loss"] == "ce":
            return Student(Plan(self.train, self.val, recipe, init, training_key(recipe, self.train, self.val, init)))
        how = Distillation(
            loss=options["loss"],
            temperature=options["temperature"],
            alpha=options["alpha"],
            beta=options["beta"],
            ce_weight=options["ce_weight"],
            warmup_epochs=options["distill_warmup_epochs"],
        )
        source = self._source(options)
        targets = self._targets(source, options["softlabels"], options["target"], how.temperature)
        allow_missing = options["missing"] == "ce"
        objective = SoftObjective(self.train, recipe, source.bundle, targets, how, allow_missing=allow_missing)
        key = training_key(recipe, self.train, self.val, init, objective.settings)
        distilled = describe_distillation(objective, targets)
        return Student(Plan(self.train, self.val, recipe, init, key, objective, distilled), source, targets)

    def _source(self, options: Mapping[str, Any]) -> Source:
        """Return the soft labels that an option names."""
        name = options["softlabels"]
        if not name:
            raise ContractError(
                f"--loss {options['loss']} needs soft labels: --softlabels RUN, FOLDER or best:METRIC@BENCHMARK "
                "(or use --loss ce)"
            )
        if name not in self.sources:
            self.sources[name] = choose_soft_labels(name, self.train, even_bad=options["even_bad"])
        return self.sources[name]

    def _targets(self, source: Source, name: str, kind: str | None, temperature: float) -> SoftTargets:
        """Return the targets; teachers' logits are fetched where they are needed."""
        needed = (kind or source.bundle.report["ensemble"]["space"]) != source.bundle.report["ensemble"]["space"]
        if needed and len(source.bundle.checkpoints) > 1 and name not in self.teacher_logits:
            self.teacher_logits[name] = source.teacher_logits()
        return make_targets(source.bundle, self.teacher_logits.get(name, {}), kind, temperature)
