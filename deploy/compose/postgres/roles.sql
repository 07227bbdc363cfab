-- Run once, when the volume is new: four roles, four databases, and each role connects to its own alone.
-- Development passwords, known to everybody: see docker-compose.yml.
\set ON_ERROR_STOP on

CREATE ROLE consent LOGIN PASSWORD 'development-consent';
CREATE ROLE inbound LOGIN PASSWORD 'development-inbound';
CREATE ROLE campaign LOGIN PASSWORD 'development-campaign';
CREATE ROLE dispatch LOGIN PASSWORD 'development-dispatch';

CREATE DATABASE consent OWNER consent;
CREATE DATABASE inbound OWNER inbound;
CREATE DATABASE campaign OWNER campaign;
CREATE DATABASE dispatch OWNER dispatch;

-- PUBLIC may connect to a new database unless told otherwise; an owner still may.
REVOKE ALL ON DATABASE consent, inbound, campaign, dispatch, postgres, template1 FROM PUBLIC;
