"""Synsets, paths and words of WordNet against NLTK's own, and where it is found; test_clusters.py looks up more."""

import os
import shutil
import zipfile
from pathlib import Path

import nltk
import pytest
from nltk.corpus import wordnet

from mofe.errors import MofeError
from mofe.partitioning.wordnet import (
    chosen_senses,
    ensure_wordnet,
    name_in_words,
    path_from_root,
    resolve_synsets,
    similarity,
    synset,
    words,
)


@pytest.mark.parametrize(
    ("class_name", "given", "expected"),
    [
        ("n02099601", "n02099601", "golden retriever"),
        ("retriever", "golden_retriever.n.01", "golden retriever"),
        ("golden_retriever", None, "golden retriever"),
        ("7", None, "7"),
    ],
)
def test_a_class_is_called_by_its_synset_or_its_name_in_words(
    class_name: str, given: str | None, expected: str
) -> None:
    assert name_in_words(class_name, given) == expected


def test_nouns_and_adjectives() -> None:
    nouns, adjectives = words("n"), words("a")
    assert (len(nouns), len(adjectives)) == (117_798, 21_479), "of WordNet 3.0"
    assert nouns == sorted(set(nouns))
    assert {"golden retriever", "happiness"} <= set(nouns)
    assert {"happy", "well-lighted"} <= set(adjectives)


def test_the_path_is_the_shortest_from_the_root() -> None:
    """A dog is a domestic animal by nine synsets, and a canine by fourteen."""
    short = "entity physical_entity object whole living_thing organism animal domestic_animal dog"
    assert [name.split(".")[0] for name in path_from_root("dog.n.01")] == short.split()
    assert path_from_root("entity.n.01") == ["entity.n.01"]


def test_of_paths_of_one_length_the_first_by_name_is_taken() -> None:
    for name in ("ablution.n.01", "therapeutic_cloning.n.01", "whisky.n.01"):
        paths = [[s.name() for s in path] for path in wordnet.synset(name).hypernym_paths()]
        least = min(map(len, paths))
        assert sum(len(path) == least for path in paths) > 1
        assert path_from_root(name) == sorted(path for path in paths if len(path) == least)[0]


@pytest.mark.parametrize("pair", [("dog", "cat"), ("dog", "teapot"), ("hen", "hen"), ("truck", "sports_car")])
def test_similarity_is_twice_the_depth_of_the_common_hypernym_over_the_sum_of_depths(pair: tuple[str, str]) -> None:
    a, b = (f"{name}.n.01" for name in pair)
    assert similarity(a, b) == wordnet.synset(a).wup_similarity(wordnet.synset(b))
    if pair == ("dog", "cat"):
        assert similarity(a, b) == pytest.approx(2 * 12 / (14 + 14)), "printed in NLTK's documentation as 0.857"


@pytest.mark.parametrize("name", ["run.v.01", "n1234567", "xqz.n.01", "dog.n.99", "n02084071x"])
def test_what_is_not_a_noun_synset_is_refused(name: str) -> None:
    with pytest.raises(MofeError, match=f"WordNet has no noun synset '{name}'"):
        synset(name)


def test_spaces_capitals_and_hyphens_do_not_matter_and_the_first_sense_counts() -> None:
    assert resolve_synsets(["  Golden  Retriever ", "four-poster", "GOLDFISH", " n02099601 "], [None] * 4) == [
        "golden_retriever.n.01", "four-poster.n.01", "goldfish.n.01", "golden_retriever.n.01",
    ]  # fmt: skip
    assert resolve_synsets(["crane"], [None]) == [wordnet.synsets("crane", "n")[0].name()]


def test_of_several_nouns_the_sense_that_most_of_them_share_is_meant() -> None:
    """Not the first sense of "crane", the writer Stephen Crane."""
    assert resolve_synsets(["crane, Hart Crane"], [None]) == [wordnet.synsets("Hart_Crane", "n")[0].name()]
    assert wordnet.synsets("crane", "n")[0] != wordnet.synsets("Hart_Crane", "n")[0]


@pytest.mark.parametrize("name", ["beautiful", "xqz, xqy"])
def test_what_is_only_an_adjective_or_no_word_at_all_is_no_noun(name: str) -> None:
    with pytest.raises(MofeError, match=f"'{name}': it is not a WordNet noun"):
        resolve_synsets([name], [None])


