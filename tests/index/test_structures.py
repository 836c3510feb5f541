import json

import pytest

from index.structures import IndexOptions, Structure, choose_structure


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        (0, Structure("exact")),
        (49_999, Structure("exact")),
        (50_000, Structure("ivf", "float16", 1024, None, 4)),
        (200_000, Structure("ivf", "float16", 2048, None, 4)),
        (1_000_000, Structure("ivf", "float16", 4096, None, 4)),
        (1_000_001, Structure("ivf", "sq8", 4096, None, 4)),
        (10_000_000, Structure("ivf", "sq8", 16_384, None, 4)),
    ],
)
def test_the_number_of_rows_decides(num_rows, expected):
    assert choose_structure(num_rows, 1280, IndexOptions()) == expected


@pytest.mark.parametrize(("num_rows", "nlist"), [(1, 1), (77, 1), (78, 2), (1000, 16), (5000, 128)])
def test_every_list_has_enough_training_rows(num_rows, nlist):
    assert choose_structure(num_rows, 8, IndexOptions(structure="ivf")).nlist == nlist


def test_every_choice_can_be_overridden():
    options = IndexOptions(structure="ivf", storage="sq8", nlist=7, nprobe=3, rescore=9)

    assert choose_structure(100, 8, options) == Structure("ivf", "sq8", 7, 3, 9)
    assert choose_structure(100_000, 8, IndexOptions(structure="exact")) == Structure("exact")
    assert choose_structure(100_000, 8, IndexOptions(exact_below=100_001)) == Structure("exact")
    assert choose_structure(100, 8, IndexOptions(exact_below=100)).name == "ivf"
    assert choose_structure(2_000_000, 8, IndexOptions(storage="float16")).storage == "float16"


def test_nprobe_is_at_most_the_chosen_nlist():
    assert choose_structure(1000, 8, IndexOptions(structure="ivf", nprobe=100)).nprobe == 16


def test_nlist_is_at_most_the_number_of_rows():
    with pytest.raises(ValueError, match=r"nlist must be at most the number of rows \(5\), got 6"):
        choose_structure(5, 8, IndexOptions(structure="ivf", nlist=6))
    with pytest.raises(ValueError, match="embedding_dim must be at least 1, got 0"):
        choose_structure(5, 0, IndexOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "hnsw"}, "structure must be one of auto, exact, ivf, got 'hnsw'"),
        ({"storage": "float32"}, "storage must be one of auto, float16, sq8, got 'float32'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"nlist": 0}, "nlist must be at least 1, got 0"),
        ({"nprobe": -1}, "nprobe must be at least 1, got -1"),
        ({"rescore": 0}, "rescore must be at least 1, got 0"),
        ({"recall_k": 0}, "recall_k must be at least 1, got 0"),
        ({"nlist": 4, "nprobe": 5}, r"nprobe must be at most nlist \(4\), got 5"),
        ({"exact_below": -1}, "exact_below=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"min_ann_recall": 1.01}, r"min_ann_recall must be within 0\.\.1, got 1\.01"),
        ({"min_ann_recall": float("nan")}, "got nan"),
        ({"structure": "exact", "storage": "sq8"}, "storage 'sq8' needs structure 'ivf'"),
    ],
)
def test_refuses_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        IndexOptions(**options)


def test_round_trips_through_json():
    structure = Structure("ivf", "sq8", 64, 8, 2)

    stored = json.loads(json.dumps(structure.to_json()))

    assert Structure.from_json(stored) == structure
    assert stored == {"name": "ivf", "storage": "sq8", "nlist": 64, "nprobe": 8, "rescore": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "hnsw"}, {"storage": "float64"}, {"nprobe": 65}, {"nlist": 0}, {"rescore": 0}, {"name": "exact"},
        {"storage": "float32"},
    ],
)  # fmt: skip
def test_refuses_unknown_stored_values(change):
    stored = Structure("ivf", "sq8", 64, 8, 2).to_json()

    with pytest.raises(ValueError, match=r"."):
        Structure.from_json({**stored, **change})
    with pytest.raises(TypeError):
        Structure.from_json({**stored, "shards": 2})
