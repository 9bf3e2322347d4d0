-- The three roles ScaiKey needs. Run as a superuser in any database of the cluster; safe to run again.
-- Give each role its password afterwards, for example with \password in psql.

DO $$ BEGIN CREATE ROLE scaikey_owner; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE scaikey_app; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE scaikey_platform; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

-- Migrations: owns the database and its tables.
ALTER ROLE scaikey_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
-- Requests and jobs: owns nothing and sees only the tenant its transaction names.
ALTER ROLE scaikey_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
-- Work that spans tenants.
ALTER ROLE scaikey_platform LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS;

-- A migration may hand a SECURITY DEFINER function over to the platform role, and inherits nothing from it.
GRANT scaikey_platform TO scaikey_owner WITH ADMIN FALSE, INHERIT FALSE, SET TRUE;
