"""CheXpert and ISIC from a folder: who is chosen, who is left out, and that no patient is in two splits."""

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from diffclass.data.datasets import Dataset, dataset_of, dataset_splits, open_dataset
from diffclass.data.medical import chexpert, isic_melanoma
from tiny_mixture import save_picture

SPLITS = ("test", "train", "validation")


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def write_chexpert(folder: Path, n_effusion: int = 60, n_healthy: int = 45) -> Path:
    """Patients of both kinds, each with images that must be left out, and patients that must."""
    patient, rows = count(1), []

    def add(effusion: object, healthy: object, name: str = "", view: str = "Frontal", study: int = 1) -> str:
        who = name or f"patient{next(patient):05}"
        number = sum(f"{who}/study{study}/" in str(row[0]) for row in rows) + 1
        path = f"CheXpert-v1.0-small/train/{who}/study{study}/view{number}_{view.lower()}.jpg"
        rows.append((path, "Female", 50, view, "AP", healthy, effusion))
        return who

    for index in range(n_effusion + n_healthy):
        labels = (1.0, "") if index < n_effusion else ("", 1.0)
        who = add(*labels)
        add(*labels, name=who, view="Lateral")
        add(*labels, name=who)  # a second frontal view
        add(*labels, name=who, study=2)
    for labels in ((-1.0, 1.0), (-1.0, ""), (0.0, ""), (1.0, 1.0), ("", "")):
        add(*labels)
    add(1.0, "", view="Lateral")
    write_csv(folder / "train.csv", "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pleural Effusion", rows)
    return folder


def all_splits(path: Path) -> dict[str, Dataset]:
    assert dataset_splits(path) == SPLITS
    return {split: open_dataset(path, split=split) for split in SPLITS}


def test_chexpert_is_selected_as_published(tmp_path: Path) -> None:
    sets = all_splits(write_chexpert(tmp_path / "CheXpert-v1.0-small"))
    assert {split: len(data) for split, data in sets.items()} == {"test": 9, "train": 72, "validation": 9}
    labels = np.concatenate([data.labels for data in sets.values()])
    assert np.bincount(labels).tolist() == [45, 45]
    ids = [name for data in sets.values() for name in data.ids]
    assert all(name.endswith("/study1/view1_frontal.jpg") for name in ids)
    patients = [group for data in sets.values() for group in data.groups or ()]
    assert len(set(patients)) == len(patients) == 90
    for data in sets.values():
        assert data.classes == ("no finding", "pleural effusion")
        for item in data:
            number = int(item.id.split("/")[1].removeprefix("patient"))
            assert item.label == (1 if number <= 60 else 0)


def test_the_published_counts_follow_from_the_rule() -> None:
    """20,404 chosen images make 16,324, 2,040 and 2,040; 10,211 make 8,169, 1,021 and 1,021."""
    for n, sizes in ((20404, (16324, 2040)), (10211, (8169, 1021))):
        assert (n - 2 * (n // 10), n // 10) == sizes


def test_chexpert_is_the_same_every_time_and_opens(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path / "CheXpert-v1.0-small")
    first, again = (open_dataset(folder, split="train") for _ in range(2))
    assert first.fingerprint == again.fingerprint
    other = dataset_of(chexpert(folder, seed=1)["train"], name="chexpert", split="train")
    assert other.ids != first.ids
    save_picture(folder / first.ids[0], 3)
    assert first[0].load((1, 8, 8)).shape == (1, 8, 8)
    chosen = first.subset([2, 0])
    assert chosen.groups == (first.groups[2], first.groups[0])  # type: ignore[index]


def write_isic(folder: Path) -> Path:
    """2019: 40 melanomas, two to a lesion, 30 nevi, 5 carcinomas. 2020: 4 melanomas, 100 benign of 50 patients."""
    names = [f"ISIC_00{i:05}" + ("_downsampled" if i % 3 == 0 else "") for i in range(75)]
    kinds = ["MEL"] * 40 + ["NV"] * 20 + ["BKL"] * 10 + ["BCC"] * 5
    columns = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    rows = [(name, *(float(kind == column) for column in columns)) for name, kind in zip(names, kinds, strict=True)]
    write_csv(folder / "ISIC_2019_Training_GroundTruth.csv", f"image,{','.join(columns)}", rows)
    lesions = [(name, 50, "torso", f"L{i // 2}" if i < 40 else "", "male") for i, name in enumerate(names)]
    write_csv(folder / "ISIC_2019_Training_Metadata.csv", "image,age_approx,anatom_site_general,lesion_id,sex", lesions)
    recent = [(f"ISIC_0{100000 + i}", f"P{i // 2}", "nevus", "", int(i >= 100)) for i in range(104)]
    write_csv(
        folder / "ISIC_2020_Training_GroundTruth.csv", "image_name,patient_id,diagnosis,benign_malignant,target", recent
    )
    return folder


def test_isic_is_selected_as_published_confound_included(tmp_path: Path) -> None:
    sets = all_splits(write_isic(tmp_path))
    images = [(name, int(label)) for data in sets.values() for name, label in zip(data.ids, data.labels, strict=True)]
    assert len(images) == 88
    assert sum(label for _, label in images) == 44
    benign = [name for name, label in images if not label]
    assert all(name >= "ISIC_0100000" for name in benign)  # all of the archive of 2020
    assert not {f"ISIC_00{i:05}" for i in range(70, 75)} & {name.removesuffix("_downsampled") for name, _ in images}
    assert len(sets["test"]) >= 8
    assert sets["train"].classes == ("benign", "melanoma")


@pytest.mark.parametrize("match_origin", [False, True])
def test_no_patient_and_no_lesion_is_in_two_splits(tmp_path: Path, match_origin: bool) -> None:
    parts = isic_melanoma(write_isic(tmp_path), match_origin=match_origin)
    groups = {split: set(part.groups) for split, part in parts.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    pairs = [part.groups.count(group) for part in parts.values() for group in set(part.groups)]
    assert 2 in pairs


def test_matched_origins_do_not_tell_the_label(tmp_path: Path) -> None:
    parts = isic_melanoma(write_isic(tmp_path), match_origin=True)
    images = [
        (n >= "ISIC_0100000", int(y)) for part in parts.values() for n, y in zip(part.ids, part.labels, strict=True)
    ]
    table = {(recent, label): images.count((recent, label)) for recent in (False, True) for label in (0, 1)}
    assert table == {(False, 0): 30, (False, 1): 30, (True, 0): 4, (True, 1): 4}


def test_isic_pictures_are_found_at_any_depth(tmp_path: Path) -> None:
    train = open_dataset(write_isic(tmp_path), split="train")
    save_picture(tmp_path / "jpeg" / "train" / f"{train.ids[0]}.jpg", 5)
    assert train[0].load((1, 8, 8)).shape == (1, 8, 8)


def test_other_folders_with_tables_are_what_they_were(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "Path,label", [("a.png", "x")])
    for label in ("x", "y"):
        save_picture(tmp_path / label / "a.png")
    assert open_dataset(tmp_path).classes == ("x", "y")
