"""Read ground truth and predictions from JSON files into the arrays of `sdtc.evaluation.ap`.

Ground truth: PoseTrack18 and PoseTrack21 annotations, one file per sequence or all in one COCO-style file; or COCO's
person keypoints. Predictions: the same layout with `scores` (what `sdtc-infer` writes as `posetrack`, and PoseTrack's
server takes), or COCO result lists with PoseTrack's 17 slots or, for COCO's ground truth, COCO's 17 joints.

Joints are found by their names in the file's `categories`, as `poseval` does; a ground truth without names has
PoseTrack's 17 slots, predictions without names have the joints of the ground truth. A joint is absent only if its three
numbers are all 0, whatever its visibility (as in `poseval`); in COCO's ground truth, if its label is 0.

Entries of another category and crowds are nobody, in either: they are left out, and the notes count them. The box of a
crowd in PoseTrack's ground truth is an ignore region; COCO's crowds are kept apart, for COCO's own rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from sdtc.core.annotation_file import (
    BOX,
    CROWD,
    MIN_SIDE,
    PERSON_RULE,
    AnnotationFile,
    AnnotationRecord,
    left_out_phrase,
    read_annotation_file,
)
from sdtc.core.errors import InputError
from sdtc.core.files import visible_files
from sdtc.core.skeleton import COCO, POSETRACK, Skeleton
from sdtc.evaluation.ap import GroundTruth, Predictions, estimate_note, head_sizes

MISSING_SCORE = -9999.0  # of joints without a score: they rank last, as in `poseval`
NO_TRACK = -1  # the track id of those who have none
# Folders of validation annotations below a data set's root: of PoseTrack18 and `sdtc-synth`, then of PoseTrack21.
ANNOTATION_FOLDERS = ("", "annotations/val", "posetrack_data/val", "annotations")


@dataclass(frozen=True)
class TruthImage:
    """One image of the ground truth.

    Attributes:
        id: in its file.
        file_name: e.g. ``images/val/012834_mpii_test/000000.jpg``.
        annotations: path of its file.
        annotated: whether it takes part in AP: PoseTrack's if it has annotated people, COCO's always.
        still: whether its neighbours are no neighbouring frames: ``nframes`` is 1, or is missing in COCO's files.
    """

    id: int
    file_name: str
    annotations: Path
    annotated: bool
    still: bool


@dataclass(frozen=True)
class Truth:
    """The ground truth of one or more files.

    Attributes:
        people: arrays; frame i is ``images[i]``.
        annotations: of the people, as their files have them, in the order of the arrays.
        images: in the order of the files.
        paths: of the files.
        crowds: COCO's, each with its frame; PoseTrack's are ignore regions.
        notes: sentences about what was assumed.
    """

    people: GroundTruth
    annotations: tuple[AnnotationRecord, ...]
    images: tuple[TruthImage, ...]
    paths: tuple[Path, ...]
    crowds: tuple[tuple[int, AnnotationRecord], ...] = ()
    notes: tuple[str, ...] = ()

    def with_label_of_any(self, labels: Iterable[str]) -> Truth:
        """Return a copy with one more label, "A or B …", on everybody who has at least one of the given labels.

        Raises:
            InputError: nobody has one of the labels.
        """
        wanted = tuple(labels)
        known = sorted(set().union(*self.people.labels))
        for label in wanted:
            if label not in known:
                raise InputError(f"nobody carries the difficulty '{label}': expected some of {', '.join(known) or '-'}")
        union = frozenset([" or ".join(wanted)])
        marked = tuple(mine | union if mine.intersection(wanted) else mine for mine in self.people.labels)
        return replace(self, people=replace(self.people, labels=marked))

    @property
    def track_ids(self) -> np.ndarray:
        """Track ids of the people, int64 ``[G]``, `NO_TRACK` for those without one."""
        return np.array([_track_id(annotation) for annotation in self.annotations], np.int64)

    @property
    def sequences(self) -> np.ndarray:
        """The sequence of each image, int64 ``[F]``: the images of a file that lie in one folder."""
        names = [(image.annotations, PurePosixPath(image.file_name.replace("\\", "/")).parent) for image in self.images]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names], np.int64)

    @cached_property
    def _by_id(self) -> dict[int, int]:
        ids = {image.id: frame for frame, image in enumerate(self.images)}
        # If files number their images independently, an id belongs to several images: match by names only.
        return ids if len(ids) == len(self.images) else {}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        names = [_short(image.file_name) for image in self.images]
        times = Counter(names)
        return {name: frame for frame, name in enumerate(names) if times[name] == 1}

    def find(self, image_id: int, file_name: str | None = None) -> int | None:
        """Return the frame of the ground truth that shows the same image as an image of another file, or None.

        The file name (with its folder) is compared first, then the id: ids are often only counters.
        """
        by_name = None if file_name is None else self._by_name.get(_short(file_name))
        return self._by_id.get(image_id) if by_name is None else by_name


@dataclass(frozen=True)
class PredictedPoses:
    """Predictions from files or from a network.

    Attributes:
        people: arrays; frames are those of the ground truth.
        scores: float64 ``[P]``, of the poses as wholes: those in a file, or else the means of their joints' scores.
        track_ids: int64 ``[P]``, `NO_TRACK` for poses without one.
        notes: sentences about what was skipped or assumed.
    """

    people: Predictions
    scores: np.ndarray
    track_ids: np.ndarray
    notes: tuple[str, ...] = ()


def find_json(paths: Sequence[str | Path], what: str) -> list[Path]:
    """Resolve files and folders to JSON files, in the order given and by name inside a folder.

    A folder stands for the JSON files directly inside it, or else for those in the first of `ANNOTATION_FOLDERS` that
    has any; if COCO's person_keypoints_val*.json is among these, for that alone.

    Raises:
        InputError: a path does not exist, or a folder has no JSON files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{what} '{path}' does not exist: expected a JSON file or a folder of them")
        if not path.is_dir():
            found.append(path)
            continue
        for folder in ANNOTATION_FOLDERS:
            files = visible_files(path / folder, "*.json")
            if files:
                of_coco = [file for file in files if file.name.startswith("person_keypoints_val")]
                found += of_coco or files
                break
        else:
            raise InputError(
                f"{what} folder '{path}' has no JSON files, neither directly nor in {', '.join(ANNOTATION_FOLDERS[1:])}"
            )
    return found


