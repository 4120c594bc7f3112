"""One logit against that column of the whole network, and each way in which it cannot be had."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import archs
from archs import thresholds
from archs.registry import Network, from_module
from archs.rows_on_disk import UnusableFile, open_tensors, write_rows
from archs.single_logit import SingleLogit
from archs.thresholds import TooFewPositives, UnusableThresholds
from archs.top_layer import UnsupportedNetwork

SHAPE = (3, 8, 8)
FEATURES, CLASSES = 12, 30

#: Each dtype's unit roundoff; sums of 12 products of either order differ by some of them.
ROUNDOFF = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8}


class Small(nn.Module):
    """(n, 3, 8, 8) -> (n, classes), with batch normalisation and dropout, which training mode would show."""

    def __init__(self, classes: int = CLASSES, *, bias: bool = True, features: int = FEATURES) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, features, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(features)
        self.dropout = nn.Dropout(0.5)
        self.top = nn.Linear(features, classes, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.dropout(self.norm(self.convolution(images)).relu().mean((2, 3))))


def small(classes: int = CLASSES, *, seed: int = 0, bias: bool = True, features: int = FEATURES) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Small(classes, bias=bias, features=features)
    generator = torch.Generator().manual_seed(seed)  # its own: equal backbones under top layers of any size
    network.norm.running_mean.uniform_(-0.1, 0.1, generator=generator)  # type: ignore[operator]
    network.norm.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[operator]
    return network.eval()


def images_of(number: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


def assert_equal_columns(scores: Tensor, columns: Tensor, dtype: torch.dtype) -> None:
    assert scores.dtype == dtype
    assert scores.shape == columns.shape
    reach = 16 * ROUNDOFF[dtype]
    assert torch.allclose(scores.double(), columns.double(), rtol=reach, atol=reach)


# -- equal to the whole network ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_scores_are_columns_of_the_network(dtype: torch.dtype, bias: bool) -> None:
    network, images = small(bias=bias).to(dtype), images_of(dtype=dtype)
    logits = logits_of(network, images)
    with SingleLogit.from_model(network, SHAPE) as query:
        assert query.classes == CLASSES
        for index in (0, 17, CLASSES - 1):
            assert_equal_columns(query(images, index), logits[:, index], dtype)
        assert_equal_columns(query(images, [3, 17, 3]), logits[:, [3, 17, 3]], dtype)
        assert_equal_columns(query(images, [4]), logits[:, [4]], dtype)
    assert torch.equal(logits_of(network, images), logits), "the network itself stays as it was"


@pytest.mark.parametrize("asked", [np.int64(7), torch.tensor(7), torch.tensor([7, 8]), np.array([7, 8]), (7, 8)])
def test_class_numbers_of_other_libraries(asked: object) -> None:
    network, images = small(), images_of()
    query = SingleLogit.from_model(network, SHAPE)
    number = torch.as_tensor(asked)
    assert_equal_columns(query(images, asked), logits_of(network, images)[:, number], torch.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize("bias", [True, False])
def test_from_a_checkpoint_with_another_number_of_classes(
    tmp_path: Path, name: str, dtype: torch.dtype, bias: bool
) -> None:
    trained, images = small(classes=77, seed=3, bias=bias).to(dtype), images_of(dtype=dtype)
    query = SingleLogit.from_checkpoint(saved(trained, tmp_path / name), arch=architecture(bias=bias))
    assert (query.classes, query.dtype, query.name, query.unused) == (77, dtype, "small", ())
    logits = logits_of(trained, images)
    assert_equal_columns(query(images, 76), logits[:, 76], dtype)
    assert_equal_columns(query(images, [0, 50]), logits[:, [0, 50]], dtype)


def saved(network: nn.Module, path: Path, **other: Tensor) -> Path:
    state = {**network.state_dict(), **other}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def architecture(*, bias: bool = True, features: int = FEATURES) -> Network:
    return from_module(small(seed=9, bias=bias, features=features), SHAPE, "small")


def test_a_checkpoint_is_computed_in_another_dtype_if_asked(tmp_path: Path) -> None:
    trained, images = small(seed=3), images_of(dtype=torch.float64)
    path = saved(trained, tmp_path / "a.pt")
    query = SingleLogit.from_checkpoint(path, arch=architecture(), dtype=torch.float64)
    assert_equal_columns(query(images, 5), logits_of(trained.double(), images)[:, 5], torch.float64)


def test_a_real_network_by_its_name(tmp_path: Path) -> None:
    from archs.registry import find

    network = find("torchvision/mobilenet_v3_small", 32)
    module = network.build()
    path = saved(module, tmp_path / "a.safetensors")
    images = torch.randn(2, 3, 32, 32)
    query = SingleLogit.from_checkpoint(path, arch=network.name, input_size=32)
    assert torch.allclose(query(images, 417), logits_of(module, images)[:, 417], atol=1e-5)


class Convolutional(nn.Module):
    """(n, 3, 8, 8) -> (n, classes): a convolution makes logits at every position, which are averaged.

    A kernel of 6 has one position.
    """

    def __init__(self, classes: int = CLASSES, kernel: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3)
        self.top = nn.Conv2d(6, classes, kernel)

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.convolution(images).relu()).mean((2, 3))


@pytest.mark.parametrize("kernel", [1, 6])
def test_a_convolution_as_top_layer(tmp_path: Path, kernel: int) -> None:
    network, images = Convolutional(kernel=kernel).eval(), images_of()
    logits = logits_of(network, images)
    query = SingleLogit.from_model(network, SHAPE)
    path = saved(network, tmp_path / "a.safetensors")
    of_file = SingleLogit.from_checkpoint(path, arch=from_module(Convolutional(7, kernel), SHAPE))
    one = SingleLogit.from_export(network, query.export(17, tmp_path / "b.safetensors"))
    for each in (query, of_file, one):
        assert_equal_columns(each(images, 17), logits[:, 17], torch.float32)
    assert_equal_columns(query(images, [3, 4]), logits[:, [3, 4]], torch.float32)


class TwoHeads(Small):
    """As a distilled transformer: two linear layers of one shape, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.convolution(images)).relu().mean((2, 3))
        return (self.top(features) + self.other(features)) / 2


