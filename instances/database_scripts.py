"""What `database` says to PostgreSQL: constant psql scripts, one for each verb, so that each verb is one call.

Names come as psql variables and psql quotes them (`:"name"`, `:'name'`); secrets and SQL come through the environment
(`\\getenv`). A script that refuses says so in its first line, a verdict, and changes nothing.

A database is ours when its comment is our label. One without any comment whose owner is a role of ours is a copy that
was interrupted: `CREATE DATABASE` sets the owner at once (it is atomic), the comment comes last, in one transaction
with everything else that makes the database complete. Such a half-made one is never used, only dropped.
"""

RUN_PSQL = """
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
exec 3>&1
set -- --no-psqlrc --no-password --quiet --csv --tuples-only --set=ON_ERROR_STOP=1 "$@"
said=$(printf '%s' "$OCORE_SCRIPT" | psql "$@" 2>&1 >&3) || {
  code=$?
  printf '%s\\n' "$said"
  exit "$code"
}
"""
"""Debian's `psql` in PATH is a slow wrapper: the version's own comes first. Notices stay out of the rows."""

RUN_DUMP = """
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
case "$(pg_dump -Fc -Z zstd:1 -h /nowhere --no-password nothing 2>&1)" in
  */nowhere*) set -- -Z zstd:1 "$@" ;;
  *) set -- -Z 1 "$@" ;;
esac
exec pg_dump -Fc --no-password --lock-wait-timeout=60s "$@"
"""
"""A version without zstd refuses the option before it looks for the server; one with it misses /nowhere."""

_BEGIN = "SET search_path = pg_catalog;\n"


def _look_up(database: str) -> str:
    """psql variables `<database>_missing`, `_ours`, `_half` and `_foreign`: exactly one is true."""
    return f"""
SELECT state = 'missing' AS {database}_missing, state = 'ours' AS {database}_ours, state = 'half' AS {database}_half,
       state = 'foreign' AS {database}_foreign
FROM (SELECT coalesce(
  (SELECT CASE WHEN shobj_description(oid, 'pg_database') = :'label' THEN 'ours'
               WHEN shobj_description(oid, 'pg_database') IS NULL
                    AND shobj_description(datdba, 'pg_authid') = :'label' THEN 'half'
               ELSE 'foreign' END
   FROM pg_database WHERE datname = :'{database}'), 'missing') AS state) AS found \\gset
"""  # noqa: S608 - a constant: psql puts the values in


def _unless(condition: str, verdict: str) -> str:
    return f"\\if :{condition}\n\\else\n\\echo {verdict}\n\\quit\n\\endif\n"


def _when(condition: str, verdict: str) -> str:
    return f"\\if :{condition}\n\\echo {verdict}\n\\quit\n\\endif\n"


_ATTEMPTS = 4


def _alone(statement: str) -> str:
    """Put out who is connected to `source`, then the statement, which needs nobody there. It takes a lock on the
    database at once, behind which new sessions wait, and gives the old ones 5 seconds to go; who slips in between
    (milliseconds) makes it fail with 55006, and it is tried again."""
    attempt = f"""
\\if :pending
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
WHERE datname = :'source' AND pid <> pg_backend_pid() \\gset
\\set ON_ERROR_STOP off
{statement}
\\set pending :ERROR
\\set code :SQLSTATE
\\set said :LAST_ERROR_MESSAGE
\\set ON_ERROR_STOP on
\\if :pending
SELECT :'code' <> '55006' AS refused \\gset
\\if :refused
\\echo refused
\\echo :said
\\quit
\\endif
\\endif
\\endif
"""  # noqa: S608
    return "\\set pending true\n" + attempt * _ATTEMPTS + _when("pending", "busy")


_COPY = f"""
{_look_up("source")}
{_look_up("target")}
{_when("source_missing", "missing")}
{_when("source_half", "half")}
{_unless("source_ours", "foreign")}
{_when("target_foreign", "taken")}
"""
_STRATEGY = """
SELECT CASE WHEN :SERVER_VERSION_NUM < 150000 THEN ''
            WHEN pg_database_size(:'source') >= :big OR current_setting('file_copy_method', true) = 'clone'
            THEN 'STRATEGY FILE_COPY' ELSE 'STRATEGY WAL_LOG' END AS strategy \\gset
\\if :target_missing
\\else
DROP DATABASE :"target" WITH (FORCE);
\\endif
"""