def read_truth(paths: Sequence[str | Path]) -> Truth:
    """Read ground truth.

    A frame takes part if it has any annotation; where the image says ``"is_labeled": false``, only an annotation with
    a labelled joint counts (PoseTrack21 has boxes without poses in such frames). Sizes of heads without a head box are
    estimated (`sdtc.evaluation.ap.head_sizes`), and the notes say so. ``difficulty``, a list of labels of
    an annotation, or of its image where the annotation has none, becomes the person's labels. Entries of another
    category and crowds are left out, and the boxes of crowds become ignore regions; COCO's crowds are kept in `crowds`.

    Args:
        paths: annotation files, folders of them, or a data set's root folder.

    Raises:
        InputError: a file is missing, damaged, or not such a file (the entry is named); the files' joints differ; or
            none of the entries is a person.
    """
    files = [_TruthFile(path) for path in find_json(paths, "ground truth")]
    skeleton = files[0].skeleton
    for file in files:
        if file.skeleton != skeleton:
            raise InputError(
                f"the ground truth mixes joints: those of '{files[0].path}' are of the skeleton '{skeleton.name}', "
                f"those of '{file.path}' of '{file.skeleton.name}'; evaluate them apart"
            )
    images = [image for file in files for image in file.images]
    for (identifier, name), count in Counter((image.id, image.file_name) for image in images).items():
        if count > 1:
            raise InputError(f"image '{name}' ({identifier}) is in {count} of the ground truth's files: give each once")
    starts = np.cumsum([0, *(len(file.images) for file in files[:-1])]).tolist()
    placed = list(zip(starts, files, strict=True))  # each file and its first frame
    annotations = [annotation for file in files for annotation in file.people]
    skipped = sum((file.skipped for file in files), Counter[str]())
    if skipped and not annotations:
        raise InputError(f"the ground truth has no people: {left_out_phrase(skipped)}; {PERSON_RULE}")
    joints = np.concatenate([file.joints for file in files])  # [G, J, 3]
    present = _present(joints)
    counted: np.ndarray = np.any(present, axis=1)  # [G]
    who = list(zip(annotations, counted.tolist(), strict=True))  # boxes are asked for only of those who need them
    head_boxes = _boxes([(annotation.head_box if any_joint else None) or [0.0] * 4 for annotation, any_joint in who])
    boxes = [
        (annotation.bbox if any_joint and not any(head_box[2:]) else None) or [0.0] * 4
        for (annotation, any_joint), head_box in zip(who, head_boxes, strict=True)
    ]
    sizes, estimated = head_sizes(head_boxes, joints[..., :2], present, _boxes(boxes), skeleton)
    if skeleton == POSETRACK and (no_size := counted & (sizes == 0)).any():
        raise annotations[no_size.argmax()].refuse(
            "bbox_head", f"{BOX}, or a bbox with an area, since distances are measured in head sizes"
        )
    labels = tuple(labels for file in files for labels in file.labels)
    people = GroundTruth(
        num_frames=len(images),
        frames=np.array([start + n for start, file in placed for n in file.numbers], np.int64),
        keypoints=joints[..., :2],
        labelled=present,
        head_sizes=sizes,
        ignore_regions={start + n: found for start, file in placed for n, found in file.regions.items()},
        labels=labels if any(labels) else (),
        head_estimated=estimated,
        skeleton=skeleton,
    )
    crowds = tuple((start + number, crowd) for start, file in placed for number, crowd in file.crowds)
    guessed = int((estimated & counted).sum()) if skeleton == POSETRACK else 0  # COCO's AP measures by areas
    notes = [estimate_note(guessed, int(counted.sum()))] if guessed else []
    if skipped:
        crowded = sum(file.crowded for file in files)
        ignored = f"; joints in the boxes of {_count(crowded, 'crowd')} count on neither side" if crowded else ""
        notes.append(f"annotations left out: {left_out_phrase(skipped)}{ignored}")
    return Truth(people, tuple(annotations), tuple(images), tuple(f.path for f in files), crowds, tuple(notes))


