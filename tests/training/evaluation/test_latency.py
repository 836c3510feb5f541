import numpy as np
import pytest

from tests.fakes import Clock
from training.evaluation.latency import median_latencies

IMAGES = [np.full((4, 4, 3), value, np.uint8) for value in range(3)]


class TimedEmbedder:
    """Takes the given seconds for each call."""

    space_id, embedding_dim, batch_size = "timed", 2, 1
    runtime = runtime_reason = "fake"

    def __init__(self, name, clock, seconds, calls):
        self._name, self._clock, self._seconds, self._calls = name, clock, seconds, calls
        self.num_calls = 0

    def to_pixels(self, image):
        return np.asarray(image)

    def embed_pixels(self, pixels_NHWC):
        assert pixels_NHWC.shape == (1, 4, 4, 3)
        self._calls.append((self._name, int(pixels_NHWC[0, 0, 0, 0])))
        self._clock.seconds += self._seconds(self.num_calls)
        self.num_calls += 1
        return np.zeros((1, 2), np.float32)


def timed(*seconds):
    clock = Clock(0.0)
    calls: list[tuple[int, int]] = []
    return [TimedEmbedder(place, clock, each, calls) for place, each in enumerate(seconds)], clock, calls


def test_returns_the_median_of_each_model_in_milliseconds():
    embedders, clock, _ = timed(lambda _: 0.010, lambda _: 0.025)

    assert median_latencies(embedders, [IMAGES, np.stack(IMAGES)], clock=clock) == pytest.approx([10, 25])


def test_first_rounds_and_outliers_do_not_count():
    embedders, clock, _ = timed(lambda call: 9.0 if call < 3 or call % 10 == 4 else 0.010)

    assert median_latencies(embedders, [IMAGES], clock=clock) == pytest.approx([10])


def test_models_take_turns_on_the_same_image():
    embedders, clock, calls = timed(*[lambda _: 0.001] * 3)

    median_latencies(embedders, [IMAGES] * 3, rounds=6, clock=clock)

    rounds = [calls[start : start + 3] for start in range(0, len(calls), 3)]
    assert len(rounds) == 9
    assert all({name for name, _ in each} == {0, 1, 2} for each in rounds)
    assert all(len({image for _, image in each}) == 1 for each in rounds)
    assert {each[0][0] for each in rounds} == {0, 1, 2}


def test_a_real_model_is_measured(zero_shot_embedder):
    image = np.zeros((224, 224, 3), np.uint8)

    (milliseconds,) = median_latencies([zero_shot_embedder], [[image]], rounds=2)

    assert 0.1 < milliseconds < 60_000


@pytest.mark.parametrize(
    ("images", "rounds", "message"),
    [
        ([IMAGES], 5, "same images for each of 2"),
        ([IMAGES, IMAGES[:1]], 5, "same images"),
        ([[], []], 5, "one image"),
        ([IMAGES, IMAGES], 0, "one round"),
    ],
)
def test_refuses_invalid_arguments(images, rounds, message):
    embedders, clock, _ = timed(lambda _: 1.0, lambda _: 1.0)

    with pytest.raises(ValueError, match=message):
        median_latencies(embedders, images, rounds, clock=clock)