CLONE = f"""{_BEGIN}{_COPY}{_STRATEGY}
SELECT pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname = :'source' \\gset
{_alone('CREATE DATABASE :"target" TEMPLATE :"source" OWNER :"owner" :strategy ALLOW_CONNECTIONS false;')}
BEGIN;
REVOKE ALL ON DATABASE :"target" FROM PUBLIC;
SELECT format('GRANT %s ON DATABASE %I TO %I', granted.privilege_type, :'target', pg_get_userbyid(granted.grantee))
FROM pg_database, aclexplode(datacl) AS granted
WHERE datname = :'source' AND granted.grantee NOT IN (0, datdba) \\gexec
SELECT format('ALTER DATABASE %I SET %I TO %s', :'target', name,
              CASE WHEN name IN ('search_path', 'temp_tablespaces', 'session_preload_libraries',
                                 'local_preload_libraries') THEN value ELSE quote_literal(value) END)
FROM pg_db_role_setting, unnest(setconfig) AS setting,
     LATERAL (SELECT split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)) AS pair (name, value)
WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = :'source') \\gexec
ALTER DATABASE :"target" ALLOW_CONNECTIONS true;
COMMENT ON DATABASE :"target" IS :'label';
COMMIT;
\\echo done
"""  # noqa: S608
"""Grants and settings of the database are not part of its files: they are carried over by name."""

_OWNER = """
SELECT count(*) = 1 AS owner_ours FROM pg_roles
WHERE rolname = :'owner' AND shobj_description(oid, 'pg_authid') = :'label' \\gset
\\if :owner_ours
\\else
\\echo owner
\\quit
\\endif
\\if :target_ours
SELECT pg_get_userbyid(datdba) = :'owner' AS same_owner FROM pg_database WHERE datname = :'target' \\gset
\\if :same_owner
\\echo done
\\else
\\echo other
\\endif
\\quit
\\endif
"""

CREATE = f"""{_BEGIN}{_look_up("target")}{_when("target_foreign", "taken")}{_OWNER}
\\if :target_half
DROP DATABASE :"target" WITH (FORCE);
\\endif
CREATE DATABASE :"target" OWNER :"owner" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C';
BEGIN;
REVOKE ALL ON DATABASE :"target" FROM PUBLIC;
COMMENT ON DATABASE :"target" IS :'label';
COMMIT;
\\echo done
"""
"""Collated by code point, as Odoo creates its own."""

CREATE_FROM_TEMPLATE = f"""{_BEGIN}{_COPY}{_OWNER}{_STRATEGY}
{_alone('CREATE DATABASE :"target" TEMPLATE :"source" OWNER :"owner" :strategy;')}
REVOKE ALL ON DATABASE :"target" FROM PUBLIC;
\\connect :"target"
SET search_path = pg_catalog;
SELECT coalesce(string_agg(format('ALTER DATABASE %I OWNER TO %I;', datname, :'template_owner'), ' '), '') AS give_back
FROM pg_database JOIN pg_roles AS role ON role.oid = datdba
WHERE rolname = :'template_owner' AND rolname <> :'owner' \\gset
BEGIN;
REASSIGN OWNED BY :"template_owner" TO :"owner";
:give_back
COMMENT ON DATABASE :"target" IS :'label';
COMMIT;
\\echo done
"""  # noqa: S608
"""REASSIGN also takes the databases of the role, the template's among them: they go back in the same transaction."""

RENAME = f"""{_BEGIN}{_look_up("source")}{_look_up("target")}
\\if :source_missing
{_when("target_ours", "done")}
\\echo missing
\\quit
\\endif
{_when("source_half", "half")}
{_unless("source_ours", "foreign")}
{_unless("target_missing", "taken")}
{_alone('ALTER DATABASE :"source" RENAME TO :"target";')}
\\echo done
"""

_SWAP = """
SELECT set_config('ocore.names', json_build_array(:'source', :'target', :'aside')::text, false) AS names \\gset
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
WHERE datname = :'target' AND pid <> pg_backend_pid() \\gset
DO $$
DECLARE names json := current_setting('ocore.names')::json;
BEGIN
  IF EXISTS (SELECT FROM pg_database WHERE datname = names->>1) THEN
    EXECUTE format('ALTER DATABASE %I RENAME TO %I', names->>1, names->>2);
  END IF;
  EXECUTE format('ALTER DATABASE %I RENAME TO %I', names->>0, names->>1);
END $$;
"""
_DROP_ASIDE = f"""{_look_up("aside")}
\\if :aside_ours
DROP DATABASE :"aside" WITH (FORCE);
\\endif
"""
PUT_BACK = f"""{_BEGIN}{_look_up("source")}{_look_up("target")}
\\if :source_missing
{_unless("target_ours", "missing")}
\\echo done
\\quit
\\endif
{_when("source_half", "half")}
{_unless("source_ours", "foreign")}
{_when("target_foreign", "taken")}
{_DROP_ASIDE}
{_alone(_SWAP)}
\\echo done
"""
"""Both renames are one transaction: whoever comes late or twice finds that the source is gone, and touches nothing."""

