"""The configuration of one set of soft labels: one name for people, one set of params, and one key."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.files import sha256_of_json
from fer_mlflow.settings import format_value
from fer_mlflow.settings.texts import check_weights, format_weights

FUSION = ("weights", "space", "dtype", "precision")  # what a report has of a configuration, beside its teachers
OPTIONS = (*FUSION, "clahe", "clahe_clip", "clahe_tile")  # of `export`, that make a configuration


def split_first(benchmark: str) -> str:
    """Return a benchmark's name for a narrow place, which shows the first letters.

    >>> split_first("manifest:test:first100"), split_first("manifest")
    ('test · manifest · first100', 'manifest')
    """
    manifest, *others = benchmark.split(":")
    return " · ".join([*others[:1], manifest, *others[1:]])


@dataclass(frozen=True)
class Calibration:
    """What calibrated the logits."""

    method: str  # `temperature`, `vector`, …
    temperature: float | None = None  # where it is one number
    fitted_on: str = ""  # the benchmark

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Calibration":
        """Return the calibration that a section of an alignment report describes."""
        return cls(section["method"], section.get("temperature") or None, section["fitted_on"]["name"])

    def __str__(self) -> str:
        temperature = f"T = {self.temperature:.4g}, " if self.temperature else ""
        return f"{self.method}, {temperature}fitted on {self.fitted_on}"


@dataclass(frozen=True)
class Configuration:
    """What turns a benchmark into soft labels, beside the teachers' checkpoints."""

    weights: Mapping[str, float]  # teacher -> share; always in the order of the teachers' names
    space: str = "logit"
    dtype: str = "float32"
    precision: str = "fp32"  # of the forward pass
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)  # of teachers that have not the default
    calibration: Calibration | None = None

    def __post_init__(self):
        check_weights(self.weights)
        for name, default in (("weights", 0.0), ("preprocessing", Preprocessing())):
            given = getattr(self, name)
            object.__setattr__(self, name, {teacher: given.get(teacher, default) for teacher in sorted(self.weights)})

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> "Configuration":
        """Return the configuration that an alignment report describes."""
        ensemble, calibration = report["ensemble"], report.get("calibration")
        return cls(
            **{key: ensemble[key] for key in FUSION},
            preprocessing={n: Preprocessing.parse(each["preprocessing"]) for n, each in report["teachers"].items()},
            calibration=Calibration.of(calibration) if calibration else None,
        )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers' names, sorted."""
        return tuple(self.weights)

    @property
    def mark(self) -> str:
        """The short name of how the teachers predict: `clahe · bf16`; empty for the defaults."""
        names = {name: each.name for name, each in self.preprocessing.items()}
        first, *others = set(names.values())
        shared = [first] if not others else [f"{name} {mark}" for name, mark in names.items() if mark]
        return " · ".join(filter(None, [*shared, "" if self.precision == "fp32" else self.precision]))

    @property
    def name(self) -> str:
        """The name for people: the space, what is not a default, then the shares; of one teacher its name first.

        So configurations of the same teachers differ at the beginning, which is what a narrow column shows.

        >>> Configuration({"RN18": 0.4, "B3": 0.6}, precision="bf16").name
        'logit · bf16 · B3 0.6 · RN18 0.4'
        """
        settings = [self.mark, "" if self.dtype == "float32" else self.dtype]
        settings += [f"calibrated ({self.calibration.method})"] if self.calibration else []
        shares = [f"{name} {share:g}" for name, share in self.weights.items()]
        parts = [self.space, *settings, *shares] if len(shares) > 1 else [*self.weights, *settings]
        return " · ".join(filter(None, parts))

    def run_name(self, benchmark: str, *marks: str) -> str:
        """Return the name of a run on a benchmark; `marks` are settings of the run's own.

        >>> Configuration({"RN18": 1.0}).run_name("manifest:test", "T 2")
        'RN18 · T 2 · test · manifest'
        """
        return " · ".join([self.name, *marks, split_first(benchmark)])

    @property
    def options(self) -> dict[str, str]:
        """The configuration as the options of `export` that make it, each in the text that is typed."""
        clahe = {name: each.clahe for name, each in self.preprocessing.items()}
        options = {
            "weights": format_weights(self.weights),
            "space": self.space,
            "dtype": self.dtype,
            "clahe": shared_text({name: format_value(each is not None) for name, each in clahe.items()}),
            "precision": self.precision,
        }
        for key in ("clip", "tile") if any(clahe.values()) else ():
            values = {name: format_value(getattr(each, key, "none")) for name, each in clahe.items()}
            options[f"clahe_{key}"] = shared_text(values)
        return options

    def params(self, given: Mapping[str, object] | None = None) -> dict[str, object]:
        """Return the params of a run: the configuration's, and those given that say nothing of a configuration.

        What every CLAHE has is left out, so that MLflow's Compare page begins with what differs.
        """
        usual = {f"clahe_{name}": format_value(value) for name, value in asdict(Clahe()).items()}
        options = {name: text for name, text in self.options.items() if usual.get(name) != text}
        return {
            **{name: value for name, value in (given or {}).items() if name not in OPTIONS},
            "ensemble": options.pop("weights"),
            **options,
            **{f"w/{name}": share for name, share in self.weights.items()},
            "calibration": str(self.calibration or "none"),
        }

    def differences(self, other: "Configuration") -> list[str]:
        """Return what sets another configuration apart, such as `space prob for logit`.

        A size, mean or std that one of the two leaves to the checkpoint is no difference.
        """
        mine, others = (each.options | {"calibration": str(each.calibration or "none")} for each in (self, other))
        found = [f"{key} {others.get(key, 'none')} for {text}" for key, text in mine.items() if others.get(key) != text]
        for name in sorted(self.preprocessing.keys() & other.preprocessing.keys()):
            a, b = vars(self.preprocessing[name]), vars(other.preprocessing[name])
            differ = [key for key in a if key != "clahe" and None not in (a[key], b[key]) and a[key] != b[key]]
            found += [f"{name}'s {key} {b[key]} for {a[key]}" for key in differ]
        return found

    def key(self, selection_sha256: str, teacher_keys: Mapping[str, str]) -> str:
        """Return the key under which these soft labels are found: 32 digits of the selection, 32 of everything else.

        `teacher_keys` are the content keys of the teachers' logits, which hold preprocessing and precision.
        """
        usual = {"space": "logit", "dtype": "float32"}  # these stand in no key
        fused = {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}
        shares = sorted([teacher_keys[name], share] for name, share in self.weights.items())
        return f"{selection_sha256[:32]}.{sha256_of_json({'teachers': shares, **fused})[:32]}"


def shared_text(values: Mapping[str, object]) -> str:
    """Return the text that all teachers share, or each teacher's.

    >>> shared_text({"B3": 300, "RN18": 224})
    'B3 300, RN18 224'
    """
    texts = {str(value) for value in values.values()}
    return texts.pop() if len(texts) == 1 else ", ".join(f"{name} {value}" for name, value in values.items())
