"""The state of a training, kept after every epoch."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from fer_mlflow.files import written_file

TRAINING_VERSION = 1  # raised when the same options would give other weights than before


@dataclass(frozen=True)
class Epoch:
    """The numbers of one epoch; losses in nats, `learning_rate` at its end."""

    number: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float

    @property
    def rank(self) -> tuple[float, float]:
        """Order of merit: macro-F1, then the lower loss."""
        return self.val_macro_f1, -self.val_loss


class TrainingState:
    """What a training needs to go on after a kill: weights, optimizer, and the best epoch so far."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, images: str):
        self.model, self.optimizer, self.images = model, optimizer, images
        self.history: list[Epoch] = []
        self.best_weights: dict[str, torch.Tensor] = {}

    @property
    def best(self) -> Epoch:
        """The epoch with the best rank, the first of equals."""
        return max(self.history, key=lambda epoch: (epoch.rank, -epoch.number))

    def add(self, epoch: Epoch, path: Path) -> None:
        """Add an epoch, keep its weights where it is the best, and write the state in the place of the last one."""
        self.history.append(epoch)
        weights = self.model.state_dict()
        if self.best is epoch:
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        content = {
            "training": TRAINING_VERSION,
            "images": self.images,
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
            "history": [asdict(each) for each in self.history],
        }
        with written_file(path) as file:
            torch.save(content, file)

    def read(self, path: Path) -> bool:
        """Take over a state of the same images; return whether there was one."""
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if (content["training"], content["images"]) != (TRAINING_VERSION, self.images):
                return False
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
        except Exception:  # whatever is wrong with the file, starting over is right
            return False
        self.best_weights = content["best_weights"]
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        return True