DROP = f"""{_BEGIN}{_look_up("target")}{_when("target_missing", "done")}{_when("target_foreign", "foreign")}
DROP DATABASE :"target" WITH (FORCE);
\\echo done
"""

_ROLE = """
SELECT count(*) = 0 AS role_missing,
       count(*) FILTER (WHERE shobj_description(oid, 'pg_authid') IS DISTINCT FROM :'label') > 0 AS role_foreign
FROM pg_roles WHERE rolname = :'role' \\gset
"""
CREATE_ROLE = f"""{_BEGIN}\\getenv verifier OCORE_SECRET
{_ROLE}{_when("role_foreign", "taken")}
SELECT NOT rolsuper AS grant_needed FROM pg_roles WHERE rolname = current_user \\gset
BEGIN;
\\if :role_missing
CREATE ROLE :"role" NOCREATEDB NOCREATEROLE;
\\endif
ALTER ROLE :"role" LOGIN PASSWORD :'verifier';
COMMENT ON ROLE :"role" IS :'label';
\\if :grant_needed
GRANT :"role" TO CURRENT_USER;
\\endif
COMMIT;
\\echo done
"""  # noqa: S608
"""Who is no superuser must be a member of a role to give it databases."""

DROP_ROLE = f"""{_BEGIN}{_ROLE}{_when("role_missing", "done")}{_when("role_foreign", "foreign")}
DROP ROLE :"role";
\\echo done
"""

EXISTS = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = :'target';\n"
SIZE = "SELECT pg_catalog.pg_database_size(:'target');\n"
LIST = f"""{_BEGIN}
SELECT datname FROM pg_database
WHERE shobj_description(oid, 'pg_database') = :'label'
   OR shobj_description(oid, 'pg_database') IS NULL AND shobj_description(datdba, 'pg_authid') = :'label'
ORDER BY datname COLLATE "C";
"""  # noqa: S608

SIZES = f"""{_BEGIN}
SELECT datname, pg_database_size(oid) FROM pg_database
WHERE shobj_description(oid, 'pg_database') = :'label'
   OR shobj_description(oid, 'pg_database') IS NULL AND shobj_description(datdba, 'pg_authid') = :'label'
ORDER BY datname COLLATE "C";
"""  # noqa: S608

END = """
for process in /proc/[0-9]*; do
  if grep -qs "PGAPPNAME=$1" "$process/environ"; then kill "${process#/proc/}" 2> /dev/null || :; fi
done
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
for attempt in 1 2 3 4 5 6 7 8 9 10; do
  left=$(printf '%s' "$2" | psql --no-psqlrc --no-password -qAt --set=token="$1" --dbname postgres)
  [ "$left" = 0 ] && exit
  sleep 0.5
done
exit 1
"""
"""Ends a program by its PGAPPNAME, and its session: the server works on after its client has gone. First the program,
so that it cannot begin anything any more."""
TERMINATE = (
    "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity "
    "WHERE application_name = :'token';\n"
)

END_WORK = """SET search_path = pg_catalog;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE starts_with(application_name, :'work') AND pid <> pg_backend_pid();
"""

READY = """SET search_path = pg_catalog;
SELECT :SERVER_VERSION_NUM, rolsuper OR rolcreatedb AND rolcreaterole FROM pg_roles WHERE rolname = current_user;
"""
READY_AND_CLOSED = f"REVOKE CONNECT ON DATABASE template1 FROM PUBLIC;\n{READY}"
"""In a cluster of ours. `postgres` stays open to every role: Odoo listens there for its bus and cron notifications."""


def as_owner(parts: int) -> str:
    """SQL that comes in so many pieces, run in a session of the database's owner: whatever the owner has built into
    its tables (rules, triggers, views) runs with no more rights than the owner has.

    `\\gexec` sends the text to the server as it is: nothing in it is psql's."""
    pieces = "".join(f"\\getenv sql{part} OCORE_SQL_{part}\n" for part in range(parts))
    whole = " || ".join(f":'sql{part}'" for part in range(parts))
    return f"""{_BEGIN}{_look_up("target")}{_when("target_missing", "missing")}{_unless("target_ours", "foreign")}
SELECT pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname = :'target' \\gset
{pieces}\\if :peer
\\connect :"target" :"owner"
\\else
\\connect :"target"
SET ROLE :"owner";
\\endif
\\echo done
SELECT {whole} \\gexec
"""  # noqa: S608