def test_a_top_layer_of_two_layers_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedNetwork, match=r"its top layer is 2 layers \('top', 'other'\)"):
        SingleLogit.from_model(TwoHeads(), SHAPE)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    trained, images = small(seed=3).cuda(), images_of().cuda()
    logits = logits_of(trained, images)
    before = torch.cuda.memory_allocated()
    with SingleLogit.from_model(trained, SHAPE) as query:
        assert query(images, 7).device.type == "cuda"
        assert torch.allclose(query(images, 7), logits[:, 7], atol=1e-5)
        assert torch.cuda.memory_allocated() - before < 2**20
    path = saved(trained, tmp_path / "a.safetensors")
    query = SingleLogit.from_checkpoint(path, arch=architecture(), device="cuda")
    assert torch.allclose(query(images.cpu(), 7), logits[:, 7], atol=1e-5)


# -- only what is asked for -------------------------------------------------------------------------------------------

#: Maps a top layer of 400 MB, asks for three classes, and prints the growth of resident memory in MB.
RESIDENT = """
import sys, psutil, torch
from archs.single_logit import SingleLogit
from torch import nn
model = nn.Sequential(nn.Flatten(), nn.Linear(12, 512), nn.ReLU(), nn.Linear(512, 4)).eval()
images = torch.randn(2, 3, 2, 2)
SingleLogit.from_model(model, (3, 2, 2)).__call__(images, 1)
before = psutil.Process().memory_info().rss
query = SingleLogit.from_rows(model, sys.argv[1], (3, 2, 2))
for index in (0, 100_000, 199_999):
    query(images, index)
print((psutil.Process().memory_info().rss - before) / 2**20)
"""


