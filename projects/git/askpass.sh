#!/bin/sh
# git asks this for a user name and a password. It answers for the one origin that OCORE_GIT_HOST names, from the
# environment of that one git, and nobody else: not a proxy, not another host. No answer is a refusal.
case $1 in
"Username for 'https://$OCORE_GIT_HOST': ")
    printf '%s\n' "$OCORE_GIT_USERNAME"
    exit
    ;;
esac
named=${1#"Password for 'https://"}
user=${named%"@$OCORE_GIT_HOST': "}
case $user in
"$named") exit 1 ;;
"$OCORE_GIT_USERNAME") ;; # gits that don't escape it
*[/@]*) exit 1 ;;
esac
test "$named" != "$1" && printf '%s\n' "$OCORE_GIT_TOKEN"
