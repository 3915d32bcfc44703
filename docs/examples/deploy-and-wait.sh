#!/bin/sh
# deploy-and-wait.sh PROJECT ENVIRONMENT [REF]: deploy by oCore's API, print the log as it comes, and end as it ended:
#   0  live
#   1  failed and nothing was changed; also cancelled, superseded, or refused
#   2  rolled back: the old version serves, with the data as it was
#   3  a person must look: what was changed could not be put back
# Needs curl (7.76 or newer) and jq, OCORE_URL and OCORE_TOKEN in the environment. OCORE_POLL: seconds between two looks.
set -eu
if [ $# -lt 2 ] || [ -z "${OCORE_URL:-}" ] || [ -z "${OCORE_TOKEN:-}" ]; then
    echo "usage: OCORE_URL=... OCORE_TOKEN=... deploy-and-wait.sh PROJECT ENVIRONMENT [REF]" >&2
    exit 1
fi
project=$1
environment=$2
ref=${3:-}
base=${OCORE_URL%/}/api/v1

# The token goes through a pipe: arguments of programs are visible to others on the machine.
api() {
    printf 'Authorization: Bearer %s\n' "$OCORE_TOKEN" |
        curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused --header @- --output "$answer" "$@" && code=0 || code=$?
    cat "$answer"
    return "$code"
}
# In a file, which is emptied before a retry: of what is printed, nothing could be taken back.
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# Sent again after a broken connection, it does not deploy twice.
key=${GITHUB_RUN_ID:-$(date +%s)-$$}-${GITHUB_RUN_ATTEMPT:-1}-$project-$environment
asked=$(jq --null-input --arg ref "$ref" '{ref: $ref}')
made=$(api --header "Idempotency-Key: $key" --header 'Content-Type: application/json' --data "$asked" \
    "$base/projects/$project/environments/$environment/deployments") || { echo "$made" >&2; exit 1; }
id=$(printf '%s' "$made" | jq .id)
printf '%s' "$made" | jq --raw-output '"#\(.id) \(.url) \(.waits_for)"'

offset=0
while :; do
    log=$(api "$base/deployments/$id/log?offset=$offset") || { echo "$log" >&2; exit 1; }
    printf '%s' "$log" | jq --join-output '.parts[].text'
    offset=$(printf '%s' "$log" | jq .next_offset)
    case $(printf '%s' "$log" | jq --raw-output '"\(.more) \(.final)"') in
        'true '*) ;;
        'false true') break ;;
        *) sleep "${OCORE_POLL:-5}" ;;
    esac
done

ended=$(api "$base/deployments/$id")
printf '%s' "$ended" | jq --raw-output '"#\(.id) \(.status) \(.error) \(.advice)"'
case $(printf '%s' "$ended" | jq --raw-output .status) in
    succeeded) exit 0 ;;
    rolled_back) exit 2 ;;
    rollback_failed) exit 3 ;;
    *) exit 1 ;;
esac