def test_the_rest_of_the_top_layer_takes_no_memory(tmp_path: Path) -> None:
    tile = torch.randn(1000, 512)
    path = tmp_path / "a.safetensors"
    write_rows(path, [tile] * 200, torch.zeros(200_000), classes=200_000, features=512, dtype=torch.float32)
    assert path.stat().st_size > 400e6
    root = Path(archs.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", RESIDENT, path], capture_output=True, text=True, cwd=root, check=True)
    path.unlink()
    assert float(done.stdout) < 20


def test_rows_asked_for_last_are_not_read_again() -> None:
    query = SingleLogit.from_model(small(), SHAPE, cached_rows=2)
    reads: list[int] = []
    read = query.rows.read
    query.rows.read = lambda index: reads.append(index) or read(index)  # type: ignore[method-assign,func-returns-value]
    for index in (1, 2, 1, 2, 3, 2, 1):
        query.select(index)
    assert reads == [1, 2, 3, 1]


def test_the_memory_of_the_whole_top_layer_is_free_once_the_model_is_gone() -> None:
    import weakref

    network = small()
    gone = weakref.ref(network.top.weight)
    query = SingleLogit.from_model(network, SHAPE)
    del network
    gc.collect()
    assert gone() is None
    assert query(images_of(), 3).shape == (5,)


def test_a_temporary_file_goes_with_its_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SingleLogit.from_model(small(), SHAPE) as query:
        assert query.rows.file.path.exists()
    query.close()
    assert os.listdir(tmp_path) == []
    dropped = SingleLogit.from_model(small(), SHAPE)
    assert len(os.listdir(tmp_path)) == 1
    del dropped
    assert os.listdir(tmp_path) == []
    with pytest.raises(UnsupportedNetwork):
        SingleLogit.from_model(nn.Sequential(small(), nn.Softmax(1)), SHAPE)
    assert os.listdir(tmp_path) == []


def test_a_closed_query_answers_nothing_more(tmp_path: Path) -> None:
    """Class 3 is still on the device, and its threshold in memory: neither hides that the query was closed."""
    with SingleLogit.from_model(small(), SHAPE, folder=tmp_path) as query:
        query(images_of(), 3)
        query.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9)
    asked: list[Callable[[], object]] = [
        lambda: query(images_of(), 3),
        lambda: query(images_of(), 4),
        lambda: query.select(3),
        lambda: query.decide(images_of(), 3),
        lambda: query.threshold(3),
        lambda: query.export(3, tmp_path / "a.safetensors"),
        lambda: query.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9),
    ]
    for ask in asked:
        with pytest.raises(UnusableFile, match="was closed"):
            ask()


def test_a_named_folder_keeps_the_file(tmp_path: Path) -> None:
    with SingleLogit.from_model(small(), SHAPE, folder=tmp_path):
        pass
    again = SingleLogit.from_rows(small(), tmp_path / "top-layer.safetensors", SHAPE)
    assert_equal_columns(again(images_of(), 4), logits_of(small(), images_of())[:, 4], torch.float32)


def test_a_model_in_training_mode_is_used_as_in_evaluation() -> None:
    network, images = small().train(), images_of()
    query = SingleLogit.from_model(network, SHAPE)
    assert_equal_columns(query(images, 4), logits_of(small(), images)[:, 4], torch.float32)


def modes_of(network: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in network.named_modules()}


@pytest.mark.parametrize("frozen", ["", "norm", "dropout"])
def test_the_mode_of_a_model_and_of_its_parts_stays_as_it_was(tmp_path: Path, frozen: str) -> None:
    network, images = small().train(), images_of(40)
    network.get_submodule(frozen).train(False)
    before, statistics = modes_of(network), network.norm.running_mean.clone()  # type: ignore[operator]
    query = SingleLogit.from_model(network, SHAPE, folder=tmp_path)
    assert modes_of(network) == before
    columns = logits_of(small(), images)
    assert_equal_columns(query(images, 4), columns[:, 4], torch.float32)
    query.fit_threshold(images, torch.ones(40, dtype=torch.bool), 4, recall=0.9)
    for other in (
        SingleLogit.from_export(network, query.export(4, tmp_path / "a.safetensors")),
        SingleLogit.from_rows(network, tmp_path / "top-layer.safetensors", SHAPE),
    ):
        assert_equal_columns(other(images, 4), columns[:, 4], torch.float32)
    assert modes_of(network) == before
    assert torch.equal(network.norm.running_mean, statistics)  # type: ignore[arg-type]


