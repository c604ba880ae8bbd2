"""Settings of the workflows that search configurations: sweep and reproduce."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from fer_mlflow.errors import ContractError
from fer_mlflow.settings import Option, Settings, TextForm, groups, option_name, split_names
from fer_mlflow.settings.texts import FilePath, NamedF1

_SPACES = get_args(groups.SpaceWord)
ClaheChoice = Annotated[Literal["false", "true", "both"], Option("Teachers' logits without CLAHE, with it, or both.")]
_CLAHE = {"false": (False,), "true": (True,), "both": (False, True)}
# What stored runs have settled already.
_OF_MANIFESTS = ("manifest", "teachers", "root", "split", "limit", "classes", "precision")


def _parse_spaces(value: Any) -> tuple[str, ...]:
    """Return fusion spaces, in their usual order."""
    named = split_names(value)
    if not named or not set(named) <= set(_SPACES):
        raise ValueError(f"{value!r} is not logit, prob or logit,prob")
    return tuple(space for space in _SPACES if space in named)


Spaces = Annotated[tuple[str, ...], TextForm("names", _parse_spaces)]


@dataclass(frozen=True, kw_only=True)
class _SearchFields(Settings):
    """Which teachers' logits are searched, and with which weights."""

    manifest: Annotated[FilePath | None, Option("CSV of images, or CSV:SPLIT,CSV:SPLIT,…; each is a benchmark.")] = None
    teachers: groups.Teachers | None = None
    benchmark: Annotated[tuple[str, ...], Option("Instead of both: stored teacher runs on these benchmarks.")] = ()
    members: Annotated[tuple[str, ...], Option("Use these teachers.", default_text="all")] = ()
    space: Annotated[Spaces, Option("Where the weighted mean is taken: logit, prob or both.")] = _SPACES
    clahe: ClaheChoice = "false"
    root: groups.Root = None
    split: Annotated[tuple[str, ...], Option("Use the rows of these splits; each is a benchmark.")] = ()
    limit: groups.Limit = None
    verify_paths: groups.VerifyPaths | None = None
    classes: groups.Classes = None
    clahe_clip: groups.ClaheClip | None = None
    clahe_tile: groups.ClaheTile | None = None
    precision: groups.Precision | None = None
    step: Annotated[float, Option("Step of the grid of weights; 1 is a whole number of them.", above=0)] = 0.1
    weights_list: Annotated[FilePath | None, Option("Instead: a file with NAME=share,… in each line.")] = None
    most: Annotated[int, Option("Refuse to score more configurations than this.", least=1)] = 20_000


