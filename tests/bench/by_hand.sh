#!/bin/bash
# What a competent admin types to bring a push live without oCore, with a way back: the benches' baseline.
#
#   by_hand.sh install     the first time: the addon is installed in a database that is there
#   by_hand.sh push        what was pushed goes live
#   by_hand.sh code        what was pushed goes live; no module is updated
#   by_hand.sh failing N   what was pushed cannot be updated: the version before is put back
#   by_hand.sh restart     the same version, started again
#   by_hand.sh rollback N  the version, database and filestore that push number N replaced
#   by_hand.sh dump        a database and its filestore are copied for keeping
#   by_hand.sh restore     both become that copy again, which goes
#   by_hand.sh settle      what was written is on the disk
#
# Prints a line "phase seconds-since-the-epoch" at each phase's end. From the environment: FOLDER (holds mirror.git and
# odoo.conf), NAME, BRANCH, MODULE, BASE (Odoo's image), DATABASE, NETWORK, POSTGRES, VOLUME, PORT, LABEL, CERTIFICATES
# (a PEM file that pip trusts; may be empty).
set -euo pipefail

data=$(docker volume inspect --format '{{.Mountpoint}}' "$VOLUME")
run=(--network "$NETWORK" --volume "$VOLUME:/var/lib/odoo" --volume "$FOLDER/odoo.conf:/etc/odoo/odoo.conf:ro"
    --memory 2g --label "$LABEL")

mark() { echo "$1 $EPOCHREALTIME"; }
sql() { docker exec "$POSTGRES" sh -c 'exec /usr/lib/postgresql/*/bin/psql -q -U postgres -c "$1"' sh "$1"; }
pg() { docker exec "$POSTGRES" sh -c 'PATH=$(echo /usr/lib/postgresql/*/bin):$PATH; exec "$@"' sh "$@"; }
layers() { docker image inspect --format '{{.RootFS.Layers}}' "$1"; }
ask() { curl --silent --fail --noproxy '*' --max-time 20 "http://127.0.0.1:$PORT$1"; }

build() {
    git --git-dir "$FOLDER/mirror.git" fetch --quiet origin
    commit=$(git --git-dir "$FOLDER/mirror.git" rev-parse "refs/heads/$BRANCH")
    image="$NAME:$commit"
    context=$(mktemp --directory)
    mkdir "$context/addons"
    git --git-dir "$FOLDER/mirror.git" archive "$commit" "$MODULE" | tar --extract --directory "$context/addons"
    echo "FROM $BASE" > "$context/Dockerfile"
    if git --git-dir "$FOLDER/mirror.git" show "$commit:requirements.txt" > "$context/requirements.txt" 2> /dev/null; then
        mkdir "$context/pip"
        mv "$context/requirements.txt" "$context/pip"
        [ -z "$CERTIFICATES" ] || cp "$CERTIFICATES" "$context/pip/certificates.pem"
        cat >> "$context/Dockerfile" << END
USER root
RUN command -v pip3 > /dev/null || (apt-get update && apt-get install -y --no-install-recommends python3-pip)
COPY pip /opt/pip
RUN ${CERTIFICATES:+PIP_CERT=/opt/pip/certificates.pem} PIP_BREAK_SYSTEM_PACKAGES=1 \\
    pip3 install --no-cache-dir -r /opt/pip/requirements.txt
USER odoo
END
    fi
    echo "COPY addons /opt/ocore/addons" >> "$context/Dockerfile"
    docker build --quiet --tag "$image" "$context" > /dev/null
    rm -r "$context"
}

change() {
    docker run --rm --name "$NAME-update" --label "io.ocore.container=$NAME-update" "${run[@]}" "$image" \
        odoo --config=/etc/odoo/odoo.conf "$@" --stop-after-init --no-http --max-cron-threads=0 2> "$FOLDER/update.log" ||
        { tail --lines 30 "$FOLDER/update.log" >&2; exit 1; }
}

start() {
    docker run --detach --name "$NAME" --label "io.ocore.container=$NAME" "${run[@]}" --restart unless-stopped \
        --publish "127.0.0.1:$PORT:8069" "$1" odoo --config=/etc/odoo/odoo.conf > /dev/null
}

