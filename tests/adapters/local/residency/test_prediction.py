"""How much a model will take, from its header; and that it comes true."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters.local.context import MOST_ROWS
from adapters.local.residency import prediction
from adapters.local.residency.prediction import Need, cells_for, predict
from router.models import LocalModel
from tests.adapters.local.conftest import Tiny
from tests.catalogue.test_gguf import header, pair, text


def need_of(tmp_path: Path, shape: Mapping[str, int | list[int]], *, slots: int = 1, size: int = 0) -> Need:
    pairs = [pair("general.architecture", 8, text("x"))]
    for key, number in shape.items():
        if isinstance(number, int):
            pairs.append(pair(f"x.{key}", 4, struct.pack("<I", number)))
        else:
            value = struct.pack(f"<IQ{len(number)}I", 4, len(number), *number)
            pairs.append(pair(f"x.{key}", 9, value))
    path = tmp_path / "x.gguf"
    path.write_bytes(header(*pairs) + bytes(size))
    return predict(LocalModel("x", path=path, max_parallel=slots), slots)


PLAIN: dict[str, int | list[int]] = {
    "block_count": 10,
    "embedding_length": 512,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
    "context_length": 4096,
}
#: Bytes of a mask that each cell has in each step.
MASK = 512 * 2


def test_keys_and_values_take_two_bytes_a_number_in_every_layer(tmp_path: Path) -> None:
    assert need_of(tmp_path, PLAIN).per_cell - MASK == 10 * 2 * (2 * (64 + 64))


def test_heads_may_be_wider_than_the_layer_would_say(tmp_path: Path) -> None:
    shape = {**PLAIN, "attention.key_length": 128, "attention.value_length": 96}
    assert need_of(tmp_path, shape).per_cell - MASK == 10 * 2 * (2 * (128 + 96))


def test_every_layer_may_have_its_own_number_of_heads(tmp_path: Path) -> None:
    shape = {**PLAIN, "block_count": 3, "attention.head_count_kv": [4, 2, 1]}
    assert need_of(tmp_path, shape).per_cell - MASK == 2 * (4 + 2 + 1) * 128


def test_a_sliding_window_saves_nothing_and_has_a_mask_of_its_own(tmp_path: Path) -> None:
    shape = {**PLAIN, "attention.sliding_window": 512}
    assert need_of(tmp_path, shape).per_cell == need_of(tmp_path, PLAIN).per_cell + MASK


def test_latent_attention_keeps_keys_alone(tmp_path: Path) -> None:
    shape = {
        **PLAIN,
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }
    assert need_of(tmp_path, shape).per_cell - MASK == 10 * 2 * 576


def test_layers_that_guess_ahead_or_share_what_others_keep_take_nothing(tmp_path: Path) -> None:
    shape = {**PLAIN, "nextn_predict_layers": 1, "attention.shared_kv_layers": 4}
    assert need_of(tmp_path, shape).per_cell - MASK == 5 * 2 * (2 * 128)


def test_recurrent_layers_take_a_state_for_each_sequence_and_no_cells(tmp_path: Path) -> None:
    shape = {
        **PLAIN,
        "attention.head_count_kv": [0] * 8 + [2] * 2,
        "ssm.inner_size": 1024,
        "ssm.state_size": 16,
        "ssm.conv_kernel": 4,
        "ssm.group_count": 1,
    }
    state = 8 * 4 * (1024 * 16 + 3 * (1024 + 2 * 16))
    one, five = need_of(tmp_path, shape), need_of(tmp_path, shape, slots=5)
    assert one.per_cell - MASK == 2 * 2 * (2 * 128)
    assert five.fixed - one.fixed == 4 * state
    every_fourth = {**shape, "attention.head_count_kv": 2, "full_attention_interval": 4}
    assert need_of(tmp_path, every_fourth).per_cell - MASK == 2 * 2 * (2 * 128)


def test_an_answers_logits_count_for_every_sequence_and_the_vocabulary_once(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    vocabulary = struct.pack("<IQ", 8, 1000) + text("t") * 1000
    file.write_bytes(
        header(pair("general.architecture", 8, text("x")), pair("tokenizer.ggml.tokens", 9, vocabulary))
    )
    one, two = (predict(LocalModel("x", path=file), slots).fixed for slots in (1, 2))
    assert two - one == 2 * 2 * 4 * 1000


def test_the_window_is_the_files_but_at_most_8192_and_what_is_beyond_it_is_bounded(tmp_path: Path) -> None:
    need = need_of(tmp_path, PLAIN, slots=8)
    assert (need.window, need.extra) == (4096, 8192)
    assert need_of(tmp_path, {**PLAIN, "context_length": 1 << 20}).window == 8192
    assert need_of(tmp_path, PLAIN, slots=1).extra == 0
    assert cells_for(1000, 4, 1 << 30) == 1001


def test_cells_are_given_as_far_as_they_fit() -> None:
    need = Need(source="a", weights=0, fixed=100, per_cell=10, window=512, extra=1024)
    assert need.own(512) == 100 + 5120
    assert need.own(513) == 100 + 10 * 768
    assert need.cells(100 + 5119) is None
    assert need.cells(100 + 5120) == 512
    assert need.cells(100 + 10 * 1024) == 1024
    assert need.cells(10**9) == 1536


def test_cells_beside_a_window_have_a_shelf_as_large() -> None:
    need = Need(source="a", weights=0, fixed=100, per_cell=10, window=512, extra=1024, per_shelved=6)
    assert need.own(512) == 100 + 5120
    assert need.own(1024) == 100 + 10240 + 6 * 512
    assert need.cells(need.own(1024)) == 1024
    assert need.cells(need.own(1024) - 1) == 768
    assert need.cells(10**9) == 1536
    assert need.shelf(1536) == 6 * 1024
    assert need.own(1536) == 100 + 15360 + need.shelf(1536)


def test_all_parts_of_a_split_file_count(tmp_path: Path) -> None:
    pairs = [pair("general.architecture", 8, text("x")), pair("split.count", 2, struct.pack("<H", 3))]
    for part, size in ((1, 100), (2, 2000), (3, 300)):
        (tmp_path / f"x-{part:05}-of-00003.gguf").write_bytes(header(*pairs) + bytes(size))
    need = predict(LocalModel("x", path=tmp_path / "x-00001-of-00003.gguf"), 1)
    assert need.weights == 2400 + 3 * len(header(*pairs))


def test_a_file_that_cannot_be_understood_counts_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    assert predict(LocalModel("x", path=path), 1).weights == 1004
    with pytest.raises(FileNotFoundError):
        predict(LocalModel("x", path=tmp_path / "none.gguf"), 1)


def test_models_of_one_file_have_one_source_and_a_replaced_file_is_another(
    tiny: Tiny, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny("qwen3").read_bytes())
    one, other = LocalModel("a", path=copy, n_ctx=64), LocalModel("b", path=copy, n_ctx=128)
    before = predict(one, 1).source
    assert predict(other, 8).source == before
    assert predict(LocalModel("c", path=tiny("qwen3")), 1).source != before
    copy.unlink()
    copy.write_bytes(tiny("llama").read_bytes())
    assert predict(one, 1).source != before


MEASURE = """
import sys, psutil
from pathlib import Path
from adapters.local.batching.arriving import arrive
import adapters.local.batching.loaded, adapters.local.batching.serving
from adapters.local.native import NativeModel
from adapters.local.files import load_settings
from adapters.local.residency import Lodger, predict
from adapters.local.turns import TURN
from router.models import LocalModel

path, cells = Path(sys.argv[1]), int(sys.argv[2])
NativeModel(load_settings(LocalModel("first", path=Path(sys.argv[3])))).close()
model = LocalModel("m", path=path, threads=1, n_ctx=cells)
need = predict(model, 8)
before = psutil.Process().memory_info().rss
loaded = arrive(model, 8, Lodger(need.window + need.extra), lambda: True)
loaded.context.put(0, list(range(60)), 0, output=True)
loaded.context.compute()
grown = psutil.Process().memory_info().rss - before
cells = need.window + need.extra
print((need.weights + need.own(cells) - need.shelf(cells)) / grown)
"""


def measured(path: Path, cells: int, first: Path) -> float:
    """Predicted bytes per byte that a process really grew by."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(cells), str(first)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=Path(__file__).parents[4],
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.gguf
@pytest.mark.parametrize("cells", [512, 4096])
def test_the_prediction_for_a_real_model_comes_true(smollm: Path, tiny: Tiny, cells: int) -> None:
    assert 0.95 < measured(smollm, cells, tiny("qwen3")) < 1.2


def test_it_reckons_with_the_rows_that_a_context_computes() -> None:
    assert prediction._ROWS == MOST_ROWS
