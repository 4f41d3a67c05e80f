"""Numbers of images that the data sets' authors report, to verify a copy."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from examples.arbex.readers.reading import DatasetName


@dataclass(frozen=True)
class PublishedCounts:
    """Numbers of images by part: "train" (with the validation taken from it), "test" or "all".

    Args:
        totals: of each part; "validation" only if that set is official.
        by_class: of each class of a part.
        source: source of the numbers.
    """

    totals: Mapping[str, int]
    source: str
    by_class: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


PUBLISHED: dict[DatasetName, PublishedCounts] = {
    "raf-db": PublishedCounts(
        totals={"train": 12271, "test": 3068},
        source="the authors' list_patition_label.txt",
        by_class={
            "train": {
                "surprise": 1290,
                "fear": 281,
                "disgust": 717,
                "happiness": 4772,
                "sadness": 1982,
                "anger": 705,
                "neutral": 2524,
            },
            "test": {
                "surprise": 329,
                "fear": 74,
                "disgust": 160,
                "happiness": 1185,
                "sadness": 478,
                "anger": 162,
                "neutral": 680,
            },
        },
    ),
    "jaffe": PublishedCounts(totals={"all": 213}, source="Lyons et al., 1998"),
    "ferg-db": PublishedCounts(totals={"all": 55767}, source="Aneja et al., ACCV 2016"),
    "fer-plus": PublishedCounts(
        totals={"train": 25060, "validation": 3199, "test": 3153},
        source="the authors' majority rule, single votes left out, counted in fer2013new.csv",
    ),
}
