-- Run once, when the volume is new: four databases, each with two roles that connect to no other. The owner migrates the schema;
-- the service reads and writes rows, and has no right to change the schema (`migrate` grants). Each password is the one in the
-- address that the migration, or the service, is told, a mounted secret.
\set ON_ERROR_STOP on
\set consent `cat /run/secrets/consent_database_url`
\set consent_owner `cat /run/secrets/consent_owner_url`
\set inbound `cat /run/secrets/inbound_database_url`
\set inbound_owner `cat /run/secrets/inbound_owner_url`
\set campaign `cat /run/secrets/campaign_database_url`
\set campaign_owner `cat /run/secrets/campaign_owner_url`
\set dispatch `cat /run/secrets/dispatch_database_url`
\set dispatch_owner `cat /run/secrets/dispatch_owner_url`

SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', part[1], part[2])
FROM (VALUES (:'consent'), (:'inbound'), (:'campaign'), (:'dispatch'),
             (:'consent_owner'), (:'inbound_owner'), (:'campaign_owner'), (:'dispatch_owner')) AS address (url),
     regexp_match(address.url, '^postgresql://([^:]+):([^@]+)@') AS part \gexec

CREATE DATABASE consent OWNER consent_owner;
CREATE DATABASE inbound OWNER inbound_owner;
CREATE DATABASE campaign OWNER campaign_owner;
CREATE DATABASE dispatch OWNER dispatch_owner;

-- PUBLIC may connect to a new database unless told otherwise; an owner still may.
REVOKE ALL ON DATABASE consent, inbound, campaign, dispatch, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE consent TO consent;
GRANT CONNECT ON DATABASE inbound TO inbound;
GRANT CONNECT ON DATABASE campaign TO campaign;
GRANT CONNECT ON DATABASE dispatch TO dispatch;