@pytest.mark.parametrize("name", ["0", "10", "1.5", "A", "x", "7, B"])
def test_numbers_and_single_letters_are_no_nouns(name: str) -> None:
    """WordNet has the numerals and the letters, but a class of that name shows anything."""
    with pytest.raises(MofeError, match=f"{name!r}: it is a number or a letter"):
        resolve_synsets([name], [None])
    assert resolve_synsets([name], ["one.n.01"]) == ["one.n.01"], "as long as nobody says which synset it is"


def test_a_sense_that_was_chosen_is_told_and_one_that_was_given_is_not() -> None:
    classes, given = ["crane", "n02099601", "dog.n.01", "seal", "goldfish"], [None, None, None, "seal.n.09", None]
    told = chosen_senses(classes, given, resolve_synsets(classes, given))
    crane = wordnet.synsets("crane", "n")
    assert [(s.label, s.definition, s.senses) for s in told] == [
        (0, crane[0].definition(), len(crane)),
        (4, wordnet.synset("goldfish.n.01").definition(), 1),
    ]


@pytest.mark.parametrize(
    "pattern", ["golden retreiver {}", "xqz {}, blue thing {}", "n9{:07d}", "xqz{}.n.01", "xqz {}", "{}"]
)
def test_similar_nouns_are_searched_only_for_the_names_that_are_shown(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes 1/40 s, so that of each of 10 000 names would take minutes."""
    searched = []
    monkeypatch.setattr("mofe.partitioning.wordnet._nearest_nouns", lambda noun: searched.append(noun) or [])
    names = [pattern.format(number, number) for number in range(20_000, 30_000)]
    with pytest.raises(MofeError, match="10000 of 10000 classes have no synset"):
        resolve_synsets(names, [None] * len(names))
    assert len(searched) <= 5


def test_each_unknown_name_that_is_shown_has_its_nearest_nouns() -> None:
    typos = ["retreiver", "sportscar", "goldfsh", "teapott", "elefant", "tigerr"]
    with pytest.raises(MofeError) as refused:
        resolve_synsets(typos, [None] * len(typos))
    for typo, noun in zip(typos, ("retriever", "sports_car", "goldfish", "teapot", "elephant", "tiger"), strict=True):
        _, found, hint = str(refused.value).partition(f"{typo!r}: it is not a WordNet noun (the nearest nouns are ")
        assert (noun in hint.partition(")")[0].split(", ")) if typo != "tigerr" else not found, "only five are shown"


# lexnames(5WN): the lexicographer files by number, and the category of each
LEXNAMES = """
00 adj.all 3, 01 adj.pert 3, 02 adv.all 4, 03 noun.Tops 1, 04 noun.act 1, 05 noun.animal 1, 06 noun.artifact 1,
07 noun.attribute 1, 08 noun.body 1, 09 noun.cognition 1, 10 noun.communication 1, 11 noun.event 1, 12 noun.feeling 1,
13 noun.food 1, 14 noun.group 1, 15 noun.location 1, 16 noun.motive 1, 17 noun.object 1, 18 noun.person 1,
19 noun.phenomenon 1, 20 noun.plant 1, 21 noun.possession 1, 22 noun.process 1, 23 noun.quantity 1, 24 noun.relation 1,
25 noun.shape 1, 26 noun.state 1, 27 noun.substance 1, 28 noun.time 1, 29 verb.body 2, 30 verb.change 2,
31 verb.cognition 2, 32 verb.communication 2, 33 verb.competition 2, 34 verb.consumption 2, 35 verb.contact 2,
36 verb.creation 2, 37 verb.emotion 2, 38 verb.motion 2, 39 verb.perception 2, 40 verb.possession 2, 41 verb.social 2,
42 verb.stative 2, 43 verb.weather 2, 44 adj.ppl 3
"""


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without WordNet, whose cache is in the folder; Debian's package would lie in ``debian`` in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("nltk.data.path", [])
    monkeypatch.setattr("mofe.partitioning.wordnet.DEBIAN", tmp_path / "debian")
    return tmp_path


def debian_package(folder: Path) -> dict[str, bytes]:
    files = {name: f"{name} of a test".encode() for name in ("data.noun", "index.noun", "index.sense", "noun.exc")}
    (folder / "debian" / "bin").mkdir(parents=True)
    for name, content in files.items():
        (folder / "debian" / name).write_bytes(content)
    return files


def test_debians_wordnet_is_copied_with_the_table_that_it_lacks(nowhere: Path) -> None:
    files = debian_package(nowhere)
    target = nowhere / "cache" / "mofe" / "nltk_data" / "corpora" / "wordnet"
    assert ensure_wordnet(download=False) == target
    found = {file.name: file.read_bytes() for file in target.iterdir()}
    lexnames = [row.split("\t") for row in found.pop("lexnames").decode().splitlines()]
    assert lexnames == [row.split() for row in LEXNAMES.split(",")]
    assert found == files
    assert [place.name for place in target.parent.iterdir()] == ["wordnet"]
    shutil.rmtree(nowhere / "debian")
    assert ensure_wordnet(download=False) == target, "it is copied once"
    assert nltk.data.path == [str(target.parents[1])], "NLTK is told once"


def test_of_two_that_copy_at_once_the_second_leaves_the_firsts_copy(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_package(nowhere)
    target = nowhere / "cache" / "mofe" / "nltk_data" / "corpora" / "wordnet"
    rename = Path.rename

    def second(partial: Path, place: Path) -> Path:
        place.mkdir()
        (place / "first").touch()
        return rename(partial, place)

    monkeypatch.setattr(Path, "rename", second)
    assert ensure_wordnet(download=False) == target
    assert [place.name for place in target.iterdir()] == ["first"]
    assert [place.name for place in target.parent.iterdir()] == ["wordnet"]


def test_what_a_copy_that_was_cut_off_left_is_written_over(nowhere: Path) -> None:
    debian_package(nowhere)
    corpora = nowhere / "cache" / "mofe" / "nltk_data" / "corpora"
    (corpora / f".wordnet.partial-{os.getpid()}").mkdir(parents=True)
    (corpora / f".wordnet.partial-{os.getpid()}" / "torn").touch()
    assert "torn" not in {file.name for file in ensure_wordnet(download=False).iterdir()}


@pytest.mark.parametrize("lacking", ["data.noun", "index.noun", "index.sense"])
def test_half_of_debians_packages_is_not_wordnet(nowhere: Path, lacking: str) -> None:
    debian_package(nowhere)
    (nowhere / "debian" / lacking).unlink()
    with pytest.raises(MofeError, match="WordNet is not on this machine: run `mofe data wordnet`"):
        ensure_wordnet(download=False)


@pytest.mark.parametrize("download", [None, True, False])
def test_it_is_downloaded_where_that_is_allowed(
    nowhere: Path, download: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def fetch(what: str, **more: object) -> bool:
        asked.append((what, more))
        place = Path(str(more["download_dir"])) / "corpora"
        place.mkdir(parents=True)
        with zipfile.ZipFile(place / "wordnet.zip", "w") as archive:
            archive.writestr("wordnet/lexnames", "")
        return True

    monkeypatch.setattr("nltk.download", fetch)
    if download is False:
        with pytest.raises(MofeError, match="WordNet is not on this machine"):
            ensure_wordnet(download=False)
        assert asked == []
        return
    place = nowhere / "cache" / "mofe" / "nltk_data"
    found = ensure_wordnet() if download is None else ensure_wordnet(download)
    assert found == place / "corpora" / "wordnet.zip"
    # where there is no network it is this library that says so
    assert asked == [("wordnet", {"download_dir": str(place), "quiet": True, "raise_on_error": False})]


def test_without_a_cache_of_its_own_it_lies_in_the_home_folder(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian_package(nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(nowhere / "home"))
    expected = nowhere / "home" / ".cache" / "mofe" / "nltk_data" / "corpora" / "wordnet"
    assert ensure_wordnet(download=False) == expected


def test_the_shortest_nouns_have_two_letters() -> None:
    assert resolve_synsets(["ox"], [None]) == ["ox.n.01"]


def test_a_word_like_no_noun_is_refused_without_a_hint() -> None:
    with pytest.raises(MofeError, match=r"'qqqqqqqqqqqq': it is not a WordNet noun\. Name their synsets"):
        resolve_synsets(["qqqqqqqqqqqq"], [None])


def test_at_most_three_similar_nouns_are_offered() -> None:
    with pytest.raises(MofeError, match=r"\(the nearest nouns are ([\w-]+, ){2}[\w-]+\)"):
        resolve_synsets(["catt"], [None])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("dog", [None]), "classes must be a list of texts"),
        ((["dog"], "dog"), "synsets must be a list of texts"),
        ((["dog", "cat"], [None]), "as many classes as synsets, not 2 classes, 1 synsets"),
    ],
)
def test_an_argument_of_another_kind_is_named(given: tuple[list[str], list[str | None]], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        resolve_synsets(*given)