set_aside() {
    docker stop "$NAME" > /dev/null
    docker rename "$NAME" "$NAME-old"
}

wait_until_it_serves() {
    until ask /web/health > /dev/null; do sleep 0.05; done
    until ask /web/login | grep --quiet oe_login_form; do sleep 0.05; done
}

# With its label the database is one that the bench may look into and remove.
own() { sql "COMMENT ON DATABASE \"$1\" IS '$LABEL'"; }

keep() {
    sql "CREATE DATABASE ${DATABASE}_$1 TEMPLATE $DATABASE OWNER $DATABASE"
    mkdir --parents "$data/filestore/$DATABASE"
    cp --archive --link "$data/filestore/$DATABASE" "$data/kept-$1"
}

must_fail() {
    if (change --update "$MODULE" 2> /dev/null); then
        echo "The update was to fail." >&2
        exit 1
    fi
}

put_back() {
    sql "DROP DATABASE $DATABASE WITH (FORCE)"
    sql "ALTER DATABASE ${DATABASE}_$1 RENAME TO $DATABASE"
    own "$DATABASE"
    rm --recursive --force "$data/filestore/$DATABASE"
    mv "$data/kept-$1" "$data/filestore/$DATABASE"
}

# Another script may want these words only.
[ "${BASH_SOURCE[0]}" = "$0" ] || return 0

case "$1" in
install)
    build
    change --init "$MODULE"
    start "$image"
    wait_until_it_serves
    ;;
push)
    running=$(docker inspect --format '{{.Config.Image}}' "$NAME")
    build
    mark build
    if [ "$(layers "$running")" = "$(layers "$image")" ]; then
        wait_until_it_serves
        mark health
        exit
    fi
    set_aside
    docker inspect --format '{{.Config.Image}}' "$NAME-old" > "$FOLDER/replaced-by-$2"
    keep "$2"
    mark snapshot
    change --update "$MODULE"
    start "$image"
    mark deploy
    wait_until_it_serves
    mark health
    docker rm "$NAME-old" > /dev/null
    mark complete
    ;;
code)
    build
    mark build
    set_aside
    start "$image"
    wait_until_it_serves
    mark deploy
    docker rm "$NAME-old" > /dev/null
    ;;
failing)
    build
    mark build
    set_aside
    keep "$2"
    mark snapshot
    must_fail
    mark deploy
    put_back "$2"
    docker rename "$NAME-old" "$NAME"
    docker start "$NAME" > /dev/null
    wait_until_it_serves
    mark rollback
    ;;
restart)
    docker restart "$NAME" > /dev/null
    wait_until_it_serves
    mark restart
    ;;
rollback)
    set_aside
    sql "ALTER DATABASE $DATABASE RENAME TO ${DATABASE}_before_$3"
    sql "CREATE DATABASE $DATABASE TEMPLATE ${DATABASE}_$2 OWNER $DATABASE"
    mv "$data/filestore/$DATABASE" "$data/before-$3"
    cp --archive --link "$data/kept-$2" "$data/filestore/$DATABASE"
    mark snapshot
    start "$(cat "$FOLDER/replaced-by-$2")"
    mark deploy
    wait_until_it_serves
    mark health
    docker rm "$NAME-old" > /dev/null
    mark complete
    ;;
dump)
    pg pg_dump --format custom --file /tmp/kept.dump "$DATABASE"
    cp --archive "$data/filestore/$DATABASE" "$data/kept"
    mark dump
    ;;
restore)
    pg dropdb "$DATABASE"
    pg createdb --owner "$DATABASE" --template template0 --encoding UTF8 --lc-collate C "$DATABASE"
    pg pg_restore --jobs 2 --exit-on-error --dbname "$DATABASE" /tmp/kept.dump
    rm --recursive "$data/filestore/$DATABASE"
    cp --archive "$data/kept" "$data/filestore/$DATABASE"
    mark restore
    # Not counted.
    own "$DATABASE"
    pg rm /tmp/kept.dump
    rm --recursive "$data/kept"
    ;;
settle)
    sql CHECKPOINT
    sync
    ;;
esac
