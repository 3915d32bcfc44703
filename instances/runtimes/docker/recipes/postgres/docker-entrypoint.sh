#!/bin/bash
# As the registry's image: initialise an empty PGDATA, then run the server. Honours POSTGRES_PASSWORD, POSTGRES_PASSWORD_FILE
# and POSTGRES_INITDB_ARGS. Without a password the superuser can come in through the container's own socket only.
set -euo pipefail

if [ "${1:-postgres}" = postgres ] || [ "${1#-}" != "$1" ]; then
    [ "${1:-}" = postgres ] && shift
    set -- postgres "$@"
else
    exec "$@"
fi

if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres:postgres {} +
    exec gosu postgres "$0" "$@"
fi

# PG_VERSION is moved into place last: killed at any instant before, the next start begins anew.
fresh="$PGDATA/.initdb"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -d "$fresh" ]; then
        echo "An initialisation was interrupted: beginning anew."
        find "$PGDATA" -mindepth 1 -maxdepth 1 \! -name .initdb \! -name lost+found -exec rm -rf {} +
        rm -rf "$fresh"
    elif [ -n "$(find "$PGDATA" -mindepth 1 -maxdepth 1 \! -name lost+found -print -quit)" ]; then
        echo "$PGDATA holds something that is not a PostgreSQL cluster: empty it, or mount another volume." >&2
        exit 1
    fi
    password="${POSTGRES_PASSWORD:-}"
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then password="$(< "$POSTGRES_PASSWORD_FILE")"; fi
    arguments=(--username=postgres --encoding=UTF8 --locale=C.UTF-8 --data-checksums --auth-local=trust
        --auth-host=scram-sha-256 --no-instructions)
    mkdir -m 700 "$fresh"
    # Through a pipe: no file with the password stays, and none is in argv.
    if [ -n "$password" ]; then
        # shellcheck disable=SC2086 # several arguments in one variable, as the registry's image has it
        initdb "${arguments[@]}" ${POSTGRES_INITDB_ARGS:-} --pwfile=<(printf '%s\n' "$password") -D "$fresh"
    else
        # shellcheck disable=SC2086
        initdb "${arguments[@]}" ${POSTGRES_INITDB_ARGS:-} -D "$fresh"
    fi
    echo 'host all all all scram-sha-256' >> "$fresh/pg_hba.conf"
    sync
    find "$fresh" -mindepth 1 -maxdepth 1 \! -name PG_VERSION -exec mv -t "$PGDATA" {} +
    mv "$fresh/PG_VERSION" "$PGDATA/PG_VERSION"
    rmdir "$fresh"
    chmod 700 "$PGDATA"
fi
unset POSTGRES_PASSWORD POSTGRES_PASSWORD_FILE

# Later options win: the caller's own listen_addresses stays possible.
shift
exec postgres -c listen_addresses='*' "$@"
