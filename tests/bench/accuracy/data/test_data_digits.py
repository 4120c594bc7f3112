from pathlib import Path

import torch

from bench.accuracy import data
from bench.accuracy.plan import plan, plan_of
from bench.accuracy.records import Manifest
from bench.accuracy.request import Request


def test_the_digits_need_no_files(tmp_path):
    digits = data.load("digits", data_dir=tmp_path / "nothing")
    facts = digits.facts
    assert (facts.classes, facts.input_shape) == (10, (1, 8, 8))
    assert facts.train + facts.validation + facts.test == 1797
    assert facts.checksums == {}
    assert abs(facts.test / 1797 - 0.2) < 0.005
    assert abs(facts.validation / (1797 * 0.8) - 0.1) < 0.005
    assert not (tmp_path / "nothing").exists()


def test_the_split_seed_moves_the_validation_split_and_never_the_test_split():
    first, again, second = (data.load("digits", split_seed=seed) for seed in (0, 0, 1))
    everything = torch.arange(first.facts.test)
    assert torch.equal(first.test.labels, second.test.labels)
    assert torch.equal(first.validation.labels, again.validation.labels)
    assert not torch.equal(first.validation.images([0, 1]), second.validation.images([0, 1]))
    order = [split.test.images(everything).flatten(1).argsort(dim=1, stable=True) for split in (first, second)]
    assert torch.equal(*order)  # the same images, whatever they are normalised by
    assert first.facts.notes != second.facts.notes
    assert first.facts == again.facts


def test_a_run_records_the_names_of_the_classes_beside_what_tells_data_apart():
    planned = plan(Request(device="cpu"))
    manifest = planned.manifest(created="2026-01-02T03:04:05+00:00", command=())
    assert manifest.class_names == tuple("0123456789")
    old = Manifest.model_validate(manifest.model_dump(exclude={"class_names"}))  # as written before there were names
    assert old.class_names == ()
    assert plan_of(old, Path("old")).dataset.facts == manifest.dataset, "an old run goes on"


def test_no_test_image_is_trained_on():
    digits = data.load("digits")
    rows = [
        {tuple(image) for image in split.images(torch.arange(len(split))).flatten(1).tolist()}
        for split in (digits.train, digits.validation, digits.test)
    ]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