@dataclass(frozen=True, kw_only=True)
class SearchSettings(groups.RunSettings, groups.ComputeSettings, _SearchFields):
    """What `sweep` and `reproduce` share.

    What describes images and preprocessing is None until it is given: a default would contradict stored runs.
    """

    def check(self) -> None:
        """Check that teachers' logits are named in one of the two ways."""
        if self.benchmark:
            if unused := [option_name(name) for name in _OF_MANIFESTS if getattr(self, name)]:
                raise ContractError(
                    f"{', '.join(unused)}: no effect with --benchmark, which uses stored runs; remove it"
                )
        elif missing := [option_name(name) for name in ("manifest", "teachers") if not getattr(self, name)]:
            raise ContractError(
                f"{' and '.join(missing)} missing: name the rows by --manifest CSV and the teachers by --teachers "
                "YAML, or use stored runs by --benchmark NAME"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that manifests without one are read for."""
        return self.split

    def fusions(self, manifest: str, split: str | None, weights: Mapping[str, float]) -> list[groups.FusionSettings]:
        """Return the settings of an ensemble on one benchmark, for each value of CLAHE that is searched."""
        own = {"manifest": manifest, "split": split, "weights": weights, "space": None}
        return [groups.fusion_settings(self, **own, clahe=clahe) for clahe in _CLAHE[self.clahe]]


@dataclass(frozen=True, kw_only=True)
class SweepSettings(SearchSettings):
    """Settings of `sweep`."""

    metric: Annotated[
        str, Option("Ranks configurations: accuracy, macro_f1, balanced_accuracy, nll, brier or f1/CLASS.")
    ] = "macro_f1"
    optimize: Annotated[
        str | None,
        Option("Search beyond the grid: accuracy, macro_f1, balanced_accuracy (greedy selection) or nll (convex)."),
    ] = None
    fit_split: Annotated[str | None, Option("Choose weights on this split …")] = None
    report_split: Annotated[str | None, Option("… and measure the choice on this one.")] = None
    crossfit: Annotated[
        int | None,
        Option("Else choose on all folds but one of so many, and measure on that one.", least=2, none_text="none"),
    ] = 5
    in_sample: Annotated[bool, Option("Else measure on the rows of the choice; the run is tagged so.")] = False
    pareto: Annotated[tuple[str, ...], Option("Two metrics whose trade-off is drawn.")] = ("macro_f1", "ece")
    log_top: Annotated[int, Option("Log so many of the best as nested runs with all metrics.", least=0)] = 5
    export_top: Annotated[int, Option("Export so many of the best, and what was chosen, as soft labels.", least=0)] = 0
    seed: Annotated[int, Option("Assigns rows to folds.", least=0)] = 0

    def check(self) -> None:
        """Check that the rows of the choice and those that it is measured on go together."""
        super().check()
        named = [split for split in (self.fit_split, self.report_split) if split]
        if len(named) == 1:
            raise ContractError("--fit-split and --report-split go together: choose on one, measure on the other")
        if len(named) == 2 and named[0] == named[1]:
            raise ContractError(
                f"--fit-split and --report-split are both {named[0]}; to do so on purpose: --in-sample true"
            )
        if named and self.in_sample:
            raise ContractError(
                "--in-sample true measures on the rows of the choice, --report-split on others: leave one out"
            )
        if not (self.in_sample or named or self.crossfit):
            raise ContractError("no rows to choose on: give --crossfit K, --fit-split or --in-sample true")
        if self.export_top and self.benchmark:
            raise ContractError(
                "--export-top needs the images: name --manifest and --teachers in the place of --benchmark"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that manifests without one are read for; those to choose and to report on come first."""
        named = [split for split in (self.fit_split, self.report_split) if split]
        if not named or ":" in (self.manifest or ""):
            return self.split
        return tuple(dict.fromkeys([*named, *self.split]))


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings(SearchSettings):
    """Settings of `reproduce`."""

    clahe: ClaheChoice = "both"
    accuracy: Annotated[float | None, Option("The number to reproduce, a share of 1.", least=0, most=1)] = None
    macro_f1: Annotated[float | None, Option("The same for macro-F1.", least=0, most=1)] = None
    f1: Annotated[NamedF1 | None, Option("The same for classes: CLASS=number,…")] = None
    balanced_accuracy: Annotated[
        float | None, Option("The same for balanced accuracy, the mean recall over classes.", least=0, most=1)
    ] = None
    nll: Annotated[float | None, Option("The same for the NLL, nats.", least=0)] = None
    ece: Annotated[float | None, Option("The same for the ECE with 15 bins.", least=0, most=1)] = None
    brier: Annotated[float | None, Option("The same for the Brier score.", least=0, most=2)] = None
    tolerance: Annotated[float, Option("How far a match may be from each number.", above=0)] = 0.005
    temperature: Annotated[
        float | None, Option("T that logits were divided by.", least=1e-6, default_text="sought where it matters")
    ] = None
    rows: Annotated[
        int | None, Option("Labelled rows that were scored.", least=1, default_text="any subset of a benchmark")
    ] = None
    show: Annotated[int, Option("Print so many matches; the table has all.", least=1)] = 10

    def target_values(self, names: list[str]) -> dict[str, float]:
        """Return metric -> the number to reproduce, for those of the named metrics that are given.

        Raises
        ------
        ContractError
            no number is given
        """
        given = {name: getattr(self, name, None) for name in names}
        values = {name: float(number) for name, number in given.items() if number is not None}
        values |= {f"f1/{name}": number for name, number in (self.f1 or {}).items()}
        if not values:
            raise ContractError(
                "no number to look for: give --accuracy, --macro-f1, --balanced-accuracy, --f1, --nll, --ece or --brier"
            )
        return values
