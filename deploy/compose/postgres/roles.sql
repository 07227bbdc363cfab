-- Run once, when the volume is new: four roles, four databases, and each role connects to its own alone. Each password is the
-- one in the address that the service is told, a mounted secret.
\set ON_ERROR_STOP on
\set consent `cat /run/secrets/consent_database_url`
\set inbound `cat /run/secrets/inbound_database_url`
\set campaign `cat /run/secrets/campaign_database_url`
\set dispatch `cat /run/secrets/dispatch_database_url`

SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', part[1], part[2])
FROM (VALUES (:'consent'), (:'inbound'), (:'campaign'), (:'dispatch')) AS address (url),
     regexp_match(address.url, '^postgresql://([^:]+):([^@]+)@') AS part \gexec

CREATE DATABASE consent OWNER consent;
CREATE DATABASE inbound OWNER inbound;
CREATE DATABASE campaign OWNER campaign;
CREATE DATABASE dispatch OWNER dispatch;

-- PUBLIC may connect to a new database unless told otherwise; an owner still may.
REVOKE ALL ON DATABASE consent, inbound, campaign, dispatch, postgres, template1 FROM PUBLIC;
