"""Which build of torch a driver runs."""

import pytest

from auricle.remote.setup.torch_build import DEFAULT, Unfit, choose

INDEX = "https://download.pytorch.org/whl"


@pytest.mark.parametrize(("driver", "cuda", "gpus", "expected"), [
    ("580.65.06", "13.0", [(8, 9)], f"torch==2.13.0 --index-url {INDEX}/cu130"),
    ("590.10", "13.1", [(7, 5)], f"torch==2.13.0 --index-url {INDEX}/cu130"),
    ("580.65.06", "13.0", [(12, 0)], f"torch==2.13.0 --index-url {INDEX}/cu130"),
    ("580.65.06", "13.0", [(7, 0)], f"torch==2.13.0 --index-url {INDEX}/cu126"),
    ("580.65.06", "13.0", [(6, 1), (8, 6)], f"torch==2.13.0 --index-url {INDEX}/cu126"),
    ("579.99", "12.9", [(9, 0)], f"torch==2.13.0 --index-url {INDEX}/cu126"),
    ("525.60.13", "12.0", [(8, 0)], f"torch==2.13.0 --index-url {INDEX}/cu126"),
    ("570.86", "12.8", [(10, 0)], f"torch==2.11.0 --index-url {INDEX}/cu128"),
    ("575.57", "12.9", [(12, 0), (8, 9)], f"torch==2.11.0 --index-url {INDEX}/cu128"),
    ("550.54.15", "12.4", [None], f"torch==2.13.0 --index-url {INDEX}/cu126"),
    ("", "12.4", [(8, 9)], f"torch==2.13.0 --index-url {INDEX}/cu126"),
    (None, "13.0", [(8, 9)], f"torch==2.13.0 --index-url {INDEX}/cu130"),
    (None, None, [], DEFAULT),
    ("470.82", "11.4", [], DEFAULT),
])
def test_the_newest_build_that_the_driver_and_the_gpu_run(driver, cuda, gpus, expected):
    assert choose(driver, cuda, gpus) == expected


def test_the_release_that_the_project_pins_is_kept_where_the_build_exists_for_it():
    pinned = "-c constraints-torch.txt torch"
    assert choose("550.1", None, [(8, 0)], pinned) == f"{pinned} --index-url {INDEX}/cu126"
    assert choose("570.1", None, [(12, 0)], pinned) == f"torch==2.11.0 --index-url {INDEX}/cu128"
    assert choose(None, None, [], pinned) == pinned


@pytest.mark.parametrize(("driver", "cuda", "gpus", "said"), [
    ("470.82.01", "11.4", [(8, 0)], "its GPU driver is 470.82.01; torch for CUDA 12.6 needs 525 or newer"),
    ("520.61", "11.8", [(12, 0)], "torch for CUDA"),
    (None, "11.4", [(8, 0)], "its GPU driver is for CUDA 11.4"),
    (None, None, [(8, 0)], "does not say its version"),
    ("580.1", None, [(3, 7)], "compute capability 3.7; expected 5.0 or newer"),
    ("580.1", None, [(6, 1), (12, 0)], "compute capability 12.0, 6.1"),
])
def test_what_runs_no_build_is_a_sentence_with_the_versions(driver, cuda, gpus, said):
    with pytest.raises(Unfit) as refused:
        choose(driver, cuda, gpus)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
