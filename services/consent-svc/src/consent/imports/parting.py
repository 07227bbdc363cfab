"""Part what a piece says by the shard of each person, and put the verdicts of the shards together."""

from collections.abc import Mapping, Sequence

from common.db.shards import Shard, Shards
from common.kafka.broker import partitions_of
from consent.imports.statements import Column, Reasons, Said
from consent.imports.upload import Verdict

Verdicts = dict[int, tuple[Verdict, Reasons]]  # by line


def parted(said: Said, shards: Shards, partitions: int) -> list[tuple[Shard, Said]]:
    """Return what is said of the people of each shard with some, the own shard last. Refused lines are of the own."""
    own = shards.own
    if not shards.divided:
        return [(own, said)]
    people = said.people
    of = partitions_of([subject_id.encode() for subject_id in people], partitions) if people else []
    home = {subject_id: shards.of(partition).name for subject_id, partition in zip(people, of, strict=True)}
    others = [shard for shard in shards.each if shard is not own and shard.name in home.values()]
    refused = {line: each for line, each in said.lines.items() if not isinstance(each, list)}
    theirs = _of(said, home, own.name)
    return [
        *((shard, _of(said, home, shard.name)) for shard in others),
        (own, Said(theirs.columns, {**theirs.lines, **refused})),
    ]


def _of(said: Said, home: Mapping[str, str], shard: str) -> Said:
    """Return what is said of the people of a shard."""
    columns = []
    for column in said.columns:
        chosen = [home[subject_id] == shard for subject_id in column.opt_ins.subjects]
        if any(chosen):
            columns.append(Column(column.read.where(chosen), column.opt_ins.where(chosen)))
    lines = {
        line: some
        for line, each in said.lines.items()
        if isinstance(each, list) and (some := [one for one in each if home[one.subject_id] == shard])
    }
    return Said(columns, lines)


def unsaid(said: Said, kept: Verdicts) -> Said:
    """Return the lines without a verdict, and each opt-out: by now a line may read as another person."""
    columns = []
    for column in said.columns:
        chosen = [line not in kept for line in column.read.starts]
        if any(chosen):
            columns.append(Column(column.read.where(chosen), column.opt_ins.where(chosen)))
    lines = {
        line: each
        for line, each in said.lines.items()
        if line not in kept or (isinstance(each, list) and each[0].evidence.kind == "opt_out")
    }
    return Said(columns, lines)


def together(said: Said, parts: Sequence[tuple[Said, Verdicts]]) -> Verdicts:
    """Return the verdict of each line from those of the shards, as if one had recorded all.

    A line with two readings, of people of two shards, is `created` in either, else as its first reading.
    """
    verdicts: Verdicts = {}
    for part, of_part in parts:
        for line, verdict in of_part.items():
            if line in verdicts and verdict[0] != "created":
                first = said.lines.get(line)
                is_first = (
                    isinstance(first, list) and isinstance(own := part.lines.get(line), list) and own[0] is first[0]
                )
                if verdicts[line][0] == "created" or not is_first:
                    continue
            verdicts[line] = verdict
    return dict(sorted(verdicts.items()))


def written(verdicts: Verdicts) -> bytes:
    """Return the verdicts as CSV."""
    return "".join([f"{line},{verdict},{' '.join(why)}\n" for line, (verdict, why) in verdicts.items()]).encode()


def read(table: bytes) -> Verdicts:
    """Return the verdicts of `written`."""
    rows = (row.split(",") for row in table.decode().splitlines())
    return {int(line): (VERDICTS[verdict], tuple(why.split())) for line, verdict, why in rows}


VERDICTS: Mapping[str, Verdict] = {
    "created": "created",
    "unchanged": "unchanged",
    "outvoted": "outvoted",
    "refused": "refused",
}