def test_training_that_goes_on_beside_it_changes_no_mode_of_a_score() -> None:
    """Dropout and batch statistics would show in the scores."""
    network, images = small(), images_of()
    query = SingleLogit.from_model(network, SHAPE)
    network.train()
    assert_equal_columns(query(images, 4), logits_of(small(), images)[:, 4], torch.float32)
    assert all(modes_of(network).values())


def test_the_mode_stays_where_a_forward_fails() -> None:
    network = small().train()
    query = SingleLogit.from_model(network, SHAPE)
    network.convolution.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match="no memory"):
        query(images_of(), 4)
    assert all(modes_of(network).values())


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture
def query() -> SingleLogit:
    return SingleLogit.from_model(small(), SHAPE)


@pytest.mark.parametrize("index", [-1, CLASSES, 10**9])
def test_a_class_out_of_range(query: SingleLogit, index: int) -> None:
    for asked in (index, [3, index]):
        with pytest.raises(ValueError, match=rf"class {index} is out of range: the top layer has the classes 0 to 29"):
            query(images_of(), asked)
    assert query(images_of(), 3).shape == (5,), "what failed leaves nothing behind"


@pytest.mark.parametrize("index", [True, 1.0, "1", None, [True], [1.5], torch.tensor(True), torch.tensor([1.0])])
def test_what_is_no_class(query: SingleLogit, index: object) -> None:
    with pytest.raises(TypeError, match="a class is a whole number, not a"):
        query(images_of(), index)  # type: ignore[arg-type]


