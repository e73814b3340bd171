"""Distillation: teachers answer each view once, the student sees the same pixels, and resuming gives the same bits."""

import pytest
import torch

from tests.support.training import CPU, NETWORK, MemoryStore, short_recipe, splits
from training.errors import Interrupted
from training.networks.classifier import Classifier
from training.networks.registry import NETWORKS
from training.trainer import loop
from training.trainer.distributed import SINGLE_PROCESS
from training.trainer.loop import Trainer

TAUGHT = short_recipe(epochs=4, teacher_weight=1.0, teacher_views=2)


def teacher(label: int | None = None) -> Classifier:
    """A network that answers every image with this label, or a random network."""
    torch.manual_seed(7)
    model = NETWORK.classifier()
    if label is not None:
        *_, last = model.body.children()
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.zeros_(last.weight)
        last.bias.data = 20.0 * torch.nn.functional.one_hot(torch.tensor(label), 10)
    return model


def student() -> Classifier:
    torch.manual_seed(0)
    return NETWORK.classifier()


def test_a_student_learns_its_teachers_answers_instead_of_the_labels() -> None:
    model = student()
    loop.train(model, *splits(), short_recipe(epochs=3, teacher_weight=1.0), device=CPU, teachers=[teacher(3)])
    assert model(splits()[1].images).argmax(1).eq(3).all()


def test_teachers_answer_each_view_once_and_see_the_pixels_of_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    training, validation = splits()
    trainer = Trainer(student(), training, validation, TAUGHT, CPU, SINGLE_PROCESS, teachers=[teacher(), teacher(3)])
    seen: list[torch.Tensor] = []
    answer = trainer.teachers._answer

    def record(images: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        seen.append(images)
        return answer(images, dtype)

    monkeypatch.setattr(trainer.teachers, "_answer", record)
    trainer.train([], None, lambda: False)
    assert [len(images) for images in seen] == [500, 500]  # two views, for four epochs
    trainer.batches.show_view(0)
    assert torch.equal(trainer.batches.images(torch.arange(500)), seen[0])
    assert not torch.equal(seen[0], seen[1])


def test_a_stopped_and_resumed_distillation_ends_with_the_same_bits() -> None:
    expected, store, steps = student(), MemoryStore(), iter(range(1, 100))
    loop.train(expected, *splits(), TAUGHT, device=CPU, teachers=[teacher()])
    with pytest.raises(Interrupted):
        loop.train(
            student(), *splits(), TAUGHT, device=CPU, teachers=[teacher()], checkpoints=store,
            should_stop=lambda: next(steps) == 8,
        )  # fmt: skip
    resumed = student()
    loop.train(resumed, *splits(), TAUGHT, device=CPU, teachers=[teacher()], checkpoints=store)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), resumed.parameters(), strict=True))


def test_the_teachers_have_batch_normalization_whose_statistics_are_averaged_too() -> None:
    network = NETWORKS["mnist-teacher"]
    torch.manual_seed(0)
    model = network.classifier()
    loop.train(model, *splits(), short_recipe(), device=CPU)
    statistics = [buffer for name, buffer in model.named_buffers() if name.endswith("running_var")]
    assert statistics and all((values != 1).any() for values in statistics)
