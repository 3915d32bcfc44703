#!/bin/bash
# The choreography typed by hand: an edge of one's own whose door is closed and drained while Odoo changes behind it.
# What by_hand.sh does, with no port published but the edge's, for its longest wait beside oCore's.
#
#   choreography.sh install     the first time: the edge, and the addon in a database that is there
#   choreography.sh code        what was pushed goes live beside the old version; no module is updated
#   choreography.sh push N      what was pushed goes live, with the addon updated
#   choreography.sh failing N   what was pushed cannot be updated: the version before is put back
#   choreography.sh restart     the same version, started again
#
# Besides what by_hand.sh needs: EDGE (a name for container and network), EDGE_IMAGE, BACKEND (Odoo's name at the edge).
source "$(dirname "$0")/by_hand.sh"

# The door is a file that the edge itself serves, asked for ten times a second. What was held comes back as a burst, so
# no more than 16 at once.
edge_configuration() {
    cat << END
{"admin": {"listen": "127.0.0.1:2019"},
 "logging": {"logs": {"default": {"level": "ERROR"}}},
 "apps": {"http": {"servers": {
  "door": {"listen": ["127.0.0.1:8081"], "routes": [{"handle": [{"handler": "file_server", "root": "/srv/door"}]}]},
  "edge": {"listen": [":8080"], "automatic_https": {"disable": true}, "routes": [{"handle": [{
    "handler": "reverse_proxy",
    "upstreams": [{"dial": "$BACKEND:8069", "max_requests": 16}],
    "transport": {"protocol": "http", "keep_alive": {"enabled": false}},
    "load_balancing": {"try_duration": "30s", "try_interval": "50ms"},
    "health_checks": {"active": {"upstream": "127.0.0.1:8081", "uri": "/open", "interval": "100ms", "timeout": "1s"}}
  }]}]}
 }}}}
END
}

make_edge() {
    edge_configuration > "$FOLDER/edge.json"
    docker network create --label "$LABEL" "$EDGE" > /dev/null
    docker run --detach --name "$EDGE" --label "$LABEL" --label "io.ocore.container=$EDGE" --network "$EDGE" \
        --volume "$FOLDER/edge.json:/edge.json:ro" --publish "127.0.0.1:$PORT:8080" "$EDGE_IMAGE" \
        sh -c 'mkdir -p /srv/door && touch /srv/door/open && exec caddy run --config /edge.json' > /dev/null
}

# A tenth of a second until the edge has looked, and as much again; then nobody is answered any more.
shut() {
    docker exec "$EDGE" sh -c 'rm /srv/door/open; busybox sleep 0.2
        until busybox wget -q -O - http://127.0.0.1:2019/reverse_proxy/upstreams | grep -q "\"num_requests\":0,"; do
            busybox sleep 0.05
        done'
}
unlock() { docker exec "$EDGE" touch /srv/door/open; }

address() { docker inspect --format "{{(index .NetworkSettings.Networks \"$NETWORK\").IPAddress}}" "$1"; }
ask() { curl --silent --fail --noproxy '*' --max-time 20 "http://$asked:8069$1"; }

# Not yet where the edge finds it.
start_beside() {
    docker run --detach --name "$1" --label "io.ocore.container=$1" "${run[@]}" --restart unless-stopped "$2" \
        odoo --config=/etc/odoo/odoo.conf > /dev/null
    asked=$(address "$1")
}
lead_to() { docker network connect --alias "$BACKEND" "$EDGE" "$1"; }
lead_away_from() { docker network disconnect "$EDGE" "$1"; }

case "$1" in
install)
    make_edge
    build
    change --init "$MODULE"
    start_beside "$NAME" "$image"
    wait_until_it_serves
    lead_to "$NAME"
    ;;
code)
    build
    mark build
    start_beside "$NAME-new" "$image"
    wait_until_it_serves
    mark start
    shut
    mark shut
    lead_away_from "$NAME"
    lead_to "$NAME-new"
    unlock
    mark switch
    docker stop "$NAME" > /dev/null
    docker rm "$NAME" > /dev/null
    docker rename "$NAME-new" "$NAME"
    ;;
push)
    build
    mark build
    shut
    mark shut
    set_aside
    keep "$2"
    mark snapshot
    change --update "$MODULE"
    start_beside "$NAME" "$image"
    mark deploy
    wait_until_it_serves
    mark health
    lead_away_from "$NAME-old"
    lead_to "$NAME"
    unlock
    docker rm "$NAME-old" > /dev/null
    mark complete
    ;;
failing)
    build
    mark build
    shut
    mark shut
    set_aside
    keep "$2"
    mark snapshot
    must_fail
    mark deploy
    put_back "$2"
    docker rename "$NAME-old" "$NAME"
    docker start "$NAME" > /dev/null
    asked=$(address "$NAME")
    wait_until_it_serves
    unlock
    mark rollback
    ;;
restart)
    shut
    docker restart "$NAME" > /dev/null
    asked=$(address "$NAME")
    wait_until_it_serves
    unlock
    mark restart
    ;;
esac