def test_no_class_at_all(query: SingleLogit) -> None:
    with pytest.raises(ValueError, match="no class is asked for"):
        query(images_of(), [])


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(2, 3, 8, 9), r"shape \(2, 3, 8, 9\) do not fit Small, which takes \(n, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\) do not fit"),
        (torch.zeros(0, 3, 8, 8), r"shape \(0, 3, 8, 8\) do not fit"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "images of uint8 do not fit Small, which computes in float32"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float64), r"images of float64 .*use images\.to\(torch\.float32\)"),
    ],
)
def test_images_that_do_not_fit(query: SingleLogit, images: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        query(images, 3)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), r"images are a numpy array, .*: use torch\.from_numpy"),
        ([[1.0]], r"images are a list, where a torch\.Tensor is needed"),
    ],
)
def test_images_that_are_no_tensor(query: SingleLogit, images: Tensor, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        query(images, 3)
    with pytest.raises(TypeError, match=reason):
        query.fit_threshold(images, torch.ones(2, dtype=torch.bool), 3)


@pytest.mark.parametrize("dtype", ["float32", 32, torch.int32, float])
def test_what_is_no_dtype_of_a_top_layer(tmp_path: Path, dtype: object) -> None:
    with pytest.raises(ValueError, match=r"dtype .*: must be one of torch\.float64, torch\.float32, torch\.bfloat16, "):
        SingleLogit.from_checkpoint(
            saved(small(), tmp_path / "a.pt"),
            arch=architecture(),
            dtype=dtype,  # type: ignore[arg-type]
        )


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    path = saved(nn.Sequential(nn.Linear(3, 4)), tmp_path / "a.pt")
    with pytest.raises(UnusableFile, match=r"no checkpoint of small: it has no 'convolution\.weight' \(5 of 5 tensors"):
        SingleLogit.from_checkpoint(path, arch=architecture())
    wider = saved(small(features=16), tmp_path / "b.pt")
    with pytest.raises(UnusableFile, match=r"'convolution\.weight' has the shape \(16, 3, 3, 3\), where .* \(12, 3"):
        SingleLogit.from_checkpoint(wider, arch=architecture())


@pytest.mark.parametrize(
    ("changed", "bias", "reason"),
    [
        ({"top.weight": None}, True, r"has no 'top\.weight': there is no top layer in it"),
        ({"top.bias": None}, True, r"has no 'top\.bias'"),
        ({}, False, "its top layer has a bias, the network's has none"),
        ({"top.weight": torch.ones(30, 13)}, True, "rows of 13 features, where small makes 12"),
        ({"top.weight": torch.ones(30, 12, dtype=torch.int8)}, True, r"'top\.weight' is not of float16"),
        ({"norm.bias": torch.ones(12, dtype=torch.float64)}, True, r"of float32, but 'norm\.bias' of float64: say"),
        ({"norm.bias": torch.ones(12, dtype=torch.int8)}, True, r"but 'norm\.bias' of no floating-point number"),
        ({"norm.weight": torch.ones(13)}, True, r"'norm\.weight' has the shape \(13,\)"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_checkpoint_that_does_not_fit(
    tmp_path: Path, changed: dict[str, Tensor | None], bias: bool, reason: str, name: str
) -> None:
    state = {**small().state_dict(), **changed}
    kept = {key: tensor for key, tensor in state.items() if tensor is not None}
    save_file(kept, tmp_path / name) if name.endswith("safetensors") else torch.save(kept, tmp_path / name)
    with pytest.raises(UnusableFile, match=reason):
        SingleLogit.from_checkpoint(tmp_path / name, arch=architecture(bias=bias))


def test_tensors_that_have_no_place_are_named(tmp_path: Path) -> None:
    path = saved(small(), tmp_path / "a.safetensors", **{"auxiliary.weight": torch.ones(3)})
    with pytest.warns(UserWarning, match=r"1 tensors that small has no place for, the first 'auxiliary\.weight'"):
        query = SingleLogit.from_checkpoint(path, arch=architecture())
    assert query.unused == ("auxiliary.weight",)


def test_a_checkpoint_of_long_ago_counts_no_minibatches(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in small().state_dict().items() if "tracked" not in name}
    torch.save(state, tmp_path / "a.pt")
    query = SingleLogit.from_checkpoint(tmp_path / "a.pt", arch=architecture())
    assert_equal_columns(query(images_of(), 4), logits_of(small(), images_of())[:, 4], torch.float32)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_checkpoint_cut_short_before_and_after(tmp_path: Path, name: str) -> None:
    path = saved(small(classes=5000), tmp_path / name)
    query = SingleLogit.from_checkpoint(path, arch=architecture())
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UnusableFile, match="was cut short after it was opened"):
        query(images_of(), 4990)
    with pytest.raises(UnusableFile, match="cut short"):
        SingleLogit.from_checkpoint(path, arch=architecture())


# -- thresholds -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return saved(small(seed=3), tmp_path / "small.safetensors")


def open_kept(kept: Path) -> SingleLogit:
    return SingleLogit.from_checkpoint(kept, arch=architecture())


def test_decisions_reach_the_recall_on_the_calibration_images(kept: Path) -> None:
    query, images = open_kept(kept), images_of(80)
    is_class = torch.stack([torch.arange(80) < 60, torch.arange(80) >= 20], 1)
    fitted = query.fit_threshold(images, is_class, [3, 17], recall=0.9, confidence=0.9, batch_size=32)
    assert list(fitted) == [3, 17]
    assert query.threshold(3) == fitted[3]
    decided = query.decide(images, [3, 17])
    assert decided.shape == (80, 2)
    for column in (0, 1):
        assert decided[is_class[:, column], column].float().mean() >= 0.9
    assert torch.equal(query.decide(images, 17), decided[:, 1])
    assert fitted[3].false_positives == int(decided[~is_class[:, 0], 0].sum())


def test_thresholds_are_stored_beside_the_rows(kept: Path) -> None:
    fitted = open_kept(kept).fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9)
    assert (kept.parent / "small.thresholds.json").exists()
    open_kept(kept).fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 4, recall=0.9)
    again = open_kept(kept)
    assert again.threshold(3) == fitted[3]
    assert torch.equal(again.decide(images_of(9), [3, 4])[:, 0], again(images_of(9), 3) >= fitted[3].value)


def test_scores_may_be_given(kept: Path) -> None:
    query, images = open_kept(kept), images_of(40)
    is_class = torch.arange(40) < 30
    from_images = query.fit_threshold(images, is_class, 3, recall=0.9)
    assert query.fit_threshold_to_scores(query(images, 3), is_class, 3, recall=0.9) == from_images


def test_a_threshold_of_another_row_is_not_used(kept: Path) -> None:
    truths = torch.ones(40, dtype=torch.bool)
    open_kept(kept).fit_threshold(images_of(40), truths, 3, recall=0.9)
    wide = SingleLogit.from_checkpoint(kept, arch=architecture(), dtype=torch.float64)
    with pytest.raises(UnusableThresholds, match=r"class 3 was fitted to another row, or in float32: fit it again"):
        wide.decide(images_of(2, torch.float64), 3)
    saved(small(seed=4), kept)
    with pytest.raises(UnusableThresholds, match="fitted to another row"):
        open_kept(kept).decide(images_of(2), 3)


def with_other_values(network: Small) -> Small:
    """The same rows under a backbone of which one number differs in its last bit."""
    other = small(seed=3)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.norm.running_var[0] = other.norm.running_var[0].nextafter(torch.tensor(9.0))  # type: ignore[index,operator]
    return other


def test_a_threshold_of_another_backbone_under_the_same_row_is_not_used(kept: Path) -> None:
    query = open_kept(kept)
    fitted = query.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9)[3]
    assert fitted.backbone_sha256 == query.backbone_sha256 == open_kept(kept).backbone_sha256
    saved(with_other_values(small(seed=3)), kept)
    with pytest.raises(UnusableThresholds, match="class 3 was fitted to a backbone of other values: fit it again"):
        open_kept(kept).decide(images_of(2), 3)
    open_kept(kept).fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9)
    assert open_kept(kept).decide(images_of(2), 3).shape == (2,)


