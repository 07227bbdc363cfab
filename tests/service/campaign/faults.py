"""A campaign whose next step fails, whatever the planner does: the database refuses what every such step writes. What
a person does over the API, and what dispatch reports, is written as ever."""

from campaign.planning.planner import Planner
from tests.service.campaign.campaigns import Campaigns

# the columns that a step writes and nobody else
_REFUSED = """
    CREATE TABLE broken (campaign_id text PRIMARY KEY);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM broken WHERE campaign_id = NEW.campaign_id) THEN
            RAISE EXCEPTION 'this campaign is broken';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse_planning BEFORE UPDATE OF cursor, missed ON campaign
        FOR EACH ROW EXECUTE FUNCTION refuse();
    CREATE TRIGGER refuse_finishing BEFORE UPDATE OF status ON campaign
        FOR EACH ROW WHEN (NEW.status = 'finished') EXECUTE FUNCTION refuse();
    CREATE TRIGGER refuse_freezing BEFORE UPDATE OF audience ON campaign_accounts
        FOR EACH ROW EXECUTE FUNCTION refuse();
    GRANT SELECT ON broken TO PUBLIC;
"""


async def install(campaigns: Campaigns) -> None:
    """Make the database refuse what is broken; nothing is yet."""
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(_REFUSED)


async def break_(campaigns: Campaigns, campaign_id: str) -> None:
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("INSERT INTO broken VALUES ($1) ON CONFLICT DO NOTHING", campaign_id)


async def mend(campaigns: Campaigns) -> None:
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("DELETE FROM broken")


async def rounds(planner: Planner, most: int) -> int:
    """Let every step of the planner look for work until none has any, `most` times at most; how often."""
    for done in range(most):
        steps = [planner.start_due, planner.expand, planner.deny_unrequested, planner.repeat_requests]
        steps.append(planner.finish_done)
        if not any([await step() for step in steps]):
            return done
    return most
