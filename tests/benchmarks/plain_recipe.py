"""A tutorial's training loop: torchvision's data set, transforms per image, Adam at 1e-3, batches of 64.

`python -m tests.benchmarks.plain_recipe DATA_DIR EPOCHS` prints seconds and test accuracy as JSON. The network is
`mnist-simplecnn`, so that only the training differs.
"""

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from training.data.datasets import MNIST_FILES
from training.networks.pooling import Pooling
from training.networks.registry import NETWORKS


def main(data_dir: Path, epochs: int) -> None:
    """Train, test and print the result."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in MNIST_FILES:  # torchvision reads uncompressed files only
            packed = data_dir / "MNIST" / "raw" / f"{name}.gz"
            plain = data_dir / "MNIST" / "raw" / name
            (raw / name).write_bytes(plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes()))
        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
        training = datasets.MNIST(folder, train=True, transform=transform)
        test = datasets.MNIST(folder, train=False, transform=transform)
    model = NETWORKS["mnist-simplecnn"].build(Pooling("max"), 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = time.perf_counter()
    for _ in range(epochs):
        for images, labels in DataLoader(training, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    model.eval()
    with torch.inference_mode():
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(test, batch_size=1000))
    json.dump({"seconds": seconds, "accuracy": correct / len(test)}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