def test_thresholds_from_before_backbones_had_a_digest_are_read_with_a_warning(kept: Path) -> None:
    fitted = open_kept(kept).fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9)
    old = fitted[3].model_copy(update={"backbone_sha256": ""})
    thresholds.write(kept.with_name("small.thresholds.json"), {3: old})
    with pytest.warns(UserWarning, match=r"1 thresholds .* class 3, do not say which values of the backbone") as told:
        query = open_kept(kept)
    assert [each.filename for each in told] == [__file__]
    assert query.threshold(3) == old


def test_a_class_without_a_threshold(kept: Path) -> None:
    with pytest.raises(UnusableThresholds, match="class 5 has no threshold: fit one"):
        open_kept(kept).decide(images_of(2), 5)
    with pytest.raises(ValueError, match="class 30 is out of range"):
        open_kept(kept).decide(images_of(2), 30)


def test_too_few_images_of_the_class_say_how_many_it_takes(kept: Path) -> None:
    query = open_kept(kept)
    with pytest.raises(TooFewPositives, match=r"40 examples .* recall 0\.99 with confidence 0\.95: it takes 299"):
        query.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3)
    plain = query.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, confidence=None)
    assert plain[3].confidence == pytest.approx(1 - 0.99**40)


@pytest.mark.parametrize(
    ("is_class", "classes", "reason"),
    [
        (torch.ones(39, dtype=torch.bool), 3, r"shape \(39,\) do not fit 40 images and 1 classes"),
        (torch.ones(40, dtype=torch.bool), [3, 4], "do not fit 40 images and 2 classes"),
        (torch.ones(40), 3, r"truth values of float32, where bool is needed: use is_class\.bool\(\)"),
    ],
)
def test_truth_values_that_do_not_fit(kept: Path, is_class: Tensor, classes: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_kept(kept).fit_threshold(images_of(40), is_class, classes, recall=0.9)


@pytest.mark.parametrize(
    ("asked", "error", "reason"),
    [
        ({"is_class": torch.ones(39, dtype=torch.bool)}, ValueError, r"\(39,\) do not fit 40 images"),
        ({"is_class": torch.ones(40)}, ValueError, "truth values of float32"),
        ({"is_class": np.ones(40, bool)}, TypeError, "truth values are a numpy array"),
        ({"batch_size": 0}, ValueError, "batch_size 0: must be 1 or more"),
        ({"batch_size": -1}, ValueError, "batch_size -1: must be 1 or more"),
        ({"batch_size": 2.5}, TypeError, "batch_size is a whole number, not a float"),
        ({"recall": 1.5}, ValueError, "recall 1.5 is not between 0 and 1"),
        ({"recall": 0.99}, TooFewPositives, "it takes 299"),
        ({"is_class": torch.zeros(40, dtype=torch.bool)}, TooFewPositives, "no example of the class"),
    ],
)
def test_a_calibration_that_cannot_be_is_told_before_any_forward(
    kept: Path, asked: dict[str, object], error: type[Exception], reason: str
) -> None:
    query = open_kept(kept)
    forwards: list[object] = []
    query._network.get_submodule("convolution").register_forward_hook(lambda *_: forwards.append(0))
    arguments = {"is_class": torch.ones(40, dtype=torch.bool), "recall": 0.9, **asked}
    with pytest.raises(error, match=reason):
        query.fit_threshold(images_of(40), classes=3, **arguments)  # type: ignore[arg-type]
    assert forwards == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_whose_score_is_no_number_are_not_decided_on(kept: Path, value: float) -> None:
    query, truths, images = open_kept(kept), torch.ones(40, dtype=torch.bool), images_of(40)
    query.fit_threshold(images, truths, 3, recall=0.9)
    images[7, 0] = value
    with pytest.raises(ValueError, match=r"1 of 40 images, the first of them number 7, have a score"):
        query.decide(images, 3)
    with pytest.raises(ValueError, match="calibration scores are not all finite"):
        query.fit_threshold(images, truths, 3, recall=0.9)
    with pytest.raises(ValueError, match="calibration scores are not all finite"):
        query.fit_threshold_to_scores(query(images, 3), truths, 3, recall=0.9)


def test_scores_that_do_not_fit(kept: Path) -> None:
    query, truths = open_kept(kept), torch.ones(40, dtype=torch.bool)
    with pytest.raises(ValueError, match="scores of float64, where small gives float32"):
        query.fit_threshold_to_scores(torch.ones(40, dtype=torch.float64), truths, 3, recall=0.9)
    with pytest.raises(TypeError, match="scores are a numpy array"):
        query.fit_threshold_to_scores(np.ones(40), truths, 3, recall=0.9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="truth values are a numpy array"):
        query.fit_threshold_to_scores(torch.ones(40), np.ones(40, bool), 3, recall=0.9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scores of shape \(40, 2\)"):
        query.fit_threshold_to_scores(torch.ones(40, 2), truths, [3, 4], recall=0.9)


def test_thresholds_that_cannot_be_stored_hold_in_memory(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = open_kept(kept)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Read-only"):
        query.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 3, recall=0.9)
    assert query.decide(images_of(2), 3).dtype == torch.bool


# -- one class, elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize("bias", [True, False])
def test_an_exported_class_gives_the_same_scores(tmp_path: Path, dtype: torch.dtype, bias: bool) -> None:
    network, images = small(bias=bias).to(dtype), images_of(40, dtype)
    query = SingleLogit.from_model(network, SHAPE)
    query.fit_threshold(images, torch.ones(40, dtype=torch.bool), 17, recall=0.9)
    path = query.export(17, tmp_path / "zebra.safetensors", class_name="zebra")
    device = small(classes=2, bias=bias).to(dtype)  # with the backbone's weights, and any top layer
    one = SingleLogit.from_export(device, path)
    assert (one.classes, one.class_name, one.name, one.input_shape) == (CLASSES, "zebra", "Small", SHAPE)
    assert_equal_columns(one(images, 17), logits_of(network, images)[:, 17], dtype)
    assert one.threshold(17) == query.threshold(17)
    assert torch.equal(one.decide(images, 17), query.decide(images, 17))
    with pytest.raises(ValueError, match="it was exported for class 17 alone"):
        one(images, 16)
    with pytest.raises(ValueError, match="class 30 is out of range"):
        one(images, 30)


def test_an_export_is_small_and_plain(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2048), nn.ReLU(), nn.Linear(2048, 1000)).eval()
    path = SingleLogit.from_model(network, (3, 2, 2)).export(417, tmp_path / "a.safetensors")
    tensors = load_file(path)
    assert torch.equal(tensors["weight"], network[3].weight[417:418].detach())
    assert torch.equal(tensors["bias"], network[3].bias[417:418].detach())
    assert path.stat().st_size < 8192 + 1024


def test_an_exported_class_can_be_given_another_threshold(tmp_path: Path) -> None:
    query = SingleLogit.from_model(small(), SHAPE)
    path = query.export(17, tmp_path / "a.safetensors")
    one = SingleLogit.from_export(small(), path)
    with pytest.raises(UnusableThresholds, match="class 17 has no threshold"):
        one.decide(images_of(), 17)
    fitted = one.fit_threshold(images_of(40), torch.ones(40, dtype=torch.bool), 17, recall=0.9)
    assert SingleLogit.from_export(small(), path).threshold(17) == fitted[17]


def test_an_export_of_other_values_is_refused(tmp_path: Path) -> None:
    network = small()
    path = SingleLogit.from_model(network, SHAPE).export(17, tmp_path / "a.safetensors")
    with pytest.raises(UnusableFile, match=r"exported from Small with other values in its backbone: load the weights"):
        SingleLogit.from_export(with_other_values(network), path)
    assert SingleLogit.from_export(network, path)(images_of(), 17).shape == (5,)


def test_an_export_from_before_backbones_had_a_digest_is_read_with_a_warning(tmp_path: Path) -> None:
    network = small()
    path = SingleLogit.from_model(network, SHAPE).export(17, tmp_path / "a.safetensors")
    tensors, metadata = load_file(path), open_tensors(path).metadata
    del metadata["backbone_sha256"]
    save_file(tensors, path, metadata)
    with pytest.warns(UserWarning, match="does not say with which values of the backbone it was exported") as told:
        one = SingleLogit.from_export(network, path)
    assert [each.filename for each in told] == [__file__]
    assert_equal_columns(one(images_of(), 17), logits_of(network, images_of())[:, 17], torch.float32)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (lambda: small(features=16), "was exported from Small, whose backbone has other tensors"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Linear(12, 3)), "other tensors"),
        (lambda: small(bias=False), "the top layer has a bias, where that of Small has none"),
        (lambda: small().double(), r"of float32, the network of float64: use model\.to\(torch\.float32\)"),
    ],
)
def test_an_export_of_another_network(tmp_path: Path, device: Callable[[], nn.Module], reason: str) -> None:
    path = SingleLogit.from_model(small(), SHAPE).export(17, tmp_path / "a.safetensors")
    with pytest.raises(UnusableFile, match=reason):
        SingleLogit.from_export(device(), path)


