"""Apache Kafka as the stack runs it: what its brokers are told, and what it needs. `make bench KAFKA=1` runs it."""

from pathlib import Path

import pytest

from stack.kafka import Kafka, Node, fetch, settings
from stack.processes import DidNotStart
from stack.running import kafka_asked

ONE = Node(1, Path("one"), 20_001, 20_101)
THREE = [ONE, Node(2, Path("two"), 20_002, 20_102), Node(3, Path("three"), 20_003, 20_103)]
REPLICATED = ("default.replication.factor", "offsets.topic.replication.factor")


def test_of_three_brokers_two_must_have_a_record_and_one_alone_suffices() -> None:
    alone = settings(ONE, [ONE])
    together = [settings(node, THREE) for node in THREE]

    assert {alone[name] for name in REPLICATED} == {"1"}
    assert alone["min.insync.replicas"] == "1"
    assert {told[name] for told in together for name in REPLICATED} == {"3"}
    assert {told["min.insync.replicas"] for told in together} == {"2"}


def test_the_brokers_know_each_other_and_share_nothing_else() -> None:
    together = [settings(node, THREE) for node in THREE]

    assert {told["controller.quorum.voters"] for told in together} == {
        "1@127.0.0.1:20101,2@127.0.0.1:20102,3@127.0.0.1:20103"
    }
    for name in ("node.id", "listeners", "advertised.listeners", "log.dirs"):
        assert len({told[name] for told in together}) == 3, name


def test_nobody_outside_this_machine_is_listened_to_and_no_topic_appears_by_itself() -> None:
    for told in (settings(node, THREE) for node in THREE):
        addresses = told["listeners"].split(",") + told["advertised.listeners"].split(",")
        assert all("://127.0.0.1:" in address for address in addresses)
        assert told["auto.create.topics.enable"] == "false"


def test_a_setting_of_the_caller_s_own_goes_before_ours() -> None:
    assert settings(ONE, [ONE], {"min.insync.replicas": "7"})["min.insync.replicas"] == "7"


def test_jars_that_are_there_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libs = tmp_path / "libs"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DidNotStart, match="Maven"):
        fetch(libs)
    libs.mkdir()
    (libs / "kafka_2.13-4.0.0.jar").touch()
    assert fetch(libs) == libs


def test_what_a_maven_that_failed_has_left_is_not_taken_for_the_jars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libs, maven = tmp_path / "libs", tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        '#!/bin/sh\nfor last; do :; done; to=${last#*=}; mkdir -p "$to"; : >"$to/kafka_2.13-4.0.0.jar"; exit 1\n'
    )
    maven.chmod(0o700)
    monkeypatch.setenv("PATH", f"{maven.parent}:/usr/bin:/bin")
    with pytest.raises(DidNotStart, match="could not fetch"):
        fetch(libs)
    assert not libs.exists()
    maven.write_text(maven.read_text().replace("exit 1", "exit 0"))
    assert [jar.name for jar in fetch(libs).iterdir()] == ["kafka_2.13-4.0.0.jar"]


def test_of_brokers_that_are_told_the_same_one_is_formatted_and_the_others_have_ids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java, runs = tmp_path / "bin" / "java", tmp_path / "runs"
    java.parent.mkdir()
    java.write_text(
        f"#!/bin/sh\ncase $* in *StorageTool*) ;; *) exit 1;; esac\necho run >>{runs}\nfor last; do :; done\n"
        "to=$(dirname $last)/data; mkdir -p $to\n"
        "echo features >$to/bootstrap.checkpoint; echo theirs >$to/meta.properties\n"
    )
    java.chmod(0o700)
    monkeypatch.setenv("PATH", f"{java.parent}:/usr/bin:/bin")

    def formatted(name: str, **more: str) -> list[str]:
        """What each of its three folders is called."""
        with pytest.raises(DidNotStart, match="broker"):
            Kafka(tmp_path / name, tmp_path / "libs", 3, more=more).start()
        folders = [tmp_path / name / f"broker-{n}" / "data" for n in (1, 2, 3)]
        assert {(folder / "bootstrap.checkpoint").read_text() for folder in folders} == {"features\n"}
        return [(folder / "meta.properties").read_text() for folder in folders]

    first, second = formatted("first"), formatted("second")
    assert runs.read_text() == "run\n"
    assert formatted("first") == first, "what is there was written over"
    assert first[0] == "theirs\n"
    ours = [dict(line.split("=", 1) for line in told.splitlines()) for told in (*first[1:], *second)]
    assert [told["node.id"] for told in ours] == ["2", "3", "1", "2", "3"]
    clusters = [(tmp_path / name / "cluster-id").read_text() for name in ("first", "second")]
    assert [told["cluster.id"] for told in ours] == [clusters[0]] * 2 + [clusters[1]] * 3
    assert len({told["directory.id"] for told in ours}) == 5

    formatted("third", **{"min.insync.replicas": "1"})
    assert runs.read_text() == "run\nrun\n", "what is told otherwise is formatted otherwise"


@pytest.mark.parametrize("asked", [{}, {"KAFKA": ""}, {"KAFKA": "0"}, {"KAFKA": "1"}, {"KAFKA": "3"}])
def test_kafka_is_asked_for_by_the_number_of_its_brokers(asked: dict[str, str]) -> None:
    assert kafka_asked(asked) == int(asked.get("KAFKA") or 0)


@pytest.mark.parametrize("asked", ["2", "yes", "-1"])
def test_a_number_of_brokers_that_is_none_of_ours_is_refused(asked: str) -> None:
    with pytest.raises(DidNotStart, match="KAFKA is 1 or 3"):
        kafka_asked({"KAFKA": asked})


@pytest.mark.parametrize("brokers", [1, 3])
def test_without_java_it_says_what_is_missing_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brokers: int
) -> None:
    monkeypatch.setenv("PATH", "")
    kafka = Kafka(tmp_path / "kafka", tmp_path, brokers)
    with pytest.raises(DidNotStart, match="Java 17"):
        kafka.start()
    assert kafka.died() is None
    assert len(set(kafka.bootstrap.split(","))) == brokers
