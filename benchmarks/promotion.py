"""How often `promote` moves the alias of a champion, and to which challengers.

    python benchmarks/promotion.py [simulations]

Champion and challenger see the same 3,000 faces, with FER2013's shares of classes and errors that are correlated, as
those of two models of one kind are. Every simulation draws faces and errors anew; no seed is chosen.
"""

import sys
from collections import Counter

import numpy as np
from limits import finish, verdict

from fer_mlflow.scoring.significance import compare_logits
from fer_mlflow.settings.scoring import PromoteSettings

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
SHARES = np.array([4953, 547, 5121, 8989, 6077, 4002, 6198]) / 35_887
ROWS, SHARED, MARGIN = 3_000, 0.8, 0.01
LEVEL = PromoteSettings(run="any").level


def draw_pair(rng, gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of a champion and a challenger, and labels; the true class of the challenger stands out more."""
    labels = rng.choice(len(CLASSES), ROWS, p=SHARES)
    common = np.sqrt(SHARED) * rng.normal(size=(ROWS, len(CLASSES)))
    own = np.sqrt(1 - SHARED) * rng.normal(size=(2, ROWS, len(CLASSES)))
    signal = np.eye(len(CLASSES))[labels]
    return 1.6 * signal + common + own[0], (1.6 + gain) * signal + common + own[1], labels


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"{simulations} simulations of {ROWS:,} rows, macro_f1, p < {LEVEL:g}, margin {MARGIN:g}")
    # gain in logits, what that is, and the limits of the share that is promoted as better
    for gain, what, most_better, least_better in (
        (0.0, "equal models", 0.02, 0),
        (-0.033, "a challenger that is worse by the margin", 0.01, 0),
        (0.17, "a better challenger", 1, 0.99),
    ):
        verdicts, differences = Counter(), []
        for seed in range(simulations):
            rng = np.random.default_rng(seed)
            compared = compare_logits(*draw_pair(rng, gain), CLASSES, rng)
            verdicts[compared.verdict("macro_f1", LEVEL, MARGIN)] += 1
            differences.append(compared.differences["macro_f1"].value)
        better, tolerated = (verdicts[word] / simulations for word in ("better", "not worse"))
        print(
            f"{what}: difference {np.mean(differences):+.4f} on average, standard deviation {np.std(differences):.4f}"
        )
        print(f"  promoted as better       {better:7.2%}  {verdict(better, most_better)}", end="")
        print(f"  {verdict(better, least_better, at_least=True)}" if least_better else "")
        print(f"  more with the margin     {tolerated:7.2%}", flush=True)
    finish()


if __name__ == "__main__":
    main()