def test_what_is_no_export(tmp_path: Path, kept: Path) -> None:
    with pytest.raises(UnusableFile, match="is not an exported class"):
        SingleLogit.from_export(small(), kept)
    path = SingleLogit.from_model(small(), SHAPE).export(17, tmp_path / "a.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(UnusableFile, match="cut short"):
        SingleLogit.from_export(small(), path)
    path.write_bytes(content.replace(b'"class": "17"', b'"class": "1x"'))
    with pytest.raises(UnusableFile, match="its metadata were altered"):
        SingleLogit.from_export(small(), path)


def test_a_class_out_of_range_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class 30 is out of range"):
        SingleLogit.from_model(small(), SHAPE).export(30, tmp_path / "a.safetensors")
    with pytest.raises(UnusableFile, match="cannot be written"):
        SingleLogit.from_model(small(), SHAPE).export(3, tmp_path / "nowhere" / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_the_package_is_imported_without_torch() -> None:
    script = "import archs, sys; print('torch' in sys.modules); archs.SingleLogit; print('torch' in sys.modules)"
    root = Path(archs.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        archs.Nothing  # noqa: B018


def test_metadata_name_what_was_exported(tmp_path: Path) -> None:
    path = SingleLogit.from_model(small(), SHAPE).export(17, tmp_path / "a.safetensors", class_name="zebra")
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert {name: metadata[name] for name in ("network", "class", "class_name", "classes", "features", "dtype")} == {
        "network": "Small",
        "class": "17",
        "class_name": "zebra",
        "classes": "30",
        "features": "12",
        "dtype": "float32",
    }
