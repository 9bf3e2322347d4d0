-- Who may enter ScaiKey's database. Run as a superuser in that database, which scaikey_owner owns; safe to run again.

DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO scaikey_app, scaikey_platform', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO scaikey_app, scaikey_platform;
-- The owner of a function needs CREATE where the function lives.
GRANT CREATE ON SCHEMA public TO scaikey_platform;