def read_predictions(paths: Sequence[str | Path], truth: Truth, ignore_extra: bool = False) -> PredictedPoses:
    """Read predictions and find their frames in the ground truth.

    A joint's score is its entry in `scores`, or the keypoint's third number in a COCO list whose third numbers are not
    all 0, 1 or 2. Without these it is the pose's `score`, and without that `MISSING_SCORE`.

    Args:
        paths: files, or folders of them.
        truth: the ground truth to find the frames in.
        ignore_extra: skip poses in images that the ground truth does not have, instead of raising an error.

    Raises:
        InputError: a file is missing, damaged, or not such a file; an image is in two files; no image, or not every
            image with a pose in it, is in the ground truth; none of the entries is a person.
    """
    files = [_PredictionFile(path, truth) for path in find_json(paths, "predictions")]
    seen: dict[int, Path] = {}
    for file in files:
        for frame in file.known:
            if seen.setdefault(frame, file.path) != file.path:
                raise InputError(
                    f"predictions for image '{truth.images[frame].file_name}' are in '{seen[frame]}' and in "
                    f"'{file.path}': give each image once"
                )
    extra = [name for file in files for name in file.extra]
    listed = [name for file in files for name in file.listed]
    if listed and not seen:
        raise InputError(
            f"no image of the predictions is in the ground truth: theirs begin with {listed[0]}, the ground truth's "
            f"with {truth.images[0].id} ('{truth.images[0].file_name}'); images are matched by id and by file name"
        )
    if extra and not ignore_extra:
        raise InputError(
            f"there are predictions for {_count(len(extra), 'image')} that the ground truth does not have, the first "
            f"{extra[0]}: give the ground truth of all of them, or leave them out with `ignore_extra=True`"
        )
    skipped = sum((file.skipped for file in files), Counter[str]())
    if skipped and not any(file.num_poses for file in files):
        raise InputError(f"the predictions have no people: {left_out_phrase(skipped)}; {PERSON_RULE}")
    notes = [f"{_count(len(extra), 'image')} with predictions left out, not in the ground truth"] if extra else []
    if skipped:
        notes.append(f"predictions left out: {left_out_phrase(skipped)}")
    unscored = sum(file.unscored for file in files)
    if unscored:
        notes.append(f"{_count(unscored, 'pose')} without any score: their joints rank last, so AP means little")
    keypoints = np.concatenate([file.keypoints for file in files])
    people = Predictions(
        frames=np.concatenate([file.frames for file in files]),
        keypoints=keypoints[..., :2],
        predicted=_present(keypoints),
        scores=np.concatenate([file.scores for file in files]),
        skeleton=truth.people.skeleton,
    )
    scores, track_ids = (np.concatenate([getattr(file, name) for file in files]) for name in ("pose_scores", "tracks"))
    return PredictedPoses(people, scores, track_ids, tuple(notes))


