"""A stored selection that says nothing, or two things, selects nobody by mistake: reading it fails."""

import msgspec
import pytest

from campaign.audience.selection import SegmentVersionId, Selection


@pytest.mark.parametrize(
    ("stored", "selection"),
    [
        ('{"all":true}', Selection(all=True)),
        ('{"where":{"city":["Nîmes"]}}', Selection(where={"city": ["Nîmes"]})),
        (
            '{"segment":{"segment_id":"seg-1","version":2}}',
            Selection(segment=SegmentVersionId("seg-1", 2)),
        ),
    ],
)
def test_a_selection_is_stored_as_its_one_field(stored: str, selection: Selection) -> None:
    assert msgspec.json.encode(selection).decode() == stored
    assert msgspec.json.decode(stored, type=Selection) == selection


@pytest.mark.parametrize(
    "stored", ["{}", '{"all":false}', '{"all":true,"where":{"city":["Nîmes"]}}', '{"everyone":true}', '{"where":null}']
)
def test_a_selection_of_no_field_or_of_two_is_not_read_as_everybody(stored: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(stored, type=Selection)