class _TruthFile:
    """One file of ground truth.

    Attributes:
        skeleton: of its joints.
        images: in its order.
        people: annotations of the P people who count.
        numbers: of each person, which of the images, from 0.
        joints: float64 ``[P, J, 3]``, zeros where not labelled.
        labels: of each person.
        regions: ignore regions by image, crowds of PoseTrack's among them.
        crowded: how many of them are crowds.
        crowds: COCO's, each with its image.
        skipped: number of entries that are nobody, by reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = read_annotation_file(path, "ground truth")
        file.expect_poses()
        self.skeleton = file.skeleton or POSETRACK
        is_coco = self.skeleton == COCO
        ids = file.unique_ids()
        self.regions: dict[int, list[np.ndarray]] = {}
        self.crowds: list[tuple[int, AnnotationRecord]] = []
        self.crowded = 0
        self.skipped: Counter[str] = Counter()
        entries: list[AnnotationRecord] = []
        numbers: list[int] = []
        for entry, number in zip(file.annotations, file.image_numbers(), strict=True):
            nobody = entry.why_nobody
            if not nobody:
                entries.append(entry)
                numbers.append(number)
            elif nobody == CROWD and is_coco:
                self.crowds.append((number, entry))
            else:
                self.skipped[nobody] += 1
                if nobody == CROWD and (region := _rectangle(entry.bbox)) is not None:
                    self.regions.setdefault(number, []).append(region)
                    self.crowded += 1
        joints = file.joints(entries, self.skeleton)
        if is_coco:
            joints[joints[..., 2] <= 0] = 0
            file.joints([crowd for _, crowd in self.crowds if crowd.keypoints], self.skeleton)  # they are right, too
        unlabelled = {number for number, image in enumerate(file.images) if not image.is_labeled}
        unlabelled -= {number for number, labelled in zip(numbers, _present(joints), strict=True) if labelled.any()}
        kept = [index for index, number in enumerate(numbers) if number not in unlabelled]
        self.people = [entries[index] for index in kept]
        self.numbers = [numbers[index] for index in kept]
        self.joints = joints[kept]
        of_images = [image.difficulty or frozenset() for image in file.images]
        own = [annotation.difficulty for annotation in self.people]
        self.labels = [of_images[n] if mine is None else mine for n, mine in zip(self.numbers, own, strict=True)]
        annotated = set(self.numbers)
        self.images: list[TruthImage] = []
        for number, (identifier, image) in enumerate(zip(ids, file.images, strict=True)):
            if polygons := image.ignore_regions:
                self.regions.setdefault(number, []).extend(polygons)
            still = (image.num_frames or (1 if is_coco else None)) == 1
            self.images.append(TruthImage(identifier, image.file_name, path, number in annotated or is_coco, still))


class _PredictionFile:
    """One file of predictions.

    Attributes:
        frames: int64 ``[P]``, of the poses whose image the ground truth has.
        keypoints: ``[P, J, 3]``.
        scores: ``[P, J]``.
        pose_scores, tracks: ``[P]``, see `PredictedPoses`.
        known: frames of the images in the file, with poses or without.
        listed: names of all images in the file.
        extra: names of images with poses that the ground truth does not have.
        unscored: poses without any score.
        num_poses: all poses in the file, whatever image they are in.
        skipped: number of entries that are nobody, by reason.
    """

    def __init__(self, path: Path, truth: Truth) -> None:
        self.path = path
        if path.suffix == ".jsonl":
            raise InputError(
                f"predictions file '{path}' is JSON lines: run sdtc-infer again with `format='posetrack'` instead"
            )
        file = read_annotation_file(path, "predictions", or_list=True)
        file.expect_poses()
        skeleton = truth.people.skeleton
        if file.skeleton not in (None, skeleton):
            raise InputError(
                f"{file.where} has the joints of the skeleton '{file.skeleton.name}', the ground truth those of "
                f"'{skeleton.name}': expected the same"
            )
        if file.is_list:
            entry_ids = [entry.image_id for entry in file.annotations]
            number_of = {identifier: number for number, identifier in enumerate(dict.fromkeys(entry_ids))}
            numbers = [number_of[identifier] for identifier in entry_ids]
            self.listed = [f"id {identifier}" for identifier in number_of]
            image_frames = [truth.find(identifier) for identifier in number_of]
        else:
            file.unique_ids()
            numbers = file.image_numbers()
            self.listed = [f"'{image.file_name}' (id {image.id})" for image in file.images]
            image_frames = [truth.find(image.id, image.file_name) for image in file.images]
        why = [entry.why_nobody for entry in file.annotations]
        self.skipped = Counter(filter(None, why))
        entries = [entry for entry, nobody in zip(file.annotations, why, strict=True) if not nobody]
        numbers = [number for number, nobody in zip(numbers, why, strict=True) if not nobody]
        self.num_poses = len(entries)
        frames = [image_frames[number] for number in numbers]
        found = [frame for frame in image_frames if frame is not None]
        if len(set(found)) < len(found):
            twice = truth.images[Counter(found).most_common(1)[0][0]].file_name
            raise InputError(
                f"{file.where} has two images that are image '{twice}' of the ground truth, by id or by name"
            )
        keypoints = file.joints(entries, skeleton)
        # In a list, third numbers that are all 0, 1 or 2 are flags; others are scores.
        in_keypoints = file.is_list and not np.isin(keypoints[..., 2], (0, 1, 2)).all()
        scores = keypoints[..., 2] if in_keypoints else _scores(file, entries, skeleton)
        whole = [entry.score for entry in entries]
        means = scores.mean(axis=1)
        pose_scores = np.array([m if w is None else w for w, m in zip(whole, means, strict=True)], np.float64)
        kept = [index for index, frame in enumerate(frames) if frame is not None]
        self.frames = np.array([frames[index] for index in kept], np.int64)
        self.keypoints, self.scores, self.pose_scores = keypoints[kept], scores[kept], pose_scores[kept]
        self.tracks = np.array([_track_id(entries[index]) for index in kept], np.int64)
        self.known = set(found)
        self.extra = [self.listed[number] for number in dict.fromkeys(numbers) if image_frames[number] is None]
        self.unscored = int((self.scores == MISSING_SCORE).all(axis=1).sum())


def _scores(file: AnnotationFile, entries: Sequence[AnnotationRecord], skeleton: Skeleton) -> np.ndarray:
    """Return the joint scores of some entries ``[N, J]``, from their `scores` or their `score`."""
    names = file.joint_names(skeleton)
    count = len(names)
    rows = []
    for entry in entries:
        scores = entry.scores(count)
        if scores is None:
            score = entry.score
            scores = [MISSING_SCORE if score is None else score] * count
        rows.append(scores)
    return np.array(rows, np.float64).reshape(-1, count)[:, [names.index(joint) for joint in skeleton.keypoints]]


def _track_id(entry: AnnotationRecord) -> int:
    found = None if entry.fields.get("track_id") == NO_TRACK else entry.track_id
    return NO_TRACK if found is None else found


def _rectangle(box: Sequence[float] | None) -> np.ndarray | None:
    """Return the corners of a box ``[4, 2]``; None if it has no area."""
    if box is None or min(box[2:]) < MIN_SIDE:
        return None
    x, y, width, height = box
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float64)


def _boxes(boxes: list[list[float]]) -> np.ndarray:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _present(keypoints: np.ndarray) -> np.ndarray:
    """Return which keypoints ``[..., 3]`` are present, labelled or predicted: bool ``[...]``."""
    return (keypoints != 0).any(axis=-1)


def _short(file_name: str) -> str:
    """Return the last folder and the file name, which do not depend on where a data set is stored."""
    return "/".join(PurePosixPath(file_name.replace("\\", "/")).parts[-2:])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
